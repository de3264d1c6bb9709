"""DICOM objects (CR, DX, secondary capture) to a Radiograph and a cleaned copy.

An allow-list is applied before anything else: elements that are not on it are never parsed, so they can
reach neither the pictures, the database, the logs nor an error message. `elements` needs the standard library
alone and serves processes that load no pydicom, too.
"""

"""DICOM over the network, with programs of others."""

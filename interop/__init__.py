"""DICOM over the network: what arrives from devices and archives."""

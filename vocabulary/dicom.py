"""SOP classes that are accepted, codes of findings, and what identifies the objects that we make."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import NAMESPACE_OID, uuid5

_STORAGE = "1.2.840.10008.5.1.4.1.1."

#: Pictures that are taken, by SOP class (PS3.4, B.5).
TAKEN_CLASSES: Mapping[str, str] = {
    _STORAGE + "1": "Computed Radiography Image Storage",
    _STORAGE + "1.1": "Digital X-Ray Image Storage - For Presentation",
    _STORAGE + "7": "Secondary Capture Image Storage",
    _STORAGE + "7.2": "Multi-frame Grayscale Byte Secondary Capture Image Storage",
    _STORAGE + "7.3": "Multi-frame Grayscale Word Secondary Capture Image Storage",
    _STORAGE + "7.4": "Multi-frame True Color Secondary Capture Image Storage",
}
COMPREHENSIVE_SR = _STORAGE + "88.33"
COMPREHENSIVE_3D_SR = _STORAGE + "88.34"
ENCAPSULATED_PDF = _STORAGE + "104.1"
SECONDARY_CAPTURE = _STORAGE + "7"
#: Objects that we make besides Secondary Captures. An archive that forwards whole studies sends them back:
#: they are acknowledged, so that it does not try for ever. Those of others are refused.
RETURNED_CLASSES: Mapping[str, str] = {
    COMPREHENSIVE_SR: "Comprehensive SR Storage",
    COMPREHENSIVE_3D_SR: "Comprehensive 3D SR Storage",
    ENCAPSULATED_PDF: "Encapsulated PDF Storage",
}
#: Refused by their class, each with the reason that a sender is told where the protocol has room for one.
REFUSED_CLASSES: Mapping[str, str] = {
    _STORAGE + "1.1.1": "Digital X-Ray - For Processing: raw detector values; send the image for presentation"
}

#: What a bundle's label means, in SNOMED CT: code and meaning.
FINDING_CODES: Mapping[str, tuple[str, str]] = {
    "fractured": ("72704001", "Fracture"),
    "abnormal": ("263654008", "Abnormal"),
}
#: The equipment of objects that we made: Manufacturer (0008,0070).
MANUFACTURER = "FractureAI"
#: Implementation Class UID (PS3.7, D.3.3.2).
IMPLEMENTATION_UID = "2.25.36000935244989527621741811068501397866"


def derived_uid(*parts: str) -> str:
    """Return a UID that the parts determine (PS3.5, B.2: derived from a UUID)."""
    return f"2.25.{uuid5(NAMESPACE_OID, '|'.join((IMPLEMENTATION_UID, *parts))).int}"

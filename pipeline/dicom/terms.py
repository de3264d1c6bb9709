"""What is read of a DICOM object and what is kept: classes, transfer syntaxes, elements and their forms."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import cast

from pydicom.datadict import tag_for_keyword
from pydicom.tag import BaseTag
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

STORAGE = "1.2.840.10008.5.1.4.1.1."
READABLE_CLASSES = frozenset(
    STORAGE + suffix
    for suffix in (
        "1",  # Computed Radiography
        "1.1",  # Digital X-Ray, for presentation
        "1.1.1",  # Digital X-Ray, for processing
        "7",  # Secondary Capture
        "7.2",  # Multi-frame Grayscale Byte SC, read when it has one frame
        "7.3",  # Multi-frame Grayscale Word SC
        "7.4",  # Multi-frame True Color SC
    )
)
#: DICOMDIR, presentation states, structured reports and key objects, encapsulated documents.
PICTURELESS_CLASSES = ("1.2.840.10008.1.3.10", STORAGE + "11.", STORAGE + "88.", STORAGE + "104.")

LOSSY_JPEG_SYNTAXES = frozenset(f"1.2.840.10008.1.2.4.{n}" for n in (50, 51))
JPEG_SYNTAXES = LOSSY_JPEG_SYNTAXES | {f"1.2.840.10008.1.2.4.{n}" for n in (57, 70, 80, 81)}
JPEG_2000_SYNTAXES = frozenset(f"1.2.840.10008.1.2.4.{n}" for n in (90, 91, 201, 202, 203))
RLE = "1.2.840.10008.1.2.5"
NATIVE = frozenset({ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian})
ONE_SAMPLE = frozenset({"MONOCHROME1", "MONOCHROME2", "PALETTE COLOR"})
PHOTOMETRICS = ONE_SAMPLE | {"RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"}

UIDS = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
CODES = (
    "ImageType", "Modality", "PhotometricInterpretation", "BodyPartExamined", "Laterality", "ImageLaterality",
    "ViewPosition", "PatientOrientation", "PresentationIntentType", "PresentationLUTShape", "ConversionType",
    "VOILUTFunction", "LossyImageCompression", "PixelIntensityRelationship", "BurnedInAnnotation",
)  # fmt: skip
NUMBERS = (
    "SamplesPerPixel", "PlanarConfiguration", "Rows", "Columns", "NumberOfFrames", "BitsAllocated",
    "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit",
    "PixelSpacing", "ImagerPixelSpacing", "PixelAspectRatio", "WindowCenter", "WindowWidth",
    "RescaleIntercept", "RescaleSlope", "PixelIntensityRelationshipSign", "SeriesNumber", "InstanceNumber",
    "RedPaletteColorLookupTableDescriptor", "GreenPaletteColorLookupTableDescriptor",
    "BluePaletteColorLookupTableDescriptor",
)  # fmt: skip
NEEDED = (
    "SamplesPerPixel", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
)  # fmt: skip
BYTES = (
    "RedPaletteColorLookupTableData", "GreenPaletteColorLookupTableData", "BluePaletteColorLookupTableData",
)  # fmt: skip
LUTS = ("ModalityLUTSequence", "VOILUTSequence")
#: Read for the facts that are kept, and not kept themselves (or only as facts).
READ_ONCE = (
    "SpecificCharacterSet", "AccessionNumber", "StudyDate", "StudyTime", "PatientID", "IssuerOfPatientID",
    "PatientBirthDate", "PatientAge", "AnatomicRegionSequence", "DeidentificationMethod",
)  # fmt: skip
READ: list[BaseTag | int] = [
    cast(int, tag_for_keyword(word))
    for word in (*UIDS, *CODES, *NUMBERS, *BYTES, *LUTS, *READ_ONCE, "PixelData")
]
#: No element but the pixels needs more; what is longer is dropped unparsed.
MAX_VALUE_BYTES = 1 << 18
PIXEL_DATA = 0x7FE00010
#: Deidentification Method of our own copies: their PatientID is the hash already.
METHOD = "FractureAI allow-list of attributes"

CODE = re.compile(r"[A-Z0-9 _/-]{1,32}")
HASH = re.compile(r"[0-9a-f]{64}")
UID_PATTERN = re.compile(r"[0-9.]{1,64}")
DATE = re.compile(r"(\d{4})\.?(\d{2})\.?(\d{2})")
TIME = re.compile(r"\d{2,6}(\.\d{1,6})?")
AGE = re.compile(r"(\d{1,3})([DWMY])")
#: SCT, SRT and SNM3 codes of Anatomic Region Modifier.
SIDES: Mapping[str, str] = {
    "7771000": "L", "G-A101": "L", "24028007": "R", "G-A100": "R", "51440002": "B", "G-A102": "B",
}  # fmt: skip

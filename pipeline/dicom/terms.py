"""What is read of a DICOM object and what is kept: classes, transfer syntaxes, elements and their forms."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import permutations, product
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


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


UIDS = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
#: Where an orientation may point: C.7.6.1.1.1. A letter and its opposite, or one twice, point nowhere.
_AXES = ("AP", "RL", "HF")
_ORIENTATIONS = frozenset(
    "".join(letters)
    for count in (0, 1, 2, 3)
    for axes in permutations(_AXES, count)
    for letters in product(*axes)
)
#: PS3.16 annex L, "Body Part Examined" column, in capitals and without spaces; with the longer forms that
#: modalities write and `vocabulary.anatomy` knows.
BODY_PARTS = _words(
    """
    ABDOMEN ABDOMENPELVIS ACETABULUM ACJOINT ADRENAL ANKLE ANKLEJOINT ANUS AORTA ARM AXILLA BACK
    BILEDUCT BLADDER BONE BRAIN BREAST BRONCHUS BUTTOCK CALCANEUS CALF CAROTID CARPUS CEREBELLUM
    CERVICALSPINE CERVIX CHEEK CHEST CHESTABDOMEN CHESTABDPELVIS CIRCLEOFWILLIS CLAVICLE COCCYX COLON
    CORNEA CORONARYARTERY CSPINE CTSPINE DUODENUM EAR ELBOW ELBOWJOINT ESOPHAGUS EXTREMITIES EXTREMITY
    EYE EYELID FACE FACIALBONES FEMUR FIBULA FINGER FOOT FOREARM FOREFOOT GALLBLADDER GENITALIA HAND
    HEAD HEADNECK HEART HEEL HINDFOOT HIP HIPJOINT HUMERUS IAC ILEUM ILIUM JAW JEJUNUM KIDNEY KNEE
    KNEEJOINT LARYNX LEG LIVER LOWERARM LOWEREXTREMITY LOWERLEG LOWERLIMB LSPINE LSSPINE LUMBARSPINE
    LUNG MANDIBLE MASTOID MAXILLA MEDIASTINUM METACARPUS METATARSUS MIDFOOT MOUTH NASALBONE NECK
    NECKCHEST NECKCHESTABDOMEN NECKCHESTABDPELV NOSE OPTICCANAL ORBIT OTHER OVARY PALM PANCREAS
    PARANASALSINUS PAROTID PATELLA PELVIS PELVISHIP PENIS PERINEUM PHARYNX PROSTATE RADIUS RADIUSULNA
    RECTUM RIB SACRUM SCALP SCAPULA SCJOINT SCLERA SCROTUM SELLATURCICA SHOULDER SHOULDERJOINT SIJOINT
    SINUS SKELETON SKULL SPINE SPLEEN SSPINE STERNUM STOMACH SUBMANDIBULAR TARSUS TEETH TEMPORALBONE
    TESTIS THIGH THORACICSPINE THORAX THUMB THYMUS THYROID TIBIA TIBIAFIBULA TLSPINE TMJ TOE TONGUE
    TOOTH TRACHEA TRUNK TSPINE ULNA UNKNOWN UPPERARM UPPEREXTREMITY UPPERLEG UPPERLIMB URETER URETHRA
    UTERUS VAGINA VULVA WHOLEBODY WRIST WRISTJOINT ZYGOMA
    """
)
#: Stands for a body part that is stated and not on the list: free text, which may be a name. It is known to
#: be no supported part, so the image is not read on the picture's word alone.
UNLISTED = "UNLISTED"

#: The coded elements that are kept, and for each of its values the terms of PS3.3 (or PS3.16) that may stand
#: there. An element with another value is left out; further values are cut off.
DEFINED_TERMS: Mapping[str, tuple[frozenset[str], ...]] = {
    # C.7.6.1.1.2: pixel data and patient examination characteristics; what follows is the maker's own
    "ImageType": (frozenset({"ORIGINAL", "DERIVED"}), frozenset({"PRIMARY", "SECONDARY"})),
    # C.7.3.1.1.1, those that can stand in a projection image or a capture
    "Modality": (
        _words(
            """
            AR AU BDUS BI BMD CR CT DG DOC DX ECG EPS ES FID GM HC HD IO IOL IVOCT IVUS KER KO
            LEN LS MG MR NM OAM OCT OP OPM OPT OPV OSS OT PLAN POS PR PT PX REG RESP RF RG
            RTDOSE RTIMAGE RTPLAN RTRECORD RTSTRUCT RWV SEG SM SMR SR SRF STAIN TG US VA XA XC
            """
        ),
    ),
    "PhotometricInterpretation": (PHOTOMETRICS,),  # C.7.6.3.1.2
    "Laterality": (frozenset({"R", "L", "B", "U"}),),  # C.7.3.1, and what ImageLaterality may say
    "ImageLaterality": (frozenset({"R", "L", "B", "U"}),),  # C.7.6.1
    # C.8.7.1.1 (CR), C.8.11.5 with PS3.16 CID 4010 (DX), and the short forms that modalities write
    "ViewPosition": (
        _words(
            """
            AP PA LL RL RLD LLD RLO LLO RAO LAO RPO LPO LAT LATERAL LATERO-MEDIAL MEDIO-LATERAL
            ML LM OBL OBLIQUE AX AXIAL TAN TANGENTIAL LORDOTIC SUNRISE SKYLINE TUNNEL FROG
            FROGLEG MORTISE SWIMMERS INLET OUTLET CC MLO XCCL Y SCAPHOID DECUBITUS
            """
        ),
    ),
    "PatientOrientation": (_ORIENTATIONS, _ORIENTATIONS),
    "PresentationIntentType": (frozenset({"FOR PRESENTATION", "FOR PROCESSING"}),),  # C.8.11.1
    "PresentationLUTShape": (frozenset({"IDENTITY", "INVERSE"}),),  # C.8.11.3, C.11.6
    "ConversionType": (frozenset(["DV", "DI", "DF", "WSD", "SD", "SI", "DRW", "SYN"]),),  # C.8.6.1
    "VOILUTFunction": (frozenset({"LINEAR", "LINEAR_EXACT", "SIGMOID"}),),  # C.11.2.1.3
    "LossyImageCompression": (frozenset({"00", "01"}),),  # C.7.6.1.1.5
    "PixelIntensityRelationship": (frozenset({"LIN", "LOG", "DISP"}),),  # C.8.11.3.1.2
    "BurnedInAnnotation": (frozenset({"YES", "NO"}),),  # C.7.6.1
}
NUMBERS = (
    "SamplesPerPixel", "PlanarConfiguration", "Rows", "Columns", "NumberOfFrames", "BitsAllocated",
    "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit",
    "PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio",
    "WindowCenter", "WindowWidth",
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
    "PatientBirthDate", "PatientAge", "BodyPartExamined", "AnatomicRegionSequence", "DeidentificationMethod",
    "Manufacturer",
)  # fmt: skip
READ: list[BaseTag | int] = [
    cast(int, tag_for_keyword(word))
    for word in (*UIDS, *DEFINED_TERMS, *NUMBERS, *BYTES, *LUTS, *READ_ONCE, "PixelData")
]
#: No element but the pixels needs more; what is longer is dropped unparsed.
MAX_VALUE_BYTES = 1 << 20
#: Values kept of an element that may have any number of them (windows).
MAX_VALUES = 8
PIXEL_DATA = 0x7FE00010
#: Deidentification Method of our own copies: their PatientID is the hash already.
METHOD = "FractureAI allow-list of attributes, 2"
#: That of copies whose PatientID is the first half of today's hash.
EARLIER_METHOD = "FractureAI allow-list of attributes"

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

"""DICOM objects (CR, DX, secondary capture) to a Radiograph and a cleaned copy.

An allow-list is applied before anything else: elements that are not on it are never parsed, so they can
reach neither the pictures, the database, the logs nor an error message.
"""

from __future__ import annotations

import hashlib
import io
import logging
import math
import re
import struct
import warnings
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import date
from typing import Any, TypeVar, cast

import cv2
import numpy as np
import numpy.typing as npt
from openjpeg.utils import decode as jpeg_2000_decode
from pydicom import config, dcmread
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.filereader import read_dataset
from pydicom.multival import MultiValue
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_color_lut, convert_color_space
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    generate_uid,
)

from pipeline.decode.containers import JPEG_START_OF_FRAME, MAX_JPEG_SCANS, jpeg_segments
from pipeline.decode.gdcm_process import decode_frame
from pipeline.quality import MIN_CONTRAST, contrast, require_radiograph, require_size
from pipeline.types import Radiograph, Reason, Rejected, Skipped, StudyFacts, UInt8Array
from pipeline.window import colour8, dicom_window, grey8, percentile_range, stretch

# pydicom quotes the values it complains about: they may be a patient's
logging.getLogger("pydicom").disabled = True
config.settings.reading_validation_mode = config.IGNORE
config.settings.writing_validation_mode = config.IGNORE

_T = TypeVar("_T")

_STORAGE = "1.2.840.10008.5.1.4.1.1."
READABLE_CLASSES = frozenset(
    _STORAGE + suffix
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
PICTURELESS_CLASSES = ("1.2.840.10008.1.3.10", _STORAGE + "11.", _STORAGE + "88.", _STORAGE + "104.")

_LOSSY_JPEG_SYNTAXES = frozenset(f"1.2.840.10008.1.2.4.{n}" for n in (50, 51))
_JPEG_SYNTAXES = _LOSSY_JPEG_SYNTAXES | {f"1.2.840.10008.1.2.4.{n}" for n in (57, 70, 80, 81)}
_JPEG_2000_SYNTAXES = frozenset(f"1.2.840.10008.1.2.4.{n}" for n in (90, 91, 201, 202, 203))
_RLE = "1.2.840.10008.1.2.5"
_NATIVE = frozenset({ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian})
_ONE_SAMPLE = frozenset({"MONOCHROME1", "MONOCHROME2", "PALETTE COLOR"})
_PHOTOMETRICS = _ONE_SAMPLE | {"RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"}

_UIDS = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
_CODES = (
    "ImageType", "Modality", "PhotometricInterpretation", "BodyPartExamined", "Laterality", "ImageLaterality",
    "ViewPosition", "PatientOrientation", "PresentationIntentType", "PresentationLUTShape", "ConversionType",
    "VOILUTFunction", "LossyImageCompression", "PixelIntensityRelationship", "BurnedInAnnotation",
)  # fmt: skip
_NUMBERS = (
    "SamplesPerPixel", "PlanarConfiguration", "Rows", "Columns", "NumberOfFrames", "BitsAllocated",
    "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit",
    "PixelSpacing", "ImagerPixelSpacing", "PixelAspectRatio", "WindowCenter", "WindowWidth",
    "RescaleIntercept", "RescaleSlope", "PixelIntensityRelationshipSign", "SeriesNumber", "InstanceNumber",
    "RedPaletteColorLookupTableDescriptor", "GreenPaletteColorLookupTableDescriptor",
    "BluePaletteColorLookupTableDescriptor",
)  # fmt: skip
_NEEDED = (
    "SamplesPerPixel", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
)  # fmt: skip
_BYTES = (
    "RedPaletteColorLookupTableData", "GreenPaletteColorLookupTableData", "BluePaletteColorLookupTableData",
)  # fmt: skip
_LUTS = ("ModalityLUTSequence", "VOILUTSequence")
#: Read for the facts that are kept, and not kept themselves (or only as facts).
_READ_ONCE = (
    "SpecificCharacterSet", "AccessionNumber", "StudyDate", "StudyTime", "PatientID", "IssuerOfPatientID",
    "PatientBirthDate", "PatientAge", "AnatomicRegionSequence", "DeidentificationMethod",
)  # fmt: skip
_READ: list[BaseTag | int] = [
    cast(int, tag_for_keyword(word))
    for word in (*_UIDS, *_CODES, *_NUMBERS, *_BYTES, *_LUTS, *_READ_ONCE, "PixelData")
]
#: No element but the pixels needs more; what is longer is dropped unparsed.
_MAX_VALUE_BYTES = 1 << 18
_PIXEL_DATA = 0x7FE00010
#: Deidentification Method of our own copies: their PatientID is the hash already.
_METHOD = "FractureAI allow-list of attributes"

_CODE = re.compile(r"[A-Z0-9 _/-]{1,32}")
_HASH = re.compile(r"[0-9a-f]{64}")
_UID = re.compile(r"[0-9.]{1,64}")
_DATE = re.compile(r"(\d{4})\.?(\d{2})\.?(\d{2})")
_TIME = re.compile(r"\d{2,6}(\.\d{1,6})?")
_AGE = re.compile(r"(\d{1,3})([DWMY])")
#: SCT, SRT and SNM3 codes of Anatomic Region Modifier.
_SIDES: Mapping[str, str] = {
    "7771000": "L", "G-A101": "L", "24028007": "R", "G-A100": "R", "51440002": "B", "G-A102": "B",
}  # fmt: skip


def is_dicom(head: bytes) -> bool:
    """Tell whether a file starts as DICOM: with the preamble, or bare with a plausible first element."""
    if head[128:132] == b"DICM":
        return True
    if len(head) < 16:
        return False
    for order in "<>":
        group, element = struct.unpack_from(order + "HH", head)
        if group in {0x0002, 0x0008} and element < 0x0100:
            explicit = head[4:6] in {b"UL", b"UI", b"OB", b"CS", b"SH", b"LO", b"DA", b"TM"}
            return explicit or struct.unpack_from(order + "I", head, 4)[0] <= 64
    return False


def decode_dicom(
    data: bytes, *, max_pixels: int, pseudonymise: Callable[[str], str], refuse_burned_in: bool
) -> Radiograph:
    """Decode and clean a DICOM object; parameters and errors as `pipeline.decode.picture.decode`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pixels, facts, identity, clean, flags = _guarded(_read, data, max_pixels, refuse_burned_in)
        patient_hash = pseudonymise(identity) if identity else facts.patient_hash
        stored = _guarded(_write, clean, patient_hash, hashlib.sha256(data).hexdigest())
    height, width = pixels.shape
    facts = replace(facts, patient_hash=patient_hash)
    return Radiograph(pixels, width, height, facts, "application/dicom", stored, flags)


def _guarded(step: Callable[..., _T], *arguments: object) -> _T:
    """Run a step over a stranger's bytes: whatever pydicom and the decoders throw becomes DICOM_CORRUPT."""
    try:
        return step(*arguments)
    except (Rejected, Skipped, MemoryError, TimeoutError):  # the last two are this machine's fault
        raise
    except Exception as error:
        failure = type(error).__name__
    # raised out here, without the cause: its words may quote the header
    raise Rejected(Reason.DICOM_CORRUPT, failure)


def _read(
    data: bytes, max_pixels: int, refuse_burned_in: bool
) -> tuple[UInt8Array, StudyFacts, str, Dataset, tuple[Reason, ...]]:
    raw, syntax = _open(data, max_pixels)
    clean = _allowed(raw)
    if "SOPClassUID" not in clean:
        clean.SOPClassUID = _text(raw.file_meta, "MediaStorageSOPClassUID", _UID)
    if clean.SOPClassUID:
        _require_class(clean.SOPClassUID)
    coded = raw.get("PixelData")
    if not coded:  # when a file ends inside its pixel data, pydicom may return nothing of it
        begun = b"\xe0\x7f\x10\x00" in data or b"\x7f\xe0\x00\x10" in data
        raise Rejected(Reason.TRUNCATED if begun else Reason.DICOM_NO_PIXELS, "no pixel data")
    if not clean.SOPClassUID:
        raise Rejected(Reason.DICOM_UNSUPPORTED_CLASS, "no SOP class")
    facts, identity = _facts(raw)
    _keep_facts(clean, facts)
    if (clean.get("NumberOfFrames") or 1) > 1:
        raise Rejected(Reason.DICOM_MULTIFRAME)
    burned_in = clean.get("BurnedInAnnotation") == "YES"
    if burned_in and refuse_burned_in:
        raise Rejected(Reason.BURNED_IN_ANNOTATION)
    _require_pixel_module(clean, max_pixels)
    clean.file_meta = FileMetaDataset()
    clean.file_meta.TransferSyntaxUID = syntax
    values = _stored_values(coded, raw[_PIXEL_DATA].VR, clean)
    if values.ndim == 3:
        require_radiograph(colour8(values))
        pixels = grey8(values)
    else:
        pixels = _render(values, clean)
        require_radiograph(pixels)
    return pixels, facts, identity, clean, (Reason.BURNED_IN_FLAG,) if burned_in else ()


def _require_class(sop_class: str) -> None:
    if sop_class.startswith(PICTURELESS_CLASSES):
        raise Skipped(Reason.DICOM_NOT_AN_IMAGE, sop_class)
    if sop_class not in READABLE_CLASSES:
        raise Rejected(Reason.DICOM_UNSUPPORTED_CLASS, sop_class)


# --- the header ------------------------------------------------------------------------------------


def _open(data: bytes, max_pixels: int) -> tuple[Dataset, UID]:
    """Read what is on the list, and nothing else; return it with the transfer syntax to keep it in."""
    start = 132 if data[128:132] == b"DICM" else 0
    head = io.BytesIO(data[start : start + _MAX_VALUE_BYTES])
    meta = read_dataset(head, False, True, stop_when=lambda tag, *_: tag >> 16 != 2)
    media_class = str(meta.get("MediaStorageSOPClassUID") or "")
    if media_class.startswith(PICTURELESS_CLASSES):
        raise Skipped(Reason.DICOM_NOT_AN_IMAGE, "by its file meta information")
    if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        inflater, limit = zlib.decompressobj(-zlib.MAX_WBITS), 6 * max_pixels + (1 << 24)
        body = inflater.decompress(data[start + head.tell() :], limit)
        if not inflater.eof:
            truncated = len(body) < limit
            raise Rejected(Reason.TRUNCATED if truncated else Reason.TOO_LARGE, "deflated data set")
        raw, syntax = read_dataset(io.BytesIO(body), False, True, specific_tags=_READ), ExplicitVRLittleEndian
        raw.file_meta = FileMetaDataset()
    else:
        raw = dcmread(io.BytesIO(data), force=True, specific_tags=_READ)
        implicit, little = raw.original_encoding
        guessed = (
            ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        )
        syntax = UID(raw.file_meta.get("TransferSyntaxUID") or guessed)
    for tag in list(raw.keys()):
        element: Any = raw.get_item(tag)  # unparsed as yet
        too_long = isinstance(element, RawDataElement) and len(element.value or b"") > _MAX_VALUE_BYTES
        if too_long and tag != _PIXEL_DATA:
            del raw[tag]
    return raw, syntax


def _values(dataset: Dataset, word: str) -> list[Any]:
    """Return the values of an element; an unreadable one has none."""
    try:
        value = dataset[word].value
    except Exception:  # pydicom converts lazily, and throws anything; the element is as good as absent
        return []
    if value is None or value == "":
        return []
    return list(value) if isinstance(value, MultiValue | Sequence | list | tuple) else [value]


def _text(dataset: Dataset, word: str, pattern: re.Pattern[str]) -> str:
    """Return the first value in upper case if all of it fits the pattern, else nothing."""
    text = str(next(iter(_values(dataset, word)), "")).strip(" \0").upper()
    return text if pattern.fullmatch(text) else ""


def _allowed(raw: Dataset) -> Dataset:
    """Copy what is on the list and is what it should be: numbers, codes and UIDs, never free text."""
    clean = Dataset()
    for word in _UIDS:
        if value := _text(raw, word, _UID):
            setattr(clean, word, value)
    for word in _CODES:
        codes = [str(value).strip(" \0").upper() for value in _values(raw, word)]
        if codes and all(not code or _CODE.fullmatch(code) for code in codes):
            setattr(clean, word, codes)
    for word in _NUMBERS:
        numbers = _values(raw, word)
        if numbers and all(isinstance(n, int | float) and math.isfinite(n) for n in numbers):
            clean.add_new(word, raw[word].VR, numbers)
    for word in _BYTES:
        tables = _values(raw, word)
        if tables and isinstance(tables[0], bytes):
            clean.add_new(word, "OW", tables[0])
    for word in _LUTS:
        items = [item for item in _values(raw, word) if isinstance(item, Dataset)][:1]
        if items:
            setattr(clean, word, Sequence(_lut_item(item, word) for item in items))
    return clean


def _lut_item(item: Dataset, word: str) -> Dataset:
    clean = Dataset()
    descriptor, table = _values(item, "LUTDescriptor"), _values(item, "LUTData")
    if len(descriptor) == 3 and all(isinstance(n, int) for n in descriptor):
        clean.add_new("LUTDescriptor", "SS" if descriptor[1] < 0 else "US", descriptor)
    if table and isinstance(table[0], bytes):
        clean.add_new("LUTData", "OW", table[0])
    elif table and all(isinstance(n, int) and 0 <= n < 65536 for n in table):
        clean.add_new("LUTData", "US", table)
    if word == "ModalityLUTSequence":
        clean.ModalityLUTType = "US"
    return clean


def _facts(raw: Dataset) -> tuple[StudyFacts, str]:
    """Return what is kept of the header, and the ``issuer|PatientID`` still to be hashed, or nothing."""
    region = next((i for i in _values(raw, "AnatomicRegionSequence") if isinstance(i, Dataset)), Dataset())
    modifiers = (i for i in _values(region, "AnatomicRegionModifierSequence") if isinstance(i, Dataset))
    coded_sides = {_SIDES.get(_text(i, "CodeValue", _CODE), "") for i in modifiers}
    stated = {_text(raw, word, _CODE) for word in ("ImageLaterality", "Laterality")} | coded_sides
    sides = stated & {"L", "R", "B"}
    study_date = _date(raw, "StudyDate")
    studied = f"{study_date:%Y%m%d}" if study_date else ""
    accession = "".join(c for c in str(next(iter(_values(raw, "AccessionNumber")), "")) if c.isprintable())
    patient = str(next(iter(_values(raw, "PatientID")), "")).strip(" \0")
    issuer = str(next(iter(_values(raw, "IssuerOfPatientID")), "")).strip(" \0")
    hashed = _values(raw, "DeidentificationMethod") == [_METHOD] and _HASH.fullmatch(patient) is not None
    facts = StudyFacts(
        accession=accession.strip()[:64],
        study_uid=_text(raw, "StudyInstanceUID", _UID),
        series_uid=_text(raw, "SeriesInstanceUID", _UID),
        sop_uid=_text(raw, "SOPInstanceUID", _UID),
        study_date=studied,
        study_time=_text(raw, "StudyTime", _TIME),
        body_part=_text(raw, "BodyPartExamined", _CODE) or _text(region, "CodeMeaning", _CODE),
        laterality=sides.pop() if len(sides) == 1 else "",  # two that differ state nothing
        view=_text(raw, "ViewPosition", _CODE),
        age_years=_age(_text(raw, "PatientAge", _AGE), _date(raw, "PatientBirthDate"), study_date),
        patient_hash=patient if hashed else "",
    )
    return facts, f"{issuer}|{patient}" if patient and not hashed else ""


def _date(raw: Dataset, word: str) -> date | None:
    found = _DATE.fullmatch(_text(raw, word, _DATE))
    try:
        return date(int(found[1]), int(found[2]), int(found[3])) if found else None
    except ValueError:
        return None


def _age(stated: str, born: date | None, studied: date | None) -> int | None:
    """Whole years, 90 and more pooled to 90, from PatientAge (``034Y``, ``018M`` ...) or the two dates."""
    if found := _AGE.fullmatch(stated):
        count = int(found[1])
        years = {"Y": count, "M": count // 12, "W": count * 7 // 365, "D": count // 365}[found[2]]
    elif born and studied and born <= studied:
        years = studied.year - born.year - ((studied.month, studied.day) < (born.month, born.day))
    else:
        return None
    return min(years, 90)


def _keep_facts(clean: Dataset, facts: StudyFacts) -> None:
    clean.AccessionNumber = facts.accession
    clean.StudyDate = facts.study_date
    clean.StudyTime = facts.study_time
    if facts.body_part:
        clean.BodyPartExamined = facts.body_part
    for word in ("Laterality", "ImageLaterality"):
        if facts.laterality:
            setattr(clean, word, facts.laterality)
        elif word in clean:  # of two that differ none may be left to be believed
            del clean[word]
    if facts.age_years is not None:
        clean.PatientAge = f"{facts.age_years:03d}Y"


def _write(clean: Dataset, patient_hash: str, fallback_uid: str) -> bytes:
    """Return the cleaned object as a file with an empty preamble."""
    clean.SpecificCharacterSet = "ISO_IR 192"
    clean.PatientID = patient_hash
    clean.PatientName = clean.PatientBirthDate = clean.PatientSex = clean.ReferringPhysicianName = ""
    clean.PatientIdentityRemoved = "YES"
    clean.DeidentificationMethod = _METHOD
    if "SOPInstanceUID" not in clean:
        clean.SOPInstanceUID = generate_uid(prefix=None, entropy_srcs=[fallback_uid])
    clean.file_meta.MediaStorageSOPClassUID = clean.SOPClassUID
    clean.file_meta.MediaStorageSOPInstanceUID = clean.SOPInstanceUID
    file = io.BytesIO()
    clean.save_as(file, enforce_file_format=True)
    return file.getvalue()


# --- the picture -----------------------------------------------------------------------------------


def _require_pixel_module(clean: Dataset, max_pixels: int) -> None:
    """Check the header's claims before memory is taken on their word, and fill in what may be left out."""
    for word, default in (("SamplesPerPixel", 1), ("PixelRepresentation", 0)):
        clean.setdefault(word, default)
    if "BitsStored" not in clean:
        clean.BitsStored = clean.get("BitsAllocated")
    if "HighBit" not in clean and clean.BitsStored:
        clean.HighBit = clean.BitsStored - 1
    numbers = [clean.get(word) for word in _NEEDED]
    if not all(isinstance(n, int) for n in numbers):
        raise Rejected(Reason.DICOM_CORRUPT, "incomplete image pixel module")
    samples, rows, columns, allocated, stored, high, representation = cast(list[int], numbers)
    photometric = clean.get("PhotometricInterpretation")
    require_size(columns, rows, max_pixels)
    if (
        photometric not in _PHOTOMETRICS
        or samples != (1 if photometric in _ONE_SAMPLE else 3)
        or allocated not in {8, 16}
        or not 1 <= stored <= allocated
        or not stored - 1 <= high < allocated
        or representation not in {0, 1}
    ):
        raise Rejected(Reason.DICOM_CORRUPT, "image pixel module that contradicts itself or is not read")


def _stored_values(coded: bytes, coded_as: str, clean: Dataset) -> npt.NDArray[Any]:
    """Decode the pixel data and keep them in `clean`, without whatever lies behind them.

    Returns
    -------
    numpy.ndarray
        Stored values of shape (rows, columns), or blue-green-red of shape (rows, columns, 3).
    """
    syntax = clean.file_meta.TransferSyntaxUID
    if syntax in _NATIVE:
        per_pixel = 2 if clean.PhotometricInterpretation == "YBR_FULL_422" else clean.SamplesPerPixel
        length = clean.Rows * clean.Columns * per_pixel * clean.BitsAllocated // 8
        if len(coded) < length:
            raise Rejected(Reason.TRUNCATED, "pixel data shorter than rows times columns")
        clean.add_new("PixelData", "OB" if coded_as == "OB" else "OW", coded[: length + length % 2])
        # all allocated bits, since pydicom would cut the upper ones of a picture that is stored high
        values = get_decoder(syntax).as_array(clean, index=0, bits_stored=clean.BitsAllocated)[0]
    elif syntax in _JPEG_SYNTAXES | _JPEG_2000_SYNTAXES or syntax == _RLE:
        frame = next(generate_frames(coded, number_of_frames=1))
        clean.add_new("PixelData", "OB", encapsulate([frame]))
        clean["PixelData"].is_undefined_length = True
        if syntax == _RLE:
            values = _decode_rle(frame, clean)
        elif syntax in _JPEG_2000_SYNTAXES:
            _require_jpeg_2000(frame, clean)
            values = jpeg_2000_decode(frame)
        else:
            values = _decode_jpeg(frame, clean, _require_jpeg(frame, clean))
    else:
        raise Rejected(Reason.DICOM_UNSUPPORTED_SYNTAX, syntax if _UID.fullmatch(syntax) else "")
    if clean.PhotometricInterpretation == "PALETTE COLOR":
        values = apply_color_lut(values, clean)
    if values.shape[:2] != (clean.Rows, clean.Columns) or values.dtype.itemsize > 2:
        raise Rejected(Reason.DICOM_CORRUPT, "decoded to another size than its header says")
    return values[..., ::-1] if values.ndim == 3 else values


def _decode_rle(frame: bytes, clean: Dataset) -> npt.NDArray[Any]:
    """Decode RLE Lossless (DICOM PS3.5 annex G): a segment of PackBits for each byte plane, high bytes first.

    Written out here because the decoders at hand either panic on a damaged run or take all the memory that
    a lying one asks for.
    """
    size, depth = clean.Rows * clean.Columns, clean.BitsAllocated // 8
    count, *starts = struct.unpack_from("<16I", frame)
    if count != clean.SamplesPerPixel * depth:
        raise Rejected(Reason.DICOM_CORRUPT, "RLE segments do not match the header")
    ends = [*starts[1:count], len(frame)]
    try:
        planes = [_unpack_bits(frame[a:b], size) for a, b in zip(starts, ends, strict=False)]
    except IndexError:
        raise Rejected(Reason.TRUNCATED, "an RLE segment ends before the picture") from None
    shape = clean.SamplesPerPixel, depth, clean.Rows, clean.Columns
    high_first = np.frombuffer(b"".join(planes), np.uint8).reshape(shape)
    values = np.ascontiguousarray(high_first.transpose(0, 2, 3, 1)).view(f">u{depth}")[..., 0]
    if clean.SamplesPerPixel == 1:
        return cast(npt.NDArray[Any], values[0])
    colour = np.ascontiguousarray(values.transpose(1, 2, 0))
    if clean.PhotometricInterpretation.startswith("YBR"):
        return convert_color_space(colour, "YBR_FULL", "RGB")
    return colour


def _unpack_bits(coded: bytes, length: int) -> bytes:
    """Undo PackBits up to `length` bytes; IndexError when there are fewer."""
    plain, position = bytearray(), 0
    while len(plain) < length:
        control = coded[position]
        if control < 128:
            plain += coded[position + 1 : position + 2 + control]
            position += 2 + control
        elif control > 128:
            plain += coded[position + 1 : position + 2] * (257 - control)
            position += 2
        else:
            position += 1
    return bytes(plain[:length])


def _require_jpeg(frame: bytes, clean: Dataset) -> int:
    """Check a JPEG or JPEG-LS stream's size and end against the header; return its precision in bits."""
    scans, precision = 0, 0
    for segment in jpeg_segments(frame):
        scans += segment.marker == 0xDA
        if segment.marker in JPEG_START_OF_FRAME:
            precision, rows, columns, components = struct.unpack_from(">BHHB", segment.body)
            if (rows, columns, components) != (clean.Rows, clean.Columns, clean.SamplesPerPixel):
                raise Rejected(Reason.DICOM_CORRUPT, "JPEG stream of another size than its header says")
    if not 1 <= scans <= MAX_JPEG_SCANS or not 2 <= precision <= 16:
        raise Rejected(Reason.DICOM_CORRUPT, "JPEG stream without a readable frame, or with too many scans")
    return precision


def _decode_jpeg(frame: bytes, clean: Dataset, precision: int) -> npt.NDArray[Any]:
    syntax, photometric = clean.file_meta.TransferSyntaxUID, clean.PhotometricInterpretation
    shape = clean.Rows, clean.Columns, clean.SamplesPerPixel
    if syntax in _LOSSY_JPEG_SYNTAXES:
        if precision != 8:
            raise Rejected(Reason.DICOM_UNSUPPORTED_SYNTAX, "JPEG Extended of 12 bits")
        if shape[2] == 3 and b"Adobe" not in frame[:1024]:  # say what the header says of the colours
            transform = b"\0" if photometric == "RGB" else b"\1"
            frame = frame[:2] + b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0" + transform + frame[2:]
        picture = cv2.imdecode(np.frombuffer(frame, np.uint8), cv2.IMREAD_UNCHANGED)
        if picture is None:
            raise Rejected(Reason.DICOM_CORRUPT, "the decoder gave up")
        return picture if picture.ndim == 2 else picture[..., ::-1]
    words = decode_frame(
        frame,
        syntax=syntax,
        rows=shape[0],
        columns=shape[1],
        samples=shape[2],
        precision=precision,
        photometric=photometric,
    )
    values = np.frombuffer(words, "u1" if precision <= 8 else "<u2").reshape(shape)
    if shape[2] == 1:
        return values[..., 0]
    return convert_color_space(values, "YBR_FULL", "RGB") if photometric.startswith("YBR") else values


def _require_jpeg_2000(frame: bytes, clean: Dataset) -> None:
    """Check a JPEG 2000 codestream (SIZ, ITU-T T.800 A.5.1) against the header, and that it has an end."""
    start = frame.find(b"\xff\x4f\xff\x51")
    if start < 0:
        raise Rejected(Reason.DICOM_CORRUPT, "no JPEG 2000 codestream")
    right, bottom, left, top = struct.unpack_from(">4I", frame, start + 8)
    components, depth = struct.unpack_from(">HB", frame, start + 40)
    if (bottom - top, right - left, components) != (clean.Rows, clean.Columns, clean.SamplesPerPixel):
        raise Rejected(Reason.DICOM_CORRUPT, "JPEG 2000 stream of another size than its header says")
    if (depth & 127) + 1 > 16:
        raise Rejected(Reason.DICOM_CORRUPT, "JPEG 2000 stream of more than 16 bits")
    if b"\xff\xd9" not in frame[-1024:]:
        raise Rejected(Reason.TRUNCATED, "JPEG 2000 stream without its end marker")


def _render(values: npt.NDArray[Any], clean: Dataset) -> UInt8Array:
    """Turn stored grey values into 8 bits with bone bright.

    Modality LUT (or rescale), then VOI LUT or window, then MONOCHROME1 turned round, all in one table over
    the at most 65,536 stored values. Without a usable window, or with one that shows nothing, the
    percentile window is taken. Padding becomes black.
    """
    stored_bits, signed = clean.BitsStored, clean.PixelRepresentation == 1
    mask = (1 << stored_bits) - 1
    native = clean.file_meta.TransferSyntaxUID in _NATIVE
    if native or signed or values.dtype.kind == "i":
        wide = values.astype(np.int16 if values.dtype.kind == "i" else np.uint16, copy=False).view(np.uint16)
        index = (wide >> (clean.HighBit + 1 - stored_bits if native else 0)) & mask
    else:
        index = np.minimum(values.astype(np.uint16, copy=False), mask)  # a lossy decoder may overshoot
    stored = np.arange(mask + 1, dtype=np.int32)
    if signed:
        stored[(mask + 1) // 2 :] -= mask + 1
    padding = _padding(stored, clean)
    modality = _modality(stored, clean)
    step = max(1, int((index.size / 1_000_000) ** 0.5))
    seen = index[::step, ::step]
    seen = seen[~padding[seen]]
    if not seen.size:
        raise Rejected(Reason.NOT_A_RADIOGRAPH, "a blank picture")
    table = _voi(modality, clean)
    if table is None or contrast(table[seen]) < MIN_CONTRAST:
        table = stretch(modality, *percentile_range(modality[seen]))
    if clean.PhotometricInterpretation == "MONOCHROME1":
        table = np.invert(table)
    table[padding] = 0
    return cast(UInt8Array, table[index])


def _padding(stored: npt.NDArray[np.int32], clean: Dataset) -> npt.NDArray[np.bool_]:
    first = clean.get("PixelPaddingValue")
    if not isinstance(first, int):
        return np.zeros(stored.shape, np.bool_)
    last = clean.get("PixelPaddingRangeLimit")
    low, high = sorted((first, last if isinstance(last, int) else first))
    return (stored >= low) & (stored <= high)


def _modality(stored: npt.NDArray[np.int32], clean: Dataset) -> npt.NDArray[Any]:
    if clean.get("ModalityLUTSequence"):
        return _lut(stored, clean.ModalityLUTSequence[0], clean)
    slope, intercept = clean.get("RescaleSlope"), clean.get("RescaleIntercept")
    if isinstance(slope, int | float) and isinstance(intercept, int | float) and slope != 0:
        return stored * float(slope) + float(intercept)
    return stored


def _voi(values: npt.NDArray[Any], clean: Dataset) -> UInt8Array | None:
    """Return the values through the first VOI LUT, or else the first window; None without a usable one."""
    try:
        if clean.get("VOILUTSequence"):
            shown = _lut(values, clean.VOILUTSequence[0], clean)
            return stretch(shown, float(shown.min()), float(shown.max()))
        centres, widths = _values(clean, "WindowCenter"), _values(clean, "WindowWidth")
        if centres and widths:
            function = clean.get("VOILUTFunction") or "LINEAR"
            return dicom_window(values, float(centres[0]), float(widths[0]), function)
    except ValueError:
        return None
    return None


def _lut(values: npt.NDArray[Any], item: Dataset, clean: Dataset) -> npt.NDArray[Any]:
    """Look values up in a Modality or VOI LUT (DICOM PS3.3 C.11.1.1.1); ends are held.

    Raises
    ------
    ValueError
        The table is missing, or shorter than its descriptor says.
    """
    descriptor, data = _values(item, "LUTDescriptor"), _values(item, "LUTData")
    if len(descriptor) != 3 or not data:
        raise ValueError("LUT without a descriptor or data")
    entries, first = descriptor[0] & 0xFFFF or 65536, descriptor[1]
    if isinstance(data[0], bytes):
        order = ">" if clean.file_meta.TransferSyntaxUID == ExplicitVRBigEndian else "<"
        packed = descriptor[2] <= 8 and len(data[0]) < 2 * entries  # two 8-bit entries a word
        table = np.frombuffer(data[0], "u1" if packed else order + "u2")
    else:
        table = np.asarray(data, np.uint16)
    if not 1 <= entries <= table.size:
        raise ValueError("LUT shorter than its descriptor says")
    places = np.clip(np.rint(values) - first, 0, entries - 1).astype(np.intp)
    return cast(npt.NDArray[Any], table.astype(np.int32)[places])

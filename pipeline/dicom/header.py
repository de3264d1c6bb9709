"""Reading the header: only listed elements are parsed, and these facts of them are kept."""

from __future__ import annotations

import io
import re
import zlib
from datetime import date
from typing import Any

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filereader import read_dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from pydicom.valuerep import VR

from pipeline.dicom.elements import element_at, encoding_of
from pipeline.dicom.stream import ITEM, end_of_fragments, native_value
from pipeline.dicom.terms import (
    AGE,
    BODY_PARTS,
    CODE,
    DATE,
    DEFINED_TERMS,
    EARLIER_METHOD,
    HASH,
    MAX_VALUE_BYTES,
    MAX_VALUES,
    METHOD,
    NATIVE,
    PICTURELESS_CLASSES,
    PIXEL_DATA,
    READ,
    SIDES,
    TIME,
    UID_PATTERN,
    UNLISTED,
)
from pipeline.types import Rejected, Skipped, StudyFacts
from vocabulary.anatomy import CODED_PARTS, TRANSLATED, VAGUE_PARTS, stated_regions
from vocabulary.dicom import MANUFACTURER
from vocabulary.media import is_dicom
from vocabulary.reasons import Reason

_UNDEFINED = 0xFFFFFFFF
#: Elements behind Pixel Data that are looked at; there are one or two.
_MAX_BEHIND = 100
_VRS = frozenset(VR)


def open_object(data: bytes, max_pixels: int) -> tuple[Dataset, UID, bool]:
    """Read what is on the list, and nothing else.

    Returns
    -------
    tuple
        The elements, the transfer syntax to keep them in, and whether the data set goes on behind its Pixel
        Data, or ends there, as one does.
    """
    start = 132 if data[128:132] == b"DICM" else 0
    head = io.BytesIO(data[start : start + MAX_VALUE_BYTES])
    meta = read_dataset(head, False, True, stop_when=lambda tag, *_: tag >> 16 != 2)
    media_class = str(meta.get("MediaStorageSOPClassUID") or "")
    if media_class.startswith(PICTURELESS_CLASSES):
        raise Skipped(Reason.DICOM_NOT_AN_IMAGE, "by its file meta information")
    stated, body = UID(str(meta.get("TransferSyntaxUID") or "")), data[start + head.tell() :]
    if stated == DeflatedExplicitVRLittleEndian and not is_dicom(body[:16]):
        # without a header (PS3.5, A.5); some writers put that of zlib before it
        bits = (
            zlib.MAX_WBITS
            if int.from_bytes(body[:2], "big") % 31 == 0 and body[:1] == b"\x78"
            else -zlib.MAX_WBITS
        )
        inflater, limit = zlib.decompressobj(bits), 6 * max_pixels + (1 << 24)
        body = inflater.decompress(body, limit)
        if not inflater.eof:
            truncated = len(body) < limit
            raise Rejected(Reason.TRUNCATED if truncated else Reason.TOO_LARGE, "deflated data set")
    if stated == DeflatedExplicitVRLittleEndian:
        stated = UID(ExplicitVRLittleEndian)
    implicit, little = encoding_of(body)
    file = io.BytesIO(body)
    raw = read_dataset(file, implicit, little, stop_when=_at_pixels, specific_tags=READ)
    raw.file_meta = FileMetaDataset()
    if "MediaStorageSOPClassUID" in meta:
        raw.file_meta.MediaStorageSOPClassUID = UID(media_class)
    ends_well = _add_pixels(raw, body, file.tell(), implicit, little)
    native = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian
    syntax = native if not stated or stated in NATIVE else stated
    for tag in list(raw.keys()):
        element: Any = raw.get_item(tag)  # unparsed as yet
        too_long = isinstance(element, RawDataElement) and len(element.value or b"") > MAX_VALUE_BYTES
        if too_long and tag != PIXEL_DATA:
            del raw[tag]
    return raw, syntax, ends_well


def _at_pixels(tag: BaseTag, vr: str | None, length: int) -> bool:
    return int(tag) >= PIXEL_DATA


def _add_pixels(raw: Dataset, body: bytes, position: int, implicit: bool, little: bool) -> bool:
    """Add the top level's Pixel Data, as far as the bytes go; tell whether it ends as it should."""
    head = element_at(body, position, implicit=implicit, little=little)
    if head is None or head.tag != PIXEL_DATA:
        return True
    length, at = head.length, head.at
    if length != _UNDEFINED:
        value = body[at : at + length]
        end = at + length
    elif body[at : at + 4] == ITEM:
        value = body[at:]  # fragments, told by their own lengths
        end = at + end_of_fragments(value)
    else:
        value = native_value(body, at)
        end = at + len(value) + 8
    raw.add_new(PIXEL_DATA, "OB" if head.vr == "OB" else "OW", value)
    return _ends_well(body, end, implicit, little)


def _ends_well(body: bytes, at: int, implicit: bool, little: bool) -> bool:
    """Tell whether elements or padding follow, or nothing: else the picture has moved, or lacks something."""
    last = PIXEL_DATA
    for _ in range(_MAX_BEHIND):
        rest = body[at:]
        if len(rest) % 2 == 0 and not (rest.strip(b"\0") and rest.strip(b"\xff") and rest.strip(b" \r\n")):
            return True
        head = element_at(body, at, implicit=implicit, little=little)
        if head is None or head.tag <= last or not (implicit or head.vr in _VRS):
            return False
        if head.length == _UNDEFINED:  # a sequence: it may hold anything
            return True
        last, at = head.tag, head.at + head.length
        if at > len(body):
            return False
    return True


def element_values(dataset: Dataset, word: str) -> list[Any]:
    """Return the values of an element; an unreadable one has none."""
    try:
        value = dataset[word].value
    except Exception:  # pydicom converts lazily, and throws anything; the element is as good as absent
        return []
    if value is None or value == "":
        return []
    return list(value) if isinstance(value, MultiValue | Sequence | list | tuple) else [value]


def element_text(dataset: Dataset, word: str, pattern: re.Pattern[str]) -> str:
    """Return the first value in upper case if all of it fits the pattern, else nothing."""
    text = str(next(iter(element_values(dataset, word)), "")).strip(" \0").upper()
    return text if pattern.fullmatch(text) else ""


def defined_terms(dataset: Dataset, word: str) -> list[str]:
    """Return the values of a coded element that its list knows; none when one of them is not on it."""
    lists = DEFINED_TERMS[word]
    codes = [str(value).strip(" \0").upper() for value in element_values(dataset, word)][: len(lists)]
    return codes if all(code in known for code, known in zip(codes, lists, strict=False)) else []


def is_own_object(raw: Dataset) -> bool:
    """Tell whether an object names this service as its equipment: it is a result, and no radiograph."""
    made_by = next(iter(element_values(raw, "Manufacturer")), "")
    return str(made_by).strip(" \0").upper() == MANUFACTURER.upper()


def _body_part(dataset: Dataset, word: str) -> str:
    """Return a body part as written if annex L knows it, its term if another language does.

    `UNLISTED` for any other word, nothing if none is stated.
    """
    stated = " ".join(str(next(iter(element_values(dataset, word)), "")).strip(" \0").upper().split())
    name = stated.replace("_", "").replace(" ", "")
    if {name, name.removesuffix("S")} & BODY_PARTS:
        return stated
    return TRANSLATED.get(name, UNLISTED) if name else ""


def _stated_part(raw: Dataset, coded_regions: list[Dataset]) -> str:
    """Return the body part that a header states, from Body Part Examined and the coded regions.

    Where they differ, what is not read here counts before a limb, and a limb before a vague word.
    """
    terms = [_body_part(raw, "BodyPartExamined")]
    for region in coded_regions:
        coded = CODED_PARTS.get(element_text(region, "CodeValue", CODE), "")
        terms.append(coded or _body_part(region, "CodeMeaning"))

    def rank(term: str) -> int:
        if term in {"", UNLISTED}:
            return 3 if term else 4
        return 2 if term in VAGUE_PARTS else 1 if stated_regions(term) else 0

    return min(terms, key=rank)


def study_facts(raw: Dataset) -> tuple[StudyFacts, str]:
    """Return what is kept of the header, and what is still to be hashed.

    That is ``issuer|PatientID``, the hash of a copy that an earlier version made, or nothing.
    """
    regions = [i for i in element_values(raw, "AnatomicRegionSequence") if isinstance(i, Dataset)]
    region = regions[0] if regions else Dataset()
    modifiers = (
        i for i in element_values(region, "AnatomicRegionModifierSequence") if isinstance(i, Dataset)
    )
    coded_sides = {SIDES.get(element_text(i, "CodeValue", CODE), "") for i in modifiers}
    stated = {element_text(raw, word, CODE) for word in ("ImageLaterality", "Laterality")} | coded_sides
    sides = stated & {"L", "R", "B"}
    study_date = _date(raw, "StudyDate")
    studied = f"{study_date:%Y%m%d}" if study_date else ""
    accession = "".join(
        c for c in str(next(iter(element_values(raw, "AccessionNumber")), "")) if c.isprintable()
    )
    patient = str(next(iter(element_values(raw, "PatientID")), "")).strip(" \0")
    issuer = str(next(iter(element_values(raw, "IssuerOfPatientID")), "")).strip(" \0")
    is_hash = HASH.fullmatch(patient) is not None
    hashed = is_hash and element_values(raw, "DeidentificationMethod") == [METHOD]
    half_hashed = is_hash and element_values(raw, "DeidentificationMethod") == [EARLIER_METHOD]
    facts = StudyFacts(
        accession=accession.strip()[:64],
        study_uid=element_text(raw, "StudyInstanceUID", UID_PATTERN),
        series_uid=element_text(raw, "SeriesInstanceUID", UID_PATTERN),
        sop_uid=element_text(raw, "SOPInstanceUID", UID_PATTERN),
        study_date=studied,
        study_time=element_text(raw, "StudyTime", TIME),
        body_part=_stated_part(raw, regions[:MAX_VALUES]),
        laterality=sides.pop() if len(sides) == 1 else "",  # two that differ state nothing
        view="".join(defined_terms(raw, "ViewPosition")),
        modality="".join(defined_terms(raw, "Modality")),
        age_years=_age(element_text(raw, "PatientAge", AGE), _date(raw, "PatientBirthDate"), study_date),
        patient_hash=patient if hashed else "",
    )
    if hashed or half_hashed or not patient:
        return facts, patient if half_hashed else ""
    return facts, f"{issuer}|{patient}"


def _date(raw: Dataset, word: str) -> date | None:
    found = DATE.fullmatch(element_text(raw, word, DATE))
    try:
        return date(int(found[1]), int(found[2]), int(found[3])) if found else None
    except ValueError:
        return None


def _age(stated: str, born: date | None, studied: date | None) -> int | None:
    """Whole years, 90 and more pooled to 90, from PatientAge (``034Y``, ``018M`` ...) or the two dates."""
    if found := AGE.fullmatch(stated):
        count = int(found[1])
        years = {"Y": count, "M": count // 12, "W": count * 7 // 365, "D": count // 365}[found[2]]
    elif born and studied and born <= studied:
        years = studied.year - born.year - ((studied.month, studied.day) < (born.month, born.day))
    else:
        return None
    return min(years, 90)

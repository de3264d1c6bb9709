"""The pseudonymised copy of a DICOM object: what is listed and is what it should be, and nothing else."""

from __future__ import annotations

import io
import math

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    generate_uid,
)

from pipeline.dicom.header import element_text, element_values
from pipeline.dicom.terms import (
    BYTES,
    CODE,
    CODES,
    LUTS,
    METHOD,
    NUMBERS,
    UID_PATTERN,
    UIDS,
)
from pipeline.types import StudyFacts


def allowed_copy(raw: Dataset) -> Dataset:
    """Copy what is on the list and is what it should be: numbers, codes and UIDs, never free text."""
    clean = Dataset()
    for word in UIDS:
        if value := element_text(raw, word, UID_PATTERN):
            setattr(clean, word, value)
    for word in CODES:
        codes = [str(value).strip(" \0").upper() for value in element_values(raw, word)]
        if codes and all(not code or CODE.fullmatch(code) for code in codes):
            setattr(clean, word, codes)
    for word in NUMBERS:
        numbers = element_values(raw, word)
        if numbers and all(isinstance(n, int | float) and math.isfinite(n) for n in numbers):
            clean.add_new(word, raw[word].VR, numbers)
    for word in BYTES:
        tables = element_values(raw, word)
        if tables and isinstance(tables[0], bytes):
            clean.add_new(word, "OW", tables[0])
    for word in LUTS:
        items = [item for item in element_values(raw, word) if isinstance(item, Dataset)][:1]
        if items:
            setattr(clean, word, Sequence(_lut_item(item, word) for item in items))
    return clean


def _lut_item(item: Dataset, word: str) -> Dataset:
    clean = Dataset()
    descriptor, table = element_values(item, "LUTDescriptor"), element_values(item, "LUTData")
    if len(descriptor) == 3 and all(isinstance(n, int) for n in descriptor):
        clean.add_new("LUTDescriptor", "SS" if descriptor[1] < 0 else "US", descriptor)
    if table and isinstance(table[0], bytes):
        clean.add_new("LUTData", "OW", table[0])
    elif table and all(isinstance(n, int) and 0 <= n < 65536 for n in table):
        clean.add_new("LUTData", "US", table)
    if word == "ModalityLUTSequence":
        clean.ModalityLUTType = "US"
    return clean


def keep_facts(clean: Dataset, facts: StudyFacts) -> None:
    """Write the facts that are kept into the copy."""
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


def write_copy(clean: Dataset, patient_hash: str, fallback_uid: str) -> bytes:
    """Return the cleaned object as a file with an empty preamble."""
    clean.SpecificCharacterSet = "ISO_IR 192"
    clean.PatientID = patient_hash
    clean.PatientName = clean.PatientBirthDate = clean.PatientSex = clean.ReferringPhysicianName = ""
    clean.PatientIdentityRemoved = "YES"
    clean.DeidentificationMethod = METHOD
    if "SOPInstanceUID" not in clean:
        clean.SOPInstanceUID = generate_uid(prefix=None, entropy_srcs=[fallback_uid])
    clean.file_meta.MediaStorageSOPClassUID = clean.SOPClassUID
    clean.file_meta.MediaStorageSOPInstanceUID = clean.SOPInstanceUID
    file = io.BytesIO()
    clean.save_as(file, enforce_file_format=True)
    return file.getvalue()

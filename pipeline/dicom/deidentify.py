"""The pseudonymised copy of a DICOM object: what is listed and is what it should be, and nothing else."""

from __future__ import annotations

import io
import math
from collections.abc import Collection

from pydicom.datadict import dictionary_VM
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    generate_uid,
)

from pipeline.dicom.header import defined_terms, element_text, element_values
from pipeline.dicom.terms import (
    BYTES,
    DEFINED_TERMS,
    LUTS,
    MAX_VALUES,
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
    for word in DEFINED_TERMS:
        if codes := defined_terms(raw, word):
            setattr(clean, word, codes)
    for word in NUMBERS:
        numbers = element_values(raw, word)
        many = dictionary_VM(word) == "1-n"
        if not numbers or not all(isinstance(n, int | float) and math.isfinite(n) for n in numbers):
            continue
        if many or len(numbers) == int(dictionary_VM(word)):
            clean.add_new(word, raw[word].VR, numbers[:MAX_VALUES])
    for word in BYTES if clean.get("PhotometricInterpretation") == "PALETTE COLOR" else ():
        tables, descriptor = element_values(raw, word), clean.get(word.removesuffix("Data") + "Descriptor")
        if tables and isinstance(tables[0], bytes) and descriptor:
            clean.add_new(word, "OW", _table(tables[0], descriptor))
    for word in LUTS:
        most = 1 if word == "ModalityLUTSequence" else MAX_VALUES
        items = [item for item in element_values(raw, word) if isinstance(item, Dataset)][:most]
        if items:
            setattr(clean, word, Sequence(_lut_item(item, word) for item in items))
    return clean


def _table(data: bytes, descriptor: Collection[int]) -> bytes:
    """Return as many bytes of a look-up table as its descriptor says that it has (PS3.3 C.11.1.1.1)."""
    count, _, bits = descriptor
    entries = count & 0xFFFF or 65536
    packed = bits <= 8 and len(data) < 2 * entries  # two 8-bit entries a word
    kept = data[: entries if packed else 2 * entries]
    return kept + b"\0" * (len(kept) % 2)


def _lut_item(item: Dataset, word: str) -> Dataset:
    clean = Dataset()
    descriptor, table = element_values(item, "LUTDescriptor"), element_values(item, "LUTData")
    if len(descriptor) == 3 and all(isinstance(n, int) for n in descriptor):
        descriptor[0] &= 0xFFFF  # a number of entries, also where the other two are signed
        clean.add_new("LUTDescriptor", "SS" if descriptor[1] < 0 else "US", descriptor)
        if table and isinstance(table[0], bytes):
            clean.add_new("LUTData", "OW", _table(table[0], descriptor))
        elif table and all(isinstance(n, int) and 0 <= n < 65536 for n in table):
            clean.add_new("LUTData", "US", table[: descriptor[0] & 0xFFFF or 65536])
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
    """Return the pseudonymised object as a file with an empty preamble."""
    clean.SpecificCharacterSet = "ISO_IR 192"
    clean.PatientID = patient_hash
    clean.PatientName = clean.PatientBirthDate = clean.PatientSex = clean.ReferringPhysicianName = ""
    # what is burned into the picture is still there
    clean.PatientIdentityRemoved = "NO" if clean.get("BurnedInAnnotation") == "YES" else "YES"
    clean.DeidentificationMethod = METHOD
    clean.LongitudinalTemporalInformationModified = "UNMODIFIED"  # the dates of the study are kept
    if "SOPInstanceUID" not in clean:
        clean.SOPInstanceUID = generate_uid(prefix=None, entropy_srcs=[fallback_uid])
    clean.file_meta.MediaStorageSOPClassUID = clean.SOPClassUID
    clean.file_meta.MediaStorageSOPInstanceUID = clean.SOPInstanceUID
    file = io.BytesIO()
    clean.save_as(file, enforce_file_format=True)
    return file.getvalue()

"""The header that the receiver looks at: found in every encoding, and never more than asked for."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.filewriter import write_dataset
from pydicom.sequence import Sequence

from phantoms.files import encode_phantom
from phantoms.film import make_phantom
from pipeline.dicom.elements import (
    DEFLATED,
    MANUFACTURER_TAG,
    SOP_CLASS,
    SOP_INSTANCE,
    STUDY_UID,
    HeaderUnreadable,
    file_head,
    read_header,
    split_file,
)
from store.intake.urgent_rules import InvalidUrgentRule, UrgentRule

WANTED = {SOP_CLASS, SOP_INSTANCE, STUDY_UID, MANUFACTURER_TAG}
EXPLICIT, IMPLICIT, BIG = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"


def written(*, implicit: bool = False, little: bool = True, undefined: bool = False) -> bytes:
    inner = Dataset()
    inner.StudyInstanceUID = "9.9.9"  # of another object: not to be believed
    inner.ReferencedSOPSequence = Sequence([Dataset()])
    inner.ReferencedSOPSequence[0].ReferencedSOPInstanceUID = "8.8.8"
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = "1.2", "1.2.3"
    dataset.Manufacturer = "Somebody"
    dataset.ReferencedStudySequence = Sequence([inner, inner])
    dataset.PatientName = "ZZYZX"
    dataset.StudyInstanceUID = "1.2.4"
    dataset.add_new(0x7FE00010, "OW", bytes(64))
    if undefined:
        for element in dataset.iterall():
            if element.VR == "SQ":
                element.is_undefined_length = True
                for item in element.value:
                    item.is_undefined_length_sequence_item = True
    target = pydicom.filebase.DicomBytesIO()
    target.is_implicit_VR, target.is_little_endian = implicit, little
    write_dataset(target, dataset)
    return target.getvalue()


@pytest.mark.parametrize("undefined", [False, True])
@pytest.mark.parametrize(
    ("implicit", "little", "syntax"), [(False, True, EXPLICIT), (True, True, IMPLICIT), (False, False, BIG)]
)
def test_every_encoding(implicit: bool, little: bool, syntax: str, undefined: bool):
    header = read_header(written(implicit=implicit, little=little, undefined=undefined), syntax, WANTED)
    assert header == {
        SOP_CLASS: "1.2",
        SOP_INSTANCE: "1.2.3",
        STUDY_UID: "1.2.4",
        MANUFACTURER_TAG: "Somebody",
    }


def test_deflated_data():
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    packed = packer.compress(written()) + packer.flush()
    assert read_header(packed, DEFLATED, WANTED)[STUDY_UID] == "1.2.4"
    with pytest.raises(HeaderUnreadable):
        read_header(b"\xff" * 40, DEFLATED, WANTED)


@pytest.mark.parametrize("undefined", [False, True])
def test_cut_at_any_place_it_finds_less_or_says_that_it_cannot(undefined: bool):
    whole = written(undefined=undefined)
    for end in range(len(whole)):
        try:
            found = read_header(whole[:end], EXPLICIT, WANTED)
        except HeaderUnreadable:
            continue
        assert set(found) <= WANTED


@given(st.binary(max_size=400))
def test_any_bytes(data: bytes):
    for syntax in (EXPLICIT, DEFLATED):
        with contextlib.suppress(HeaderUnreadable):
            read_header(data, syntax, WANTED)
    with contextlib.suppress(HeaderUnreadable):
        split_file(bytes(128) + b"DICM" + data)


def test_a_file_around_a_data_set_is_always_the_same_and_read_by_pydicom():
    data = encode_phantom(make_phantom(1, "hand", longest=64), "dicom")
    found = split_file(data)
    again = file_head(found.sop_class, found.sop_uid, found.syntax) + found.dataset
    assert pydicom.dcmread(io.BytesIO(again)) == pydicom.dcmread(io.BytesIO(data))
    assert split_file(again) == found
    with pytest.raises(HeaderUnreadable):
        split_file(b"no DICOM")


@pytest.mark.parametrize(
    "rule", ["0040,1003=HIGH", "(0040,1003) = high", "00401003=HIGH", "0010,0010=A", "", "7FE0,0010=A"]
)
def test_rules(rule: str):
    if rule[:5] in {"0040,", "(0040"}:
        assert UrgentRule.parse(rule).applies({0x00401003: "LOW\\High"})
        assert not UrgentRule.parse(rule).applies({})
    else:
        with pytest.raises(InvalidUrgentRule):
            UrgentRule.parse(rule)


def test_a_file_made_of_millions_of_empty_items_is_given_up_soon() -> None:
    """Else the process that takes it in, which serves everybody, steps over them for a minute."""
    items = struct.pack("<HHI", 0xFFFE, 0xE000, 0) * 1_000_000
    end = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    sequence = struct.pack("<HHI", 0x0009, 0x1001, 0xFFFFFFFF) + items + end
    elements = struct.pack("<HHI", 0x0009, 0x1001, 0) * 1_000_000
    for data in (sequence, elements):
        with pytest.raises(HeaderUnreadable):
            read_header(data, "1.2.840.10008.1.2", {STUDY_UID})

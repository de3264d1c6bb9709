"""The conformance statement says what is negotiated."""

from __future__ import annotations

import re

from interop import objects
from interop.sop_classes import COMMITMENT, PICTURE_SYNTAXES, receiver_contexts
from pipeline.dicom.elements import DEFLATED
from pipeline.dicom.terms import (
    JPEG_2000_SYNTAXES,
    JPEG_SYNTAXES,
    NATIVE,
    PICTURELESS_CLASSES,
    READABLE_CLASSES,
    RLE,
)
from store.intake.received import Refusal
from tests.conftest import ROOT
from vocabulary.dicom import (
    COMPREHENSIVE_3D_SR,
    IMPLEMENTATION_UID,
    REFUSED_CLASSES,
    RETURNED_CLASSES,
    TAKEN_CLASSES,
)

TEXT = (ROOT / "docs" / "dicom-conformance.md").read_text()


def rows(role: str) -> dict[str, str]:
    found = re.findall(rf"^\| ([^|]+) \| (1\.2\.840[.\d]+) \| {role} \|", TEXT, re.M)
    return {uid: name for name, uid in found}


def test_what_is_received_is_what_is_offered() -> None:
    offered = {str(context.abstract_syntax) for context in receiver_contexts()}
    assert rows("SCP").keys() | {COMMITMENT} == offered
    named = {**TAKEN_CLASSES, **RETURNED_CLASSES}
    assert {uid: name for uid, name in rows("SCP").items() if uid in named} == named


def test_what_is_sent_is_what_is_made() -> None:
    assert rows("SCU").keys() == {*objects.CLASSES.values(), COMPREHENSIVE_3D_SR, COMMITMENT}


def test_every_status_is_told() -> None:
    told = {int(code, 16) for code in re.findall(r"^\| 0x([0-9A-F]{4}) \|", TEXT, re.M)}
    assert told == {0x0000, 0xA700, 0x0110, *(refusal.status for refusal in Refusal)}
    assert IMPLEMENTATION_UID in TEXT


def test_what_is_taken_is_what_the_decoder_reads() -> None:
    assert set(TAKEN_CLASSES) | set(REFUSED_CLASSES) == READABLE_CLASSES
    assert set(PICTURE_SYNTAXES) == NATIVE | JPEG_SYNTAXES | JPEG_2000_SYNTAXES | {RLE, DEFLATED}
    assert all(uid.startswith(PICTURELESS_CLASSES) for uid in RETURNED_CLASSES)

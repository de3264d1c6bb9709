"""The table of situations names tests that are there, and stands in the documents as it is."""

from __future__ import annotations

from tests.faults.situations import DOCUMENT, SITUATIONS, missing, written


def test_each_situation_has_its_test_and_stands_in_the_document() -> None:
    assert missing() == []
    assert len(SITUATIONS) >= 44
    document = DOCUMENT.read_text(encoding="utf-8")
    assert written(document) == document

"""Rows of a manifest and files that were not written down in the same way."""

from __future__ import annotations

import unicodedata

import pytest

from store.intake.manifest_matching import match

COMPOSED = unicodedata.normalize("NFC", "Müller/Hüfte.png")
APART = unicodedata.normalize("NFD", COMPOSED)


@pytest.mark.parametrize(
    ("files", "rows", "found"),
    [
        (["a/1.png"], ["a/1.png"], {"a/1.png": "a/1.png"}),
        ([APART], [COMPOSED], {APART: COMPOSED}),
        ([COMPOSED], [APART], {COMPOSED: APART}),
        (["WARD/A.PNG"], ["ward/a.png"], {"WARD/A.PNG": "ward/a.png"}),
        ([APART.upper()], [COMPOSED], {APART.upper(): COMPOSED}),
        (["export/p1/1.png"], ["p1/1.png"], {"export/p1/1.png": "p1/1.png"}),
        (["1.PNG"], ["C:/x/1.png"], {"1.PNG": "C:/x/1.png"}),
        (
            ["export/p1/1.png", "export/p2/1.png"],
            ["p1/1.png", "p2/1.png"],
            {"export/p1/1.png": "p1/1.png", "export/p2/1.png": "p2/1.png"},
        ),
        (
            ["CD/P1/1.PNG", "CD/p2/1.png"],
            ["D:/x/p1/1.png", "D:/x/p2/1.png"],
            {"CD/P1/1.PNG": "D:/x/p1/1.png", "CD/p2/1.png": "D:/x/p2/1.png"},
        ),
        (["a/p1/1.png", "b/p1/1.png"], ["p1/1.png"], {}),
        # the strictest form goes first, and nothing is taken twice
        (["a.png", "A.png"], ["a.png"], {"a.png": "a.png"}),
        (["a.png", "A.png"], ["A.png", "a.png"], {"a.png": "a.png", "A.png": "A.png"}),
        # in doubt nothing is matched: it would be another patient's accession number
        (["A.png"], ["a.png", "a.PNG"], {}),
        (["p1/1.png", "p2/1.png"], ["x/1.png"], {}),
        (["p1/1.png"], ["x/1.png", "y/1.png"], {}),
        (["p1/1.png", "p2/1.png"], ["p1/1.png", "x/1.png"], {"p1/1.png": "p1/1.png"}),
        (["a.png"], ["b.png"], {}),
        ([], ["b.png"], {}),
    ],
)
def test_matching(files: list[str], rows: list[str], found: dict[str, str]) -> None:
    assert match(files, rows) == found

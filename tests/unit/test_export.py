"""Cells that no spreadsheet runs, and member names that every operating system unpacks."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.base.cells import cell, uncell
from store.results.safe_names import MemberNames, safe_stem
from vocabulary.words import finding_words

RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1.png", "@x", "\tx", "'=1", "''-x"])
def test_a_formula_gets_an_apostrophe(text: str) -> None:
    assert cell(text) == "'" + text
    assert uncell(cell(text)) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a;=1+1;.png", "a;'=1+1;.png"),
        ("a\n=1", "a\n'=1"),
        ("＝1+1", "'＝1+1"),
        ("\n=1", "'\n'=1"),
        ("a;'@x", "a;''@x"),
    ],
)
def test_a_formula_behind_another_separator_gets_one_too(text: str, shown: str) -> None:
    """Where the decimal sign is a comma, Excel takes the semicolon to separate cells, and knows no quotes."""
    assert cell(text) == shown
    assert uncell(shown) == text


@pytest.mark.parametrize(
    "text", ["a.png", "ward 3/hand.dcm", "'quoted'.png", "", "0.5", "Müller-1.png", "a; b"]
)
def test_ordinary_text_is_not_touched(text: str) -> None:
    assert cell(text) == text


@given(st.text() | st.text("a;'=-@\t\n\r＝"))
def test_every_text_comes_back(text: str) -> None:
    assert uncell(cell(text)) == text


@pytest.mark.parametrize(
    ("path", "stem"),
    [
        ("hand.png", "hand"),
        ("a/b/hand.JPEG", "a/b/hand"),
        ("1.2.840.113619.2", "1.2.840.113619.2"),
        ("../../etc/passwd", "etc/passwd"),
        ("/abs/x.dcm", "abs/x"),
        ("C:\\x\\y.tif", "C_/x/y"),
        ("CON.png", "_CON"),
        ("a/nul.tar.png", "a/_nul.tar"),
        ("trailing. /x .png", "trailing/x"),
        ('a<b>:"|?*.png', "a_b______"),
        ("e\u0301.png", "\u00e9"),
        (".png", ".png"),
        ("...", "unnamed"),
        ("\x00\x1f", "__"),
        ("nul .txt.png", "_nul .txt"),
        ("a\u202egnp.exe", "a_gnp.exe"),
        ("x.jpg/1.2.840.png", "x_jpg/1.2.840"),
    ],
)
def test_safe_stems(path: str, stem: str) -> None:
    assert safe_stem(path) == stem


@given(st.text(max_size=400))
def test_no_stem_leads_outside(path: str) -> None:
    stem = safe_stem(path)
    parts = stem.split("/")
    assert stem
    assert not stem.startswith("/")
    assert all(part and part not in {".", ".."} for part in parts)
    assert len(stem.encode()) <= 180
    assert all(len(part.encode()) <= 100 for part in parts)
    assert not re.search(r'[\x00-\x1f\\<>:"|?*]', stem)
    assert not any(RESERVED.match(part) for part in parts)
    assert not any(part.endswith((" ", ".")) for part in parts) or "~" in stem


def test_names_are_unique_in_any_case_and_the_same_in_every_pass() -> None:
    paths = ["a.png", "a.jpg", "A.PNG", "a-2.png", "b.png", "a.png", "a.png"]
    first, second = MemberNames(), MemberNames()
    stems = [first.stem(path) for path in paths]
    assert stems == ["a", "a-2", "A-3", "a-2-2", "b", "a-4", "a-5"]
    assert [second.stem(path) for path in paths] == stems
    assert len({stem.casefold() for stem in stems}) == len(stems)


def test_no_name_is_a_file_and_a_folder() -> None:
    names = MemberNames()
    members = [
        f"{names.stem(path)}.jpg" for path in ("a.png", "a.jpg/b.png", "A.JPG.png", "a.jpg/b.jpg/c.png")
    ]
    folders = {member.rpartition("/")[0].casefold() for member in members}
    assert not folders & {member.casefold() for member in members}


def test_many_equal_names_cost_little() -> None:
    names = MemberNames()
    assert len({names.stem("image.png") for _ in range(20_000)}) == 20_000


def test_the_bundles_own_word() -> None:
    assert finding_words("positive", "fractured") == "fracture suspected"
    assert finding_words("doubt", "abnormal") == "abnormality in doubt"
    assert finding_words("negative", "abnormal") == "no abnormality suspected"
    assert finding_words("not_assessable", "fractured") == ""
    assert finding_words(None, "fractured") == ""

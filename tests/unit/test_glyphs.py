"""A report prints every letter of a name, in whatever script, or the letter's code; never nothing."""

from __future__ import annotations

import html
import json
import re
import subprocess
from collections import namedtuple
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import cv2
import numpy as np
import pytest
from pypdf import PdfReader

from pipeline.report import glyphs
from pipeline.report.glyphs import FONTS, coverage, fonts_for, isolated, letters_of
from pipeline.report.render import FONTS as OWN
from pipeline.report.render import render_report
from pipeline.report.types import Signature, StudyReport
from tests.unit.test_report import FACTS, a_study
from vocabulary.states import Answer

OWN_LETTERS = letters_of(OWN[0])
NAMES = {
    "chinese": "患者骨折",
    "rare chinese": "㐂龘𠮷",
    "japanese": "はなこ、カナ",
    "korean": "환자한글",
    "arabic": "مريض",
    "persian": "می‌گچپ",
    "hebrew": "חולה",
    "thai": "ผู้ป่วย",
    "hindi": "रोगीश्री",
    "bengali": "রোগী",
    "tamil": "நோயாளி",
    "sinhala": "රෝගියා",
    "armenian": "Հիվանդ",
    "georgian": "პაციენტი",
    "amharic": "ታካሚ",
    "khmer": "អ្នកជំងឺ",
    "burmese": "လူနာ",
    "tibetan": "ནད་པ",
    "greek": "Ασθενής",
    "russian": "Пациент",
    "vietnamese": "Nguyễn",
}


def signed(comment: str, **changes) -> StudyReport:
    signature = Signature("Dr Mensah", "mensah", datetime(2026, 11, 21, tzinfo=UTC), Answer.PRESENT, comment)
    return a_study(signature=signature, **changes)


Word = namedtuple("Word", "text x y ink")


def drawn(pdf: Path) -> list[Word]:
    """Return each word of the first page, and how much of its box is dark in a picture of the page."""
    picture = pdf.with_suffix(".png")
    subprocess.run(
        ["pdftoppm", "-r", "144", "-gray", "-png", "-l", "1", "-singlefile", pdf, picture.with_suffix("")],
        check=True,
    )
    page = cv2.imread(str(picture), cv2.IMREAD_GRAYSCALE)
    assert page is not None
    boxes = subprocess.run(
        ["pdftotext", "-bbox", "-l", "1", pdf, "-"],
        check=True,
        capture_output=True,
        text=True,
        errors="replace",
    ).stdout
    found = []
    for *edges, text in re.findall(
        r'<word xMin="([-0-9.]+)" yMin="([-0-9.]+)" xMax="([-0-9.]+)" yMax="([-0-9.]+)">(.*)</word>', boxes
    ):
        left, top, right, bottom = (max(round(2 * float(edge)), 0) for edge in edges)
        box = page[top:bottom, left:right]
        ink = float(np.mean(box < 128)) if box.size else 0.0
        found.append(Word(re.sub("[\u202a-\u202e\u2066-\u2069]", "", html.unescape(text)), left, top, ink))
    return found


def no_missing_glyph(pdf: Path) -> bool:
    """Tell whether the first page draws no glyph 0, the box that stands for a missing one."""
    content = PdfReader(pdf).pages[0].get_contents()
    assert content is not None
    return all(
        "0000" not in re.findall("....", t) for t in re.findall(r"<([0-9a-f]+)>", str(content.get_data()))
    )


@pytest.fixture(scope="module")
def names_pdf(tmp_path_factory) -> Path:
    """A signed report whose comment holds a name in each script between a word and a number."""
    path = tmp_path_factory.mktemp("names") / "names.pdf"
    path.write_bytes(render_report(signed("\n".join(f"{k}: {v} 42" for k, v in NAMES.items()))))
    return path


def test_a_name_in_every_script_is_drawn_and_can_be_copied(names_pdf):
    text = subprocess.run(
        ["pdftotext", "-l", "1", names_pdf, "-"], check=True, capture_output=True, text=True
    )
    written = re.sub(r"[\s\u200c\u202a-\u202e\u2066-\u2069]", "", text.stdout)
    inks = drawn(names_pdf)
    for script, name in NAMES.items():
        letters = {letter for letter in name if letter.isalpha()}  # vowel signs are drawn in another order
        assert letters <= set(written), script
        pieces = [word.ink for word in inks if letters & set(word.text)]
        assert pieces, script
        assert max(pieces) > 0.04, script
    assert no_missing_glyph(names_pdf)


def test_only_fonts_of_this_folder_draw_them(names_pdf):
    fonts = {
        f.get_object()["/BaseFont"] for f in PdfReader(names_pdf).pages[0]["/Resources"]["/Font"].values()
    }
    assert all(re.search(r"\+(Inter|Noto)", name) for name in fonts), fonts


@pytest.mark.parametrize(
    ("accession", "printed"),
    [
        ("ACC-🦴-7", "ACC-U+1F9B4-7"),
        ("A🦴7", "A[U+1F9B4]7"),
        ("🦴🦴", "[U+1F9B4][U+1F9B4]"),
        ("🦴️ x", "U+1F9B4 x"),
        ("\ue000-\u0378", "U+E000-U+0378"),
    ],
)
def test_a_letter_that_no_font_has_is_its_code(accession, printed, tmp_path):
    (tmp_path / "a.pdf").write_bytes(render_report(a_study(facts=replace(FACTS, accession=accession))))
    words = [word.text for word in drawn(tmp_path / "a.pdf") if word.ink > 0 or word.text == "·"]
    assert f"Accession {printed} · Study" in " ".join(words)
    assert no_missing_glyph(tmp_path / "a.pdf")


def test_a_right_to_left_name_leaves_the_sentence_around_it_in_order(tmp_path):
    facts = replace(FACTS, accession="חולה")
    (tmp_path / "a.pdf").write_bytes(render_report(a_study(facts=facts, site_name="מריץ 12 בית")))
    words = sorted(drawn(tmp_path / "a.pdf"), key=lambda word: word.x)
    top = next(word.y for word in words if word.text == "Accession")
    line = [word.text for word in words if abs(word.y - top) < 6]
    assert line[:6] == ["Accession", line[1], "·", "Study", "date", "2026-11-20"]
    assert line[1] in {"חולה", "הלוח"}
    site = next(word.y for word in words if word.text == "12")
    letters = [set(word.text) for word in words if abs(word.y - site) < 6][:3]
    assert letters == [set("בית"), set("12"), set("מריץ")]


def test_an_ordinary_report_loads_no_other_font():
    assert fonts_for("Ünïv Łódź Ασθενής Пациент ▲ ◆ □ ○ – × · ≥", OWN_LETTERS) == (
        "Ünïv Łódź Ασθενής Пациент ▲ ◆ □ ○ – × · ≥",
        (),
    )
    assert letters_of(OWN[0]) == letters_of(OWN[1])


def test_only_what_a_text_needs_is_loaded():
    assert fonts_for("患者", OWN_LETTERS)[1] == ("noto/NotoSansCJK-Han.woff2",)
    assert fonts_for("は、。「", OWN_LETTERS)[1] == ("noto/NotoSansCJK-Kana.woff2",)
    assert fonts_for("ผู้ x", OWN_LETTERS)[1] == ("noto/NotoSansThai.woff2",)


def test_what_a_font_is_said_to_have_it_has():
    stated = json.loads((FONTS / "noto" / "coverage.json").read_text("utf-8"))
    assert {f"noto/{name}" for name in stated} == {f"noto/{p.name}" for p in (FONTS / "noto").glob("*.woff2")}
    for name, runs in stated.items():
        letters = letters_of(f"noto/{name}")
        assert {letter for low, high in runs for letter in range(low, high + 1)} == letters, name
        assert {0x20, 0xA0} <= letters, name
    assert set(range(0x4E00, 0x9FF0)) <= letters_of("noto/NotoSansCJK-Han.woff2")


def test_a_font_that_lost_a_letter_has_it_printed_as_a_code(monkeypatch):
    monkeypatch.setattr(glyphs, "letters_of", lambda name: frozenset())
    assert fonts_for("ผ.", OWN_LETTERS) == ("U+0E1C.", ())
    assert next(iter(coverage())) == "noto/NotoSans.woff2"


def test_each_line_is_isolated_by_itself():
    assert isolated("Smith\nJones") == "Smith\nJones"
    assert isolated("a\nחולה") == "\u2068a\u2069\n\u2068חולה\u2069"

"""A report looks as WeasyPrint alone would have it look, whatever was kept of the reports before it."""

from __future__ import annotations

import io
import random
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from pypdf import PdfReader

from bench.report import study
from pipeline.report import render, typesetting
from pipeline.report.types import Mark, StudyReport
from pipeline.types import SuspectedBox
from tests.unit.test_report import ANA, CARD, FACTS, ROOT, a_study, an_image, rejected
from vocabulary.reasons import Reason
from vocabulary.states import Triage

#: Writes a page with WeasyPrint as it comes, but for the style sheet: arguments are a folder and the sheet's.
PLAIN = """
import pathlib, sys
import weasyprint
from weasyprint.text.fonts import FontConfiguration
from weasyprint.urls import URLFetcher, URLFetcherResponse

folder, here = map(pathlib.Path, sys.argv[1:])

class Files(URLFetcher):
    def fetch(self, url, headers=None):
        name = url.partition(":")[2]
        path = folder / name if (folder / name).exists() else here / "fonts" / name
        return URLFetcherResponse(url, path.read_bytes())

fonts = FontConfiguration()
sheet = weasyprint.CSS(string=(here / "style.css").read_text("utf-8"), font_config=fonts, url_fetcher=Files())

class Plain(weasyprint.HTML):
    def _ua_stylesheets(self, forms=False):
        return [sheet]

page = (folder / "page.html").read_text("utf-8")
html = Plain(string=page, url_fetcher=Files())
html.write_pdf(folder / "plain.pdf", font_config=fonts, pdf_variant="pdf/ua-1")
"""


def studies() -> dict[str, StudyReport]:
    """Return reports that share most of their words, and differ in what decides a line's place and width."""
    places = (
        SuspectedBox(30, 40, 90, 60, 0.7, strong=True),
        SuspectedBox(150, 300, 60, 90, 0.3, strong=False),
    )
    image = an_image()
    assert image.finding is not None
    marked = replace(image, finding=replace(image.finding, suspected_places=places))
    negative = an_image(Triage.NEGATIVE, 0.08)
    several = (negative, rejected(2), replace(an_image(size=(900, 300)), number=3, pooled=True))
    young = replace(FACTS, age_years=9, accession="A" * 90, laterality="")
    return {
        "positive": a_study(),
        "other numbers": a_study(
            an_image(Triage.DOUBT, 0.31), facts=replace(FACTS, accession="RAD-7"), triage=Triage.DOUBT
        ),
        "negative": a_study(negative, triage=Triage.NEGATIVE),
        "places and a mark": a_study(
            marked, signature=replace(ANA, mark=Mark(1, 100, 50, 200, 250), comment="One.\nTwo.")
        ),
        "several": a_study(*several, reasons=(Reason.STUDY_INCOMPLETE,), version=3),
        "a child, nothing stated": a_study(an_image(facts=young), facts=young),
        # letters whose widths round otherwise where a larger one of them comes first
        **{f"study {number}": study(images, number) for images, number in ((1, 0), (1, 2), (3, 5), (1, 4))},
    }


def pictures(pdf: Path) -> list[bytes]:
    """Return a PDF's pages as pixels."""
    subprocess.run(["pdftoppm", "-r", "100", pdf, pdf.with_suffix("")], check=True)
    return [page.read_bytes() for page in sorted(pdf.parent.glob(f"{pdf.stem}-*.ppm"))]


def tags(pdf: bytes) -> list[tuple[object, ...]]:
    """Return the tree of what the parts of a PDF are, and what is said of them, in reading order."""
    found: list[tuple[object, ...]] = []

    def walk(element: object, depth: int) -> None:
        if isinstance(element, int):
            found.append((depth, "content"))
            return
        element = element.get_object()  # type: ignore[attr-defined]
        if isinstance(element, int):
            found.append((depth, "content"))
            return
        found.append((depth, element.get("/S"), element.get("/Alt"), len(element.get("/A", ()))))
        for kid in element.get("/K", ()):
            walk(kid, depth + 1)

    walk(PdfReader(io.BytesIO(pdf)).trailer["/Root"]["/StructTreeRoot"], 0)
    return found


@pytest.fixture(scope="module")
def again() -> dict[str, tuple[str, dict[str, bytes], bytes]]:
    """Return page, pictures and PDF of each study, written when all of them had been written before."""
    written = {}
    for turn in range(2):
        for name, report in studies().items():
            before = written.get(name)
            files = render._pictures(report)
            page = render._renderer().html(report, files)
            written[name] = page, files, render.render_report(report)
            if turn:
                assert before is not None
                assert written[name][2] == before[2], f"{name}: other bytes for the same study"
    return written


@pytest.mark.parametrize("name", list(studies()))
def test_what_is_kept_of_other_reports_changes_no_pixel_and_no_tag(name, again, tmp_path):
    page, files, pdf = again[name]
    for file, data in {**files, "page.html": page.encode(), "ours.pdf": pdf}.items():
        (tmp_path / file).write_bytes(data)
    subprocess.run([sys.executable, "-c", PLAIN, tmp_path, render.HERE], check=True)
    plain = (tmp_path / "plain.pdf").read_bytes()
    assert tags(pdf) == tags(plain)
    assert len(tags(pdf)) > 50
    ours, theirs = pictures(tmp_path / "ours.pdf"), pictures(tmp_path / "plain.pdf")
    assert len(ours) == len(theirs)
    for number, (mine, other) in enumerate(zip(ours, theirs, strict=True), 1):
        assert mine == other, f"page {number} looks different"


def test_no_page_names_another_study():
    """Each page names its own study and site, whatever reports the process wrote before."""
    chance = random.Random(5)
    for number in range(40):
        own = {f"ACC{number}X", f"Hospital {number}X"}
        facts = replace(FACTS, accession=f"ACC{number}X", age_years=chance.choice([None, 9, 44, 80]))
        classes = [
            chance.choice([Triage.POSITIVE, Triage.DOUBT, Triage.NEGATIVE]) for _ in range(number % 4 + 1)
        ]
        images = [replace(an_image(each, 0.4, facts=facts), number=n) for n, each in enumerate(classes, 1)]
        pdf = render.render_report(
            a_study(*images, facts=facts, site_name=f"Hospital {number}X", triage=chance.choice(classes))
        )
        for page in PdfReader(io.BytesIO(pdf)).pages:
            named = set(re.findall(r"ACC\d+X|Hospital \d+X", page.extract_text()))
            assert f"ACC{number}X" in named
            assert named <= own


#: Seldom used, and so first seen where a test wants them to be.
SELDOM = "ßæøđłŧžķģĵ@#&ÆØĐŊħŒœ"


def seldom(*, network: bool) -> StudyReport:
    card = replace(CARD, trained_on=SELDOM, limits=(f"{SELDOM} {SELDOM}",))
    return a_study(an_image(network=SELDOM if network else "plain"), bundle=card)


def test_letters_are_as_wide_as_in_a_fresh_process():
    """A letter's width is rounded at the size that a document uses first, and decides the gaps around it."""
    program = (
        "import sys; from tests.unit.test_typesetting import render, seldom;"
        "sys.stdout.buffer.write(render.render_report(seldom(network=False)))"
    )
    fresh = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, check=True).stdout
    for network in (True, True, False, True, False):
        ours = render.render_report(seldom(network=network))
    assert ours == fresh


def test_what_is_kept_has_an_end(monkeypatch):
    monkeypatch.setattr(typesetting, "KEPT_LINES", 50)
    for number in range(20):
        render.render_report(a_study(facts=replace(FACTS, accession=f"RAD-{number}")))
        assert len(typesetting._lines) <= 50
    n_styles = len(render._renderer()._setting.styles)
    render.render_report(a_study(facts=replace(FACTS, accession="another"), site_name="Another"))
    assert len(render._renderer()._setting.styles) == n_styles

"""The page inside a ZIP: opened from the disk, sorted and searched, in the order of the worklist."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pypdf
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser

from store.base.blobs import BlobStore
from store.results.index_page import IndexPage
from store.results.results import Selection, iter_lines
from tests.reading import read_batch
from tests.web.asking import Asker, png
from tests.web.browsing import chromium, draw
from tests.web.test_downloads import fetch, real_reports

__all__ = ["chromium"]

ACCESSIONS = {
    "a/1.png": "0001238",
    "a/2.png": "0001238",
    "b #1%.png": "../<b>7</b>",
    "c.png": "",
    "d/c.png": "",
    "e.png": "0001238/x",
}


@pytest.fixture
def batch(ask: Asker, blobs: BlobStore) -> str:
    """A batch of several findings, one study of two images, names that want care."""
    made = ask.draft(label="Night <shift>", priority="urgent")
    ask.send(made, *((name, png(name)) for name in ACCESSIONS), ("bad.txt", b"text"))
    ask.post(f"/batches/{made}/submit")
    read_batch(
        made,
        facts=lambda path: {
            "accession": ACCESSIONS[path],
            "study_uid": "1.2.3" if path.startswith("a/") else "",
            "age_years": 9 if path == "c.png" else None,
            "study_date": "20260105" if path.startswith("a/") else "",
        },
    )
    draw(made, blobs)
    return made


def worklist(ask: Asker) -> list[str]:
    return [row["accession"] or row["filename"] for row in ask.get("/worklist").json["items"]]


def open_saved(chromium: Browser, folder: Path, **look: Any) -> tuple[Any, list[str]]:
    page = chromium.new_context(**look).new_page()
    complaints: list[str] = []
    page.on("console", lambda said: complaints.append(said.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto((folder / "index.html").as_uri())
    return page, complaints


def names_of(page: Any) -> list[str]:
    return [text.split("\n")[0] for text in page.locator("tbody th").all_inner_texts()]


def test_it_works_from_the_disk(ask: Asker, batch: str, chromium: Browser, tmp_path: Path) -> None:
    with zipfile.ZipFile(io.BytesIO(ask.get(f"/batches/{batch}/results.zip").data)) as archive:
        archive.extractall(tmp_path)
    page, complaints = open_saved(chromium, tmp_path)
    waiting = worklist(ask)
    assert "2026-01-05" in page.locator("tbody").inner_text()
    assert len(waiting) == 6
    assert names_of(page) == waiting
    assert page.locator("h1").inner_text() == "Night <shift>"

    links = page.locator("tbody a").evaluate_all("all => all.map((a) => a.getAttribute('href'))")
    reports = [unquote(link) for link in links if link.startswith("reports/")]
    assert len(links) == 5 + 6
    assert all((tmp_path / unquote(link)).is_file() for link in links)
    assert {"reports/0001238.pdf", "reports/0001238_x.pdf", "reports/c.pdf", "reports/d/c.pdf"} < set(reports)
    assert page.locator("img").evaluate_all("all => all.every((i) => i.decode && i.loading === 'lazy')")
    page.locator("img").first.scroll_into_view_if_needed()
    page.wait_for_function("document.images[0].naturalWidth > 0")

    head = page.get_by_role("columnheader", name="Study", exact=True)
    head.get_by_role("button").focus()
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    assert page.locator("th[aria-sort=ascending]").count() == 1
    assert page.get_by_role("status").inner_text() == "Sorted by Study, ascending"
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    by_name = names_of(page)
    page.get_by_role("button", name="Probability").click()
    shares = page.locator("tbody tr td:nth-child(4)").all_inner_texts()
    values = [float(text.strip("%<> ")) for text in shares if text]
    assert values == sorted(values)
    assert shares[-1] == ""  # what was not read comes last
    assert names_of(page) != by_name
    page.get_by_role("searchbox").fill("0001238 hand")
    assert len([row for row in page.locator("tbody tr").all() if row.is_visible()]) == 2
    assert page.get_by_role("status").inner_text() == "2 studies shown"
    assert not [said for said in complaints if "favicon" not in said]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read_aloud_and_on_a_phone(
    ask: Asker, batch: str, chromium: Browser, tmp_path: Path, scheme: Any
) -> None:
    with zipfile.ZipFile(io.BytesIO(ask.get(f"/batches/{batch}/results.zip").data)) as archive:
        archive.extractall(tmp_path)
    page, _ = open_saved(
        chromium, tmp_path, color_scheme=scheme, viewport={"width": 390, "height": 800}, bypass_csp=True
    )
    assert not [found["id"] for found in Axe().run(page).response["violations"]]
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    text = page.locator("tbody").inner_text()
    assert "not validated" in text
    assert "The file is not a PNG" in text


def test_without_reports_and_pictures_it_links_to_none(ask: Asker, batch: str) -> None:
    answer = ask.get(f"/results?format=zip&parts=tables&batch={batch}")
    with zipfile.ZipFile(io.BytesIO(answer.data)) as archive:
        assert archive.namelist() == ["results.csv", "errors.csv", "index.html", "manifest.json"]
        page = archive.read("index.html").decode()
    assert "reports/" not in page
    assert "heatmaps/" not in page
    assert "&lt;b&gt;7&lt;/b&gt;" in page
    assert "<b>7" not in page


def test_missing_bytes_are_not_linked(ask: Asker, batch: str, site_key: str) -> None:
    from store.base.session import session_scope
    from store.base.tables import Site

    with session_scope() as session:
        site_id = session.query(Site).one().id
    with IndexPage() as index:
        for line in iter_lines(Selection(site_id)):
            index.add(line)
        gone = f"reports/{batch[:8]}/0001238.pdf"
        text = b"".join(index.pieces("x", ("reports",), [gone])).decode()
    assert gone not in text
    assert f"reports/{batch[:8]}/c.pdf" in text


def test_the_merged_pdf_has_the_same_order_and_counts(ask: Asker, batch: str, blobs: BlobStore) -> None:
    real_reports(blobs)
    items = ask.get("/worklist").json["items"]
    assert len(items) == 6
    pdf = pypdf.PdfReader(io.BytesIO(fetch(ask, format="pdf", batch=batch)))
    named = [str(mark.title).split(": ", 1)[1] for mark in pdf.outline]
    assert named == [row["accession"] or row["filename"] for row in items if row["triage"]]
    cover = pdf.pages[0].extract_text()
    for triage, word in (("positive", "positive"), ("doubt", "in doubt")):
        n = sum(row["triage"] == triage for row in items)
        assert f"{n} {word}" in " ".join(cover.split())
    assert "1 image rejected" in " ".join(cover.split())

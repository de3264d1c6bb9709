"""Bulk downloads: columns, parts, filters and days; small at once, large in the background; merged PDFs."""

from __future__ import annotations

import codecs
import io
import json
import tracemalloc
import uuid
import zipfile
from datetime import datetime
from typing import Any

import openpyxl
import pyarrow.parquet as pq
import pypdf
import pytest
from sqlalchemy import select, text, update

from pipeline.report.render import render_cover
from pipeline.report.types import BatchCover, BundleCard
from store.base.blobs import BlobStore
from store.base.session import session_scope
from store.base.tables import Export, Image, StudyFinding, Work, WorkState
from store.operations.fsck import check
from store.results import exports, spreadsheet
from tests.web.asking import Asker, Browser, png
from tests.web.test_results import finished, rows
from worker import flow
from worker.results import exports as worker_exports
from worker.results import merged_pdf


@pytest.fixture
def batch(ask: Asker) -> str:
    names = ("a/1.png", "a/2.png", "b.png")
    return finished(ask, *((name, png(name)) for name in names), ("bad.txt", b"text"))


def unit_of(export_id: str) -> Work:
    with session_scope() as session:
        return session.scalars(select(Work).where(Work.subject_id == uuid.UUID(export_id))).one()


def make(ask: Asker, **wish: Any) -> dict[str, Any]:
    """Ask for a file and make it, as a worker does."""
    answer = ask.post("/exports", json=wish)
    assert answer.status_code == 202
    assert answer.json["state"] == "waiting"
    flow.run(unit_of(answer.json["id"]).id, None, worker_exports.run)
    return ask.get(f"/exports/{answer.json['id']}").json


def fetch(ask: Asker, **wish: Any) -> bytes:
    made = make(ask, **wish)
    assert made["state"] == "ready"
    answer = ask.get(made["links"]["file"])
    assert made["name"] in answer.headers["Content-Disposition"]
    assert len(answer.data) == made["size"]
    return answer.data


def test_a_small_table_comes_at_once_with_the_chosen_columns(ask: Asker, batch: str) -> None:
    answer = ask.get(f"/results?format=csv&batch={batch}&columns=filename,size,high&status=done")
    assert answer.text.splitlines() == [
        "filename,size,high",
        *(f"{name},{len(png(name))},0.700000" for name in ("a/1.png", "a/2.png", "b.png")),
    ]
    lines = [json.loads(line) for line in ask.get("/results?format=jsonl").text.splitlines()]
    assert [line["filename"] for line in lines] == ["a/1.png", "a/2.png", "b.png", "bad.txt"]
    assert lines[3]["probability"] is None
    assert isinstance(lines[0]["probability"], float)


def move(batch_id: str, moment: str) -> None:
    """Let a batch have been made, filled and submitted at another time."""
    with session_scope() as session:
        for statement in (
            "UPDATE batches SET created_at = :moment, submitted_at = :moment WHERE id = :id",
            "UPDATE images SET created_at = :moment WHERE batch_id = :id",
        ):
            session.execute(text(statement), {"moment": moment, "id": batch_id})


def test_filters_and_days(ask: Asker, batch: str) -> None:
    other = finished(ask, ("later.png", png("later")))
    ask.send(ask.draft(), ("draft.png", png("draft")))  # not submitted: not among all batches
    assert len(ask.get("/results?format=jsonl").text.splitlines()) == 5
    assert len(ask.get("/results?format=jsonl&status=rejected").text.splitlines()) == 1
    move(other, "2026-03-01 23:59:59+00")
    march = ask.get("/results?format=jsonl&since=2026-03-01&until=2026-03-01").text.splitlines()
    assert [json.loads(line)["filename"] for line in march] == ["later.png"]
    assert not ask.get("/results?format=jsonl&since=2026-03-02&until=2026-03-03").text


@pytest.mark.parametrize(
    "query",
    ["", "format=docx", "format=csv&columns=cam", "format=csv&since=1.3.2026", "format=csv&batch=1",
     "format=csv&since=2026-03-02&until=2026-03-01", "format=pdf", "format=csv&colums=x"],
)  # fmt: skip
def test_what_cannot_be_made_is_refused_with_a_sentence(ask: Asker, query: str) -> None:
    answer = ask.get(f"/results?{query}")
    assert (answer.status_code, answer.json["code"]) == (422, "invalid_query")
    assert answer.json["detail"]


def test_what_is_large_is_prepared_and_says_so(
    ask: Asker, batch: str, settings_env: pytest.MonkeyPatch
) -> None:
    settings_env.setenv("FRACTUREAI_EXPORT_INLINE_ROWS", "3")
    exports.get_settings.cache_clear()
    answer = ask.get(f"/results?format=csv&batch={batch}")
    assert answer.json["code"] == "download_too_large"
    made = make(ask, format="csv", batch=batch)
    assert (made["state"], made["done"], made["total"], made["missing"]) == ("ready", 4, 4, 0)
    assert ask.get(made["links"]["file"]).data == ask.get(f"/batches/{batch}/results.csv").data
    assert ask.get("/exports").json["items"][0]["id"] == made["id"]
    assert check().clean


def test_a_zip_of_chosen_parts_over_several_batches(ask: Asker, batch: str) -> None:
    other = finished(ask, ("a/1.png", png("other")))
    data = fetch(ask, format="zip", parts=["originals", "reports"], status="done")
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        manifest = json.loads(archive.read("manifest.json"))
    assert f"originals/{batch[:8]}/a/1.bin" in names
    assert f"originals/{other[:8]}/a/1.bin" in names
    assert not [name for name in names if name.startswith("heatmaps/") or name.endswith(".csv")]
    assert manifest["selection"]["status"] == "done"
    assert manifest["complete"] is True


def test_parquet_has_types(ask: Asker, batch: str) -> None:
    table = pq.read_table(
        io.BytesIO(fetch(ask, format="parquet", batch=batch, columns=["filename", "probability", "size"]))
    )
    assert table.column_names == ["filename", "probability", "size"]
    assert [str(field.type) for field in table.schema] == ["string", "double", "int64"]
    found = rows(ask.get(f"/batches/{batch}/results.csv").data)
    assert table["filename"].to_pylist() == [row["filename"] for row in found]
    for value, row in zip(table["probability"].to_pylist(), found, strict=True):
        assert ("" if value is None else f"{value:.6f}") == row["probability"]


def real_reports(blobs: BlobStore) -> None:
    """Put PDFs where the tests' reader left texts."""
    card = BundleCard("b1", "0" * 64, "fractured", "nothing")
    with session_scope() as session:
        for found in session.scalars(select(StudyFinding).where(StudyFinding.report_key.is_not(None))):
            page = BatchCover("S", "b", str(found.study_id), found.created_at, card, 1, {}, {}, (), 1, 1, "0")
            found.report_sha256, found.report_size = blobs.put(found.report_key, render_cover(page))


def test_one_pdf_with_cover_links_and_bookmarks(ask: Asker, batch: str, blobs: BlobStore) -> None:
    real_reports(blobs)
    pdf = pypdf.PdfReader(io.BytesIO(fetch(ask, format="pdf", batch=batch)))
    cover = pdf.pages[0].extract_text()
    assert "verified by a clinician" in cover
    for name in ("a/1.png", "a/2.png", "b.png"):
        assert name in cover
    assert "bad.txt" in cover
    targets = [note.get_object()["/Dest"][0].get_object() for note in pdf.pages[0]["/Annots"]]
    studies = [page.extract_text() for page in pdf.pages[1:]]
    assert len(targets) == len(studies) == len(pdf.outline)
    assert [pypdf.PageObject(pdf, target).extract_text() for target in targets] == studies
    assert pdf.page_labels[:3] == ["i", "1", "2"]
    with session_scope() as session:
        ids = {str(s) for s in session.scalars(select(StudyFinding.study_id))}
    assert {next(i for i in ids if i[:8] in page) for page in studies} <= ids


def test_many_reports_come_in_volumes(
    ask: Asker, batch: str, blobs: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_reports(blobs)
    monkeypatch.setattr(merged_pdf, "VOLUME", 2)
    made = make(ask, format="pdf", batch=batch)
    assert made["name"].endswith(".zip")
    with zipfile.ZipFile(io.BytesIO(ask.get(made["links"]["file"]).data)) as archive:
        assert archive.namelist()[0].startswith("reports-1-of-")
        first = pypdf.PdfReader(io.BytesIO(archive.read(archive.namelist()[0])))
    assert "volume 1 of" in first.pages[0].extract_text()


def test_a_download_that_broke_off_goes_on(ask: Asker, batch: str) -> None:
    made = make(ask, format="csv", batch=batch)
    whole = ask.get(made["links"]["file"]).data
    rest = ask.get(made["links"]["file"], headers={"Range": "bytes=100-"})
    assert (rest.status_code, rest.data) == (206, whole[100:])
    assert rest.headers["Content-Range"] == f"bytes 100-{len(whole) - 1}/{len(whole)}"
    changed = ask.get(made["links"]["file"], headers={"Range": "bytes=100-", "If-Range": '"other"'})
    assert (changed.status_code, changed.data) == (200, whole)


def test_a_cancelled_file_leaves_nothing(ask: Asker, batch: str, blobs: BlobStore, monkeypatch: Any) -> None:
    wanted = ask.post("/exports", json={"format": "csv", "batch": batch}).json
    monkeypatch.setattr(worker_exports, "PROGRESS_SECONDS", 0.0)
    real = exports.save_progress

    def cancels_first(*arguments: Any) -> None:
        assert ask.post(f"/exports/{wanted['id']}/cancel").json["state"] == "cancelled"
        real(*arguments)

    monkeypatch.setattr(exports, "save_progress", cancels_first)
    flow.run(unit_of(wanted["id"]).id, None, worker_exports.run)
    assert ask.get(f"/exports/{wanted['id']}").json["state"] == "cancelled"
    assert ask.get(f"/exports/{wanted['id']}/file").json["code"] == "export_not_ready"
    assert not list(blobs.keys("exports/"))


def test_the_link_expires_and_the_bytes_go(ask: Asker, batch: str, blobs: BlobStore) -> None:
    made = make(ask, format="csv", batch=batch)
    assert made["expires_at"]
    with session_scope() as session:
        session.execute(update(Export).values(expires_at=text("now() - interval '1 second'")))
    assert ask.get(made["links"]["file"]).json["code"] == "export_expired"
    assert list(blobs.keys("exports/"))
    exports.delete_expired()
    assert not list(blobs.keys("exports/"))
    assert ask.get(f"/exports/{made['id']}").json["state"] == "expired"
    with session_scope() as session:
        session.execute(update(Export).values(created_at=text("now() - interval '31 days'")))
    exports.delete_expired()
    assert ask.get(f"/exports/{made['id']}").status_code == 404
    with session_scope() as session:
        assert not session.scalars(select(Work).where(Work.subject_id == uuid.UUID(made["id"]))).all()


def test_an_error_is_kept_and_shown(ask: Asker, browser: Browser, batch: str, monkeypatch: Any) -> None:
    def breaks(*_: Any) -> Any:
        raise RuntimeError("no")

    monkeypatch.setattr(worker_exports, "stream", breaks)
    wanted = ask.post("/exports", json={"format": "csv", "batch": batch}).json
    for _ in range(3):
        with session_scope() as session:
            session.execute(update(Work).values(due_at=text("now()")).where(Work.state == WorkState.DUE))
        flow.run(unit_of(wanted["id"]).id, None, worker_exports.run)
    row = ask.get(f"/exports/{wanted['id']}").json
    assert (row["state"], row["error_code"]) == ("failed", "processing_error")
    assert "could not be made" in browser.client.get("/downloads").text


def test_not_too_many_at_once(ask: Asker, batch: str, settings_env: pytest.MonkeyPatch) -> None:
    settings_env.setenv("FRACTUREAI_MAX_EXPORTS", "2")
    exports.get_settings.cache_clear()
    for expected in (202, 202, 429):
        assert ask.post("/exports", json={"format": "csv", "batch": batch}).status_code == expected


def test_the_page_sends_small_files_and_lists_the_others(
    browser: Browser, ask: Asker, batch: str, stranger: Asker
) -> None:
    assert batch in browser.client.get(f"/downloads?batch={batch}").text
    sent = browser.post("/downloads", format="csv", batch=batch, columns=["filename", "status"])
    assert sent.text.splitlines()[0] == "filename,status"
    prepared = browser.post("/downloads", format="parquet", batch=batch)
    assert prepared.status_code == 303
    export_id = ask.get("/exports").json["items"][0]["id"]
    assert "waiting" in browser.client.get("/downloads").text
    assert stranger.get("/exports").json["items"] == []
    assert stranger.get(f"/exports/{export_id}").status_code == 404
    assert stranger.post("/exports", json={"format": "csv", "batch": batch}).status_code == 404
    assert stranger.get(f"/results?format=csv&batch={batch}").status_code == 404
    assert browser.post(f"/downloads/{export_id}/cancel").status_code == 303
    assert ask.get(f"/exports/{export_id}").json["state"] == "cancelled"


def test_an_erasure_takes_the_files_that_may_hold_the_study(ask: Asker, batch: str, blobs: BlobStore) -> None:
    other = finished(ask, ("other.png", png("other")))
    move(other, "2026-03-01 12:00:00+00")
    with session_scope() as session:
        site, image = session.execute(
            select(Image.site_id, Image.id).where(Image.batch_id == uuid.UUID(batch), Image.path == "b.png")
        ).one()
    held = [
        make(ask, format="csv", batch=batch)["id"],
        make(ask, format="zip")["id"],
        make(ask, format="csv", batch=batch, status="failed")["id"],  # it may have been failed then
        ask.post("/exports", json={"format": "jsonl", "since": "2026-03-02"}).json["id"],  # not made yet
    ]
    kept = [
        make(ask, format="csv", batch=other)["id"],
        make(ask, format="csv", until="2026-03-01")["id"],
    ]
    with session_scope() as session:
        keys = exports.delete_holding(session, site, [image])
    assert len(keys) == 3
    assert {key.split("/")[2] for key in keys} == set(held[:3])
    assert {ask.get(f"/exports/{id_}").json["state"] for id_ in held} == {"expired", "cancelled"}
    assert {ask.get(f"/exports/{id_}").json["state"] for id_ in kept} == {"ready"}


HARD = ("0001238", '=HYPERLINK("http://x","y")', "+1", "@SUM(A1)", "-2", "1e5", "\t=1", "a\x01b", "Ünïcode")


def sheet_of(data: bytes) -> list[tuple[Any, ...]]:
    book = openpyxl.load_workbook(io.BytesIO(data))
    assert book.sheetnames == ["results"]
    return [tuple(cells) for cells in book["results"].iter_rows()]


def test_an_excel_table_keeps_ids_and_runs_nothing(ask: Asker) -> None:
    names = [f"{n}.png" for n in range(len(HARD))]
    wished = dict(zip(names, HARD, strict=True))
    batch = finished(
        ask,
        *((name, png(name)) for name in names),
        facts=lambda path: {"accession": wished[path].replace("\x01", ""), "study_date": "20260301"},
    )
    columns = "filename,accession,study_date,uploaded_at,probability,size"
    data = ask.get(f"/results?format=xlsx&batch={batch}&columns={columns}").data
    head, *lines = sheet_of(data)
    assert [cell.value for cell in head] == columns.split(",")
    for name, line in zip(names, lines, strict=True):
        path, accession, day, moment, probability, size = line
        assert (path.value, accession.value) == (name, wished[name].replace("\x01", ""))
        assert (accession.data_type, accession.hyperlink) == ("s", None)
        assert day.value == datetime(2026, 3, 1)
        assert (moment.is_date, moment.number_format) == (True, 'yyyy-mm-dd hh:mm:ss "UTC"')
        assert isinstance(probability.value, float)
        assert size.value == len(png(name))
    assert b"<f>" not in b"".join(zipfile.ZipFile(io.BytesIO(data)).read(n) for n in zip_names(data))


def zip_names(data: bytes) -> list[str]:
    return zipfile.ZipFile(io.BytesIO(data)).namelist()


def test_a_full_sheet_goes_on_in_another_and_memory_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spreadsheet, "MAX_ROWS", 3)
    rows_ = [(f"0{n}", "x" * 40_000, "19", "a\x01\ufffe") for n in range(7)]
    data = b"".join(spreadsheet.workbook_pieces(("id", "long", "study_date", "odd"), iter(rows_)))
    book = openpyxl.load_workbook(io.BytesIO(data))
    assert book.sheetnames == ["results", "results 2", "results 3"]
    found = [row for name in book.sheetnames for row in book[name].iter_rows(min_row=2, values_only=True)]
    assert [row[0] for row in found] == [row[0] for row in rows_]
    assert {len(row[1]) for row in found} == {spreadsheet.MAX_TEXT}
    assert {row[2] for row in found} == {"19"}  # no day: the text that it is
    monkeypatch.undo()
    tracemalloc.start()
    for _ in spreadsheet.workbook_pieces(("a", "b"), ((f"{n}", "text") for n in range(30_000))):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20


def test_a_csv_that_excel_reads(ask: Asker, browser: Browser, batch: str) -> None:
    plain = ask.get(f"/batches/{batch}/results.csv").data
    for address in (f"/batches/{batch}/results.csv?bom=true", f"/results?format=csv&batch={batch}&bom=true"):
        assert ask.get(address).data == codecs.BOM_UTF8 + plain
    with zipfile.ZipFile(io.BytesIO(fetch(ask, format="zip", batch=batch, bom=True))) as archive:
        assert archive.read("results.csv") == codecs.BOM_UTF8 + plain
    answer = browser.post("/downloads", format="csv", batch=batch, bom="true")
    assert answer.data == codecs.BOM_UTF8 + plain
    table = browser.post("/downloads", format="xlsx", batch=batch)
    assert "spreadsheetml" in table.content_type
    assert len(sheet_of(table.data)) == 5
    assert 'value="xlsx">Excel</button>' in browser.client.get(f"/batches/{batch}").text

"""What people take away: the CSV, and the ZIP that is made as it is sent."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import time
import zipfile
from typing import Any

from store.base.blobs import BlobStore
from store.base.cells import uncell
from store.base.session import session_scope
from store.base.tables import Image
from store.results import downloads
from store.results.results import RESULT_COLUMNS
from tests.reading import read_batch
from tests.web.asking import Asker, png, zipped
from tests.web.conftest import Process

EXACT = (
    "filename,status,reason,region,region_probability,finding,probability,triage,bundle,report,heatmap,sha256,"
    "image_id,study_id,accession,study_uid,sop_uid,study_date,laterality,view,study_triage,image_number,flags,"
    "family,low,high,age_years"
)


def rows(data: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(data.decode(), newline="")))


def finished(ask: Asker, *files: tuple[str, bytes], **how: Any) -> str:
    batch = ask.draft()
    ask.send(batch, *files)
    ask.post(f"/batches/{batch}/submit")
    read_batch(batch, **how)
    return batch


def unzip(data: bytes) -> tuple[zipfile.ZipFile, dict[str, Any]]:
    archive = zipfile.ZipFile(io.BytesIO(data))
    assert archive.testzip() is None
    return archive, json.loads(archive.read("manifest.json"))


def test_the_first_columns_are_exactly_these() -> None:
    assert ",".join(RESULT_COLUMNS) == EXACT


def test_one_line_an_uploaded_file(ask: Asker) -> None:
    archive = zipped({"z/3.png": png("3"), "../evil.png": png("4")})
    batch = finished(ask, ("a/1.png", png("1")), ("note.txt", b"hi"), ("z.zip", archive))
    answer = ask.get(f"/batches/{batch}/results.csv")
    assert answer.content_type == "text/csv; charset=utf-8"
    assert answer.text.splitlines()[0] == EXACT
    found = rows(answer.data)
    assert [row["filename"] for row in found] == ["a/1.png", "note.txt", "z/3.png", "../evil.png"]
    assert [row["status"] for row in found] == ["done", "rejected", "done", "rejected"]
    assert [row["reason"] for row in found] == ["", "not_an_image", "", "archive_unsafe_path"]
    first = found[0]
    image = ask.get(f"/images/{first['image_id']}").json
    assert first["sha256"] == hashlib.sha256(png("1")).hexdigest() == image["sha256"]
    assert first["region"] == "hand"
    assert float(first["probability"]) == round(image["probability"], 6)
    assert first["triage"] == image["triage"]
    words = {
        "positive": "fracture suspected",
        "doubt": "fracture in doubt",
        "negative": "no fracture suspected",
    }
    assert first["finding"] == words[first["triage"]]
    assert (first["report"], first["heatmap"]) == ("reports/a/1.pdf", "heatmaps/a/1.jpg")
    assert first["study_triage"] == "doubt"
    assert (found[1]["report"], found[1]["heatmap"], found[1]["finding"], found[1]["probability"]) == (
        "",
        "",
        "",
        "",
    )


def test_formulas_are_harmless_and_come_back(ask: Asker) -> None:
    names = ["=cmd|' /C calc'!A0.png", "-1.png", "plain.png", "'=x.png"]
    batch = finished(ask, *((name, png(name)) for name in names))
    text = ask.get(f"/batches/{batch}/results.csv")
    shown = [row["filename"] for row in rows(text.data)]
    assert shown == ["'=cmd|' /C calc'!A0.png", "'-1.png", "plain.png", "''=x.png"]
    assert [uncell(name) for name in shown] == names


def test_the_archive_holds_what_the_csv_says(ask: Asker) -> None:
    names = ["a/1.png", "A/1.jpg", "a/1.dcm", "../up.png", "con.png", "é.png"]
    batch = finished(
        ask, *((name, png(name)) for name in names), ("bad.txt", b"text"), fail=frozenset({"a/1.dcm"})
    )
    answer = ask.get(f"/batches/{batch}/results.zip")
    assert answer.content_type == "application/zip"
    assert (
        answer.headers["Content-Disposition"] == f'attachment; filename="fractureai-{batch[:8]}-results.zip"'
    )
    archive, manifest = unzip(answer.data)
    members = archive.namelist()
    assert members[0] == "results.csv"
    assert members[-1] == "manifest.json"
    assert len(members) == len({name.casefold() for name in members})
    assert archive.read("results.csv") == ask.get(f"/batches/{batch}/results.csv").data
    found = rows(archive.read("results.csv"))
    said = {name for row in found for name in (row["report"], row["heatmap"]) if name}
    assert said == {name for name in members if name.startswith(("reports/", "heatmaps/"))}
    assert members[-2] == "index.html"
    assert sum(name.startswith("heatmaps/") for name in members) == 5
    assert sum(name.startswith("reports/") for name in members) == 5
    assert found[3]["heatmap"] == "heatmaps/up.jpg"
    assert found[4]["heatmap"] == "heatmaps/_con.jpg"
    assert manifest["members"] == {
        name: hashlib.sha256(archive.read(name)).hexdigest() for name in members if name != "manifest.json"
    }
    assert manifest["complete"] is True
    assert manifest["counts"] == {
        "total": 7, "done": 5, "rejected": 1, "failed": 1, "cancelled": 0, "skipped": 0,
    }  # fmt: skip
    assert manifest["bundle"]["name"] == "b1"
    assert manifest["bundle"]["sha256"] == "0" * 64
    assert manifest["thresholds"] == {"hand": {"low": 0.2, "high": 0.7}}
    errors = rows(archive.read("errors.csv"))
    assert [(row["filename"], row["status"], row["reason"]) for row in errors] == [
        ("a/1.dcm", "failed", "worker_lost"),
        ("bad.txt", "rejected", "not_an_image"),
    ]
    assert all(row["sentence"] and row["advice"] for row in errors)


def test_one_report_a_study(ask: Asker) -> None:
    paths = [f"XR_HAND/patient00001/study1_positive/image{i}.png" for i in (1, 2)]
    batch = finished(ask, *((path, png(path)) for path in paths), ("other.png", png("o")))
    archive, _ = unzip(ask.get(f"/batches/{batch}/results.zip").data)
    found = rows(archive.read("results.csv"))
    assert found[0]["study_id"] == found[1]["study_id"] != found[2]["study_id"]
    assert found[0]["report"] == found[1]["report"] == f"reports/{paths[0].removesuffix('.png')}.pdf"
    assert [name for name in archive.namelist() if name.startswith("reports/")] == [
        found[0]["report"],
        "reports/other.pdf",
    ]


def test_a_batch_that_still_runs_gives_what_is_done(ask: Asker) -> None:
    batch = ask.draft()
    ask.send(batch, ("1.png", png("1")))
    ask.post(f"/batches/{batch}/submit")
    archive, manifest = unzip(ask.get(f"/batches/{batch}/results.zip").data)
    assert manifest["complete"] is False
    assert rows(archive.read("results.csv"))[0]["status"] == "queued"


def test_missing_bytes_are_named_and_the_rest_is_there(ask: Asker, blobs: BlobStore) -> None:
    batch = finished(ask, ("1.png", png("1")), ("2.png", png("2")))
    with session_scope() as session:
        blobs.delete(session.query(Image).filter_by(path="1.png").one().overlay_key)
    archive, manifest = unzip(ask.get(f"/batches/{batch}/results.zip").data)
    assert manifest["missing"] == ["heatmaps/1.jpg"]
    assert manifest["complete"] is False
    assert "heatmaps/2.jpg" in archive.namelist()


def test_the_first_byte_comes_before_the_first_row(ask: Asker, monkeypatch: Any) -> None:
    batch = finished(ask, ("1.png", png("1")))

    def never(*_: object) -> Any:
        raise AssertionError("asked for rows")
        yield

    monkeypatch.setattr(downloads, "iter_lines", never)
    for kind in ("csv", "zip"):
        answer = ask.get(f"/batches/{batch}/results.{kind}", buffered=False)
        assert next(answer.iter_encoded())
        answer.close()


def test_a_large_archive_leaves_the_memory_flat(process: Process, blobs: BlobStore) -> None:
    """A real server process sends 60 MB of heat maps; its memory stays where it was."""
    client = process.client
    batch = client.post("/batches", json={}).json()["id"]
    client.post(f"/batches/{batch}/files", files=[("files", (f"{i}.png", png(str(i)))) for i in range(30)])
    client.post(f"/batches/{batch}/submit")
    read_batch(batch)
    with session_scope() as session:
        for image in session.query(Image):
            blobs.put(image.overlay_key, bytes(image.seq % 256 for _ in range(1)) * (2 << 20))
    client.get(f"/batches/{batch}/results.csv")
    before = process.memory()
    started = time.monotonic()
    first, size, most = 0.0, 0, 0
    with client.stream("GET", f"/batches/{batch}/results.zip") as answer:
        for piece in answer.iter_raw():
            first = first or time.monotonic() - started
            size += len(piece)
            most = max(most, process.memory())
    assert size > 60 << 20
    assert first < 5
    assert most - before < 16 << 20, f"{(most - before) >> 20} MiB more"

"""A full store is told where people look: readiness, a batch's page and document, and a quiet log."""

from __future__ import annotations

import logging
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, func

from store.base import blobs as blob_module
from store.base import throttled_log
from store.base.errors import BlobFull
from store.base.session import session_scope
from store.base.tables import Batch, BatchMark
from tests.web.asking import Asker, Browser, png
from web.operations.health import missing_parts


@pytest.fixture
def reading(ask: Asker) -> str:
    """A batch that is read, and whose second chunk has passed every stage: so far it has a pace."""
    batch = ask.draft()
    ask.send(batch, ("1.png", png("1")), ("2.png", png("2")), ("3.png", png("3")))
    ask.post(f"/batches/{batch}/submit")
    with session_scope() as session:
        row = session.query(Batch).one()
        row.status, row.rate = "running", 0.5
        row.rate_at = func.now()
        row.s_prepare = row.s_classify = row.s_detect = row.s_explain = row.s_report = 2
        row.ms_prepare = row.ms_classify = row.ms_detect = row.ms_explain = row.ms_report = 2000
        at = func.now() - timedelta(seconds=10)
        session.add(BatchMark(batch_id=row.id, number=1, at=at, passed=[1] * 5, worked=[1000] * 5))
    return batch


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real disk, for which more room is wanted than any has; each asking asks anew."""
    monkeypatch.setattr(blob_module, "MIN_FREE", 1 << 62)
    monkeypatch.setattr(blob_module, "CHECK_SECONDS", 0.0)


def test_a_full_store_is_told(
    app: Any, ask: Asker, browser: Browser, reading: str, monkeypatch: pytest.MonkeyPatch, full: None
) -> None:
    assert missing_parts(app.extensions["settings"])["blobs"] == "storage_full"
    told = ask.get(f"/batches/{reading}")
    assert told.json["waits_for"]["code"] == "storage_full"
    assert told.json["eta_seconds"] is None
    page = browser.client.get(f"/batches/{reading}").text
    assert "No room is left on the server" in page
    assert " left</span>" not in page
    assert "estimating" not in page
    monkeypatch.setattr(blob_module, "MIN_FREE", 0)
    assert "blobs" not in missing_parts(app.extensions["settings"])
    again = ask.get(f"/batches/{reading}", headers={"If-None-Match": told.headers["ETag"]})
    assert again.status_code == 200, "what it waits for is part of what the tag names"
    assert again.json["waits_for"] is None
    assert again.json["eta_seconds"] in range(100)
    assert again.json["time_left"] in browser.client.get(f"/batches/{reading}").text
    with session_scope() as session:
        session.execute(delete(BatchMark))
    assert ask.get(f"/batches/{reading}").json["time_left"] is None
    assert "estimating the time left" in browser.client.get(f"/batches/{reading}").text


def test_a_store_that_takes_nothing_is_told(
    app: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blob_module, "CHECK_SECONDS", 0.0)
    (tmp_path / "blobs").rename(tmp_path / "away")
    (tmp_path / "blobs").write_text("a file in the folder's place")
    assert missing_parts(app.extensions["settings"])["blobs"] == "storage_unavailable"


def test_the_log_is_not_filled(
    ask: Asker, reading: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def takes_nothing(*_: object, **__: object) -> None:
        raise BlobFull

    monkeypatch.setattr(type(blob_module.get_blobs().group()), "put", takes_nothing)
    monkeypatch.setattr(throttled_log, "_told", {})
    batch = ask.draft()
    for _ in range(20):
        assert ask.send(batch, ("1.png", png("1"))).status_code == 507
    told = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(told) == 1, "one line a minute"


def test_no_room_for_a_temporary_file_is_told_as_such(
    app: Any, ask: Asker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manifest lies in a temporary file while it is read: /dev/full takes the place of a full disk."""
    monkeypatch.setattr(
        "web.intake.uploads.tempfile.TemporaryFile",
        lambda: open("/dev/full", "r+b", buffering=0),  # noqa: SIM115
    )
    batch = ask.draft()
    answer = ask.send(batch, ("1.png", png("1")), manifest=b"path,accession\n1.png,A1\n")
    assert (answer.status_code, answer.json["code"]) == (507, "storage_full")

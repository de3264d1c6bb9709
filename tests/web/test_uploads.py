"""Taking files in: formats, archives, limits, repetition, manifests, broken connections, full disks."""

from __future__ import annotations

import gc
import hashlib
import io
import os
import time
import unicodedata
import uuid
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url, select, text

from settings import get_settings
from store.base import session as session_module
from store.base.blobs import BlobStore, FolderStore
from store.base.errors import BlobFull
from store.base.sealed_blobs import get_opened
from store.base.session import session_scope
from store.base.tables import Image
from store.intake import uploads
from store.operations.fsck import check
from tests.faults.proxy import Connection, FaultyLine
from tests.web.asking import JPEG, PNG, Asker, Browser, png, zipped
from tests.web.conftest import Process
from tests.web.test_api import problem
from tests.web.test_resumable import TUS, append
from tests.web.test_resumable import announce as announce_upload


def statuses(answer: Any) -> dict[str, str]:
    assert answer.status_code == 200, answer.text
    return {f["filename"]: f["reason"]["code"] if f["reason"] else f["status"] for f in answer.json["files"]}


def announce(ask: Asker, batch: str, name: str, length: int) -> str:
    return str(announce_upload(ask, batch, name, length).headers["Location"])


def kept(blobs: BlobStore) -> list[str]:
    return list(blobs.keys("incoming/"))


def test_good_and_bad_files_in_one_request(ask: Asker, blobs: BlobStore) -> None:
    batch = ask.draft()
    answer = ask.send(
        batch,
        ("ward 3/hand.png", PNG),
        ("b.jpg", JPEG),
        ("scan.dcm", b"\0" * 128 + b"DICM" + b"\0" * 20),
        ("empty.png", b""),
        ("page.png", b"<html><script>alert(1)</script>"),
        ("x.gif", b"GIF89a"),
        (".DS_Store", b"x"),
    )
    assert statuses(answer) == {
        "ward 3/hand.png": "accepted",
        "b.jpg": "accepted",
        "scan.dcm": "accepted",
        "empty.png": "empty_file",
        "page.png": "not_an_image",
        "x.gif": "not_an_image",
        ".DS_Store": "skipped",
    }
    assert answer.json["counts"] == {"accepted": 3, "rejected": 3, "skipped": 1, "duplicate": 0, "total": 7}
    first = answer.json["files"][0]
    assert (first["sha256"], first["size"]) == (hashlib.sha256(PNG).hexdigest(), len(PNG))
    assert len(kept(blobs)) == 3
    counts = ask.get(f"/batches/{batch}").json["counts"]
    assert (counts["total"], counts["uploaded"], counts["rejected"]) == (6, 3, 3)
    with session_scope() as session:
        image = session.scalars(select(Image).where(Image.path == "ward 3/hand.png")).one()
        assert get_opened(image.incoming_key) == PNG


def test_sending_again_changes_nothing(ask: Asker, blobs: BlobStore) -> None:
    batch = ask.draft()
    first = ask.send(batch, ("a.png", png("1")), ("t.txt", b"x"))
    again = ask.send(batch, ("a.png", png("1")), ("t.txt", b"x"))
    assert [f["status"] for f in again.json["files"]] == ["duplicate", "duplicate"]
    assert [f["image_id"] for f in again.json["files"]] == [f["image_id"] for f in first.json["files"]]
    assert ask.get(f"/batches/{batch}").json["counts"]["total"] == 2
    assert len(kept(blobs)) == 1
    assert statuses(ask.send(batch, ("a.png", png("other bytes")))) == {"a.png": "accepted"}


def test_an_archives_members_stand_beside_the_files(ask: Asker, blobs: BlobStore) -> None:
    batch = ask.draft()
    inner = zipped({"x.png": PNG})
    answer = ask.send(
        batch,
        (
            "not called zip",
            zipped({"in/1.png": png("1"), "../evil.png": PNG, "inner.zip": inner, "r.txt": b"hi"}),
        ),
        ("2.png", png("2")),
        ("broken.zip", zipped({"a.png": PNG})[:40]),
    )
    assert statuses(answer) == {
        "in/1.png": "accepted",
        "../evil.png": "archive_unsafe_path",
        "inner.zip": "archive_nested",
        "r.txt": "not_an_image",
        "2.png": "accepted",
        "broken.zip": "archive_corrupt",
    }
    assert len(kept(blobs)) == 2


def test_a_member_that_breaks_off_leaves_no_bytes(ask: Asker, blobs: BlobStore) -> None:
    data = bytearray(zipped({"bad.png": PNG * 100, "good.png": PNG}, compression=zipfile.ZIP_STORED))
    data[data.index(PNG) + 200] ^= 0xFF
    assert statuses(ask.send(ask.draft(), ("a.zip", bytes(data)))) == {
        "bad.png": "archive_corrupt",
        "good.png": "accepted",
    }
    assert len(kept(blobs)) == 1


@pytest.fixture
def small(settings_env: pytest.MonkeyPatch) -> None:
    settings_env.setenv("FRACTUREAI_MAX_FILE_BYTES", "5000")
    settings_env.setenv("FRACTUREAI_MAX_REQUEST_BYTES", "20000")
    settings_env.setenv("FRACTUREAI_MAX_ARCHIVE_MEMBERS", "3")


def test_a_form_of_600_kb_leaves_no_file_open(ask: Asker) -> None:
    batch = ask.draft()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert statuses(ask.send(batch, ("large.png", png("x" * 600_000)))) == {"large.png": "accepted"}
        gc.collect()
    assert not [warning.message for warning in told if warning.category is ResourceWarning]


def test_limits(small: None, ask: Asker, blobs: BlobStore) -> None:
    batch = ask.draft()
    big = png("x" * 5000)
    answer = ask.send(batch, ("big.png", big), ("small.png", PNG))
    assert statuses(answer) == {"big.png": "file_too_large", "small.png": "accepted"}
    assert answer.json["files"][0]["sha256"] == hashlib.sha256(big).hexdigest()
    many = zipped({f"{i}.png": png(str(i)) for i in range(4)})
    assert statuses(ask.send(batch, ("many.zip", many))) == {"many.zip": "archive_too_many"}
    problem(ask.send(batch, ("huge.png", png("x" * 30000))), 413, "request_entity_too_large")
    many_files = [(f"{i}.png", png(str(i))) for i in range(4)]
    problem(ask.send(batch, *many_files), 413, "request_entity_too_large")
    assert len(kept(blobs)) == 4  # what came before the limit is kept, and said to be there when sent again
    assert statuses(ask.send(batch, *many_files[:3])) == dict.fromkeys(
        ("0.png", "1.png", "2.png"), "duplicate"
    )


def test_what_is_no_form(ask: Asker) -> None:
    batch = ask.draft()
    path = f"/batches/{batch}/files"
    problem(ask.post(path, json={}), 415, "unsupported_media_type")
    problem(ask.post(path, data=b"x", content_type="multipart/form-data"), 415, "unsupported_media_type")
    problem(ask.post(path, data=b"x", content_type="multipart/form-data; boundary=b"), 400, "malformed_form")
    problem(ask.post(path, data={"file": (io.BytesIO(PNG), "a.png")}), 422, "invalid_request")
    problem(
        ask.post(path, data={"files": "text"}, content_type="multipart/form-data"), 422, "invalid_request"
    )


def test_a_connection_that_breaks_off_keeps_what_arrived(ask: Asker) -> None:
    batch = ask.draft()
    part = b'--b\r\nContent-Disposition: form-data; name="files"; filename="%s"\r\n\r\n'
    body = part % b"1.png" + png("1") + b"\r\n" + part % b"2.png" + png("2")
    answer = ask.post(f"/batches/{batch}/files", data=body, content_type="multipart/form-data; boundary=b")
    problem(answer, 400, "malformed_form")
    again = ask.send(batch, ("1.png", png("1")), ("2.png", png("2")))
    assert statuses(again) == {"1.png": "duplicate", "2.png": "accepted"}


def test_names_are_kept_as_sent_but_cannot_hurt(ask: Asker) -> None:
    batch = ask.draft()
    names = ["../up.png", "/root.png", "C:\\x.png", "Müller, Jürgen.png", "日本.png", "x" * 3000 + ".png"]
    answer = ask.send(batch, *((name, png(str(i))) for i, name in enumerate(names)))
    shown = [f["filename"] for f in answer.json["files"]]
    assert shown[:2] == names[:2]
    assert shown[3:5] == names[3:5]
    assert len(shown[5]) == 1024
    assert all(f["status"] == "accepted" for f in answer.json["files"])


def test_nothing_of_a_name_is_logged(ask: Asker, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(0):
        batch = ask.draft()
        ask.send(batch, ("Secretname.png", PNG), ("Secretname.txt", b"x"), ("Secretname.zip", b"PK\x03\x04"))
        ask.get(f"/batches/{batch}/results.csv")
    assert "Secretname" not in caplog.text


def test_a_manifest_reaches_its_images(ask: Asker) -> None:
    batch = ask.draft()
    manifest = b"path,accession,laterality\na.png,A17,left\nz/b.png,A18,R\n"
    answer = ask.send(batch, ("a.png", png("1")), ("x.zip", zipped({"z/b.png": png("2")})), manifest=manifest)
    assert answer.status_code == 200
    images = ask.get(f"/batches/{batch}/images").json["items"]
    assert [(i["accession"], i["laterality"]) for i in images] == [("A17", "L"), ("A18", "R")]


def test_a_bad_manifest_is_told_by_line_and_loses_nothing(ask: Asker) -> None:
    batch = ask.draft()
    answer = ask.send(batch, ("a.png", png("1")), manifest=b"path,priority\na.png,soon\n")
    body = problem(answer, 422, "manifest_invalid")
    assert body["errors"] == [{"line": 2, "message": "priority must be urgent, normal, low or empty"}]
    assert ask.get(f"/batches/{batch}").json["counts"]["uploaded"] == 1


APART = unicodedata.normalize("NFD", "Hüfte.png")
UNLIKE = (
    f"path,accession,laterality\nward/{unicodedata.normalize('NFC', APART)},A1,L\n"
    "B.PNG,A2,R\nother/c.png,A3,L\n"
)


def test_a_manifest_written_otherwise_meets_its_files(ask: Asker, browser: Browser) -> None:
    batch = ask.draft()
    files = (f"ward/{APART}", "b.png", "in/c.png", "d.png", "notes.txt")
    manifest = (UNLIKE + "e.png,A5,L\n").encode()
    ask.send(
        batch, *((name, png(name) if name.endswith("png") else b"no") for name in files), manifest=manifest
    )
    assert ask.get(f"/batches/{batch}/unmatched.csv").json["code"] == "wrong_state"
    refused = problem(ask.post(f"/batches/{batch}/submit", json={"strict": True}), 409, "manifest_unmatched")
    assert "1 line ('e.png')" in refused["detail"]
    assert "1 file ('d.png')" in refused["detail"]
    assert ask.get(f"/batches/{batch}").json["status"] == "draft"
    told = ask.post(f"/batches/{batch}/submit", json={"strict": False})
    assert told.json["manifest"] == {"rows": 4, "rows_without_file": 1, "files_without_row": 1}
    images = ask.get(f"/batches/{batch}/images").json["items"]
    assert [(i["accession"], i["laterality"]) for i in images] == [
        ("A1", "L"), ("A2", "R"), ("A3", "L"), ("", ""), ("", ""),
    ]  # fmt: skip
    listed = ask.get(f"/batches/{batch}/unmatched.csv").text.splitlines()
    assert listed == ["what,path", "line without a file,e.png", "file without a line,d.png"]
    page = browser.client.get(f"/batches/{batch}").text
    assert "1 met no file, and 1 files met no line" in page
    assert f"/api/v1/batches/{batch}/unmatched.csv" in page


def test_a_manifest_that_matches_may_be_strict(ask: Asker, browser: Browser) -> None:
    batch = ask.draft()
    ask.send(batch, ("a.png", png("1")), manifest=b"path,accession\na.png,A1\n")
    assert ask.post(f"/batches/{batch}/submit", json={"strict": 1}).json["code"] == "invalid_request"
    told = ask.post(f"/batches/{batch}/submit", json={"strict": True}).json
    assert (told["status"], told["manifest"]["rows_without_file"]) == ("queued", 0)
    assert "met no file" not in browser.client.get(f"/batches/{batch}").text
    plain = ask.draft()
    ask.send(plain, ("a.png", png("1")))
    assert ask.post(f"/batches/{plain}/submit", json={"strict": True}).json["manifest"] is None


def test_a_full_store_is_told_and_nothing_half_is_kept(
    ask: Asker, blobs: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(blobs, FolderStore)
    batch = ask.draft()
    group = type(blobs.group())
    put, taken = group.put, []

    def full(self: Any, key: str, data: Any) -> tuple[str, int]:
        if taken:
            raise BlobFull
        taken.append(key)
        return put(self, key, data)

    monkeypatch.setattr(group, "put", full)
    problem(ask.send(batch, ("1.png", png("1")), ("2.png", png("2"))), 507, "storage_full")
    monkeypatch.undo()
    assert ask.get(f"/batches/{batch}").json["counts"]["total"] == 1


def test_a_submit_in_mid_upload_is_told(ask: Asker, blobs: BlobStore) -> None:
    batch = ask.draft()
    ask.send(batch, ("1.png", png("1")))
    with session_scope() as session:
        session.execute(text("UPDATE batches SET status = 'queued'"))
    problem(ask.send(batch, ("2.png", png("2"))), 409, "batch_not_draft")
    assert len(kept(blobs)) == 1


def test_many_members_cost_many_rows_and_little_memory(process: Process, tmp_path: Path) -> None:
    """A real server process takes 80 MB in one request and 501 members; its memory stays where it was."""
    archive = tmp_path / "many.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("large.png", PNG + os.urandom(48 << 20))
        for i in range(500):
            file.writestr(f"{i}.png", png(str(i)))
    plain = tmp_path / "plain.png"
    plain.write_bytes(PNG + os.urandom(32 << 20))
    batch = process.client.post("/batches", json={}).json()["id"]
    path = f"/batches/{batch}/files"
    process.client.post(path, files=[("files", ("first.png", png("first")))])
    before = process.memory()
    with archive.open("rb") as one, plain.open("rb") as two:
        files = [("files", ("many.zip", one)), ("files", ("plain.png", two))]
        answer = process.client.post(path, files=files)
    assert answer.json()["counts"]["accepted"] == 502
    grown = process.memory() - before
    assert grown < 24 << 20, f"{grown >> 20} MiB more"


class BreakingCommit(FaultyLine):
    """A line to Postgres that breaks after a commit of new images, before the client hears of it."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(host, port)
        self.armed = True
        self.writing: set[Connection] = set()

    def passed(self, connection: Connection, piece: bytes, *, answer: bool) -> bool:
        if b"INSERT INTO images" in piece or b"UPDATE uploads" in piece:
            self.writing.add(connection)
        if answer or not self.armed or connection not in self.writing or b"COMMIT" not in piece:
            return True
        self.armed = False
        assert b"COMMIT" in connection.server.recv(self.PIECE)
        return False


@pytest.fixture
def breaking(ask: Asker, settings_env: pytest.MonkeyPatch) -> Iterator[BreakingCommit]:
    url = make_url(get_settings().database_url)
    with BreakingCommit(url.host or "", url.port or 5432) as line:
        host, port = line.address.split(":")
        session_module.get_engine().dispose()
        settings_env.setattr(session_module, "_engine", None)
        settings_env.setenv(
            "FRACTUREAI_DATABASE_URL",
            url.set(host=host, port=int(port)).render_as_string(hide_password=False),
        )
        get_settings.cache_clear()
        yield line
        session_module.get_engine().dispose()


def test_files_whose_commit_was_not_acknowledged_are_kept(
    ask: Asker, blobs: BlobStore, breaking: BreakingCommit
) -> None:
    breaking.armed = False
    batch = ask.draft()
    breaking.armed = True
    problem(ask.send(batch, ("1.png", png("1"))), 503, "database_unavailable")
    assert not breaking.armed, "the commit was cut"
    assert statuses(ask.send(batch, ("1.png", png("1")))) == {"1.png": "duplicate"}
    with session_scope() as session:
        image = session.scalars(select(Image)).one()
    assert get_opened(image.incoming_key or "") == png("1")
    assert kept(blobs) == [image.incoming_key]


def test_a_piece_whose_commit_was_not_acknowledged_is_kept(
    ask: Asker, blobs: BlobStore, breaking: BreakingCommit
) -> None:
    breaking.armed = False
    batch = ask.draft()
    address = announce(ask, batch, "large.png", len(png("1")))
    breaking.armed = True
    problem(append(ask, address, 0, png("1")), 503, "database_unavailable")
    assert not breaking.armed, "the commit was cut"
    assert ask("HEAD", address, headers=TUS).headers["Upload-Offset"] == str(len(png("1")))
    assert statuses(ask.post(f"{address}/take", json={})) == {"large.png": "accepted"}
    with session_scope() as session:
        image = session.scalars(select(Image)).one()
    assert get_opened(image.incoming_key or "") == png("1")


def test_uploads_that_no_row_names_are_found(
    ask: Asker, blobs: BlobStore, settings_env: pytest.MonkeyPatch
) -> None:
    batch = ask.draft()
    ask.send(batch, ("1.png", png("1")))
    blobs.put(f"incoming/{batch}/{uuid.uuid4()}", b"its rows were rolled back")
    blobs.put(f"incoming/{uuid.uuid4()}/{uuid.uuid4()}", b"its batch is gone")
    uploads.delete_expired()
    assert len(kept(blobs)) == 3, "a request may be about to name them"
    settings_env.setenv("FRACTUREAI_SCRATCH_KEEP_SECONDS", "0")
    get_settings.cache_clear()
    uploads.delete_expired()
    with session_scope() as session:
        assert kept(blobs) == [session.scalars(select(Image.incoming_key)).one()]


def test_an_upload_that_outlived_its_batch_needs_no_day(ask: Asker, blobs: BlobStore, tmp_path: Path) -> None:
    batch, draft = ask.draft(), ask.draft()
    ask.post(f"/batches/{batch}/cancel")
    for owner in (batch, draft):
        key = f"incoming/{owner}/{uuid.uuid4()}"
        blobs.put(key, b"left by a worker that died")
        two_hours_ago = time.time() - 7200
        os.utime(tmp_path / "blobs" / key, (two_hours_ago, two_hours_ago))
    uploads.delete_expired()
    assert [key.split("/")[1] for key in kept(blobs)] == [draft], "a request may be about to name a draft's"


def test_a_drafts_files_go_when_it_is_cancelled(ask: Asker, blobs: BlobStore) -> None:
    batch, other = ask.draft(), ask.draft()
    ask.send(batch, ("1.png", png("1")), ("2.png", png("2")))
    ask.send(other, ("3.png", png("3")))
    append(ask, announce(ask, batch, "large.png", 900), 0, png("1"))
    assert ask.post(f"/batches/{batch}/cancel").status_code == 202
    assert [key.split("/")[1] for key in kept(blobs)] == [other]
    assert not list(blobs.keys("uploads/"))
    assert check().clean

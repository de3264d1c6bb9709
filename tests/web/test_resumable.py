"""Uploads that go on where they broke off: known files, quotas, and large files in pieces by tus 1.0."""

from __future__ import annotations

import base64
import hashlib
import io
import time
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import text, update
from sqlalchemy.orm import Session

from store.base.blobs import BlobStore
from store.base.sealed_blobs import get_opened
from store.base.session import session_scope
from store.base.tables import Batch, Site, Upload
from store.intake import quotas, uploads
from store.operations.fsck import check
from tests.web.asking import Asker, png, zipped
from tests.web.conftest import Process

TUS = {"Tus-Resumable": "1.0.0"}


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def announce(ask: Asker, batch: str, name: str, length: int, **headers: str) -> Any:
    metadata = f"filename {base64.b64encode(name.encode()).decode()},filetype"
    sent = {**TUS, "Upload-Length": str(length), "Upload-Metadata": metadata, **headers}
    return ask.post(f"/batches/{batch}/uploads", headers=sent)


def append(ask: Asker, address: str, offset: int, data: bytes, **headers: str) -> Any:
    sent = {**TUS, "Upload-Offset": str(offset), **headers}
    kind = "application/offset+octet-stream"
    return ask("PATCH", address, headers=sent, data=data, content_type=kind)


def test_only_this_drafts_files_are_known(ask: Asker, stranger: Asker) -> None:
    batch, other = ask.draft(), ask.draft()
    ask.send(batch, ("a/1.png", png("1")), ("note.txt", b"text"))
    ask.send(other, ("2.png", png("2")))
    asked = {
        "files": [
            {"filename": name, "sha256": sha(data)}
            for name, data in (
                ("a/1.png", png("1")), ("note.txt", b"text"), ("2.png", png("2")), ("a/1.png", png("3")),
                ("moved.png", png("1")),
            )
        ]
    }  # fmt: skip
    found = ask.post(f"/batches/{batch}/known", json=asked).json["files"]
    assert {(f["filename"], f["status"]) for f in found} == {
        ("a/1.png", "accepted"),
        ("note.txt", "rejected"),
    }
    assert next(f for f in found if f["status"] == "rejected")["reason"]["code"] == "not_an_image"
    theirs = stranger.draft()
    assert stranger.post(f"/batches/{theirs}/known", json=asked).json["files"] == []
    assert stranger.post(f"/batches/{batch}/known", json=asked).status_code == 404
    ask.post(f"/batches/{batch}/submit")
    assert ask.post(f"/batches/{batch}/known", json=asked).json["code"] == "batch_not_draft"


@pytest.mark.parametrize(
    "body",
    [{"files": 1}, {"files": [{"filename": "a", "sha256": "x"}]}, {"files": [1]}, {"bytes": -1}, {"x": 1},
     {"files": [{"filename": "a", "sha256": "0" * 64}] * 501}],
)  # fmt: skip
def test_a_question_that_makes_no_sense_is_refused(ask: Asker, body: Any) -> None:
    assert ask.post(f"/batches/{ask.draft()}/known", json=body).json["code"] == "invalid_request"


def limited(batch: str, n_bytes: int) -> None:
    with session_scope() as session:
        site_id = session.get_one(Batch, uuid.UUID(batch)).site_id
        session.execute(update(Site).where(Site.id == site_id).values(quota_bytes=n_bytes))


def used(batch: str) -> int:
    with session_scope() as session:
        return quotas.quota(session, session.get_one(Batch, uuid.UUID(batch)).site_id).used


def chunked(ask: Asker, batch: str, *files: tuple[str, bytes]) -> Any:
    """Send files in a body that does not say how long it is."""
    head = '--b\r\nContent-Disposition: form-data; name="files"; filename="%s"\r\n\r\n'
    body = b"".join((head % name).encode() + data + b"\r\n" for name, data in files) + b"--b--\r\n"
    return ask.post(
        f"/batches/{batch}/files",
        input_stream=io.BytesIO(body),
        content_type="multipart/form-data; boundary=b",
        headers={"Transfer-Encoding": "chunked"},
        environ_overrides={"wsgi.input_terminated": True},
    )


def test_a_quota_counts_what_arrives_whatever_was_announced(ask: Asker, blobs: BlobStore) -> None:
    batch = ask.draft()
    limited(batch, 500_000)
    files = [(f"{n}.png", png(str(n) * 100_000)) for n in range(10)]
    refused = chunked(ask, batch, *files)
    assert (refused.status_code, refused.json["code"]) == (507, "quota_exceeded")
    assert len(list(blobs.keys("incoming/"))) == 4, "what fits is kept"
    assert used(batch) <= 500_000
    assert chunked(ask, batch, *files[:4]).json["counts"]["duplicate"] == 4  # sent again it costs nothing
    limited(batch, 450_000)
    flat = zipped({f"{n}.png": png("x" * 100_000) + b"%d" % n for n in range(5)}, compression=8)
    assert len(flat) < 5000
    refused = ask.send(batch, ("flat.zip", flat))
    assert (refused.status_code, refused.json["code"]) == (507, "quota_exceeded")
    assert used(batch) <= 450_000
    address = announce(ask, batch, "flat.zip", len(flat)).headers["Location"]
    assert append(ask, address, 0, flat).status_code == 204
    assert ask.post(f"{address}/take", json={}).json["code"] == "quota_exceeded"
    limited(batch, 2_000_000)
    assert ask.post(f"{address}/take", json={}).json["counts"]["accepted"] == 5


def test_uploads_at_once_do_not_all_fit_into_what_is_left(
    app: Any, site_key: str, blobs: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Asker(app.test_client(use_cookies=False), site_key)
    drafts = [first.draft() for _ in range(8)]  # one each: into one batch they go one after the other
    batch = drafts[0]
    limited(batch, 350_000)
    count = quotas.quota

    def slowly(session: Session, site_id: uuid.UUID) -> quotas.Quota:
        found = count(session, site_id)
        time.sleep(0.2)  # whoever holds no lock counts meanwhile
        return found

    monkeypatch.setattr(quotas, "quota", slowly)

    def send(n: int) -> int:
        ask = Asker(app.test_client(use_cookies=False), site_key)
        return int(ask.send(drafts[n], (f"{n}.png", png(str(n) * 100_000))).status_code)

    with ThreadPoolExecutor(8) as pool:
        codes = list(pool.map(send, range(8)))
    assert Counter(codes) == {200: 3, 507: 5}
    assert used(batch) <= 350_000
    assert len(list(blobs.keys("incoming/"))) == 3


def test_a_quota_refuses_before_the_bytes(ask: Asker, stranger: Asker, blobs: BlobStore) -> None:
    batch = ask.draft()
    limited(batch, 5000)
    assert ask.post(f"/batches/{batch}/known", json={"bytes": 5000}).status_code == 200
    refused = ask.post(f"/batches/{batch}/known", json={"bytes": 5001})
    assert (refused.status_code, refused.json["code"]) == (507, "quota_exceeded")
    assert "5000" in refused.json["detail"]
    assert ask.send(batch, ("big.png", png("x" * 6000))).json["code"] == "quota_exceeded"
    assert announce(ask, batch, "big.zip", 5001).json["code"] == "quota_exceeded"
    first, second, third = (announce(ask, batch, f"{n}.zip", 3000).headers["Location"] for n in range(3))
    assert append(ask, first, 0, b"x" * 3000).status_code == 204  # what has arrived counts
    refused = append(ask, second, 0, b"x" * 2500)
    assert (refused.status_code, refused.json["code"]) == (507, "quota_exceeded")
    assert append(ask, second, 0, b"x" * 1500).status_code == 204
    assert append(ask, third, 0, b"x" * 501).json["code"] == "quota_exceeded"
    assert len(list(blobs.keys("uploads/"))) == 2
    assert ask("DELETE", first, headers=TUS).status_code == 204
    assert append(ask, third, 0, b"x" * 501).status_code == 204
    assert stranger.send(stranger.draft(), ("big.png", png("x" * 6000))).status_code == 200


def test_a_zip_in_pieces(ask: Asker, blobs: BlobStore) -> None:
    batch = ask.draft()
    data = zipped({"a/1.png": png("1"), "a/2.png": png("2"), "note.txt": b"text"})
    answer = announce(ask, batch, "all.zip", len(data))
    assert (answer.status_code, answer.headers["Tus-Resumable"]) == (201, "1.0.0")
    assert answer.headers["Upload-Expires"]
    address = answer.headers["Location"]
    assert ask.post(f"{address}/take", json={}).json["code"] == "upload_incomplete"
    for offset in range(0, len(data), 100):
        piece = data[offset : offset + 100]
        answer = append(ask, address, offset, piece)
        assert (answer.status_code, answer.headers["Upload-Offset"]) == (204, str(offset + len(piece)))
    head = ask("HEAD", address, headers=TUS)
    assert (head.headers["Upload-Offset"], head.headers["Upload-Length"]) == (str(len(data)),) * 2
    assert head.headers["Cache-Control"] == "no-store"
    assert check().clean
    taken = ask.post(f"{address}/take", json={}).json
    assert [(f["filename"], f["status"]) for f in taken["files"]] == [
        ("a/1.png", "accepted"), ("a/2.png", "accepted"), ("note.txt", "rejected"),
    ]  # fmt: skip
    assert ask("HEAD", address, headers=TUS).status_code == 404
    assert not list(blobs.keys("uploads/"))
    assert ask.get(f"/batches/{batch}").json["counts"]["total"] == 3


def test_a_single_picture_in_pieces(ask: Asker, blobs: BlobStore) -> None:
    batch = ask.draft()
    data = png("x" * 500)
    address = announce(ask, batch, "ward/big.png", len(data)).headers["Location"]
    append(ask, address, 0, data)
    assert not [key for key in blobs.keys("uploads/") if b"x" * 100 in blobs.get(key)]
    assert ask.post(f"{address}/take", json={}).json["files"][0]["filename"] == "ward/big.png"
    assert not [key for key in blobs.keys("incoming/") if b"x" * 100 in blobs.get(key)]
    assert [get_opened(key) for key in blobs.keys("incoming/")] == [data]


def test_the_protocol_is_kept(ask: Asker, stranger: Asker, blobs: BlobStore) -> None:
    batch = ask.draft()
    options = ask("OPTIONS", f"/batches/{batch}/uploads")
    assert options.headers["Tus-Version"] == "1.0.0"
    assert set(options.headers["Tus-Extension"].split(",")) == {"creation", "expiration", "termination"}
    most = int(options.headers["Tus-Max-Size"])
    assert announce(ask, batch, "a.zip", most + 1).status_code == 413
    old = announce(ask, batch, "a.zip", 10, **{"Tus-Resumable": "0.2.2"})
    assert (old.status_code, old.headers["Tus-Version"]) == (412, "1.0.0")
    assert announce(ask, batch, "a.zip", 10, **{"Upload-Length": "ten"}).status_code == 422
    assert announce(ask, batch, "a.zip", 10, **{"Upload-Metadata": "filename ###"}).status_code == 422
    address = announce(ask, batch, "a.zip", 10).headers["Location"]
    assert ask("PATCH", address, headers={**TUS, "Upload-Offset": "0"}, data=b"x").status_code == 415
    assert append(ask, address, 5, b"12345").json["code"] == "offset_conflict"
    assert append(ask, address, 0, b"12345678901").json["code"] == "offset_conflict"
    assert append(ask, address, 0, b"12345").status_code == 204
    assert append(ask, address, 0, b"12345").json["code"] == "offset_conflict"
    assert len(list(blobs.keys("uploads/"))) == 1
    for answer in (
        stranger("HEAD", address, headers=TUS),
        append(stranger, address, 5, b"x"),
        stranger("DELETE", address, headers=TUS),
        stranger.post(f"{address}/take", json={}),
    ):
        assert answer.status_code == 404
    assert ask("DELETE", address, headers=TUS).status_code == 204
    assert ask("HEAD", address, headers=TUS).status_code == 404
    assert not list(blobs.keys("uploads/"))


def test_what_nobody_goes_on_with_expires(ask: Asker, blobs: BlobStore) -> None:
    address = announce(ask, ask.draft(), "a.zip", 10).headers["Location"]
    append(ask, address, 0, b"12345")
    with session_scope() as session:
        session.execute(update(Upload).values(expires_at=text("now() - interval '1 second'")))
    assert ask("HEAD", address, headers=TUS).status_code == 404
    assert append(ask, address, 5, b"12345").status_code == 404
    uploads.delete_expired()
    assert not list(blobs.keys("uploads/"))
    with session_scope() as session:
        assert session.query(Upload).count() == 0


def test_a_piece_that_breaks_off_is_kept_as_far_as_it_came(process: Process) -> None:
    """A real server: the connection is cut in the middle of a piece, and HEAD says what arrived."""
    import socket

    client = process.client
    batch = client.post("/batches", json={}).json()["id"]
    sent = {**TUS, "Upload-Length": str(4 << 20)}
    address = client.post(f"/batches/{batch}/uploads", headers=sent).headers["Location"]
    key = client.headers["Authorization"]
    with socket.create_connection((client.base_url.host, client.base_url.port)) as raw:
        raw.sendall(
            f"PATCH {address} HTTP/1.1\r\nHost: x\r\nAuthorization: {key}\r\nTus-Resumable: 1.0.0\r\n"
            f"Upload-Offset: 0\r\nContent-Type: application/offset+octet-stream\r\n"
            f"Content-Length: {4 << 20}\r\n\r\n".encode()
        )
        raw.sendall(bytes(1 << 20))
    path = address.removeprefix("/api/v1")
    for _ in range(300):
        offset = int(client.head(path, headers=TUS).headers["Upload-Offset"])
        if offset:
            break
    assert 0 < offset <= 1 << 20
    rest = {**TUS, "Upload-Offset": str(offset), "Content-Type": "application/offset+octet-stream"}
    answer = client.patch(path, headers=rest, content=bytes((4 << 20) - offset))
    assert (answer.status_code, answer.headers["Upload-Offset"]) == (204, str(4 << 20))


def test_a_large_file_leaves_the_memory_flat(process: Process) -> None:
    client = process.client
    batch = client.post("/batches", json={}).json()["id"]
    buffer = io.BytesIO(zipped({f"{n}.png": png(str(n)) + bytes(4 << 20) for n in range(30)}))
    data = buffer.getvalue()
    sent = {**TUS, "Upload-Length": str(len(data)), "Upload-Metadata": "filename YS56aXA="}
    path = client.post(f"/batches/{batch}/uploads", headers=sent).headers["Location"].removeprefix("/api/v1")
    before, most = process.memory(), 0
    for offset in range(0, len(data), 32 << 20):
        headers = {**TUS, "Upload-Offset": str(offset), "Content-Type": "application/offset+octet-stream"}
        client.patch(path, headers=headers, content=data[offset : offset + (32 << 20)])
        most = max(most, process.memory())
    taken = client.post(f"{path}/take", json={})
    assert taken.json()["counts"]["accepted"] == 30
    most = max(most, process.memory())
    assert most - before < 24 << 20, f"{(most - before) >> 20} MiB more"

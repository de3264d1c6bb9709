"""A line that is cut again and again: large uploads and prepared files go on where they stopped."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select as rows

from cli.client import PIECE_BYTES, Client
from cli.local_files import GROUP_BYTES, find_files
from cli.upload import upload
from store.base.blobs import BlobStore
from store.base.session import session_scope
from store.base.tables import Export, Image
from tests.faults.proxy import Connection, FaultyLine
from tests.web.asking import Asker
from tests.web.conftest import app, ask
from tests.web.serving import Serving, serving, site_key
from tests.web.test_downloads import batch, make

__all__ = ["app", "ask", "batch", "serving", "site_key"]

pytestmark = pytest.mark.faults


class CutLine(FaultyLine):
    """Resets its first connections after so many bytes each, whichever way they went."""

    def __init__(self, host: str, port: int, *, after: int, cuts: int) -> None:
        super().__init__(host, port)
        self.after, self.cuts = after, cuts
        self.carried = 0

    def passed(self, connection: Connection, piece: bytes, *, answer: bool) -> bool:
        self.carried += len(piece)
        if connection.asked + connection.answered <= self.after or self.broken >= self.cuts:
            return True
        self.broken += 1
        connection.reset()
        return False


def cut(serving: Serving, **how: int) -> CutLine:
    host, port = serving.url.removeprefix("http://").split(":")
    return CutLine(host, int(port), **how)


def test_a_large_upload_goes_on_where_it_was_cut(serving: Serving, tmp_path: Path) -> None:
    size, cuts = GROUP_BYTES + 3 * PIECE_BYTES, 6
    content = b"\x89PNG\r\n\x1a\n" + os.urandom(size - 8)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "large.png").write_bytes(content)
    with cut(serving, after=9_000_000, cuts=cuts) as line:
        # What it may wait for is less than what all the tries together take.
        with Client(f"http://{line.address}", serving.key, patience=30.0) as client:
            made = client.create_batch({}, "large")
            sent = upload(client, made["id"], find_files([tmp_path / "in"]).files)
        assert line.broken == cuts
        assert sent.counts["accepted"] == 1
        # No piece of 16 MiB fits into what one connection carries: what arrived of it is kept.
        assert line.carried < size + cuts * line.after
    with session_scope() as session:
        assert session.scalars(rows(Image.sha256)).one() == hashlib.sha256(content).hexdigest()


def test_a_prepared_file_goes_on_where_it_was_cut(
    serving: Serving, ask: Asker, batch: str, blobs: BlobStore, tmp_path: Path
) -> None:
    made: dict[str, Any] = make(ask, format="zip", batch=batch)
    content = os.urandom(60_000_000)
    with session_scope() as session:
        row = session.scalars(rows(Export)).one()
        assert row.key is not None
        row.sha256, row.size = blobs.put(row.key, content)
    with cut(serving, after=9_000_000, cuts=5) as line:
        with Client(f"http://{line.address}", serving.key, patience=30.0) as client:
            client.download(made["links"]["file"].removeprefix("/api/v1"), tmp_path / "results.zip")
        assert line.broken == 5
        assert line.carried < len(content) + 5 * (4 << 20)
    assert (tmp_path / "results.zip").read_bytes() == content
    assert not list(tmp_path.glob(".*.part"))

"""A real web server over a real database, broker and blob store, in a thread of the test."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import Engine, select
from werkzeug.serving import make_server

from store.accounts import accounts
from store.accounts.sites import bootstrap
from store.base.blobs import BlobStore
from store.base.session import session_scope
from store.base.tables import Batch, Bundle
from tests.reading import read_batch
from vocabulary.states import BatchStatus
from web.factory import create_app

MANIFEST = {
    "name": "b1",
    "label_meaning": "fractured",
    "models": {"hand": {"network": "n", "thresholds": {"low": 0.2, "high": 0.7}}},
    "trained_on": "nothing",
    "limits": [],
}


@dataclass(frozen=True)
class Serving:
    """Where the server listens, and a key that it takes."""

    url: str
    key: str


class Server:
    """The web application on a port of its own, that can go away and come back."""

    def __init__(self, port: int = 0) -> None:
        self.server = make_server("127.0.0.1", port, create_app(), threaded=True)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def stop(self) -> None:
        """End it, and wait for requests that it still answers: they hold connections of the database."""
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()
        deadline = time.monotonic() + 20
        for handler in threading.enumerate():
            if "process_request_thread" in handler.name:
                handler.join(max(0.0, deadline - time.monotonic()))


@pytest.fixture
def site_key(database: Engine, blobs: BlobStore, broker: Any) -> str:
    """A site with a bundle's row and an API key."""
    with session_scope() as session:
        session.add(Bundle(name="b1", sha256="0" * 64, manifest=MANIFEST, files={}))
        session.flush()
        _, admin, _ = bootstrap(session, "General Hospital", "admin@localhost")
        return accounts.create_api_key(session, admin, "tests")[1]


@pytest.fixture
def serving(
    site_key: str, settings_env: pytest.MonkeyPatch, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Serving]:
    """A server that answers, named in the environment as a user of the command names it."""
    server = Server()
    monkeypatch.setenv("FRACTUREAI_URL", server.url)
    monkeypatch.setenv("FRACTUREAI_API_KEY", site_key)
    yield Serving(server.url, site_key)
    server.stop()


class Reader:
    """Reads whatever is submitted, in a thread, as workers would."""

    def __init__(self, **how: Any) -> None:
        self.how = how
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._run)

    def __enter__(self) -> Reader:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.thread.join()

    def _run(self) -> None:
        while not self.ended.wait(0.05):
            with session_scope() as session:
                waiting = list(session.scalars(select(Batch.id).where(Batch.status == BatchStatus.QUEUED)))
            for batch_id in waiting:
                read_batch(batch_id, **self.how)

"""While one site does its worst, another one's urgent image is read in time and its pages answer.

    FRACTUREAI_TEST_NEIGHBOUR_MINUTES=10 make faults ARGS="-k neighbour -s"

The limits are for a machine that does nothing else; `..._READ_SECONDS` and `..._PAGE_SECONDS` set others.
"""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import httpx
import numpy as np
import pytest
import redis
from sqlalchemy import select

from phantoms.files import encode_phantom
from phantoms.film import make_phantom
from settings import get_settings
from store.accounts import accounts
from store.accounts.accounts import Permission, Role
from store.base.session import session_scope
from store.base.tables import Batch, Priority, Site, Worker
from store.bundles.bundles import add_bundle
from store.outgoing import notices
from store.outgoing.notices import EVENTS, Channel
from tests.cases import BUNDLE
from tests.faults.web import Web, running_web
from tests.running import (
    PATIENCE,
    SHORT,
    URGENT,
    assert_sound,
    read_batch,
    running_service,
    submit,
    wait_for,
    wait_until_ended,
)
from tests.web.serving import Serving
from tests.worker.test_decoding_share import costly, other_site

__all__ = ["costly"]

MINUTES = float(os.environ.get("FRACTUREAI_TEST_NEIGHBOUR_MINUTES", "2"))
READ_SECONDS = float(os.environ.get("FRACTUREAI_TEST_NEIGHBOUR_READ_SECONDS", "2.0"))
PAGE_SECONDS = float(os.environ.get("FRACTUREAI_TEST_NEIGHBOUR_PAGE_SECONDS", "0.3"))
NORMAL_IMAGES, PORTION, STALLED = 10_000, 250, 200

pytestmark = [pytest.mark.faults, pytest.mark.timeout(int(60 * MINUTES) + 3600)]


@pytest.fixture(scope="session")
def films() -> list[bytes]:
    """Phantoms of the size of real films, as PNG."""
    return [encode_phantom(make_phantom(n, ("hand", "leg", "hip", "shoulder")[n % 4])) for n in range(16)]


@pytest.fixture
def as_deployed(service_settings: pytest.MonkeyPatch) -> None:
    """The settings and the bundle of a server that somebody installs, receivers of their own allowed."""
    for name in SHORT:
        service_settings.delenv(name)
    service_settings.setenv("FRACTUREAI_NOTICE_PRIVATE_ADDRESSES", "true")
    get_settings.cache_clear()


@pytest.fixture
def hanging() -> Iterator[str]:
    """A receiver that takes connections and never answers."""
    door = socket.create_server(("127.0.0.1", 0), backlog=256)
    taken: list[socket.socket] = []

    def take() -> None:
        with suppress(OSError):
            while True:
                taken.append(door.accept()[0])

    threading.Thread(target=take, daemon=True).start()
    yield f"http://127.0.0.1:{door.getsockname()[1]}/"
    door.close()
    for connection in taken:
        connection.close()


def key_of(site_id: uuid.UUID) -> str:
    with session_scope() as session:
        user = accounts.create_user(session, site_id, f"{site_id.hex}@localhost", role=Role.ADMIN)
        return accounts.create_api_key(session, user, "tests", scope=set(Permission))[1]


@contextmanager
def stalled_downloads(web: Web, key: str, batch: Batch) -> Iterator[None]:
    """Ask for a table many times and read nothing of the answers."""
    host, port = web.address.split(":")
    with ExitStack() as stack:
        for _ in range(STALLED):
            line = socket.socket()
            line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            line.connect((host, int(port)))
            stack.enter_context(closing(line))
            line.sendall(
                f"GET /api/v1/batches/{batch.id}/results.csv HTTP/1.1\r\nHost: {web.address}\r\n"
                f"Authorization: Bearer {key}\r\n\r\n".encode()
            )
        yield


@contextmanager
def repeating(*steps: Callable[[int], object]) -> Iterator[None]:
    """Do each step again and again, each in a thread of its own."""
    over = threading.Event()

    def repeat(step: Callable[[int], object]) -> None:
        number = 0
        while not over.is_set():
            with suppress(httpx.HTTPError):
                step(number)
            number += 1

    threads = [threading.Thread(target=repeat, args=(step,), daemon=True) for step in steps]
    for thread in threads:
        thread.start()
    yield
    over.set()
    for thread in threads:
        thread.join(60)


class Neighbour:
    """A site that sends one urgent image after the other, and looks at its pages."""

    PAGES = ("/batches", "/bundles", "/images/{image}", "/batches/{batch}/images", "/exports")

    def __init__(self, serving: Serving, film: bytes) -> None:
        self.film = film
        self.client = httpx.Client(
            base_url=f"{serving.url}/api/v1",
            headers={"Authorization": f"Bearer {serving.key}"},
            timeout=120,
            trust_env=False,
        )
        self.reads: list[float] = []
        self.pages: list[float] = []
        self.sent = 0

    def visit(self) -> None:
        """Have one image read, and ask each page once."""
        self.sent += 1
        image = self.film + b"urgent" + self.sent.to_bytes(4, "big")
        began = time.monotonic()
        batch = self.client.post("/batches", json={"priority": "urgent"}).raise_for_status().json()["id"]
        sent = self.client.post(f"/batches/{batch}/files", files={"files": ("urgent.png", image)})
        sent.raise_for_status()
        self.client.post(f"/batches/{batch}/submit").raise_for_status()
        submitted = time.monotonic()
        while (row := self.client.get(f"/batches/{batch}").json())["status"] not in {"done", "partial"}:
            assert time.monotonic() - began < 600, row
            time.sleep(0.05)
        self.reads.append(time.monotonic() - submitted)
        one = self.client.get(f"/batches/{batch}/images").json()["items"][0]["id"]
        for page in self.PAGES:
            asked = time.monotonic()
            self.client.get(page.format(batch=batch, image=one)).raise_for_status()
            self.pages.append(time.monotonic() - asked)

    def figures(self) -> tuple[float, float]:
        """Return the 99th percentiles of reading and of pages in seconds, and begin anew."""
        read, page = (float(np.quantile(values, 0.99)) for values in (self.reads, self.pages))
        middle = [float(np.median(values)) for values in (self.reads, self.pages)]
        print(
            f"{len(self.reads)} urgent images: {middle[0]:.2f} s, p99 {read:.2f} s; {len(self.pages)} "
            f"pages: {1000 * middle[1]:.0f} ms, p99 {1000 * page:.0f} ms",
            flush=True,
        )
        self.reads, self.pages = [], []
        return read, page

    def visits(self, seconds: float) -> tuple[float, float]:
        """Visit for so long; return the 99th percentiles."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.visit()
            time.sleep(0.2)
        return self.figures()


def test_urgent_work_finds_a_worker_free(
    site_id: uuid.UUID, pictures: dict[str, bytes], broker: redis.Redis, tmp_path: Path
) -> None:
    one, *more = list(pictures.values())[:20]
    with running_service(tmp_path) as service:
        service.start(URGENT)
        wait_until_ended(submit(site_id, {"first.png": one}))  # networks are converted for it
        decoder = service.child("cpu")
        decoder.suspend()  # as if it was at something long
        normal = submit(site_id, {f"{n}.png": data for n, data in enumerate(more)})
        wait_for(lambda: broker.hlen("unacked"), PATIENCE, "it to be given that")
        urgent = submit(other_site("Elsewhere"), {"u.png": one + b"urgent"}, priority=Priority.URGENT)
        ended = wait_until_ended(urgent)
        assert (ended.status, ended.n_done) == ("done", 1)
        assert read_batch(normal).n_done == 0
        with session_scope() as session:  # it stands in for none of the others
            assert ["urgent"] in session.scalars(select(Worker.queues)).all()
        decoder.resume()
        wait_until_ended(normal)
    assert_sound(urgent)
    assert_sound(normal)


def test_a_neighbour_waits_for_nobody(
    as_deployed: None, site_id: uuid.UUID, costly: bytes, films: list[bytes], hanging: str, tmp_path: Path
) -> None:
    add_bundle(BUNDLE)
    with session_scope() as session:
        session.get_one(Site, site_id).default_bundle = BUNDLE.name
    theirs = other_site("The neighbour")
    worst, key = key_of(site_id), key_of(theirs)
    with running_service(tmp_path) as service, running_web(tmp_path) as web:
        service.start(URGENT)
        neighbour = Neighbour(Serving(f"http://{web.address}", key), films[0])
        small = submit(site_id, {f"{n}.png": films[n % 16] + n.to_bytes(2, "big") for n in range(60)})
        wait_until_ended(small)
        neighbour.visit()  # whatever is loaded once
        neighbour.reads, neighbour.pages = [], []
        print("\nalone:   ", end="")
        neighbour.visits(min(20.0, 20 * MINUTES))

        with session_scope() as session:
            notices.add_target(session, site_id, Channel.WEBHOOK, hanging, list(EVENTS))
        client = httpx.Client(
            base_url=f"http://{web.address}/api/v1",
            headers={"Authorization": f"Bearer {worst}"},
            timeout=120,
            trust_env=False,
        )

        def normal(number: int) -> None:
            """Send a portion of ordinary images, until so many were sent."""
            if number * PORTION < NORMAL_IMAGES:
                names = range(number * PORTION, (number + 1) * PORTION)
                submit(site_id, {f"{n}.png": films[n % 16] + n.to_bytes(4, "big") for n in names})
            else:
                time.sleep(1)

        slow_ones: list[Batch] = []

        def slow(number: int) -> None:
            """Send files that take as long to decode as any may, always a few at a time."""
            if slow_ones and read_batch(slow_ones[-1]).finished_at is None:
                time.sleep(1)
                return
            files = {f"{n}.png": costly + bytes([n]) + number.to_bytes(4, "big") for n in range(8)}
            slow_ones.append(submit(site_id, files))

        def export(number: int) -> None:
            """Have files prepared, as many at once as a site may."""
            asked = client.post("/exports", json={"format": "zip", "batch": str(small.id)})
            time.sleep(0.1 if asked.status_code == 202 else 1)

        with stalled_downloads(web, worst, small), repeating(normal, slow, export):
            time.sleep(5)
            print("besides: ", end="")
            read, page = neighbour.visits(60 * MINUTES)
        print(f"what the other site did: {done_by(site_id)}", flush=True)
    assert read < READ_SECONDS
    assert page < PAGE_SECONDS


def done_by(site_id: uuid.UUID) -> str:
    with session_scope() as session:
        found = session.execute(
            select(Batch.n_total, Batch.n_done, Batch.n_rejected).where(Batch.site_id == site_id)
        ).all()
    total, done, rejected = (sum(column) for column in zip(*found, strict=True))
    return f"{total} images sent, {done} read, {rejected} refused"

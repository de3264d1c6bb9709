"""What would take more than a site may have: bytes beside the quota, and many requests for the last place."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx

from tests.attacks.forms import BOUNDARY, MULTIPART, PNG, draft, leave, zipped
from tests.attacks.target import API, Target, attack

MEGABYTE = 1 << 20
#: What the site may still send in these attacks.
ROOM = 2 * MEGABYTE
MAX_TARGETS = 20
PREPARING = {"waiting", "preparing"}


def used(client: httpx.Client) -> int:
    """Return how many bytes the site has sent."""
    answer = client.get(f"{API}/quota")
    assert answer.status_code == 200, "this takes a key with the scope `administer`"
    return int(answer.json()["used_bytes"])


@contextmanager
def little_room(client: httpx.Client) -> Iterator[int]:
    """Leave the site 2 MB, and yield how many bytes it may have; the quota is put back afterwards."""
    limit = used(client) + ROOM
    before = client.get(f"{API}/quota").json()["own_bytes"]
    assert client.put(f"{API}/quota", json={"own_bytes": limit}).status_code == 200
    try:
        yield limit
    finally:
        client.put(f"{API}/quota", json={"own_bytes": before})


def image(size: int) -> bytes:
    """Return what looks like an image to the web, and is like no other."""
    return PNG + os.urandom(size - len(PNG))


def form_of(data: bytes) -> Iterator[bytes]:
    """Yield a form with one file, a piece at a time: its length is not said beforehand."""
    head = 'Content-Disposition: form-data; name="files"; filename="chunked.png"'
    yield f"--{BOUNDARY}\r\n{head}\r\n\r\n".encode()
    for at in range(0, len(data), 65536):
        yield data[at : at + 65536]
    yield f"\r\n--{BOUNDARY}--\r\n".encode()


def beside_the_quota(target: Target, send: Callable[[httpx.Client, str], list[int]]) -> str:
    """Let `send` try; assert that no more came in than there was room for."""
    with target.client() as client:
        batch = draft(client)
        try:
            with little_room(client) as limit:
                statuses = send(client, batch)
                most = used(client)
                assert most <= limit, f"{most - limit} bytes too many"
        finally:
            leave(client, batch)
    assert any(status >= 400 for status in statuses), statuses
    assert all(status < 500 or status == 507 for status in statuses), statuses
    return f"{sorted(statuses)}, {limit - most} of {ROOM} bytes left"


@attack("10 MB without a length through 2 MB of quota", needs_key=True)
def chunked(target: Target) -> str:
    """Send a chunked body, whose size nobody knows before it has come."""

    def send(client: httpx.Client, batch: str) -> list[int]:
        try:
            body = form_of(image(10 * MEGABYTE))
            return [client.post(f"{batch}/files", content=body, headers=MULTIPART).status_code]
        except (httpx.WriteError, httpx.ReadError, httpx.RemoteProtocolError):
            return [413]

    return beside_the_quota(target, send)


@attack("eight uploads at once through a quota for one", needs_key=True)
def parallel(target: Target) -> str:
    """Send eight files of three quarters of what is left, all at one time."""

    def send(_: httpx.Client, batch: str) -> list[int]:
        def one(number: int) -> int:
            with target.client() as client:
                files = {"files": (f"{number}.png", image(ROOM * 3 // 4))}
                return client.post(f"{batch}/files", files=files).status_code

        with ThreadPoolExecutor(8) as pool:
            return list(pool.map(one, range(8)))

    return beside_the_quota(target, send)


@attack("an archive that is small and unpacks to more than the quota", needs_key=True)
def unpacked(target: Target) -> str:
    """Send 20 members of half a megabyte in an archive of a few kilobytes."""
    ratio = 150  # less than what is refused as a bomb
    member = PNG + os.urandom(MEGABYTE // 2 // ratio)
    members = [(f"{n}.png", member + bytes([n]) * (MEGABYTE // 2)) for n in range(20)]
    archive = zipped(*members)

    def send(client: httpx.Client, batch: str) -> list[int]:
        return [client.post(f"{batch}/files", files={"files": ("a.zip", archive)}).status_code]

    return f"{len(archive)} bytes sent: {beside_the_quota(target, send)}"


@attack("announcements of large files that never come", needs_key=True)
def announced(target: Target) -> str:
    """Announce three files as large as may be, and send nothing."""
    tus = {"Tus-Resumable": "1.0.0", "Upload-Metadata": "filename YS5wbmc="}
    with target.client() as client:
        batch = draft(client)
        before = used(client)
        most = client.options(f"{batch}/uploads").headers["Tus-Max-Size"]
        headers = {**tus, "Upload-Length": most}
        statuses = [client.post(f"{batch}/uploads", headers=headers).status_code for _ in range(3)]
        with little_room(client) as limit:
            counted = used(client)
            files = {"files": ("small.png", image(MEGABYTE))}
            assert client.post(f"{batch}/files", files=files).status_code == 200
            assert counted < limit
        leave(client, batch)
    assert counted == before, f"{counted - before} bytes counted that never came"
    return f"{statuses} for {most} bytes each, none counted"


@attack("more downloads at once than a site may have prepared", needs_key=True)
def downloads(target: Target) -> str:
    """Ask for thirteen, and for ten more, at one time: no more than ten may wait."""
    wish = {"format": "parquet", "since": "2000-01-01", "until": "2000-01-02"}

    def ask(_: int) -> int:
        with target.client() as client:
            return client.post(f"{API}/exports", json=wish).status_code

    with target.client() as client, ThreadPoolExecutor(23) as pool:
        statuses = list(pool.map(ask, range(23)))
        listed = client.get(f"{API}/exports").json()["items"]
        waiting = [row for row in listed if row["state"] in PREPARING]
        for row in listed:
            client.post(row["links"]["cancel"], json={})
    assert set(statuses) <= {202, 409, 429}, statuses
    assert len(waiting) <= 10, f"{len(waiting)} are prepared at once"
    return f"{statuses.count(202)} taken, {len(waiting)} of them still waiting at the end"


@attack("more targets of notices at once than a site may have", needs_key=True)
def targets(target: Target) -> str:
    """Add 26 at one time: no more than 20 may stand."""

    def add(number: int) -> int:
        hook = {
            "channel": "webhook",
            "address": f"https://attack{number}.example.invalid/",
            "events": ["batch.finished"],
        }
        with target.client() as client:
            return client.post(f"{API}/notice-targets", json=hook).status_code

    with target.client() as client:
        before = {row["id"] for row in client.get(f"{API}/notice-targets").json()["items"]}
        with ThreadPoolExecutor(MAX_TARGETS + 6) as pool:
            statuses = list(pool.map(add, range(MAX_TARGETS + 6)))
        listed = client.get(f"{API}/notice-targets").json()["items"]
        for row in listed:
            if row["id"] not in before:
                client.post(row["links"]["remove"])
    assert set(statuses) <= {201, 409}, statuses
    assert len(listed) <= MAX_TARGETS, f"{len(listed)} targets"
    return f"{statuses.count(201)} of {len(statuses)} taken"


@attack("file names of a thousand characters beside a good neighbour", needs_key=True)
def long_names(target: Target) -> str:
    """Send a file whose name fills an index page, and a plain one after it."""
    with target.client() as client:
        batch = draft(client)
        files = [
            ("files", ("\u9aa8" * 1000 + ".png", image(1000))),
            ("files", ("a/" * 600 + "b.png", image(1000))),
            ("files", ("good.png", image(1000))),
        ]
        answer = client.post(f"{batch}/files", files=files)
        listed = client.get(f"{batch}/images").json()["items"]
        leave(client, batch)
    assert answer.status_code == 200, answer.text
    assert "good.png" in {row["filename"] for row in listed}
    said = [row["status"] for row in answer.json()["files"]]
    assert said[-1] == "accepted", said
    return f"the names: {said[0]}, {said[1]}; the neighbour: {said[2]}"

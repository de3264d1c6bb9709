"""A thousand slow clients of each kind at once, and known ones that crawl: others are served all the same."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import httpx
import pytest

from settings import get_settings
from tests.attacks import connections
from tests.attacks.every import ATTACKS
from tests.attacks.target import API, Target
from tests.faults.web import running_web
from tests.web.asking import PNG
from tests.web.serving import site_key

__all__ = ["site_key"]

pytestmark = pytest.mark.faults

SLOW = [attack for attack in ATTACKS if attack.run.__module__ == connections.__name__]


@pytest.fixture
def target(site_key: str, settings_env: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Target]:
    settings_env.setenv("FRACTUREAI_CLIENT_STALL_SECONDS", "5")
    get_settings.cache_clear()
    with running_web(tmp_path) as web:
        yield Target(f"http://{web.address}", site_key, clients=1000).measured()


def test_a_thousand_slow_clients_of_each_kind(target: Target) -> None:
    assert len(SLOW) >= 9
    for attack in SLOW:
        print(attack.title, attack.run(target))


def test_more_connections_than_the_server_keeps(target: Target) -> None:
    """The oldest of those that say nothing make room; a new client gets in at once."""
    with ExitStack() as stack:
        for _ in range(9000):  # two processes keep 4,000 each
            stack.enter_context(closing(target.connect()))
        target.assert_serving()


def test_a_known_client_that_crawls_is_cut_off(target: Target) -> None:
    """It has a key, so that its body is read by a thread; at one byte in a second it does not keep it."""
    with target.client() as client:
        batch = client.post(f"{API}/batches", json={}).json()["id"]
    more = f"Authorization: Bearer {target.key}\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    sent = connections.head(target, f"POST {API}/batches/{batch}/files", more + "Content-Length: 1000000\r\n")
    with closing(target.connect()) as connection:
        connection.sendall(sent + b"--b\r\n")
        began = time.monotonic()
        ended = threading.Event()

        def trickle() -> None:
            while not ended.wait(1.0):
                try:
                    connection.sendall(b"-")
                except OSError:
                    return

        trickling = threading.Thread(target=trickle)
        trickling.start()
        connection.settimeout(120)
        try:
            assert connection.recv(1 << 12).startswith(b"HTTP/1.1 400")
            assert time.monotonic() - began > 4
        finally:
            ended.set()
            trickling.join()


def test_a_fast_client_may_take_its_time_in_between(target: Target) -> None:
    """A large upload with pauses that are shorter than the limit arrives whole."""
    with target.client() as client:
        batch = client.post(f"{API}/batches", json={}).json()["id"]

        def body() -> Iterator[bytes]:
            yield b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n' + PNG
            for _ in range(3):
                time.sleep(2)
                yield b"x" * (1 << 20)
            yield b"\r\n--b--\r\n"

        headers = {"Content-Type": "multipart/form-data; boundary=b"}
        answer = client.post(f"{API}/batches/{batch}/files", content=body(), headers=headers)
        assert answer.json()["counts"]["accepted"] == 1, answer.text


def test_a_refused_upload_can_read_why(target: Target) -> None:
    """Nobody drains a stranger's body in a thread, and yet the answer arrives before the connection ends."""
    with closing(target.connect()) as connection:
        more = "Content-Type: application/json\r\nContent-Length: 20000000\r\n"
        connection.sendall(connections.head(target, f"POST {API}/batches", more))
        for _ in range(20):
            connection.sendall(b" " * 1_000_000)
        assert connection.recv(1 << 12).startswith(b"HTTP/1.1 401")
    with pytest.raises(httpx.HTTPStatusError, match="401"), target.client(known=False) as client:
        client.post(f"{API}/batches", content=b" " * 20_000_000).raise_for_status()

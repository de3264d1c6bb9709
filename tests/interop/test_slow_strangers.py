"""Who never says who it is, or stalls in the middle of an object, keeps no modality out."""

from __future__ import annotations

import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from pynetdicom.ae import ApplicationEntity

from interop import gateway
from interop.listener import force_close_socket
from tests.interop.conftest import CALLED, CALLING, Receiver, film, receiving

#: An A-ASSOCIATE-RQ that claims to be 1,000 bytes long.
BEGINNING = struct.pack(">BBI", 1, 0, 1000)
PLACES = 2


@contextmanager
def strangers(port: int, n: int) -> Iterator[list[socket.socket]]:
    """Open connections of which each sends a byte of its request now and then."""
    ended = threading.Event()
    with ExitStack() as at_end:
        lines = [at_end.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(n)]

        def drip() -> None:
            while not ended.wait(0.2):
                for line in lines:
                    with suppress(OSError):
                        line.sendall(b"\x00")

        for line in lines:
            line.sendall(BEGINNING)
        thread = threading.Thread(target=drip)
        thread.start()
        try:
            yield lines
        finally:
            ended.set()
            thread.join()


def is_closed(line: socket.socket) -> bool:
    """Wait until the other side closes."""
    line.settimeout(30)
    try:
        return line.recv(100)[:1] in {b"", b"\x07"}  # closed, or aborted
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False


@pytest.fixture
def small(
    receiver: Receiver, settings_env: pytest.MonkeyPatch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Receiver]:
    """A receiver with room for few, in which one PDU may take fifteen seconds."""
    monkeypatch.setattr(gateway, "HANDSHAKE_SECONDS", 600.0)
    with receiving(settings_env, tmp_path, ASSOCIATIONS=str(PLACES), IDLE_SECONDS="15") as found:
        yield found


def echo(receiver: Receiver) -> subprocess.CompletedProcess[str]:
    return receiver.run(
        "echoscu", "-to", "20", "-aet", CALLING, "-aec", CALLED, "127.0.0.1", str(receiver.port)
    )


def test_strangers_keep_nobody_out(small: Receiver) -> None:
    with strangers(small.port, 8 * PLACES) as lines:
        for _ in range(3):
            assert echo(small).returncode == 0
        assert small.send(film("one")).returncode == 0
        assert is_closed(lines[0]), "the oldest makes room"


def test_who_comes_and_goes_leaves_no_thread(small: Receiver) -> None:
    """A container has some hundred threads, and one that waits for a request did so for a minute."""
    before = threading.active_count()
    for n in range(60):
        with socket.create_connection(("127.0.0.1", small.port)) as line:
            line.sendall(BEGINNING[: n % 7])
    assert echo(small).returncode == 0
    until = time.monotonic() + 30
    while threading.active_count() > before + 4 and time.monotonic() < until:
        time.sleep(0.1)
    assert threading.active_count() <= before + 4


def test_who_does_not_say_who_it_is_is_cut_off(
    receiver: Receiver, settings_env: pytest.MonkeyPatch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway, "HANDSHAKE_SECONDS", 1.0)
    with receiving(settings_env, tmp_path) as found, strangers(found.port, 3) as lines:
        assert all(map(is_closed, lines))
        assert echo(found).returncode == 0


def test_who_stalls_in_the_middle_of_an_object_loses_its_place(small: Receiver) -> None:
    entity = ApplicationEntity(CALLING)
    entity.add_requested_context("1.2.840.10008.1.1")
    held = [entity.associate("127.0.0.1", small.port, ae_title=CALLED) for _ in range(PLACES)]
    for one in held:
        force_close_socket(one.dul.socket)
    assert all(one.is_established for one in held)
    assert echo(small).returncode != 0, "there is no room"
    ended = threading.Event()

    def drip() -> None:  # each byte comes before the time-out
        for one in held:
            one.dul.socket.socket.sendall(struct.pack(">BBI", 4, 0, 1000))
        while not ended.wait(0.3):
            for one in held:
                with suppress(OSError, AttributeError):
                    one.dul.socket.socket.sendall(b"\x00")

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        until = time.monotonic() + 120
        while echo(small).returncode and time.monotonic() < until:
            time.sleep(0.5)
        assert time.monotonic() < until
    finally:
        ended.set()
        thread.join()
        for one in held:
            one.abort()


def test_large_objects_that_arrive_together_are_put_off_one_by_one(
    receiver: Receiver, settings_env: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Twenty-four associations, each with an object of half a gigabyte, are more than a machine has."""
    settings_env.setenv("FRACTUREAI_MAX_FILE_BYTES", str(1 << 20))
    with receiving(settings_env, tmp_path) as found, ExitStack() as at_end:
        entity = ApplicationEntity(CALLING)
        entity.add_requested_context("1.2.840.10008.1.1")
        held = [entity.associate("127.0.0.1", found.port, ae_title=CALLED) for _ in range(6)]
        for one in held:
            force_close_socket(one.dul.socket)
            at_end.callback(one.abort)
        piece = struct.pack(">IBB", 60_002, 1, 0) + bytes(60_000)  # of a data set that goes on
        for _ in range(10):
            for one in held:
                with suppress(OSError, AttributeError):
                    one.dul.socket.socket.sendall(struct.pack(">BBI", 4, 0, len(piece)) + piece)
        until = time.monotonic() + 30
        while all(one.is_established for one in held) and time.monotonic() < until:
            time.sleep(0.1)
        assert not all(one.is_established for one in held)
        assert any(one.is_established for one in held)
        assert echo(found).returncode == 0

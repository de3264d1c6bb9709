"""An archive that hangs or drips bytes holds the worker no longer than an exchange may take."""

from __future__ import annotations

import socket
import struct
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest
from pynetdicom import evt
from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association
from pynetdicom.transport import AddressInformation, AssociationSocket

from interop.asking import new_client
from interop.listener import force_close_socket
from interop.peers import STUDY_ROOT_FIND, VERIFICATION, Peer, Sought, Trouble, peer_of
from interop.poller import Poll, PollFailed
from settings import get_settings
from store.intake.poll_sources import PollSource
from store.outgoing.delivery_tables import Destination
from tests.interop.conftest import film

SOUGHT = Sought("1.2.3", "1.2.3.4", "1.2.3.4.5", "4711")
CR = "1.2.840.10008.5.1.4.1.1.1"
TIMEOUT = 0.5
#: Without a deadline these exchanges end after a minute, or never.
SOON = 15.0


@contextmanager
def answering(talk: Callable[[socket.socket], None]) -> Iterator[int]:
    """Accept connections, each handed to `talk` in a thread of its own; give the port."""
    server = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        with suppress(OSError):
            while True:
                line, _ = server.accept()
                threading.Thread(target=quietly, args=(line,), daemon=True).start()

    def quietly(line: socket.socket) -> None:
        with suppress(OSError), line:
            talk(line)

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield int(server.getsockname()[1])
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()


def dripping(data: bytes, first: bytes = b"") -> Callable[[socket.socket], None]:
    """Say `first`, then `data` byte by byte, for ever: each byte comes before a time-out of the socket."""

    def talk(line: socket.socket) -> None:
        line.sendall(first)
        while True:
            for byte in data:
                line.sendall(bytes([byte]))
                time.sleep(TIMEOUT / 5)

    return talk


@contextmanager
def archive(*handlers: evt.EventHandlerType) -> Iterator[int]:
    """An archive that takes every association."""
    entity = ApplicationEntity("ARCHIVE")
    for uid in (VERIFICATION, STUDY_ROOT_FIND, CR):
        entity.add_supported_context(uid)
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=list(handlers))
    assert server is not None
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()


@contextmanager
def cut_after_the_association() -> Iterator[int]:
    """Before an archive: of what it says after it accepted the association, three bytes get through."""
    with archive() as port:

        def talk(line: socket.socket) -> None:
            with socket.create_connection(("127.0.0.1", port)) as behind:

                def forward() -> None:
                    with suppress(OSError):
                        while piece := line.recv(1 << 16):
                            behind.sendall(piece)

                threading.Thread(target=forward, daemon=True).start()
                head = behind.recv(6, socket.MSG_WAITALL)
                line.sendall(head + behind.recv(struct.unpack(">I", head[2:])[0], socket.MSG_WAITALL))
                line.sendall(behind.recv(3, socket.MSG_WAITALL))
                time.sleep(60)

        with answering(talk) as front:
            yield front


@pytest.fixture
def reach(settings_env: pytest.MonkeyPatch) -> Callable[..., Peer]:
    settings_env.setenv("FRACTUREAI_DELIVERY_TIMEOUT_SECONDS", str(TIMEOUT))
    get_settings.cache_clear()

    def peer(port: int, scheme: str = "", *, tls: bool = False) -> Peer:
        address = f"{scheme}://127.0.0.1:{port}/dicom-web" if scheme else f"127.0.0.1:{port}"
        kind = {"protocol": "stow"} if scheme else {"protocol": "dimse", "called": "A", "calling": "B"}
        return peer_of(Destination(id=uuid.uuid4(), address=address, tls=tls, **kind), get_settings())

    return peer


def assert_left_in_time(peer: Peer) -> None:
    """Every exchange ends in time, as one to be tried again; none is taken for an answer."""
    for exchange in (
        peer.echo,
        lambda: peer.send(film("a study")),
        lambda: peer.patients(SOUGHT),
        lambda: peer.has(SOUGHT),
    ):
        began = time.monotonic()
        with pytest.raises(Trouble):
            exchange()
        assert time.monotonic() - began < SOON


@pytest.mark.parametrize(
    ("scheme", "talk"),
    [
        ("http", dripping(b"HTTP/1.1 200")),
        ("http", dripping(b"X: y\r\n", b"HTTP/1.1 200 OK\r\n")),
        ("http", dripping(b"[", b"HTTP/1.1 200 OK\r\n\r\n")),
        ("https", dripping(b"\x16\x03\x03\x40\x00")),
        ("", lambda line: time.sleep(60)),
        ("", dripping(b"\x00", b"\x02\x00\x00\x00\xff\x00")),
    ],
    ids=["the status", "endless lines", "an endless body", "the handshake", "nothing", "an acceptance"],
)
def test_who_drips_bytes_is_left_in_time(
    scheme: str, talk: Callable[[socket.socket], None], reach: Callable[..., Peer]
) -> None:
    with answering(talk) as port:
        assert_left_in_time(reach(port, scheme))


@pytest.mark.parametrize(
    "talk",
    [
        dripping(b"HTTP/1.1 200"),
        dripping(b"X: y\r\n", b"HTTP/1.1 200 OK\r\n"),
        dripping(b"[", b"HTTP/1.1 200 OK\r\n\r\n"),
    ],
    ids=["the status", "endless lines", "an endless body"],
)
def test_an_archive_that_is_asked_for_studies_and_drips_bytes_is_left_in_time(
    talk: Callable[[socket.socket], None], reach: Callable[..., Peer]
) -> None:
    """One process asks all archives, of all sites."""
    with answering(talk) as port, new_client(TIMEOUT, base_url=f"http://127.0.0.1:{port}") as client:
        poll = Poll(PollSource(site_id=uuid.uuid4(), name="archive"), client, get_settings())
        for question in (
            lambda: poll._get("/studies", {}, "application/json"),
            lambda: poll._file("/studies"),
        ):
            began = time.monotonic()
            with pytest.raises(PollFailed):
                question()
            assert time.monotonic() - began < SOON


def test_the_handshake_of_an_association_is_left_in_time(reach: Callable[..., Peer]) -> None:
    with answering(dripping(b"\x16\x03\x03\x40\x00")) as port:
        assert_left_in_time(reach(port, tls=True))


def test_half_an_answer_is_left_in_time(reach: Callable[..., Peer]) -> None:
    with cut_after_the_association() as port:
        assert_left_in_time(reach(port))


def test_who_finds_without_end_is_left_in_time(reach: Callable[..., Peer]) -> None:
    def find(event: evt.Event) -> Iterator[tuple[int, object]]:
        while True:
            yield 0xFF00, event.identifier

    with archive((evt.EVT_C_FIND, find)) as port:
        peer = reach(port)
        for exchange in (peer.patients, peer.has):
            with pytest.raises(Trouble):
                exchange(SOUGHT)


@pytest.mark.parametrize(("status", "passing"), [(0xA700, True), (0x0122, False)])
def test_who_cannot_say_whose_study_it_is_now_is_asked_again(
    status: int, passing: bool, reach: Callable[..., Peer]
) -> None:
    """Without that, an object went out unasked when the archive was only busy."""

    def find(event: evt.Event) -> Iterator[tuple[int, object]]:
        yield status, None

    with archive((evt.EVT_C_FIND, find)) as port:
        if passing:
            with pytest.raises(Trouble):
                reach(port).patients(SOUGHT)
        else:
            assert reach(port).patients(SOUGHT) is None


def test_an_answer_without_end_is_not_held_in_memory(
    reach: Callable[..., Peer], settings_env: pytest.MonkeyPatch
) -> None:
    settings_env.setenv("FRACTUREAI_DELIVERY_TIMEOUT_SECONDS", "60")
    get_settings.cache_clear()

    def talk(line: socket.socket) -> None:
        line.recv(1 << 16)
        line.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            line.sendall(b"[" * (1 << 20))

    with answering(talk) as port, pytest.raises(Trouble, match="too long"):
        reach(port, "http").has(SOUGHT)


def test_a_socket_that_cannot_be_shut_down_is_closed_all_the_same() -> None:
    """As when the peer has reset it: such descriptors were held until the association was collected."""
    association = Association(ApplicationEntity(), "requestor")
    line = AssociationSocket(association, address=AddressInformation("127.0.0.1", 0))
    force_close_socket(line)
    sock = line.socket
    assert sock is not None
    line.close()
    assert sock.fileno() == -1

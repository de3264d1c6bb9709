"""What comes in the ways of DICOM: objects by HTTP (STOW-RS), and connections to the receiver."""

from __future__ import annotations

import os
import random
import socket
import struct
import time
import uuid
from contextlib import ExitStack, suppress

from tests.attacks.target import Target, attack

STUDIES = "/dicom-web/studies"
BOUNDARY = b"a-boundary"
RELATED = {"Content-Type": 'multipart/related; type="application/dicom"; boundary=a-boundary'}
CR = b"1.2.840.10008.5.1.4.1.1.1"
IMPLICIT = b"1.2.840.10008.1.2"
#: An answer of the receiver: an association accepted or rejected, or an abort.
ACCEPTED, REJECTED, ABORTED = 2, 3, 7


def parts(*bodies: bytes) -> bytes:
    """Return a body of several objects."""
    head = b"--" + BOUNDARY + b"\r\nContent-Type: application/dicom\r\n\r\n"
    return b"".join(head + each + b"\r\n" for each in bodies) + b"--" + BOUNDARY + b"--\r\n"


def file_of(dataset: bytes) -> bytes:
    """Return a file of PS3.10 around a data set in implicit VR."""

    def element(number: int, value: bytes) -> bytes:
        value += b"\0" * (len(value) % 2)
        return struct.pack("<HH2sH", 2, number, b"UI", len(value)) + value

    return bytes(128) + b"DICM" + element(2, CR) + element(3, b"1.2.3") + element(16, IMPLICIT) + dataset


def element(group: int, number: int, value: bytes) -> bytes:
    """Return an element in implicit VR."""
    value += b"\0" * (len(value) % 2)
    return struct.pack("<HHI", group, number, len(value)) + value


BEGINNING = element(8, 0x16, CR) + element(8, 0x18, b"1.2.3")


@attack("objects by HTTP without a key, and with a wrong one")
def stow_strangers(target: Target) -> str:
    """Send an object as somebody whom the server does not know, large ones, too."""
    with target.client(known=False) as client:
        for path in (STUDIES, f"{STUDIES}/1.2.3"):
            for header in ({}, {"Authorization": "Bearer fai_wrong"}):
                for size in (100, 1 << 20):
                    body = parts(file_of(bytes(size)))
                    answer = client.post(path, content=body, headers={**RELATED, **header})
                    assert answer.status_code in {401, 413}, (path, size, answer.status_code)
    return "401 or 413 each"


@attack("objects by HTTP that are hard to read", needs_key=True)
def stow_hostile(target: Target) -> str:
    """Send headers of a million items, lengths beyond the end, half bodies, and very many parts."""
    item, end = struct.pack("<HHI", 0xFFFE, 0xE000, 0), struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    study = element(0x20, 0x0D, b"1.2.4")
    private = struct.pack("<HHI", 9, 0x1001, 0xFFFFFFFF)
    nested = struct.pack("<HHI", 9, 0x1001, 0xFFFFFFFF) + struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    hostile = {
        "a million items": parts(file_of(BEGINNING + private + item * 1_000_000 + end + study)),
        "a million levels": parts(file_of(BEGINNING + nested * 500_000 + study)),
        "a million elements": parts(file_of(BEGINNING + element(9, 1, b"") * 1_000_000 + study)),
        "a length beyond the end": parts(file_of(BEGINNING + struct.pack("<HHI", 9, 1, 0xFFFFFFF0))),
        "ten thousand parts": parts(*[b"no DICOM"] * 10_000),
        "parts of nothing": b"--" + BOUNDARY + (b"\r\n\r\n\r\n--" + BOUNDARY) * 200_000 + b"--\r\n",
        "no end": parts(file_of(BEGINNING + study))[:-6],
        "an endless head": b"--" + BOUNDARY + b"\r\nX: " + b"a" * (4 << 20),
        "random bytes": parts(os.urandom(1 << 20), file_of(os.urandom(1 << 20))),
    }
    statuses = {}
    with target.client() as client:
        for name, body in hostile.items():
            began = time.monotonic()
            statuses[name] = client.post(STUDIES, content=body, headers=RELATED).status_code
            taken = time.monotonic() - began
            assert 400 <= statuses[name] < 500, (name, statuses[name])
            assert taken < target.promptly, f"{name} took {taken:.1f} s"
    return f"{sorted(set(statuses.values()))}; {target.assert_serving()}"


@attack("deliveries to archives by strangers, and of nobody", needs_key=True)
def deliveries(target: Target) -> str:
    """A stranger is told nothing; a key meets no delivery that is not its site's."""
    with target.client(known=False) as stranger, target.client() as client:
        assert stranger.get("/admin/deliveries").status_code == 302
        for action in ("retry", "suppress"):
            path = f"/admin/deliveries/{uuid.uuid4()}/{action}"
            told = stranger.post(path).status_code, client.post(path).status_code
            assert told[0] in {302, 303, 401, 403}, told
            assert told[1] in {403, 404}, told
    return f"{told}"


# the receiver


def request(called: bytes = b"ANY", calling: bytes = b"STRANGER") -> bytes:
    """Return an A-ASSOCIATE-RQ that offers verification (PS3.8, 9.3.2)."""

    def item(kind: int, data: bytes) -> bytes:
        return struct.pack(">BBH", kind, 0, len(data)) + data

    context = item(0x20, b"\x01\0\0\0" + item(0x30, b"1.2.840.10008.1.1") + item(0x40, IMPLICIT))
    user = item(0x50, item(0x51, struct.pack(">I", 16384)) + item(0x52, b"1.2.3"))
    body = struct.pack(">HH16s16s", 1, 0, called.ljust(16), calling.ljust(16)) + bytes(32)
    body += item(0x10, b"1.2.840.10008.3.1.1.1") + context + user
    return struct.pack(">BBI", 1, 0, len(body)) + body


def connect(target: Target) -> socket.socket:
    """Open a connection to the receiver."""
    host, _, port = target.dicom.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=target.promptly)


def answer_to(target: Target, data: bytes) -> int:
    """Send bytes and return which PDU comes back, 0 when the receiver closes or nothing comes."""
    with connect(target) as line, suppress(OSError):
        line.sendall(data)
        return (line.recv(1) or b"\0")[0]
    return 0


def assert_receiving(target: Target) -> str:
    """Assert that somebody else's request is answered promptly, by a refusal; return how long it took."""
    began = time.monotonic()
    assert answer_to(target, request()) == REJECTED
    return f"others were answered in {time.monotonic() - began:.2f} s"


@attack("AE titles that are guessed", needs_dicom=True)
def ae_titles(target: Target) -> str:
    """Ask for associations by titles that are common, empty, or no text."""
    for called in (
        b"FRACTURES",
        b"FRACTUREAI",
        b"ANY-SCP",
        b"ORTHANC",
        b"",
        b"*",
        b"%",
        b"\xff" * 16,
        b"\0" * 16,
    ):
        for calling in (b"STRANGER", b"", b"' OR 1=1 --", b"\0" * 16):
            assert answer_to(target, request(called, calling)) != ACCEPTED, (called, calling)
    return "no association"


@attack("connections to the receiver that never say who they are", needs_dicom=True)
def slow_strangers(target: Target) -> str:
    """Hold many connections open, silent or with a byte now and then, while somebody else asks."""
    with ExitStack() as at_end:
        lines = []
        for n in range(3 * target.clients):
            with suppress(OSError):
                line = at_end.enter_context(connect(target))
                line.sendall(request()[: n % 7])
                lines.append(line)
        said = ""
        for _ in range(5):
            for line in lines:
                with suppress(OSError):
                    line.sendall(b"\0")
            said = assert_receiving(target)
            time.sleep(0.5)
    return f"{len(lines)} connections; {said}"


@attack("PDUs that claim too much, or are none", needs_dicom=True)
def hostile_pdus(target: Target) -> str:
    """Send lengths of gigabytes, and a request in which bytes were changed at random."""
    for kind in range(0, 9):
        answer_to(target, struct.pack(">BBI", kind, 0, 0x7FFFFFFF) + os.urandom(1 << 16))
    chance = random.Random(13)
    for _ in range(150):
        data = bytearray(request())
        for _ in range(chance.randrange(1, 6)):
            data[chance.randrange(6, len(data))] = chance.choice((0, 1, 0x7F, 0xFF, chance.randrange(256)))
        with connect(target) as line, suppress(OSError):
            line.sendall(data)
            line.shutdown(socket.SHUT_WR)
            assert line.recv(1) != bytes([ACCEPTED])
    return assert_receiving(target)

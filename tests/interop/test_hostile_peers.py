"""Peers that are known and mean harm, or are broken: whatever they send, the receiver serves the next one."""

from __future__ import annotations

import io
import json
import logging
import random
import struct
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import date
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset
from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association
from sqlalchemy import func, select

from interop.listener import force_close_socket
from pipeline.dicom.elements import UID, split_file
from settings import get_settings
from store.base.sealed_blobs import get_opened
from store.base.session import session_scope
from store.base.tables import Image
from store.intake import gateway_peers, poll_sources
from store.intake.gateway_tables import ReceivedObject
from store.intake.poll_sources import PollSource
from tests.interop.conftest import CALLED, CALLING, Receiver, film
from tests.interop.polling import poll, serving

VERIFICATION, CR = "1.2.840.10008.1.1", "1.2.840.10008.5.1.4.1.1.1"
COMMITMENT, COMMITMENT_INSTANCE = "1.2.840.10008.1.20.1", "1.2.840.10008.1.20.1.1"
EXPLICIT, IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"


def images() -> list[Image]:
    with session_scope() as session:
        return list(session.scalars(select(Image).order_by(Image.seq)))


def kept() -> list[bytes]:
    return [get_opened(image.incoming_key or "") for image in images()]


@contextmanager
def association(receiver: Receiver, *classes: str) -> Iterator[Association]:
    entity = ApplicationEntity(CALLING)
    for uid in classes or (VERIFICATION, CR):
        entity.add_requested_context(uid, [EXPLICIT, IMPLICIT])
    found = entity.associate("127.0.0.1", receiver.port, ae_title=CALLED)
    assert found.is_established
    force_close_socket(found.dul.socket)
    try:
        yield found
    finally:
        found.abort()


def is_served(receiver: Receiver) -> bool:
    done = receiver.run("echoscu", "-aet", CALLING, "-aec", CALLED, "127.0.0.1", str(receiver.port))
    return done.returncode == 0


def pdu(kind: int, body: bytes, length: int | None = None) -> bytes:
    return struct.pack(">BBI", kind, 0, len(body) if length is None else length) + body


def pdv(context: int, control: int, data: bytes, length: int | None = None) -> bytes:
    return struct.pack(">IBB", len(data) + 2 if length is None else length, context, control) + data


def command(**elements: bytes) -> bytes:
    """A command set (implicit, little-endian) of elements of group 0 by their numbers."""
    body = b"".join(
        struct.pack("<HHI", 0, int(name[1:], 16), len(value)) + value for name, value in elements.items()
    )
    return struct.pack("<HHII", 0, 0, 4, len(body)) + body


def store(uid: bytes, **more: bytes) -> bytes:
    """A request to store, of an object that is called so."""
    elements = {"e0002": CR.encode() + b"\0", "e0100": b"\x01\x00", "e0110": b"\x01\x00"}
    return command(**{**elements, "e0700": b"\0\0", "e0800": b"\x01\x00", "e1000": uid, **more})


random_bytes = random.Random(3).randbytes

ATTACKS: dict[str, bytes] = {
    "a value that claims more than its PDU": pdu(4, pdv(1, 3, b"\0" * 10, length=1 << 30)),
    "a value of no bytes": pdu(4, pdv(1, 3, b"", length=0)),
    "no value": pdu(4, b""),
    "a context that was not agreed on": pdu(4, pdv(99, 3, store(b"1.2.3\0"))),
    "a command that is none": pdu(4, pdv(1, 3, random_bytes(500))),
    "a command that lies about its lengths": pdu(4, pdv(3, 3, store(b"1.2.3\0")[:-6])),
    "a command without a name for its object": pdu(4, pdv(3, 3, command(e0100=b"\x01\x00"))),
    "a name for an object as long as a book": pdu(4, pdv(3, 3, store(b"1." * 30_000))),
    "a name for an object that is no text": pdu(4, pdv(3, 3, store(bytes(range(128, 192))))),
    "a data set before its command": pdu(4, pdv(3, 2, film("x")[200:])),
    "a data set that is noise": pdu(4, pdv(3, 3, store(b"1.2.3\0"))) + pdu(4, pdv(3, 2, random_bytes(4000))),
    "an empty data set": pdu(4, pdv(3, 3, store(b"1.2.3\0"))) + pdu(4, pdv(3, 2, b"")),
    "a second request for the association": pdu(1, b"\0\1\0\0" + b"A" * 32 + bytes(32)),
    "an acceptance from who asked": pdu(2, b"\0\1\0\0" + b"A" * 32 + bytes(32)),
    "a PDU of no known kind": pdu(77, b"x" * 100),
    "an abort that is too short": pdu(7, b""),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_what_breaks_the_protocol_breaks_one_association(
    name: str, receiver: Receiver, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    died: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", died.append)  # it prints what was sent, perhaps
    with association(receiver) as line:
        with suppress(OSError, AttributeError):
            line.dul.socket.socket.sendall(ATTACKS[name])  # type: ignore[union-attr]
        assert is_served(receiver)
    assert receiver.send(film("one")).returncode == 0
    assert len(images()) == 1, "nothing else was kept"
    assert not [each.exc_type for each in died]
    assert not [each for each in caplog.records if each.levelno >= logging.CRITICAL]


def requests() -> Iterator[bytes]:
    """Requests for an association that lie."""
    names = b"\0\1\0\0" + CALLED.encode().ljust(16) + CALLING.encode().ljust(16) + bytes(32)

    def item(kind: int, body: bytes, length: int | None = None) -> bytes:
        return struct.pack(">BBH", kind, 0, len(body) if length is None else length) + body

    context = item(0x10, b"1.2.840.10008.3.1.1.1")
    syntaxes = item(0x30, CR.encode()) + item(0x40, EXPLICIT.encode())
    yield pdu(1, names)
    yield pdu(1, names[:20])
    yield pdu(1, names + context + item(0x20, b"\1\0\0\0" + syntaxes, length=60_000))
    yield pdu(1, names + context + item(0x20, b"\1\0\0\0" + item(0x30, b"\xff" * 300)))
    yield pdu(1, names + context + item(0x20, b"\2\0\0\0" + syntaxes) * 300)
    yield pdu(1, names + context + item(0x20, b"\1\0\0\0" + syntaxes) + item(0x50, item(0x51, b"\xff" * 4)))
    yield pdu(1, names + context + item(0x20, b"\1\0\0\0" + syntaxes) + item(0x50, item(0x52, b"\0" * 500)))
    for called in (b"\x1b[2J\r\nFRACTURES", b"\0" * 16, "ÄÖÜ".encode("latin-1")):
        yield pdu(1, b"\0\1\0\0" + called[:16].ljust(16) + called[:16].ljust(16) + bytes(32) + context)


def test_a_request_that_lies_is_answered_or_cut_off(receiver: Receiver, caplog: pytest.LogCaptureFixture):
    import socket

    for request in requests():
        with socket.create_connection(("127.0.0.1", receiver.port), timeout=30) as line:
            line.sendall(request)
            with suppress(OSError):
                line.shutdown(socket.SHUT_WR)
                line.recv(1 << 16)
    assert is_served(receiver)
    assert "\x1b" not in caplog.text
    assert "\r\n" not in caplog.text


@pytest.mark.parametrize(
    "tamper",
    [
        lambda data: data[:300],
        lambda data: data.replace(b"PN\x11\x00", b"PN\xff\xff", 1),
        lambda data: data.replace(b"UI", b"\xff\xff", 1),
        lambda data: struct.pack("<HH2sHI", 8, 5, b"SQ", 0, 0xFFFFFFFF) * 20_000 + data,
        lambda data: struct.pack("<HH2sHI", 8, 5, b"UT", 0, 0xFFFFFFF0) + data,
        lambda data: b"",
    ],
    ids=["cut off", "a length that lies", "no VR", "sequences without end", "four gigabytes", "nothing"],
)
def test_a_data_set_that_lies_is_refused_and_the_next_one_kept(
    tamper: Callable[[bytes], bytes], receiver: Receiver
):
    found = split_file(film("one"))
    with association(receiver) as line:
        request = pdu(4, pdv(3, 3, store(found.sop_uid.encode() + b"\0" * (len(found.sop_uid) % 2))))
        lied = tamper(bytes(found.dataset))
        for start in range(0, max(1, len(lied)), 16_000):
            piece = lied[start : start + 16_000]
            request += pdu(4, pdv(3, 2 if start + 16_000 >= len(lied) else 0, piece))
        with suppress(OSError, AttributeError):
            line.dul.socket.socket.sendall(request)  # type: ignore[union-attr]
        assert is_served(receiver)
    assert receiver.send(film("two")).returncode == 0
    with session_scope() as session:
        assert session.scalar(select(func.count()).select_from(ReceivedObject)) == len(kept()) <= 2


def test_one_uid_with_other_bytes_is_another_object_and_neither_is_lost(receiver: Receiver):
    first, second = film("one", 1), film("one", 1, Rows=None, ImageComments="another")
    assert receiver.send(first).returncode == 0
    assert receiver.send(second).returncode == 0
    assert receiver.send(first, second).returncode == 0
    found = [pydicom.dcmread(io.BytesIO(data)) for data in kept()]
    assert [str(each.SOPInstanceUID) for each in found] == [str(found[0].SOPInstanceUID)] * 2
    assert sorted(each.get("ImageComments", "") for each in found)[0].startswith("SYNTHETIC")
    assert {each.get("ImageComments") for each in found} >= {"another"}


@pytest.mark.parametrize(
    ("charset", "name"),
    [
        (b"\\ISO 2022 IR 87 ", b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B"),
        (b"\\ISO 2022 IR 149", b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7"),
        (b"ISO_IR 192", "Ωμέγα^Ñandú\u202e".encode()),
        (b"ISO_IR 100", b"QUILL\r\n\x1b[2J\x00\x07^A"),
        (b"NONSENSE", b"\xff\xfe\xfd"),
    ],
    ids=["kanji", "hangul", "utf-8", "control characters", "no character set"],
)
def test_names_come_through_byte_by_byte_and_into_no_log(
    charset: bytes, name: bytes, receiver: Receiver, caplog: pytest.LogCaptureFixture
):
    def element(tag: bytes, vr: bytes, value: bytes) -> bytes:
        padded = value + b" " * (len(value) % 2)
        return tag + vr + struct.pack("<H", len(padded)) + padded

    data = film("one", SpecificCharacterSet="ISO_IR 100", PatientName="A^B")
    for tag, vr, before, value in (
        (b"\x08\x00\x05\x00", b"CS", b"ISO_IR 100", charset),
        (b"\x10\x00\x10\x00", b"PN", b"A^B", name),
    ):
        assert element(tag, vr, before) in data
        data = data.replace(element(tag, vr, before), element(tag, vr, value))
    with caplog.at_level("DEBUG"):
        assert receiver.send(data, options=("-xe",)).returncode == 0
    (found,) = kept()
    assert element(b"\x10\x00\x10\x00", b"PN", name) in found
    assert "QUILL" not in caplog.text
    assert "Yamada" not in caplog.text


@pytest.mark.parametrize("transaction", ["1.2.3", "1.2\0'; DROP", "x" * 5000, ""])
def test_a_commitment_that_nobody_asked_for_changes_nothing(transaction: str, receiver: Receiver):
    told = Dataset()
    told.add_new(0x00081195, "UI", transaction)
    each = Dataset()
    each.ReferencedSOPClassUID, each.ReferencedSOPInstanceUID = CR, "1.2.3"
    told.ReferencedSOPSequence = [each] * 200
    with association(receiver, VERIFICATION, COMMITMENT) as line, suppress(ValueError, RuntimeError):
        line.send_n_event_report(told, 1, COMMITMENT, COMMITMENT_INSTANCE)
    assert is_served(receiver)


def test_a_uid_is_more_than_dots():
    assert UID.fullmatch("1.2.3")
    assert UID.fullmatch("1.2.840.")  # as some devices write them
    for wrong in (".", "..", "...", "", "1.2/3", "1.2\n", "1" * 65):
        assert not UID.fullmatch(wrong), wrong


# an archive that is asked


class Archive:
    """A DICOMweb service that answers as it is told to."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, bytes, str]] = {}
        self.asked: list[str] = []

    def json(self, path: str, found: Any) -> None:
        data = found if isinstance(found, bytes) else json.dumps(found).encode()
        self.answers[path] = (200, data, "application/dicom+json")

    def answer(self, path: str) -> tuple[int, str, bytes]:
        """Return status, type and body."""
        place, _, query = path.partition("?")
        self.asked.append(place)
        status, data, kind = self.answers.get(place, (404, b"", "text/plain"))
        return status, kind, b"[]" if "offset=0" not in query and "offset=" in query else data


def element(value: object, vr: str = "UI") -> dict[str, object]:
    return {"vr": vr, "Value": [value]}


def offered(archive: Archive, *films: bytes) -> list[dict[str, object]]:
    """Have the archive answer for films; return their studies as a query finds them."""
    studies: dict[str, list[dict[str, object]]] = {}
    for data in films:
        found = pydicom.dcmread(io.BytesIO(data))
        study, series, sop = (
            str(found[w].value) for w in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
        )
        instance = {"0020000E": element(series), "00080018": element(sop), "00080016": element(CR)}
        studies.setdefault(study, []).append(instance)
        archive.json(f"/studies/{study}/instances", studies[study])
        place = f"/studies/{study}/series/{series}/instances/{sop}"
        archive.answers[place] = (200, data, "application/dicom")
    return [
        {"0020000D": element(study), "00201208": element(len(each), "IS")} for study, each in studies.items()
    ]


@pytest.fixture
def archive(database: object, site: uuid.UUID, settings_env: pytest.MonkeyPatch) -> Iterator[Archive]:
    found = Archive()
    with serving(found.answer) as port, session_scope() as session:
        gateway_peers.set_site(session, site, ae_title=CALLED, release=0)
        poll_sources.add(session, site, "archive", f"http://127.0.0.1:{port}", since=date(2026, 11, 19))
        session.commit()
        yield found


def test_one_object_that_an_archive_does_not_give_holds_no_other(archive: Archive):
    studies = offered(archive, film("one", 1), film("one", 2), film("two", 1))
    (missing, *_) = [path for path in archive.answers if "/series/" in path]
    given = archive.answers.pop(missing)
    archive.json("/studies", studies)
    assert poll() == "the archive answers 404"
    assert len(images()) == 2
    with session_scope() as session:
        assert session.scalars(select(PollSource.cursor_day)).one() == date(2026, 11, 19), (
            "nothing is skipped"
        )
    archive.asked.clear()
    archive.answers[missing] = given
    assert poll() is None
    assert len(images()) == 3
    assert [path for path in archive.asked if "/series/" in path] == [missing], (
        "the rest is not fetched again"
    )


def test_studies_that_are_described_wrongly_hold_no_other(archive: Archive):
    (good,) = offered(archive, film("one", 1))
    wrong = [
        *({"0020000D": value} for value in ([], "1.2.3", 5, None, {"Value": {"a": 1}}, {"Value": [".."]})),
        {"0020000D": element("../../admin")},
        {"0020000D": element("1.2.3"), "00201208": element("many", "IS")},
        {"0020000D": element("1.2.4"), "00201208": element("9" * 40, "IS")},
    ]
    archive.json("/studies", [*wrong, good])
    archive.json("/studies/1.2.4/instances", b"[" * 100_000)
    assert poll() == "the archive answers 404"  # of 1.2.3
    assert len(images()) == 1
    assert not [path for path in archive.asked if ".." in path or "admin" in path]


def test_an_object_that_is_too_large_is_refused_once(archive: Archive, settings_env: pytest.MonkeyPatch):
    settings_env.setenv("FRACTUREAI_MAX_FILE_BYTES", "30000")
    get_settings.cache_clear()
    archive.json("/studies", offered(archive, film("one", 1, longest=400), film("one", 2)))
    assert poll() is None
    assert len(images()) == 1
    archive.asked.clear()
    assert poll() is None
    assert not [path for path in archive.asked if "/series/" in path]


def test_an_object_of_another_study_than_was_asked_for_is_refused(archive: Archive):
    studies = offered(archive, film("one", 1))
    (place,) = [path for path in archive.answers if "/series/" in path]
    archive.answers[place] = (200, film("somebody else's", 1), "application/dicom")
    archive.json("/studies", studies)
    assert poll() is None
    assert not images()

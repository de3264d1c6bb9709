"""The receiver: what it takes, from whom, when it says so, and when a study is complete."""

from __future__ import annotations

import contextlib
import io
import socket
import struct
import subprocess
import threading
import time
import uuid
from pathlib import Path

import pydicom
import pytest
from pydicom import config
from pynetdicom.ae import ApplicationEntity
from sqlalchemy import Engine, func, select, text

from interop.listener import force_close_socket
from interop.quiet import quieten
from pipeline.dicom.elements import split_file
from store.base import event_counts
from store.base.blobs import FolderStore, get_blobs
from store.base.errors import BlobFull
from store.base.sealed_blobs import get_opened
from store.base.session import session_scope
from store.base.tables import Image, Priority
from store.intake import batches, gateway_peers, received
from store.intake.gateway_tables import ReceivedObject
from tests.interop.conftest import CALLED, CALLING, Receiver, arrived, film, make_site, receiving
from vocabulary.dicom import MANUFACTURER

SC = "1.2.840.10008.5.1.4.1.1.7"
FOR_PROCESSING = "1.2.840.10008.5.1.4.1.1.1.1.1"
SR = "1.2.840.10008.5.1.4.1.1.88.33"


def said_by(done: subprocess.CompletedProcess[str]) -> str:
    """What a program printed, without spaces."""
    return (done.stderr + done.stdout).replace(" ", "")


def images() -> list[Image]:
    with session_scope() as session:
        return list(session.scalars(select(Image).order_by(Image.seq)))


def wait_until_complete(n: int) -> None:
    """Wait for the ends of associations to be noted, then submit as `reconcile` does."""
    done = 0
    until = time.monotonic() + 20
    while done < n and time.monotonic() < until:
        done += received.complete_due()
        time.sleep(0.05)
    assert done == n


def test_what_is_acknowledged_lies_in_the_store_and_is_submitted_as_one_batch_a_study(receiver: Receiver):
    assert (
        receiver.run("echoscu", "-aet", CALLING, "-aec", CALLED, "127.0.0.1", str(receiver.port)).returncode
        == 0
    )
    sent = [film("one", 1), film("two", 1), film("one", 2)]
    assert receiver.send(*sent).returncode == 0
    wait_until_complete(2)
    (one, first), (two, second) = arrived()
    assert (one.n_objects, two.n_objects) == (first.n_total, second.n_total) == (2, 1)
    assert first.status == second.status == "queued"
    assert first.label == f"DICOM from {CALLING}"
    kept = {pydicom.dcmread(io.BytesIO(get_opened(i.incoming_key or ""))).SOPInstanceUID: i for i in images()}
    for data in sent:
        before = pydicom.dcmread(io.BytesIO(data))
        image = kept.pop(before.SOPInstanceUID)
        after = pydicom.dcmread(io.BytesIO(get_opened(image.incoming_key or "")))
        assert after == before
        assert image.path == f"{before.SOPInstanceUID}.dcm"
    assert not kept


def test_no_name_lies_in_what_has_arrived(receiver: Receiver):
    assert receiver.send(film("one", 1, PatientName="QUILLFEATHER^A", PatientID="ZZYZX-4711")).returncode == 0
    keys = list(get_blobs().keys(""))
    assert keys
    for key in keys:
        lying = get_blobs().get(key)
        assert b"QUILLFEATHER" not in lying
        assert b"ZZYZX" not in lying
        assert b"QUILLFEATHER" in get_opened(key)


def test_what_a_sender_repeats_is_acknowledged_and_kept_once(receiver: Receiver):
    for _ in range(2):
        assert receiver.send(film("one", 1), film("one", 2)).returncode == 0
    wait_until_complete(1)
    assert receiver.send(film("one", 1)).returncode == 0  # and once it is being read
    assert len(images()) == 2
    assert received.complete_due() == 0
    with session_scope() as session:
        assert event_counts.by_name(session)[received.OBJECTS_REPEATED] == 3


def test_one_object_on_many_associations_at_once_is_kept_once(receiver: Receiver, site: uuid.UUID):
    source = received.Source(site, CALLING)
    found = split_file(film("one"))
    answers: list[received.Kept] = []

    def send() -> None:
        answers.append(received.keep(source, found.dataset, found.syntax).kept)

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [received.Kept.NEW, *[received.Kept.REPEATED] * 7]
    assert len(images()) == 1
    assert len(list(get_blobs().keys("incoming/"))) == 1


def test_late_images_are_a_batch_of_their_own(receiver: Receiver):
    receiver.send(film("one", 1))
    wait_until_complete(1)
    receiver.send(film("one", 2))
    wait_until_complete(1)
    (_, first), (_, second) = arrived()
    assert (first.n_total, second.n_total) == (1, 1)
    assert first.id != second.id


def test_a_study_waits_for_news_and_not_for_ever(receiver: Receiver, site: uuid.UUID):
    with session_scope() as session:
        gateway_peers.set_site(session, site, quiet=60, release=10, longest=900)
    receiver.send(film("one"))

    def left() -> float:
        with session_scope() as session:
            return float(
                session.scalar(
                    text("SELECT extract(epoch FROM due_at - clock_timestamp()) FROM received_studies")
                )
            )

    until = time.monotonic() + 20
    while left() > 11 and time.monotonic() < until:
        time.sleep(0.05)
    assert 5 < left() < 11  # its association ended
    assert received.complete_due() == 0
    found = split_file(film("one", 2))
    received.keep(received.Source(site, CALLING), found.dataset, found.syntax)
    assert 55 < left() < 61  # another one still sends
    with session_scope() as session:
        session.execute(text("UPDATE received_studies SET first_at = first_at - interval '890 seconds'"))
    found = split_file(film("one", 3))
    received.keep(received.Source(site, CALLING), found.dataset, found.syntax)
    assert left() < 11


def test_what_a_person_submitted_or_cancelled_takes_no_more(receiver: Receiver, site: uuid.UUID):
    receiver.send(film("one", 1))
    ((_, first),) = arrived()
    with session_scope() as session:
        batches.cancel(session, first.id, site)
    receiver.send(film("one", 1), film("one", 2))
    *_, (_, second) = arrived()
    assert second.id != first.id
    assert second.n_total == 2  # also what was cancelled: whoever sends it again wants it read


@pytest.mark.parametrize(
    ("called", "calling", "reason"),
    [
        ("OTHER", CALLING, "Called AE Title Not Recognized"),
        (CALLED, "STRANGER", "Calling AE Title Not Recognized"),
    ],
)
def test_strangers_are_refused(receiver: Receiver, called: str, calling: str, reason: str):
    said = receiver.send(film("one"), called=called, calling=calling)
    assert said.returncode != 0
    assert reason in said.stderr + said.stdout
    assert not images()


def test_an_ae_title_counts_from_its_own_network_and_for_its_own_site(receiver: Receiver, site: uuid.UUID):
    other = make_site("B")
    with session_scope() as session:
        gateway_peers.set_site(session, other, ae_title="OTHER")
        gateway_peers.allow(session, site, CALLING, ["10.0.0.0/8"])
    assert receiver.send(film("one")).returncode != 0
    assert receiver.send(film("one"), called="OTHER").returncode != 0
    with session_scope() as session:
        gateway_peers.allow(session, other, CALLING, ["127.0.0.1"])
    assert receiver.send(film("one"), called="OTHER").returncode == 0
    assert [image.site_id for image in images()] == [other]


def test_images_for_processing_are_refused_by_their_class(receiver: Receiver):
    said = receiver.send(film("one", SOPClassUID=FOR_PROCESSING))
    assert said.returncode != 0
    assert "No valid Presentation Context" in said.stderr + said.stdout
    assert not images()


def test_our_own_objects_are_acknowledged_and_never_read_and_those_of_others_are(
    receiver: Receiver, site: uuid.UUID
):
    ours = film("one", 1, SOPClassUID=SC, Manufacturer=MANUFACTURER)
    known = film("one", 2, SOPClassUID=SC)  # an archive that took the equipment out
    with session_scope() as session:
        received.register_own_object(session, site, pydicom.dcmread(io.BytesIO(known)).SOPInstanceUID, SC)
    assert receiver.send(ours, known).returncode == 0
    assert not images()
    with session_scope() as session:
        assert event_counts.by_name(session)[received.OBJECTS_RETURNED] == 2
    assert receiver.send(film("one", 3, SOPClassUID=SC)).returncode == 0
    assert len(images()) == 1


def test_reports_of_others_are_refused_and_ours_acknowledged(receiver: Receiver):
    report = film("one", SOPClassUID=SR, PixelData=None)
    assert "SOPClassNotSupported" in said_by(receiver.send(report))
    ours = film("one", SOPClassUID=SR, PixelData=None, Manufacturer=MANUFACTURER)
    assert "(Success)" in said_by(receiver.send(ours))
    assert not images()


def test_an_object_without_a_study_is_not_understood(receiver: Receiver):
    said = receiver.send(film("one", StudyInstanceUID=None))
    assert "CannotUnderstand" in said.stderr + said.stdout
    assert not images()


def test_a_full_store_says_so_and_other_trouble_too(
    receiver: Receiver, site: uuid.UUID, monkeypatch: pytest.MonkeyPatch
):
    def full(*_: object, **__: object) -> tuple[str, int]:
        raise BlobFull

    with monkeypatch.context() as broken:
        broken.setattr(FolderStore, "put", full)
        said = receiver.send(film("one"))
    assert "OutOfResources" in said.stderr + said.stdout
    with session_scope() as session:
        session.execute(text("UPDATE sites SET default_bundle = NULL"))
    assert "0x110" in said_by(receiver.send(film("two")))
    assert not images()
    assert not list(get_blobs().keys("incoming/"))
    with session_scope() as session:
        session.execute(text("UPDATE sites SET default_bundle = 'b1', quota_bytes = 10"))
    assert "OutOfResources" in (said := receiver.send(film("one"))).stderr + said.stdout
    with session_scope() as session:
        session.execute(text("UPDATE sites SET quota_bytes = NULL"))
    assert receiver.send(film("one")).returncode == 0
    assert len(images()) == 1


def test_urgency_by_who_calls_and_by_what_the_header_says(receiver: Receiver, site: uuid.UUID):
    with session_scope() as session:
        gateway_peers.allow(session, site, "EMERGENCY", ["127.0.0.1"], urgent=True)
        gateway_peers.set_site(session, site, urgent_rules=["0040,1003=high"])
    receiver.send(film("one"))
    receiver.send(film("two"), calling="EMERGENCY")
    receiver.send(film("three", RequestedProcedurePriority="HIGH"))
    assert [batch.priority for _, batch in arrived()] == [
        Priority.NORMAL.rank,
        Priority.URGENT.rank,
        Priority.URGENT.rank,
    ]


def test_a_pdu_that_claims_too_much_is_not_read(receiver: Receiver):
    with socket.create_connection(("127.0.0.1", receiver.port), timeout=10) as line:
        line.sendall(struct.pack(">BBI", 1, 0, 1 << 31))
        line.sendall(bytes(1 << 16))
        line.settimeout(10)
        with contextlib.suppress(ConnectionResetError):
            assert line.recv(100)[:1] in {b"", b"\x07"}  # closed, or aborted


def test_names_reach_neither_database_nor_log(
    receiver: Receiver, site: uuid.UUID, caplog: pytest.LogCaptureFixture
):
    name = "ZZYZX^SECRET"
    with caplog.at_level("DEBUG"):
        receiver.send(film("one", PatientName=name, PatientID="ZZYZX-4711"))
        receiver.send(film("one", PatientName=name, StudyInstanceUID=None))
    assert "ZZYZX" not in caplog.text
    with session_scope() as session:
        tables = session.scalars(text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")).all()
        for table in tables:
            rows = session.execute(text(f"SELECT * FROM {table}")).all()
            assert "ZZYZX" not in repr(rows), table


def test_every_object_has_its_row_and_its_bytes(receiver: Receiver):
    receiver.send(*[film(f"s{n % 3}", n) for n in range(12)])
    with session_scope() as session:
        assert session.scalar(select(func.count()).select_from(ReceivedObject)) == 12
    assert sorted(image.incoming_key for image in images()) == sorted(get_blobs().keys("incoming/"))


def test_more_associations_than_set_are_refused_for_now(receiver: Receiver, settings_env, tmp_path: Path):
    from tests.interop.conftest import receiving

    with receiving(settings_env, tmp_path, ASSOCIATIONS="2") as small:
        entity = ApplicationEntity(CALLING)
        entity.add_requested_context("1.2.840.10008.1.1")
        held = [entity.associate("127.0.0.1", small.port, ae_title=CALLED) for _ in range(3)]
        assert [one.is_established for one in held] == [True, True, False]
        for one in held[:2]:
            force_close_socket(one.dul.socket)
            one.release()


def test_a_malformed_value_is_quoted_nowhere(
    database: Engine, settings_env: pytest.MonkeyPatch, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    settings_env.setattr(config.settings, "reading_validation_mode", config.WARN)
    settings_env.setattr(config.settings, "writing_validation_mode", config.WARN)
    quieten.cache_clear()
    with receiving(settings_env, tmp_path):
        pydicom.DataElement(0x00080018, "UI", "DOE^JANE")
    assert not recwarn.list

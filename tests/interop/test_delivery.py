"""Results on their way back to a real archive: sealed identities, objects of the right patient, each once."""

from __future__ import annotations

import contextlib
import io
import socket
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pydicom
import pytest
from sqlalchemy import select, text, update

from cli.embedded import free_port
from interop.deliver import deliver
from interop.private_keys import KeyMissing, KeyRing, make_key_pair
from pipeline.dicom.elements import split_file
from settings import get_settings
from store.accounts import accounts
from store.accounts.accounts import Role
from store.base.blobs import get_blobs
from store.base.session import session_scope
from store.base.tables import Batch, Image, Notice, StudyFinding, Work, WorkKind, WorkState
from store.intake import envelopes, gateway_peers, received
from store.intake.envelopes import Binding, EnvelopeUnreadable
from store.intake.gateway_tables import GatewaySite
from store.operations import fsck, retention
from store.outgoing import deliveries, notices
from store.outgoing.deliveries import ObjectKind, Protocol
from store.outgoing.delivery_tables import Delivery, Destination
from store.queue import work
from store.reading import reviews, study_view
from tests.interop.conftest import film, receiving
from tests.interop.orthanc import AE_TITLE, Orthanc, running_orthanc
from tests.running import wait_for
from tests.worker.conftest import cache_folder, kept_folder, service_settings, site_id, untrained_bundle
from tests.worker.test_reading import read
from tests.worker.test_signing import sign_due
from vocabulary.dicom import COMPREHENSIVE_3D_SR
from vocabulary.dicom import COMPREHENSIVE_SR as SR
from vocabulary.dicom import ENCAPSULATED_PDF as PDF
from vocabulary.dicom import SECONDARY_CAPTURE as SC
from vocabulary.states import Answer
from worker import flow

__all__ = ["cache_folder", "kept_folder", "service_settings", "site_id", "untrained_bundle"]

NAME = "Müller^Jörg"


@dataclass
class Reading:
    """A study that was read, whose results wait for the archive."""

    site: uuid.UUID
    batch: Batch
    film: bytes
    keys: Path

    @property
    def image(self) -> Image:
        with session_scope() as session:
            return session.scalars(select(Image).where(Image.batch_id == self.batch.id)).one()


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Orthanc]:
    with running_orthanc(tmp_path / "orthanc") as running:
        yield running


def reach(site: uuid.UUID, archive: Orthanc, protocol: Protocol) -> None:
    with session_scope() as session:
        if protocol is Protocol.DIMSE:
            deliveries.add_destination(
                session,
                site,
                "archive",
                protocol,
                f"127.0.0.1:{archive.dicom}",
                called=AE_TITLE,
                calling="FRACTURES",
            )
        else:
            deliveries.add_destination(
                session, site, "archive", protocol, f"http://127.0.0.1:{archive.http}/dicom-web"
            )


def prepared(site: uuid.UUID, archive: Orthanc, tmp_path: Path, protocol: Protocol) -> Reading:
    keys = tmp_path / "keys"
    with session_scope() as session:
        envelopes.add_key(session, site, make_key_pair(keys))
    reach(site, archive, protocol)
    data = film(
        "a study", longest=160, SpecificCharacterSet="ISO_IR 100", PatientName=NAME, PatientID="ZZYZX-4711"
    )
    batch = read(site, {"a.dcm": data})
    return Reading(site, batch, data, keys)


@pytest.fixture
def reading(
    site_id: uuid.UUID, archive: Orthanc, tmp_path: Path, service_settings: pytest.MonkeyPatch
) -> Reading:
    service_settings.setenv("FRACTUREAI_GATEWAY_KEYS", str(tmp_path / "keys"))
    service_settings.setenv("FRACTUREAI_DELIVERY_TIMEOUT_SECONDS", "5")
    get_settings.cache_clear()
    return prepared(site_id, archive, tmp_path, Protocol.DIMSE)


def run_due() -> None:
    """Run every unit of delivery that is not over, whenever it is due, as if archives had rested enough."""
    waiting = (WorkState.DUE, WorkState.PUBLISHED)
    with session_scope() as session:
        session.execute(update(Destination).values(rest_until=None))
        units = session.scalars(
            select(Work.id).where(Work.kind == WorkKind.DELIVER, Work.state.in_(waiting))
        ).all()
    for unit in units:
        flow.run(unit, None, deliver)


def states() -> dict[str, tuple[str, str]]:
    with session_scope() as session:
        return {each.kind: (each.state, each.detail) for each in session.scalars(select(Delivery))}


def committed() -> bool:
    return {state for state, _ in states().values()} == {"committed"}


def test_objects_lie_in_the_archive_under_the_patient_each_once(
    reading: Reading, archive: Orthanc, tmp_path: Path
):
    assert states() == dict.fromkeys(("sc", "summary", "sr", "pdf"), ("waiting", ""))
    archive.put(reading.film)
    run_due()
    assert committed(), states()
    source = pydicom.dcmread(io.BytesIO(reading.film))
    first = archive.files()
    assert len(first) == 5
    for uid, data in first.items():
        if uid == source.SOPInstanceUID:
            continue
        ours = pydicom.dcmread(io.BytesIO(data))
        for word in ("SpecificCharacterSet", "PatientName", "PatientID", "PatientBirthDate", "PatientSex",
                     "StudyInstanceUID", "StudyDate", "StudyTime", "AccessionNumber", "StudyID"):  # fmt: skip
            tag = pydicom.tag.Tag(word)
            assert (ours.get_item(tag).value or b"") == (source.get_item(tag).value or b""), word
        assert ours.SeriesNumber >= 9001
        assert "NOT FOR DIAGNOSIS" in ours.SeriesDescription
        path = tmp_path / "object.dcm"
        path.write_bytes(data)
        checked = subprocess.run(["/usr/bin/dciodvfy", path], capture_output=True, text=True, check=False)
        assert "Error" not in checked.stderr + checked.stdout, checked.stderr
        if ours.Modality == "SR":
            assert ours.SOPClassUID == COMPREHENSIVE_3D_SR  # Orthanc says that it takes it
            dumped = subprocess.run(["/usr/bin/dsrdump", path], capture_output=True, check=True)
            assert b"PRELIMINARY" in dumped.stdout
            assert b"UNVERIFIED" in dumped.stdout
        if ours.Modality == "DOC":
            with session_scope() as session:
                report = session.scalars(select(StudyFinding)).one().report_key or ""
            assert ours.EncapsulatedDocument.startswith(get_blobs().get(report))
    # once more, with the archive empty: the same bytes
    for uid in set(first) - {source.SOPInstanceUID}:
        archive.delete(uid)
    with session_scope() as session:
        for each in session.scalars(select(Delivery)).all():
            deliveries.retry(session, each)
    run_due()
    assert committed()
    assert archive.files() == first
    # and should they come back, they are known and not read
    with session_scope() as session:
        session.add(GatewaySite(site_id=reading.site, ae_title="FRACTURES"))
    for uid in set(first) - {source.SOPInstanceUID}:
        found = split_file(first[uid])
        arrival = received.keep(received.Source(reading.site, "ARCHIVE"), found.dataset, found.syntax)
        assert arrival.kept is received.Kept.MADE_HERE


def test_a_signed_reading_follows_as_a_report_of_its_own(reading: Reading, archive: Orthanc):
    run_due()
    study_id = reading.image.study_id
    assert study_id is not None
    with session_scope() as session:
        reader = accounts.create_user(session, reading.site, "ana@localhost", role=Role.CLINICIAN)
        reader.name = "Dr Ana Reader"
        session.flush()
        found = study_view.get_study(session, reading.site, study_id, trials=False)
        place = reviews.Place(reading.image.id, 10, 20, 30, 40)
        reviews.record(session, found, reader.id, Answer.PRESENT, comment="Fifth ray", place=place, sign=True)
    sign_due()
    run_due()
    assert committed(), states()
    objects = [pydicom.dcmread(io.BytesIO(data)) for data in archive.files().values()]
    # the report and the PDF of the reader beside those of the AI; pictures and the AI's report as they were
    assert sorted(each.SeriesNumber for each in objects) == [9001, 9002, 9003, 9003, 9004, 9005]
    (signed,) = [each for each in objects if each.SeriesNumber == 9005]
    assert (signed.VerificationFlag, signed.PreliminaryFlag) == ("VERIFIED", "FINAL")
    assert str(signed.VerifyingObserverSequence[0].VerifyingObserverName) == "Dr Ana Reader^"
    assert str(signed.PatientName) == NAME


def test_by_dicomweb_too(
    site_id: uuid.UUID, archive: Orthanc, tmp_path: Path, service_settings: pytest.MonkeyPatch
):
    service_settings.setenv("FRACTUREAI_GATEWAY_KEYS", str(tmp_path / "keys"))
    get_settings.cache_clear()
    reading = prepared(site_id, archive, tmp_path, Protocol.STOW)
    archive.put(reading.film)
    run_due()
    assert committed(), states()
    assert len(archive.files()) == 5
    with session_scope() as session:  # DICOMweb negotiates nothing: the class that every archive knows
        assert session.scalars(select(Delivery.sop_class).where(Delivery.kind == "sr")).one() == SR


def test_an_archive_that_takes_no_3d_report_gets_the_plain_one(
    site_id: uuid.UUID, tmp_path: Path, service_settings: pytest.MonkeyPatch
):
    """DCMTK's storescp with a profile of its own: it takes what it is told, and cannot be asked."""
    service_settings.setenv("FRACTUREAI_GATEWAY_KEYS", str(tmp_path / "keys"))
    get_settings.cache_clear()
    with taking(tmp_path, SC, SR, PDF) as port:
        with session_scope() as session:
            envelopes.add_key(session, site_id, make_key_pair(tmp_path / "keys"))
            deliveries.add_destination(
                session, site_id, "plain", Protocol.DIMSE, f"127.0.0.1:{port}",
                called="PLAIN", calling="FRACTURES",
            )  # fmt: skip
        read(site_id, {"a.dcm": film("a study", longest=160)})
        run_due()
        assert {state for state, _ in states().values()} == {"sent"}, states()
        kept = {each.SOPClassUID for each in map(pydicom.dcmread, (tmp_path / "taken").iterdir())}
    assert kept == {SC, SR, PDF}


_PROFILE = """
[[TransferSyntaxes]]
[Plain]
TransferSyntax1 = LocalEndianExplicit
[[PresentationContexts]]
[Contexts]
{contexts}
[[Profiles]]
[Default]
PresentationContexts = Contexts
"""


@contextmanager
def taking(folder: Path, *classes: str) -> Iterator[int]:
    """Run DCMTK's storescp, which takes these classes alone and keeps them in `taken`."""
    contexts = "\n".join(f"PresentationContext{n} = {uid}\\Plain" for n, uid in enumerate(classes, 1))
    (folder / "profile.cfg").write_text(_PROFILE.format(contexts=contexts))
    (folder / "taken").mkdir()
    port = free_port()
    command = [
        "/usr/bin/storescp",
        "-xf",
        folder / "profile.cfg",
        "Default",
        "-od",
        folder / "taken",
        str(port),
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        try:
            wait_for(lambda: listens(port), 60, "storescp")
            yield port
        finally:
            process.kill()


def listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def test_what_stands_in_the_way_now_and_what_for_good(reading: Reading, archive: Orthanc):
    archive.stop()
    run_due()
    assert {state for state, _ in states().values()} == {"waiting"}
    # one object has tried it, the others wait: each would hold the worker for as long
    details = sorted(detail for _, detail in states().values())
    assert details == [*[""] * (len(details) - 1), "no association"]
    with session_scope() as session:
        resting = session.scalars(select(Destination)).one()
        assert (resting.failures, resting.last_error) == (1, "no association")
        assert sum(session.scalars(select(Delivery.attempts))) == 1
        dues = session.scalars(select(Work.due_at).where(Work.kind == WorkKind.DELIVER))
        assert resting.rest_until <= min(dues)
    archive.start()
    run_due()
    assert committed()
    with session_scope() as session:
        assert session.scalars(select(Destination.failures)).one() == 0


def test_an_instance_that_vanishes_before_it_is_found_is_sent_again(reading: Reading, archive: Orthanc):
    run_due()
    with session_scope() as session:
        lost = session.scalars(select(Delivery).where(Delivery.kind == "pdf")).one()
        # as a process leaves it that was killed between the archive's answer and the question after it
        lost.state, lost.attempts = "sent", 5
        work.add_unit(session, WorkKind.DELIVER, site_id=reading.site, subject_id=lost.id)
    archive.delete(lost.sop_uid)
    assert lost.sop_uid not in archive.files()
    run_due()
    assert committed()
    assert lost.sop_uid in archive.files()


def test_another_patient_under_the_study_is_held_for_a_person(reading: Reading, archive: Orthanc):
    other = pydicom.dcmread(io.BytesIO(reading.film))
    other.PatientID, other.PatientName = "9999", "Other^Person"
    target = io.BytesIO()
    other.save_as(target, enforce_file_format=True)
    archive.put(target.getvalue())
    run_due()
    assert {state for state, _ in states().values()} == {"identity_conflict"}
    assert len(archive.files()) == 1


def test_an_archive_that_does_not_know_us_is_left_alone(reading: Reading, archive: Orthanc):
    with session_scope() as session:
        event = [notices.Event.STOPPED_DESTINATION]
        notices.add_target(session, reading.site, notices.Channel.WEBHOOK, "https://ris.example/", event)
        session.execute(update(Destination).values(called="NOBODY", address=f"127.0.0.1:{_rejecting()}"))
    run_due()
    with session_scope() as session:
        destination = session.scalars(select(Destination)).one()
        assert "rejected for good" in (destination.stopped or "")
        told = session.scalars(select(Notice)).all()
        assert {each.event for each in told} == {"destination.stopped"}
        assert told[0].payload["data"]["destination"] == "archive"
    assert {state for state, _ in states().values()} == {"waiting"}
    with session_scope() as session:
        destination = session.scalars(select(Destination)).one()
        destination.called, destination.address = AE_TITLE, f"127.0.0.1:{archive.dicom}"
        deliveries.resume(session, destination)
    run_due()
    assert committed()


def _rejecting() -> int:
    """A receiver that knows nobody called so; it ends with the test's process."""
    from pynetdicom.ae import ApplicationEntity

    entity = ApplicationEntity("SOMEBODY")
    entity.require_called_aet = True
    entity.add_supported_context("1.2.840.10008.1.1")
    server = entity.start_server(("127.0.0.1", 0), block=False)
    assert server is not None
    return int(server.server_address[1])


def test_nothing_opens_without_the_private_key_or_in_another_place(reading: Reading, archive: Orthanc):
    image = reading.image
    sealed = get_blobs().get(image.envelope_key or "")
    assert b"ZZYZX" not in sealed
    right = Binding(image.site_id, image.study_uid, image.id)
    ring = KeyRing(str(reading.keys))
    assert b"ZZYZX-4711" in ring.open(sealed, right)
    for wrong in (
        Binding(uuid.uuid4(), image.study_uid, image.id),
        Binding(image.site_id, "1.2.3", image.id),
        Binding(image.site_id, image.study_uid, uuid.uuid4()),
    ):
        with pytest.raises(EnvelopeUnreadable):
            ring.open(sealed, wrong)
    with pytest.raises(EnvelopeUnreadable):
        ring.open(sealed[:-1] + bytes([sealed[-1] ^ 1]), right)
    (key,) = reading.keys.iterdir()
    kept = key.read_text()
    key.unlink()
    with pytest.raises(KeyMissing):
        ring.open(sealed, right)
    run_due()
    assert {state for state, _ in states().values()} == {"waiting"}
    assert "is not here" in states()["sr"][1]
    key.write_text(kept)
    key.chmod(0o644)
    with pytest.raises(KeyMissing, match="others may read"):
        ring.open(sealed, right)
    key.chmod(0o400)
    with session_scope() as session:  # another key from now on: the earlier one is still needed
        envelopes.add_key(session, reading.site, make_key_pair(reading.keys))
    run_due()
    assert committed()


def test_names_lie_nowhere_and_erasure_leaves_no_envelope(reading: Reading, archive: Orthanc, caplog):
    with caplog.at_level("DEBUG"):
        run_due()
    assert committed()
    assert "ZZYZX" not in caplog.text
    with session_scope() as session:
        for table in session.scalars(
            text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        ).all():
            assert "ZZYZX" not in repr(session.execute(text(f"SELECT * FROM {table}")).all()), table
    for key in get_blobs().keys(""):
        assert b"ZZYZX" not in get_blobs().get(key), key
    assert fsck.check().clean, fsck.check().problems
    assert [key for key in get_blobs().keys("") if key.endswith("-envelope")]
    image = reading.image
    assert image.study_id is not None
    retention.erase_studies(reading.site, [image.study_id], by=None)
    assert not [key for key in get_blobs().keys("") if "envelope" in key]
    with session_scope() as session:
        assert not session.scalars(select(Delivery)).all()
    run_due()


def test_what_a_bundle_on_trial_says_never_leaves(
    site_id: uuid.UUID, archive: Orthanc, tmp_path: Path, service_settings: pytest.MonkeyPatch
):
    with session_scope() as session:
        session.execute(text("UPDATE sites SET default_bundle = NULL"))
        name = session.scalar(text("SELECT name FROM bundles"))
        envelopes.add_key(session, site_id, make_key_pair(tmp_path / "keys"))
    reach(site_id, archive, Protocol.DIMSE)
    read(site_id, {"a.dcm": film("a study", longest=160)}, bundle=name)
    assert not states()


def test_kinds_and_triage_narrow_what_goes(reading: Reading, archive: Orthanc):
    with session_scope() as session:
        finding = session.scalars(select(StudyFinding)).one()
        for name, kinds, triage in (
            ("reports", [ObjectKind.SR], []),
            ("others", [], [t for t in ("positive", "doubt") if t != finding.triage][:1]),
        ):
            from vocabulary.states import Triage

            deliveries.add_destination(
                session,
                reading.site,
                name,
                Protocol.DIMSE,
                "127.0.0.1:104",
                called="A",
                calling="B",
                kinds=kinds,
                triage=[Triage(each) for each in triage],
            )
        batch = session.get_one(Batch, reading.batch.id)
        assert deliveries.queue(session, batch, [finding]) == 1
        assert deliveries.queue(session, batch, [finding]) == 0


def test_an_archive_that_cannot_be_asked_commits_itself_on_an_association_of_its_own(
    site_id: uuid.UUID, tmp_path: Path, service_settings: pytest.MonkeyPatch
):
    service_settings.setenv("FRACTUREAI_GATEWAY_KEYS", str(tmp_path / "keys"))
    with receiving(service_settings, tmp_path) as receiver:
        ours = {"AET": "FRACTURES", "Host": "127.0.0.1", "Port": receiver.port, "AllowFind": False}
        with running_orthanc(
            tmp_path / "orthanc", DicomAlwaysAllowFind=False, DicomModalities={"us": ours}
        ) as archive:
            with session_scope() as session:
                gateway_peers.set_site(session, site_id, ae_title="FRACTURES")
                gateway_peers.allow(session, site_id, AE_TITLE, ["127.0.0.1"])
            prepared(site_id, archive, tmp_path, Protocol.DIMSE)
            run_due()
            wait_for(committed, 60, "the archive's word")
            assert {detail for _, detail in states().values()} == {"by storage commitment"}
            with session_scope() as session:
                assert None not in set(session.scalars(select(Delivery.committed_at)))

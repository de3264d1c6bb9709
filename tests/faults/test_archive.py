"""Twenty studies' results on their way to an Orthanc that is full, hangs, refuses and stops; a sender killed.

Afterwards each object lies there once, under the patient of the source, with the bytes that are made of it.
"""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pydicom
import pytest
from sqlalchemy import select, update

from interop import deliver as delivering
from interop.private_keys import make_key_pair
from pipeline.dicom.elements import split_file
from settings import get_settings
from store.base.session import session_scope
from store.base.tables import Notice, Work, WorkKind, WorkState
from store.intake import envelopes
from store.outgoing import deliveries, notices
from store.outgoing.deliveries import DeliveryState, Protocol
from store.outgoing.delivery_tables import Delivery, Destination
from store.queue import work
from tests.conftest import ROOT
from tests.faults.disk import fill, mounted
from tests.interop.conftest import film
from tests.interop.orthanc import AE_TITLE, Orthanc, running_orthanc
from tests.interop.test_delivery import run_due
from tests.npm import npm_folder, run_script
from tests.worker.test_reading import read

pytestmark = pytest.mark.faults

STUDIES = 20
#: Objects of a study of one image: picture, summary, report, PDF.
OBJECTS = 4

#: Delivers one object, and is killed after the archive has taken it and before that is written down.
_KILLED = """
import os, signal, sys, uuid
from interop import deliver
from worker import flow
deliver._ask_commitment = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
flow.run(uuid.UUID(sys.argv[1]), None, deliver.deliver)
"""

_DCMJS = """
const fs = require("fs");
const dcmjs = require("dcmjs");
dcmjs.log.setLevel && dcmjs.log.setLevel("error");
const out = [];
for (const path of process.argv.slice(2)) {
  const found = dcmjs.data.DicomMessage.readFile(new Uint8Array(fs.readFileSync(path)).buffer);
  const set = dcmjs.data.DicomMetaDictionary.naturalizeDataset(found.dict);
  out.push([set.SOPInstanceUID, set.PatientID]);
}
console.log(JSON.stringify(out));
"""


def patient(study: int) -> dict[str, str]:
    return {
        "PatientName": f"Müller{study}^Jörg",
        "PatientID": f"ZZYZX-{study}",
        "SpecificCharacterSet": "ISO_IR 100",
    }


@pytest.fixture
def films(site_id: uuid.UUID, tmp_path: Path, service_settings: pytest.MonkeyPatch) -> list[bytes]:
    """One film of each study; they were read, and their results wait for an archive that is not known yet."""
    service_settings.setenv("FRACTUREAI_GATEWAY_KEYS", str(tmp_path / "keys"))
    service_settings.setenv("FRACTUREAI_DELIVERY_TIMEOUT_SECONDS", "20")
    get_settings.cache_clear()
    with session_scope() as session:
        envelopes.add_key(session, site_id, make_key_pair(tmp_path / "keys"))
        deliveries.add_destination(
            session, site_id, "archive", Protocol.DIMSE, "127.0.0.1:104", called=AE_TITLE, calling="FRACTURES"
        )
        event = [notices.Event.STOPPED_DESTINATION]
        notices.add_target(session, site_id, notices.Channel.WEBHOOK, "https://ris.example/", event)
    made = [film(f"study {n}", n, longest=160, **patient(n)) for n in range(STUDIES)]
    read(site_id, {f"{n}.dcm": data for n, data in enumerate(made)})
    return made


def states() -> Counter[str]:
    with session_scope() as session:
        return Counter(session.scalars(select(Delivery.state)))


def details(state: DeliveryState) -> set[str]:
    with session_scope() as session:
        return set(
            session.scalars(select(Delivery.detail).where(Delivery.state == state, Delivery.detail != ""))
        )


def waiting_units(n: int) -> list[uuid.UUID]:
    query = (
        select(Work.id)
        .join(Delivery, Delivery.id == Work.subject_id)
        .where(
            Delivery.state == DeliveryState.WAITING,
            Work.kind == WorkKind.DELIVER,
            Work.state == WorkState.DUE,
        )
    )
    with session_scope() as session:
        session.execute(update(Destination).values(rest_until=None))
        return list(session.scalars(query.order_by(Delivery.created_at, Delivery.id).limit(n)))


def killed_after_sending(archive: Orthanc, n: int) -> None:
    """Let processes send an object each, and be killed before they have written that down."""
    before = len(archive.files())
    for unit in waiting_units(n):
        done = subprocess.run(
            [sys.executable, "-c", _KILLED, str(unit)], cwd=ROOT, env={**os.environ}, check=False
        )
        assert done.returncode == -signal.SIGKILL
    assert len(archive.files()) == before + n
    assert states()["waiting"] >= n, "nobody knows yet that they left"
    with session_scope() as session:  # their leases run out
        units = update(Work).where(Work.kind == WorkKind.DELIVER, Work.state == WorkState.RUNNING)
        session.execute(units.values(state=WorkState.DUE.value, lease_until=None, lease_token=None))


def lost_before_commitment(site: uuid.UUID, archive: Orthanc) -> Callable[[], None]:
    """Have an object vanish before the archive commits itself; return what asserts that it came again."""
    with session_scope() as session:
        lost = session.scalars(
            select(Delivery).where(Delivery.state == DeliveryState.COMMITTED).order_by(Delivery.id).limit(1)
        ).one()
        lost.state, lost.attempts, lost.committed_at = DeliveryState.SENT.value, 5, None
        session.flush()
        work.add_unit(session, WorkKind.DELIVER, site_id=site, subject_id=lost.id)
        uid, sent_at = lost.instance_uid, lost.sent_at
    archive.delete(uid)
    assert uid not in archive.files()

    def returned() -> None:
        assert uid in archive.files()
        with session_scope() as session:
            kept = session.get_one(Delivery, lost.id)
            assert kept.sent_at != sent_at
            assert kept.attempts == 6, "sent once more"

    return returned


def test_each_object_lies_in_the_archive_once_whatever_it_went_through(
    site_id: uuid.UUID, films: list[bytes], home: Path, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    dcmjs = npm_folder(pytestconfig, "dcmjs@0.41.0")
    assert states() == {"waiting": STUDIES * OBJECTS}
    with (
        mounted(home / f"archive-{uuid.uuid4().hex[:8]}", "64m") as disk,
        running_orthanc(tmp_path / "orthanc", StorageDirectory=str(disk)) as archive,
    ):
        with session_scope() as session:
            session.execute(update(Destination).values(address=f"127.0.0.1:{archive.dicom}"))
        for data in films[:-1]:
            archive.put(data)
        stranger = pydicom.dcmread(io.BytesIO(films[-1]))
        stranger.PatientID, stranger.PatientName = "9999", "Other^Person"
        target = io.BytesIO()
        stranger.save_as(target, enforce_file_format=True)
        archive.put(target.getvalue())

        archive.stop()
        run_due()
        assert states() == {"waiting": STUDIES * OBJECTS}
        assert details(DeliveryState.WAITING) == {"no association"}

        archive.start()
        fill(disk / "filler")
        run_due()
        full = states()
        assert full["committed"] == full["sent"] == full["failed"] == 0, (full, details(DeliveryState.FAILED))
        assert len(archive.files()) == STUDIES
        (disk / "filler").unlink()

        archive.hang()
        run_due()
        assert states()["committed"] == 0
        archive.wake()

        archive.restart(DicomAet="SOMEBODY", DicomCheckCalledAet=True)
        run_due()
        with session_scope() as session:
            destination = session.scalars(select(Destination)).one()
            assert "rejected for good" in (destination.stopped or "")
            assert session.scalars(select(Notice.event)).all() == ["destination.stopped"]
            deliveries.resume(session, destination)
        archive.restart(DicomAet=AE_TITLE, DicomCheckCalledAet=False)

        killed_after_sending(archive, 3)
        run_due()
        assert states() == {"committed": (STUDIES - 1) * OBJECTS, "identity_conflict": OBJECTS}
        returned = lost_before_commitment(site_id, archive)
        run_due()
        returned()
        assert states() == {"committed": (STUDIES - 1) * OBJECTS, "identity_conflict": OBJECTS}
        kept = archive.files()
        of_archive = archive.get("/statistics")

    sources = {str(pydicom.dcmread(io.BytesIO(data)).SOPInstanceUID): data for data in films}
    with session_scope() as session:
        sent = session.scalars(select(Delivery).where(Delivery.state == DeliveryState.COMMITTED)).all()
    assert kept.keys() == sources.keys() | {each.instance_uid for each in sent}
    assert of_archive["CountInstances"] == STUDIES + (STUDIES - 1) * OBJECTS
    assert of_archive["CountStudies"] == STUDIES
    objects = tmp_path / "objects"
    objects.mkdir()
    by_study = {str(pydicom.dcmread(io.BytesIO(data)).StudyInstanceUID): n for n, data in enumerate(films)}
    for each in sent:
        data = kept[each.instance_uid]
        assert split_file(data).dataset == split_file(delivering._make(each).data).dataset, each.kind
        (objects / f"{each.instance_uid}.dcm").write_bytes(data)
        found = pydicom.dcmread(io.BytesIO(data))
        of_source = patient(by_study[str(found.StudyInstanceUID)])
        assert {word: str(found[word].value) for word in of_source} == of_source
    paths = sorted(objects.iterdir())
    for path in paths:
        checked = subprocess.run(["/usr/bin/dciodvfy", path], capture_output=True, text=True, check=False)
        assert not re.search(r"^Error", checked.stderr + checked.stdout, re.MULTILINE), checked.stderr
        if pydicom.dcmread(path, stop_before_pixels=True).Modality == "SR":
            dumped = subprocess.run(["/usr/bin/dsrdump", path], capture_output=True, check=True).stdout
            assert b"PRELIMINARY" in dumped
    read_there = dict(json.loads(run_script(dcmjs, _DCMJS, *paths).strip().splitlines()[-1]))
    assert read_there == {
        str(found.SOPInstanceUID): patient(by_study[str(found.StudyInstanceUID)])["PatientID"]
        for found in (pydicom.dcmread(path, stop_before_pixels=True) for path in paths)
    }

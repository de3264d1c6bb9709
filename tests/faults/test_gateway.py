"""The DICOM receiver, Postgres and a worker killed while modalities send: each image is there, and once."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from pathlib import Path

import pydicom
import pypdf
import pytest
from sqlalchemy import func, select, text

from cli.embedded import free_port
from phantoms.files import encode_phantom
from phantoms.film import make_phantom
from settings import get_settings
from store.base.blobs import get_blobs
from store.base.session import session_scope
from store.base.tables import Batch, Image, Study
from store.intake import gateway_peers
from store.intake.gateway_tables import ReceivedObject, ReceivedStudy
from tests.conftest import ROOT
from tests.faults.conftest import Breakable
from tests.faults.modalities import CALLED, CALLING, Modality, dcmjs, dcmsend, storescu
from tests.interop.test_tls import make_certificates
from tests.npm import npm_folder
from tests.running import ALL, PATIENCE, light_service, wait_for
from vocabulary.states import TERMINAL_BATCH_STATUSES

pytestmark = pytest.mark.faults

STUDIES, IMAGES_EACH, SENDERS = 20, 25, 4
#: A receiver is killed each time that so many images more have come.
KILL_AFTER = 40
#: What patients' names and ids begin with.
NAME, NUMBER = "QUILLFEATHER", "ZZYZX"


class Receivers:
    """Two processes that share a port, as `fractureai gateway` runs them."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self.processes = [self._start() for _ in range(2)]

    def _start(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "interop.gateway"],
                cwd=ROOT,
                stdout=log,
                stderr=log,
                env={**os.environ},
            )

    def kill_one(self, which: int) -> None:
        """SIGKILL one of them, and start another in its place."""
        self.processes[which].kill()
        self.processes[which].wait()
        self.processes[which] = self._start()

    def stop(self) -> None:
        """End them."""
        for process in self.processes:
            process.kill()
            process.wait()


def _films(folder: Path) -> list[list[Path]]:
    """Write the films; return a list for each sender, of which one has a study of another's, too."""
    folder.mkdir()
    shares: list[list[Path]] = [[] for _ in range(SENDERS)]
    for study in range(STUDIES):
        phantom = make_phantom(study, "hand", size=(160, 160))
        paths = []
        for number in range(1, IMAGES_EACH + 1):
            data = encode_phantom(phantom, "dicom", study=f"study {study}", number=number)
            film = pydicom.dcmread(io.BytesIO(data))
            film.PatientName, film.PatientID = f"{NAME}{study}^ADA", f"{NUMBER}-{study}"
            film.ReferringPhysicianName = f"{NAME}^DR"
            paths.append(folder / f"{study:02d}-{number}.dcm")
            film.save_as(paths[-1])
        shares[study % SENDERS] += paths
        if study == 0:
            shares[1] += paths
    return shares


def _come() -> int:
    with session_scope() as session:
        return session.scalar(select(func.count()).select_from(ReceivedObject)) or 0


def _named_in(*folders: Path) -> list[str]:
    """Return where a patient's name or id lies: rows, objects, the text of PDFs, files (logs, databases)."""
    marks = (NAME, NUMBER)

    def says(data: bytes | str) -> bool:
        whole = data if isinstance(data, str) else data.decode("latin-1")
        return any(mark in whole.upper() for mark in marks)

    found = []
    with session_scope() as session:
        tables = session.scalars(text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")).all()
        for table in tables:
            if says(repr(session.execute(text(f"SELECT * FROM {table}")).all())):
                found.append(f"table {table}")
    reports = 0
    for key in get_blobs().keys(""):
        data = get_blobs().get(key)
        if data.startswith(b"%PDF"):
            reports += 1
            pages = pypdf.PdfReader(io.BytesIO(data))
            data += (
                "".join(page.extract_text() for page in pages.pages).encode() + repr(pages.metadata).encode()
            )
        if says(data):
            found.append(f"object {key}")
    assert reports >= STUDIES
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file() and not path.is_symlink() and says(path.read_bytes()):
                found.append(str(path))
    return found


@pytest.mark.parametrize("make", ["dcmsend", "storescu by TLS", "dcmjs-dimse"])
def test_each_acknowledged_image_is_there_once_whatever_is_killed_meanwhile(
    make: str,
    site_id: uuid.UUID,
    postgres: Breakable,
    home: Path,
    tmp_path: Path,
    service_settings: pytest.MonkeyPatch,
    pytestconfig: pytest.Config,
) -> None:
    port = free_port()
    films, sent, tls, logs = (tmp_path / name for name in ("films", "sent", "tls", "logs"))
    sent.mkdir()
    logs.mkdir()
    given = {"PORT": str(port), "HOST": "127.0.0.1"}
    modality: Modality
    if make == "dcmsend":
        modality = dcmsend(port, sent)
    elif make == "dcmjs-dimse":
        modality = dcmjs(port, npm_folder(pytestconfig, "dcmjs-dimse@0.3.3"))
    else:
        make_certificates(tls, "receiver", "modality")
        given |= {
            "TLS_CERT": f"{tls}/receiver.crt",
            "TLS_KEY": f"{tls}/receiver.key",
            "TLS_CA": f"{tls}/ca.crt",
        }
        modality = storescu(port, tls)
    for name, value in given.items():
        service_settings.setenv(f"FRACTUREAI_GATEWAY_{name}", value)
    get_settings.cache_clear()
    with session_scope() as session:
        gateway_peers.set_site(session, site_id, ae_title=CALLED, quiet=20, release=3, longest=120)
        gateway_peers.allow(session, site_id, CALLING, ["127.0.0.1"])
    shares = _films(films)
    uids = {
        str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID)
        for share in shares
        for path in share
    }
    assert len(uids) == STUDIES * IMAGES_EACH
    tries: Counter[int] = Counter()

    def send(which: int) -> None:
        """Send a share, and what was not acknowledged of it again, until all of it was."""
        until = time.monotonic() + PATIENCE
        left = list(shares[which])
        while left and time.monotonic() < until:
            tries[which] += 1
            left = modality(left)
            time.sleep(0.5)
        assert not left

    receivers = Receivers(logs / "gateway.log")
    try:
        with light_service(logs) as service:
            threads = [threading.Thread(target=send, args=(n,)) for n in range(SENDERS)]
            for thread in threads:
                thread.start()
            for n in range(1, STUDIES * IMAGES_EACH // KILL_AFTER):
                wait_for(lambda n=n: _come() >= n * KILL_AFTER, PATIENCE, "more images")
                receivers.kill_one(n % 2)
                if n == 3:
                    postgres.kill()
                    time.sleep(2)
                    postgres.start()
                if n == 5:
                    service.kill(ALL)
                    service.start(ALL)
            for thread in threads:
                thread.join(PATIENCE)
            assert not any(thread.is_alive() for thread in threads)

            def all_read() -> bool:
                with session_scope() as session:
                    waiting = session.scalar(select(func.count()).where(ReceivedStudy.completed_at.is_(None)))
                    open_batches = session.scalar(
                        select(func.count()).where(Batch.status.not_in(list(TERMINAL_BATCH_STATUSES)))
                    )
                return not waiting and not open_batches

            wait_for(all_read, PATIENCE, "every study to be read")
    finally:
        receivers.stop()
    with session_scope() as session:
        images = session.scalars(select(Image)).all()
        assert Counter(image.path for image in images) == Counter({f"{uid}.dcm": 1 for uid in uids})
        assert session.scalar(select(func.count()).select_from(ReceivedObject)) == len(uids)
        assert session.scalar(select(func.count()).select_from(Study)) == STUDIES
        assert {image.status for image in images} <= {"done", "rejected"}
    assert sum(tries.values()) > SENDERS, "nothing was ever refused: the faults missed"
    assert not _named_in(home, logs)

"""The DICOM receiver, Postgres and a worker killed while modalities send: each image is there, and once."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from pathlib import Path

import pydicom
import pytest
from sqlalchemy import func, select

from cli.embedded import free_port
from phantoms.files import encode_phantom
from phantoms.film import make_phantom
from settings import get_settings
from store.base.session import session_scope
from store.base.tables import Batch, Image, Study
from store.intake import gateway_peers
from store.intake.gateway_tables import ReceivedObject, ReceivedStudy
from tests.conftest import ROOT
from tests.faults.conftest import Breakable
from tests.running import ALL, PATIENCE, light_service, wait_for
from vocabulary.states import TERMINAL_BATCH_STATUSES

pytestmark = pytest.mark.faults

STUDIES, IMAGES_EACH, SENDERS = 20, 5, 4


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
    """Write the films; return a list for each sender, of which one has a study twice."""
    shares: list[list[Path]] = [[] for _ in range(SENDERS)]
    for study in range(STUDIES):
        paths = []
        for number in range(1, IMAGES_EACH + 1):
            phantom = make_phantom(100 * study + number, "hand", size=(160, 160))
            path = folder / f"{study:02d}-{number}.dcm"
            path.write_bytes(encode_phantom(phantom, "dicom", study=f"study {study}", number=number))
            paths.append(path)
        shares[study % SENDERS] += paths
        if study == 0:
            shares[1] += paths
    return shares


def test_each_acknowledged_image_is_there_once_whatever_is_killed_meanwhile(
    site_id: uuid.UUID,
    postgres: Breakable,
    tmp_path: Path,
    service_settings: pytest.MonkeyPatch,
) -> None:
    port = free_port()
    service_settings.setenv("FRACTUREAI_GATEWAY_PORT", str(port))
    service_settings.setenv("FRACTUREAI_GATEWAY_HOST", "127.0.0.1")
    get_settings.cache_clear()
    with session_scope() as session:
        gateway_peers.set_site(session, site_id, ae_title="FRACTURES", quiet=20, release=3, longest=120)
        gateway_peers.allow(session, site_id, "MODALITY", ["127.0.0.1"])
    films = tmp_path / "films"
    films.mkdir()
    shares = _films(films)
    uids = {
        str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID)
        for share in shares
        for path in share
    }
    assert len(uids) == STUDIES * IMAGES_EACH
    tries: Counter[int] = Counter()

    def send(which: int) -> None:
        """Send a share until every image of it was acknowledged; storescu ends at the first that is not."""
        command = ["/usr/bin/storescu", "-aet", "MODALITY", "-aec", "FRACTURES", "-to", "10", "-td", "20"]
        until = time.monotonic() + PATIENCE
        left = list(shares[which])
        while left and time.monotonic() < until:
            tries[which] += 1
            done = subprocess.run(
                [*command, "127.0.0.1", str(port), *map(str, left[:5])], capture_output=True, check=False
            )
            if done.returncode == 0:
                left = left[5:]
            else:
                time.sleep(0.5)
        assert not left

    receivers = Receivers(tmp_path / "gateway.log")
    try:
        with light_service(tmp_path) as service:
            threads = [threading.Thread(target=send, args=(n,)) for n in range(SENDERS)]
            for thread in threads:
                thread.start()
            for n in range(6):
                time.sleep(2)
                receivers.kill_one(n % 2)
                if n == 2:
                    postgres.kill()
                    time.sleep(2)
                    postgres.start()
                if n == 4:
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
    assert sum(tries.values()) > SENDERS * 5, "nothing was ever refused: the faults missed"
    assert "SYN" not in (tmp_path / "gateway.log").read_text()  # patients' ids begin so

"""A running service for tests: real worker processes on the embedded servers, every time-out in seconds."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import psutil
from sqlalchemy import func, select

from cli import supervise
from cli.supervise import URGENT_QUEUES
from store.base.blobs import get_blobs
from store.base.sealed_blobs import put_sealed
from store.base.session import session_scope
from store.base.tables import Batch, Finding, Image, StudyFinding, Work, WorkState
from store.intake import batches
from store.intake.batches import NewFile
from store.operations import fsck
from store.queue import dispatch
from tests.conftest import ROOT

#: Every time-out shortened, so that recovery takes seconds.
SHORT = {
    "FRACTUREAI_LEASE_SECONDS": "8",
    "FRACTUREAI_LEASE_RENEW_SECONDS": "1.5",
    "FRACTUREAI_RESEND_SECONDS": "8",
    "FRACTUREAI_RECONCILE_SECONDS": "0.3",
    "FRACTUREAI_HEARTBEAT_SECONDS": "2",
    "FRACTUREAI_SOFT_SHUTDOWN_SECONDS": "2",
    "FRACTUREAI_CHUNK_SIZE": "8",
    "FRACTUREAI_SCORER_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
}
#: Seconds that tests wait for what should take a few: the machine may be busy. Shortened to see tests fail.
PATIENCE = float(os.environ.get("FRACTUREAI_TEST_PATIENCE", "600"))
T = TypeVar("T")
QUEUES = ("cpu", "gpu", "report", "notices,exports")
#: The worker that takes urgent work alone.
URGENT = "urgent"


@dataclass
class Service:
    """Handles on the processes of a running service, whose code lies in `tree`."""

    logs: Path
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    tree: Path = ROOT

    def start(self, name: str, *, app: str = "worker.app", **environment: str) -> None:
        """Start a worker for the queues `name` (with commas between), `URGENT`, or ``reconcile``."""
        queues = name
        if name == URGENT:
            queues, environment = URGENT_QUEUES, {**supervise.URGENT, **environment}
        if name == "reconcile":
            command = [sys.executable, "-m", "worker.reconcile"]
        else:
            command = [
                *(sys.executable, "-m", "celery", "-A", app, "worker", "-Q", queues, "-c", "1", "-l", "INFO"),
                *("-n", f"{uuid.uuid4().hex[:6]}@test", "--without-gossip", "--without-mingle"),
                "--without-heartbeat",  # as in service: it would wait for a broker that is away
            ]
        with (self.logs / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                command,
                cwd=self.tree,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, **environment},
            )

    def start_all(self) -> None:
        """Start reconcile and a worker a queue."""
        for name in ("reconcile", *QUEUES):
            self.start(name)

    def kill(self, *names: str) -> None:
        """SIGKILL the named processes at once; a worker's children end with it."""
        for name in names:
            self.processes[name].kill()
        for name in names:
            self.processes[name].wait()

    def child(self, name: str) -> psutil.Process:
        """Return the pool process of a worker."""
        process = psutil.Process(self.processes[name].pid)
        return wait_for(process.children, PATIENCE, f"{name}'s child")[0]

    def stop(self) -> None:
        """End everything."""
        for process in self.processes.values():
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def log(self, name: str) -> str:
        """Return what a process wrote."""
        return (self.logs / f"{name}.log").read_text(errors="replace")


@contextmanager
def running_service(logs: Path) -> Iterator[Service]:
    """Start a service with the environment's settings; end it whatever happens."""
    service = Service(logs)
    try:
        service.start_all()
        yield service
    finally:
        service.stop()


ALL = ",".join(QUEUES)


@contextmanager
def light_service(
    logs: Path, *, app: str = "worker.app", queues: Sequence[str] = (ALL,), **environment: str
) -> Iterator[Service]:
    """Run reconcile and, unless `queues` names more, one worker for all queues: half the processes."""
    service = Service(logs)
    try:
        service.start("reconcile")
        for names in queues:
            service.start(names, app=app, **environment)
        yield service
    finally:
        service.stop()


def wait_for(ask: Callable[[], T], seconds: float, what: str) -> T:
    """Ask until the answer is true; fail after `seconds`."""
    end = time.monotonic() + seconds
    while True:
        if answer := ask():
            return answer
        if time.monotonic() > end:
            raise AssertionError(f"waited {seconds} s for {what}")
        time.sleep(0.03)  # a stage on a fast machine lasts a tenth of a second


def draft(site_id: uuid.UUID, files: dict[str, bytes], *, sealed: bool = True, **options: object) -> Batch:
    """Take files in as the web does; not `sealed`, as an earlier version did."""
    with session_scope() as session:
        batch, _ = batches.create_batch(session, site_id=site_id, user_id=None, **options)  # type: ignore[arg-type]
    new = []
    for path, data in files.items():
        key = batches.new_incoming_key(batch.id)
        if sealed:
            put_sealed(key, site_id, data)
        else:
            get_blobs().put(key, data)
        new.append(NewFile(path, hashlib.sha256(data).hexdigest(), len(data), key))
    with session_scope() as session:
        batches.add_files(session, batch.id, site_id, new)
    return batch


def submit(site_id: uuid.UUID, files: dict[str, bytes], **options: object) -> Batch:
    """Take files in, submit them, and dispatch."""
    batch = draft(site_id, files, **options)
    with session_scope() as session:
        batches.submit(session, batch.id, site_id)
    dispatch.dispatch()
    return batch


def read_batch(batch: Batch) -> Batch:
    """Return the batch's row as it is now."""
    with session_scope() as session:
        return session.get_one(Batch, batch.id)


def wait_until_ended(batch: Batch, seconds: float = PATIENCE) -> Batch:
    """Wait until the batch is terminal."""
    return wait_for(lambda: (b := read_batch(batch)).finished_at and b, seconds, "the batch to end")


def images_of(batch: Batch) -> list[Image]:
    """Return the batch's images in the order of arrival."""
    with session_scope() as session:
        return list(session.scalars(select(Image).where(Image.batch_id == batch.id).order_by(Image.seq)))


def assert_sound(
    batch: Batch, expected: Mapping[str, float] | None = None, *, retryable: bool = False
) -> None:
    """The oracle: whatever broke, every image ended once, nothing is left over, and fsck is clean.

    Parameters
    ----------
    expected
        What a run without faults says, by file name.
    retryable
        Images failed or were cancelled: their uploads are still there, for a retry.
    """
    batch = wait_for(lambda: (b := read_batch(batch)).finished_at and b, 1, "an ended batch")
    images = images_of(batch)
    states = Counter(image.status for image in images)
    assert set(states) <= {"done", "rejected", "failed", "cancelled"}, states
    assert (
        batch.n_done + batch.n_rejected + batch.n_failed + batch.n_cancelled == batch.n_total == len(images)
    )
    assert (batch.n_queued, batch.n_running) == (0, 0)
    with session_scope() as session:
        twice = session.execute(
            select(Finding.sha256).group_by(Finding.sha256, Finding.bundle).having(func.count() > 1)
        ).all()
        assert not twice
        done = {image.finding_id for image in images if image.status == "done"}
        assert None not in done
        assert session.scalar(select(func.count()).where(Finding.id.in_(done))) == len(done)
        for study_id in {image.study_id for image in images if image.status == "done"}:
            reports = session.scalars(
                select(StudyFinding).where(
                    StudyFinding.study_id == study_id, StudyFinding.bundle == batch.bundle
                )
            ).all()
            versions = sorted(r.version for r in reports)
            assert versions == list(range(1, len(versions) + 1)), versions
            # one report a study; a round that was cancelled after the reading leaves one without the map
            assert 1 <= len(versions) <= batch.round, (versions, batch.round)
        open_states = (WorkState.DUE, WorkState.PUBLISHED, WorkState.RUNNING)
        left = session.scalars(select(Work).where(Work.state.in_(open_states))).all()
        assert not left, [(w.kind, w.state, w.stage, w.error) for w in left]
        leased = select(func.count()).select_from(Work).where(Work.lease_token.is_not(None))
        assert session.scalar(leased) == 0
    assert not list(get_blobs().keys("scratch/"))
    problems = [p for p in fsck.check().problems if not (retryable and p.code == "upload")]
    assert not problems, problems
    if not retryable:
        assert not list(get_blobs().keys("incoming/"))
    for image in images:
        if expected is not None and image.status == "done":
            assert abs((image.probability or 0) - expected[image.path.rpartition("/")[2]]) < 1e-6


def predictions(batch: Batch) -> dict[str, float | None]:
    """Return path -> probability."""
    return {image.path: image.probability for image in images_of(batch)}

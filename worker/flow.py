"""What follows what: how a message becomes a stage's run, and what happens when it ends badly."""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable
from types import TracebackType

from billiard.exceptions import SoftTimeLimitExceeded
from sqlalchemy.exc import InterfaceError, OperationalError, TimeoutError

from settings import get_settings
from store import work
from store.dispatch import dispatch
from store.errors import BlobFull, BlobUnavailable
from store.session import session_scope
from store.tables import Reason, Stage, WorkKind
from store.work import Lease, StaleLease, Verdict

log = logging.getLogger("fractureai.flow")

#: What the work stands on is away: nobody's attempt failed.
AWAY = (OperationalError, InterfaceError, TimeoutError, BlobUnavailable, BlobFull)
AWAY_DELAY = 2.0
NOT_READY_DELAY = 15.0


class NotReady(Exception):
    """A worker cannot do such work, whatever the image; the message says what to mend."""


class Renewal:
    """Keeps a lease alive from a thread while its stage runs."""

    def __init__(self, lease: Lease) -> None:
        self.lease = lease
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._run, name="lease", daemon=True)

    def __enter__(self) -> Renewal:
        self.thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.ended.set()
        self.thread.join(timeout=5)

    def _run(self) -> None:
        while not self.ended.wait(get_settings().lease_renew_seconds):
            try:
                with session_scope() as session:
                    if not work.renew(session, self.lease):
                        return
            except AWAY as error:
                log.warning("lease of %s not renewed (%s)", self.lease.work_id, type(error).__name__)


def run(work_id: uuid.UUID, stage: Stage | None, execute: Callable[[Lease], bool]) -> bool:
    """Run one stage of a unit under a lease.

    Parameters
    ----------
    stage
        The chunk's stage, or None for a unit without stages.
    execute
        Does the work and writes it; returns whether the chain goes on.

    Returns
    -------
    bool
        Whether the next task of the chain is to be sent.
    """
    try:
        with session_scope() as session:
            taken = work.take(session, work_id, stage)
    except AWAY as error:
        log.warning("%s of %s waits: %s", stage, work_id, type(error).__name__)
        return False
    if isinstance(taken, Verdict):
        return taken is Verdict.PASS
    goes_on = False
    try:
        with Renewal(taken):
            goes_on = execute(taken)
    except StaleLease:
        log.warning("%s of %s was another worker's meanwhile; nothing written", stage, work_id)
    except AWAY as error:
        log.warning("%s of %s is given back: %s", stage, work_id, type(error).__name__)
        _give_back(taken, AWAY_DELAY)
    except NotReady as error:
        log.critical("%s of %s is given back: %s", stage, work_id, error)
        _give_back(taken, NOT_READY_DELAY)
    except (SystemExit, KeyboardInterrupt):
        _give_back(taken, 0.0)
        raise
    except SoftTimeLimitExceeded:
        _failed(taken, Reason.PROCESSING_TIMEOUT, "soft time limit")
    except MemoryError:
        _failed(taken, Reason.PROCESSING_ERROR, "out of memory")
    except Exception as error:
        log.exception("%s of %s failed", stage, work_id)
        _failed(taken, Reason.PROCESSING_ERROR, f"{type(error).__name__}: {error}")
    if not goes_on or taken.kind is not WorkKind.CHUNK:
        dispatch()
    return goes_on


def _give_back(lease: Lease, delay: float) -> None:
    try:
        with session_scope() as session:
            work.release(session, lease, delay)
    except AWAY as error:
        log.warning("could not give %s back (%s); its lease runs out", lease.work_id, type(error).__name__)


def _failed(lease: Lease, reason: Reason, error: str) -> None:
    try:
        with session_scope() as session:
            work.fail(session, lease, reason, error)
    except AWAY as away:
        log.warning("could not note a failure of %s (%s)", lease.work_id, type(away).__name__)

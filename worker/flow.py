"""What follows what: how a message becomes a stage's run, and what happens when it ends badly."""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable
from types import TracebackType

from billiard.exceptions import SoftTimeLimitExceeded
from sqlalchemy.exc import SQLAlchemyError

from settings import get_settings
from store.base.errors import BlobFull, BlobUnavailable
from store.base.session import is_disk_full, is_unavailable, session_scope
from store.base.tables import WorkKind
from store.base.throttled_log import log_throttled
from store.queue import work
from store.queue.dispatch import dispatch
from store.queue.work import Lease, StaleLease, Verdict
from vocabulary.reasons import Reason
from vocabulary.states import Stage

log = logging.getLogger("fractureai.flow")

AWAY_DELAY = 2.0
NOT_READY_DELAY = 15.0


class NotReady(Exception):
    """A worker cannot do such work, whatever the image; the message says what to fix."""


class StackLost(Exception):
    """A chunk's input stack is missing, damaged, or another's: the chunk has to be prepared again."""


def is_outage(error: BaseException) -> bool:
    """Return whether a dependency is unavailable, so that nobody's attempt failed."""
    return isinstance(error, BlobUnavailable | BlobFull) or is_unavailable(error)


def describe(error: BaseException) -> str:
    """Return an error's kind, with the state that a database named; never its text, which may hold values."""
    cause = getattr(error, "orig", None) or error
    state = getattr(cause, "sqlstate", None)
    return type(cause).__name__ + (f" ({state})" if state else "")


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
            except SQLAlchemyError as error:
                log.warning("lease of %s not renewed (%s)", self.lease.work_id, describe(error))


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
    except SQLAlchemyError as error:
        _log_wait(error, "%s of %s waits: %s", stage, work_id)
        if not is_outage(error):
            _failed_untaken(work_id, f"could not be taken: {describe(error)}")
        return False
    if isinstance(taken, Verdict):
        return taken is Verdict.PASS
    goes_on = False
    try:
        with Renewal(taken):
            goes_on = execute(taken)
    except StaleLease:
        log.warning("%s of %s was another worker's meanwhile; nothing written", stage, work_id)
    except NotReady as error:
        log.critical("%s of %s is given back: %s", stage, work_id, error)
        _give_back(taken, NOT_READY_DELAY, f"this worker cannot do it: {error}")
    except (SystemExit, KeyboardInterrupt):
        _give_back(taken, 0.0, "the worker was shut down")
        raise
    except SoftTimeLimitExceeded:
        _failed(taken, Reason.PROCESSING_TIMEOUT, "soft time limit")
    except MemoryError:
        _failed(taken, Reason.PROCESSING_ERROR, "out of memory")
    except Exception as error:
        if is_outage(error):
            _log_wait(error, "%s of %s is given back: %s", stage, work_id)
            _give_back(taken, AWAY_DELAY, describe(error))
        else:
            log.exception("%s of %s failed", stage, work_id)
            text = describe(error) if isinstance(error, SQLAlchemyError) else f"{describe(error)}: {error}"
            _failed(taken, Reason.PROCESSING_ERROR, text, from_the_start=isinstance(error, StackLost))
    if not goes_on or taken.kind is not WorkKind.CHUNK:
        dispatch()
    return goes_on


def _log_wait(error: BaseException, message: str, *values: object) -> None:
    if isinstance(error, BlobFull) or is_disk_full(error):
        # every unit meets it, every two seconds, until there is room
        log_throttled(log, logging.WARNING, f"full {message}", message, *values, describe(error))
    else:
        log.warning(message, *values, describe(error))


def _give_back(lease: Lease, delay: float, why: str) -> None:
    try:
        with session_scope() as session:
            if not work.give_back(session, lease, delay, why):
                log.error("%s waited for too long and failed: %s", lease.work_id, why)
    except SQLAlchemyError as error:
        _log_wait(error, "%s could not be given back, its lease runs out: %s", lease.work_id)


def _failed(lease: Lease, reason: Reason, error: str, *, from_the_start: bool = False) -> None:
    try:
        with session_scope() as session:
            work.fail(session, lease, reason, error, from_the_start=from_the_start)
    except SQLAlchemyError as away:
        log.warning("could not note a failure of %s (%s)", lease.work_id, describe(away))


def _failed_untaken(work_id: uuid.UUID, error: str) -> None:
    try:
        with session_scope() as session:
            work.fail_untaken(session, work_id, Reason.PROCESSING_ERROR, error)
    except SQLAlchemyError as away:
        log.warning("could not note a failure of %s (%s)", work_id, describe(away))

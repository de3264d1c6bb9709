"""A plain loop, one active at a time: due and overdue work, expired leases, scratch, old drafts.

Run as ``python -m worker.reconcile``.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

from sqlalchemy import delete, exists, func, select, text
from sqlalchemy.exc import SQLAlchemyError

from settings import get_settings, start_log
from store.accounts import throttle
from store.base import batch_totals
from store.base.advisory_locks import AdvisoryLock, try_to_hold
from store.base.blobs import get_blobs
from store.base.errors import BlobMissing, ServiceError
from store.base.session import own_connection, session_scope
from store.base.tables import Batch, SignInToken, UserSession, Work, Worker, batch_is_open, work_is_open
from store.base.throttled_log import log_throttled
from store.intake import batch_end, batches, received, uploads
from store.intake.gateway_tables import ReceivedStudy
from store.operations import drift, monitoring, retention
from store.operations.monitoring import Step
from store.outgoing import deliveries, notices
from store.queue import work
from store.queue.dispatch import dispatch
from store.reading import full_depth, worklist
from store.research import run_deletion
from store.results import exports
from vocabulary.states import BatchStatus
from worker.flow import describe

T = TypeVar("T")
log = logging.getLogger("fractureai.reconcile")

TIDY_SECONDS = 600.0


def recover() -> None:
    """Count expired leases as failed attempts, then publish what is due or overdue."""
    with session_scope() as session:
        mended = work.clamp_future_timestamps(session)
        expired = work.expire_leases(session)
        batch_end.give_up(session)
        left = work.release_ended_scratch(session)
    dispatch(resend=True)
    if mended:
        log.warning("the database's clock was set back: %d times brought back", mended)
    if expired:
        log.warning("%d leases ran out", expired)
    for key in left:
        get_blobs().delete(key)


def _delete_scratch() -> None:
    """Delete input stacks that no unit names, and what a killed process left of a write."""
    settings = get_settings()
    blobs = get_blobs()
    with session_scope() as session:
        in_use = set(session.scalars(select(Work.scratch).where(Work.scratch.is_not(None), work_is_open())))
    for key in blobs.keys("scratch/"):
        if key not in in_use:
            with suppress(BlobMissing):  # deleted meanwhile by whoever wrote it
                if blobs.age(key) > settings.scratch_keep_seconds:
                    blobs.delete(key)
    blobs.delete_unfinished(settings.scratch_keep_seconds)


def _forget_old() -> None:
    """Delete expired rows, and make one of those that add up."""
    now = func.clock_timestamp()
    with session_scope() as session:
        session.execute(delete(Worker).where(Worker.seen_at < now - timedelta(hours=1)))
        session.execute(delete(UserSession).where(UserSession.expires_at < now))
        session.execute(delete(SignInToken).where(SignInToken.expires_at < now - timedelta(days=1)))
        throttle.delete_old(session)
        notices.delete_old(session)
        batch_totals.compact(session)


def _raise_waiting() -> None:
    with session_scope() as session:
        worklist.escalate_overdue(session)


def _cancel_old_drafts() -> None:
    """Cancel drafts that nobody submitted."""
    keep = timedelta(seconds=get_settings().draft_keep_seconds)
    # what a gateway acknowledged is not forgotten: `received.complete_due` submits it, however late
    arriving = exists().where(ReceivedStudy.batch_id == Batch.id, ReceivedStudy.completed_at.is_(None))
    with session_scope() as session:
        forgotten = session.execute(
            select(Batch.id, Batch.site_id).where(
                batch_is_open(),
                Batch.status == BatchStatus.DRAFT,
                Batch.created_at < func.statement_timestamp() - keep,
                ~arriving,
            )
        ).all()
    for batch_id, site_id in forgotten:
        with session_scope() as session:
            batches.cancel(session, batch_id, site_id)


#: What is done every `TIDY_SECONDS`, each by itself: one that fails holds no other back.
TIDYING: dict[Step, Callable[[], None]] = {
    Step.SCRATCH: _delete_scratch,
    Step.EXPORTS: exports.delete_expired,
    Step.PIXELS: full_depth.delete_expired,
    Step.UPLOADS: uploads.delete_expired,
    Step.WORKLIST: _raise_waiting,
    Step.OLD_ROWS: _forget_old,
    Step.DRAFTS: _cancel_old_drafts,
    Step.INCOMING: uploads.delete_old,
    Step.ENVELOPES: deliveries.expire_envelopes,
    Step.MONITORING: drift.step,
    Step.NOTICES: notices.fail_abandoned,
    Step.DELIVERIES: deliveries.fail_abandoned,
}


def tidy() -> None:
    """Delete what nothing needs any more."""
    for name, step in TIDYING.items():
        attempt(name, step)


def attempt(name: Step, step: Callable[[], T]) -> T | None:
    """Do one step and write down how it went, for `/readyz` and the metrics; None when it failed.

    A step that fails is tried again in its turn, and whatever it is must not end recovery.
    """
    error = ""
    result = None
    try:
        result = step()
    except (SQLAlchemyError, ServiceError) as failure:
        error = describe(failure)
        log_throttled(
            log,
            logging.WARNING,
            f"{name} {error}",
            "%s: something is unavailable (%s); trying again",
            name,
            error,
        )
    except Exception as failure:
        error = describe(failure)
        log_throttled(log, logging.ERROR, f"{name} {error}", "%s failed; trying again", name, traceback=True)
    try:
        with session_scope() as session:
            if error:
                monitoring.record_failure(session, name, error)
            else:
                monitoring.record_success(session, name)
    except SQLAlchemyError as failure:
        log_throttled(
            log,
            logging.WARNING,
            f"note {name}",
            "could not write down how %s went (%s)",
            name,
            describe(failure),
        )
    return result


def _delete_some() -> bool:
    """Delete a little of what rules and deleted runs ask for; return whether more is left."""
    return bool(retention.step() + run_deletion.step())


#: A reconcile that hangs for so long loses its lock, and another one takes over.
LONGEST_ROUND_SECONDS = 900


def loop(ended: Callable[[float], bool]) -> None:
    """Reconcile until told to end; a second one waits until the first is gone.

    The lock belongs to a connection of its own that is closed on any error: a connection of the pool would
    keep the lock when it went back, and the next round would wait for itself for ever.

    Parameters
    ----------
    ended
        Waits the seconds given and tells whether to end.
    """
    wait = get_settings().reconcile_seconds
    times = _Times()
    while not ended(0.0):
        _touch_heartbeat()
        try:
            with own_connection() as holder:
                holder.execute(text(f"SET idle_session_timeout = '{LONGEST_ROUND_SECONDS}s'"))
                while not try_to_hold(holder, AdvisoryLock.RECONCILE):
                    _touch_heartbeat()
                    if ended(wait):
                        return
                with session_scope() as session:
                    monitoring.expect_steps(session)
                while not ended(wait):
                    _touch_heartbeat()
                    holder.execute(text("SELECT 1"))  # the lock lives as long as this connection
                    _round(times)
        except SQLAlchemyError as error:
            log_throttled(
                log,
                logging.WARNING,
                "database",
                "the database does not answer (%s); trying again",
                describe(error),
            )
            if ended(wait):
                return


def _touch_heartbeat() -> None:
    """Touch the file of a container's health check: the loop turns, whatever dependency is unavailable."""
    if file := get_settings().alive_file:
        with suppress(OSError):
            Path(file).touch()


@dataclass
class _Times:
    """When the slow steps were last done."""

    tidied: float = -TIDY_SECONDS
    swept: float = -TIDY_SECONDS


def _round(times: _Times) -> None:
    attempt(Step.RECEIVED_STUDIES, received.complete_due)
    attempt(Step.RECOVER, recover)
    if time.monotonic() - times.tidied > TIDY_SECONDS:
        times.tidied = time.monotonic()
        tidy()
    if time.monotonic() - times.swept > TIDY_SECONDS and not attempt(Step.DELETION, _delete_some):
        times.swept = time.monotonic()  # nothing is left to delete, or it failed: look again later


def main() -> None:
    """Run until SIGTERM or SIGINT."""
    settings = get_settings().require("database_url", "broker_url", "blob_url")
    start_log(settings)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    loop(stop.wait)


if __name__ == "__main__":
    main()

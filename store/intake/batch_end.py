"""How a batch ends: well, or given up with a reason when its end failed too often, to be tried again."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable
from datetime import timedelta

from sqlalchemy import func, or_, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from settings import get_settings
from store.base import event_counts
from store.base.session import is_unavailable
from store.base.tables import Batch, Work, WorkKind, WorkState
from store.outgoing import notices
from vocabulary.reasons import Reason
from vocabulary.states import TERMINAL_BATCH_STATUSES, BatchStatus

log = logging.getLogger("fractureai.batch_end")


def end(session: Session, batch: Batch, failure: Reason | None = None) -> None:
    """Set the final status of a batch whose images have all ended; the caller holds its row.

    Parameters
    ----------
    failure
        Why what the end should have written may be missing: study findings, reports, lines of the worklist.
    """
    if batch.cancelled_at is not None:
        status = BatchStatus.CANCELLED
    elif failure is not None:
        status = BatchStatus.PARTIAL if batch.n_done else BatchStatus.FAILED
    elif batch.n_failed:
        status = BatchStatus.FAILED if batch.n_failed == batch.n_total else BatchStatus.PARTIAL
    else:
        status = BatchStatus.DONE
    batch.status = status.value
    batch.end_failure = failure.value if failure else None
    batch.paused_at = None  # its last images were in workers' hands when it was paused
    batch.finished_at = func.clock_timestamp()
    batch.version += 1


_receivers: list[Callable[[Session, Batch], None]] = []


def on_batch_ended(receive: Callable[[Session, Batch], None]) -> Callable[[Session, Batch], None]:
    """Register a function to be called in the transaction that ends a batch."""
    _receivers.append(receive)
    return receive


def announce(session: Session, batch: Batch) -> None:
    """Queue what follows a batch's end: notices, and what has plugged in."""
    notices.finished_batch(session, batch)
    for receive in _receivers:
        receive(session, batch)


def is_ended(batch: Batch, round_: int) -> bool:
    """Tell whether every image of the batch's round has ended, and the batch itself has not."""
    ended = batch.n_done + batch.n_rejected + batch.n_failed + batch.n_cancelled
    return batch.round == round_ and ended == batch.n_total and batch.status not in TERMINAL_BATCH_STATUSES


def give_up(session: Session, limit: int = 100) -> list[uuid.UUID]:
    """End the batches whose end failed `finish_attempts` times, or waited for `unavailable_seconds`.

    Called by `reconcile`: nothing that a worker meets in ending a batch can keep it open. The unit fails and
    keeps its error; the batch says why, and `batches.retry` opens a new round, which tries its end again.

    Returns
    -------
    list of UUID
        The batches.
    """
    settings = get_settings()
    waited = func.clock_timestamp() - timedelta(seconds=settings.unavailable_seconds)
    overdue = (
        Work.kind == WorkKind.FINISH,
        Work.state.in_([WorkState.DUE, WorkState.PUBLISHED, WorkState.RUNNING]),
        Work.lease_token.is_(None),
        or_(Work.attempt >= settings.finish_attempts, Work.unavailable_since < waited),
    )
    units = session.scalars(select(Work).where(*overdue).limit(limit).with_for_update(skip_locked=True)).all()
    ended = []
    for unit in units:
        failure = Reason(unit.error_code) if unit.error_code else Reason.UNAVAILABLE
        unit.state, unit.finished_at = WorkState.FAILED.value, func.clock_timestamp()
        unit.error = unit.error or unit.unavailable_reason
        unit.error_code = failure.value
        batch = session.get_one(Batch, unit.batch_id, with_for_update=True, populate_existing=True)
        if not is_ended(batch, unit.round):
            continue
        end(session, batch, failure)
        event_counts.count_event(session, event_counts.BATCHES_GIVEN_UP)
        session.flush()
        ended.append(batch.id)
        log.error("batch %s is ended without its end's work: %s (%s)", batch.id, failure.value, unit.error)
        try:
            with session.begin_nested():
                announce(session, batch)
        except (SQLAlchemyError, LookupError, ValueError) as error:  # perhaps the very reason
            if isinstance(error, SQLAlchemyError) and is_unavailable(error):
                raise
            log.exception("nobody was told that batch %s has ended", batch.id)
    return ended

"""A plain loop, one active at a time: due and overdue work, expired leases, scratch, old drafts.

Run as ``python -m worker.reconcile``.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable
from datetime import timedelta

from sqlalchemy import delete, func, or_, select, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from settings import get_settings
from store import batches, exports, notices, retention, run_deletion, throttle, uploads, work, worklist
from store.blobs import get_blobs
from store.dispatch import dispatch
from store.errors import ServiceError
from store.session import get_engine, session_scope
from store.tables import ENDED_WORK, Batch, BatchStatus, Image, SignInToken, UserSession, Work, Worker

log = logging.getLogger("fractureai.reconcile")

ADVISORY_LOCK = 7213
TIDY_SECONDS = 600.0


def recover() -> None:
    """Count expired leases as failed attempts, then publish what is due or overdue."""
    with session_scope() as session:
        mended = work.mend_clock(session)
        expired = work.expire_leases(session)
        left = work.drop_ended_scratch(session)
    if mended:
        log.warning("the database's clock was set back: %d times brought back", mended)
    if expired:
        log.warning("%d leases ran out", expired)
    for key in left:
        get_blobs().delete(key)
    dispatch(resend=True)


def tidy() -> None:
    """Delete what nothing needs any more."""
    settings = get_settings()
    blobs = get_blobs()
    with session_scope() as session:
        in_use = set(
            session.scalars(
                select(Work.scratch).where(Work.scratch.is_not(None), Work.state.not_in(ENDED_WORK))
            )
        )
    for key in blobs.keys("scratch/"):
        if key not in in_use and blobs.age(key) > settings.scratch_keep_seconds:
            blobs.delete(key)
    blobs.delete_unfinished(settings.scratch_keep_seconds)
    exports.delete_expired()
    uploads.delete_expired()
    now = func.clock_timestamp()
    with session_scope() as session:
        worklist.raise_waiting(session)
        session.execute(delete(Worker).where(Worker.seen_at < now - timedelta(hours=1)))
        session.execute(delete(UserSession).where(UserSession.expires_at < now))
        session.execute(delete(SignInToken).where(SignInToken.expires_at < now - timedelta(days=1)))
        throttle.forget_old(session)
        notices.forget_old(session)
        forgotten = session.execute(
            select(Batch.id, Batch.site_id).where(
                Batch.status == BatchStatus.DRAFT,
                Batch.created_at < now - timedelta(seconds=settings.draft_keep_seconds),
            )
        ).all()
    for batch_id, site_id in forgotten:
        with session_scope() as session:
            batches.cancel(session, batch_id, site_id)
    _delete_incoming()


def _delete_incoming() -> None:
    """Delete the uploads of cancelled drafts, and those that an ended batch's retry could still have used.

    Every other upload is deleted by `prepare`.
    """
    blobs = get_blobs()
    query = (
        select(Image)
        .join(Batch, Batch.id == Image.batch_id)
        .where(
            Image.incoming_key.is_not(None),
            Batch.finished_at.is_not(None),
            or_(
                Batch.submitted_at.is_(None),
                Batch.finished_at
                < func.clock_timestamp() - timedelta(seconds=get_settings().draft_keep_seconds),
            ),
        )
        .limit(1000)
    )
    with session_scope() as session:
        for image in session.scalars(query):
            if image.incoming_key:
                blobs.delete(image.incoming_key)
            image.incoming_key = None


def _is_active(session: Session) -> bool:
    return bool(session.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": ADVISORY_LOCK}))


def loop(ended: Callable[[float], bool]) -> None:
    """Reconcile until told to end; a second one waits until the first is gone.

    Parameters
    ----------
    ended
        Waits the seconds given and tells whether to end.
    """
    settings = get_settings()
    tidied = swept = 0.0
    while not ended(0.0):
        try:
            with Session(get_engine()) as holder:
                holder.connection(execution_options={"isolation_level": "AUTOCOMMIT"})
                holder.execute(text("SET idle_in_transaction_session_timeout = 0"))
                active = False
                while not ended(0.0 if not active else settings.reconcile_seconds):
                    active = active or _is_active(holder)
                    if not active:
                        if ended(settings.reconcile_seconds):
                            return
                        continue
                    holder.execute(text("SELECT 1"))  # the lock lives as long as this connection
                    recover()
                    if time.monotonic() - tidied > TIDY_SECONDS:
                        tidied = time.monotonic()
                        tidy()
                    if time.monotonic() - swept > TIDY_SECONDS and not retention.step() + run_deletion.step():
                        swept = time.monotonic()  # nothing is left to delete: look again later
        except (SQLAlchemyError, ServiceError) as error:
            log.warning("something is away (%s); trying again", type(error).__name__)
            if ended(settings.reconcile_seconds):
                return


def main() -> None:
    """Run until SIGTERM or SIGINT."""
    settings = get_settings().require("database_url", "broker_url", "blob_url")
    logging.basicConfig(
        level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s %(message)s", force=True
    )
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    loop(stop.wait)


if __name__ == "__main__":
    main()

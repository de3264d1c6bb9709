"""Finish: the end of a round of a batch, once every image has ended."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from billiard.exceptions import SoftTimeLimitExceeded
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from settings import get_settings
from store.base.blobs import get_blobs
from store.base.errors import ServiceError
from store.base.session import session_scope
from store.base.tables import Batch, Image, Work
from store.bundles.bundles import get_bundle
from store.bundles.words import thresholds
from store.intake import batch_end, batches, summary, uploads
from store.queue import work
from store.queue.work import Lease
from store.reading import studies, worklist
from vocabulary.states import ImageStatus
from worker.base.written import PICTURES, delete_unnamed, picture_key
from worker.flow import describe, is_outage
from worker.reading.study_reports import REPORTS_AT_ONCE, studies_due, write_studies
from worker.stages.chunk import scratch_of
from worker.stages.explain import explain_cancelled
from worker.stages.purpose import purpose_of
from worker.stages.runner import held

log = logging.getLogger("fractureai.finish")


FINISH_PAGE = 200


def _sweep_pictures(batch_id: uuid.UUID) -> None:
    """Delete what stages wrote of images that were cancelled or failed before a commit had named it."""
    ended = [ImageStatus.CANCELLED.value, ImageStatus.FAILED.value]
    with session_scope() as session:
        query = (
            select(Image)
            .join(Work, Work.id == Image.work_id)
            .where(Image.batch_id == batch_id, Image.status.in_(ended), Work.taken > 0)
            .where(Image.overlay_key.is_(None))
        )
        written = {
            picture_key(image, name): image.id for image in session.scalars(query) for name in PICTURES
        }
    keys = list(written)
    for start in range(0, len(keys), FINISH_PAGE):
        delete_unnamed({key: written[key] for key in keys[start : start + FINISH_PAGE]})


def _sweep(batch_id: uuid.UUID) -> None:
    """Delete what nothing needs any more of a batch whose images have all ended.

    Input stacks: of chunks that were cancelled or split, and of workers killed before they had named theirs
    or deleted it. Uploads: of workers killed, or left by the blob store, between the commit that no longer
    names one and its deletion; what a retry can still use is named. No unit of the round is at work any
    more, and the next round waits for this end.
    """
    blobs = get_blobs()
    for key in list(blobs.keys(scratch_of(batch_id))):
        blobs.delete(key)
    with session_scope() as session:
        named = select(Image.incoming_key).where(Image.batch_id == batch_id, Image.incoming_key.is_not(None))
        kept = set(session.scalars(named))
    for key in list(blobs.keys(batches.incoming_of(batch_id))):
        if key not in kept:
            blobs.delete(key)


class _EndSteps:
    """What the end of a batch wants, step by step: one that fails holds no other back."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.errors: list[Exception] = []
        self.more = False

    def do(self, what: str, step: Callable[[], None]) -> None:
        """Do one step; keep its error for later."""
        try:
            step()
        except (SoftTimeLimitExceeded, work.StaleLease):
            raise
        except Exception as error:
            log.warning("the end of batch %s: %s failed (%s)", self.batch.id, what, describe(error))
            self.errors.append(error)

    def raise_first(self) -> None:
        """Raise what went wrong: what is a fault before what is merely away."""
        if self.errors:
            raise next((error for error in self.errors if not is_outage(error)), self.errors[0])

    def write_studies(self) -> None:
        """Write the studies that miss a finding or a report; there may be `more` than one task has time for.

        Of a group that cannot be written, each is tried alone: its neighbours must not miss theirs.
        """
        written = False
        until = time.monotonic() + get_settings().soft_time_limit / 2
        with session_scope() as session:
            waiting = studies.needs_finding(session, self.batch)
        for first in range(0, len(waiting), FINISH_PAGE):
            with session_scope() as session:  # few of a page are due: all of it is read at once
                due = studies_due(session, waiting[first : first + FINISH_PAGE], self.batch)[0]
            for start in range(0, len(due), REPORTS_AT_ONCE):
                group = due[start : start + REPORTS_AT_ONCE]
                try:
                    write_studies(group, self.batch)
                    written = True
                except Exception as error:
                    if is_outage(error) or isinstance(error, SoftTimeLimitExceeded):
                        raise
                    for id_ in group:
                        self.do(f"study {id_}", partial(write_studies, [id_], self.batch))
                if written and time.monotonic() > until:
                    self.more = True
                    return


def run(lease: Lease) -> bool:
    """End a round of a batch: what is left of study findings, then its final status.

    When a step fails the others are done all the same, and an attempt is counted; `batch_end.give_up` ends a
    batch whose end fails for too long.
    """
    with session_scope() as session:
        batch = session.get_one(Batch, lease.batch_id)
        purpose = purpose_of(session, batch)
    if batch.round == lease.round:
        steps = _EndSteps(batch)
        if purpose.is_clinical:
            if batch.cancelled_at is not None:
                steps.do("attention maps", partial(explain_cancelled, batch))
            steps.do("studies of what was not read", partial(_assign_unread, batch))
        steps.do("studies", steps.write_studies)
        if steps.more:
            with session_scope() as session:
                work.postpone(session, lease, 0.0)
            return False
        steps.do("worklist", partial(worklist.fill, batch))
        steps.do("what is left of chunks", partial(_sweep, lease.batch_id))
        steps.do("what is left of pictures", partial(_sweep_pictures, lease.batch_id))
        steps.raise_first()
    with held(lease) as (session, unit):
        batch = session.get_one(Batch, lease.batch_id, with_for_update=True, populate_existing=True)
        if ends := batch_end.is_ended(batch, lease.round):
            batch_end.end(session, batch)
            batch_end.announce(session, batch)
        work.pass_stage(session, unit, None)
    if ends and batch.cancelled_at is not None:
        with suppress(ServiceError):  # `reconcile` does it later
            uploads.delete_old(lease.batch_id)
    if ends and purpose.is_clinical:
        with suppress(SQLAlchemyError):  # the page counts it when it is asked for
            _sum_up(lease.batch_id)
    return False


def _sum_up(batch_id: uuid.UUID) -> None:
    """Count what the batch amounts to, that its page need not."""
    with session_scope() as session:
        batch = session.get_one(Batch, batch_id)
        summary.summary(session, batch, thresholds(get_bundle(session, batch.bundle)))


def _assign_unread(batch: Batch) -> None:
    with session_scope() as session:
        studies.assign_unread(session, batch)

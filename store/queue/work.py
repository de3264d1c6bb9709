"""Units of work: due, taken under a lease, done. The work row is the only thing that recovers.

A worker takes a row by writing a fresh token and a lease by the database's clock into it. Every later write
of that worker names the token; when another worker has taken the row meanwhile, the write is refused.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, and_, case, exists, func, literal_column, or_, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session
from sqlalchemy.orm.attributes import set_committed_value
from sqlalchemy.sql.base import ExecutableOption

from settings import get_settings
from store.base.bulk import write_changed
from store.base.session import is_unavailable
from store.base.tables import (
    ENDED_WORK,
    Batch,
    Image,
    Priority,
    Site,
    Work,
    WorkKind,
    WorkState,
    work_is_open,
)
from store.queue import counters
from vocabulary.reasons import Reason
from vocabulary.states import STAGES, BatchStatus, ImageStatus, Stage

log = logging.getLogger("fractureai.work")


class StaleLease(Exception):
    """Another worker has taken this unit meanwhile; nothing may be written for it any more."""


class Verdict(StrEnum):
    """What a message that did not get the lease does: pass on to the next stage, or end its chain."""

    PASS = "pass"  # noqa: S105 - not a password
    END = "end"


@dataclass(frozen=True)
class Lease:
    """A unit of work in this worker's hands: of a batch, or about the row `subject_id`."""

    work_id: uuid.UUID
    token: uuid.UUID
    batch_id: uuid.UUID | None
    subject_id: uuid.UUID | None
    site_id: uuid.UUID
    kind: WorkKind
    stage: Stage | None
    round: int
    attempt: int
    scratch: str | None


def _later(seconds: float) -> ColumnElement[datetime]:
    return func.clock_timestamp() + timedelta(seconds=seconds)


def add_unit(
    session: Session,
    kind: WorkKind,
    *,
    site_id: uuid.UUID,
    subject_id: uuid.UUID,
    priority: Priority = Priority.NORMAL,
    delay: float = 0.0,
) -> Work:
    """Queue a unit about the row `subject_id`, due in `delay` seconds; call `dispatch` after the commit."""
    unit = Work(
        id=uuid.uuid4(),
        site_id=site_id,
        subject_id=subject_id,
        kind=kind.value,
        priority=priority.rank,
        due_at=_later(delay),
    )
    session.add(unit)
    session.flush()
    return unit


def end_unit(session: Session, lease: Lease) -> None:
    """End a unit well; in the transaction that writes what it made, before that is written.

    Raises
    ------
    StaleLease
    """
    pass_stage(session, hold(session, lease), None)


def cancel_units(session: Session, subject_id: uuid.UUID) -> None:
    """End what is not over of a subject's units; a worker that holds one learns it at its next `hold`."""
    session.execute(
        update(Work)
        .where(Work.subject_id == subject_id, work_is_open())
        .values(
            state=WorkState.CANCELLED.value,
            lease_token=None,
            lease_until=None,
            finished_at=func.clock_timestamp(),
        )
        .execution_options(synchronize_session=False)
    )


def is_abandoned(kind: WorkKind, subject_id: Any) -> ColumnElement[bool]:
    """Return the condition that the work for a row has failed, and that there is none which goes on.

    What such a row says of itself is then no longer true: whoever owns it ends it.
    """
    mine = (Work.subject_id == subject_id, Work.kind == kind)
    return exists().where(*mine, Work.state == literal_column("'failed'")) & ~exists().where(
        *mine, work_is_open()
    )


def take(session: Session, work_id: uuid.UUID, stage: Stage | None) -> Lease | Verdict:
    """Take a unit for one stage.

    State before: *published* (or *running* between two stages), no live lease, the unit's next stage is
    `stage`. State after: *running*, leased. Anything else gives a `Verdict` and changes nothing, but that a
    cancelled or paused batch's unit is put away.
    """
    found = session.execute(
        select(Work, Batch.cancelled_at, Batch.paused_at)
        .outerjoin(Batch, Batch.id == Work.batch_id)
        .where(Work.id == work_id)
        .with_for_update(of=Work)
    ).first()
    if found is None:
        return Verdict.END
    work, cancelled_at, paused_at = found
    if work.state in ENDED_WORK:
        return Verdict.END
    if work.lease_until is not None:
        return Verdict.END  # another worker's; of one that has expired reconcile counts the attempt first
    if stage is not None and work.stage is not None:
        position, wanted = STAGES.index(Stage(work.stage)), STAGES.index(stage)
        if position > wanted:
            return Verdict.PASS
        if position < wanted:
            return Verdict.END
    if work.kind == WorkKind.CHUNK:
        if cancelled_at is not None:
            _cancel(session, work)
            return Verdict.END
        if paused_at is not None:
            work.state = WorkState.DUE.value
            work.published_at = None
            return Verdict.END
    work.state = WorkState.RUNNING.value
    work.taken += 1
    work.lease_token = uuid.uuid4()
    work.lease_until = _later(get_settings().lease_seconds)
    write_changed(session, [work])
    return Lease(
        work_id=work.id,
        token=work.lease_token,
        batch_id=work.batch_id,
        subject_id=work.subject_id,
        site_id=work.site_id,
        kind=WorkKind(work.kind),
        stage=Stage(work.stage) if work.stage else None,
        round=work.round,
        attempt=work.attempt,
        scratch=work.scratch,
    )


def start_batch(session: Session, batch_id: uuid.UUID) -> None:
    """Mark a queued batch as running."""
    session.execute(
        update(Batch)
        .where(Batch.id == batch_id, Batch.status == BatchStatus.QUEUED)
        .values(
            status=BatchStatus.RUNNING.value,
            started_at=func.coalesce(Batch.started_at, func.clock_timestamp()),
            rate_at=func.clock_timestamp(),
            version=Batch.version + 1,
        )
        .execution_options(synchronize_session=False)
    )


def _batch_of(work: Work) -> uuid.UUID:
    if work.batch_id is None:
        raise ValueError(f"a {work.kind} belongs to no batch")
    return work.batch_id


def _cancel(session: Session, work: Work) -> None:
    work.state = WorkState.CANCELLED.value
    work.lease_token = work.lease_until = None
    work.finished_at = func.clock_timestamp()
    session.flush()
    counters.cancel_images(session, _batch_of(work), [work.id], Reason.CANCELLED_BY_USER.value)


def renew(session: Session, lease: Lease) -> bool:
    """Extend the lease; False when it is another worker's now."""
    renewed = session.execute(
        update(Work)
        .where(Work.id == lease.work_id, Work.lease_token == lease.token)
        .values(lease_until=_later(get_settings().lease_seconds))
        .returning(Work.id)
    ).first()
    return renewed is not None


def hold(session: Session, lease: Lease) -> Work:
    """Lock the unit's row for a write under `lease`; the first thing every such transaction does.

    Raises
    ------
    StaleLease
    """
    work = session.scalar(
        select(Work).where(Work.id == lease.work_id, Work.lease_token == lease.token).with_for_update()
    )
    if work is None:
        raise StaleLease
    return work


def images_of(session: Session, work_id: uuid.UUID, *options: ExecutableOption) -> list[Image]:
    """Return the images of a chunk that have not ended, in the order of their arrival."""
    query = select(Image).where(Image.work_id == work_id, Image.status.not_in(counters.TERMINAL))
    return list(session.scalars(query.order_by(Image.seq).options(*options)))


#: What others write of the images of a unit that a worker holds.
_WRITTEN_BY_OTHERS = ("status", "passed", "triage", "reason", "flags", "number")


def still_open(session: Session, work_id: uuid.UUID, loaded: Sequence[Image]) -> list[Image]:
    """Return what `images_of` does, by the rows that this worker has loaded under its lease.

    Only what others may have written meanwhile is read again. They stay outside the session: `counted` writes
    what is changed in them.
    """
    columns = (getattr(Image, name) for name in _WRITTEN_BY_OTHERS)
    query = select(Image.id, *columns).where(Image.work_id == work_id, Image.status.not_in(counters.TERMINAL))
    now = {id_: values for id_, *values in session.execute(query)}
    images = [image for image in loaded if image.id in now]
    if len(images) != len(now):
        return images_of(session, work_id)
    for image in images:
        for name, value in zip(_WRITTEN_BY_OTHERS, now[image.id], strict=True):
            if image.__dict__.get(name) != value:
                set_committed_value(image, name, value)
    return images


def cancelled_meanwhile(session: Session, work: Work) -> bool:
    """If the batch was cancelled, end the chunk and say so; called inside a stage's save."""
    if session.scalar(select(Batch.cancelled_at).where(Batch.id == work.batch_id)) is None:
        return False
    _cancel(session, work)
    return True


def pass_stage(session: Session, work: Work, next_stage: Stage | None) -> None:
    """End a stage: hand the unit to `next_stage`, or end it (None)."""
    work.lease_token = work.lease_until = None
    work.error = work.error_code = None
    work.unavailable_since = work.unavailable_reason = None
    if next_stage is None:
        work.state = WorkState.DONE.value
        work.finished_at = func.clock_timestamp()
    else:
        work.stage = next_stage.value
        work.published_at = func.clock_timestamp()
    write_changed(session, [work])


def postpone(session: Session, lease: Lease, delay: float) -> None:
    """Make a unit due again in `delay` seconds: what it is about has attempts of its own, or has to wait."""
    session.execute(
        update(Work)
        .where(Work.id == lease.work_id, Work.lease_token == lease.token)
        .values(
            state=WorkState.DUE.value,
            lease_token=None,
            lease_until=None,
            published_at=None,
            due_at=_later(delay),
        )
    )


def give_back(session: Session, lease: Lease, delay: float, why: str) -> bool:
    """Give a unit back without counting an attempt: a dependency is unavailable, or the worker shuts down.

    That is bounded: a unit that made no progress for `unavailable_seconds` fails, and `why` is its error.

    Returns
    -------
    bool
        Whether it may be tried again.
    """
    try:
        work = hold(session, lease)
    except StaleLease:
        return True
    now: datetime = session.scalars(select(func.clock_timestamp())).one()
    since = work.unavailable_since or now
    work.unavailable_since, work.unavailable_reason = since, why[:200]
    if (now - since).total_seconds() < get_settings().unavailable_seconds:
        postpone(session, lease, delay)
        return True
    work.lease_token = work.lease_until = None
    work.error, work.error_code = f"unavailable for too long: {why}"[:2000], Reason.UNAVAILABLE.value
    _end_failed(session, work, Reason.UNAVAILABLE, work.error, split=False)
    return False


def fail(session: Session, lease: Lease, reason: Reason, error: str, *, from_the_start: bool = False) -> None:
    """Count a failed attempt of the stage that holds `lease`. A stale lease changes nothing.

    Parameters
    ----------
    from_the_start
        The next attempt begins with the first stage: what an earlier one left for this one is lost.
    """
    try:
        work = hold(session, lease)
    except StaleLease:
        return
    if from_the_start and work.kind == WorkKind.CHUNK:
        work.stage = STAGES[0].value
    _failed_attempt(session, work, reason, error)


def fail_untaken(session: Session, work_id: uuid.UUID, reason: Reason, error: str) -> None:
    """Count a failed attempt of a unit whose taking itself failed; one that a worker holds is left alone."""
    work = session.scalar(select(Work).where(Work.id == work_id).with_for_update())
    if work is not None and work.lease_token is None and work.state not in ENDED_WORK:
        _failed_attempt(session, work, reason, error)


def expire_leases(session: Session, limit: int = 100) -> int:
    """Count a failed attempt of every unit whose worker let its lease run out; return how many."""
    rows = session.scalars(
        select(Work)
        .where(
            Work.state.in_([WorkState.PUBLISHED, WorkState.RUNNING]),
            Work.lease_until < func.clock_timestamp(),
        )
        .order_by(Work.lease_until)
        .limit(limit)
        .with_for_update(skip_locked=True)
    ).all()
    for work in rows:
        work_id = work.id
        try:
            with session.begin_nested():
                if work.kind == WorkKind.CHUNK and cancelled_meanwhile(session, work):
                    continue
                _failed_attempt(session, work, Reason.WORKER_LOST, "the lease ran out")
        except (SQLAlchemyError, ValueError) as error:
            if isinstance(error, SQLAlchemyError) and is_unavailable(error):
                raise
            log.exception("the lease of %s ran out, and that could not be written down", work_id)
    return len(rows)


def _no_later(time: Any, seconds: float) -> ColumnElement[datetime]:
    return case((time.is_not(None), func.least(time, _later(seconds))))  # least() passes over NULL


#: No chunk waits longer than this for its next attempt.
LONGEST_WAIT = 30.0


def clamp_future_timestamps(session: Session) -> int:
    """Clamp times that lie in the future since the database's clock was set back; return how many.

    Without it a killed worker's unit would wait for as long as the clock was set back.
    """
    lease = get_settings().lease_seconds
    chunked = Work.kind.in_([WorkKind.CHUNK, WorkKind.FINISH])  # notices may wait longer, on purpose
    mended = session.execute(
        update(Work)
        .where(
            work_is_open(),
            or_(
                Work.lease_until > _later(lease + 5),
                Work.published_at > _later(5),
                and_(chunked, Work.due_at > _later(LONGEST_WAIT + 5)),
            ),
        )
        .values(
            lease_until=_no_later(Work.lease_until, lease),
            published_at=_no_later(Work.published_at, 0),
            due_at=case((chunked, _no_later(Work.due_at, 0)), else_=Work.due_at),
        )
        .returning(Work.id)
        .execution_options(synchronize_session=False)
    )
    return len(mended.all())


def _failed_attempt(session: Session, work: Work, reason: Reason, error: str) -> None:
    work.attempt += 1
    work.lease_token = work.lease_until = None
    work.error, work.error_code = error[:2000], reason.value
    work.state = WorkState.DUE.value
    work.published_at = None
    work.due_at = _later(min(LONGEST_WAIT, 0.5 * 2**work.attempt))
    if work.kind != WorkKind.FINISH and work.attempt >= get_settings().max_attempts:
        _end_failed(session, work, reason, error, split=True)
    session.flush()


def _end_failed(session: Session, work: Work, reason: Reason, error: str, *, split: bool) -> None:
    """End a unit for good; the images of a chunk fail, or are split off to be tried one by one.

    The end of a batch has no image that could fail: `batch_end.give_up` ends it.
    """
    if work.kind == WorkKind.FINISH:
        work.state, work.published_at = WorkState.DUE.value, None
        work.due_at = _later(LONGEST_WAIT)
        session.flush()
        return
    work.finished_at = func.clock_timestamp()
    if work.kind != WorkKind.CHUNK:
        work.state = WorkState.FAILED.value
        session.flush()
        return
    images = images_of(session, work.id)
    work.state = WorkState.DONE.value
    if split and len(images) > 1:
        _split(session, work, images)
    else:
        _fail_images(session, work, images, reason, error)
    session.flush()


def _split(session: Session, work: Work, images: Sequence[Image]) -> None:
    """Give each image a unit of its own, from the start: its neighbours must not die with it."""
    for image in images:
        _start_again(session, work, [image])


def _start_again(session: Session, work: Work, images: Sequence[Image]) -> None:
    """Take images out of a unit and give them one of their own, which starts with the first stage."""
    own = Work(
        id=uuid.uuid4(),
        site_id=work.site_id,
        batch_id=work.batch_id,
        kind=WorkKind.CHUNK.value,
        round=work.round,
        stage=STAGES[0].value,
        priority=work.priority,
        n_images=len(images),
    )
    session.add(own)
    session.flush()
    with counters.counted(session, _batch_of(work), list(images)):
        for image in images:
            image.work_id = own.id
            image.passed = None
            image.status = ImageStatus.QUEUED.value


def _fail_images(session: Session, work: Work, images: Sequence[Image], reason: Reason, error: str) -> None:
    with counters.counted(session, _batch_of(work), list(images)):
        for image in images:
            image.status = ImageStatus.FAILED.value
            image.passed = counters.LAST
            image.reason = reason.value
            image.error = error[:2000]
            image.finished_at = func.clock_timestamp()


def leave_rest(session: Session, work: Work, images: Sequence[Image]) -> None:
    """Give images that a stage did not come to a unit of their own, due from the start."""
    work.n_images -= len(images)
    _start_again(session, work, images)


#: The longest that one site's work stands back for what its files cost.
LONGEST_REST = 300.0


def rest_site(session: Session, site_id: uuid.UUID, seconds: float) -> None:
    """Postpone a chunk by as long as its files have just kept a worker: other sites' go first.

    So a site whose files take long to decode has half of the workers' time while others wait, and all of it
    while none does.
    """
    now = func.clock_timestamp()
    until = func.greatest(func.coalesce(Site.decode_rests_until, now), now) + timedelta(seconds=seconds)
    session.execute(
        update(Site)
        .where(Site.id == site_id)
        .values(decode_rests_until=func.least(until, _later(LONGEST_REST)))
        .execution_options(synchronize_session=False)
    )


def should_continue(session: Session, lease: Lease) -> bool:
    """Tell whether a long stage should continue: its batch is not cancelled and its lease is held."""
    query = select(Batch.cancelled_at.is_(None)).join(Work, Work.batch_id == Batch.id)
    mine = (Work.id == lease.work_id, Work.lease_token == lease.token)
    return bool(session.scalar(query.where(*mine)))


def release_ended_scratch(session: Session, limit: int = 100) -> list[str]:
    """Clear the scratch keys of ended units; return those to delete."""
    ended = (Work.scratch.is_not(None), Work.state.in_(ENDED_WORK))
    rows = session.scalars(select(Work).where(*ended).limit(limit).with_for_update(skip_locked=True)).all()
    keys = [work.scratch for work in rows if work.scratch]
    for work in rows:
        work.scratch = None
    return keys

"""A batch's counters follow its images' rows, in the same transaction, so that a poll is one row's read."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from sqlalchemy import ColumnElement, and_, case, func, literal, or_, select, true, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from store.base.tables import Batch, BatchMark, BatchReason, Image, Work, WorkKind
from store.queue.pace import mark_number, passed_by_work
from vocabulary.states import (
    STAGES,
    TERMINAL_IMAGE_STATUSES,
    BatchStatus,
    ImageStatus,
    Stage,
    stages_until,
)

#: The last stage: what an image that has ended has passed, whatever its end.
LAST = STAGES[-1].value
TERMINAL = tuple(status.value for status in TERMINAL_IMAGE_STATUSES)

#: Seconds over which the shown rate is averaged; an image that passed one of five stages counts a fifth.
RATE_WINDOW = 20.0

_Row = tuple[str, str | None, str | None, str | None]  # status, last stage passed, triage, reason


def tally(rows: Iterable[tuple[_Row, int]]) -> Counter[str]:
    """Count what `rows` of ((status, last stage passed, triage, reason), n) add to the counters' columns."""
    counts: Counter[str] = Counter()
    for (status, passed, triage, reason), n in rows:
        if status != ImageStatus.UPLOADED:
            counts[f"n_{status}"] += n
        for stage in stages_until(passed):
            counts[f"s_{stage}"] += n
        if triage is not None and status == ImageStatus.DONE:
            counts[f"t_{triage}"] += n
        if reason is not None:
            counts[f"reason:{reason}"] += n
    return counts


def tally_images(images: Iterable[Image]) -> Counter[str]:
    """Count loaded images."""
    return tally(((i.status, i.passed, i.triage, i.reason), 1) for i in images)


def apply(session: Session, batch_id: uuid.UUID, delta: Counter[str]) -> None:
    """Add `delta` to the batch's counters; when the last image ends, make the round's finish row.

    The batch's row is locked last in every transaction, after work, images and studies.
    """
    progress = sum(delta[f"s_{stage}"] for stage in STAGES) / len(STAGES)  # in images
    columns = {
        name: getattr(Batch, name) + n for name, n in delta.items() if n and not name.startswith("reason:")
    }
    now = func.clock_timestamp()
    seconds = func.greatest(
        func.extract("epoch", now - func.coalesce(Batch.rate_at, Batch.started_at, now)), 0.1
    )
    weight = func.exp(-seconds / RATE_WINDOW)
    if progress > 0:
        present = literal(progress) / seconds
        columns["rate"] = case((Batch.rate > 0, Batch.rate * weight + (1 - weight) * present), else_=present)
        columns["rate_at"] = now
    result = session.execute(
        update(Batch)
        .where(Batch.id == batch_id)
        .values(version=Batch.version + 1, **columns)
        .returning(
            Batch.site_id,
            Batch.status,
            Batch.round,
            Batch.priority,
            Batch.n_total,
            Batch.n_done,
            Batch.n_rejected + Batch.n_failed + Batch.n_cancelled,
            *(getattr(Batch, f"s_{stage}") for stage in STAGES),
            *(getattr(Batch, f"ms_{stage}") for stage in STAGES),
        )
        .execution_options(synchronize_session=False)
    ).one()
    site_id, status, round_, priority, total, n_done, n_unread, *of_stages = result
    all_passed, worked = of_stages[: len(STAGES)], of_stages[len(STAGES) :]
    number = mark_number(all_passed, total)
    before = [n - delta[f"s_{stage}"] for stage, n in zip(STAGES, all_passed, strict=True)]
    if progress > 0 and (not any(before) or number > mark_number(before, total)):
        mark = insert(BatchMark).values(
            batch_id=batch_id,
            number=number,
            at=now,
            passed=passed_by_work(all_passed, n_unread),
            worked=worked,
        )
        session.execute(mark.on_conflict_do_nothing())
    for name, n in sorted(delta.items()):
        if name.startswith("reason:") and n:
            row = insert(BatchReason).values(batch_id=batch_id, reason=name.removeprefix("reason:"), n=n)
            session.execute(
                row.on_conflict_do_update(
                    index_elements=["batch_id", "reason"], set_={"n": BatchReason.n + row.excluded.n}
                )
            )
    active = {BatchStatus.QUEUED, BatchStatus.RUNNING, BatchStatus.PAUSED}
    if n_done + n_unread == total and status in active:
        session.execute(
            insert(Work)
            .values(
                id=uuid.uuid4(),
                site_id=site_id,
                batch_id=batch_id,
                kind=WorkKind.FINISH.value,
                round=round_,
                priority=priority,
            )
            .on_conflict_do_nothing()
        )


def has_passed(stage: Stage) -> ColumnElement[bool]:
    """Return the condition that an image has passed `stage`."""
    return Image.passed.in_(STAGES[STAGES.index(stage) :])


def has_yet_to_pass(stage: Stage) -> ColumnElement[bool]:
    """Return the condition that an image has not passed `stage`."""
    return or_(Image.passed.is_(None), Image.passed.not_in(STAGES[STAGES.index(stage) :]))


@contextmanager
def counted(session: Session, batch_id: uuid.UUID, images: list[Image]) -> Iterator[Counter[str]]:
    """Write the images that the block changed, and apply the difference to the counters.

    The block may take images out of the list, and add to other counters by what it is given.
    """
    before = tally_images(images)
    others: Counter[str] = Counter()
    yield others
    session.flush()
    delta = tally_images(images)
    delta.subtract(before)
    delta.update(others)
    apply(session, batch_id, delta)


def cancel_images(
    session: Session, batch_id: uuid.UUID, work_ids: list[uuid.UUID] | None, reason: str
) -> int:
    """End every image that is not terminal, of the given work rows or (None) of the whole batch.

    What was read before stays read: such an image is done, the others are cancelled. A few statements
    whatever their number. Returns how many ended.
    """
    waiting = [Image.batch_id == batch_id, Image.status.not_in(TERMINAL)]
    if work_ids is not None:
        waiting.append(Image.work_id.in_(work_ids))
    ends: tuple[tuple[ColumnElement[bool], dict[str, str | None]], ...] = (
        (and_(Image.finding_id.is_not(None), Image.triage.is_not(None)), {"status": ImageStatus.DONE.value}),
        (true(), {"status": ImageStatus.CANCELLED.value, "reason": reason, "triage": None}),
    )
    delta: Counter[str] = Counter()
    n_ended = 0
    for which, values in ends:
        columns = (Image.status, Image.passed, Image.triage, Image.reason)
        rows = session.execute(select(*columns, func.count()).where(*waiting, which).group_by(*columns)).all()
        if not rows:
            continue
        session.execute(
            update(Image)
            .where(*waiting, which)
            .values(passed=LAST, finished_at=func.clock_timestamp(), **values)
            .execution_options(synchronize_session=False)
        )
        for status, passed, triage, why, n in rows:
            delta.subtract(tally([((status, passed, triage, why), n)]))
            after = (str(values["status"]), LAST, values.get("triage", triage), values.get("reason", why))
            delta.update(tally([(after, n)]))
            n_ended += n
    if n_ended:
        apply(session, batch_id, delta)
    return n_ended

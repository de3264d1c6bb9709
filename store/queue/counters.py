"""A batch's counters follow its images' rows, in the same transaction, so that a poll is one row's read."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from sqlalchemy import ColumnElement, and_, func, or_, select, text, true, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from store.base.bulk import write_changed
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


_COLUMNS = tuple(
    column.name for column in Batch.__table__.columns if column.name.startswith(("n_", "t_", "s_", "ms_"))
)
_SECONDS = (
    "greatest(extract(epoch FROM clock_timestamp() - coalesce(rate_at, started_at, clock_timestamp())), 0.1)"
)
#: As text, of all counters at once: to build it anew for those that change takes longer than all the rest.
_APPLY = text(
    f"""
    UPDATE batches SET version = version + 1,
           {", ".join(f"{name} = {name} + given.added[{n}]" for n, name in enumerate(_COLUMNS, 1))},
           rate = CASE WHEN given.progress <= 0 THEN rate
                       WHEN rate > 0 THEN rate * exp(-{_SECONDS} / {RATE_WINDOW})
                            + (1 - exp(-{_SECONDS} / {RATE_WINDOW})) * given.progress / {_SECONDS}
                       ELSE given.progress / {_SECONDS} END,
           rate_at = CASE WHEN given.progress > 0 THEN clock_timestamp() ELSE rate_at END
    FROM (SELECT CAST(:added AS bigint[]) AS added, CAST(:progress AS double precision) AS progress) AS given
    WHERE id = :batch
    RETURNING site_id, status, round, priority, n_total, n_done, n_rejected + n_failed + n_cancelled,
              {", ".join(f"{what}_{stage}" for what in ("s", "ms") for stage in STAGES)}
    """  # noqa: S608 - made of the columns' names
)


def apply(session: Session, batch_id: uuid.UUID, delta: Counter[str]) -> None:
    """Add `delta` to the batch's counters; when the last image ends, make the round's finish row.

    The batch's row is locked last in every transaction, after work, images and studies.
    """
    progress = sum(delta[f"s_{stage}"] for stage in STAGES) / len(STAGES)  # in images
    if unknown := [name for name in delta if name not in _COLUMNS and not name.startswith("reason:")]:
        raise ValueError(f"no counters: {unknown}")
    given = {
        "batch": batch_id,
        "added": f"{{{','.join(str(delta[name]) for name in _COLUMNS)}}}",
        "progress": progress,
    }
    result = session.connection().execute(_APPLY, given).one()
    site_id, status, round_, priority, total, n_done, n_unread, *of_stages = result
    all_passed, worked = of_stages[: len(STAGES)], of_stages[len(STAGES) :]
    number = mark_number(all_passed, total)
    before = [n - delta[f"s_{stage}"] for stage, n in zip(STAGES, all_passed, strict=True)]
    if progress > 0 and (not any(before) or number > mark_number(before, total)):
        mark = insert(BatchMark).values(
            batch_id=batch_id,
            number=number,
            at=func.clock_timestamp(),
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

    The block may take images out of the list, and add to other counters by what it is given. They are written
    together at its end: a block that asks the database for what it has just changed flushes before.
    """
    before = tally_images(images)
    others: Counter[str] = Counter()
    with session.no_autoflush:
        yield others
    write_changed(session, images)
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

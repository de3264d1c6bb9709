"""How long a batch still takes: by the slowest queue's pace, from the marks that its stages left behind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from store.base.tables import Batch, BatchMark
from vocabulary.states import STAGES

#: Marks that a batch leaves from its beginning to its end.
MARKS = 64
#: The share of the latest progress from which a queue's pace is taken: the beginning is a warm-up.
LATEST = 0.6


@dataclass(frozen=True)
class Mark:
    """How many images had passed each stage by its work (`passed_by_work`), in seconds of any clock."""

    at: float
    passed: tuple[int, ...]


def mark_number(passed: Sequence[int], total: int) -> int:
    """Return which of the `MARKS` of a batch its progress has come to."""
    return MARKS * sum(passed) // max(1, total * len(passed))


def passed_by_work(passed: Sequence[int], unread: int) -> list[int]:
    """Return how many images passed each stage, without those that were rejected, failed or cancelled.

    Such an image passes all later stages at once, which says nothing of their pace.
    """
    return [max(0, n - unread) for n in passed]


def seconds_left(marks: Sequence[Mark], now: Mark, total: int) -> float | None:
    """Estimate how many seconds after `now` every image has passed every stage.

    The slowest queue decides. Stages of one queue share its workers, which do the one while the other waits:
    their passes are counted together until the first of them is through, and then those of the other alone.
    A queue's pace is measured from chunk to chunk, and not before its second: the first one also waited for
    workers that were not warm, or that did the queue's other stage.

    Parameters
    ----------
    marks
        Of the present round, in the order of time.
    total
        Images that are, or will be, read.

    Returns
    -------
    float or None
        None until two chunks have passed every stage: what a later one costs is not known before.
    """
    known = [mark for mark in marks if mark.at < now.at]
    queues: dict[str, list[int]] = {}
    for number, stage in enumerate(STAGES[: len(now.passed)]):
        queues.setdefault(stage.queue, []).append(number)
    times = [_left_in_queue(known, now, total, queue) for queue in queues.values()]
    return None if None in times else max((time for time in times if time is not None), default=0.0)


def _left_in_queue(known: Sequence[Mark], now: Mark, total: int, queue: Sequence[int]) -> float | None:
    """Estimate when the stages of one queue are through."""
    going = [stage for stage in queue if now.passed[stage] < total]
    if not going:
        return 0.0

    def moved(mark: Mark) -> int:
        return sum(mark.passed[stage] for stage in going)

    def alone(mark: Mark) -> bool:
        return all(mark.passed[stage] >= total for stage in queue if stage not in going)

    so_far = moved(now)
    before = [m for m in known if all(m.passed[stage] for stage in going) and moved(m) < so_far]
    before = [mark for mark in before if alone(mark)] or before
    if not before:
        return None
    latest = [mark for mark in before if moved(mark) <= (1 - LATEST) * so_far]
    begin = latest[-1] if latest else before[0]
    chunk = next(mark for mark in [*known, now] if moved(mark) >= so_far)
    steps = len({moved(mark) for mark in before if mark.at >= begin.at})
    waited, step = now.at - chunk.at, (chunk.at - begin.at) / steps
    progress, rest = so_far - moved(begin), total * len(going) - so_far
    at_this_pace = rest * (chunk.at - begin.at) / progress
    if waited <= step:
        left = at_this_pace - waited
    else:  # the next chunk is late: the pace is what it would be if that came now
        due = progress / steps
        left = max(0.0, rest - due) * (now.at - begin.at) / (progress + due)
    return max(left, min(step, at_this_pace) / 4)  # something is left


def batch_seconds_left(session: Session, batch: Batch) -> float | None:
    """Estimate how many seconds a batch still takes; None until there is a pace."""
    if batch.rate_at is None:
        return None
    rows = session.scalars(select(BatchMark).where(BatchMark.batch_id == batch.id).order_by(BatchMark.at))
    marks = [Mark(row.at.timestamp(), tuple(row.passed)) for row in rows]
    passed = [int(getattr(batch, f"s_{stage.value}")) for stage in STAGES]
    unread = batch.n_rejected + batch.n_failed + batch.n_cancelled
    latest = Mark(batch.rate_at.timestamp(), tuple(passed_by_work(passed, unread)))
    now = Mark(max(datetime.now(UTC).timestamp(), latest.at), latest.passed)
    return seconds_left([*marks, latest], now, batch.n_total - unread)


def forget_marks(session: Session, batch: Batch) -> None:
    """Begin anew: after a pause, and in another round, the old pace says nothing."""
    session.execute(delete(BatchMark).where(BatchMark.batch_id == batch.id))

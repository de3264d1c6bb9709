"""How long a batch still takes: by the slowest stage's pace, from the marks that its stages left behind."""

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
#: The share of the latest progress from which a stage's pace is taken: the beginning is a warm-up.
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

    Of each stage: what is left in it, by the pace that it had lately; the slowest stage decides. The pace of
    a stage that has just begun counts from when the one before it had handed over its first images.

    Parameters
    ----------
    marks
        Of the present round, in the order of time.
    total
        Images that are, or will be, read.

    Returns
    -------
    float or None
        None until every stage has begun: what a later one costs is not known before.
    """
    known = [mark for mark in marks if mark.at < now.at]
    times = []
    for stage, passed in enumerate(now.passed):
        if passed >= total:
            continue
        since = [mark for mark in known if 0 < mark.passed[stage] <= passed - LATEST * passed]
        handed = [
            mark for mark in known if mark.passed[stage] < passed and (not stage or mark.passed[stage - 1])
        ]
        begin = since[-1] if since else next(iter(handed), None)
        if begin is None:
            return None
        pace = (passed - begin.passed[stage]) / (now.at - begin.at)
        times.append((total - passed) / pace)
    return max(times, default=0.0)


def batch_seconds_left(session: Session, batch: Batch) -> float | None:
    """Estimate how many seconds a batch still takes; None until there is a pace."""
    if batch.rate_at is None:
        return None
    rows = session.scalars(select(BatchMark).where(BatchMark.batch_id == batch.id).order_by(BatchMark.at))
    marks = [Mark(row.at.timestamp(), tuple(row.passed)) for row in rows]
    passed = [int(getattr(batch, f"s_{stage.value}")) for stage in STAGES]
    unread = batch.n_rejected + batch.n_failed + batch.n_cancelled
    now = Mark(batch.rate_at.timestamp(), tuple(passed_by_work(passed, unread)))
    left = seconds_left(marks, now, batch.n_total - unread)
    if left is None:
        return None
    return max(0.0, left - (datetime.now(UTC) - batch.rate_at).total_seconds())


def forget_marks(session: Session, batch: Batch) -> None:
    """Begin anew: after a pause, and in another round, the old pace says nothing."""
    session.execute(delete(BatchMark).where(BatchMark.batch_id == batch.id))

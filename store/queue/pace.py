"""How long a batch still takes: the work that is left, by the workers that are busy at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import median

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from store.base.tables import Batch, BatchMark
from vocabulary.states import STAGES, BatchStatus

#: Marks that a batch leaves from its beginning to its end.
MARKS = 64
#: The share of the work from which on a time is said.
LEAST = 0.1
#: The share of a stage's images, the latest, by which its cost is measured: the first ones are a warm-up.
LATEST_IMAGES = 0.6
#: The share of the work done, the latest, by which it is measured how many workers are busy at once.
LATEST_WORK = 0.5
#: The share of the work after which earlier batches no longer say how many workers are busy at once.
OWN = 0.8
#: Earlier batches that are looked at, and how far back the like of a batch is looked for.
EARLIER, LOOK_BACK = 5, 50


@dataclass(frozen=True)
class Mark:
    """How far a batch was, in seconds of any clock.

    Attributes
    ----------
    passed
        Images that had passed each stage by its work (`passed_by_work`).
    worked
        Milliseconds that workers had been at each stage.
    """

    at: float
    passed: tuple[int, ...]
    worked: tuple[int, ...]


@dataclass(frozen=True)
class Pace:
    """What earlier batches took.

    Attributes
    ----------
    costs
        Milliseconds of a worker that an image takes in each stage.
    busy
        Workers that were busy at once.
    """

    costs: tuple[float, ...]
    busy: float


def mark_number(passed: Sequence[int], total: int) -> int:
    """Return which of the `MARKS` of a batch its progress has come to."""
    return MARKS * sum(passed) // max(1, total * len(passed))


def passed_by_work(passed: Sequence[int], unread: int) -> list[int]:
    """Return how many images passed each stage, without those that were rejected, failed or cancelled.

    Such an image passes all later stages at once, which says nothing of their pace.
    """
    return [max(0, n - unread) for n in passed]


def seconds_left(marks: Sequence[Mark], now: Mark, total: int, earlier: Pace | None = None) -> float | None:
    """Estimate how many seconds after `now` every image has passed every stage.

    It is the work that is left, in seconds of a worker, by the workers that are busy at once. Both are
    measured on this batch's latest part; of a stage that no image has passed, and of how many workers are
    busy once the later stages have begun, earlier batches tell.

    Parameters
    ----------
    marks
        Of the present round, in the order of time.
    total
        Images that are, or will be, read.

    Returns
    -------
    float or None
        None before a tenth of the work is done, and while it is not known what a stage costs: without an
        earlier batch, until each has done a second chunk.
    """
    known = [mark for mark in marks if mark.at < now.at and mark.passed != now.passed]
    latest = next((mark for mark in marks if mark.passed == now.passed), now)
    costs = _costs(known, latest, earlier)
    if not known or costs is None or total <= 0:
        return None

    def work(mark: Mark) -> float:
        return sum(cost * n for cost, n in zip(costs, mark.passed, strict=True)) / 1000

    whole, done = sum(costs) * total / 1000, work(latest)
    if done < LEAST * whole:
        return None
    begin = max(
        (mark for mark in known if work(mark) <= (1 - LATEST_WORK) * done), key=work, default=known[0]
    )
    window, progress = latest.at - begin.at, done - work(begin)
    if window <= 0 or progress <= 0:
        return None
    own = min(1.0, done / whole / OWN) if earlier else 1.0
    busy = math.pow(progress / window, own) * math.pow(earlier.busy if earlier else 1.0, 1 - own)
    left = (whole - done) / busy
    gap = window / sum(mark.at >= begin.at for mark in known)  # from one change to the next
    late = max(0.0, now.at - latest.at - gap)  # the pace is what it would be if the next change came now
    waited = min(gap, now.at - latest.at)
    return max(left * math.pow(1 + late / window, own) - waited, min(gap, left) / 4)  # something is left


def _costs(known: Sequence[Mark], latest: Mark, earlier: Pace | None) -> list[float] | None:
    """Return milliseconds of a worker an image in each stage; None where one is not known.

    The first chunk may have waited for networks and fonts to be loaded: it alone counts as much as earlier
    batches do.
    """
    costs = []
    for stage, (passed, worked) in enumerate(zip(latest.passed, latest.worked, strict=True)):
        before = earlier.costs[stage] if earlier else None
        steps = [mark for mark in known if 0 < mark.passed[stage] < passed]
        if steps:
            old = [mark for mark in steps if mark.passed[stage] <= (1 - LATEST_IMAGES) * passed]
            begin = old[-1] if old else steps[0]
            costs.append((worked - begin.worked[stage]) / (passed - begin.passed[stage]))
        elif before is None:
            return None
        elif passed:
            costs.append(math.sqrt(before * worked / passed))
        else:
            costs.append(before)
    return costs


def _mark(at: datetime, batch: Batch) -> Mark:
    passed = [int(getattr(batch, f"s_{stage}")) for stage in STAGES]
    unread = batch.n_rejected + batch.n_failed + batch.n_cancelled
    worked = tuple(int(getattr(batch, f"ms_{stage}")) for stage in STAGES)
    return Mark(at.timestamp(), tuple(passed_by_work(passed, unread)), worked)


def typical(paces: Sequence[Pace]) -> Pace | None:
    """Return the median of what batches took."""
    if not paces:
        return None
    costs = zip(*(pace.costs for pace in paces), strict=True)
    return Pace(tuple(median(cost) for cost in costs), median(pace.busy for pace in paces))


def pace_of(last: Mark, seconds: float) -> Pace | None:
    """Return what a batch took that has ended after so many seconds; None where nothing of it was read."""
    if not min(last.passed) or seconds <= 0 or not all(last.worked):
        return None
    costs = tuple(ms / n for ms, n in zip(last.worked, last.passed, strict=True))
    return Pace(costs, sum(last.worked) / 1000 / seconds)


def earlier_pace(session: Session, batch: Batch) -> Pace | None:
    """Return what the site's latest batches took that were asked for the same; None where there is none."""
    latest = (
        select(Batch.id)
        .where(Batch.site_id == batch.site_id, Batch.id != batch.id)
        .order_by(Batch.created_at.desc(), Batch.id.desc())
        .limit(LOOK_BACK)
    )
    alike = (
        select(Batch)
        .where(
            Batch.id.in_(latest),
            Batch.status == BatchStatus.DONE,
            Batch.round == 1,
            Batch.with_report == batch.with_report,
            Batch.with_heatmap == batch.with_heatmap,
            Batch.run_id.is_(None) == (batch.run_id is None),
        )
        .order_by(Batch.created_at.desc())
        .limit(EARLIER)
    )
    paces = [
        pace_of(_mark(ended.finished_at, ended), (ended.finished_at - ended.started_at).total_seconds())
        for ended in session.scalars(alike)
        if ended.finished_at and ended.started_at
    ]
    return typical([pace for pace in paces if pace is not None])


def batch_seconds_left(session: Session, batch: Batch) -> float | None:
    """Estimate how many seconds a batch still takes; None until there is a pace."""
    if batch.rate_at is None:
        return None
    rows = session.scalars(select(BatchMark).where(BatchMark.batch_id == batch.id).order_by(BatchMark.at))
    marks = [Mark(row.at.timestamp(), tuple(row.passed), tuple(row.worked)) for row in rows if row.worked]
    latest = _mark(batch.rate_at, batch)
    now = Mark(max(datetime.now(UTC).timestamp(), latest.at), latest.passed, latest.worked)
    total = batch.n_total - batch.n_rejected - batch.n_failed - batch.n_cancelled
    return seconds_left([*marks, latest], now, total, earlier_pace(session, batch))


def reset_marks(session: Session, batch: Batch) -> None:
    """Begin anew: after a pause, and in another round, the old pace says nothing."""
    session.execute(delete(BatchMark).where(BatchMark.batch_id == batch.id))

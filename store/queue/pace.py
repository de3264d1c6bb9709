"""How long a batch still takes: the work that is left, by the workers that are busy at once."""

from __future__ import annotations

import math
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from statistics import median

from sqlalchemy import delete, func, or_, select
from sqlalchemy.orm import Session

from settings import get_settings
from store.base.tables import Batch, BatchMark, Work, WorkKind, WorkState
from vocabulary.states import STAGES, BatchStatus, Stage

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
#: Other batches that are looked at: those which are read first.
BESIDE = 100


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


@dataclass(frozen=True)
class Beside:
    """Another batch that the same workers read.

    Attributes
    ----------
    marks
        How far it was, in the order of time; the last is how far it is.
    waiting
        Its images that have not begun and go to the workers before the last one of the batch in question.
    in_flight
        Its images that are with the workers.
    report
        Whether it has reports.
    """

    marks: Sequence[Mark]
    waiting: int
    in_flight: int
    report: bool = True
    batch_id: uuid.UUID | None = None

    def worked_since(self, at: float) -> float:
        """Return the seconds that workers have been at it since then."""
        before = [mark for mark in self.marks if mark.at <= at]
        return (sum(self.marks[-1].worked) - (sum(before[-1].worked) if before else 0)) / 1000

    def ahead(self, costs: Sequence[float], stages: int) -> float:
        """Return the seconds of a worker that it takes while an image of ours passes `stages` more stages.

        Workers take in turns what is in flight: each such image passes as many stages meanwhile.

        Parameters
        ----------
        costs
            Our milliseconds of a worker an image in each stage, for stages that it has not come to.
        """
        now = self.marks[-1]
        at = [0, *(max(0, a - b) for a, b in pairwise(now.passed))]  # images whose next stage this is
        at[0] = max(0, self.in_flight - sum(at))
        seconds = 0.0
        for stage, (passed, worked) in enumerate(zip(now.passed, now.worked, strict=True)):
            cost = worked / passed if passed else costs[stage]
            if STAGES[stage] is Stage.REPORT and not self.report:
                cost = 0.0
            seconds += cost * (self.waiting + sum(at[max(0, stage - stages + 1) : stage + 1])) / 1000
        return seconds


def mark_number(passed: Sequence[int], total: int) -> int:
    """Return which of the `MARKS` of a batch its progress has come to."""
    return MARKS * sum(passed) // max(1, total * len(passed))


def passed_by_work(passed: Sequence[int], unread: int) -> list[int]:
    """Return how many images passed each stage, without those that were rejected, failed or cancelled.

    Such an image passes all later stages at once, which says nothing of their pace.
    """
    return [max(0, n - unread) for n in passed]


def seconds_left(
    marks: Sequence[Mark],
    now: Mark,
    total: int,
    earlier: Pace | None = None,
    beside: Sequence[Beside] = (),
) -> float | None:
    """Estimate how many seconds after `now` every image has passed every stage.

    It is the work that is left, in seconds of a worker, by the workers that are busy at once. Both are
    measured on this batch's latest part; of a stage that no image has passed, and of how many workers are
    busy once the later stages have begun, earlier batches tell. Other batches' work that is done before this
    one's last image counts as left, and what was done of it as done.

    Parameters
    ----------
    marks
        Of the present round, in the order of time.
    total
        Images that are, or will be, read.
    beside
        Other batches that the same workers read.

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
    changes = [mark.at for mark in known if mark.at >= begin.at]
    changes += [mark.at for other in beside for mark in other.marks if begin.at <= mark.at <= now.at]
    end = max(latest.at, *changes)
    window = end - begin.at
    progress = done - work(begin) + sum(other.worked_since(begin.at) for other in beside)
    if window <= 0 or progress <= 0:
        return None
    own = min(1.0, done / whole / OWN) if earlier else 1.0
    busy = math.pow(progress / window, own) * math.pow(earlier.busy if earlier else 1.0, 1 - own)
    stages = sum(n < total for n in now.passed)
    ahead = sum(other.ahead(costs, stages) for other in beside)
    left = (whole - done + ahead) / busy
    gap = window / len(changes)  # from one change to the next
    late = max(0.0, now.at - end - gap)  # the pace is what it would be if the next change came now
    waited = min(gap, now.at - end)
    return max(left * math.pow(1 + late / window, own) - waited, min(gap, left) / 4)  # something is left


def _cost(known: Sequence[Mark], latest: Mark, stage: int) -> float | None:
    """Return milliseconds of a worker an image of the latest part in a stage; None after one chunk."""
    passed = latest.passed[stage]
    steps = [mark for mark in known if 0 < mark.passed[stage] < passed]
    if not steps:
        return None
    old = [mark for mark in steps if mark.passed[stage] <= (1 - LATEST_IMAGES) * passed]
    begin = old[-1] if old else steps[0]
    return (latest.worked[stage] - begin.worked[stage]) / (passed - begin.passed[stage])


def _costs(known: Sequence[Mark], latest: Mark, earlier: Pace | None) -> list[float] | None:
    """Return milliseconds of a worker an image in each stage; None where one is not known.

    The first chunk may have waited for networks and fonts to be loaded: it alone counts as much as earlier
    batches do.
    """
    costs = []
    for stage, (passed, worked) in enumerate(zip(latest.passed, latest.worked, strict=True)):
        before = earlier.costs[stage] if earlier else None
        cost = _cost(known, latest, stage)
        if cost is not None:
            costs.append(cost)
        elif before is None:
            return None
        elif passed:
            costs.append(math.sqrt(before * worked / passed))
        else:
            costs.append(before)
    return costs


def _mark(at: float, batch: Batch) -> Mark:
    passed = [int(getattr(batch, f"s_{stage}")) for stage in STAGES]
    unread = batch.n_rejected + batch.n_failed + batch.n_cancelled
    worked = tuple(int(getattr(batch, f"ms_{stage}")) for stage in STAGES)
    return Mark(at, tuple(passed_by_work(passed, unread)), worked)


def typical(paces: Sequence[Pace]) -> Pace | None:
    """Return the median of what batches took."""
    if not paces:
        return None
    costs = zip(*(pace.costs for pace in paces), strict=True)
    return Pace(tuple(median(cost) for cost in costs), median(pace.busy for pace in paces))


def pace_of(marks: Sequence[Mark], seconds: float, beside: float = 0.0) -> Pace | None:
    """Return what a batch took that has ended after so many seconds; None where nothing of it was read.

    What its images cost is that of the latest ones: the first may have waited for networks to be loaded.

    Parameters
    ----------
    marks
        In the order of time; the last is its end.
    beside
        Seconds that workers were at other batches meanwhile.
    """
    *known, last = marks
    if not min(last.passed) or seconds <= 0 or not all(last.worked):
        return None
    found = (_cost(known, last, stage) for stage in range(len(last.passed)))
    usual = (ms / n for ms, n in zip(last.worked, last.passed, strict=True))
    costs = tuple(one or other for one, other in zip(found, usual, strict=True))
    return Pace(costs, (sum(last.worked) / 1000 + beside) / seconds)


@dataclass(frozen=True)
class Ended:
    """A batch that has ended, and from when to when it was read."""

    batch: Batch
    begin: float
    end: float

    @property
    def mark(self) -> Mark:
        """How far it was at its end."""
        return _mark(self.end, self.batch)

    def worked_within(self, begin: float, end: float) -> float:
        """Return the seconds that workers were at it between two moments, as if at an even pace."""
        shared = max(0.0, min(end, self.end) - max(begin, self.begin))
        return sum(self.mark.worked) / 1000 * shared / max(self.end - self.begin, 0.001)


def ended_batches(session: Session, batch: Batch) -> list[Ended]:
    """Return those of the site's latest batches that have ended, the latest first."""
    latest = (
        select(Batch.id)
        .where(Batch.site_id == batch.site_id, Batch.id != batch.id)
        .order_by(Batch.created_at.desc(), Batch.id.desc())
        .limit(LOOK_BACK)
    )
    rows = session.scalars(
        select(Batch)
        .where(Batch.id.in_(latest), Batch.round == 1, Batch.finished_at.is_not(None))
        .order_by(Batch.created_at.desc(), Batch.id.desc())
    )
    return [
        Ended(row, row.started_at.timestamp(), row.finished_at.timestamp())
        for row in rows
        if row.started_at and row.finished_at
    ]


def earlier_pace(session: Session, batch: Batch, ended: Sequence[Ended]) -> Pace | None:
    """Return what the site's latest batches took that were asked for the same; None where there is none."""
    alike = [
        one
        for one in ended
        if one.batch.status == BatchStatus.DONE
        and one.batch.with_report == batch.with_report
        and one.batch.with_heatmap == batch.with_heatmap
        and one.batch.is_clinical == batch.is_clinical
    ][:EARLIER]
    marks = _marks_of(session, [one.batch for one in alike])
    paces = []
    for one in alike:
        others = (other.worked_within(one.begin, one.end) for other in ended if other is not one)
        paces.append(pace_of(marks[one.batch.id], one.end - one.begin, sum(others)))
    return typical([pace for pace in paces if pace is not None])


def _class(batch: Batch, now: datetime) -> int:
    """Return the priority that dispatch gives a batch's work; the smaller is sent first."""
    if not batch.is_clinical or batch.submitted_at is None or batch.priority == 0:
        return batch.priority
    waited = (now - batch.submitted_at).total_seconds()
    return batch.priority - (waited >= get_settings().aging_seconds)


def _marks_of(session: Session, batches: Sequence[Batch]) -> dict[uuid.UUID, list[Mark]]:
    """Return how far each batch was at its marks, and how far it is."""
    found: dict[uuid.UUID, list[Mark]] = {batch.id: [] for batch in batches}
    query = select(BatchMark).where(BatchMark.batch_id.in_(found)).order_by(BatchMark.at)
    for row in session.scalars(query):
        if row.worked:
            found[row.batch_id].append(Mark(row.at.timestamp(), tuple(row.passed), tuple(row.worked)))
    for batch in batches:
        at = batch.finished_at or batch.rate_at or batch.started_at or batch.created_at
        found[batch.id].append(_mark(at.timestamp(), batch))
    return found


def batches_beside(session: Session, batch: Batch, ended: Sequence[Ended] = ()) -> list[Beside]:
    """Return the other batches, of every site, that the workers read since this one began, or read before it.

    As dispatch does it: what is more urgent goes first; a site's own in the order in which they were
    submitted; sites take turns.
    """
    due_at = (
        select(Work.due_at)  # all of a batch's chunks are due since it was submitted
        .where(Work.batch_id == Batch.id, Work.state == WorkState.DUE, Work.kind == WorkKind.CHUNK)
        .limit(1)
        .correlate(Batch)
        .scalar_subquery()
    )
    rows = session.execute(
        select(Batch, due_at)
        .where(
            Batch.id != batch.id,
            Batch.status.in_([BatchStatus.QUEUED, BatchStatus.RUNNING]),
            Batch.paused_at.is_(None),
            Batch.cancelled_at.is_(None),
            or_(Batch.priority - 1 <= batch.priority, Batch.status == BatchStatus.RUNNING),
        )
        .order_by(Batch.priority, Batch.submitted_at)
        .limit(BESIDE)
    ).all()
    open_ = [row[0] for row in rows]
    due_since = {row[0].id: row[1] for row in rows}
    ours_since = session.scalar(select(due_at).where(Batch.id == batch.id))
    begin = batch.started_at.timestamp() if batch.started_at else math.inf
    over = [one.batch for one in ended if one.end > begin]
    marks = _marks_of(session, [*open_, *over])
    sent = select(Work.batch_id, func.sum(Work.n_images)).where(
        Work.state.in_([WorkState.PUBLISHED, WorkState.RUNNING]), Work.kind == WorkKind.CHUNK
    )
    with_workers = {id_: n for id_, n in session.execute(sent.group_by(Work.batch_id))}
    now = datetime.now(UTC)
    turns: dict[uuid.UUID, int] = {}
    found = [Beside(marks[one.id], 0, 0, one.with_report, one.id) for one in over]
    for other in open_:
        unread = other.n_rejected + other.n_failed + other.n_cancelled
        left = other.n_total - unread - other.n_done
        in_flight = min(with_workers.get(other.id, 0), left)
        due = left - in_flight
        theirs, ours = _class(other, now), _class(batch, now)
        if theirs > ours:
            in_flight = due = 0
        elif theirs == ours and other.site_id != batch.site_id:
            had = turns.get(other.site_id, 0)
            due = min(due, max(0, batch.n_queued - had) if ours_since else 0)
            turns[other.site_id] = had + due
        elif theirs == ours and not (ours_since and (due_since[other.id] or now) <= ours_since):
            due = 0
        found.append(Beside(marks[other.id], due, in_flight, other.with_report, other.id))
    return found


def batch_seconds_left(session: Session, batch: Batch) -> float | None:
    """Estimate how many seconds a batch still takes; None until there is a pace."""
    if batch.rate_at is None:
        return None
    *marks, latest = _marks_of(session, [batch])[batch.id]
    now = Mark(max(datetime.now(UTC).timestamp(), latest.at), latest.passed, latest.worked)
    total = batch.n_total - batch.n_rejected - batch.n_failed - batch.n_cancelled
    ended = ended_batches(session, batch)
    beside = batches_beside(session, batch, ended)
    return seconds_left([*marks, latest], now, total, earlier_pace(session, batch, ended), beside)


def reset_marks(session: Session, batch: Batch) -> None:
    """Begin anew: after a pause, and in another round, the old pace says nothing."""
    session.execute(delete(BatchMark).where(BatchMark.batch_id == batch.id))

"""What health checks and alarms look at: when recovery last went through, what waits, what was dropped."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sqlalchemy import case, func, literal_column, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from settings import get_settings
from store.base.tables import Batch, Maintenance, Work, WorkState, work_is_open
from store.queue.dispatch import ALL_QUEUES, KIND_QUEUES
from vocabulary.states import BatchStatus, Stage


class Step(StrEnum):
    """A step of `worker.reconcile`, by its name in the table `maintenance`."""

    #: Without it nothing recovers.
    RECOVER = "recover"
    RECEIVED_STUDIES = "received studies"
    SCRATCH = "scratch"
    EXPORTS = "exports"
    PIXELS = "pixels"
    UPLOADS = "uploads"
    WORKLIST = "worklist"
    OLD_ROWS = "old rows"
    DRAFTS = "drafts"
    INCOMING = "incoming"
    ENVELOPES = "envelopes"
    MONITORING = "monitoring"
    NOTICES = "notices"
    DELIVERIES = "deliveries"
    DELETION = "deletion"


#: What `fractureai backup` notes in the same table.
BACKUP = "backup"
#: A step that is done every ten minutes, and has not gone through for so long, is overdue.
STEP_OVERDUE_SECONDS = 1800.0


def expect_steps(session: Session) -> None:
    """Write down that the loop knows each step from now on: until its turn comes, it is not overdue."""
    rows = [{"step": step.value} for step in Step]
    session.execute(insert(Maintenance).values(rows).on_conflict_do_nothing())


def record_success(session: Session, step: str) -> None:
    """Record a step's success; at most once in two seconds: recovery runs all the time."""
    row = insert(Maintenance).values(step=step, succeeded_at=func.clock_timestamp())
    session.execute(
        row.on_conflict_do_update(
            index_elements=["step"],
            set_={"succeeded_at": row.excluded.succeeded_at, "error": None},
            where=(Maintenance.error.is_not(None))
            | (Maintenance.succeeded_at.is_(None))
            | (func.abs(func.extract("epoch", row.excluded.succeeded_at - Maintenance.succeeded_at)) > 2),
        )
    )


def record_failure(session: Session, step: str, error: str) -> None:
    """Record a step's failure; its last success stays."""
    row = insert(Maintenance).values(step=step, failed_at=func.clock_timestamp(), error=error[:2000])
    session.execute(
        row.on_conflict_do_update(
            index_elements=["step"],
            set_={"failed_at": row.excluded.failed_at, "error": row.excluded.error},
        )
    )


def seconds_since_success(session: Session) -> dict[str, float]:
    """Return how many seconds ago each step last went through; one that never did is not among them."""
    age = func.extract("epoch", func.clock_timestamp() - Maintenance.succeeded_at)
    rows = session.execute(select(Maintenance.step, age).where(Maintenance.succeeded_at.is_not(None)))
    return {step: max(0.0, float(seconds)) for step, seconds in rows}


def recovery_problem(session: Session) -> str | None:
    """Return what is wrong with recovery, or None: it went through lately."""
    seconds = seconds_since_success(session).get(Step.RECOVER)
    if seconds is None:
        return "never went through"
    if seconds > get_settings().recovery_overdue_seconds:
        return f"last went through {seconds:.0f} s ago"
    return None


@dataclass(frozen=True)
class StepProblem:
    """A step of `worker.reconcile` that did not go through.

    Attributes
    ----------
    failed_at
        When it failed last, and has not gone through since; None for a step that is overdue.
    succeeded_at
        When it last went through; None where it never did.
    """

    failed_at: datetime | None
    succeeded_at: datetime | None

    @property
    def words(self) -> str:
        """Words that follow the step's name."""
        if self.failed_at is not None:
            return "failed when last done"
        return "never went through" if self.succeeded_at is None else "is overdue"


def step_problems(session: Session) -> dict[Step, StepProblem]:
    """Return the steps that failed when they were last done, or are overdue.

    While recovery itself is overdue it stands for those behind it: the loop does not turn.
    """
    rows = {row.step: row for row in session.scalars(select(Maintenance))}
    waits = func.clock_timestamp() - func.coalesce(Maintenance.succeeded_at, Maintenance.known_since)
    late = set(
        session.scalars(select(Maintenance.step).where(func.extract("epoch", waits) > STEP_OVERDUE_SECONDS))
    )
    problems: dict[Step, StepProblem] = {}
    turns = recovery_problem(session) is None
    for step in Step:
        row = rows.get(step)
        failed = row is not None and row.error is not None
        if failed or (turns and step in late):
            problems[step] = StepProblem(
                failed_at=row.failed_at if row is not None and failed else None,
                succeeded_at=row.succeeded_at if row is not None else None,
            )
    if not turns and Step.RECOVER not in problems:
        row = rows.get(Step.RECOVER)
        problems[Step.RECOVER] = StepProblem(None, row.succeeded_at if row is not None else None)
    return problems


def unavailable_work(session: Session) -> dict[str, tuple[int, float]]:
    """Return reason -> how many units were given back because of it, and how long ago the first one was."""
    age = func.extract("epoch", func.clock_timestamp() - func.min(Work.unavailable_since))
    reason = func.coalesce(Work.unavailable_reason, literal_column("''"))
    rows = session.execute(
        select(reason, func.count(), age)
        .where(Work.unavailable_since.is_not(None), Work.finished_at.is_(None))
        .group_by(reason)
    )
    return {why: (n, float(seconds)) for why, n, seconds in rows}


@dataclass(frozen=True)
class QueueDepth:
    """What waits on a queue, as the view `queue_depth` says it; workers are scaled from the same view.

    Attributes
    ----------
    waiting, running
        Images; a unit without images counts as one.
    oldest_seconds
        How long the first of them has been due.
    """

    waiting: int
    running: int
    oldest_seconds: float


#: The queue of a unit of work by the shared words; tests hold the view `queue_depth` against the same words.
_QUEUE = case(
    *((Work.kind == kind.value, queue) for kind, queue in KIND_QUEUES.items()),
    *((Work.stage == stage.value, stage.queue) for stage in Stage),
    else_="report",
)


def queue_depths_of_site(session: Session, site_id: uuid.UUID) -> dict[str, QueueDepth]:
    """Return what a site's own work waits on; how busy others are is not for its people."""
    held = func.coalesce(Work.lease_until > func.clock_timestamp(), False)
    images = func.greatest(Work.n_images, 1)
    age = func.extract("epoch", func.clock_timestamp() - func.min(Work.due_at).filter(~held))
    rows = session.execute(
        select(
            _QUEUE.label("queue"),
            func.coalesce(func.sum(images).filter(~held), 0),
            func.coalesce(func.sum(images).filter(held), 0),
            func.coalesce(age, 0),
        )
        .outerjoin(Batch, Batch.id == Work.batch_id)
        .where(
            Work.site_id == site_id,
            work_is_open(),
            (Work.state != WorkState.DUE) | (Work.due_at <= func.clock_timestamp()),
            func.coalesce(Batch.status, "") != BatchStatus.PAUSED,
        )
        .group_by(text("queue"))
    )
    found = {queue: QueueDepth(int(n), int(running), float(seconds)) for queue, n, running, seconds in rows}
    return {queue: found.get(queue, QueueDepth(0, 0, 0.0)) for queue in ALL_QUEUES}


def queue_depths(session: Session) -> dict[str, QueueDepth]:
    """Return what waits on each queue, of all sites; of paused batches nothing does."""
    rows = session.execute(text("SELECT queue, waiting, running, oldest_seconds FROM queue_depth"))
    return {queue: QueueDepth(*rest) for queue, *rest in rows}

"""What an administrator sees of the whole service: workers, queues, failures, room, backup, versions."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, func, or_, select, text
from sqlalchemy.orm import Session

from settings import VERSION
from store.base.blobs import get_blobs
from store.base.tables import Batch, Image, Maintenance, NoticeTarget, Worker
from store.intake.poll_sources import PollSource
from store.operations import monitoring
from store.operations.monitoring import QueueDepth, Step, StepProblem
from store.outgoing.delivery_tables import Destination
from vocabulary.states import ImageStatus

#: A worker that has not said so for this long is not there.
WORKER_SEEN = timedelta(seconds=30)
#: Days over which failures are counted.
FAILURE_DAYS = 7


class OutsideKind(StrEnum):
    """What somebody outside the service is for it."""

    DESTINATION = "destination"
    NOTICE_TARGET = "notice_target"
    ARCHIVE = "archive"


@dataclass(frozen=True)
class Unreached:
    """Somebody outside with whom the last try failed, or who gets nothing until a person lets it."""

    kind: OutsideKind
    name: str


def list_unreached(session: Session, site_id: uuid.UUID | None = None) -> list[Unreached]:
    """Return whom a site, or all of them, cannot reach now."""
    kinds: list[tuple[OutsideKind, type[Any], Any, ColumnElement[bool]]] = [
        (
            OutsideKind.DESTINATION,
            Destination,
            Destination.name,
            or_(Destination.failures > 0, Destination.stopped.is_not(None)),
        ),
        (OutsideKind.NOTICE_TARGET, NoticeTarget, NoticeTarget.address, NoticeTarget.failures > 0),
        (OutsideKind.ARCHIVE, PollSource, PollSource.name, PollSource.error.is_not(None)),
    ]
    found = []
    for kind, table, name, fails in kinds:
        query = select(name).where(table.removed_at.is_(None), fails).order_by(name)
        if site_id is not None:
            query = query.where(table.site_id == site_id)
        found += [Unreached(kind, each) for each in session.scalars(query)]
    return found


@dataclass(frozen=True)
class Overview:
    """The service at this moment.

    Attributes
    ----------
    workers
        Those that were there within a day, the latest first, each with whether it is there now.
    queues
        What of the site waits on each queue.
    failures
        Reason -> images of the site that failed for it or were refused within `FAILURE_DAYS`.
    steps
        Steps of recovery and cleaning up: when each went through, and how it failed since.
    step_problems
        Those of them that failed when last done, or are overdue.
    unreached
        Whom the site cannot reach.
    fullness
        Which share of the room for files is taken (0-1); None where there is no telling.
    """

    workers: Sequence[tuple[Worker, bool]]
    queues: Mapping[str, QueueDepth]
    failures: Mapping[str, int]
    steps: Mapping[Step, Maintenance | None]
    step_problems: Mapping[Step, StepProblem]
    unreached: Sequence[Unreached]
    last_backup: datetime | None
    fullness: float | None
    database_bytes: int
    versions: Mapping[str, str]


def overview(session: Session, site_id: uuid.UUID) -> Overview:
    """Return the service as an administrator of a site sees it: what waits and failed is the site's own."""
    here = Worker.seen_at > func.now() - WORKER_SEEN
    workers = session.execute(
        select(Worker, here)
        .where(Worker.seen_at > func.now() - timedelta(days=1))
        .order_by(here.desc(), Worker.name)
    )
    failures = session.execute(
        select(Image.reason, func.count())
        .join(Batch, Batch.id == Image.batch_id)
        .where(
            Image.site_id == site_id,
            Batch.created_at > func.now() - timedelta(days=FAILURE_DAYS),
            Image.created_at > func.now() - timedelta(days=FAILURE_DAYS),  # no image is older than its batch
            Image.status.in_([ImageStatus.FAILED.value, ImageStatus.REJECTED.value]),
            Image.reason.is_not(None),
        )
        .group_by(Image.reason)
        .order_by(func.count().desc(), Image.reason)
    )
    done = {row.step: row for row in session.scalars(select(Maintenance))}
    backup = done.get(monitoring.BACKUP)
    schema = session.scalar(text("SELECT version_num FROM alembic_version"))
    return Overview(
        workers=[(worker, bool(now)) for worker, now in workers],
        queues=monitoring.queue_depths_of_site(session, site_id),
        failures={str(reason): int(n) for reason, n in failures},
        steps={step: done.get(step) for step in Step},
        step_problems=monitoring.step_problems(session),
        unreached=list_unreached(session, site_id),
        last_backup=None if backup is None else backup.succeeded_at,
        fullness=get_blobs().fullness(),
        database_bytes=int(session.scalar(text("SELECT pg_database_size(current_database())")) or 0),
        versions={
            "FractureAI": VERSION,
            "database schema": str(schema),
            "PostgreSQL": str(session.scalar(text("SHOW server_version"))).split(" ", 1)[0],
        },
    )

"""Back-off after failed deliveries: work for a target waits, and one unit at a time tries it again."""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta
from typing import Any, Protocol

from sqlalchemy import Select, func, select, update
from sqlalchemy.orm import Session

from store.base.tables import Work, WorkState


class Target(Protocol):
    """A row of a receiver of work; lock it before reading or changing it."""

    failures: Any  # tries in a row that failed
    rest_until: Any
    last_error: Any


def seconds_to_wait(session: Session, target: Target, most: float) -> float:
    """Return 0 when work may go to the target now, else for how many seconds it rests.

    A target that failed is tried by one unit at a time: whoever gets 0 tries it, for at most `most` seconds,
    while the others wait until after that.
    """
    now: datetime = session.scalars(select(func.clock_timestamp())).one()
    if not target.failures:
        return 0.0
    if target.rest_until is not None and target.rest_until > now:
        return float((target.rest_until - now).total_seconds()) + most
    target.rest_until = now + timedelta(seconds=most)
    return 0.0


def back_off(
    session: Session, target: Target, units: Select[uuid.UUID], error: str, pause: float, most: float
) -> None:
    """Record a failed attempt: nothing goes to the target for `pause` seconds, then one unit tries it.

    Parameters
    ----------
    units
        What waits for the target, in the order in which it is tried; all but the first are due `most` seconds
        later, should the first be lost.
    """
    now: datetime = session.scalars(select(func.clock_timestamp())).one()
    target.failures += 1
    target.last_error = error
    target.rest_until = now + timedelta(seconds=pause)
    first = session.scalar(units.limit(1))
    make_due(session, units, target.rest_until + timedelta(seconds=most))
    if first is not None:
        make_due(session, units.where(Work.id == first), target.rest_until)


def wake(session: Session, target: Target, units: Select[uuid.UUID]) -> None:
    """Record that the target answered: what waited for it is due now."""
    if not target.failures:
        return
    target.failures, target.rest_until, target.last_error = 0, None, None
    make_due(session, units, func.clock_timestamp())


def make_due(session: Session, units: Select[uuid.UUID], at: Any) -> None:
    """Reschedule units that no worker has leased."""
    session.execute(
        update(Work)
        .where(Work.id.in_(units.order_by(None)), Work.state == WorkState.DUE)
        .values(due_at=at)
        .execution_options(synchronize_session=False)
    )

"""Counts of events that must not go unnoticed; Health shows them."""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from store.base.tables import EventCount

#: Messages of the broker that no worker could read.
DROPPED_MESSAGES = "dropped_messages"
#: Batches that were ended though what their end should have written failed each time.
BATCHES_GIVEN_UP = "batches_given_up"


def count_event(session: Session, name: str, n: int = 1) -> None:
    """Add `n` to the count of an event."""
    row = insert(EventCount).values(name=name, n=n, last_at=func.clock_timestamp())
    session.execute(
        row.on_conflict_do_update(
            index_elements=["name"],
            set_={"n": EventCount.n + row.excluded.n, "last_at": row.excluded.last_at},
        )
    )


def by_name(session: Session) -> dict[str, int]:
    """Return how often each event happened."""
    return {name: n for name, n in session.execute(select(EventCount.name, EventCount.n))}

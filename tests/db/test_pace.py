"""Which other batches count in the time that a batch still takes: those that dispatch sends before it."""

from __future__ import annotations

import uuid
from datetime import timedelta

import pytest
from sqlalchemy import func, select, update

from store.base.session import session_scope
from store.base.tables import Batch, Priority, Work, WorkState
from store.queue import pace
from tests.db.conftest import make_site, submitted


def beside(batch: Batch) -> dict[uuid.UUID | None, tuple[int, int]]:
    """Return the images that wait and those in flight of each batch that counts at all."""
    with session_scope() as session:
        found = pace.batches_beside(session, session.get_one(Batch, batch.id))
    counted = {other.batch_id: (other.waiting, other.in_flight) for other in found}
    return {id_: counts for id_, counts in counted.items() if any(counts)}


def send(batch: Batch, units: int = 1) -> None:
    """Hand some of a batch's chunks to the workers."""
    with session_scope() as session:
        ids = session.scalars(
            select(Work.id).where(Work.batch_id == batch.id).order_by(Work.n_images.desc()).limit(units)
        ).all()
        session.execute(update(Work).where(Work.id.in_(ids)).values(state=WorkState.PUBLISHED.value))


def test_a_sites_own_go_in_the_order_of_their_coming(site: uuid.UUID) -> None:
    first, second, third = (submitted(site, 40) for _ in range(3))
    assert beside(second) == {first.id: (40, 0)}
    send(first)
    send(third)
    assert beside(second) == {first.id: (32, 8), third.id: (0, 8)}


def test_what_was_submitted_at_once_goes_in_the_order_in_which_it_is_due(site: uuid.UUID) -> None:
    """A batch's chunks are due since its transaction began, whichever of two ended first."""
    first, second = submitted(site, 40), submitted(site, 40)
    with session_scope() as session:
        earlier = {"due_at": func.now() - timedelta(seconds=9)}
        session.execute(update(Work).where(Work.batch_id == second.id).values(**earlier))
    assert beside(first) == {second.id: (40, 0)}
    assert beside(second) == {}


def test_what_is_more_urgent_goes_first_and_what_is_less_so_last(site: uuid.UUID) -> None:
    mine = submitted(site, 40)
    urgent, low = submitted(site, 33, Priority.URGENT), submitted(site, 50, Priority.LOW)
    send(low)
    assert beside(mine) == {urgent.id: (33, 0)}
    assert beside(urgent) == {}
    assert beside(low) == {mine.id: (40, 0), urgent.id: (33, 0)}


def test_sites_take_turns(site: uuid.UUID) -> None:
    other = make_site("B")
    mine = submitted(site, 40)
    two = [submitted(other, 30) for _ in range(2)]
    assert beside(mine) == {two[0].id: (30, 0), two[1].id: (10, 0)}  # as many as ours, and no more
    assert beside(two[0]) == {mine.id: (30, 0)}


@pytest.mark.parametrize("column", ["paused_at", "cancelled_at"])
def test_what_is_not_sent_does_not_count(site: uuid.UUID, column: str) -> None:
    first, second = submitted(site, 40), submitted(site, 40)
    with session_scope() as session:
        setattr(session.get_one(Batch, first.id), column, func.now())
    assert beside(second) == {}


def test_what_has_waited_long_counts_as_more_urgent(site: uuid.UUID) -> None:
    mine, low = submitted(site, 40), submitted(site, 50, Priority.LOW)
    assert beside(mine) == {}
    with session_scope() as session:
        session.get_one(Batch, low.id).submitted_at = func.now() - timedelta(hours=1)
        long_ago = {"due_at": func.now() - timedelta(hours=1)}
        session.execute(update(Work).where(Work.batch_id == low.id).values(**long_ago))
    assert beside(mine) == {low.id: (50, 0)}

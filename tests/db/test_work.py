"""Leases, attempts, splitting, and what dispatch chooses."""

from __future__ import annotations

import time
import uuid
from datetime import timedelta

import pytest
import redis
from sqlalchemy import func, select, update

from store.base.session import session_scope
from store.base.tables import Batch, Image, Priority, Work, WorkState
from store.intake import batches
from store.queue import dispatch, work
from store.queue.work import Lease, StaleLease, Verdict
from tests.db.conftest import make_site, submitted
from vocabulary.reasons import Reason
from vocabulary.states import Stage


@pytest.fixture
def short_leases(settings_env: pytest.MonkeyPatch) -> None:
    settings_env.setenv("FRACTUREAI_LEASE_SECONDS", "0.2")
    settings_env.setenv("FRACTUREAI_LEASE_RENEW_SECONDS", "0.05")


def only_unit(batch: Batch) -> uuid.UUID:
    with session_scope() as session:
        return session.scalars(select(Work.id).where(Work.batch_id == batch.id)).one()


def take(work_id: uuid.UUID, stage: Stage = Stage.PREPARE) -> Lease | Verdict:
    with session_scope() as session:
        return work.take(session, work_id, stage)


def taken(work_id: uuid.UUID, stage: Stage = Stage.PREPARE) -> Lease:
    lease = take(work_id, stage)
    assert isinstance(lease, Lease)
    return lease


def make_due(batch: Batch) -> None:
    with session_scope() as session:
        session.execute(update(Work).where(Work.batch_id == batch.id).values(due_at=func.now()))


def test_one_message_gets_the_lease_and_the_others_end_or_pass_on(site: uuid.UUID) -> None:
    unit = only_unit(submitted(site, 4))
    lease = taken(unit)
    assert take(unit) is Verdict.END
    assert take(unit, Stage.CLASSIFY) is Verdict.END
    with session_scope() as session:
        work.pass_stage(session, work.hold(session, lease), Stage.CLASSIFY)
    assert take(unit) is Verdict.PASS
    assert take(unit, Stage.DETECT) is Verdict.END
    with pytest.raises(StaleLease), session_scope() as session:
        work.hold(session, lease)
    with session_scope() as session:
        work.pass_stage(session, work.hold(session, taken(unit, Stage.CLASSIFY)), None)
    assert take(unit, Stage.CLASSIFY) is Verdict.END


@pytest.mark.usefixtures("short_leases")
def test_an_expired_lease_counts_and_its_holder_can_write_no_more(site: uuid.UUID) -> None:
    unit = only_unit(submitted(site, 4))
    lease = taken(unit)
    time.sleep(0.3)
    assert take(unit) is Verdict.END  # not before the attempt is counted
    with session_scope() as session:
        assert work.expire_leases(session) == 1
    with session_scope() as session:
        row = session.get_one(Work, unit)
        assert (row.attempt, row.state, row.error_code) == (1, WorkState.DUE, Reason.WORKER_LOST)
        assert not work.renew(session, lease)
    again = taken(unit)
    assert again.attempt == 1
    with pytest.raises(StaleLease), session_scope() as session:
        work.hold(session, lease)


def test_giving_back_counts_no_attempt(site: uuid.UUID) -> None:
    unit = only_unit(submitted(site, 4))
    for _ in range(5):
        with session_scope() as session:
            assert work.give_back(session, taken(unit), 0.0, "the store is away")
    with session_scope() as session:
        row = session.get_one(Work, unit)
        assert (row.attempt, row.unavailable_reason) == (0, "the store is away")
        assert row.unavailable_since is not None
    with session_scope() as session:
        work.pass_stage(session, work.hold(session, taken(unit)), Stage.CLASSIFY)
    with session_scope() as session:
        row = session.get_one(Work, unit)
        assert (row.unavailable_since, row.unavailable_reason) == (None, None)


def test_what_is_given_back_for_too_long_fails_with_the_reason(site: uuid.UUID) -> None:
    batch = submitted(site, 4)
    unit = only_unit(batch)
    with session_scope() as session:
        work.give_back(session, taken(unit), 0.0, "the store is away")
    with session_scope() as session:
        long_ago = func.now() - timedelta(days=4)
        session.execute(update(Work).values(unavailable_since=long_ago))
    with session_scope() as session:
        assert not work.give_back(session, taken(unit), 0.0, "the store is away")
    with session_scope() as session:
        row = session.get_one(Work, unit)
        assert (row.state, row.error_code) == (WorkState.DONE, Reason.UNAVAILABLE)
        images = session.scalars(select(Image).where(Image.batch_id == batch.id)).all()
        assert {(image.status, image.reason) for image in images} == {("failed", "unavailable")}
        assert "the store is away" in (images[0].error or "")
        assert session.get_one(Batch, batch.id).n_failed == 4


def test_three_failures_split_a_chunk_and_three_more_fail_only_the_poison(site: uuid.UUID) -> None:
    batch = submitted(site, 4)
    unit = only_unit(batch)
    for _ in range(3):
        with session_scope() as session:
            work.fail(session, taken(unit), Reason.PROCESSING_ERROR, "boom")
        make_due(batch)
    with session_scope() as session:
        singles = list(session.scalars(select(Work.id).where(Work.batch_id == batch.id, Work.state == "due")))
        assert len(singles) == 4
    for _ in range(3):
        with session_scope() as session:
            work.fail(session, taken(singles[0]), Reason.PROCESSING_ERROR, "boom again")
    with session_scope() as session:
        image = session.scalars(select(Image).where(Image.work_id == singles[0])).one()
        assert (image.status, image.reason, image.error) == ("failed", "processing_error", "boom again")
        row = session.get_one(Batch, batch.id)
        assert (row.n_failed, row.n_queued) == (1, 3)


def test_a_chunk_that_lost_its_inputs_begins_again_and_not_for_ever(site: uuid.UUID) -> None:
    batch = submitted(site, 1)
    unit = only_unit(batch)
    for attempt in range(1, 4):
        with session_scope() as session:
            lease = taken(unit)
            work.pass_stage(session, work.hold(session, lease), Stage.CLASSIFY)
        with session_scope() as session:
            lease = work.take(session, unit, Stage.CLASSIFY)
            assert isinstance(lease, work.Lease)
            work.fail(session, lease, Reason.PROCESSING_ERROR, "no inputs", from_the_start=True)
        with session_scope() as session:
            row = session.get_one(Work, unit)
            assert (row.stage, row.attempt) == (Stage.PREPARE, attempt)
        make_due(batch)
    with session_scope() as session:
        assert session.get_one(Batch, batch.id).n_failed == 1


def test_dispatch_keeps_a_small_window_and_lets_urgent_work_through(
    site: uuid.UUID, broker: redis.Redis
) -> None:
    low = submitted(site, 320, Priority.LOW)
    assert dispatch.dispatch() == 4
    assert dispatch.dispatch() == 0
    urgent = submitted(site, 1, Priority.URGENT)
    assert dispatch.dispatch() >= 1
    assert only_unit_state(urgent) == WorkState.PUBLISHED
    assert broker.llen("cpu") >= 1  # the urgent message lies in the queue's first list
    with session_scope() as session:
        waiting = session.scalar(
            select(func.count()).where(Work.batch_id == low.id, Work.state == WorkState.DUE)
        )
        assert (waiting or 0) > 4


@pytest.mark.parametrize("same_site", [True, False])
def test_a_backfill_that_waited_for_hours_holds_up_no_new_study(
    same_site: bool, site: uuid.UUID, broker: redis.Redis
) -> None:
    low = submitted(site if same_site else make_site("B"), 320, Priority.LOW)
    with session_scope() as session:
        hours_ago = func.now() - timedelta(hours=3)
        session.execute(update(Work).values(created_at=hours_ago, due_at=hours_ago))
    new = submitted(site, 1)
    assert dispatch.dispatch() == 4
    assert only_unit_state(new) == WorkState.PUBLISHED
    with session_scope() as session:
        published = select(func.count()).where(Work.batch_id == low.id, Work.state == WorkState.PUBLISHED)
        assert session.scalar(published) == 3


def only_unit_state(batch: Batch) -> str:
    with session_scope() as session:
        return session.scalars(select(Work.state).where(Work.batch_id == batch.id)).one()


def test_sites_take_turns(site: uuid.UUID, broker: redis.Redis) -> None:
    other = make_site("B")
    mine, theirs = submitted(site, 320), submitted(other, 8)
    dispatch.dispatch()
    assert only_unit_state(theirs) == WorkState.PUBLISHED
    with session_scope() as session:
        published = select(func.count()).where(Work.batch_id == mine.id, Work.state == WorkState.PUBLISHED)
        assert session.scalar(published) == 3


def test_a_site_that_comes_later_takes_turns_while_units_end_one_by_one(
    site: uuid.UUID, broker: redis.Redis
) -> None:
    other = make_site("B")
    mine = submitted(site, 320)
    assert dispatch.dispatch() == 4
    theirs = submitted(other, 320)
    assert [_one_ends_of(mine, theirs) for _ in range(2)] == [(3, 1), (2, 2)]
    assert _one_ends_of(mine, theirs) == (2, 2)
    assert _one_ends_of(theirs, mine) == (2, 2)


def _one_ends_of(batch: Batch, other: Batch) -> tuple[int, int]:
    """End a unit of `batch` and dispatch; return how many of each batch are published then."""
    with session_scope() as session:
        mine = (Work.batch_id == batch.id, Work.state == WorkState.PUBLISHED)
        unit = session.scalars(select(Work).where(*mine).limit(1)).one()
        unit.state = WorkState.DONE.value
    assert dispatch.dispatch() == 1
    with session_scope() as session:
        published = select(func.count()).where(Work.state == WorkState.PUBLISHED)
        first, second = (session.scalar(published.where(Work.batch_id == b.id)) for b in (batch, other))
        return first or 0, second or 0


def test_a_paused_batch_is_not_published(site: uuid.UUID, broker: redis.Redis) -> None:
    batch = submitted(site, 8)
    with session_scope() as session:
        batches.pause(session, batch.id, site)
    assert dispatch.dispatch() == 0


def test_what_the_broker_lost_is_sent_again(
    site: uuid.UUID, broker: redis.Redis, settings_env: pytest.MonkeyPatch
) -> None:
    batch = submitted(site, 8)
    assert dispatch.dispatch() == 1
    broker.flushall()
    assert dispatch.dispatch(resend=True) == 0
    from settings import get_settings

    settings_env.setenv("FRACTUREAI_RESEND_SECONDS", "0.001")
    get_settings.cache_clear()
    assert dispatch.dispatch(resend=True) == 1
    assert only_unit_state(batch) == WorkState.PUBLISHED


def test_a_broker_that_is_away_loses_nothing(site: uuid.UUID, settings_env: pytest.MonkeyPatch) -> None:
    from settings import get_settings

    settings_env.setenv("FRACTUREAI_BROKER_URL", "redis://127.0.0.1:1/0")
    get_settings.cache_clear()
    dispatch._publisher.cache_clear()
    batch = submitted(site, 8)
    started = time.monotonic()
    assert dispatch.dispatch() == 0
    assert time.monotonic() - started < 30
    assert only_unit_state(batch) == WorkState.DUE


def test_times_that_a_clock_set_back_left_ahead_are_brought_back(site: uuid.UUID) -> None:
    waiting, published, held = (only_unit(submitted(site, 1)) for _ in range(3))
    taken(held)
    hour = func.now() + timedelta(hours=1)
    with session_scope() as session:
        session.execute(update(Work).where(Work.id == waiting).values(due_at=hour))
        session.execute(update(Work).where(Work.id == published).values(published_at=hour))
        session.execute(update(Work).where(Work.id == held).values(lease_until=hour))
    with session_scope() as session:
        assert work.clamp_future_timestamps(session) == 3
        assert work.clamp_future_timestamps(session) == 0
        longest = session.scalar(select(func.now() + timedelta(seconds=31)))
        times = {u.id: (u.due_at, u.published_at, u.lease_until) for u in session.scalars(select(Work))}
    assert times[waiting][1:] == (None, None)
    assert times[published][2] is None
    assert all(time is None or time < longest for of_unit in times.values() for time in of_unit)

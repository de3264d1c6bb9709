"""Work that belongs to no batch: the same leases, three attempts, an error that is kept."""

from __future__ import annotations

import uuid

import pytest
import redis
from sqlalchemy import delete, select, text, update
from sqlalchemy.exc import IntegrityError, OperationalError

from store.base.blobs import BlobStore
from store.base.session import session_scope
from store.base.tables import Priority, Work, Worker, WorkKind, WorkState
from store.intake import batches
from store.operations import fsck
from store.queue import dispatch, work
from store.queue.work import Lease, StaleLease
from tests.db.conftest import submitted
from vocabulary.reasons import Reason
from worker import flow, reconcile


@pytest.fixture
def unit(site: uuid.UUID, broker: redis.Redis) -> uuid.UUID:
    with session_scope() as session:
        return work.add_unit(session, WorkKind.NOTICE, site_id=site, subject_id=uuid.uuid4()).id


def row(unit: uuid.UUID) -> Work:
    with session_scope() as session:
        return session.get_one(Work, unit)


def make_due(unit: uuid.UUID) -> None:
    with session_scope() as session:
        session.execute(update(Work).where(Work.id == unit).values(due_at=text("now()")))


def ends_well(lease: Lease) -> bool:
    with session_scope() as session:
        work.end_unit(session, lease)
    return False


def test_a_unit_without_a_batch_is_sent_to_its_kinds_queue_and_ends(
    unit: uuid.UUID, broker: redis.Redis
) -> None:
    assert dispatch.dispatch() == 1
    queue = dispatch.KIND_QUEUES[WorkKind.NOTICE]
    assert [k for k in broker.keys("notices*") if broker.type(k) == b"list"]
    assert queue == "notices"
    seen: list[Lease] = []

    def execute(lease: Lease) -> bool:
        seen.append(lease)
        return ends_well(lease)

    assert not flow.run(unit, None, execute)
    assert seen[0].batch_id is None
    assert seen[0].subject_id is not None
    assert (row(unit).state, row(unit).attempt) == (WorkState.DONE, 0)
    assert not flow.run(unit, None, execute)
    assert len(seen) == 1, "a second message finds nothing to do"


def test_three_errors_end_it_as_failed_with_the_error_kept(unit: uuid.UUID) -> None:
    def breaks(lease: Lease) -> bool:
        raise ValueError("the receiver said no")

    for attempt in (1, 2, 3):
        assert row(unit).state != WorkState.FAILED
        make_due(unit)
        flow.run(unit, None, breaks)
        assert row(unit).attempt == attempt
    ended = row(unit)
    assert (ended.state, ended.error_code) == (WorkState.FAILED, Reason.PROCESSING_ERROR)
    assert ended.error == "ValueError: the receiver said no"
    assert ended.finished_at is not None
    assert not flow.run(unit, None, ends_well)
    assert row(unit).state == WorkState.FAILED


def test_what_it_stands_on_being_away_counts_no_attempt(unit: uuid.UUID) -> None:
    def away(lease: Lease) -> bool:
        raise OperationalError("select 1", {}, Exception("gone"))

    flow.run(unit, None, away)
    assert (row(unit).state, row(unit).attempt) == (WorkState.DUE, 0)


def test_a_cancelled_unit_writes_nothing_more(unit: uuid.UUID) -> None:
    written = []

    def is_cancelled_meanwhile(lease: Lease) -> bool:
        with session_scope() as session:
            work.cancel_units(session, lease.subject_id)
        with session_scope() as session:
            work.end_unit(session, lease)
            written.append(lease)
        return False

    assert not flow.run(unit, None, is_cancelled_meanwhile)
    assert not written
    assert (row(unit).state, row(unit).attempt) == (WorkState.CANCELLED, 0)


def test_a_lost_worker_counts_an_attempt_and_its_late_write_is_refused(
    unit: uuid.UUID, settings_env: pytest.MonkeyPatch
) -> None:
    with session_scope() as session:
        lease = work.take(session, unit, None)
        assert isinstance(lease, Lease)
    with session_scope() as session:
        session.execute(update(Work).values(lease_until=text("now() - interval '1 second'")))
    reconcile.recover()
    assert row(unit).attempt == 1
    with pytest.raises(StaleLease), session_scope() as session:
        work.end_unit(session, lease)


def test_a_later_unit_waits_for_its_time(site: uuid.UUID, broker: redis.Redis) -> None:
    with session_scope() as session:
        work.add_unit(session, WorkKind.NOTICE, site_id=site, subject_id=uuid.uuid4(), delay=3600)
    assert dispatch.dispatch() == 0


def test_an_urgent_chunk_goes_before_a_low_export(site: uuid.UUID, broker: redis.Redis) -> None:
    with session_scope() as session:
        session.execute(delete(Worker))
        for _ in range(6):
            work.add_unit(
                session, WorkKind.EXPORT, site_id=site, subject_id=uuid.uuid4(), priority=Priority.LOW
            )
    batch = submitted(site, 4, Priority.URGENT)
    dispatch.dispatch()
    with session_scope() as session:
        sent = session.scalars(select(Work.kind).where(Work.state == WorkState.PUBLISHED)).all()
    assert len(sent) < 7
    assert "chunk" in sent
    with session_scope() as session:
        batches.cancel(session, batch.id, site)


def test_exports_and_notices_take_no_room_from_reading(site: uuid.UUID, broker: redis.Redis) -> None:
    """A site may prepare ten downloads, and a receiver may hang: the window of the readers is their own."""
    with session_scope() as session:
        session.execute(delete(Worker))
        for kind in (WorkKind.EXPORT, WorkKind.NOTICE, WorkKind.EVALUATE, WorkKind.PASSWORD):
            for _ in range(10):
                work.add_unit(session, kind, site_id=site, subject_id=uuid.uuid4())
    dispatch.dispatch()
    batch = submitted(site, 4)
    assert dispatch.dispatch() == 1
    with session_scope() as session:
        states = session.scalars(select(Work.state).where(Work.batch_id == batch.id)).all()
    assert states == [WorkState.PUBLISHED]


def test_every_kind_of_work_has_one_lane() -> None:
    lanes = [kind for lane in dispatch.LANES for kind in lane.kinds]
    assert sorted(lanes) == sorted(WorkKind)
    assert dispatch.LANES[0].queues == ("cpu", "gpu", "report")
    for kind, queue in dispatch.KIND_QUEUES.items():
        assert queue in next(lane for lane in dispatch.LANES if kind in lane.kinds).queues


def test_work_of_a_newer_version_is_left_to_it_and_holds_up_nothing(
    unit: uuid.UUID, site: uuid.UUID, broker: redis.Redis
) -> None:
    """In a rolling upgrade, and all the more after a rollback, its rows stand between those one knows."""
    with session_scope() as session:
        session.execute(delete(Worker))
        for n in range(20):
            later = Work(site_id=site, kind="of a newer version", priority=0, subject_id=uuid.uuid4())
            session.add(later)
            if n % 2:
                later.state = WorkState.PUBLISHED.value
                later.published_at = text("now() - interval '1 day'")
    assert dispatch.dispatch(resend=True) == 1
    reconcile.recover()
    assert row(unit).state == WorkState.PUBLISHED
    with session_scope() as session:
        states = session.scalars(select(Work.state).where(Work.id != unit)).all()
    assert sorted(states) == ["due"] * 10 + ["published"] * 10


def test_rows_about_nothing_are_refused_and_fsck_copes_with_the_others(
    unit: uuid.UUID, site: uuid.UUID, blobs: BlobStore
) -> None:
    assert fsck.check().clean
    with pytest.raises(IntegrityError), session_scope() as session:
        session.add(Work(site_id=site, kind=WorkKind.NOTICE.value, priority=1))
    with pytest.raises(IntegrityError), session_scope() as session:
        session.add(Work(site_id=site, kind=WorkKind.CHUNK.value, priority=1, subject_id=uuid.uuid4()))

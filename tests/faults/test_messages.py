"""Messages that come out of order, after their lease, or from another version of the code."""

from __future__ import annotations

import uuid

import pytest
import redis
from sqlalchemy import select

from store.base import event_counts
from store.base.session import session_scope
from store.base.tables import Work, WorkKind
from store.intake import batches
from store.queue import dispatch, work
from tests.db.test_broker import GARBAGE, odd_messages
from tests.running import ALL, PATIENCE, Service, assert_sound, draft, submit, wait_for, wait_until_ended
from vocabulary.states import STAGES, Stage

pytestmark = pytest.mark.faults


def chunks(batch_id: uuid.UUID) -> list[Work]:
    with session_scope() as session:
        return list(
            session.scalars(select(Work).where(Work.batch_id == batch_id, Work.kind == WorkKind.CHUNK))
        )


@pytest.mark.usefixtures("patient")
def test_messages_in_reverse_order(
    light: Service, site_id: uuid.UUID, few: dict[str, bytes], calm: dict[str, float]
) -> None:
    batch = submit(site_id, few)
    app = dispatch._publisher()
    for unit in chunks(batch.id):
        for stage in reversed(STAGES):
            name, queue = dispatch.task_name(stage), stage.queue
            app.send_task(name, kwargs={"work_id": str(unit.id)}, queue=queue, priority=0)
    assert_sound(wait_until_ended(batch), calm)
    assert {unit.taken for unit in chunks(batch.id)} == {len(STAGES)}, "each stage ran once"


def test_a_worker_that_wakes_after_its_lease_writes_nothing(
    light: Service, site_id: uuid.UUID, few: dict[str, bytes], calm: dict[str, float]
) -> None:
    """As a process that slept for hours: its unit is another's meanwhile, or over."""
    from worker import stages

    light.kill("reconcile")
    batch = draft(site_id, few)
    with session_scope() as session:
        batches.submit(session, batch.id, site_id)
    with session_scope() as session:
        lease = work.take(session, chunks(batch.id)[0].id, Stage.PREPARE)
    assert isinstance(lease, work.Lease)
    light.start("reconcile")
    ended = wait_until_ended(batch)
    with pytest.raises(work.StaleLease):
        stages.run(lease)
    assert_sound(ended, calm)


@pytest.mark.usefixtures("patient")
def test_messages_of_other_versions(
    light: Service, site_id: uuid.UUID, few: dict[str, bytes], calm: dict[str, float]
) -> None:
    light.kill("reconcile")  # nothing is sent but what this test sends
    batch = draft(site_id, few)
    with session_scope() as session:
        batches.submit(session, batch.id, site_id)
    app = dispatch._publisher()
    for unit in chunks(batch.id):
        id_ = str(unit.id)
        app.send_task("fractureai.prepare", kwargs={"chunk": id_}, queue="cpu")
        app.send_task("fractureai.prepare", args=[id_], queue="cpu")
        app.send_task("fractureai.read_all", kwargs={"work_id": id_}, queue="cpu")
        app.send_task("fractureai.prepare", kwargs={"work_id": "no such id"}, queue="cpu")
        app.send_task("fractureai.prepare", kwargs={"work_id": id_, "hint": "of a newer one"}, queue="cpu")
    wait_for(lambda: all(unit.taken for unit in chunks(batch.id)), PATIENCE, "what can be obeyed")
    light.start("reconcile")
    assert_sound(wait_until_ended(batch), calm)
    assert {unit.attempt for unit in chunks(batch.id)} == {0}


def test_garbage_in_the_broker_is_dropped_and_counted(
    light: Service, site_id: uuid.UUID, few: dict[str, bytes], calm: dict[str, float], broker: redis.Redis
) -> None:
    light.child(ALL)
    odd = odd_messages(str(uuid.uuid4()))
    for queue in ("cpu", "gpu:3", "report", "notices:6"):
        broker.lpush(queue, *GARBAGE, *odd)
    broker.hset("unacked", "x", b"garbage")
    broker.hset("unacked", "y", b"[1, 2]")
    broker.zadd("unacked_index", {"x": 1, "y": 2})
    broker.set("gpu:6", "not a list")
    broker.delete("_kombu.binding.gpu")
    broker.sadd("_kombu.binding.gpu", "no binding")

    def counted() -> int:
        with session_scope() as session:
            return event_counts.by_name(session).get(event_counts.DROPPED_MESSAGES, 0)

    wait_for(lambda: counted() >= 4 * len(GARBAGE) + 2, PATIENCE, "what was dropped")
    assert_sound(wait_until_ended(submit(site_id, few)), calm)
    assert light.processes[ALL].poll() is None, "the worker lives"
    assert broker.type("gpu:6") != b"string"
    broker.delete("unacked", "unacked_index", "cpu:3")
    broker.set("unacked_index", "not a set")
    broker.set("cpu:3", "not a list")
    again = {name: data + b"\0" for name, data in few.items()}
    assert_sound(wait_until_ended(submit(site_id, again)), calm)
    assert light.processes[ALL].poll() is None, "the worker lives"

"""Messages that come out of order, after their lease, or from another version of the code."""

from __future__ import annotations

import uuid

import pytest
from sqlalchemy import select

from store import batches, dispatch, work
from store.session import session_scope
from store.tables import STAGES, Stage, Work, WorkKind
from tests.running import PATIENCE, Service, assert_sound, draft, submit, wait_for, wait_until_ended


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
            name, queue = dispatch.task_name(stage), dispatch.QUEUES[stage]
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
        stages.prepare(lease)
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

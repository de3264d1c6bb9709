"""The view from which workers are scaled says what waits, by queue."""

from __future__ import annotations

import uuid
from datetime import timedelta

import pytest
from sqlalchemy import func, text, update

from store.base.session import session_scope
from store.base.tables import Batch, Work, WorkKind, WorkState
from store.intake import batches
from store.operations import monitoring
from store.operations.monitoring import QueueDepth
from store.queue.dispatch import ALL_QUEUES, KIND_QUEUES
from vocabulary.states import BatchStatus, Stage


@pytest.fixture
def batch(site: uuid.UUID) -> Batch:
    with session_scope() as session:
        return batches.create_batch(session, site_id=site, user_id=None)[0]


def unit(batch: Batch, **values: object) -> uuid.UUID:
    said = {
        "kind": WorkKind.CHUNK.value,
        "stage": Stage.PREPARE.value,
        "n_images": 8,
        "priority": 1,
        **values,
    }
    if said["kind"] not in {WorkKind.CHUNK.value, WorkKind.FINISH.value}:
        said |= {"subject_id": uuid.uuid4(), "stage": None, "n_images": 0}
    else:
        said |= {"batch_id": batch.id}
    row = Work(id=uuid.uuid4(), site_id=batch.site_id, **said)
    with session_scope() as session:
        session.add(row)
    return row.id


def depths() -> dict[str, QueueDepth]:
    with session_scope() as session:
        return monitoring.queue_depths(session)


def waiting() -> dict[str, int]:
    return {queue: depth.waiting for queue, depth in depths().items() if depth.waiting}


def test_every_queue_is_there_and_nothing_waits(batch: Batch) -> None:
    assert depths() == dict.fromkeys(ALL_QUEUES, QueueDepth(0, 0, 0.0))


@pytest.mark.parametrize("stage", Stage)
def test_a_chunk_waits_on_its_stages_queue(batch: Batch, stage: Stage) -> None:
    unit(batch, stage=stage.value)
    assert waiting() == {stage.queue: 8}


@pytest.mark.parametrize("kind", [kind for kind in WorkKind if kind is not WorkKind.CHUNK])
def test_other_kinds_count_as_one(batch: Batch, kind: WorkKind) -> None:
    unit(batch, kind=kind.value, stage=None, n_images=0)
    assert waiting() == {KIND_QUEUES[kind]: 1}


def test_what_is_held_runs_and_what_lies_between_two_stages_waits(batch: Batch) -> None:
    later = func.clock_timestamp() + timedelta(seconds=30)
    held = unit(batch, state=WorkState.RUNNING.value, stage=Stage.DETECT.value, lease_until=later)
    unit(batch, state=WorkState.PUBLISHED.value, stage=Stage.DETECT.value)
    unit(batch, state=WorkState.RUNNING.value, stage=Stage.REPORT.value)
    unit(batch, due_at=later)  # tried again later
    unit(batch, state=WorkState.DONE.value, finished_at=func.clock_timestamp())
    found = depths()
    assert (found["gpu"].waiting, found["gpu"].running) == (8, 8)
    assert (found["report"].waiting, found["cpu"].waiting) == (8, 0)
    with session_scope() as session:
        rate = session.scalar(text("SELECT images_per_second FROM queue_depth WHERE queue = 'cpu'"))
        assert rate == pytest.approx(8 / 300)
        session.execute(update(Work).where(Work.id == held).values(lease_until=func.clock_timestamp()))
        session.execute(update(Work).values(due_at=func.clock_timestamp() - timedelta(seconds=90)))
    assert depths()["gpu"].waiting == 16
    assert 90 <= depths()["gpu"].oldest_seconds < 150


def test_a_paused_batch_scales_nothing(batch: Batch) -> None:
    unit(batch)
    with session_scope() as session:
        session.execute(update(Batch).values(status=BatchStatus.PAUSED.value))
    assert waiting() == {}

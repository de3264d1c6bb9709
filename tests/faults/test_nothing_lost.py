"""What breaks in mid-batch, and the same oracle after each: every image ends once, nothing is left over."""

from __future__ import annotations

import os
import signal
import uuid

import pytest
import redis
from sqlalchemy import select, update

from store.base.blobs import get_blobs
from store.base.session import session_scope
from store.base.tables import Work, WorkKind, WorkState
from store.intake import batches
from store.queue import dispatch
from tests.running import (
    PATIENCE,
    Service,
    assert_sound,
    images_of,
    predictions,
    read_batch,
    submit,
    wait_for,
    wait_until_ended,
)
from vocabulary.states import STAGES, Stage


def test_a_worker_killed_in_mid_chunk(
    service: Service, site_id: uuid.UUID, pictures: dict[str, bytes]
) -> None:
    calm = wait_until_ended(submit(site_id, {f"calm/{p}": d for p, d in pictures.items()}))
    assert calm.n_done == len(pictures)
    # other bytes at the end of each file: the same pictures, but no finding to share
    batch = submit(site_id, {f"calm/{p}": d + b"\0" for p, d in pictures.items()})
    for queue in ("cpu", "gpu", "report"):
        child = service.child(queue)
        wait_for(lambda q=queue: leased_on(q), PATIENCE, f"a lease on {queue}")
        os.kill(child.pid, signal.SIGKILL)
    # as a worker leaves it that is killed between the write of its stack and the row that names it
    get_blobs().put(f"scratch/{batch.id}/{uuid.uuid4()}/{uuid.uuid4()}.npz", b"a stack")
    # and one that is killed between the commit that no longer names an upload and its deletion
    get_blobs().put(batches.new_incoming_key(batch.id), b"an upload")
    service.kill("gpu")
    service.start("gpu")
    batch = wait_until_ended(batch)
    assert_sound(batch)
    assert batch.n_done == len(pictures)
    # the same picture may sit elsewhere in a padded batch: equal to float32 rounding
    before, after = predictions(calm), predictions(batch)
    assert all(abs((before[path] or 0) - (after[path] or 0)) < 1e-5 for path in before)


def leased_on(queue: str) -> bool:
    stages = [stage.value for stage in STAGES if stage.queue == queue]
    with session_scope() as session:
        live = select(Work.id).where(Work.lease_token.is_not(None), Work.stage.in_(stages))
        return session.scalar(live.limit(1)) is not None


def test_flushall_in_mid_batch(
    service: Service, site_id: uuid.UUID, pictures: dict[str, bytes], broker: redis.Redis
) -> None:
    batch = submit(site_id, pictures)
    wait_for(lambda: read_batch(batch).s_prepare > 0, PATIENCE, "the first chunk")
    broker.flushall()
    batch = wait_until_ended(batch)
    assert_sound(batch)
    assert batch.n_done == len(pictures)


@pytest.mark.usefixtures("patient")
def test_the_same_message_delivered_five_times(
    service: Service, site_id: uuid.UUID, pictures: dict[str, bytes]
) -> None:
    batch = submit(site_id, pictures)
    with session_scope() as session:
        units = session.scalars(select(Work).where(Work.batch_id == batch.id)).all()
    app = dispatch._publisher()
    for unit in units:
        for stage in (Stage.PREPARE, Stage.CLASSIFY, Stage.REPORT):
            for _ in range(5):
                dispatch._send(app, dispatch._Message(unit.id, WorkKind.CHUNK, stage, 1))
    batch = wait_until_ended(batch)
    for unit in units:  # and late, when all is over
        dispatch._send(app, dispatch._Message(unit.id, WorkKind.CHUNK, Stage.PREPARE, 1))
    wait_for(lambda: not any(broker_lengths()), PATIENCE, "the queues to drain")
    assert_sound(batch)
    assert batch.n_done == len(pictures)
    with session_scope() as session:
        taken = session.scalars(select(Work.taken).where(Work.batch_id == batch.id, Work.kind == "chunk"))
        assert set(taken) == {len(STAGES)}, "each stage ran once"


def broker_lengths() -> list[int]:
    from settings import get_settings

    client = redis.Redis.from_url(get_settings().broker_url)
    lengths = [
        int(client.llen(queue + suffix)) for queue in ("cpu", "gpu", "report") for suffix in ("", ":3", ":6")
    ]
    client.close()
    return lengths


def test_a_poison_image_alone_fails(service: Service, site_id: uuid.UUID, pictures: dict[str, bytes]) -> None:
    some = dict(list(pictures.items())[:6])
    batch = submit(site_id, some)
    victim = images_of(batch)[2]
    with session_scope() as session:  # a kept copy that is gone: no attempt can succeed
        session.execute(
            update(type(victim)).where(type(victim).id == victim.id).values(incoming_key="incoming/none/none")
        )
    batch = wait_until_ended(batch)
    states = {image.id: (image.status, image.reason) for image in images_of(batch)}
    assert states.pop(victim.id) == ("failed", "processing_error")
    assert set(states.values()) == {("done", None)}
    assert (batch.status, batch.n_failed, batch.n_done) == ("partial", 1, 5)
    with session_scope() as session:
        open_work = select(Work.id).where(Work.state.not_in([WorkState.DONE, WorkState.CANCELLED]))
        assert session.scalar(open_work) is None

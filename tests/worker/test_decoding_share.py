"""One site's costly files do not hold another's: chunks yield, sites take turns, a cancel ends a decode."""

from __future__ import annotations

import io
import os
import signal
import struct
import threading
import uuid
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from sqlalchemy import select

from pipeline.decode import sandbox
from settings import get_settings
from store.base.session import session_scope
from store.base.tables import Batch, Priority, Site, Work, WorkState
from store.intake import batches
from store.queue import work
from store.queue.dispatch import _choose
from store.queue.work import Lease
from tests.running import (
    PATIENCE,
    assert_sound,
    draft,
    images_of,
    light_service,
    read_batch,
    submit,
    wait_for,
    wait_until_ended,
)
from vocabulary.states import Stage


def png_of_zeros(side: int = 9000) -> bytes:
    """Return a small file of a picture of 48-bit colour that takes seconds to unpack."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    packer, packed = zlib.compressobj(9), io.BytesIO()
    row = b"\4" + bytes(6 * side)  # Paeth, the dearest of the filters
    for _ in range(side):
        packed.write(packer.compress(row))
    packed.write(packer.flush())
    header = struct.pack(">IIBBBBB", side, side, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        (chunk(b"IHDR", header), chunk(b"IDAT", packed.getvalue()), chunk(b"IEND", b""))
    )


@pytest.fixture(scope="session")
def costly() -> bytes:
    return png_of_zeros()


def gradient(number: int) -> bytes:
    rows = np.linspace(0, 255 - number, 128).astype(np.uint8)
    return cv2.imencode(".png", np.minimum(rows[:, None], rows[None, :]))[1].tobytes()


def prepare_next(batch: Batch) -> Lease | None:
    """Run `prepare` of a unit of the batch that is due; return its lease."""
    from worker import stages

    with session_scope() as session:
        unit = session.scalar(
            select(Work.id).where(
                Work.batch_id == batch.id,
                Work.stage == Stage.PREPARE.value,
                Work.state.in_([WorkState.DUE, WorkState.PUBLISHED]),
            )
        )
        if unit is None:
            return None
        lease = work.take(session, unit, Stage.PREPARE)
    assert isinstance(lease, Lease)
    stages.run(lease)
    return lease


def other_site(name: str) -> uuid.UUID:
    with session_scope() as session:
        site = Site(id=uuid.uuid4(), name=name)
        site.default_bundle = session.scalar(select(Site.default_bundle).limit(1))
        session.add(site)
        session.flush()
        return site.id


def change(settings: pytest.MonkeyPatch, **values: float) -> None:
    for name, value in values.items():
        settings.setenv(f"FRACTUREAI_{name.upper()}", str(value))
    get_settings.cache_clear()


def test_a_chunk_yields_after_its_share_and_loses_nothing(
    site_id: uuid.UUID, service_settings: pytest.MonkeyPatch
) -> None:
    change(service_settings, decode_slice_seconds=0.0001)
    batch = submit(site_id, {f"{n}.png": gradient(n) for n in range(3)})
    prepare_next(batch)
    images = images_of(batch)
    assert [image.status for image in images] == ["running", "queued", "queued"]
    assert images[1].work_id == images[2].work_id != images[0].work_id
    assert (read_batch(batch).n_queued, read_batch(batch).n_running) == (2, 1)
    with session_scope() as session:
        assert session.get_one(Work, images[1].work_id).n_images == 2
        assert session.get_one(Site, site_id).decode_rests_until is not None
    while prepare_next(batch):
        pass
    assert {image.status for image in images_of(batch)} == {"running"}


def test_a_site_whose_files_took_long_stands_back_while_another_waits(site_id: uuid.UUID) -> None:
    mine, theirs = (
        draft(site_id, {"a.png": gradient(1)}),
        draft(other_site("Elsewhere"), {"b.png": gradient(2)}),
    )
    for batch in (mine, theirs):
        with session_scope() as session:
            batches.submit(session, batch.id, batch.site_id)
    for rest, first in ((0.0, mine), (60.0, theirs)):
        with session_scope() as session:
            if rest:
                work.rest_site(session, site_id, rest)
        with session_scope() as session:
            chosen = [session.get_one(Work, message.work_id).batch_id for message in _choose(session)]
            session.rollback()
        assert chosen[0] == first.id
        assert set(chosen) == {mine.id, theirs.id}  # nobody waits where there is room


def test_an_expensive_file_is_refused_and_its_neighbour_goes_on(
    site_id: uuid.UUID, costly: bytes, service_settings: pytest.MonkeyPatch
) -> None:
    change(service_settings, decode_cpu_seconds=1)
    batch = submit(site_id, {"costly.png": costly, "good.png": gradient(1)})
    prepare_next(batch)
    refused, good = images_of(batch)
    assert (refused.status, refused.reason) == ("rejected", "too_expensive_to_decode")
    assert good.status == "running"


def test_a_cancel_ends_a_decode_that_runs(site_id: uuid.UUID, costly: bytes) -> None:
    batch = submit(site_id, {"costly.png": costly, "good.png": gradient(1)})
    sandbox().close()

    def cancel() -> None:
        wait_for(lambda: sandbox_cpu() > 0.05, PATIENCE, "the decoder to be at it")
        child = sandbox()._child
        assert child is not None
        os.kill(child.pid, signal.SIGSTOP)  # by itself it never ends
        with session_scope() as session:
            batches.cancel(session, batch.id, site_id)

    canceller = threading.Thread(target=cancel)
    canceller.start()
    prepare_next(batch)
    canceller.join()
    assert [image.status for image in images_of(batch)] == ["cancelled", "cancelled"]


def sandbox_cpu() -> float:
    child = sandbox()._child  # not `child_cpu_time`, which would wait for the decode
    return child.cpu_time() if child is not None else 0.0


@pytest.mark.faults
def test_an_urgent_image_is_read_while_another_site_sends_costly_files(
    site_id: uuid.UUID, costly: bytes, tmp_path: Path, service_settings: pytest.MonkeyPatch
) -> None:
    change(service_settings, decode_cpu_seconds=2, decode_slice_seconds=2)
    with light_service(tmp_path):
        wait_until_ended(submit(site_id, {"first.png": gradient(0)}))  # networks are converted for it
        hostile = submit(site_id, {f"{n}.png": costly + bytes([n]) for n in range(24)})
        wait_for(lambda: read_batch(hostile).n_rejected, PATIENCE, "the attack to be under way")
        urgent = submit(other_site("Elsewhere"), {"urgent.png": gradient(1)}, priority=Priority.URGENT)
        wait_until_ended(urgent)
        assert read_batch(hostile).n_queued > 0  # it has not waited for the attack's end
        with session_scope() as session:
            batches.cancel(session, hostile.id, site_id)
        wait_until_ended(hostile)
    assert {image.reason for image in images_of(hostile)} <= {
        "too_expensive_to_decode",
        "upload_deleted",
        "cancelled_by_user",  # what a worker had in its hands
    }
    assert_sound(urgent)

"""The blob store full, read-only, or holding other bytes than it was given."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
from sqlalchemy import select

from settings import get_settings
from store.base import blobs as blob_module
from store.base.blobs import get_blobs
from store.base.session import session_scope
from store.base.tables import Work
from store.intake import batches
from tests.faults.disk import fill, remount
from tests.running import (
    ALL,
    PATIENCE,
    Service,
    assert_sound,
    draft,
    images_of,
    light_service,
    read_batch,
    submit,
    wait_for,
    wait_until_ended,
)
from vocabulary.states import ImageStatus

pytestmark = pytest.mark.faults


@pytest.fixture
def small_blobs(small_disk: Path, service_settings: pytest.MonkeyPatch) -> Path:
    """A blob store on the small disk."""
    service_settings.setenv("FRACTUREAI_BLOB_URL", f"file://{small_disk}/blobs")
    get_settings.cache_clear()
    blob_module.get_blobs.cache_clear()
    return small_disk


@pytest.mark.parametrize("fault", ["full", "read-only"])
def test_the_blob_store_takes_nothing_for_a_while(
    fault: str,
    small_blobs: Path,
    site_id: uuid.UUID,
    few: dict[str, bytes],
    calm: dict[str, float],
    tmp_path: Path,
) -> None:
    batch = draft(site_id, few)
    filler = small_blobs / "filler"
    if fault == "full":
        fill(filler)
    else:
        remount(small_blobs, "ro")
    with session_scope() as session:
        batches.submit(session, batch.id, site_id)
    with light_service(tmp_path) as service:
        wait_for(lambda: "is given back: Blob" in service.log(ALL), PATIENCE, "a refused write")
        assert read_batch(batch).n_failed == 0
        if fault == "full":
            filler.unlink()
        else:
            remount(small_blobs, "rw")
        batch = wait_until_ended(batch)
    assert_sound(batch, calm)
    assert batch.n_done == len(few)
    assert not list(get_blobs().root.rglob(".new-*")), "nothing half-written"  # type: ignore[attr-defined]


@pytest.mark.parametrize("fault", ["altered", "missing"])
def test_an_upload_that_is_no_longer_what_was_sent(
    fault: str, light: Service, site_id: uuid.UUID, few: dict[str, bytes], calm: dict[str, float]
) -> None:
    batch = draft(site_id, dict(list(few.items())[:3]))
    victim, other = images_of(batch)[:2]
    assert victim.incoming_key
    assert other.incoming_key
    if fault == "altered":  # a readable picture, but another one: its finding must never bear this hash
        get_blobs().put(victim.incoming_key, get_blobs().get(other.incoming_key))
    else:
        get_blobs().delete(victim.incoming_key)
    with session_scope() as session:
        batches.submit(session, batch.id, site_id)
    batch = wait_until_ended(batch)
    states = {image.path: (image.status, image.error) for image in images_of(batch)}
    status, error = states.pop(victim.path)
    assert status == "failed"
    assert error
    assert error.startswith("BlobAltered" if fault == "altered" else "BlobMissing")
    assert set(states.values()) == {("done", None)}
    assert_sound(batch, calm, retryable=True)


@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize("fault", ["altered", "missing"])
def test_a_chunk_whose_input_stack_is_gone_starts_again(
    images: int, fault: str, site_id: uuid.UUID, few: dict[str, bytes], calm: dict[str, float], tmp_path: Path
) -> None:
    """The first worker only prepares; then its stack is damaged; then the others come."""
    service = Service(tmp_path)
    try:
        service.start("reconcile")
        service.start("cpu")
        batch = submit(site_id, dict(list(few.items())[:images]))
        keys = wait_for(prepared, PATIENCE, "the stack")
        for key in keys:
            if fault == "altered":
                get_blobs().put(key, b"not numpy's")
            else:
                get_blobs().delete(key)
        service.start("gpu,report")
        assert_sound(wait_until_ended(batch), calm)
    finally:
        service.stop()
    with session_scope() as session:
        assert not session.scalars(select(Work).where(Work.scratch.is_not(None))).all()
    assert {(image.status, image.error) for image in images_of(batch)} == {(ImageStatus.DONE, None)}


def prepared() -> list[str]:
    with session_scope() as session:
        return [
            key
            for key in session.scalars(select(Work.scratch).where(Work.stage == "classify"))
            if key is not None
        ]

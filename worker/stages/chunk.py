"""A chunk of images on its way: what is asked for it, and its model inputs between the stages."""

from __future__ import annotations

import io
import uuid
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from sqlalchemy import select
from sqlalchemy.orm import Session

from models.bundle import Bundle
from pipeline.types import Float16Array, UInt8Array
from store.base.blobs import get_blobs
from store.base.errors import BlobMissing
from store.base.session import session_scope
from store.base.tables import Batch, Finding, Image
from store.queue import work
from store.queue.work import Lease
from worker.base.networks import cached_bundle
from worker.stages.purpose import Purpose, purpose_of


@dataclass(frozen=True)
class Chunk:
    """A chunk's images that have not ended, and what is asked for them.

    `bundles` has more than the batch's own `bundle` where the purpose asks for several at once.
    """

    lease: Lease
    images: list[Image]
    batch: Batch
    bundle: Bundle
    bundles: tuple[Bundle, ...]
    purpose: Purpose

    def findings(self, session: Session, bundle: Bundle) -> dict[str, Finding]:
        """Return by sha256 what the bundle has said of the images' bytes, in whatever batch of the site."""
        rows = session.scalars(
            select(Finding)
            .where(
                Finding.site_id == self.lease.site_id,
                Finding.bundle == bundle.name,
                Finding.precision == self.purpose.precision,
                Finding.sha256.in_({image.sha256 for image in self.images}),
            )
            .execution_options(populate_existing=True)  # another worker may have said it first
        )
        return {row.sha256: row for row in rows}


def load_chunk(lease: Lease, images: list[Image] | None = None) -> Chunk:
    """Load the unit that is held under the lease; `images` are its images if they were looked up already."""
    with session_scope() as session:
        if images is None:
            images = work.images_of(session, lease.work_id)
        batch = session.get_one(Batch, lease.batch_id)
        purpose = purpose_of(session, batch)
    bundles = tuple(cached_bundle(name) for name in purpose.bundles(batch))
    return Chunk(lease, images, batch, cached_bundle(batch.bundle), bundles, purpose)


def cam_of(finding: Finding) -> Float16Array | None:
    """Return the attention map (float16, rows by columns) that was kept with a finding, if one was."""
    if finding.cam is None or finding.cam_height is None or finding.cam_width is None:
        return None
    return np.frombuffer(finding.cam, np.float16).reshape(finding.cam_height, finding.cam_width)


def pack_inputs(stacks: dict[int, UInt8Array], ids: list[uuid.UUID]) -> bytes:
    """Return the bytes that `ModelInputs` reads: uint8 (n, size, size) by size, and whose rows they are."""
    buffer = io.BytesIO()
    arrays = {f"s{size}": stack for size, stack in stacks.items()}
    np.savez(buffer, ids=np.frombuffer(b"".join(i.bytes for i in ids), np.uint8), **arrays)
    return buffer.getvalue()


class ModelInputs:
    """A chunk's model inputs, read back from the blob store."""

    def __init__(self, lease: Lease) -> None:
        if lease.scratch is None:
            raise BlobMissing("the chunk has no input stack")
        with np.load(io.BytesIO(get_blobs().get(lease.scratch)), allow_pickle=False) as arrays:
            raw = arrays["ids"].tobytes()
            self._rows = {uuid.UUID(bytes=raw[n : n + 16]): n // 16 for n in range(0, len(raw), 16)}
            self._stacks = {int(name[1:]): arrays[name] for name in arrays.files if name != "ids"}

    def take(self, images: Iterable[Image], size: int) -> UInt8Array:
        """Return uint8 (n, size, size), a row an image."""
        return self._stacks[size][[self._rows[image.id] for image in images]]


def scratch_of(batch_id: uuid.UUID) -> str:
    """Return what the keys of a batch's input stacks begin with: its end deletes whatever is left there."""
    return f"scratch/{batch_id}/"


def drop_scratch(key: str | None) -> None:
    """Delete a chunk's input stack, if there is one."""
    if key is not None:
        get_blobs().delete(key)

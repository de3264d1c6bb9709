"""A chunk of images on its way: what is asked for it, and its model inputs between the stages."""

from __future__ import annotations

import io
import uuid
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session, load_only

from models.bundle import Bundle
from pipeline.types import Float16Array, UInt8Array
from store.base.blobs import get_blobs
from store.base.bulk import among
from store.base.errors import BlobMissing
from store.base.session import session_scope
from store.base.tables import Batch, Finding, Image
from store.queue import work
from store.queue.work import Lease
from worker.base.networks import cached_bundle
from worker.flow import StackLost
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
        query = select(Finding).where(*self._said_by(bundle))
        # another worker may have said it first
        rows = session.scalars(query.execution_options(populate_existing=True))
        return {row.sha256: row for row in rows}

    def finding_ids(self, session: Session, bundle: Bundle) -> dict[str, uuid.UUID]:
        """Return the ids of `findings`."""
        rows = session.execute(select(Finding.sha256, Finding.id).where(*self._said_by(bundle)))
        return {sha256: id_ for sha256, id_ in rows}

    def _said_by(self, bundle: Bundle) -> tuple[ColumnElement[bool], ...]:
        return (
            Finding.site_id == self.lease.site_id,
            Finding.bundle == bundle.name,
            Finding.precision == self.purpose.precision,
            among(Finding.sha256, {image.sha256 for image in self.images}),
        )


#: What the stages after the first read of an image: a third of its columns.
_READ = load_only(
    *(Image.seq, Image.site_id, Image.batch_id, Image.study_id, Image.finding_id, Image.number),
    *(Image.sha256, Image.status, Image.passed, Image.reason, Image.flags, Image.triage),
    *(Image.body_part, Image.view, Image.modality, Image.width, Image.height, Image.display_key),
    raiseload=True,
)


def load_chunk(lease: Lease, images: list[Image] | None = None) -> Chunk:
    """Load the unit that is held under the lease; `images` are its images if they were looked up already."""
    with session_scope() as session:
        if images is None:
            images = work.images_of(session, lease.work_id, _READ)
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


def _arrays(data: bytes) -> dict[str, UInt8Array]:
    """Return the arrays of a file of `np.savez`.

    Raises
    ------
    ValueError
        It is no such file, or an altered one.
    """
    try:
        file = np.load(io.BytesIO(data), allow_pickle=False)
    except (zipfile.BadZipFile, EOFError, ValueError) as error:
        raise ValueError("no stack") from error
    try:
        arrays = {name: file[name] for name in file.files}
    except zipfile.BadZipFile as error:
        raise ValueError("an altered stack") from error
    except ValueError as error:
        raise ValueError("a stack of objects") from error
    if other := {str(array.dtype) for array in arrays.values()} - {"uint8"}:
        raise ValueError(f"a stack of {', '.join(other)}")
    return arrays


class ModelInputs:
    """A chunk's model inputs, read back from the blob store.

    Raises
    ------
    StackLost
    """

    def __init__(self, lease: Lease) -> None:
        if lease.scratch is None:
            raise StackLost("the chunk has no input stack")
        try:
            arrays = _arrays(get_blobs().get(lease.scratch))
            raw = arrays.pop("ids").tobytes()
        except (BlobMissing, ValueError, KeyError) as error:
            raise StackLost(f"the chunk's input stack cannot be read: {error}") from error
        self._rows = {uuid.UUID(bytes=raw[n : n + 16]): n // 16 for n in range(0, len(raw), 16)}
        self._stacks = {int(name[1:]): stack for name, stack in arrays.items()}

    def take(self, images: Iterable[Image], size: int) -> UInt8Array:
        """Return uint8 (n, size, size), a row an image."""
        try:
            return self._stacks[size][[self._rows[image.id] for image in images]]
        except KeyError as error:
            raise StackLost(f"the chunk's input stack has no {error}") from error


def scratch_of(batch_id: uuid.UUID) -> str:
    """Return what the keys of a batch's input stacks begin with: its end deletes whatever is left there."""
    return f"scratch/{batch_id}/"


def drop_scratch(key: str | None) -> None:
    """Delete a chunk's input stack, if there is one."""
    if key is not None:
        get_blobs().delete(key)

"""Writes an image at full depth, for a viewer: the kept original, decoded once more in the sandbox."""

from __future__ import annotations

import hashlib

from sqlalchemy import func, select

from pipeline.decode import Limits, decode
from pipeline.types import Rejected, Skipped
from settings import get_settings
from store.base.blobs import get_blobs
from store.base.errors import BlobAltered, BlobMissing
from store.base.session import session_scope
from store.base.tables import Image
from store.queue import work
from store.queue.work import Lease
from worker.base.written import Written, picture_key


def write(lease: Lease) -> bool:
    """Draw the picture and keep it; where it cannot be had, end the unit without one."""
    with session_scope() as session:
        image = session.get(Image, lease.subject_id)
    data = _drawn(image) if image is not None else None
    sha256 = None
    with Written() as written:
        if image is not None and data is not None:
            sha256, _ = written.put(picture_key(image, "pixels.png"), data, image)
            written.keep()
    saved = False
    try:
        with session_scope() as session:
            work.end_unit(session, lease)
            kept = session.scalar(select(Image).where(Image.id == lease.subject_id).with_for_update())
            if image is not None and kept is not None and kept.original_key and sha256:
                kept.pixels_key, kept.pixels_sha256 = picture_key(image, "pixels.png"), sha256
                kept.pixels_at = session.scalar(select(func.clock_timestamp()))
                saved = True
    finally:
        if not saved:
            written.discard()
    return False


def _drawn(image: Image) -> bytes | None:
    """Return the picture; None where the original is gone or cannot be decoded."""
    if image.original_key is None:
        return None
    settings = get_settings()
    try:
        data = get_blobs().get(image.original_key)
        if image.original_sha256 is not None and hashlib.sha256(data).hexdigest() != image.original_sha256:
            raise BlobAltered
        found = decode(
            data,
            max_pixels=settings.max_pixels,
            pseudonymise=lambda identity: identity,  # of a copy that is pseudonymised; nothing of it is kept
            at_full_depth=True,
            owner=str(image.batch_id),
            limits=Limits(
                settings.decode_cpu_seconds, settings.decode_wall_seconds, settings.decode_memory_bytes
            ),
        )
    except (Rejected, Skipped, BlobMissing, BlobAltered):
        return None
    # what is marked on the picture is in its pixels: another frame would show it elsewhere
    return found.stored if (found.width, found.height) == (image.width, image.height) else None

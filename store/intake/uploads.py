"""What is here already, what a site may still send, and large files that arrive in resumable pieces."""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby

from sqlalchemy import ColumnElement, and_, func, or_, select, tuple_
from sqlalchemy.orm import Session

from settings import get_settings
from store.base.blobs import get_blobs
from store.base.errors import (
    BatchNotDraft,
    BlobMissing,
    NotFound,
    OffsetConflict,
    ServiceError,
    UploadIncomplete,
)
from store.base.sealed_blobs import stream_opened
from store.base.session import session_scope
from store.base.tables import Batch, Image, Upload, batch_is_open
from store.intake import batches, quotas
from store.queue import counters
from vocabulary.reasons import Reason
from vocabulary.states import BatchStatus, ImageStatus

#: How long a request that cancels a batch deletes its files.
DISCARD_SECONDS = 5.0
#: How many are deleted in one transaction, while their batch's row is locked.
PORTION = 100


@dataclass(frozen=True)
class KnownFile:
    """A file that the batch has already, and what became of it."""

    path: str
    sha256: str
    status: str
    reason: Reason | None


def known_files(
    session: Session, site_id: uuid.UUID, batch_id: uuid.UUID, files: Sequence[tuple[str, str]]
) -> list[KnownFile]:
    """Return those of (path, sha256) that the site's draft has; another batch's files are never told.

    Raises
    ------
    NotFound, BatchNotDraft
    """
    require_draft(session, site_id, batch_id)
    if not files:
        return []
    rows = session.execute(
        select(Image.path, Image.sha256, Image.status, Image.reason).where(
            Image.batch_id == batch_id, tuple_(Image.path, Image.sha256).in_(list(files))
        )
    )
    return [KnownFile(path, sha, status, Reason(why) if why else None) for path, sha, status, why in rows]


def require_draft(session: Session, site_id: uuid.UUID, batch_id: uuid.UUID) -> Batch:
    """Return a batch that still takes files. Raises `NotFound`, `BatchNotDraft`."""
    batch = batches.get_batch(session, site_id, batch_id)
    if batch.status != BatchStatus.DRAFT:
        raise BatchNotDraft
    return batch


def list_drafts(session: Session, site_id: uuid.UUID, limit: int = 20) -> list[Batch]:
    """Return the site's batches that were not submitted yet, the newest first."""
    query = select(Batch).where(Batch.site_id == site_id, batch_is_open(), Batch.status == BatchStatus.DRAFT)
    return list(session.scalars(query.order_by(Batch.created_at.desc()).limit(limit)))


# large files in pieces


def start_upload(
    session: Session,
    *,
    site_id: uuid.UUID,
    user_id: uuid.UUID | None,
    batch_id: uuid.UUID,
    path: str,
    length: int,
) -> Upload:
    """Announce a large file for a draft.

    Raises
    ------
    NotFound, BatchNotDraft, QuotaExceeded
    """
    require_draft(session, site_id, batch_id)
    quotas.require_room(session, site_id, length)
    upload = Upload(
        id=uuid.uuid4(),
        site_id=site_id,
        user_id=user_id,
        batch_id=batch_id,
        path=path,
        length=length,
        pieces=[],
        expires_at=_expiry(),
    )
    session.add(upload)
    session.flush()
    session.refresh(upload)
    return upload


def _expiry() -> datetime:
    return func.clock_timestamp() + timedelta(seconds=get_settings().upload_keep_seconds)  # type: ignore[return-value]


def get_upload(session: Session, site_id: uuid.UUID, upload_id: uuid.UUID, *, lock: bool = False) -> Upload:
    """Return one of the site's unfinished files. Raises `NotFound`: unknown, taken in, ended or expired."""
    query = select(Upload).where(
        Upload.id == upload_id, Upload.site_id == site_id, Upload.expires_at > func.clock_timestamp()
    )
    upload = session.scalar(query.with_for_update() if lock else query)
    if upload is None:
        raise NotFound
    return upload


def new_piece_key(upload_id: uuid.UUID) -> str:
    """Return where the bytes of the next piece go."""
    return f"uploads/{upload_id}/{uuid.uuid4()}"


def add_piece(
    session: Session, site_id: uuid.UUID, upload_id: uuid.UUID, *, offset: int, key: str, size: int
) -> Upload:
    """Append a piece that lies in the blob store.

    Raises
    ------
    NotFound, QuotaExceeded
    OffsetConflict
        Another request appended at this place meanwhile, or the piece is too long.
    """
    upload = get_upload(session, site_id, upload_id, lock=True)
    if upload.offset != offset or offset + size > upload.length:
        raise OffsetConflict
    quotas.require_room(session, site_id, size)
    upload.pieces = [*upload.pieces, key]
    upload.offset += size
    upload.expires_at = _expiry()
    session.flush()
    session.refresh(upload)
    return upload


class PieceReader:
    """A whole file out of its pieces, read in order."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._pieces: Iterator[bytes] = (piece for key in keys for piece in stream_opened(key))
        self._buffer = b""

    def read(self, n: int = -1) -> bytes:
        """Return at most `n` bytes, none at the end."""
        while not self._buffer:
            piece = next(self._pieces, None)
            if piece is None:
                return b""
            self._buffer = piece
        size = len(self._buffer) if n < 0 else n
        taken, self._buffer = self._buffer[:size], self._buffer[size:]
        return taken


def open_upload(session: Session, site_id: uuid.UUID, upload_id: uuid.UUID) -> tuple[Upload, PieceReader]:
    """Return a file that has arrived whole, to read. Raises `NotFound`, `UploadIncomplete`."""
    upload = get_upload(session, site_id, upload_id)
    if upload.offset != upload.length:
        raise UploadIncomplete
    return upload, PieceReader(upload.pieces)


def end_upload(site_id: uuid.UUID, upload_id: uuid.UUID) -> None:
    """Delete an upload and its pieces: it was taken in, or cancelled. Raises `NotFound`."""
    with session_scope() as session:
        upload = get_upload(session, site_id, upload_id, lock=True)
        keys = list(upload.pieces)
        session.delete(upload)
    for key in keys:
        get_blobs().delete(key)


def discard(key: str) -> None:
    """Delete bytes that no row names; what cannot be deleted now is left to the sweep."""
    with suppress(ServiceError):
        get_blobs().delete(key)


def discard_cancelled(site_id: uuid.UUID, batch_id: uuid.UUID) -> None:
    """Delete what was sent to a batch that was cancelled and will not be read; call it after the commit.

    What takes longer than a request may, what a worker has in its hands, and what the blob store does not
    delete now, is left to the end of the batch and to `reconcile`.

    Raises
    ------
    NotFound
    """
    pieces = []
    with session_scope() as session:
        batch = batches.get_batch(session, site_id, batch_id)
        if batch.status == BatchStatus.CANCELLED and batch.submitted_at is None:
            for upload in session.scalars(select(Upload).where(Upload.batch_id == batch_id)):
                pieces += upload.pieces
                session.delete(upload)
    for key in pieces:
        discard(key)
    with suppress(ServiceError):
        delete_old(batch_id, seconds=DISCARD_SECONDS)


def delete_old(batch_id: uuid.UUID | None = None, *, seconds: float = math.inf) -> None:
    """Delete the uploads that nobody needs any more: of one batch, or of all.

    That is all that was sent to a cancelled draft, at once; of submitted images that were cancelled after
    `cancelled_keep_seconds`, and of those that failed after `draft_keep_seconds`: until then a retry reads
    them. Every other upload is deleted by `prepare`. A cancelled image of which nothing is left says so.

    Parameters
    ----------
    seconds
        No more are begun with after so long.

    Raises
    ------
    BlobUnavailable
    """
    settings = get_settings()
    until = time.monotonic() + seconds
    age = func.clock_timestamp() - Batch.finished_at
    cancelled: list[ColumnElement[bool]] = [Image.status == ImageStatus.CANCELLED]
    if settings.cancelled_keep_seconds:
        cancelled.append(age > timedelta(seconds=settings.cancelled_keep_seconds))
    query = (
        select(Image, batches.HAS_COPY)
        .join(Batch, Batch.id == Image.batch_id)
        .where(
            Image.incoming_key.is_not(None),
            or_(
                and_(Batch.submitted_at.is_(None), Batch.finished_at.is_not(None)),
                and_(*cancelled),
                age > timedelta(seconds=settings.draft_keep_seconds),
            ),
        )
        .order_by(Image.batch_id)
        .limit(PORTION)
        .with_for_update(skip_locked=True)  # the batch's row, too: a retry waits, or is first
    )
    if batch_id is not None:
        query = query.where(Image.batch_id == batch_id)
    while time.monotonic() < until:
        with session_scope() as session:
            rows = session.execute(query).all()
            for owner, theirs in groupby(rows, key=lambda row: row[0].batch_id):
                images = {image: has_copy for image, has_copy in theirs}
                with counters.counted(session, owner, list(images)):
                    for image, has_copy in images.items():
                        get_blobs().delete(image.incoming_key or "")
                        image.incoming_key = None
                        if image.status == ImageStatus.CANCELLED and not has_copy:
                            image.reason = Reason.UPLOAD_DELETED.value
        if not rows:
            return


def delete_expired() -> None:
    """Delete files that nobody went on with, and bytes that no row names.

    Those are left by a request that was killed, or whose commit was not acknowledged.
    """
    blobs = get_blobs()
    with session_scope() as session:
        gone = []
        for upload in session.scalars(select(Upload).where(Upload.expires_at < func.clock_timestamp())):
            gone += upload.pieces
            session.delete(upload)
        session.flush()
        kept = {key for pieces in session.scalars(select(Upload.pieces)) for key in pieces}
    for key in gone:
        blobs.delete(key)
    for key in blobs.keys("uploads/"):
        if key not in kept and blobs.age(key) > get_settings().visibility_timeout:
            blobs.delete(key)
    for prefix, keys in groupby(blobs.keys("incoming/"), key=lambda key: key.rpartition("/")[0]):
        _sweep_incoming(prefix, list(keys))


def _sweep_incoming(prefix: str, keys: Sequence[str]) -> None:
    """Delete those of a batch's uploads that no image names; a request may still be about to name a draft's.

    The end of a batch deletes what is left of it, but a worker of an earlier version that ends it may not.
    """
    blobs = get_blobs()
    try:
        batch_id = uuid.UUID(prefix.removeprefix("incoming/"))
    except ValueError:
        return  # not ours
    settings = get_settings()
    with session_scope() as session:
        ended = session.scalar(select(Batch.finished_at).where(Batch.id == batch_id)) is not None
        named = set(session.scalars(select(Image.incoming_key).where(Image.batch_id == batch_id)))
    keep = settings.visibility_timeout if ended else settings.scratch_keep_seconds
    for key in keys:
        with suppress(BlobMissing):  # `prepare` deletes what it has read
            if key not in named and blobs.age(key) > keep:
                blobs.delete(key)

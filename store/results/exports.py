"""Files that are prepared in the background: asked for, made by a unit of work, kept for a while, deleted."""

from __future__ import annotations

import uuid
from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum

from sqlalchemy import Select, delete, func, select
from sqlalchemy.orm import Session

from settings import get_settings
from store.accounts.sites import lock_site
from store.base.blobs import get_blobs
from store.base.errors import (
    DownloadTooLarge,
    ExportExpired,
    ExportNotReady,
    FindingsWithheld,
    NotFound,
    TooManyExports,
)
from store.base.session import session_scope
from store.base.tables import Batch, Export, Image, Priority, Work, WorkKind, WorkState, work_is_open
from store.intake import batches
from store.queue import work
from store.queue.work import Lease
from store.results import results
from store.results.downloads import ExportRequest, Format

#: Rows of files that are gone stay in the list for so long.
FORGET_AFTER = timedelta(days=30)
MAX_LISTED = 100
#: Rows of a workbook that is made while somebody waits: its first byte comes when all are written.
INLINE_WORKBOOK_ROWS = 2000


class ExportState(StrEnum):
    """How far a file is."""

    WAITING = "waiting"
    PREPARING = "preparing"
    READY = "ready"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


@dataclass(frozen=True)
class ExportRow:
    """A file with its state and, where it failed, its last error's code."""

    export: Export
    state: ExportState
    error_code: str | None


_STATES = {
    WorkState.DUE: ExportState.WAITING,
    WorkState.PUBLISHED: ExportState.WAITING,
    WorkState.RUNNING: ExportState.PREPARING,
    WorkState.DONE: ExportState.READY,
    WorkState.FAILED: ExportState.FAILED,
    WorkState.CANCELLED: ExportState.CANCELLED,
}


def is_small(session: Session, request: ExportRequest) -> bool:
    """Tell whether the file is streamed at once; Parquet and merged PDFs never are."""
    settings = get_settings()
    if request.format in {Format.PARQUET, Format.PDF}:
        return False
    most = settings.export_inline_images if request.format is Format.ZIP else settings.export_inline_rows
    if request.format is Format.XLSX:
        most = min(most, INLINE_WORKBOOK_ROWS)
    return results.count(session, request.selection) <= most


def check_batch(session: Session, request: ExportRequest) -> None:
    """Look at the batch that the request names, if it names one.

    Raises
    ------
    NotFound
        The site does not have it.
    FindingsWithheld
        It was read by a bundle on trial, and the request is not for those.
    """
    if request.selection.batch_id is not None:
        batch = batches.get_batch(session, request.selection.site_id, request.selection.batch_id)
        if not (batch.promoted or request.selection.trials):
            raise FindingsWithheld


def _holds_trials(session: Session, request: ExportRequest) -> bool:
    """Tell whether a batch of a bundle on trial may be in the file."""
    chosen = request.selection
    trial = select(Batch.id).where(Batch.site_id == chosen.site_id, Batch.run_id.is_(None), ~Batch.promoted)
    if chosen.batch_id is not None:
        trial = trial.where(Batch.id == chosen.batch_id)
    return chosen.trials and session.scalar(trial.limit(1)) is not None


def require_small(session: Session, request: ExportRequest) -> None:
    """Raise `NotFound`, `FindingsWithheld` or `DownloadTooLarge` unless the file can be streamed at once."""
    check_batch(session, request)
    if not is_small(session, request):
        raise DownloadTooLarge


def create(session: Session, request: ExportRequest, user_id: uuid.UUID | None) -> Export:
    """Queue a file's preparation; call `dispatch` after the commit.

    Raises
    ------
    NotFound, FindingsWithheld
        The batch is not the site's, or not for the one who asks.
    TooManyExports
        So many of the site's are in preparation.
    """
    check_batch(session, request)
    site_id = request.selection.site_id
    lock_site(session, site_id)  # two requests at once do not both find the last place free
    waiting = select(func.count()).where(
        Work.site_id == site_id, Work.kind == WorkKind.EXPORT, work_is_open()
    )
    if int(session.scalar(waiting) or 0) >= get_settings().max_exports:
        raise TooManyExports
    export = Export(
        id=uuid.uuid4(),
        site_id=site_id,
        user_id=user_id,
        request=request.document(),
        name=request.file_name,
        media_type=request.format.media_type,
        trials=_holds_trials(session, request),
        n_total=results.count(session, request.selection),
    )
    session.add(export)
    session.flush()
    work.add_unit(session, WorkKind.EXPORT, site_id=site_id, subject_id=export.id, priority=Priority.LOW)
    session.refresh(export)
    return export


def _row(export: Export, unit: Work | None, *, expired: bool) -> ExportRow:
    state = _STATES[WorkState(unit.state)] if unit else ExportState.EXPIRED
    if state is ExportState.READY and (expired or export.key is None):
        state = ExportState.EXPIRED
    return ExportRow(export, state, unit.error_code if unit and state is ExportState.FAILED else None)


def _of_site(site_id: uuid.UUID, *, trials: bool) -> Select[Export, Work, bool]:
    query = (
        select(Export, Work, func.coalesce(Export.expires_at < func.clock_timestamp(), False))
        .outerjoin(Work, Work.subject_id == Export.id)
        .where(Export.site_id == site_id)
    )
    return query if trials else query.where(~Export.trials)


def list_exports(session: Session, site_id: uuid.UUID, *, trials: bool) -> list[ExportRow]:
    """Return the site's files, the newest first, at most `MAX_LISTED`.

    Those that may hold what bundles on trial said are left out unless the person may see `trials`.
    """
    query = _of_site(site_id, trials=trials).order_by(Export.created_at.desc()).limit(MAX_LISTED)
    return [_row(export, unit, expired=expired) for export, unit, expired in session.execute(query)]


def get(session: Session, site_id: uuid.UUID, export_id: uuid.UUID, *, trials: bool) -> ExportRow:
    """Return one of the files that `list_exports` lists. Raises `NotFound`."""
    found = session.execute(_of_site(site_id, trials=trials).where(Export.id == export_id)).first()
    if found is None:
        raise NotFound
    export, unit, expired = found
    return _row(export, unit, expired=expired)


def get_ready(
    session: Session, site_id: uuid.UUID, export_id: uuid.UUID, *, trials: bool
) -> tuple[Export, str]:
    """Return a file that can be fetched, and its blob's key.

    Raises
    ------
    NotFound, ExportNotReady, ExportExpired
    """
    row = get(session, site_id, export_id, trials=trials)
    if row.state is ExportState.EXPIRED:
        raise ExportExpired
    if row.state is not ExportState.READY or row.export.key is None:
        raise ExportNotReady
    return row.export, row.export.key


def cancel(session: Session, site_id: uuid.UUID, export_id: uuid.UUID, *, trials: bool) -> list[str]:
    """End the preparation of a file, or let go of one that is ready; return the blob keys to delete.

    Raises
    ------
    NotFound
    """
    export = get(session, site_id, export_id, trials=trials).export
    work.cancel_units(session, export.id)
    if export.key is None:
        return []
    key, export.key, export.expires_at = export.key, None, func.clock_timestamp()
    return [key]


# what the worker does


def blob_key(lease: Lease) -> str:
    """Return where the file of a unit goes: another one in another worker's hands."""
    return f"exports/{lease.site_id}/{lease.subject_id}/{lease.token}"


def save_progress(session: Session, lease: Lease, done: int, total: int) -> None:
    """Write how far a file is. Raises `StaleLease` when it was cancelled or is another worker's."""
    work.hold(session, lease)
    export = session.get_one(Export, lease.subject_id)
    export.n_done, export.n_total = done, max(done, total)


def finish(
    session: Session, lease: Lease, *, key: str, sha256: str, size: int, done: int, missing: int, kind: Format
) -> None:
    """Make the file ready. Raises `StaleLease` when it was cancelled or is another worker's."""
    work.end_unit(session, lease)
    export = session.get_one(Export, lease.subject_id)
    export.key, export.sha256, export.size = key, sha256, size
    export.n_done = export.n_total = done
    export.n_missing = missing
    export.media_type = kind.media_type
    if not export.name.endswith(kind.value):
        export.name = f"{export.name.rsplit('.', 1)[0]}.{kind.value}"
    keep = timedelta(seconds=get_settings().export_keep_seconds)
    export.expires_at = func.clock_timestamp() + keep


def delete_expired() -> None:
    """Delete the bytes of files whose time is over, and the rows of those that went long ago."""
    now, blobs = func.clock_timestamp(), get_blobs()
    with session_scope() as session:
        expired = select(Export).where(Export.key.is_not(None), Export.expires_at < now)
        gone = []
        for export in session.scalars(expired):
            gone.append(export.key or "")
            export.key = None
        old = select(Export).where(Export.key.is_(None), Export.created_at < now - FORGET_AFTER)
        for export in session.scalars(old):
            session.execute(delete(Work).where(Work.subject_id == export.id))
            session.delete(export)
    with session_scope() as session:
        kept = set(session.scalars(select(Export.key).where(Export.key.is_not(None))))
    for key in gone:
        blobs.delete(key)
    for key in blobs.keys("exports/"):  # what a killed worker left is among them
        if key not in kept and blobs.age(key) > get_settings().visibility_timeout:
            blobs.delete(key)


def delete_holding(session: Session, site_id: uuid.UUID, image_ids: Collection[uuid.UUID]) -> list[str]:
    """Delete the rows of files that may hold these images; return the blob keys to delete.

    What an image was when the file was made may have changed since: only its batch and its day count.
    """
    gone = []
    for export in session.scalars(select(Export).where(Export.site_id == site_id)):
        chosen = ExportRequest.of_document(site_id, export.request, trials=True).selection
        widest = replace(chosen, status=None, triage=None, region=None)
        held = select(Image.id).join(Batch, Batch.id == Image.batch_id)
        held = held.where(*widest.conditions(), Image.id.in_(image_ids)).limit(1)
        if session.scalar(held) is not None:
            gone += cancel(session, site_id, export.id, trials=True)
    return gone

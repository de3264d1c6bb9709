"""Every read and write of batches and images that the web and the workers do, as named functions."""

from __future__ import annotations

import math
import uuid
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sqlalchemy import Text, func, or_, select, text, update
from sqlalchemy import column as column_of
from sqlalchemy import values as values_of
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from settings import get_settings
from store.base.bulk import insert_rows, parameter
from store.base.errors import (
    BatchEmpty,
    BatchNotDraft,
    IdempotencyKeyReused,
    ManifestUnmatched,
    NotFound,
    UnknownBundle,
    UploadsDeleted,
    WrongState,
)
from store.base.paging import Keyset, Page, moment
from store.base.tables import (
    Batch,
    BatchReason,
    Bundle,
    Image,
    ManifestLine,
    Priority,
    Site,
    Work,
    WorkState,
)
from store.intake import manifest_matching, quotas
from store.queue import counters, pace
from store.reading import studies
from vocabulary.reasons import Reason
from vocabulary.states import TERMINAL_BATCH_STATUSES, BatchStatus, ImageStatus


@dataclass(frozen=True)
class NewFile:
    """One file that the web took in: where its bytes lie, or why they were refused."""

    path: str
    sha256: str
    size: int
    incoming_key: str | None
    reason: Reason | None = None


@dataclass(frozen=True)
class FileAnswer:
    """What became of one file: accepted, rejected, skipped or duplicate."""

    path: str
    status: str
    image_id: uuid.UUID | None
    reason: Reason | None
    sha256: str
    size: int


@dataclass(frozen=True)
class ManifestRow:
    """One line of the requester's manifest; empty fields say nothing."""

    path: str
    accession: str = ""
    study: str = ""
    view: str = ""
    laterality: str = ""
    priority: Priority | None = None


def incoming_of(batch_id: uuid.UUID) -> str:
    """Return what the keys of a batch's uploads begin with."""
    return f"incoming/{batch_id}/"


def new_incoming_key(batch_id: uuid.UUID) -> str:
    """Return a fresh blob key for bytes that `prepare` alone will read."""
    return f"{incoming_of(batch_id)}{uuid.uuid4()}"


# batches


def create_batch(
    session: Session,
    *,
    site_id: uuid.UUID,
    user_id: uuid.UUID | None,
    label: str = "",
    bundle: str | None = None,
    priority: Priority = Priority.NORMAL,
    with_report: bool = True,
    with_heatmap: bool = True,
    idempotency_key: str | None = None,
    request_hash: str = "",
) -> tuple[Batch, bool]:
    """Make a draft, or find the one that this `idempotency_key` made before.

    Returns
    -------
    batch, created

    Raises
    ------
    IdempotencyKeyReused
        The key came with another request before.
    UnknownBundle
        There is no bundle of this name, or none at all.
    """
    if bundle is None:
        bundle = session.scalar(select(Site.default_bundle).where(Site.id == site_id))
    if bundle is None or session.get(Bundle, bundle) is None:
        raise UnknownBundle(bundle or "no default bundle")
    statement = (
        insert(Batch)
        .values(
            id=uuid.uuid4(),
            site_id=site_id,
            user_id=user_id,
            label=label,
            bundle=bundle,
            priority=priority.rank,
            with_report=with_report,
            with_heatmap=with_heatmap,
            idempotency_key=idempotency_key,
            request_hash=request_hash,
        )
        .on_conflict_do_nothing()
        .returning(Batch.id)
    )
    created_id = session.scalar(statement)
    if created_id is not None:
        return session.get_one(Batch, created_id), True
    batch = session.scalars(
        select(Batch).where(Batch.site_id == site_id, Batch.idempotency_key == idempotency_key)
    ).one()
    if batch.request_hash != request_hash:
        raise IdempotencyKeyReused
    return batch, False


def get_batch(session: Session, site_id: uuid.UUID, batch_id: uuid.UUID, *, lock: bool = False) -> Batch:
    """Return one clinical batch of the site, or to lock it also a run's. Raises `NotFound`."""
    query = select(Batch).where(Batch.id == batch_id, Batch.site_id == site_id)
    if not lock:
        query = query.where(Batch.run_id.is_(None))
    batch = session.scalar(
        query.with_for_update().execution_options(populate_existing=True) if lock else query
    )
    if batch is None:
        raise NotFound
    return batch


_BY_CREATION = Keyset((Batch.created_at, Batch.id), (moment, uuid.UUID), descending=True)


def list_batches(
    session: Session, site_id: uuid.UUID, *, cursor: str | None = None, limit: int = 50
) -> Page[Batch]:
    """Return the site's batches, the newest first."""
    query = select(Batch).where(Batch.site_id == site_id, Batch.run_id.is_(None))
    rows = session.scalars(_BY_CREATION.after(query, cursor).limit(limit + 1))
    return _BY_CREATION.page(rows, limit, lambda batch: batch)


def reasons(session: Session, batch_id: uuid.UUID) -> dict[str, int]:
    """Return how many images carry each reason."""
    rows = session.execute(
        select(BatchReason.reason, BatchReason.n).where(BatchReason.batch_id == batch_id, BatchReason.n > 0)
    )
    return {reason: n for reason, n in rows}


def set_manifest(
    session: Session, batch_id: uuid.UUID, site_id: uuid.UUID, rows: Sequence[ManifestRow]
) -> None:
    """Keep what the requester says of paths; a later manifest's line replaces an earlier one's."""
    batch = get_batch(session, site_id, batch_id, lock=True)
    if batch.status != BatchStatus.DRAFT:
        raise BatchNotDraft
    lines = {
        row.path: {
            "batch_id": batch_id,
            "path": row.path,
            "accession": row.accession,
            "study": row.study,
            "view": row.view,
            "laterality": row.laterality,
            "priority": row.priority.rank if row.priority else None,
        }
        for row in rows
    }
    values = list(lines.values())
    for start in range(0, len(values), 1000):
        statement = insert(ManifestLine).values(values[start : start + 1000])
        session.execute(
            statement.on_conflict_do_update(
                index_elements=["batch_id", "path"],
                set_={
                    c: statement.excluded[c] for c in ("accession", "study", "view", "laterality", "priority")
                },
            )
        )
    _apply_manifest(session, batch_id)


def _apply_manifest(session: Session, batch_id: uuid.UUID, images: Collection[uuid.UUID] = ()) -> None:
    """Apply the manifest's lines to the images of the very same path: all, or only `images`."""
    session.execute(
        update(Image)
        .where(
            Image.batch_id == batch_id,
            ManifestLine.batch_id == batch_id,
            Image.path == ManifestLine.path,
            *([Image.id.in_(images)] if images else []),
        )
        .values(_FROM_MANIFEST)
        .execution_options(synchronize_session=False)
    )


_FROM_MANIFEST = {
    Image.manifest_path: ManifestLine.path,
    Image.accession: ManifestLine.accession,
    Image.manifest_study: ManifestLine.study,
    Image.view: ManifestLine.view,
    Image.laterality: ManifestLine.laterality,
    Image.priority: ManifestLine.priority,
}
#: Paths that an error names.
MAX_NAMED = 5


@dataclass(frozen=True)
class Unmatched:
    """Lines of the manifest that met no file, and files that no line speaks of; by path, in order."""

    rows: list[str]
    files: list[str]


def _match_manifest(session: Session, batch: Batch, *, strict: bool) -> None:
    """Match lines with files spelled otherwise, and count the unmatched.

    Raises
    ------
    ManifestUnmatched
        Something did, and `strict` forbids it.
    """
    rows = set(session.scalars(select(ManifestLine.path).where(ManifestLine.batch_id == batch.id)))
    if not rows:
        return
    files = set(session.scalars(select(Image.path).where(Image.batch_id == batch.id)))
    matched = manifest_matching.match(files, rows)
    others = [(file, row) for file, row in matched.items() if file != row]
    for start in range(0, len(others), 1000):
        part = others[start : start + 1000]
        pairs = values_of(column_of("file", Text), column_of("row", Text), name="pairs").data(part)
        session.execute(
            update(Image)
            .where(
                Image.batch_id == batch.id,
                Image.path == pairs.c.file,
                ManifestLine.batch_id == batch.id,
                ManifestLine.path == pairs.c.row,
            )
            .values(_FROM_MANIFEST)
            .execution_options(synchronize_session=False)
        )
    unmatched = unmatched_of(session, batch.id)
    batch.manifest_rows = len(rows)
    batch.manifest_rows_unmatched = len(unmatched.rows)
    batch.manifest_files_unmatched = len(unmatched.files)
    if strict and (unmatched.rows or unmatched.files):
        raise ManifestUnmatched(
            f"{_named('line', unmatched.rows)} met no file; {_named('file', unmatched.files)} met no line"
        )


def _named(what: str, paths: Sequence[str]) -> str:
    shown = ", ".join(repr(path[-80:]) for path in paths[:MAX_NAMED])
    more = ", ..." if len(paths) > MAX_NAMED else ""
    return f"{len(paths)} {what}{'' if len(paths) == 1 else 's'}" + (f" ({shown}{more})" if paths else "")


def unmatched_of(session: Session, batch_id: uuid.UUID) -> Unmatched:
    """Return what of a submitted batch's manifest met nothing; files that were refused need no line."""
    taken = select(Image.manifest_path).where(
        Image.batch_id == batch_id, Image.manifest_path == ManifestLine.path
    )
    rows = select(ManifestLine.path).where(ManifestLine.batch_id == batch_id, ~taken.exists())
    files = select(Image.path).where(
        Image.batch_id == batch_id, Image.manifest_path.is_(None), Image.status != ImageStatus.REJECTED
    )
    return Unmatched(
        list(session.scalars(rows.order_by(ManifestLine.path))),
        list(session.scalars(files.order_by(Image.path))),
    )


_ADD_IMAGES = (
    insert_rows(
        Image,
        (
            *("id", "site_id", "batch_id", "path", "sha256", "size", "incoming_key"),
            *("status", "passed", "reason", "finished_at"),
        ),
    )
    .on_conflict_do_nothing(index_elements=["batch_id", "path", "sha256"])
    .returning(Image.id, Image.path, Image.sha256)
)


def add_files(
    session: Session,
    batch_id: uuid.UUID,
    site_id: uuid.UUID,
    files: Sequence[NewFile],
    *,
    set_aside: int = 0,
) -> list[FileAnswer]:
    """Add files to a draft. The same path with the same bytes again is a no-op, answered *duplicate*.

    Parameters
    ----------
    set_aside
        Bytes of the site's quota that the files had as one large file in pieces.

    Raises
    ------
    NotFound, BatchNotDraft, QuotaExceeded
    """
    batch = get_batch(session, site_id, batch_id, lock=True)
    if batch.status != BatchStatus.DRAFT:
        raise BatchNotDraft
    now = session.scalar(select(func.clock_timestamp())) if any(file.reason for file in files) else None
    ids: dict[tuple[str, str], uuid.UUID] = {}
    new: dict[tuple[str, str], NewFile] = {}
    for start in range(0, len(files), 1000):
        part = files[start : start + 1000]
        rows = [
            {
                "id": uuid.uuid4(),
                "site_id": site_id,
                "batch_id": batch_id,
                "path": file.path,
                "sha256": file.sha256,
                "size": file.size,
                "incoming_key": file.incoming_key if file.reason is None else None,
                "status": (ImageStatus.UPLOADED if file.reason is None else ImageStatus.REJECTED).value,
                "passed": None if file.reason is None else counters.LAST,
                "reason": file.reason.value if file.reason else None,
                "finished_at": None if file.reason is None else now,
            }
            for file in part
        ]
        inserted = session.connection().execute(_ADD_IMAGES, parameter(rows)).all()
        ids.update({(path, sha): id_ for id_, path, sha in inserted})
    answers = []
    delta: Counter[str] = Counter()
    for file in files:
        key = (file.path, file.sha256)
        if key in ids and key not in new:
            new[key] = file
            delta.update(
                counters.tally(
                    [
                        (
                            ("uploaded", None, None, None)
                            if file.reason is None
                            else ("rejected", counters.LAST, None, file.reason.value),
                            1,
                        )
                    ]
                )
            )
            delta["n_total"] += 1
            delta["n_bytes"] += file.size
            status = "accepted" if file.reason is None else "rejected"
            answers.append(FileAnswer(file.path, status, ids[key], file.reason, file.sha256, file.size))
        else:
            known = ids.get(key) or session.scalar(
                select(Image.id).where(
                    Image.batch_id == batch_id, Image.path == file.path, Image.sha256 == file.sha256
                )
            )
            answers.append(FileAnswer(file.path, "duplicate", known, file.reason, file.sha256, file.size))
    manifest = select(ManifestLine.path).where(ManifestLine.batch_id == batch_id).limit(1)
    if ids and session.scalar(manifest):
        _apply_manifest(session, batch_id, ids.values())
    if delta["n_bytes"]:
        quotas.require_room(session, site_id, delta["n_bytes"], set_aside=set_aside)
    counters.apply(session, batch_id, delta)
    return answers


def largest_file(session: Session, batch_id: uuid.UUID, path: str) -> int:
    """Return the size of the largest file that the batch has under a path; 0 where it has none."""
    largest = select(func.max(Image.size)).where(Image.batch_id == batch_id, Image.path == path)
    return int(session.scalar(largest) or 0)


def _chunk_size(n: int) -> int:
    """Return how many images travel together: small batches still spread over the stages."""
    return min(get_settings().chunk_size, max(8, math.ceil(n / 8)))


_CUT = text(
    """
    WITH todo AS (
        SELECT id, coalesce(priority, :priority) AS p,
               (row_number() OVER (PARTITION BY coalesce(priority, :priority)
                                   ORDER BY path COLLATE "C", seq) - 1) / :size AS k
        FROM images WHERE batch_id = :batch AND status = :status AND work_id IS NULL
    ), groups AS MATERIALIZED (
        SELECT p, k, gen_random_uuid() AS work_id, count(*) AS n FROM todo GROUP BY p, k
    ), made AS (
        INSERT INTO work (id, site_id, batch_id, kind, round, stage, priority, n_images)
        SELECT work_id, :site, :batch, 'chunk', :round, 'prepare', p, n FROM groups RETURNING id
    )
    UPDATE images SET work_id = groups.work_id, status = 'queued'
    FROM todo JOIN groups USING (p, k)
    WHERE images.id = todo.id AND EXISTS (SELECT 1 FROM made)
    """
)


def _cut_into_chunks(session: Session, batch: Batch, n: int, status: ImageStatus) -> None:
    session.execute(
        _CUT,
        {
            "batch": batch.id,
            "site": batch.site_id,
            "round": batch.round,
            "priority": batch.priority,
            "size": _chunk_size(n),
            "status": status.value,
        },
    )


def submit(session: Session, batch_id: uuid.UUID, site_id: uuid.UUID, *, strict: bool = False) -> Batch:
    """Cut a draft into chunks and queue them; one transaction. Submitting again changes nothing.

    Parameters
    ----------
    strict
        Whether a manifest must match: each line a file, each file that is read a line.

    Raises
    ------
    NotFound, BatchEmpty, ManifestUnmatched
    """
    batch = get_batch(session, site_id, batch_id, lock=True)
    if batch.status != BatchStatus.DRAFT:
        return batch
    if batch.n_total == 0:
        raise BatchEmpty
    _match_manifest(session, batch, strict=strict)
    waiting = batch.n_total - batch.n_rejected
    batch.status = BatchStatus.QUEUED.value
    batch.submitted_at = func.clock_timestamp()
    default = session.get_one(Site, site_id).default_bundle
    batch.promoted = batch.run_id is None and batch.bundle == default
    session.flush()
    _cut_into_chunks(session, batch, waiting, ImageStatus.UPLOADED)
    studies.assign_unread(session, batch)
    counters.apply(session, batch.id, Counter(n_queued=waiting))
    session.refresh(batch)
    return batch


def cancel(session: Session, batch_id: uuid.UUID, site_id: uuid.UUID, *, draft_only: bool = False) -> Batch:
    """Cancel what has not ended. Chunks in a worker's hands end at their next step.

    Done images stay done, and so are those that were read. Cancelling a batch that has ended changes
    nothing.

    Parameters
    ----------
    draft_only
        For a client that cleans up after itself: somebody may have submitted its draft meanwhile.

    Raises
    ------
    BatchNotDraft
        With `draft_only`, when the batch is not a draft any more.
    """
    batch = get_batch(session, site_id, batch_id, lock=True)
    if draft_only and batch.status != BatchStatus.DRAFT:
        raise BatchNotDraft
    if batch.status in TERMINAL_BATCH_STATUSES:
        return batch
    batch.cancelled_at = func.clock_timestamp()
    batch.paused_at = None
    reason = Reason.CANCELLED_BY_USER.value
    if batch.status == BatchStatus.DRAFT:
        batch.status = BatchStatus.CANCELLED.value
        batch.finished_at = func.clock_timestamp()
        session.flush()
        counters.cancel_images(session, batch.id, None, reason)
    else:
        if batch.status == BatchStatus.PAUSED:
            batch.status = BatchStatus.RUNNING.value
        session.flush()
        # a locked row is in a stage's hands: that stage sees cancelled_at and ends the chunk itself
        ids = list(
            session.scalars(
                select(Work.id)
                .where(
                    Work.batch_id == batch_id,
                    Work.kind == "chunk",
                    Work.state.in_([WorkState.DUE, WorkState.PUBLISHED, WorkState.RUNNING]),
                    Work.lease_token.is_(None),
                )
                .with_for_update(skip_locked=True)
            )
        )
        if ids:
            session.execute(
                update(Work)
                .where(Work.id.in_(ids))
                .values(state=WorkState.CANCELLED.value, finished_at=func.clock_timestamp())
                .execution_options(synchronize_session=False)
            )
            counters.cancel_images(session, batch_id, ids, reason)
    session.refresh(batch)
    return batch


def _touch(session: Session, batch: Batch) -> Batch:
    batch.version += 1
    session.flush()
    session.refresh(batch)
    return batch


def pause(session: Session, batch_id: uuid.UUID, site_id: uuid.UUID) -> Batch:
    """Stop taking up this batch's chunks; those in a worker's hands end their stage. Raises `WrongState`."""
    batch = get_batch(session, site_id, batch_id, lock=True)
    if batch.status == BatchStatus.PAUSED:
        return batch
    if batch.status not in {BatchStatus.QUEUED, BatchStatus.RUNNING} or batch.cancelled_at:
        raise WrongState
    batch.status = BatchStatus.PAUSED.value
    batch.paused_at = func.clock_timestamp()
    return _touch(session, batch)


def resume(session: Session, batch_id: uuid.UUID, site_id: uuid.UUID) -> Batch:
    """Take a paused batch up again. Raises `WrongState`."""
    batch = get_batch(session, site_id, batch_id, lock=True)
    if batch.status in {BatchStatus.QUEUED, BatchStatus.RUNNING}:
        return batch
    if batch.status != BatchStatus.PAUSED:
        raise WrongState
    batch.status = (BatchStatus.RUNNING if batch.started_at else BatchStatus.QUEUED).value
    batch.paused_at = None
    batch.rate = 0.0
    batch.rate_at = None
    pace.reset_marks(session, batch)
    return _touch(session, batch)


def set_priority(session: Session, batch_id: uuid.UUID, site_id: uuid.UUID, priority: Priority) -> Batch:
    """Change the priority of a batch and of its chunks that wait. Raises `WrongState` when it has ended."""
    batch = get_batch(session, site_id, batch_id, lock=True)
    if batch.status in TERMINAL_BATCH_STATUSES:
        raise WrongState
    batch.priority = priority.rank
    session.execute(
        update(Work)
        .where(Work.batch_id == batch_id, Work.state == WorkState.DUE)
        .values(priority=priority.rank)
        .execution_options(synchronize_session=False)
    )
    return _touch(session, batch)


#: In these an image can be read again, if its bytes are still there.
RETRIED = (ImageStatus.FAILED.value, ImageStatus.CANCELLED.value)
#: An image that has bytes to be read besides its upload.
HAS_COPY = or_(
    Image.original_key.is_not(None), Image.source_key.is_not(None), Image.dataset_image_id.is_not(None)
)
HAS_BYTES = or_(Image.incoming_key.is_not(None), HAS_COPY)


def can_retry(session: Session, batch: Batch) -> bool:
    """Tell whether `retry` has anything to do in an ended batch."""
    if batch.status not in TERMINAL_BATCH_STATUSES or batch.submitted_at is None:
        return False
    if batch.end_failure is not None:
        return True
    if not batch.n_failed + batch.n_cancelled:
        return False
    some = select(Image.id).where(Image.batch_id == batch.id, Image.status.in_(RETRIED), HAS_BYTES)
    return session.scalar(some.limit(1)) is not None


def ended_of_studies(
    session: Session, site_id: uuid.UUID, study_ids: Sequence[uuid.UUID]
) -> dict[uuid.UUID, list[uuid.UUID]]:
    """Return the images of these studies that failed or were cancelled, by their batch."""
    query = (
        select(Image.batch_id, Image.id)
        .join(Batch, Batch.id == Image.batch_id)
        .where(
            Image.site_id == site_id,
            Image.study_id.in_(study_ids),
            Image.status.in_(RETRIED),
            Batch.run_id.is_(None),
        )
    )
    found: dict[uuid.UUID, list[uuid.UUID]] = {}
    for batch_id, image_id in session.execute(query):
        found.setdefault(batch_id, []).append(image_id)
    return found


def retry(
    session: Session, batch_id: uuid.UUID, site_id: uuid.UUID, images: Sequence[uuid.UUID] | None = None
) -> Batch:
    """Queue the failed and the cancelled images of an ended batch again, as a new round.

    Those whose bytes were deleted meanwhile stay as they are; cancelled ones say so
    (`Reason.UPLOAD_DELETED`). Of a batch whose end was given up, the end is tried again even where no image
    failed.

    Parameters
    ----------
    images
        Only these of them; all when None.

    Raises
    ------
    WrongState
        The batch has not ended, or nothing in it (or among `images`) failed or was cancelled.
    UploadsDeleted
        Of all of them, or of some of `images`, nothing is left to be read; it names the first of these.
    """
    batch = get_batch(session, site_id, batch_id, lock=True)
    if batch.status not in TERMINAL_BATCH_STATUSES or batch.submitted_at is None:
        raise WrongState
    columns = (Image.status, Image.passed, Image.triage, Image.reason)
    ended = [Image.batch_id == batch_id, Image.status.in_(RETRIED)]
    if images is not None:
        ended.append(Image.id.in_(images))
    where = [*ended, HAS_BYTES]
    before = [
        ((str(s), g, t, r), int(n))
        for s, g, t, r, n in session.execute(select(*columns, func.count()).where(*where).group_by(*columns))
    ]
    n = sum(count for _, count in before)
    n_ended = session.scalar(select(func.count()).where(*ended)) or 0
    if n_ended > n and (images is not None or not (n or batch.end_failure)):
        gone = session.scalars(select(Image.path).where(*ended, ~HAS_BYTES).order_by(Image.path)).all()
        raise UploadsDeleted(_named("file", gone))
    if not n and (images is not None or batch.end_failure is None):
        raise WrongState
    session.execute(
        update(Image)
        .where(*where)
        .values(
            status=ImageStatus.UPLOADED.value,
            passed=None,
            reason=None,
            error=None,
            work_id=None,
            finished_at=None,
        )
        .execution_options(synchronize_session=False)
    )
    batch.round += 1
    batch.status = BatchStatus.QUEUED.value
    batch.finished_at = batch.cancelled_at = batch.paused_at = batch.end_failure = None
    batch.rate, batch.rate_at = 0.0, None
    pace.reset_marks(session, batch)
    session.flush()
    _cut_into_chunks(session, batch, n, ImageStatus.UPLOADED)
    delta = Counter(n_queued=n)
    delta.subtract(counters.tally(before))
    counters.apply(session, batch.id, delta)
    session.refresh(batch)
    return batch

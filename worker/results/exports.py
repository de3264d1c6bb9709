"""Makes the files that people asked for in the background: streams, or the merged PDF of a batch."""

from __future__ import annotations

import time
from collections.abc import Iterator

from store.base.blobs import get_blobs
from store.base.errors import BlobFull
from store.base.session import session_scope
from store.base.tables import Export
from store.queue.work import Lease, StaleLease
from store.results import exports
from store.results.downloads import ExportRequest, Format, Progress, stream

PROGRESS_SECONDS = 1.0


class ExportFailed(Exception):
    """The file cannot be made; the text says why."""


class _Source:
    """The pieces of a file as the blob store reads them."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces

    def read(self, _size: int = -1) -> bytes:
        """Return the next bytes, none at the end."""
        return next((piece for piece in self._pieces if piece), b"")


class _Watched(Progress):
    """Writes how far the file is into its row now and then. Raises `StaleLease` when it was cancelled."""

    def __init__(self, lease: Lease, total: int) -> None:
        super().__init__(total=total, on_step=self._note)
        self._lease = lease
        self._noted = time.monotonic()

    def _note(self) -> None:
        if time.monotonic() - self._noted > PROGRESS_SECONDS:
            self._noted = time.monotonic()
            with session_scope() as session:
                exports.save_progress(session, self._lease, self.done, self.total)


def run(lease: Lease) -> bool:
    """Make one file and keep it under its key; nothing is left of one that was cancelled meanwhile."""
    with session_scope() as session:
        export = session.get_one(Export, lease.subject_id)
    request = ExportRequest.of_document(lease.site_id, export.request, trials=export.trials)
    progress = _Watched(lease, export.n_total)
    if request.format is Format.PDF:
        from worker.results.merged_pdf import MergedPdf

        merged = MergedPdf(request, progress)
        kind, pieces = merged.kind, merged.pieces()
    else:
        kind, pieces = request.format, stream(request, progress)
    key = exports.blob_key(lease)
    try:
        sha256, size = get_blobs().put(key, _Source(pieces))  # type: ignore[arg-type]
        with session_scope() as session:
            exports.finish(
                session,
                lease,
                key=key,
                sha256=sha256,
                size=size,
                done=progress.done,
                missing=len(progress.missing),
                kind=kind,
            )
    except StaleLease:
        get_blobs().delete(key)
        raise
    except BlobFull as error:  # waiting would not make room: the one who asked is told
        raise ExportFailed("no room is left on the server's storage") from error
    return False

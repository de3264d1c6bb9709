"""Walk rows and blobs; name what is missing, altered, orphaned, or contradicts itself."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Row, text

from store.base.blobs import BlobStore, get_blobs
from store.base.errors import BlobAltered, BlobMissing
from store.base.sealed_blobs import stream_opened
from store.base.session import own_connection
from store.operations import audit
from vocabulary.states import STAGES, TERMINAL_BATCH_STATUSES, TERMINAL_IMAGE_STATUSES, ImageStatus, Triage

#: Bytes that no row names are somebody's unfinished write until they are this old, in seconds.
ORPHAN_AGE = 86_400.0
MAX_PER_CHECK = 1000

OnProgress = Callable[[str, int, int | None], None]


class ProblemKind(StrEnum):
    """What is wrong."""

    MISSING = "missing"
    ALTERED = "altered"
    ORPHANED = "orphaned"
    INCONSISTENT = "inconsistent"


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Attributes
    ----------
    code
        Stable: for blobs what they are (``original``, ``report`` ...), for rows the invariant that is broken.
    subject
        A blob key, or the kind and id of a row; never a file name.
    """

    kind: ProblemKind
    code: str
    subject: str
    detail: str = ""


@dataclass(frozen=True)
class FsckReport:
    """What a check saw.

    Attributes
    ----------
    young
        Blobs that no row names, too young to be orphans.
    deleted
        Orphans that were deleted.
    audit_head
        How many lines the audit has, and the last hash of its chain.
    """

    problems: tuple[Problem, ...]
    references: int
    blobs: int
    hashed_bytes: int
    young: int
    deleted: int
    audit_head: str

    @property
    def clean(self) -> bool:
        """Tell whether nothing is wrong."""
        return not self.problems


_ENDED = {
    "ended_batch": sorted(status.value for status in TERMINAL_BATCH_STATUSES),
    "ended_image": sorted(status.value for status in TERMINAL_IMAGE_STATUSES),
    "most": MAX_PER_CHECK,
}

#: Each gives (kind of row, id, detail) of the rows that break it.
_INVARIANTS = {
    "image_not_ended": """
        SELECT 'image', i.id, i.status || ' in a batch that is ' || b.status
        FROM images i JOIN batches b ON b.id = i.batch_id
        WHERE b.status = ANY(:ended_batch) AND i.status <> ALL(:ended_image)""",
    "image_lost": """
        SELECT 'image', i.id, i.status || ', and no unit of work will take it up'
        FROM images i LEFT JOIN work w ON w.id = i.work_id
        WHERE i.status IN ('queued', 'running') AND (w.id IS NULL OR w.state IN ('done', 'cancelled'))""",
    "image_without_finding": """
        SELECT 'image', i.id, CASE WHEN f.id IS NULL THEN 'done without a finding'
                                   WHEN i.triage IS NULL THEN 'done without a triage'
                                   ELSE 'its finding is of other bytes or another bundle' END
        FROM images i JOIN batches b ON b.id = i.batch_id LEFT JOIN findings f ON f.id = i.finding_id
        WHERE i.status = 'done' AND (f.id IS NULL OR i.triage IS NULL OR f.sha256 <> i.sha256
                                     OR f.bundle <> b.bundle OR f.site_id <> i.site_id)""",
    "image_without_report": """
        SELECT 'image', i.id, 'done, a report was asked for, and its study has none'
        FROM images i JOIN batches b ON b.id = i.batch_id
        WHERE i.status = 'done' AND b.with_report AND b.status = ANY(:ended_batch) AND NOT EXISTS (
            SELECT 1 FROM study_findings s
            WHERE s.study_id = i.study_id AND s.bundle = b.bundle AND s.report_key IS NOT NULL)""",
    "image_without_overlay": """
        SELECT 'image', i.id, 'assessed, an attention map was asked for, and there is none'
        FROM images i JOIN batches b ON b.id = i.batch_id
        WHERE i.status = 'done' AND b.with_heatmap AND i.probability IS NOT NULL AND i.overlay_key IS NULL""",
    "upload_kept": """
        SELECT 'image', i.id, 'done, and the upload is still here beside its pseudonymised copy'
        FROM images i WHERE i.status = 'done' AND i.incoming_key IS NOT NULL""",
    "lease_expired": """
        SELECT 'work', w.id, 'its lease ran out at ' || w.lease_until
        FROM work w WHERE w.lease_until < clock_timestamp()""",
    "work_after_end": """
        SELECT 'work', w.id, w.kind || ' is ' || w.state || ' though its batch is ' || b.status
        FROM work w JOIN batches b ON b.id = w.batch_id
        WHERE b.status = ANY(:ended_batch) AND w.state NOT IN ('done', 'cancelled', 'failed')""",
    "batch_stuck": """
        SELECT 'batch', b.id, 'every image has ended, and nothing will finish the batch'
        FROM batches b
        WHERE b.status IN ('queued', 'running', 'paused')
          AND b.n_total = b.n_done + b.n_rejected + b.n_failed + b.n_cancelled
          AND NOT EXISTS (SELECT 1 FROM work w WHERE w.batch_id = b.id AND w.kind = 'finish'
                          AND w.round = b.round AND w.state NOT IN ('done', 'cancelled', 'failed'))""",
}

#: How each counter of a batch is counted from its images; the batch is `b`, an image is `i`.
COUNTERS = {
    "n_total": "count(i.id)",
    "n_bytes": "coalesce(sum(i.size), 0)",
    **{
        f"n_{status}": f"count(*) FILTER (WHERE i.status = '{status}')"
        for status in ImageStatus
        if status != ImageStatus.UPLOADED
    },
    **{
        f"t_{triage}": f"count(*) FILTER (WHERE i.status = 'done' AND i.triage = '{triage}')"
        for triage in Triage
    },
    **{
        f"s_{stage}": f"count(*) FILTER (WHERE i.passed = ANY('{{{','.join(STAGES[n:])}}}'))"
        for n, stage in enumerate(STAGES)
    },
}
_COUNTED = f"""
    SELECT b.id, {", ".join(f"b.{name}, {expression}" for name, expression in COUNTERS.items())}
    FROM batches b LEFT JOIN images i ON i.batch_id = b.id GROUP BY b.id
    HAVING {" OR ".join(f"b.{name} <> {expression}" for name, expression in COUNTERS.items())}"""  # noqa: S608
_REASONS = """
    SELECT batch_id, reason, coalesce(r.n, 0), coalesce(i.n, 0)
    FROM batch_reasons r FULL JOIN (SELECT batch_id, reason, count(*) AS n FROM images
                                    WHERE reason IS NOT NULL GROUP BY batch_id, reason) i
    USING (batch_id, reason) WHERE coalesce(r.n, 0) <> coalesce(i.n, 0)"""

_REFERENCES = """
    CREATE TEMP TABLE fsck_references AS
    SELECT key COLLATE "C" AS key, min(code) AS code,
           array_agg(DISTINCT sha256) FILTER (WHERE sha256 IS NOT NULL) AS hashes
    FROM (
        SELECT incoming_key AS key, 'upload' AS code, sha256 FROM images
        UNION ALL SELECT original_key, 'original', original_sha256 FROM images
        UNION ALL SELECT display_key, 'display', display_sha256 FROM images
        UNION ALL SELECT overlay_key, 'overlay', overlay_sha256 FROM images
        UNION ALL SELECT heat_key, 'heat', heat_sha256 FROM images
        UNION ALL SELECT pixels_key, 'pixels', pixels_sha256 FROM images
        UNION ALL SELECT envelope_key, 'envelope', NULL FROM images
        UNION ALL SELECT report_key, 'report', report_sha256 FROM study_findings
        UNION ALL SELECT key, 'export', sha256 FROM exports
        UNION ALL SELECT piece, 'upload_piece', NULL FROM uploads, jsonb_array_elements_text(pieces) AS piece
        UNION ALL SELECT key, 'run', sha256 FROM run_files
        UNION ALL SELECT key, 'run_picture', sha256 FROM run_pictures
        UNION ALL SELECT scratch, 'scratch', NULL FROM work WHERE state NOT IN ('done', 'cancelled', 'failed')
        UNION ALL SELECT 'bundles/' || name || '/' || file.key, 'bundle', file.value
                  FROM bundles, jsonb_each_text(files) AS file
    ) AS named
    WHERE key IS NOT NULL GROUP BY key"""

_UNNAMED = """
    SELECT key FROM fsck_keys k
    WHERE key > :last AND NOT EXISTS (SELECT 1 FROM fsck_references r WHERE r.key = k.key)
    ORDER BY key LIMIT 1000"""
_NAMED = """
    SELECT key, code, hashes, EXISTS (SELECT 1 FROM fsck_keys k WHERE k.key = r.key) AS listed
    FROM fsck_references r WHERE key > :last ORDER BY key LIMIT 1000"""


def check(
    *,
    quick: bool = False,
    repair_orphans: bool = False,
    on_progress: OnProgress = lambda phase, done, total: None,
    orphan_age: float = ORPHAN_AGE,
) -> FsckReport:
    """Check every row and every blob; memory stays flat whatever their number. The server may be running.

    Parameters
    ----------
    quick
        Look whether blobs are there, but do not read them.
    repair_orphans
        Delete blobs that no row names and that are older than `orphan_age` seconds.
    on_progress
        Called with the phase (``rows``, ``list``, ``hash`` or ``look``), how much is done, of how many.

    Raises
    ------
    sqlalchemy.exc.OperationalError, BlobUnavailable
        The database or the blob store does not answer.
    """
    blobs = get_blobs()
    with own_connection() as connection:
        connection.execute(text("SET statement_timeout = 0"))
        problems = list(_check_rows(connection, on_progress))
        head = audit.chain_head(connection)
        listed = _list_blobs(connection, blobs, on_progress)
        # After the listing: bytes are written before the row that names them, so none can be too new.
        connection.execute(text(_REFERENCES))
        connection.execute(text("CREATE UNIQUE INDEX ON fsck_references (key)"))
        references = int(connection.scalar(text("SELECT count(*) FROM fsck_references")) or 0)
        problems += _check_scratch(connection)
        young, deleted = 0, 0
        for unnamed in _paged(connection, _UNNAMED):
            try:
                age = blobs.age(unnamed.key)
            except BlobMissing:  # deleted since the listing
                continue
            if age < orphan_age:
                young += 1
            elif repair_orphans:
                blobs.delete(unnamed.key)
                deleted += 1
            else:
                detail = f"{age / 86_400:.1f} days old"
                problems.append(Problem(ProblemKind.ORPHANED, "orphan", unnamed.key, detail))
        hashed = 0
        phase = "look" if quick else "hash"
        for done, named in enumerate(_paged(connection, _NAMED)):
            on_progress(phase, done, references)
            size, problem = _check_blob(connection, blobs, named, quick=quick)
            hashed += size
            if problem:
                problems.append(problem)
        on_progress(phase, references, references)
    return FsckReport(tuple(problems), references, listed, hashed, young, deleted, head)


def check_audit(since: str) -> FsckReport:
    """Check only the lines of the audit that came after `since`, a head that an earlier check has said.

    Raises
    ------
    ValueError
        That is no head.
    """
    with own_connection() as connection:
        connection.execute(text("SET statement_timeout = 0"))
        head = audit.chain_head(connection)
        problems = tuple(_check_chain(connection, since))
    return FsckReport(problems, 0, 0, 0, 0, 0, head)


def _check_chain(connection: Connection, since: str = "0") -> Iterator[Problem]:
    for id_, detail in audit.broken_links(connection, most=MAX_PER_CHECK, since=since):
        yield Problem(ProblemKind.ALTERED, "audit", f"audit {id_}", detail)


def _check_rows(connection: Connection, on_progress: OnProgress) -> Iterator[Problem]:
    """Check the invariants, all at one moment of the database."""
    total = len(_INVARIANTS) + 3
    connection.execute(text("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"))
    try:
        for done, (code, query) in enumerate(_INVARIANTS.items()):
            on_progress("rows", done, total)
            for row, id_, detail in connection.execute(text(query + " LIMIT :most"), _ENDED):
                yield Problem(ProblemKind.INCONSISTENT, code, f"{row} {id_}", detail)
        on_progress("rows", total - 3, total)
        yield from _check_chain(connection)
        on_progress("rows", total - 2, total)
        for id_, *values in connection.execute(text(_COUNTED)):
            wrong = [
                f"{name} is {said}, counted {counted}"
                for name, said, counted in zip(COUNTERS, values[::2], values[1::2], strict=True)
                if said != counted
            ]
            yield Problem(ProblemKind.INCONSISTENT, "counters", f"batch {id_}", "; ".join(wrong))
        on_progress("rows", total - 1, total)
        for id_, reason, said, counted in connection.execute(text(_REASONS)):
            detail = f"{reason} is {said}, counted {counted}"
            yield Problem(ProblemKind.INCONSISTENT, "reasons", f"batch {id_}", detail)
    finally:
        connection.execute(text("COMMIT"))


def _list_blobs(connection: Connection, blobs: BlobStore, on_progress: OnProgress) -> int:
    """Write the keys of all blobs into a temporary table; return how many there are."""
    connection.execute(text('CREATE TEMP TABLE fsck_keys (key text COLLATE "C" PRIMARY KEY)'))
    keys = blobs.keys()
    listed = 0
    while page := list(itertools.islice(keys, 5000)):
        connection.execute(
            text("INSERT INTO fsck_keys SELECT unnest(CAST(:keys AS text[])) ON CONFLICT DO NOTHING"),
            {"keys": page},
        )
        listed += len(page)
        on_progress("list", listed, None)
    connection.execute(text("ANALYZE fsck_keys"))
    return listed


def _paged(connection: Connection, query: str) -> Iterator[Row[Any]]:
    """Yield the rows of a query over one of the temporary tables, a page at a time."""
    last = ""
    while page := list(connection.execute(text(query), {"last": last})):
        yield from page
        last = page[-1].key


def _check_scratch(connection: Connection) -> Iterator[Problem]:
    query = """
        SELECT k.key, b.status FROM fsck_keys k
        JOIN batches b ON b.id::text = split_part(k.key, '/', 2)
        WHERE k.key LIKE 'scratch/%' AND b.status = ANY(:ended_batch) LIMIT :most"""
    for key, status in connection.execute(text(query), _ENDED):
        yield Problem(ProblemKind.INCONSISTENT, "scratch_left", key, f"its batch is {status}")


def _check_blob(
    connection: Connection, blobs: BlobStore, named: Row[Any], *, quick: bool
) -> tuple[int, Problem | None]:
    """Look whether the bytes are there and, unless `quick`, whether they are what their rows say."""
    size = 0
    try:
        if quick or not named.hashes:
            if not named.listed:
                blobs.size(named.key)  # written since the listing, or missing
            return 0, None
        digest = hashlib.sha256()
        pieces = stream_opened(named.key) if named.code == "upload" else blobs.stream(named.key)
        for piece in pieces:
            digest.update(piece)
            size += len(piece)
    except BlobAltered:
        return size, Problem(ProblemKind.ALTERED, named.code, named.key, "it does not open")
    except BlobMissing:
        if named.code in {"upload", "scratch"} and not _still_named(connection, named.key):
            return size, None  # a worker was done with it meanwhile
        return size, Problem(ProblemKind.MISSING, named.code, named.key)
    if named.hashes != [digest.hexdigest()]:
        detail = f"sha256 is {digest.hexdigest()}, rows say {', '.join(named.hashes)}"
        return size, Problem(ProblemKind.ALTERED, named.code, named.key, detail)
    return size, None


def _still_named(connection: Connection, key: str) -> bool:
    query = """
        SELECT EXISTS (SELECT 1 FROM images WHERE incoming_key = :key) OR EXISTS (
            SELECT 1 FROM work WHERE scratch = :key AND state NOT IN ('done', 'cancelled', 'failed'))"""
    return bool(connection.scalar(text(query), {"key": key}))

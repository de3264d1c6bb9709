"""Reading the audit: who did what, filtered, by pages and as a stream. Its rows are written by `accounts`."""

from __future__ import annotations

import csv
import io
import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date

from sqlalchemy import Connection, Select, select, text
from sqlalchemy.orm import Session

from store.base.cells import cell
from store.base.days import begin_of, end_of
from store.base.paging import Keyset, Page, moment, whole
from store.base.session import get_engine
from store.base.tables import Audit, User
from vocabulary.times import instant

CSV_COLUMNS = ("at", "person", "action", "object_id", "detail", "address", "api_key", "operator")
_PIECE = 500


@dataclass(frozen=True)
class AuditFilter:
    """Which lines; None lets all through. The days are those of `zone` (None: UTC), both included."""

    user_id: uuid.UUID | None = None
    action: str | None = None
    object_id: str | None = None
    first: date | None = None
    last: date | None = None
    zone: str | None = None


@dataclass(frozen=True)
class AuditLine:
    """One line, with the address of the person; None where the service itself acted."""

    audit: Audit
    email: str | None


def _query(site_id: uuid.UUID, asked: AuditFilter) -> Select[Audit, str | None]:
    query = (
        select(Audit, User.email).outerjoin(User, User.id == Audit.user_id).where(Audit.site_id == site_id)
    )
    if asked.user_id is not None:
        query = query.where(Audit.user_id == asked.user_id)
    if asked.action is not None:
        query = query.where(Audit.action == asked.action)
    if asked.object_id is not None:
        query = query.where(Audit.object_id == asked.object_id)
    if asked.first is not None:
        query = query.where(Audit.at >= begin_of(asked.first, asked.zone))
    if asked.last is not None:
        query = query.where(Audit.at < end_of(asked.last, asked.zone))
    return query


_BY_TIME = Keyset((Audit.at, Audit.id), (moment, whole(64)), descending=True)


def list_lines(
    session: Session, site_id: uuid.UUID, asked: AuditFilter, *, cursor: str | None = None, limit: int = 100
) -> Page[AuditLine]:
    """Return lines of the site, the newest first. Raises `InvalidCursor`."""
    query = _BY_TIME.after(_query(site_id, asked), cursor).limit(limit + 1)
    lines = (AuditLine(line, email) for line, email in session.execute(query))
    return _BY_TIME.page(lines, limit, lambda line: line.audit)


_ACTIONS = text(
    """
    WITH RECURSIVE found AS (
        (SELECT action FROM audit WHERE site_id = :site ORDER BY action LIMIT 1)
        UNION ALL
        SELECT (SELECT a.action FROM audit a WHERE a.site_id = :site AND a.action > found.action
                ORDER BY a.action LIMIT 1)
        FROM found WHERE found.action IS NOT NULL
    ) SELECT action FROM found WHERE action IS NOT NULL
    """
)


def list_actions(session: Session, site_id: uuid.UUID) -> list[str]:
    """Return the kinds of action that the site's audit holds; one step in an index for each."""
    return list(session.scalars(_ACTIONS, {"site": site_id}))


#: Links whose hash is not that of their row and the link before, and rows or links that have no other half.
#: Computed here, not by a function that lies in the database.
_BROKEN = text(
    """
    WITH linked AS (
        SELECT c.seq, c.audit_id, c.hash, a.id, lag(c.seq, 1, CAST(:seq AS bigint)) OVER w AS seq_before,
               encode(sha256(convert_to(lag(c.hash, 1, :hash) OVER w || jsonb_build_array(
                   a.id, a.site_id, a.user_id, a.action, a.object_id, a.detail, extract(epoch FROM a.at),
                   a.address, a.key_id, a.operator)::text, 'UTF8')), 'hex') AS expected
        FROM audit_chain c LEFT JOIN audit a ON a.id = c.audit_id
        WHERE c.seq > :seq
        WINDOW w AS (ORDER BY c.seq)
    )
    SELECT audit_id, CASE WHEN id IS NULL THEN 'the line was deleted'
                          WHEN seq <> seq_before + 1 THEN 'lines before it were deleted'
                          ELSE 'the line, or the one before it, was altered' END
    FROM linked WHERE id IS NULL OR seq <> seq_before + 1 OR hash <> expected
    UNION ALL
    SELECT a.id, 'the line is in no chain' FROM audit a
    WHERE a.id > :line AND NOT EXISTS (SELECT 1 FROM audit_chain c WHERE c.audit_id = a.id)
    LIMIT :most
    """
)
_LINK = text("SELECT audit_id FROM audit_chain WHERE seq = :seq AND hash = :hash")
#: Ids are given before transactions commit, in the order of which the chain is made: of so many lines around
#: a link it is not known on which side of it they stand.
_AROUND = 10_000


def broken_links(connection: Connection, *, most: int, since: str = "0") -> list[tuple[int, str]]:
    """Return the lines at which the chain of the audit breaks, and how: id and words.

    Parameters
    ----------
    since
        A head of the chain, as `chain_head` said it and somebody has kept it. Only what came after
        it is read, and that the chain still leads through it; a check of all finds what was altered before.

    Raises
    ------
    ValueError
        That is no head.
    """
    before, _, hash_ = since.strip().partition(" ")
    seq, line = int(before), 0
    if seq:
        link = connection.scalar(_LINK, {"seq": seq, "hash": hash_.strip()})
        if link is None:
            return [(0, "the chain no longer leads through the head that was given")]
        line = max(0, link - _AROUND)
    values = {"most": most, "seq": seq, "hash": hash_.strip(), "line": line}
    return [(id_, said) for id_, said in connection.execute(_BROKEN, values)]


def chain_head(connection: Connection) -> str:
    """Return how many lines the chain has and its last hash: kept elsewhere, they show a chain cut short."""
    row = connection.execute(text("SELECT seq, hash FROM audit_chain ORDER BY seq DESC LIMIT 1")).first()
    return f"{row.seq} {row.hash}" if row else "0"


def stream_csv(site_id: uuid.UUID, asked: AuditFilter) -> Iterator[bytes]:
    """Yield all lines as CSV, the newest first; memory stays flat whatever the number."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(CSV_COLUMNS)
    cursor: str | None = ""
    while cursor is not None:
        with Session(get_engine()) as session:  # a transaction a page: whoever reads may stall
            page = list_lines(session, site_id, asked, cursor=cursor, limit=_PIECE)
        for line in page.items:
            said = line.audit
            detail = json.dumps(said.detail, sort_keys=True) if said.detail else ""
            fields = (
                instant(said.at),
                line.email or "",
                said.action,
                said.object_id or "",
                detail,
                said.address or "",
                str(said.key_id or ""),
                said.operator or "",
            )
            writer.writerow([cell(field) for field in fields])
        yield buffer.getvalue().encode()
        buffer.seek(0)
        buffer.truncate()
        cursor = page.next_cursor

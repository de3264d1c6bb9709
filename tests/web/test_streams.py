"""Whoever takes an answer slowly, or not at all, holds nothing: no transaction, no lock, no other request."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, text

from store.accounts.accounts import Role
from store.base.blobs import get_blobs
from store.base.session import session_scope
from store.base.tables import Export, Image, WorkKind
from store.intake import batches
from store.queue import work
from store.results.results import Selection, iter_rows
from tests.db.conftest import new_files
from tests.web.asking import Asker
from tests.web.test_access import LINES
from tests.web.world import make_world

#: Every address that answers piece by piece: one that is missing here fails the test.
STREAMING = {
    "GET /admin/audit/audit.csv",
    "GET /api/v1/batches/<uuid:batch_id>/results.csv",
    "GET /api/v1/batches/<uuid:batch_id>/results.zip",
    "GET /api/v1/bundles/<name>/disagreements.csv",
    "GET /api/v1/exports/<uuid:export_id>/file",
    "GET /api/v1/images/<uuid:image_id>/<any(original,display,overlay,heat,report):kind>",
    "GET /api/v1/images/<uuid:image_id>/pixels",
    "GET /api/v1/results",
    "GET /api/v1/runs/<uuid:run_id>/files/<file>",
    "GET /api/v1/runs/<uuid:run_id>/images/<int:number>/attention/<bundle>",
    "GET /api/v1/runs/<uuid:run_id>/images/<int:number>/display",
    "GET /api/v1/studies/<uuid:study_id>/report",
    "POST /downloads",
}


def held(connection: Connection) -> list[str]:
    """Return the transactions of others that are open."""
    query = text(
        "SELECT state || ': ' || query FROM pg_stat_activity WHERE xact_start IS NOT NULL"
        " AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
    )
    return list(connection.scalars(query))


def test_no_streaming_route_holds_a_transaction_while_its_reader_stalls(
    app: Any, site_key: str, database: Engine
) -> None:
    world = make_world(app, Role.ADMIN)
    with session_scope() as session:
        export = session.get_one(Export, world.ids["export_id"])
        export.key, export.size, export.sha256 = "exports/made", 4, "0" * 64
        work.cancel_units(session, export.id)
        session.execute(text("UPDATE work SET state = 'done' WHERE kind = :kind"), {"kind": WorkKind.EXPORT})
    get_blobs().put("exports/made", b"made")
    browser = world.browser(app.test_client())
    streaming, last = set(), []
    app.after_request_funcs[None].append(lambda answer: last.append(answer.is_streamed) or answer)
    for line in LINES:
        destroys = line.method != "GET" and line.rule != "/downloads"
        for path in [] if destroys or line.public else line.paths(world.ids):
            more: dict[str, Any] = {"query_string": {"format": "csv"}} if path.endswith("/results") else {}
            if line.method == "POST":
                more = {"data": {"csrf": browser.csrf, "format": "csv"}}
            answer = browser.client.open(path, method=line.method, buffered=False, **more)
            pieces = answer.iter_encoded()
            next(pieces, b"")
            with database.connect() as connection:
                assert not held(connection), (line, path)
            if last[-1] and answer.status_code == 200:
                streaming.add(f"{line.method} {line.rule}")
            answer.close()
    assert sorted(streaming ^ STREAMING) == []


@pytest.mark.parametrize("format", ["csv", "jsonl", "zip"])
def test_a_stalled_table_lets_the_tables_be_altered(
    ask: Asker, database: Engine, format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In its middle, between two pages of rows, as a migration would."""
    monkeypatch.setattr("store.results.results.FETCH", 100)
    batch = uuid.UUID(ask.draft())
    with session_scope() as session:
        site_id = batches.get_batch(session, session.get_one(batches.Batch, batch).site_id, batch).site_id
        batches.add_files(session, batch, site_id, new_files(1000))
    ask.post(f"/batches/{batch}/submit")
    answer = ask.get(f"/results?format={format}&batch={batch}", buffered=False)
    pieces = answer.iter_encoded()
    taken = b"".join(next(pieces, b"") for _ in range(3))
    with database.connect() as connection:
        assert not held(connection)
        connection.execute(text("SET lock_timeout = '2s'"))
        connection.execute(text("ALTER TABLE images ADD COLUMN probe int"))
        connection.rollback()
    rest = b"".join(pieces)
    if format != "zip":
        lines = (taken + rest).decode().splitlines()
        assert len(lines) == 1000 + (format == "csv")


def test_rows_come_once_and_in_order_whatever_arrives_meanwhile(
    ask: Asker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("store.results.results.FETCH", 10)
    sizes = (3, 4, 25, 1, 10, 0, 9)
    expected = []
    for n, size in enumerate(sizes):
        batch = uuid.UUID(ask.draft())
        with session_scope() as session:
            site_id = session.get_one(batches.Batch, batch).site_id
            files = new_files(size, start=100 * n)
            batches.add_files(session, batch, site_id, files)
        expected += [file.path for file in files]
        ask.post(f"/batches/{batch}/submit")
    rows = iter_rows(Selection(site_id))
    first = next(rows)
    late = uuid.UUID(ask.draft())
    with session_scope() as session:
        batches.add_files(session, late, site_id, new_files(5, start=9000))
    ask.post(f"/batches/{late}/submit")
    assert [first.path, *(row.path for row in rows)] == expected
    with session_scope() as session:
        assert session.query(Image).count() == sum(sizes) + 5

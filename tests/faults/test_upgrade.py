"""A server of the first release, stopped in mid-batch, is migrated and goes on."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from sqlalchemy import Engine, inspect, select, text

from store.base.session import session_scope
from store.base.tables import Work, WorkKind
from store.intake import batches
from tests.conftest import ROOT
from tests.running import assert_sound, draft, light_service, wait_until_ended
from vocabulary.states import Stage

#: The tables of version 0.1.0.
FIRST = "0030"
#: What a batch on its way consists of.
TABLES = ("sites", "bundles", "batches", "studies", "images", "findings", "study_findings", "work")


@pytest.mark.faults
def test_an_old_database_with_a_running_batch_is_migrated_and_continued(
    database: Engine, site_id: uuid.UUID, few: dict[str, bytes], calm: dict[str, float], tmp_path: Path
) -> None:
    from worker import flow, stages

    batch = draft(site_id, few)
    with session_scope() as session:
        batches.submit(session, batch.id, site_id)
        chunk = select(Work.id).where(Work.batch_id == batch.id, Work.kind == WorkKind.CHUNK)
        first = session.scalars(chunk.order_by(Work.id)).first()
    assert first
    assert flow.run(first, Stage.PREPARE, stages.run)
    assert flow.run(first, Stage.CLASSIFY, stages.run)
    rows = {}
    with database.begin() as connection:
        for table in TABLES:
            rows[table] = connection.scalar(text(f"SELECT jsonb_agg(t)::text FROM {table} t"))
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    database.dispose()
    alembic("upgrade", FIRST)
    with database.begin() as connection:
        connection.execute(text("SET LOCAL session_replication_role = replica"))
        for table, found in rows.items():
            if found:
                source = f"jsonb_populate_recordset(NULL::{table}, CAST(:rows AS jsonb))"
                fill = f"INSERT INTO {table} OVERRIDING SYSTEM VALUE SELECT * FROM {source}"
                connection.execute(text(fill), {"rows": found})
    alembic("upgrade", "head")
    database.dispose()
    with light_service(tmp_path):
        assert_sound(wait_until_ended(batch), calm)


def alembic(*arguments: str) -> None:
    command = [sys.executable, "-m", "alembic", *arguments]
    subprocess.run(command, cwd=ROOT, env=os.environ, check=True, capture_output=True)


@pytest.mark.faults
def test_a_worker_of_the_first_version_finds_its_tables(database: Engine) -> None:
    """What it reads is there in the same type, and rows that name none of the new columns are taken."""
    with database.begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    database.dispose()
    alembic("upgrade", FIRST)
    before = columns(database)
    alembic("upgrade", "head")
    after = columns(database)
    for table in TABLES:
        assert {name: kind for name, (kind, _) in before[table].items()}.items() <= {
            name: kind for name, (kind, _) in after[table].items()
        }.items(), table
        demanded = {name for name, (_, needed) in after[table].items() if needed}
        assert demanded <= set(before[table]), table


def columns(engine: Engine) -> dict[str, dict[str, tuple[str, bool]]]:
    """Return by table and column: its type, and whether a row must name it."""
    seen = inspect(engine)
    return {
        table: {
            column["name"]: (
                str(column["type"]),
                not column["nullable"] and column["default"] is None and not column.get("identity"),
            )
            for column in seen.get_columns(table)
        }
        for table in TABLES
    }

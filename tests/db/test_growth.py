"""What is asked all the time is answered by indexes and kept sums, however many rows have gathered."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Engine, delete, event, func, select, text, update
from sqlalchemy.orm import Session

from settings import get_settings
from store.base import batch_totals
from store.base.session import get_engine, session_scope
from store.base.tables import Batch, BatchTotal, Image, StudyFinding
from store.intake import batches, quotas, uploads
from store.operations import monitoring, overview, retention
from store.outgoing import deliveries, notices
from store.queue import work
from store.reading import full_depth, images, worklist
from tests.conftest import ROOT
from tests.db.conftest import new_files
from web.operations.health import create_health_app
from worker import reconcile

#: Two thousand ended batches of ten images, each with its study, its finding and its unit of work; every
#: object was delivered. One batch has 400 images.
ROWS = """
    INSERT INTO batches (id, site_id, bundle, status, created_at, submitted_at, finished_at, n_total, n_done,
            n_bytes)
        SELECT md5('b' || n)::uuid, :site, 'b1', 'done', at, at, at, 10, 10, 100
        FROM (SELECT n, now() - n * interval '1 hour' AS at FROM generate_series(1, 2000) AS n) AS b;
    UPDATE batches SET n_total = 400, n_done = 400 WHERE id = md5('b1')::uuid;
    INSERT INTO work (id, site_id, batch_id, kind, state, priority, n_images, finished_at)
        SELECT gen_random_uuid(), :site, md5('b' || 1 + n % 2000)::uuid, 'chunk', 'done', 1, 1, now()
        FROM generate_series(1, 20000) AS n;
    INSERT INTO studies (id, site_id, key, accession)
        SELECT md5('s' || n)::uuid, :site, 'image:' || n, 'ACC' || n FROM generate_series(1, 20000) AS n;
    INSERT INTO images (id, site_id, batch_id, study_id, path, sha256, size, status, stage, accession)
        SELECT md5('i' || n)::uuid, :site,
            CASE WHEN n <= 400 THEN md5('b1')::uuid ELSE md5('b' || 2 + n % 1999)::uuid END,
            md5('s' || n)::uuid, n || '.png', md5(n::text), 10, 'done', 5, 'ACC' || n
        FROM generate_series(1, 20000) AS n;
    INSERT INTO study_findings (id, site_id, study_id, batch_id, bundle, version, basis, triage, n_images)
        SELECT md5('f' || n)::uuid, :site, md5('s' || n)::uuid, md5('b' || 1 + n % 2000)::uuid, 'b1', 1, '',
            'negative', 1
        FROM generate_series(1, 20000) AS n;
    INSERT INTO manifest_lines (batch_id, path, accession)
        SELECT md5('b1')::uuid, n::text, 'ACC' || n FROM generate_series(1, 20000) AS n;
    INSERT INTO destinations (id, site_id, name, protocol, address, kinds)
        VALUES (md5('d')::uuid, :site, 'PACS', 'dimse', 'pacs:104', '[]');
    INSERT INTO deliveries (id, site_id, destination_id, study_id, study_finding_id, image_id, kind, sop_uid,
            state)
        SELECT gen_random_uuid(), :site, md5('d')::uuid, md5('s' || n)::uuid, md5('f' || n)::uuid,
            md5('i' || n)::uuid, 'sr', n::text, 'committed' FROM generate_series(1, 20000) AS n;
    INSERT INTO notice_targets (id, site_id, channel, address, events)
        VALUES (md5('t')::uuid, :site, 'email', 'a@b', '[]');
    INSERT INTO notices (id, site_id, target_id, event, payload, state, created_at)
        SELECT gen_random_uuid(), :site, md5('t')::uuid, 'batch.finished', '{}', 'waiting', now()
        FROM generate_series(1, 20000)
"""
LARGE = {"batches", "work", "images", "studies", "study_findings", "manifest_lines", "deliveries", "notices"}


@pytest.fixture
def grown(database: Engine, site: uuid.UUID) -> uuid.UUID:
    """Return a site that has done much, with nothing left to do."""
    with database.begin() as connection:
        connection.execute(text("SET LOCAL session_replication_role = replica"))  # without 100,000 triggers
        for statement in ROWS.split(";\n"):
            connection.execute(text(statement), {"site": site} if ":site" in statement else {})
    with database.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))
    return site


@contextmanager
def statements() -> Iterator[list[tuple[str, Any]]]:
    """Gather what the product asks the database in the block."""
    asked: list[tuple[str, Any]] = []

    def note(_c: object, _k: object, statement: str, parameters: Any, *_: object) -> None:
        if statement.lstrip().startswith(("SELECT", "WITH", "UPDATE", "DELETE")):
            asked.append((statement, parameters))

    event.listen(get_engine(), "before_cursor_execute", note)
    try:
        yield asked
    finally:
        event.remove(get_engine(), "before_cursor_execute", note)


def in_session(call: Callable[[Session], object]) -> Callable[[uuid.UUID], None]:
    def run(_site: uuid.UUID) -> None:
        with session_scope() as session:
            call(session)

    return run


def of_site(call: Callable[[Session, uuid.UUID], object]) -> Callable[[uuid.UUID], None]:
    def run(site: uuid.UUID) -> None:
        with session_scope() as session:
            call(session, site)

    return run


def metrics(_site: uuid.UUID) -> None:
    answer = create_health_app(get_settings()).test_client().get("/metrics")
    assert b"fractureai_images" in answer.data


QUESTIONS: dict[str, Callable[[uuid.UUID], object]] = {
    "times in the future": in_session(work.clamp_future_timestamps),
    "leases": in_session(work.expire_leases),
    "queue_depth": in_session(monitoring.queue_depths),
    "waiting too long": in_session(worklist.escalate_overdue),
    "pictures at full depth": lambda _: full_depth.delete_expired(),
    "what waits of a site": of_site(monitoring.queue_depths_of_site),
    "health page": of_site(overview.overview),
    "metrics": metrics,
    "drafts": of_site(uploads.list_drafts),
    "old drafts": lambda _: reconcile.TIDYING[monitoring.Step.DRAFTS](),
    "uploads that nobody needs": lambda _: uploads.delete_old(),
    "scratch": lambda _: reconcile.TIDYING[monitoring.Step.SCRATCH](),
    "old notices": in_session(notices.delete_old),
    "abandoned notices": lambda _: notices.fail_abandoned(),
    "abandoned deliveries": lambda _: deliveries.fail_abandoned(),
    "counts of deliveries": of_site(deliveries.count),
    "quota": of_site(quotas.quota),
    "a study to be erased": of_site(lambda session, site: retention.find(session, site, "ACC7")),
    "what is there of it besides": of_site(lambda s, site: retention.count_strays(s, site, "ACC7")),
}


def _whole(asked: list[tuple[str, Any]]) -> dict[str, str]:
    """Return the large tables that these statements read whole, each with a plan that does."""
    found = {}
    with get_engine().connect() as connection:
        for statement, parameters in asked:
            plan = connection.exec_driver_sql(f"EXPLAIN {statement}", parameters).scalars().all()
            for line in plan:
                if "Seq Scan on " in line and (table := line.split("Seq Scan on ")[1].split()[0]) in LARGE:
                    found[table] = "\n".join([statement, *plan])
    return found


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_question_reads_no_large_table_whole(
    grown: uuid.UUID, broker: object, blobs: object, name: str
) -> None:
    with statements() as asked:
        QUESTIONS[name](grown)
    assert asked
    assert not _whole(asked)


def test_erasing_a_study_reads_no_large_table_whole(grown: uuid.UUID, blobs: object) -> None:
    with session_scope() as session:
        study = session.scalars(select(Image.study_id).where(Image.path == "7.png")).one()
    assert study is not None
    with statements() as asked:
        assert retention.erase_studies(grown, [study], by=None) == 1
    assert not _whole(asked)


def test_a_page_of_a_large_batch_looks_up_no_more_than_it_shows(grown: uuid.UUID) -> None:
    """Where most batches are small, the planner believes that this one is."""
    with session_scope() as session:
        batch_id = session.scalars(select(Batch.id).where(Batch.n_total == 400)).one()
        with statements() as asked:
            page = images.list_images(session, grown, batch_id, limit=10)
    assert [row.image.path for row in page.items] == [f"{n}.png" for n in range(1, 11)]
    assert page.next_cursor is not None
    looked_up = 0
    with get_engine().connect() as connection:
        for statement, parameters in asked:
            plan = connection.exec_driver_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", parameters)
            looked_up += _rows_of(plan.scalar_one()[0]["Plan"], "studies")
    assert 0 < looked_up <= 11


def _rows_of(node: dict[str, Any], table: str) -> int:
    mine = node["Actual Rows"] * node["Actual Loops"] if node.get("Relation Name") == table else 0
    return int(mine) + sum(_rows_of(below, table) for below in node.get("Plans", ()))


# sums


def _counted(session: Session) -> tuple[dict[str, int], int]:
    """Return the images of all batches by state and the clinical bytes, read from every batch."""
    names = ("queued", "running", "done", "rejected", "failed", "cancelled")
    sums = session.execute(select(*(func.coalesce(func.sum(getattr(Batch, f"n_{n}")), 0) for n in names)))
    kept = (Batch.status != "cancelled") | Batch.submitted_at.is_not(None)
    n_bytes = select(func.coalesce(func.sum(Batch.n_bytes), 0)).where(Batch.run_id.is_(None), kept)
    return dict(zip(names, map(int, sums.one()), strict=True)), int(session.scalar(n_bytes) or 0)


def _agree(site: uuid.UUID) -> None:
    with session_scope() as session:
        counted, n_bytes = _counted(session)
        assert batch_totals.count_images(session) == counted
        assert batch_totals.count_bytes(session, site) == n_bytes == quotas.quota(session, site).used


def test_sums_follow_whatever_becomes_of_batches(site: uuid.UUID) -> None:
    made = []
    for n in range(4):
        with session_scope() as session:
            batch, _ = batches.create_batch(session, site_id=site, user_id=None)
            batches.add_files(session, batch.id, site, new_files(3, start=10 * n))
            made.append(batch.id)
        _agree(site)
    with session_scope() as session:
        batches.cancel(session, made[0], site)  # a draft: its bytes count no longer
        for id_ in made[1:]:
            batches.submit(session, id_, site)
    _agree(site)
    ended = {"status": "partial", "n_queued": 0, "n_done": 2, "n_failed": 1}
    changes: list[dict[str, Any]] = [
        ended,
        {"n_done": 1, "n_bytes": 20},  # some of it was erased
        {"status": "queued", "n_failed": 0, "n_queued": 1},  # and is read again
        {"status": "done", "n_queued": 0, "n_done": 2},
        {"run_id": uuid.uuid4()},
    ]
    for values in changes:
        with session_scope() as session:
            session.execute(update(Batch).where(Batch.id == made[1]).values(values))
        _agree(site)
    with session_scope() as session:
        session.execute(update(Batch).where(Batch.id == made[2]).values(ended))
        batch_totals.compact(session)
    _agree(site)
    with session_scope() as session:
        assert session.scalar(select(func.count()).select_from(BatchTotal)) == 1
        session.execute(delete(Image).where(Image.batch_id == made[2]))
        session.execute(delete(Batch).where(Batch.id == made[2]))
    _agree(site)


def test_a_migration_adds_up_the_batches_that_were_there(database: Engine, grown: uuid.UUID) -> None:
    config = Config(str(ROOT / "alembic.ini"))
    command.downgrade(config, "0046")
    command.upgrade(config, "head")
    _agree(grown)
    with session_scope() as session:
        assert batch_totals.count_images(session)["done"] == 1999 * 10 + 400


def test_large_tables_are_analysed_before_they_have_grown_by_a_fifth(database: Engine) -> None:
    with database.connect() as connection:
        told = connection.execute(text("SELECT relname, reloptions::text FROM pg_class WHERE relkind = 'r'"))
        settings = {name: options or "" for name, options in told}
    for table in LARGE - {"manifest_lines", "notices"} | {"worklist", "audit"}:
        assert "autovacuum_analyze_scale_factor=0.01" in settings[table], table


# retention


def test_batches_without_originals_are_looked_at_once(grown: uuid.UUID, blobs: object) -> None:
    assert retention.expire_originals(grown, 0) == 0
    with statements() as asked:
        assert retention.expire_originals(grown, 0) == 0
    assert len(asked) == 1
    assert not _whole(asked)
    with session_scope() as session:  # a failed image is read again, and its original is kept
        batch_id = session.scalars(select(Batch.id).where(Batch.n_total == 400)).one()
        session.execute(update(Batch).where(Batch.id == batch_id).values(round=2))
        image = session.scalars(select(Image).where(Image.batch_id == batch_id).limit(1)).one()
        image.original_key = f"images/{grown}/{image.id}/original"
    assert retention.expire_originals(grown, 0) == 1


def test_batches_whose_results_stay_are_looked_at_once_a_day(grown: uuid.UUID, blobs: object) -> None:
    with session_scope() as session:
        session.execute(update(StudyFinding).values(signed_at=func.now()))
    assert retention.expire_results(grown, 0) == 0
    with statements() as asked:
        assert retention.expire_results(grown, 0) == 0
    assert len(asked) == 2
    assert not _whole(asked)
    with session_scope() as session:
        held = session.scalars(select(StudyFinding).limit(1)).one()
        held.signed_at = None
    assert retention.expire_results(grown, 0) == 0  # not yet
    with session_scope() as session:
        session.execute(update(Batch).values(kept_until=func.now() - timedelta(seconds=1)))
    assert retention.expire_results(grown, 0) == 1

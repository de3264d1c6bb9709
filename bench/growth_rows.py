"""The rows of a service that has read a million images a month, made by SQL for `bench.growth`.

Twenty sites read 50,000 images a month each, four to a study: ten batches of 2,000, two hundred of 100, and
as many studies that came from a gateway, a batch each. Ids are hashes of numbers, so that no row is
looked up.
"""

# ruff: noqa: S608 - every name and number in a statement is of this file

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import psycopg
from rich.console import Console

SITES = 20
#: Of one site in one month: images, batches, and chunks of images.
IMAGES, BATCHES, CHUNKS = 50_000, 2_710, 3_800
EACH = 4
MONTH = SITES * IMAGES


@dataclass(frozen=True)
class _Table:
    """How one table is filled: `rows` counts them in a month of all sites, `insert` has them as ``g(n)``."""

    name: str
    rows: int
    insert: str


# of an image: the number in its site's month, of its batch there, and when that came
_OF_IMAGE = """
    CROSS JOIN LATERAL (SELECT n % 50000 AS k, n / 50000 AS part) AS a
    CROSS JOIN LATERAL (SELECT
        CASE WHEN k < 20000 THEN k / 2000 WHEN k < 40000 THEN 10 + (k - 20000) / 100
             ELSE 210 + (k - 40000) / 4 END AS j,
        CASE WHEN k < 20000 THEN k / 40 WHEN k < 40000 THEN 500 + (k - 20000) / 25
             ELSE 1300 + (k - 40000) / 4 END AS w,
        CASE WHEN k < 20000 THEN k / 2000 * 2000 WHEN k < 40000 THEN k / 100 * 100 ELSE k / 4 * 4 END AS first
    ) AS b
    CROSS JOIN LATERAL (SELECT
        md5('batch' || (part * 2710 + j))::uuid AS batch, md5('site' || (part % 20))::uuid AS site,
        %(start)s + make_interval(secs => (part / 20 + first / 50000.0) * 2592000) AS came,
        (ARRAY['positive', 'doubt', 'negative', 'negative', 'negative'])[1 + n / 4 % 5] AS triage,
        (ARRAY['hand', 'leg', 'hip', 'shoulder'])[1 + n / 4 % 4] AS region,
        (n / 4 % 1000 * 7919 % 1000) / 1000.0 AS p, n % 211 = 0 AS failed
    ) AS c
"""
_OF_STUDY = (
    """
    CROSS JOIN LATERAL (SELECT 4 * s AS n) AS of_first
"""
    + _OF_IMAGE
)
_OF_BATCH = """
    CROSS JOIN LATERAL (SELECT g.b / 2710 AS part, g.b % 2710 AS j) AS a
    CROSS JOIN LATERAL (SELECT
        CASE WHEN j < 10 THEN j * 2000 WHEN j < 210 THEN 20000 + (j - 10) * 100
             ELSE 40000 + (j - 210) * 4 END AS first,
        CASE WHEN j < 10 THEN 2000 WHEN j < 210 THEN 100 ELSE 4 END AS size
    ) AS b
    CROSS JOIN LATERAL (SELECT
        md5('batch' || g.b)::uuid AS batch, md5('site' || (part % 20))::uuid AS site,
        %(start)s + make_interval(secs => (part / 20 + first / 50000.0) * 2592000) AS came,
        -- images that failed: every 211th
        (part * 50000 + first + size - 1) / 211 - (part * 50000 + first - 1 + 211) / 211 + 1 AS n_failed
    ) AS c
"""
_DONE = "came + interval '10 minutes'"

TABLES: Sequence[_Table] = (
    _Table(
        "images",
        MONTH,
        f"""
        INSERT INTO images (id, seq, site_id, batch_id, study_id, work_id, finding_id, number, path, sha256,
            size, status, stage, passed, reason, region, region_probability, probability, triage, accession,
            study_uid, sop_uid, original_key, created_at, finished_at)
        SELECT md5('image' || n)::uuid, n + 1, site, batch, md5('study' || n / 4)::uuid,
            md5('work' || (part * 3800 + w))::uuid, CASE WHEN NOT failed THEN md5('finding' || n)::uuid END,
            1 + n % 4, 'ward/' || n || '.dcm', encode(sha256(n::text::bytea), 'hex'), 300000,
            CASE WHEN failed THEN 'failed' ELSE 'done' END, 5, 'report',
            CASE WHEN failed THEN 'worker_lost' END, CASE WHEN NOT failed THEN region END, 0.9,
            CASE WHEN NOT failed THEN p END, CASE WHEN NOT failed THEN triage END, 'ACC' || n / 4,
            CASE WHEN j < 210 THEN '' ELSE '1.2.826.0.1.3680043.' || n / 4 END,
            CASE WHEN j < 210 THEN '' ELSE '1.2.826.0.1.3680043.' || n / 4 || '.' || n END,
            -- originals are kept for the last month
            CASE WHEN n >= %(rows)s - 1000000 THEN 'images/' || n || '/original' END, came, {_DONE}
        FROM generate_series(0, %(rows)s - 1) AS g(n) {_OF_IMAGE}
        """,
    ),
    _Table(
        "batches",
        SITES * BATCHES,
        f"""
        INSERT INTO batches (id, site_id, label, bundle, status, created_at, submitted_at, started_at,
            finished_at, n_total, n_done, n_failed, n_bytes, s_prepare, s_classify, s_detect, s_explain,
            s_report)
        SELECT batch, site, CASE WHEN j < 210 THEN 'ward ' || g.b ELSE '' END, %(bundle)s,
            CASE WHEN n_failed > 0 THEN 'partial' ELSE 'done' END, came, came, came, {_DONE},
            size, size - n_failed, n_failed, size * 300000::bigint, size, size, size, size, size
        FROM generate_series(0, %(rows)s - 1) AS g(b) {_OF_BATCH}
        """,
    ),
    _Table(
        "batch_totals",
        SITES,
        """
        INSERT INTO batch_totals (site_id, n_done, n_rejected, n_failed, n_cancelled, n_bytes)
        SELECT site_id, sum(n_done), 0, sum(n_failed), 0, sum(n_bytes) FROM batches GROUP BY site_id
        """,
    ),
    _Table(
        "batch_reasons",
        SITES * BATCHES,
        f"""
        INSERT INTO batch_reasons (batch_id, reason, n) SELECT batch, 'worker_lost', n_failed
        FROM generate_series(0, %(rows)s - 1) AS g(b) {_OF_BATCH} WHERE n_failed > 0
        """,
    ),
    _Table(
        "received_studies",
        SITES * BATCHES,
        f"""
        INSERT INTO received_studies (id, site_id, study_uid, batch_id, source, n_objects, first_at, due_at,
            completed_at)
        SELECT gen_random_uuid(), site, '1.2.826.0.1.3680043.' || g.b, batch, 'CR1', 4, came, came, came
        FROM generate_series(0, %(rows)s - 1) AS g(b) {_OF_BATCH} WHERE j >= 210
        """,
    ),
    _Table(
        "work",
        SITES * CHUNKS,
        f"""
        INSERT INTO work (id, site_id, batch_id, kind, stage, state, priority, n_images, taken, due_at,
            published_at, created_at, finished_at)
        SELECT md5('work' || g.w)::uuid, site, md5('batch' || (part * 2710 + j))::uuid, 'chunk', 'report',
            'done', 1, size, 5, came, came, came, {_DONE}
        FROM generate_series(0, %(rows)s - 1) AS g(w)
        CROSS JOIN LATERAL (SELECT g.w / 3800 AS part, g.w % 3800 AS i) AS a
        CROSS JOIN LATERAL (SELECT
            CASE WHEN i < 500 THEN i / 50 WHEN i < 1300 THEN 10 + (i - 500) / 4 ELSE 210 + i - 1300 END AS j,
            CASE WHEN i < 500 THEN 40 WHEN i < 1300 THEN 25 ELSE 4 END AS size) AS b
        CROSS JOIN LATERAL (SELECT
            md5('site' || (part % 20))::uuid AS site,
            %(start)s + make_interval(secs => (part / 20 + CASE WHEN j < 10 THEN j * 2000
                WHEN j < 210 THEN 20000 + (j - 10) * 100 ELSE 40000 + (j - 210) * 4 END / 50000.0) * 2592000)
                AS came) AS c;
        INSERT INTO work (id, site_id, batch_id, kind, state, priority, taken, due_at, published_at,
            created_at, finished_at)
        SELECT md5('end' || g.b)::uuid, site, batch, 'finish', 'done', 1, 1, came, came, came, {_DONE}
        FROM generate_series(0, %(rows)s / 3800 * 2710 - 1) AS g(b) {_OF_BATCH}
        """,
    ),
    _Table(
        "studies",
        MONTH // EACH,
        f"""
        INSERT INTO studies (id, site_id, key, study_uid, accession, created_at)
        SELECT md5('study' || s)::uuid, site,
            CASE WHEN j < 210 THEN 'path:' || batch || ':' || s ELSE 'uid:1.2.826.0.1.3680043.' || s END,
            CASE WHEN j < 210 THEN '' ELSE '1.2.826.0.1.3680043.' || s END, 'ACC' || s, came
        FROM generate_series(0, %(rows)s - 1) AS g(s) {_OF_STUDY}
        """,
    ),
    _Table(
        "findings",
        MONTH,
        f"""
        INSERT INTO findings (id, site_id, sha256, bundle, precision, region, region_probability,
            region_probabilities, logit, probability, triage, created_at)
        SELECT md5('finding' || n)::uuid, site, encode(sha256(n::text::bytea), 'hex'), %(bundle)s, 'float32',
            region, 0.9, '{{}}', p, p, triage, {_DONE}
        FROM generate_series(0, %(rows)s - 1) AS g(n) {_OF_IMAGE} WHERE NOT failed
        """,
    ),
    _Table(
        "study_findings",
        MONTH // EACH,
        f"""
        INSERT INTO study_findings (id, site_id, study_id, batch_id, bundle, version, basis, triage, n_images,
            created_at)
        SELECT md5('said' || s)::uuid, site, md5('study' || s)::uuid, batch, %(bundle)s, 1,
            encode(sha256(s::text::bytea), 'hex'), triage, 4, {_DONE}
        FROM generate_series(0, %(rows)s - 1) AS g(s) {_OF_STUDY}
        """,
    ),
    _Table(
        "worklist",
        MONTH // EACH,
        f"""
        INSERT INTO worklist (study_id, site_id, batch_id, image_id, bundle, basis, rank, since, arrived_at,
            day, priority, status, triage, probability, region, n_images, path, accession, reviewed_at,
        answer) SELECT md5('study' || s)::uuid, site, batch, md5('image' || n)::uuid, %(bundle)s,
            encode(sha256(s::text::bytea), 'hex'),
            CASE WHEN read THEN 9 WHEN old THEN 0 ELSE array_position(
                ARRAY['positive', 'doubt', 'not_assessable', 'negative'], triage) END,
            came, came, (came AT TIME ZONE 'UTC')::date, 1, CASE WHEN failed THEN 'failed' ELSE 'done' END,
            triage, p, region, 4, 'ward/' || n || '.dcm', 'ACC' || s,
            CASE WHEN read THEN came + interval '1 hour' END, CASE WHEN read THEN 'agrees' END
        FROM generate_series(0, %(rows)s - 1) AS g(s) {_OF_STUDY}
        -- of the last month every second study waits for a reader, of those before one of a thousand
        CROSS JOIN LATERAL (SELECT s < %(rows)s - 250000 AS old) AS d
        CROSS JOIN LATERAL (SELECT CASE WHEN old THEN s % 1000 > 0 ELSE s % 2 > 0 END AS read) AS e
        """,
    ),
    _Table(
        "worklist_words",
        MONTH // EACH,
        f"""
        INSERT INTO worklist_words (study_id, words)
        SELECT md5('study' || s)::uuid, array_to_tsvector(ARRAY(SELECT left(site::text, 8) || word
            FROM unnest(ARRAY['acc' || s, 'ward', 'dcm', n::text, n || '.dcm']) AS word))
        FROM generate_series(0, %(rows)s - 1) AS g(s) {_OF_STUDY}
        """,
    ),
    _Table(
        "reviews",
        MONTH // EACH,
        f"""
        INSERT INTO reviews (id, site_id, study_id, batch_id, user_id, reader, bundle, basis, version, triage,
            answer, created_at)
        SELECT md5('review' || s)::uuid, site, md5('study' || s)::uuid, batch,
            md5('person' || (part % 20))::uuid, 'a@b', %(bundle)s, '', 1, triage, 'agrees',
            came + interval '1 hour'
        FROM generate_series(0, %(rows)s - 1) AS g(s) {_OF_STUDY} WHERE s % 2 > 0
        """,
    ),
    _Table(
        "audit",
        MONTH // EACH,
        f"""
        INSERT INTO audit (id, site_id, user_id, action, object_id, at)
        SELECT s + 1, site, md5('person' || (part % 20))::uuid,
            (ARRAY['study_seen', 'report_seen', 'original_seen'])[1 + s % 3], md5('study' || s)::uuid::text,
            came + interval '1 hour'
        FROM generate_series(0, %(rows)s - 1) AS g(s) {_OF_STUDY}
        """,
    ),
    _Table(
        "audit_chain",
        MONTH // EACH,
        """
        CREATE FUNCTION pg_temp.next_hash(before text, said text) RETURNS text LANGUAGE sql IMMUTABLE
            AS $$ SELECT encode(sha256(convert_to(before || said, 'UTF8')), 'hex') $$;
        CREATE AGGREGATE pg_temp.chained(text) (sfunc = pg_temp.next_hash, stype = text, initcond = '');
        INSERT INTO audit_chain (seq, audit_id, hash)
        SELECT a.id, a.id, pg_temp.chained(jsonb_build_array(a.id, a.site_id, a.user_id, a.action,
            a.object_id, a.detail, extract(epoch FROM a.at), a.address, a.key_id, a.operator)::text) OVER
        (ORDER BY a.id) FROM audit a WHERE %(rows)s > 0
        """,
    ),
)  # fmt: skip
_PEOPLE = """
    INSERT INTO sites (id, name, default_bundle)
        SELECT md5('site' || n)::uuid, 'Site ' || n, %(bundle)s FROM generate_series(0, 19) AS n;
    INSERT INTO users (id, site_id, email, role)
        SELECT md5('person' || n)::uuid, md5('site' || n)::uuid, 'a' || n || '@b', 'admin'
        FROM generate_series(0, 19) AS n
"""
_KEYS = """
    SELECT conrelid::regclass::text AS "table", conname, pg_get_constraintdef(oid) AS said
    FROM pg_constraint WHERE contype = %s AND connamespace = 'public'::regnamespace
"""
_INDEXES = """
    SELECT i.indexrelid::regclass::text AS name, pg_get_indexdef(i.indexrelid) AS said
    FROM pg_index i WHERE i.indrelid = %s::regclass
        AND NOT EXISTS (SELECT FROM pg_constraint c WHERE c.conindid = i.indexrelid)
"""


def fill(address: str, images: int, bundle: str, console: Console) -> None:
    """Make the rows of so many images in an empty database, whose last month ends now.

    A table's indexes are made after its rows, and its foreign keys at the end, without a look at the rows.

    Parameters
    ----------
    address
        Of the owner, a superuser.
    images
        A multiple of `MONTH`.
    """
    months = images // MONTH
    with psycopg.connect(address, autocommit=True) as connection:

        def run(statement: str) -> None:
            connection.execute(statement.encode())

        for setting in (
            "statement_timeout = 0",
            "idle_in_transaction_session_timeout = 0",
            "synchronous_commit = off",
            "session_replication_role = replica",
            "maintenance_work_mem = '1GB'",
            "max_parallel_maintenance_workers = 0",
            "work_mem = '256MB'",
        ):
            run(f"SET {setting}")
        began_at = connection.execute("SELECT now() - %s * interval '30 days'", (months,)).fetchone()
        start = f"'{(began_at or [None])[0]}'::timestamptz"
        run(_filled(_PEOPLE, start, bundle, 0))
        foreign = connection.execute(_KEYS, ("f",)).fetchall()
        for table, name, _ in foreign:
            run(f"ALTER TABLE {table} DROP CONSTRAINT {name}")
        for each in TABLES:
            rows, indexes = _fill_one(connection, run, each, start, bundle, months)
            size = connection.execute("SELECT pg_total_relation_size(%s)", (each.name,)).fetchone()
            megabytes = (size or [0])[0] / 2**20
            console.print(f"{each.name:>16}: rows {rows:.0f} s, indexes {indexes:.0f} s, {megabytes:,.0f} MB")
        for table, name, said in foreign:
            run(f"ALTER TABLE {table} ADD CONSTRAINT {name} {said} NOT VALID")
        # they hold, and a dump or the planner should not take them for unproven
        run("UPDATE pg_constraint SET convalidated = true WHERE contype = 'f'")
        run("SELECT setval('images_seq_seq', (SELECT max(seq) FROM images))")
        run("SELECT setval('audit_id_seq', (SELECT max(id) FROM audit))")
        began = time.perf_counter()
        run("VACUUM (ANALYZE, PARALLEL 0)")
        run("CHECKPOINT")
        console.print(f"{'vacuum':>16}: {time.perf_counter() - began:.0f} s")


def _fill_one(
    connection: psycopg.Connection,
    run: Callable[[str], None],
    table: _Table,
    start: str,
    bundle: str,
    months: int,
) -> tuple[float, float]:
    """Fill one table in one transaction; return how long its rows and its indexes took, in seconds."""
    began = time.perf_counter()
    keys = [row for kind in "pu" for row in connection.execute(_KEYS, (kind,)) if row[0] == table.name]
    indexes = connection.execute(_INDEXES, (table.name,)).fetchall()
    with connection.transaction():
        run(f"TRUNCATE {table.name}")
        for _, name, _ in keys:
            run(f"ALTER TABLE {table.name} DROP CONSTRAINT {name}")
        for name, _ in indexes:
            run(f"DROP INDEX {name}")
        run(_filled(table.insert, start, bundle, table.rows * months))
        rows = time.perf_counter() - began
        for _, name, said in keys:
            run(f"ALTER TABLE {table.name} ADD CONSTRAINT {name} {said}")
        for _, said in indexes:
            run(said)
    return rows, time.perf_counter() - began - rows


def _filled(statement: str, start: str, bundle: str, rows: int) -> str:
    """Put the values into a statement, which has more than one command and therefore takes no parameters."""
    for name, value in (("start", start), ("bundle", f"'{bundle}'"), ("rows", str(rows))):
        statement = statement.replace(f"%({name})s", value)
    return statement

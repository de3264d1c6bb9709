"""A million studies over 20 sites: what pages cost, and how they are read. ``python -m bench.worklist``.

The rows are made directly, 100,000 of them in one batch. Every request goes through the web application, as a
signed-in program's would; every statement that it sends is explained by the database.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flask.testing import FlaskClient
from rich.console import Console
from sqlalchemy import Connection, Engine, event, text

from bench.measure import machine, publish, timed
from cli.embedded import embedded
from cli.prepare import migrate_database

SITES = 20
REPEATS = 7
_SITES = """
    INSERT INTO bundles (name, sha256, manifest, files) VALUES
        ('b1', repeat('0', 64), '{"name": "b1", "regions": ["hand", "leg"], "models": {}}', '{}');
    INSERT INTO sites (id, name, default_bundle)
        SELECT gen_random_uuid(), 'Site ' || n, 'b1' FROM generate_series(1, :sites) AS n;
    INSERT INTO users (id, site_id, email, role)
        SELECT gen_random_uuid(), id, 'a@' || replace(name, ' ', ''), 'admin' FROM sites;
    INSERT INTO batches (id, site_id, label, bundle, status, created_at, submitted_at)
        SELECT gen_random_uuid(), id, 'old', 'b1', 'done', now() - n * interval '1 day',
            now() - n * interval '1 day'
        FROM sites CROSS JOIN generate_series(1, 250) AS n
"""
_BATCH = """
    INSERT INTO batches (id, site_id, label, bundle, status, submitted_at, finished_at, n_total, n_done)
    VALUES (:batch, :site, :label, 'b1', 'done', now() - :age * interval '1 hour', now(), :n, :n)
"""
_FILL = """
    CREATE TEMP TABLE made ON COMMIT DROP AS
        SELECT n, gen_random_uuid() AS study, gen_random_uuid() AS image, gen_random_uuid() AS finding,
               encode(sha256((:batch || '-' || n)::bytea), 'hex') AS sha,
               (ARRAY['positive', 'doubt', 'negative', 'negative', 'negative'])[1 + n % 5] AS triage,
               (ARRAY['hand', 'leg', 'hip', 'shoulder'])[1 + n % 4] AS region,
               ((n * 7919) % 1000) / 1000.0 AS p, n % 211 = 0 AS failed
        FROM generate_series(1, :n) AS n;
    INSERT INTO studies (id, site_id, key, accession)
        SELECT study, :site, 'image:' || image, 'ACC' || upper(left(sha, 10)) FROM made;
    INSERT INTO findings (id, site_id, sha256, bundle, precision, region, region_probability,
            region_probabilities, probability, triage)
        SELECT finding, :site, sha, 'b1', 'float32', region, 0.9, '{}', p, triage FROM made WHERE NOT failed;
    INSERT INTO images (id, site_id, batch_id, study_id, finding_id, path, sha256, size, status, stage,
            reason, region, probability, triage, accession, original_key, finished_at)
        SELECT image, :site, :batch, study, CASE WHEN failed THEN NULL ELSE finding END,
            'ward/' || n || '.png', sha, 300000, CASE WHEN failed THEN 'failed' ELSE 'done' END, 5,
            CASE WHEN failed THEN 'worker_lost' END, CASE WHEN failed THEN NULL ELSE region END,
            CASE WHEN failed THEN NULL ELSE p END, CASE WHEN failed THEN NULL ELSE triage END,
            'ACC' || upper(left(sha, 10)), 'images/' || image || '/original', now()
        FROM made;
    INSERT INTO work (id, site_id, batch_id, kind, state, priority, n_images)
        SELECT gen_random_uuid(), :site, :batch, 'chunk', 'done', 5, 32 FROM made WHERE n % 32 = 0;
    INSERT INTO audit (site_id, action, object_id, at)
        SELECT :site, (ARRAY['study_seen', 'report_seen', 'original_seen'])[1 + n % 3], study::text,
            now() - n * interval '30 seconds' FROM made;
    INSERT INTO study_findings (id, site_id, study_id, batch_id, bundle, version, basis, triage, n_images)
        SELECT gen_random_uuid(), :site, study, :batch, 'b1', 1, sha, triage, 1 FROM made WHERE NOT failed
"""


@dataclass(frozen=True)
class Ask:
    """One request of the table: its name, and its address for a batch."""

    name: str
    path: str


ASKS = (
    Ask("batch page", "/batches/{batch}"),
    Ask("batch, status failed", "/batches/{batch}?status=failed"),
    Ask("batch, doubt", "/batches/{batch}?triage=doubt"),
    Ask("batch, region hip", "/batches/{batch}?region=hip"),
    Ask("batch poll", "/api/v1/batches/{batch}"),
    Ask("list of batches", "/batches"),
    Ask("worklist", "/worklist"),
    Ask("worklist of the batch", "/worklist?batch={batch}"),
    Ask("worklist, next page", "/api/v1/worklist?batch={batch}&cursor={cursor}"),
    Ask("worklist, positive", "/worklist?triage=positive"),
    Ask("worklist, class negative", "/worklist?class=negative"),
    Ask("worklist, region", "/worklist?region=hip"),
    Ask("worklist, failed", "/worklist?status=failed"),
    Ask("worklist, day", "/worklist?from={day}&until={day}"),
    Ask("worklist, five filters", "/worklist?batch={batch}&triage=doubt&region=hip&bundle=b1&from={day}"),
    Ask("worklist, nothing fits", "/worklist?triage=positive&region=knee&bundle=b1"),
    Ask("worklist, all", "/worklist?reviewed=all"),
    Ask("worklist, last first", "/worklist?sort=-class"),
    Ask("worklist, by probability", "/worklist?sort=-probability"),
    Ask("worklist, by name", "/worklist?sort=name"),
    Ask("worklist, by name, Z to A", "/worklist?sort=-name"),
    Ask("worklist, by region", "/worklist?sort=region"),
    Ask("worklist, by arrival", "/worklist?sort=arrived"),
    Ask("worklist, by reader", "/worklist?sort=-reader"),
    Ask("worklist, all by arrival", "/worklist?reviewed=all&sort=-arrived"),
    Ask("worklist, all by region", "/worklist?reviewed=all&sort=-region"),
    Ask("worklist, by name, next page", "/api/v1/worklist?sort=name&cursor={by_name}"),
    Ask("worklist, by name, far behind", "/api/v1/worklist?sort=name&cursor={far}"),
    Ask("worklist, by reader, two filters", "/worklist?sort=reader&triage=doubt&region=hip"),
    Ask("worklist, by name, of the batch", "/worklist?sort=name&batch={batch}"),
    Ask("worklist, by probability, failed", "/worklist?sort=-probability&status=failed"),
    Ask("worklist, by arrival, a day", "/worklist?sort=-arrived&from={day}&until={day}"),
    Ask("worklist, by region, class negative", "/worklist?sort=region&class=negative"),
    Ask("worklist, by name, nothing fits", "/worklist?sort=name&triage=positive&region=knee"),
    Ask("worklist, by name, no such bundle", "/worklist?sort=name&bundle=b2"),
    Ask("worklist, by reader, a thousand files", "/worklist?sort=-reader&q=ward/77"),
    Ask("worklist, by name, a word of every study", "/worklist?sort=name&q=png"),
    Ask("worklist, one file", "/worklist?q=7700.png"),
    Ask("worklist, a thousand files", "/worklist?q=ward/77"),
    Ask("worklist, a word of every study", "/worklist?q=png"),
    Ask("worklist, that and three filters", "/worklist?q=png&triage=doubt&region=hip&from={day}"),
    Ask("worklist, that and nothing fits", "/worklist?q=png&region=knee"),
    Ask("audit", "/admin/audit"),
    Ask("audit, one action", "/admin/audit?action=report_seen"),
    Ask("audit, one study", "/admin/audit?object={study}"),
    Ask("audit, a day", "/admin/audit?first={day}&last={day}"),
    Ask("retention page", "/admin/retention"),
)


class Explainer:
    """Keeps the statements that a request sends, and asks the database how it reads them."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.seen: list[tuple[str, Any]] = []
        self.on = False
        event.listen(engine, "before_cursor_execute", self._note)

    def _note(self, _c: object, _k: object, statement: str, parameters: Any, *_: object) -> None:
        if self.on and statement.startswith(("SELECT", "SET")):
            self.seen.append((statement, parameters))

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Keep the statements of the block."""
        self.seen.clear()
        self.on = True
        yield
        self.on = False

    def plans(self, connection: Connection) -> list[str]:
        """Return each statement's plan, one line of its scans each."""
        plans = []
        for statement, parameters in self.seen:
            if statement.startswith("SET"):  # what the request tells the planner
                connection.exec_driver_sql(statement, parameters)
                continue
            lines = connection.exec_driver_sql(f"EXPLAIN {statement}", parameters).scalars().all()
            plans.append("\n".join(lines))
        return plans


def _scans(plan: str) -> str:
    kept = [line.strip(" ->").split("  (")[0] for line in plan.splitlines()]
    return " < ".join(line for line in kept if "Scan" in line or line.startswith(("Limit", "Sort")))


#: Tables of a handful of rows, which are rightly read whole.
SMALL = ("bundles", "sites", "users", "user_sessions", "api_keys", "workers", "batch_reasons", "uploads")


def _reads_whole(plan: str) -> bool:
    scans = [line for line in plan.splitlines() if "Seq Scan on" in line]
    return any(line.split("Seq Scan on ")[1].split()[0] not in SMALL for line in scans)


def make_rows(engine: Engine, images: int, most: int, console: Console) -> dict[str, uuid.UUID]:
    """Make the sites and their batches; return the first site's small and large one."""
    from sqlalchemy.orm import Session

    from store.base.tables import Batch
    from store.reading import worklist

    with engine.begin() as connection:
        for statement in _SITES.split(";\n"):
            connection.execute(text(statement), {"sites": SITES} if ":sites" in statement else {})
        sites = list(connection.execute(text("SELECT id FROM sites ORDER BY name")).scalars())
    share = max(10, (images - most) // SITES)
    chosen: dict[str, uuid.UUID] = {}
    plan = [(sites[0], most, "large"), (sites[0], 10, "small"), *((site, share, "other") for site in sites)]
    for n, (site, count, label) in enumerate(plan):
        batch = uuid.uuid4()
        chosen.setdefault(label, batch)
        values = {"batch": batch, "site": site, "n": count, "label": label, "age": n}
        started = time.perf_counter()
        with engine.begin() as connection:
            connection.execute(text("SET LOCAL statement_timeout = 0"))
            connection.execute(text(_BATCH), values)
            for statement in _FILL.split(";\n"):
                named = {k: v for k, v in values.items() if f":{k}" in statement}
                if "'-'" in statement:
                    named["batch"] = str(batch)
                connection.execute(text(statement), named)
        rows = time.perf_counter() - started
        with Session(engine, expire_on_commit=False) as session:
            row = session.get_one(Batch, batch)
        worklist.fill(row)  # as the end of a batch does
        seconds = time.perf_counter() - started - rows
        console.print(f"{label:>6} batch of {count:>7,}: rows {rows:.0f} s, its worklist {seconds:.1f} s")
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("SET statement_timeout = 0"))
        connection.execute(text("VACUUM ANALYZE"))
    return chosen


def _made(engine: Engine) -> dict[str, uuid.UUID]:
    """Return the first site's two batches if an earlier run left its rows."""
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT label, id FROM batches WHERE label IN ('large', 'small')"))
        return {label: id_ for label, id_ in rows}


def _study(engine: Engine, batch: uuid.UUID) -> uuid.UUID:
    with engine.connect() as connection:
        query = text("SELECT study_id FROM images WHERE batch_id = :batch LIMIT 1")
        return connection.execute(query, {"batch": batch}).scalar_one()


def _client(app: Any, engine: Engine, batch: uuid.UUID) -> FlaskClient:
    """Return a browser signed in at the batch's site."""
    from store.accounts import accounts
    from store.base.session import session_scope
    from store.base.tables import Batch, User
    from web.base.cookies import SESSION

    with session_scope() as session:
        site = session.get_one(Batch, batch).site_id
        user = session.query(User).filter_by(site_id=site).one()
        token = accounts.open_session(session, user, hours=1, how="link")
    client: FlaskClient = app.test_client()
    client.set_cookie(SESSION.named(over_tls=False), token)
    return client


def run(
    engine: Engine, chosen: dict[str, uuid.UUID], console: Console
) -> tuple[dict[str, dict[str, Any]], bool]:
    """Time and explain every request for both batches; return a table, and whether nothing was read whole."""
    from store.base.session import session_scope
    from store.base.tables import Batch
    from store.operations import retention
    from web.factory import create_app

    app = create_app()
    explainer = Explainer(engine)
    figures: dict[str, dict[str, float]] = {}
    plans: dict[str, list[str]] = {}
    day = time.strftime("%Y-%m-%d", time.gmtime())
    for size in ("small", "large"):
        client = _client(app, engine, chosen[size])
        first = client.get(f"/api/v1/worklist?limit=5&batch={chosen[size]}").json
        cursor = (first["next"] or "cursor=").split("cursor=")[1]
        study = _study(engine, chosen[size])
        by_name = client.get("/api/v1/worklist?limit=50&sort=name").json["next"].split("cursor=")[1]
        far = client.get("/api/v1/worklist?limit=50&sort=-name").json["next"].split("cursor=")[1]
        for ask in ASKS:
            path = ask.path.format(
                batch=chosen[size], cursor=cursor, day=day, study=study, by_name=by_name, far=far
            )
            times = []
            for _ in range(REPEATS):
                started = time.perf_counter()
                answer = client.get(path)
                times.append(1000 * (time.perf_counter() - started))
                if answer.status_code != 200:
                    raise SystemExit(f"{path}: {answer.status_code} {answer.text[:300]}")
            figures.setdefault(ask.name, {})[size] = statistics.median(times)
            if size == "large":
                with explainer.listening():
                    client.get(path)
                with engine.connect() as connection:
                    plans[ask.name] = explainer.plans(connection)
    with session_scope() as session:
        site = session.get_one(Batch, chosen["large"]).site_id
    for name, expire in {
        "originals that are due, none": retention.expire_originals,
        "results that are due, none": retention.expire_results,
    }.items():
        with explainer.listening():
            figures[name] = {"large": 1000 * timed(lambda expire=expire: expire(site, 10_000))}
        with engine.connect() as connection:
            plans[name] = explainer.plans(connection)
    console.rule("How the large batch's statements are read")
    whole = []
    for name, texts in plans.items():
        console.print(f"[bold]{name}")
        for plan in texts:
            if any(table in plan for table in ("worklist", "images", "batches", "audit")):
                console.print("   " + _scans(plan), soft_wrap=True)
            if _reads_whole(plan):
                whole.append(f"{name}\n{plan}")
    for text_ in whole:
        console.print(text_, soft_wrap=True)
    rows = {
        name: {
            "batch of 10, ms": by_size.get("small", ""),
            "large batch, ms": by_size["large"],
            "reads a whole table": "yes" if any(line.startswith(f"{name}\n") for line in whole) else "no",
        }
        for name, by_size in figures.items()
    }
    return rows, not whole


def main() -> None:
    """Make the rows in an embedded Postgres, then print plans and times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--batch", type=int, default=100_000, help="images of the large batch")
    parser.add_argument("--keep", type=Path, help="a folder for the rows: made once, read as often as asked")
    arguments = parser.parse_args()
    console, before = Console(), machine()
    with tempfile.TemporaryDirectory(prefix="fractureai-bench-") as passing:
        folder = (arguments.keep or Path(passing)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o711)
        with embedded(folder / "home") as (addresses, _):
            os.environ.update(addresses.environment())
            os.environ["FRACTUREAI_BLOB_URL"] = f"file://{folder}/blobs"
            os.environ["FRACTUREAI_SECRET_KEY"] = "a secret for the bench alone"  # noqa: S105
            migrate_database()
            from store.base.session import get_engine

            engine = get_engine()
            chosen = _made(engine) or make_rows(engine, arguments.images, arguments.batch, console)
            rows, fine = run(engine, chosen, console)
            engine.dispose()
    title = f"{arguments.images:,} studies of {SITES} sites, {arguments.batch:,} in the large batch"
    publish("worklist", title, rows, before)
    raise SystemExit(0 if fine else 1)


if __name__ == "__main__":
    main()

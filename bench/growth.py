"""What grows with the tables: the same questions at 1 and at 20 million images. ``python -m bench.growth``.

The rows are made by SQL (`bench.growth_rows`); the questions are the product's own pages, store functions and
stages. Of each: the median time, the 8 KB pages of the database that it touched (found in memory or read),
and whether it is read by the same indexes. Bytes are not measured: there are none.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import psycopg
from flask.testing import FlaskClient
from rich.console import Console
from sqlalchemy import Engine, event, select, text
from sqlalchemy.exc import SQLAlchemyError

from bench import growth_rows
from bench.measure import machine, publish
from cli.embedded import embedded, set_defaults
from cli.prepare import prepare

#: Tables of fewer pages are rightly read whole.
SMALL = 100
REPEATS = 7
#: Days of the oldest rows of which results are erased.
OLDEST = 5
#: What takes longer than so many milliseconds is asked once.
LONG = 3000.0


@dataclass(frozen=True)
class Ask:
    """A question: its name, how it is asked, and how often."""

    name: str
    call: Callable[[], object]
    repeats: int = REPEATS


@dataclass
class Measured:
    """What one question cost."""

    ms: float
    pages: int
    plans: list[str] = field(default_factory=list)
    whole: list[str] = field(default_factory=list)


class Statements:
    """Notes the statements of a block, and asks the database how it reads them."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        with engine.connect() as connection:
            query = text("SELECT relname FROM pg_class WHERE relkind = 'r' AND relpages >= :least")
            self.large = set(connection.execute(query, {"least": SMALL}).scalars())
        self.seen: dict[str, Any] = {}
        self.on = False
        event.listen(engine, "before_cursor_execute", self._note)

    def _note(self, _c: object, _k: object, statement: str, parameters: Any, *_: object) -> None:
        if self.on and statement.lstrip().startswith(("SELECT", "WITH", "INSERT", "UPDATE", "DELETE")):
            self.seen.setdefault(statement, parameters)

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Note the statements of the block, each text once."""
        self.seen.clear()
        self.on = True
        try:
            yield
        finally:
            self.on = False

    def scans(self, *, analyze: bool) -> Iterator[tuple[str, str, str]]:
        """Yield each node of the plans that reads a table: the node, the index and the table."""
        with self.engine.connect() as connection:
            for statement, parameters in self.seen.items():
                if isinstance(parameters, list):
                    continue
                reads = analyze and statement.lstrip().startswith("SELECT")
                how = "ANALYZE, TIMING OFF, FORMAT JSON" if reads else "FORMAT JSON"
                try:
                    plan = connection.exec_driver_sql(f"EXPLAIN ({how}) {statement}", parameters)
                    yield from _scans(plan.scalar_one()[0]["Plan"])
                except SQLAlchemyError:
                    connection.rollback()


def _scans(node: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    if node.get("Actual Loops") == 0:
        return  # an alternative that was not taken
    if "Scan" in node["Node Type"] and ("Relation Name" in node or "Index Name" in node):
        yield node["Node Type"], node.get("Index Name", ""), node.get("Relation Name", "")
    for below in node.get("Plans", ()):
        yield from _scans(below)


class Meter:
    """Counts the pages that questions touched, as the server has counted them: nobody else asks it."""

    def __init__(self, engine: Engine, owner: psycopg.Connection) -> None:
        self.engine, self.owner = engine, owner

    def pages(self) -> int:
        """Return the pages that were touched since the connections were made."""
        held = [self.engine.connect() for _ in range(max(1, self.engine.pool.checkedin()))]  # type: ignore
        for connection in held:
            connection.exec_driver_sql("SELECT pg_stat_force_next_flush()")
            connection.commit()
        row = self.owner.execute(
            "SELECT sum(coalesce(hits, 0) + coalesce(read_bytes, 0) / 8192) FROM pg_stat_io"
            " WHERE backend_type IN ('client backend', 'background worker')"  # a parallel scan's workers
        ).fetchone()
        for connection in held:
            connection.close()
        return int((row or [0])[0] or 0)


def measure(
    asks: list[Ask], engine: Engine, owner: psycopg.Connection, console: Console
) -> dict[str, Measured]:
    """Ask every question."""
    statements, meter = Statements(engine), Meter(engine, owner)
    found: dict[str, Measured] = {}
    for ask in asks:
        counted = [meter.pages() for _ in range(3)]
        started = time.perf_counter()
        with statements.noted():
            ask.call()  # the first time warms caches, and its statements are explained
        times = [1000 * (time.perf_counter() - started)]
        of_metering = counted[2] - counted[1]
        pages = meter.pages() - counted[2] - of_metering
        scans = list(statements.scans(analyze=times[0] < LONG))
        if times[0] < LONG:
            before = meter.pages()
            ask.call()
            pages = meter.pages() - before - of_metering
            times.clear()
            for _ in range(ask.repeats):
                started = time.perf_counter()
                ask.call()
                times.append(1000 * (time.perf_counter() - started))
        whole = {table for node, _, table in scans if node == "Seq Scan" and table in statements.large}
        plans = {f"{node} {index or table}" for node, index, table in scans}
        found[ask.name] = Measured(statistics.median(times), pages, sorted(plans), sorted(whole))
        line = f"{ask.name:<46}{found[ask.name].ms:>10.1f} ms{pages:>10,} pages"
        console.print(
            f"{line}  {'reads whole: ' + ', '.join(sorted(whole)) if whole else ''}", soft_wrap=True
        )
    return found


# the questions


class _Site:
    """The first site, one of its people signed in, and what is asked of its newest rows."""

    def __init__(self, engine: Engine, owner: psycopg.Connection) -> None:
        from store.accounts import accounts
        from store.base.session import session_scope
        from store.base.tables import User
        from web.base.cookies import SESSION
        from web.factory import create_app

        def one(query: str) -> Any:
            row = owner.execute(query).fetchone()
            return row[0] if row else None

        self.id: uuid.UUID = one("SELECT md5('site0')::uuid")
        newest = f"FROM batches WHERE site_id = '{self.id}' AND n_total"
        self.large = one(f"SELECT id {newest} = 2000 ORDER BY created_at DESC LIMIT 1")
        self.small = one(f"SELECT id {newest} = 4 ORDER BY created_at DESC LIMIT 1")
        of_large = f"FROM images WHERE batch_id = '{self.large}' LIMIT 1"
        self.study, self.path = one(f"SELECT study_id {of_large}"), one(f"SELECT path {of_large}")
        with session_scope() as session:
            user = session.scalars(select(User).where(User.site_id == self.id)).one()
            token = accounts.open_session(session, user, hours=10, how="link")
        self.client: FlaskClient = create_app().test_client()
        self.client.set_cookie(SESSION.named(over_tls=False), token)

    def get(self, path: str, client: FlaskClient | None = None) -> Any:
        """Get a page."""
        answer = (client or self.client).get(path)
        if answer.status_code not in (200, 503):
            raise SystemExit(f"{path}: {answer.status_code} {answer.text[:300]}")
        return answer


def _pages(site: _Site) -> list[Ask]:
    day = time.strftime("%Y-%m-%d", time.gmtime())
    cursor = site.get("/api/v1/worklist?limit=50").json["next"].split("cursor=")[1]
    far = site.get("/api/v1/worklist?limit=50&sort=-name").json["next"].split("cursor=")[1]
    paths = {
        "batch page": f"/batches/{site.large}",
        "batch page, failed": f"/batches/{site.large}?status=failed",
        "batch poll": f"/api/v1/batches/{site.large}",
        "batch poll, images": f"/api/v1/batches/{site.large}/images",
        "list of batches": "/batches",
        "worklist": "/worklist",
        "worklist, next page": f"/api/v1/worklist?cursor={cursor}",
        "worklist, of a batch": f"/worklist?batch={site.large}",
        "worklist, positive": "/worklist?triage=positive",
        "worklist, region": "/worklist?region=hip",
        "worklist, failed": "/worklist?status=failed",
        "worklist, today": f"/worklist?from={day}&until={day}",
        "worklist, nothing fits": "/worklist?triage=positive&region=knee",
        "worklist, all": "/worklist?reviewed=all",
        "worklist, by name": "/worklist?sort=name",
        "worklist, all by arrival": "/worklist?reviewed=all&sort=-arrived",
        "worklist, by name, far behind": f"/api/v1/worklist?sort=name&cursor={far}",
        "worklist, one file": f"/worklist?q={site.path.removeprefix('ward/')}",
        "worklist, a word of every study": "/worklist?q=ward",
        "study page": f"/studies/{site.study}",
        "audit": "/admin/audit",
        "audit, one action": "/admin/audit?action=report_seen",
        "audit, one study": f"/admin/audit?object={site.study}",
        "audit, a day": f"/admin/audit?first={day}&last={day}",
        "health page": "/admin/health",
        "retention page": "/admin/retention",
        "retention page, a study is looked up": "/admin/retention?find=ACC77",
        "monitoring page": "/admin/monitoring",
        "downloads page": "/downloads",
        "deliveries page": "/admin/deliveries",
        "notices page": "/admin/notices",
        "quota": "/api/v1/quota",
    }
    return [Ask(name, lambda path=path: site.get(path)) for name, path in paths.items()]  # type: ignore[misc]


def _operations(site: _Site) -> list[Ask]:
    from settings import get_settings
    from store.base.session import session_scope
    from store.operations import monitoring
    from store.queue.dispatch import dispatch
    from web.operations.health import create_health_app
    from worker import reconcile

    health = create_health_app(get_settings()).test_client()

    def in_session(call: Callable[[Any], object]) -> Callable[[], object]:
        def run() -> None:
            with session_scope() as session:
                call(session)

        return run

    return [
        Ask("readiness", lambda: site.get("/readyz", health)),
        Ask("metrics", lambda: site.get("/metrics", health)),
        Ask("queue_depth view", in_session(monitoring.queue_depths)),
        Ask("recovery's round", reconcile.recover),
        Ask("dispatch", dispatch),
        Ask("received studies that are complete", reconcile.received.complete_due),
        *(Ask(f"reconcile: {step}", call, 3) for step, call in reconcile.TIDYING.items()),
    ]


def _retention(site: _Site, all_sites: list[uuid.UUID], months: int) -> list[Ask]:
    from store.operations import retention

    def forget() -> None:
        if not retention.expire_results(next(sites), 30 * months - OLDEST):
            raise SystemExit("nothing is left that old")

    def erase() -> None:
        study = next(taken)
        retention.erase_studies(site.id, [study], by=None)

    taken = iter(_studies_to_erase(site))
    sites = iter(all_sites)
    for _ in range(10 + months):  # the first rounds after an upgrade mark the batches in which none is left
        retention.expire_originals(site.id, 60)
    return [
        Ask("originals of 100 years ago, none", lambda: retention.expire_originals(site.id, 36_500), 3),
        Ask("originals of 60 days ago, none left", lambda: retention.expire_originals(site.id, 60), 3),
        Ask("results of 100 years ago, none", lambda: retention.expire_results(site.id, 36_500), 3),
        Ask("erase one study", erase, 5),
        Ask("results of the oldest days, 400 studies erased", forget, 5),
    ]


def _studies_to_erase(site: _Site) -> list[uuid.UUID]:
    from store.base.session import session_scope
    from store.base.tables import Image

    with session_scope() as session:
        return list(
            session.scalars(select(Image.study_id).where(Image.batch_id == site.large).distinct().limit(100))
        )  # type: ignore[arg-type]


def _reading(site: _Site) -> list[Ask]:
    from bench.growth_stages import read_batch, submit_batch

    return [
        Ask("submit 2,000 files, cancel them", lambda: submit_batch(site.id, 2000), 3),
        Ask("read a batch of 32 images, rows of all stages", lambda: read_batch(site.id, 32), 5),
    ]


def _audit(engine: Engine) -> list[Ask]:
    from store.operations import audit

    def verify(since: str = "0") -> None:
        with engine.connect() as connection:
            connection.execute(text("SET LOCAL statement_timeout = 0"))
            broken = audit.broken_links(connection, most=10, since=since)
            if broken:
                raise SystemExit(f"the chain is broken: {broken}")

    with engine.connect() as connection:
        head = connection.execute(
            text("SELECT seq || ' ' || hash FROM audit_chain ORDER BY seq DESC OFFSET 1000 LIMIT 1")
        ).scalar_one()
    return [
        Ask("audit's whole chain verified", verify, 1),
        Ask("audit's last 1,000 lines verified", lambda: verify(head), 3),
    ]


def run(home: Path, months: int, only: str | None, console: Console) -> dict[str, Measured]:
    """Measure one database, which has the rows of so many months."""
    with embedded(home) as (servers, _):
        set_defaults(home, servers)
        os.environ["FRACTUREAI_DATABASE_STATEMENT_SECONDS"] = "600"
        prepare()
        from store.base.session import get_engine

        engine = get_engine()
        with psycopg.connect(servers.database_owner_url, autocommit=True) as owner:
            site = _Site(engine, owner)
            asks = [*_pages(site), *_operations(site), *_reading(site), *_audit(engine)]
            sites = [
                row[0] for row in owner.execute("SELECT id FROM sites WHERE name LIKE 'Site %' ORDER BY id")
            ]
            asks += _retention(site, sites, months)
            chosen = [ask for ask in asks if only is None or only in ask.name]
            found = measure(chosen, engine, owner, console)
        engine.dispose()
    return found


def make(home: Path, millions: int, console: Console) -> None:
    """Fill one database, if it is not filled."""
    done = home.parent / "filled"
    if done.exists():
        return
    with embedded(home, valkey=False) as (servers, _):
        set_defaults(home, servers)
        prepare()
        with psycopg.connect(servers.database_owner_url, autocommit=True) as owner:
            for setting in ("wal_level = minimal", "max_wal_senders = 0", "max_wal_size = '1GB'"):
                owner.execute(f"ALTER SYSTEM SET {setting}")  # type: ignore[arg-type]
            bundle = (owner.execute("SELECT default_bundle FROM sites").fetchone() or [""])[0]
    with embedded(home, valkey=False) as (servers, _):
        growth_rows.fill(servers.database_owner_url, millions * growth_rows.MONTH, bundle, console)
        with psycopg.connect(servers.database_owner_url, autocommit=True) as owner:
            owner.execute("ALTER SYSTEM RESET ALL")
    done.touch()


def _table(small: dict[str, Any], large: dict[str, Any], names: tuple[str, str]) -> dict[str, dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    for name, after in large.items():
        before = small.get(name)
        if before is None:
            continue
        rows[name] = {
            f"ms, {names[0]}": before["ms"],
            f"ms, {names[1]}": after["ms"],
            "times": after["ms"] / before["ms"],
            f"pages, {names[0]}": before["pages"],
            f"pages, {names[1]}": after["pages"],
            "pages, times": after["pages"] / max(1, before["pages"]),
            "reads whole": ", ".join(after["whole"]) or "no",
            "same plans": "yes" if before["plans"] == after["plans"] else "no",
        }
    return rows


def _one(folder: Path, millions: int, fill: bool, only: str | None) -> None:
    """Make one database's rows and, unless that is all, measure it."""
    console = Console(width=160)
    place = folder / str(millions)
    place.mkdir(exist_ok=True)
    place.chmod(0o711)
    make(place / "home", millions, console)
    if fill:
        return
    console.rule(f"{millions} million")
    found = run(place / "home", millions, only, console)
    kept = folder / f"{millions}.json"
    said = json.loads(kept.read_text()) if only and kept.exists() else {}
    said |= {name: asdict(one) for name, one in found.items()}
    kept.write_text(json.dumps(said, indent=1))


def main() -> None:
    """Fill, measure, and print the table when two sizes are measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", type=Path, help="a folder for the rows: made once, read as often as asked")
    parser.add_argument("--millions", type=int, nargs="+", default=[1, 20], help="images, in millions")
    parser.add_argument("--fill", action="store_true", help="make the rows, and measure nothing")
    parser.add_argument(
        "--only", help="ask only what has this in its name; with --keep the others stay known"
    )
    arguments = parser.parse_args()
    before = machine()
    with tempfile.TemporaryDirectory(prefix="fractureai-bench-") as passing:
        folder = (arguments.keep or Path(passing)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o711)
        for millions in arguments.millions:
            # a process each: settings and connections are made once in a process
            child = get_context("spawn").Process(
                target=_one, args=(folder, millions, arguments.fill, arguments.only)
            )
            child.start()
            child.join()
            if child.exitcode:
                raise SystemExit(child.exitcode)
        if arguments.fill:
            return
        kept = {
            int(path.stem): json.loads(path.read_text())
            for path in folder.glob("*.json")
            if path.stem.isdigit()
        }
    if len(kept) > 1:
        few, many = min(kept), max(kept)
        title = f"{many} million images beside {few} million, of {growth_rows.SITES} sites"
        publish("growth", title, _table(kept[few], kept[many], (f"{few} M", f"{many} M")), before)


if __name__ == "__main__":
    main()

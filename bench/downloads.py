"""Large downloads from a real web process: memory, first byte, speed. ``python -m bench.downloads``.

The rows and the reports are made directly, so that only the way out is measured.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
from sqlalchemy import text

from bench.measure import machine, publish
from cli.embedded import embedded, free_port

_ROWS = """
INSERT INTO studies (id, site_id, key)
    SELECT gen_random_uuid(), :site, 'bench:' || CAST(:batch AS text) || n FROM generate_series(1, :n) AS n;
INSERT INTO findings (id, site_id, sha256, bundle, precision, region, region_probability,
                      region_probabilities, logit, probability, triage, cam, cam_height, cam_width)
    SELECT gen_random_uuid(), :site, encode(sha256(CAST(CAST(:batch AS text) || n AS bytea)), 'hex'), 'b1',
           'float32', 'hand', 0.9, '{"hand": 0.9}', 0, random(), 'doubt', CAST(repeat('x', 200) AS bytea),
           10, 10
    FROM generate_series(1, :n) AS n;
INSERT INTO images (id, site_id, batch_id, study_id, path, sha256, size, status, stage, region,
                    region_probability, probability, triage)
    SELECT gen_random_uuid(), :site, :batch, s.id, 'ward/image ' || s.n || '.png',
           encode(sha256(CAST(CAST(:batch AS text) || s.n AS bytea)), 'hex'), 1000, 'done', 5, 'hand', 0.9,
           random(), 'doubt'
    FROM (SELECT id, substr(key, 43) AS n FROM studies
          WHERE key LIKE 'bench:' || CAST(:batch AS text) || '%') AS s;
INSERT INTO study_findings (id, site_id, study_id, batch_id, bundle, version, basis, triage, n_images,
                            report_key)
    SELECT gen_random_uuid(), :site, study_id, :batch, 'b1', 1, repeat('0', 64), 'doubt', 1,
           'reports/bench/' || (row_number() OVER () % :reports) || '.pdf'
    FROM images WHERE batch_id = :batch;
UPDATE images SET finding_id = findings.id FROM findings
    WHERE findings.sha256 = images.sha256 AND images.batch_id = :batch;
"""


@dataclass(frozen=True)
class Measured:
    """One download."""

    what: str
    size: int
    first_byte: float
    seconds: float
    before: int
    most: int


def make_batch(site: uuid.UUID, n: int, reports: int) -> uuid.UUID:
    """Make a finished batch of `n` images, each of a study of its own, without bytes."""
    from store.base.session import get_engine, session_scope
    from store.intake import batches
    from vocabulary.states import BatchStatus

    with session_scope() as session:
        batch, _ = batches.create_batch(session, site_id=site, user_id=None, label=f"{n} images")
    with get_engine().begin() as connection:
        connection.execute(text("SET LOCAL statement_timeout = 0"))
        for statement in filter(str.strip, _ROWS.split(";")):
            values = {"site": site, "batch": batch.id, "n": n, "reports": reports}
            names = {name for name in values if f":{name}" in statement}
            connection.execute(text(statement), {name: values[name] for name in names})
        connection.execute(
            text(
                "UPDATE batches SET n_total = :n, n_done = :n, t_doubt = :n, status = :status,"
                " submitted_at = now(), finished_at = now() WHERE id = :batch"
            ),
            {"n": n, "batch": batch.id, "status": BatchStatus.DONE.value},
        )
    with get_engine().connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").execute(text("ANALYZE"))
    return batch.id


@contextmanager
def web(key: str) -> Iterator[tuple[httpx.Client, psutil.Process]]:
    """Run one web worker process; yield a client, and the process to weigh."""
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", "web.factory:create_app()", "--bind", f"127.0.0.1:{port}"]
    server = subprocess.Popen(
        [*command, "--worker-class", "web.server.Worker", "--threads", "8", "--timeout", "600"]
    )
    client = httpx.Client(
        base_url=f"http://127.0.0.1:{port}", headers={"Authorization": f"Bearer {key}"}, timeout=600
    )
    try:
        for _ in range(600):
            with suppress(httpx.TransportError):
                client.get("/healthz")
                break
            time.sleep(0.1)
        yield client, psutil.Process(server.pid).children()[0]
    finally:
        client.close()
        server.terminate()
        server.wait(30)


def download(client: httpx.Client, process: psutil.Process, what: str, path: str) -> Measured:
    """Fetch `path` and drop it; weigh the process meanwhile."""
    before = most = int(process.memory_info().rss)
    ended = threading.Event()

    def weigh() -> None:
        nonlocal most
        while not ended.wait(0.05):
            most = max(most, int(process.memory_info().rss))

    thread = threading.Thread(target=weigh)
    thread.start()
    started = time.perf_counter()
    first, size = 0.0, 0
    with client.stream("GET", path) as answer:
        answer.raise_for_status()
        for piece in answer.iter_raw():
            first = first or time.perf_counter() - started
            size += len(piece)
    seconds = time.perf_counter() - started
    ended.set()
    thread.join()
    return Measured(what, size, first, seconds, before, most)


def main() -> None:
    """Make the batches, fetch them, print what was seen."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rows", type=int, default=100_000, help="images of the CSV")
    parser.add_argument("--reports", type=int, default=10_000, help="reports in the ZIP")
    parser.add_argument("--report-bytes", type=int, default=60_000, help="size of each")
    asked, before = parser.parse_args(), machine()
    with tempfile.TemporaryDirectory(prefix="fractureai-bench-") as folder:
        Path(folder).chmod(0o711)
        with embedded(Path(folder)) as (servers, _):
            os.environ.update(servers.environment())
            os.environ["FRACTUREAI_BLOB_URL"] = f"file://{folder}/blobs"
            os.environ["FRACTUREAI_SECRET_KEY"] = uuid.uuid4().hex
            subprocess.run(
                [sys.executable, "-m", "alembic", "upgrade", "head"], check=True, capture_output=True
            )
            seen = _measure(asked.rows, asked.reports, asked.report_bytes)
    publish("downloads", "Downloads from one web process", seen, before)


def _measure(rows: int, reports: int, report_bytes: int) -> dict[str, dict[str, Any]]:
    from store.accounts import accounts
    from store.accounts.sites import bootstrap
    from store.base.blobs import get_blobs
    from store.base.session import session_scope
    from store.base.tables import Bundle

    manifest = {"name": "b1", "label_meaning": "fractured", "models": {}}
    with session_scope() as session:
        session.add(Bundle(name="b1", sha256="0" * 64, manifest=manifest, files={}))
        session.flush()
        site, admin, _ = bootstrap(session, "Bench", "bench@localhost")
        site.default_bundle = "b1"
        key = accounts.create_api_key(session, admin, "bench")[1]
        site_id = site.id
    for n in range(reports):
        get_blobs().put(f"reports/bench/{n}.pdf", b"%PDF-1.7" + os.urandom(report_bytes))
    small, table, archive = (make_batch(site_id, n, reports) for n in (10, rows, reports))
    seen = []
    with web(key) as (client, process):
        for path in (f"/batches/{small}", f"/api/v1/batches/{small}/results.zip"):
            client.get(path).raise_for_status()  # what the first request loads is not counted
        api = "/api/v1/batches"
        seen.append(download(client, process, "CSV of 10", f"{api}/{small}/results.csv"))
        seen.append(download(client, process, f"CSV of {rows:,}", f"{api}/{table}/results.csv"))
        seen.append(download(client, process, f"ZIP of {reports:,} reports", f"{api}/{archive}/results.zip"))
        for n, batch in ((10, small), (rows, table)):
            seen.append(download(client, process, f"page of {n:,}", f"/batches/{batch}"))
            images = f"{api}/{batch}/images?triage=doubt"
            seen.append(download(client, process, f"100 images of {n:,}, filtered", images))
    return {
        one.what: {
            "size, MB": one.size / 1e6,
            "first byte, ms": 1000 * one.first_byte,
            "whole, s": one.seconds,
            "web memory before, MB": one.before >> 20,
            "most, MB": one.most >> 20,
        }
        for one in seen
    }


if __name__ == "__main__":
    main()

"""A batch of phantoms through a whole server: memory, polls, messages, rate. ``python -m bench.service``."""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import redis
from rich.console import Console
from rich.table import Table
from sqlalchemy import create_engine, text

from cli.client import Client
from cli.submit import SubmitOptions, run_submit
from cli.supervise import Server, server
from training.phantoms import write_phantoms

SAMPLE_SECONDS = 2.0
REGIONS = ("hand", "leg", "hip", "shoulder")
ROLES = {"gunicorn": "web", "-Q gpu": "gpu worker", "-Q cpu": "cpu worker", "-Q report": "report worker"}


@dataclass
class Sampled:
    """What was seen while a batch ran: bytes resident by role over time, seconds a poll took."""

    memory: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    polls: list[float] = field(default_factory=list)


def _role(command: str) -> str | None:
    if "worker.reconcile" in command:
        return "reconcile"
    return next((role for mark, role in ROLES.items() if mark in command), None)


def _resident() -> dict[str, int]:
    """Return resident bytes by role, children counted with their parents."""
    totals: dict[str, int] = defaultdict(int)
    for process in psutil.Process().children(recursive=True):
        try:
            role = _role(" ".join(process.cmdline()))
            if role:
                totals[role] += process.memory_info().rss
        except psutil.Error:
            continue
    return totals


def _sample(client: Client, seen: Sampled, ended: threading.Event) -> None:
    latest: str | None = None
    while not ended.wait(SAMPLE_SECONDS):
        for role, size in _resident().items():
            seen.memory[role].append(size)
        if latest is None:
            latest = next((batch["id"] for batch in client.batches()), None)
        if latest is not None:
            started = time.perf_counter()
            client.batch(latest)
            seen.polls.append(time.perf_counter() - started)


def _messages(broker_url: str) -> int:
    """Return how many times a message was pushed since the broker started."""
    info: Any = redis.Redis.from_url(broker_url).info("commandstats")
    return int(info.get("cmdstat_lpush", {}).get("calls", 0))


def _database_bytes(url: str) -> int:
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.connect() as connection:
        size = connection.scalar(text("SELECT pg_database_size(current_database())"))
    engine.dispose()
    return int(size or 0)


def _chunks(url: str, batch_id: str) -> int:
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.connect() as connection:
        n = connection.scalar(text("SELECT count(*) FROM work WHERE batch_id = :b"), {"b": batch_id})
    engine.dispose()
    return int(n or 0)


def run(running: Server, images: Path, label: str, reports: bool, console: Console) -> dict[str, str]:
    """Send one batch, wait for its end, and return a row of the table."""
    broker, database = os.environ["FRACTUREAI_BROKER_URL"], os.environ["FRACTUREAI_DATABASE_URL"]
    seen, ended = Sampled(), threading.Event()
    pushed = _messages(broker)
    with Client(running.address, running.access.api_key, patience=300.0) as client:
        sampler = threading.Thread(target=_sample, args=(client, seen, ended), daemon=True)
        sampler.start()
        started = time.perf_counter()
        result = run_submit(client, [images], SubmitOptions(label=label, wait=True, report=reports), console)
        seconds = time.perf_counter() - started
        ended.set()
        sampler.join()
    counts = result.batch["counts"]
    row = {
        "images": str(counts["total"]),
        "done": str(counts["done"]),
        "images/s": f"{counts['total'] / seconds:.1f}",
        "messages": str(_messages(broker) - pushed),
        "units of work": str(_chunks(database, result.batch["id"])),
        "poll p50 ms": f"{1000 * statistics.median(seen.polls):.0f}" if seen.polls else "-",
        "poll max ms": f"{1000 * max(seen.polls):.0f}" if seen.polls else "-",
        "database MB": f"{_database_bytes(database) / 2**20:.0f}",
    }
    for role in ("web", "gpu worker", "cpu worker", "report worker"):
        sizes = seen.memory.get(role) or [0]
        third = max(1, len(sizes) // 3)
        first, last = max(sizes[:third]), max(sizes[-third:])
        row[f"{role} MB"] = f"{first / 2**20:.0f} -> {last / 2**20:.0f}"
    return row


def main() -> None:
    """Print one table: a small batch, then the large one, on one server."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--counts", type=int, nargs="+", default=[200, 2000], metavar="N")
    parser.add_argument("--no-report", action="store_true")
    arguments = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory(prefix="fractureai-bench-") as folder:
        Path(folder).chmod(0o711)
        rows: list[dict[str, str]] = []
        folders = []
        for n, count in enumerate(arguments.counts):
            folders.append(Path(folder) / f"images-{n}")
            write_phantoms(folders[-1], count, seed=10_000 * n, regions=REGIONS, formats=("jpeg",))
        with server(
            Path(folder) / "home", host="127.0.0.1", port=None, workers=None, say=console.print
        ) as running:
            ended = threading.Event()

            def all_batches() -> None:
                try:
                    for n, images in enumerate(folders):
                        rows.append(run(running, images, f"bench {n}", not arguments.no_report, console))
                finally:
                    ended.set()

            threading.Thread(target=all_batches, daemon=True).start()
            running.supervisor.run(ended)  # the main thread: children end with the thread that made them
    table = Table(title="A whole server; memory is resident, first third of the batch -> last third")
    table.add_column("")
    for row in rows:
        table.add_column(f"{row['images']} images", justify="right")
    for name in rows[0]:
        table.add_row(name, *(row[name] for row in rows))
    console.print(table)


if __name__ == "__main__":
    main()

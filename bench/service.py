"""A whole server as batches grow: time an image, memory, polls with watchers: ``python -m bench.service``."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import psutil
import redis
from rich.console import Console
from sqlalchemy import create_engine, text

from bench.asking import poll
from bench.measure import machine, publish, quantile
from bench.reading import CACHE
from cli.client import Client
from cli.submit import SubmitOptions, run_submit
from cli.supervise import Server, server
from phantoms.files import encode_phantom
from phantoms.film import make_phantom

Result = TypeVar("Result")

REGIONS = ("hand", "leg", "hip", "shoulder")
DISTINCT = 64
WATCHERS = 50
ROLES = {
    "gunicorn": "web",
    "worker.reconcile": "reconcile",
    "-Q gpu": "gpu worker",
    "-Q cpu": "cpu worker",
    "-Q report": "report worker",
    "-Q notices": "notice worker",
    "-Q exports": "export worker",
    "bin/postgres": "Postgres",
    "valkey-server": "Valkey",
}
#: A terminal, so that `submit` does not list every image.
SILENT = Console(quiet=True, force_terminal=True)


def variant(jpeg: bytes, number: int) -> bytes:
    """Return the same picture as another file: with a comment, so that no finding is shared."""
    comment = f"bench {number}".encode()
    return jpeg[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + jpeg[2:]


def write_variants(folder: Path, pictures: list[bytes], count: int, series: int) -> Path:
    """Write `count` files that no other `series` shares a finding with."""
    folder.mkdir(parents=True)
    for number in range(count):
        name = folder / f"{number:06d}.jpg"
        name.write_bytes(variant(pictures[number % len(pictures)], series * 1_000_000 + number))
    return folder


def small_pictures(count: int = DISTINCT) -> list[bytes]:
    """Return JPEG phantoms of 320 pixels."""
    made = [make_phantom(n, REGIONS[n % 4], size=(320, 320)) for n in range(count)]
    return [encode_phantom(phantom, "jpeg") for phantom in made]


def with_server(work: Callable[[Server, Path], None], *, workers: int | None = None, warm: int = 40) -> None:
    """Start a fresh server in a temporary home and do something with it; the main thread watches.

    Before that, `warm` images are read.
    """
    failed: list[BaseException] = []
    os.environ.setdefault("FRACTUREAI_CACHE_DIR", str(CACHE))
    with tempfile.TemporaryDirectory(prefix="fractureai-bench-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        say = Console(stderr=True).print
        with server(folder / "home", host="127.0.0.1", port=None, workers=workers, say=say) as running:
            ended = threading.Event()

            def do() -> None:
                try:
                    if warm:
                        first = write_variants(folder / "warm", small_pictures(8), warm, 999)
                        send(running, first, label="warm-up")
                    work(running, folder)
                except BaseException as error:
                    failed.append(error)
                finally:
                    ended.set()

            threading.Thread(target=do, daemon=True).start()
            running.supervisor.run(ended)  # children end with the thread that made them
    if failed:
        raise failed[0]


def in_own_process(function: Callable[..., Result], *arguments: Any) -> Result:
    """Call a function of a module in a process of its own.

    A process keeps its settings and connections: to a second server started in it, the first would be meant.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def send(
    running: Server,
    images: Path,
    *,
    label: str = "bench",
    reports: bool = True,
    priority: str = "normal",
    out: Path | None = None,
    bundle: str | None = None,
) -> tuple[float, dict[str, Any]]:
    """Upload, submit, wait, fetch the ZIP if `out` names one; return seconds and the batch's last state."""
    options = SubmitOptions(label=label, wait=True, report=reports, priority=priority, out=out, bundle=bundle)
    with Client(running.address, running.access.api_key, patience=300.0) as client:
        started = time.perf_counter()
        result = run_submit(client, [images], options, SILENT, rows=0)
        seconds = time.perf_counter() - started
    counts = result.batch["counts"]
    if counts["done"] != counts["total"]:
        raise RuntimeError(f"not every image was done: {counts}")
    return seconds, result.batch


@dataclass
class Watched:
    """What was seen while a batch ran: bytes resident by role over time."""

    memory: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    ended: threading.Event = field(default_factory=threading.Event)


def by_role(measure: Callable[[psutil.Process], float]) -> dict[str, float]:
    """Return a measure summed over the server's processes by role, children with their parents."""
    totals: dict[str, float] = defaultdict(float)
    for process in psutil.Process().children(recursive=True):
        try:
            command = " ".join(process.cmdline())
            role = next((role for mark, role in ROLES.items() if mark in command), None)
            if role is None and command.startswith("postgres:"):
                role = "Postgres"
            if role:
                totals[role] += measure(process)
        except psutil.Error:
            continue
    return totals


def processor_seconds(process: psutil.Process) -> float:
    """Return the processor time that a process has taken so far, with what its ended children took.

    Postgres gives a connection a process of its own, which ends with it.
    """
    times = process.cpu_times()
    return float(times.user + times.system + times.children_user + times.children_system)


def _sample(seen: Watched) -> None:
    while not seen.ended.wait(2.0):
        for role, size in by_role(lambda process: process.memory_info().rss).items():
            seen.memory[role].append(size)


def database_value(query: str) -> int:
    """Return the number that a query of the running server's database gives; 0 for none."""
    url = os.environ["FRACTUREAI_DATABASE_URL"].replace("postgresql://", "postgresql+psycopg://")
    engine = create_engine(url)
    with engine.connect() as connection:
        found = connection.scalar(text(query))
    engine.dispose()
    return int(found or 0)


def grow(running: Server, images: Path, label: str, *, reports: bool) -> dict[str, str | int | float]:
    """Send one batch with watchers, and return a column of the table."""
    broker = redis.Redis.from_url(os.environ["FRACTUREAI_BROKER_URL"])
    pushed = lambda: int(broker.info("commandstats").get("cmdstat_lpush", {}).get("calls", 0))  # type: ignore[union-attr]  # noqa: E731
    before, units, seen = pushed(), database_value("SELECT count(*) FROM work"), Watched()
    sampler = threading.Thread(target=_sample, args=(seen,), daemon=True)
    sampler.start()
    polls: list[tuple[float, float]] = []
    context = multiprocessing.get_context("spawn")
    polled: Any = context.Queue()
    ended = context.Event()

    def watch() -> None:
        while database_value(f"SELECT count(*) FROM batches WHERE label = '{label}'") == 0:  # noqa: S608 - ours
            time.sleep(0.2)
        with Client(running.address, running.access.api_key, patience=60.0) as client:
            newest = next(iter(client.batches()))["id"]
        first = [number / WATCHERS for number in range(WATCHERS)]
        path = f"/api/v1/batches/{newest}"
        arguments = (running.address, running.access.api_key, path, first, ended, polled)
        watchers = context.Process(target=poll, args=arguments, daemon=True)
        watchers.start()
        polls.extend(polled.get())
        watchers.join()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    seconds, batch = send(running, images, label=label, reports=reports)
    ended.set()
    seen.ended.set()
    watcher.join()
    sampler.join()
    submitted = datetime.fromisoformat(batch["submitted_at"]).timestamp()
    waits = {
        "": [took for _, took in polls],
        " while files come": [took for at, took in polls if at < submitted],
        " while they are read": [took for at, took in polls if at >= submitted],
    }
    total = batch["counts"]["total"]
    column: dict[str, str | int | float] = {
        "seconds": round(seconds, 1),
        "ms an image": 1000 * seconds / total,
        "messages": pushed() - before,
        "units of work": database_value("SELECT count(*) FROM work") - units,
        "polls": len(polls),
        "poll p50 ms": 1000 * quantile(waits[""], 0.5),
        **{f"poll p99 ms{when}": 1000 * quantile(took, 0.99) for when, took in waits.items() if took},
        "database MB": database_value("SELECT pg_database_size(current_database())") / 2**20,
        "Valkey MB": int(broker.info("memory")["used_memory"]) / 2**20,  # type: ignore[index,arg-type]
    }
    for role in dict.fromkeys(ROLES.values()):
        sizes = seen.memory.get(role) or [0]
        third = max(1, len(sizes) // 3)
        column[f"{role} MB"] = f"{max(sizes[:third]) / 2**20:.0f} -> {max(sizes[-third:]) / 2**20:.0f}"
    return column


def main() -> None:
    """Print one table: batches of growing size on one server."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--counts", type=int, nargs="+", default=[100, 1000, 10_000], metavar="N")
    parser.add_argument("--no-reports", dest="reports", action="store_false", help="for very large batches")
    arguments = parser.parse_args()
    before = machine()
    columns: dict[str, dict[str, Any]] = {}
    pictures = small_pictures()

    def work(running: Server, folder: Path) -> None:
        for series, count in enumerate(arguments.counts):
            images = write_variants(folder / str(series), pictures, count, series)
            columns[f"{count:,} images"] = grow(running, images, f"bench {series}", reports=arguments.reports)

    with_server(work)
    rows = {
        name: {column: values[name] for column, values in columns.items()}
        for name in next(iter(columns.values()))
    }
    kind = "" if arguments.reports else ", without reports"
    title = f"A whole server{kind}, {WATCHERS} watchers; memory: most in the first third -> in the last"
    publish("service", title, rows, before)


if __name__ == "__main__":
    main()

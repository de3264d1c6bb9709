"""Whether people who watch a batch's page slow its reading: ``python -m bench.watchers``.

Batches are read on one server by turns with no watchers and with many. A watcher does what the page's script
does (``web/static/batch.js``): it asks for the batch with its ETag, the slower the less changes and as seldom
as the server wants, and now and then for the page's table. The watchers run on this machine too, as a process
of their own; what they take is told as well.
"""

from __future__ import annotations

import argparse
import http.client
import json
import multiprocessing
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bench.measure import Spread, machine, publish, quantile
from bench.service import ROLES, by_role, processor_seconds, send, small_pictures, with_server, write_variants
from cli.supervise import Server

#: As in ``web/static/batch.js``.
QUICK, SLOWEST, TABLE_EVERY = 1.5, 20.0, 15.0
ENDED = frozenset({"done", "partial", "failed", "cancelled"})


@dataclass
class Answers:
    """What all watchers of a batch saw: answers by status, pages, seconds an answer took."""

    answers: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    cpu: float = 0.0


class Watcher:
    """One open page over one kept connection."""

    def __init__(self, address: str, key: str, seen: Answers) -> None:
        url = urlsplit(address)
        self.connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=120)
        self.headers = {"Authorization": f"Bearer {key}"}
        self.seen = seen

    def ask(self, path: str, **headers: str) -> tuple[http.client.HTTPResponse, bytes, float]:
        """Ask once; return the answer, its body, and the seconds after which to come back."""
        started = time.perf_counter()
        self.connection.request("GET", path, headers=self.headers | headers)
        answer = self.connection.getresponse()
        body = answer.read()
        self.seen.seconds.append(time.perf_counter() - started)
        self.seen.answers["page" if path.startswith("/batches") else str(answer.status)] += 1
        return answer, body, float(answer.headers.get("X-Poll-Interval", 0))

    def follow(self, batch_id: str) -> None:
        """Watch a batch until it has ended."""
        page, live = f"/batches/{batch_id}", f"/api/v1/batches/{batch_id}"
        self.ask(page)
        etag, pause, table_since, stale = '""', QUICK, time.monotonic(), False
        while True:
            time.sleep(pause * random.uniform(0.8, 1.2))  # noqa: S311 - not for secrets
            answer, body, told = self.ask(live, **{"If-None-Match": etag})
            if answer.status == http.HTTPStatus.OK:
                etag = answer.headers["ETag"]
                pause, stale = max(QUICK, told), True
                if json.loads(body)["status"] in ENDED:
                    self.ask(page)
                    return
            elif answer.status == http.HTTPStatus.NOT_MODIFIED:
                pause = max(min(1.5 * pause, SLOWEST), told)
            else:
                raise RuntimeError(f"the server answered {answer.status}")
            if stale and time.monotonic() - table_since > max(TABLE_EVERY, 5 * told):
                self.ask(page)
                table_since, stale = time.monotonic(), False


def _batch_called(address: str, key: str, label: str) -> str:
    """Wait until a batch of this label is read, or was; return its id."""
    watcher = Watcher(address, key, Answers())
    while True:
        items = json.loads(watcher.ask("/api/v1/batches?limit=5")[1])["items"]
        for batch in items:
            if batch["label"] == label and batch["status"] != "draft":
                return str(batch["id"])
        time.sleep(0.2)


def watch(address: str, key: str, label: str, n: int, said: Any) -> None:
    """Watch a batch with `n` pages until it has ended; put a `Answers` into the queue `said`."""
    batch_id = _batch_called(address, key, label)
    seen, failed, began = Answers(), [], time.process_time()

    def one() -> None:
        try:
            time.sleep(random.uniform(0, QUICK))  # noqa: S311
            Watcher(address, key, seen).follow(batch_id)
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=one) for _ in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seen.cpu = time.process_time() - began
    said.put(RuntimeError(f"{len(failed)} watchers failed: {failed[0]}") if failed else seen)


def read_watched(running: Server, images: Path, label: str, watchers: int) -> dict[str, float]:
    """Have a batch read while so many watch; return the figures."""
    context = multiprocessing.get_context("spawn")
    said: Any = context.Queue()
    arguments = (running.address, running.access.api_key, label, watchers, said)
    process = context.Process(target=watch, args=arguments, daemon=True)
    if watchers:
        process.start()
    before = by_role(processor_seconds)
    _, batch = send(running, images, label=label)
    after = by_role(processor_seconds)
    begun, ended = (datetime.fromisoformat(batch[f"{name}_at"]) for name in ("submitted", "finished"))
    seconds = (ended - begun).total_seconds()
    figures = {
        "images/s": batch["counts"]["total"] / seconds,
        **{f"{role}, CPU s": after[role] - before[role] for role in dict.fromkeys(ROLES.values())},
    }
    if watchers:
        seen = said.get(timeout=300)
        process.join()
        if isinstance(seen, Exception):
            raise seen
        asked = sum(seen.answers.values())
        figures |= {
            "requests/s": asked / seconds,
            "of them 304, %": 100 * seen.answers["304"] / asked,
            "of them pages, %": 100 * seen.answers["page"] / asked,
            "answer p50 ms": 1000 * quantile(seen.seconds, 0.5),
            "answer p99 ms": 1000 * quantile(seen.seconds, 0.99),
            "watchers themselves, CPU s": seen.cpu,
        }
    return figures


def open_together(running: Server, label: str, people: int) -> dict[str, float]:
    """Have so many people open the page of an ended batch within a second; return the figures."""
    key = running.access.api_key
    page = f"/batches/{_batch_called(running.address, key, label)}"
    seen = Answers()

    def one() -> None:
        watcher = Watcher(running.address, key, seen)
        time.sleep(random.random())  # noqa: S311
        watcher.ask(page)

    threads = [threading.Thread(target=one) for _ in range(people)]
    before = by_role(processor_seconds)["web"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {
        "page opened within a second of each other, p50 ms": 1000 * quantile(seen.seconds, 0.5),
        "the same, p99 ms": 1000 * quantile(seen.seconds, 0.99),
        "the same, web CPU ms each": 1000 * (by_role(processor_seconds)["web"] - before) / people,
    }


def main() -> None:
    """Print images a second and processor time, without watchers and with them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--images", type=int, default=2000, help="of each batch")
    parser.add_argument("--watchers", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=2, help="batches of each kind, by turns")
    arguments, before = parser.parse_args(), machine()
    kinds = {"no watchers": 0, f"{arguments.watchers} watchers": arguments.watchers}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in kinds}
    pictures = small_pictures()

    def work(running: Server, folder: Path) -> None:
        for number in range(arguments.rounds):
            for series, (name, watchers) in enumerate(kinds.items(), 2 * number):
                images = write_variants(folder / str(series), pictures, arguments.images, series)
                figures = read_watched(running, images, f"bench {series}", watchers)
                if watchers:
                    figures |= open_together(running, f"bench {series}", watchers)
                found[name].append(figures)

    with_server(work)
    columns = {
        name: {figure: Spread.of([one[figure] for one in rounds]) for figure in rounds[0]}
        for name, rounds in found.items()
    }
    figures = list(dict.fromkeys(figure for column in columns.values() for figure in column))
    rows = {
        figure: {name: column[figure] for name, column in columns.items() if figure in column}
        for figure in figures
    }
    title = f"Watchers of a batch of {arguments.images:,} images, {arguments.rounds} rounds by turns"
    publish("watchers", title, rows, before)


if __name__ == "__main__":
    main()

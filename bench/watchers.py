"""Whether people who watch a batch's page slow its reading: ``python -m bench.watchers``.

Batches are read on one server by turns with no watchers and with many. A watcher does what the page's script
does (``web/static/batch.js``): it asks for the batch with its ETag, the slower the less changes and as seldom
as the server wants, and now and then for the page's table. The watchers run on this machine too, as a process
of their own; what they take is told as well.
"""

from __future__ import annotations

import argparse
import http
import itertools
import json
import multiprocessing
import random
import time
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from bench.asking import Answer, Client, ask_all
from bench.measure import Spread, machine, publish, quantile
from bench.service import ROLES, by_role, processor_seconds, send, small_pictures, with_server, write_variants
from cli.client import Client as ApiClient
from cli.supervise import Server

#: As in ``web/static/batch.js``.
QUICK, SLOWEST, TABLE_EVERY = 1.5, 20.0, 15.0
ENDED = frozenset({"done", "partial", "failed", "cancelled"})


class Watcher(Client):
    """One open page: what its script asks for until the batch has ended."""

    def __init__(self, address: str, key: str, batch_id: str) -> None:
        self._page, self._live = f"/batches/{batch_id}", f"/api/v1/batches/{batch_id}"
        super().__init__(address, self._page, Authorization=f"Bearer {key}")
        self._pause, self._next_pause = QUICK, QUICK
        self._table_since, self._stale, self._ended = time.monotonic(), False, False
        self.seen: Counter[str] = Counter()

    def then(self, answer: Answer) -> float | None:
        """Return after how many seconds to ask for what next."""
        is_page = self.path == self._page
        self.seen["page" if is_page else str(answer.status)] += 1
        if is_page:
            if self._ended:
                return None
            self._table_since, self._stale = time.monotonic(), False
            self.path = self._live
        elif answer.status == http.HTTPStatus.OK:
            self.headers["If-None-Match"] = answer.header("etag")
            self._pause, self._stale = max(QUICK, answer.told), True
            if json.loads(answer.body)["status"] in ENDED:
                self._ended, self.path = True, self._page
                return 0.0
        elif answer.status == http.HTTPStatus.NOT_MODIFIED:
            self._pause = max(min(1.5 * self._pause, SLOWEST), answer.told)
        else:
            raise RuntimeError(f"the server answered {answer.status}")
        if self._stale and time.monotonic() - self._table_since > max(TABLE_EVERY, 5 * answer.told):
            self.path = self._page
            return 0.0
        return self._pause * random.uniform(0.8, 1.2)  # noqa: S311 - not for secrets


@dataclass
class Seen:
    """What all watchers of a batch saw: answers by status, pages, seconds an answer took, what they took."""

    answers: Counter[str]
    seconds: list[float]
    cpu: float


def _batch_called(address: str, key: str, label: str) -> str:
    """Wait until a batch of this label is read, or was; return its id."""
    with ApiClient(address, key, patience=60.0) as client:
        while True:
            for batch in itertools.islice(client.batches(), 5):
                if batch["label"] == label and batch["status"] != "draft":
                    return str(batch["id"])
            time.sleep(0.2)


def watch(address: str, key: str, label: str, n: int, said: Any) -> None:
    """Watch a batch with `n` pages until it has ended; put `Seen`, or an error, into the queue `said`."""
    try:
        batch_id = _batch_called(address, key, label)
        began = time.process_time()
        watchers = [Watcher(address, key, batch_id) for _ in range(n)]
        answers = ask_all(watchers, [random.uniform(0, QUICK) for _ in watchers])  # noqa: S311
        total = sum((watcher.seen for watcher in watchers), Counter[str]())
        said.put(Seen(total, [answer.seconds for answer in answers], time.process_time() - began))
    except Exception as error:
        said.put(error)


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
                found[name].append(read_watched(running, images, f"bench {series}", watchers))

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

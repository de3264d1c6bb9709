"""What an image costs beside its reading, and how far that carries: ``python -m bench.control_plane``.

A whole server whose workers compute nothing (`bench.idle`): upload, rows, messages, leases and bytes are as
ever, those of reports too. Processor milliseconds an image by component beyond what the server takes at rest,
how long a worker is at an image in each stage (it waits for the disk), and images a second with ever more
workers, until more of them no longer help. Small chunks tell what a chunk costs, however many images it has.
"""

from __future__ import annotations

import argparse
import os
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from bench.measure import Spread, machine, publish
from bench.service import (
    ROLES,
    by_role,
    database_value,
    in_own_process,
    processor_seconds,
    send,
    small_pictures,
    with_server,
    write_variants,
)
from cli import supervise
from cli.child import Child
from cli.supervise import Server
from vocabulary.states import STAGES

Spreads = dict[str, Spread]
ALONE = "a study of two images by itself"
SMALL_CHUNK = 4
SMALL = f"an image, in chunks of {SMALL_CHUNK}"
#: Rows that say how long a worker is at an image.
HELD = "ms of a worker"
REST = 30.0


def idle_workers() -> None:
    """Have the servers that are started from here on use workers which compute nothing."""
    real = supervise.processes

    def idle(*arguments: Any, **named: Any) -> list[Child]:
        children = real(*arguments, **named)
        for child in children:
            child.argv = ["bench.idle" if part == "worker.app" else part for part in child.argv]
        return children

    supervise.processes = idle


class Spent:
    """Processor seconds by component while the block ran."""

    def __enter__(self) -> Spent:
        self._before, self._began = by_role(processor_seconds), time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        after = by_role(processor_seconds)
        self.wall = time.monotonic() - self._began
        self.seconds = {role: after[role] - self._before[role] for role in dict.fromkeys(ROLES.values())}

    def beyond(self, rest: Spent, parts: int) -> dict[str, float]:
        """Return the milliseconds of each of so many parts beyond what is taken at `rest` in that time."""
        share = self.wall / rest.wall
        spent = {role: 1000 * (s - share * rest.seconds[role]) / parts for role, s in self.seconds.items()}
        return {**spent, "all": sum(spent.values())}


def at_rest(seconds: float) -> Spent:
    """Return what a server takes that has nothing to do."""
    with Spent() as rest:
        time.sleep(seconds)
    return rest


def carried(running: Server, images: Path, label: str, rest: Spent) -> dict[str, float]:
    """Have a batch carried through; return images a second, and milliseconds an image."""
    with Spent() as spent:
        _, batch = send(running, images, label=label)
    begun, ended = (datetime.fromisoformat(batch[f"{name}_at"]) for name in ("submitted", "finished"))
    total = batch["counts"]["total"]
    taken = f"SELECT ms_%s FROM batches WHERE id = '{batch['id']}'"  # noqa: S608 - ours
    held = {f"{stage}, {HELD}": database_value(taken % stage) / total for stage in STAGES}
    return {**spent.beyond(rest, total), **held, "images/s": total / (ended - begun).total_seconds()}


def carried_alone(running: Server, images: Path, count: int, rest: Spent) -> dict[str, float]:
    """Have studies of two images come one after the other; return processor milliseconds a study."""
    with Spent() as spent:
        for number in range(count):
            send(running, images / f"{number:04d}", label=f"alone {number}")
    return spent.beyond(rest, count)


def measure(
    slots: int, images: int, rounds: int, alone: int, chunk: int = 0
) -> tuple[Spreads, Spreads, Spreads]:
    """Return what a server with so many decoding workers takes, over some rounds; in a process of its own.

    Parameters
    ----------
    chunk
        Images that travel together; 0: as many as ever.

    Returns
    -------
    tuple
        What `carried` says; what `carried_alone` does of `alone` studies, empty if there are none; and
        processor milliseconds a second at rest.
    """
    if chunk:
        os.environ["FRACTUREAI_CHUNK_SIZE"] = str(chunk)
    idle_workers()
    seen: list[dict[str, float]] = []
    single: list[dict[str, float]] = []
    resting: list[dict[str, float]] = []

    def work(running: Server, folder: Path) -> None:
        pictures = small_pictures(8)
        time.sleep(5)  # until the warm-up's last traces are gone
        rest = at_rest(REST)
        resting.append({role: 1000 * s / rest.wall for role, s in rest.seconds.items()})
        for number in range(rounds):
            files = write_variants(folder / f"round{number}", pictures, images, 2 * number + 1)
            seen.append(carried(running, files, f"round {number}", rest))
            if alone:
                studies = folder / f"alone{number}"
                for n in range(alone):
                    write_variants(studies / f"{n:04d}", pictures, 2, 10_000 + alone * number + n)
                single.append(carried_alone(running, studies, alone, rest))

    with_server(work, workers=slots)
    return spreads(seen), spreads(single), spreads(resting)


def _row(name: str) -> str:
    return name if name == "images/s" or name.endswith(HELD) else f"{name}, CPU ms"


def spreads(seen: list[dict[str, float]]) -> Spreads:
    """Return the figures of several rounds by name."""
    return {name: Spread.of([each[name] for each in seen]) for name in (seen[0] if seen else ())}


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--alone", type=int, default=50, help="studies of two images that come by themselves")
    arguments = parser.parse_args()
    before = machine()
    figures: dict[str, dict[str, Spread]] = {}
    for position, slots in enumerate(arguments.workers):
        alone = 0 if position else arguments.alone
        many, single, resting = in_own_process(measure, slots, arguments.images, arguments.rounds, alone)
        column = f"an image; {slots} decoding, {supervise.REPORTS_A_DECODER * slots} reporting"
        for name, value in many.items():
            figures.setdefault(_row(name), {})[column] = value
        for name, value in single.items():
            figures[f"{name}, CPU ms"][ALONE] = value
        if not position:
            for name, value in resting.items():
                figures[f"{name}, CPU ms"]["a second at rest"] = value
        if not position:
            for name, value in in_own_process(
                measure, slots, arguments.images, arguments.rounds, 0, SMALL_CHUNK
            )[0].items():
                figures[_row(name)][SMALL] = value
        title = f"Workers that compute nothing, {arguments.images} images a round, {arguments.rounds} rounds"
        publish("control_plane", title, figures, before)  # as far as it is: the next column takes long


if __name__ == "__main__":
    main()

"""The best this machine could do: each stage alone, then all cores on them: ``python -m bench.floor``."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2

from bench.measure import Spread, machine, publish
from bench.reading import ROOT, STAGES, Reader, chunks
from phantoms.files import write_phantoms

REGIONS = ("hand", "leg", "hip", "shoulder")


def make_images(folder: Path, count: int, seed: int = 0) -> Path:
    """Write JPEG phantoms of the usual sizes; return the folder."""
    write_phantoms(folder, count, seed=seed, regions=REGIONS, formats=("jpeg",))
    return folder


def stage_times(folder: Path, rounds: int) -> dict[str, dict[str, Spread]]:
    """Return the processor milliseconds an image of each stage, alone in one process on one thread."""
    cv2.setNumThreads(1)
    files = [path.read_bytes() for path in sorted(folder.iterdir())]
    reader = Reader.open()
    reader.read(files[:8], reports=True)
    seen: dict[str, list[float]] = {stage: [] for stage in STAGES}
    for _ in range(rounds):
        reader.cpu.clear()
        for some in chunks(files):
            reader.read(some, reports=True)
        for stage in STAGES:
            seen[stage].append(1000 * reader.cpu[stage] / len(files))
    rows = {stage: {"CPU ms an image": Spread.of(times)} for stage, times in seen.items()}
    totals = [sum(times) for times in zip(*seen.values(), strict=True)]
    rows["all"] = {"CPU ms an image": Spread.of(totals)}
    return rows


@contextmanager
def all_cores() -> Iterator[list[subprocess.Popen[str]]]:
    """Start one reading process a core, everything loaded; end them with the block."""
    readers = [
        subprocess.Popen(
            [sys.executable, "-m", "bench.reading"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(len(os.sched_getaffinity(0)))
    ]
    try:
        for process in readers:
            assert process.stdout is not None
            if process.stdout.readline().strip() != "ready":
                raise RuntimeError("a reading process did not start")
        yield readers
    finally:
        for process in readers:
            process.kill()
            process.communicate()


def read_with(readers: list[subprocess.Popen[str]], folder: Path, *, reports: bool) -> float:
    """Read a folder with all processes at once; return images a second."""
    started = time.perf_counter()
    for part, process in enumerate(readers):
        assert process.stdin is not None
        process.stdin.write(f"{folder} {part} {len(readers)} {int(reports)}\n")
        process.stdin.flush()
    done = 0
    for process in readers:
        assert process.stdout is not None
        done += int(process.stdout.readline())
    return done / (time.perf_counter() - started)


def main() -> None:
    """Print both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    before = machine()
    with tempfile.TemporaryDirectory(prefix="fractureai-bench-") as name:
        folder = make_images(Path(name), arguments.count)
        rows = stage_times(folder, arguments.rounds)
        rates: dict[bool, list[float]] = {True: [], False: []}
        with all_cores() as readers:
            for _ in range(arguments.rounds):
                for reports, seen in rates.items():
                    seen.append(read_with(readers, folder, reports=reports))
    rows["every core, with reports"] = {"images/s": Spread.of(rates[True])}
    rows["every core, without reports"] = {"images/s": Spread.of(rates[False])}
    publish("floor", f"The stages' code alone, {arguments.count} phantoms", rows, before)


if __name__ == "__main__":
    main()

"""Rounds, spread, the machine, and where results go: what all benchmarks share."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

from pipeline.metrics import bootstrap

ROOT = Path(__file__).resolve().parent.parent
#: Committed, and shown by `bench.tables`. Tries with tiny counts go elsewhere.
RESULTS = Path(os.environ.get("FRACTUREAI_BENCH_RESULTS", Path(__file__).parent / "results"))


@dataclass(frozen=True)
class Spread:
    """A figure of several rounds: the middle one, the least and the greatest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of at least one value."""
        return cls(statistics.median(values), min(values), max(values))

    def __str__(self) -> str:
        """Show the middle and, if there were rounds, what lies around it."""
        if self.low == self.high:
            return shown(self.median)
        return f"{shown(self.median)} ({shown(self.low)} to {shown(self.high)})"


def shown(value: Any) -> str:
    """Return a cell's text: numbers with three figures, or more where they are large."""
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value)


def columns_of(figures: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the names of a table's columns, in the order of their first use."""
    return list(dict.fromkeys(column for row in figures.values() for column in row))


def timed(call: Callable[[], object]) -> float:
    """Return the wall-clock seconds of a call."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def cpu_timed(call: Callable[[], object]) -> float:
    """Return the processor seconds of a call: all threads of this process, whatever else the machine does."""
    started = time.process_time()
    call()
    return time.process_time() - started


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value below which `share` of the values lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def with_interval(figure: Callable[[Any], float], groups: Sequence[str]) -> str:
    """Return a figure with its 95% interval, bootstrap over groups.

    Parameters
    ----------
    figure
        Takes image numbers, which may repeat.
    """
    said = f"{figure(np.arange(len(groups))):.3f}"
    found = bootstrap(lambda numbers: {"it": figure(numbers)}, groups).get("it")
    return f"{said} ({found[0]:.3f} to {found[1]:.3f})" if found else said


def machine() -> dict[str, Any]:
    """Say what this machine is, and how busy it was before the benchmark began."""
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {
        "processor": model,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(psutil.virtual_memory().total / 2**30),
        "load_before": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
    }


def plain(value: Any) -> Any:
    """Return a value as JSON takes it."""
    if isinstance(value, Spread):
        return {name: float(f"{number:.4g}") for name, number in asdict(value).items()}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def publish(
    name: str, title: str, figures: Mapping[str, Mapping[str, Any]], before: Mapping[str, Any]
) -> None:
    """Print a table and write ``bench/results/NAME.json``, which `bench.tables` puts into the docs.

    Parameters
    ----------
    figures
        Row name to figures by column.
    before
        What `machine` said when the benchmark began.
    """
    command = "python -m " + " ".join([f"bench.{Path(sys.argv[0]).stem}", *sys.argv[1:]])
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    columns = columns_of(figures)
    table = Table(title=f"{title}\n{command}", title_justify="left")
    table.add_column("")
    for column in columns:
        table.add_column(column, justify="right")
    for row, cells in figures.items():
        table.add_row(row, *(shown(cells.get(column, "")) for column in columns))
    Console(width=max(100, Console().width)).print(table)
    RESULTS.mkdir(parents=True, exist_ok=True)
    written = {
        "title": title,
        "command": command,
        "commit": commit,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": dict(before),
        "figures": plain(figures),
    }
    (RESULTS / f"{name}.json").write_text(json.dumps(written, indent=1) + "\n")

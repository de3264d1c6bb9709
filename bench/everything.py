"""Every benchmark in turn, as ``make bench`` runs them: ``python -m bench.everything [--quick]``."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.measure import ROOT
from bench.tables import markdown

#: Module to its arguments, and to those of a quick try.
BENCHES: dict[str, tuple[list[str], list[str]]] = {
    "bench.floor": ([], ["--count", "16", "--rounds", "1"]),
    "bench.prepare": ([], ["--rounds", "1", "--images", "2"]),
    "bench.report": ([], ["--rounds", "1"]),
    "bench.scoring": ([], ["--rounds", "1"]),
    "bench.compare": (
        ["--count", "2000"],
        ["--count", "32", "--rounds", "1", "--plain", "4"],
    ),
    "bench.latency": ([], ["--samples", "2", "--load", "40"]),
    "bench.finish": ([], ["--images", "300"]),
    "bench.downloads": ([], ["--rows", "300", "--reports", "30"]),
    "bench.service": ([], ["--counts", "20", "40"]),
    "bench.control_plane": ([], ["--images", "40", "--rounds", "1", "--workers", "1", "--alone", "2"]),
    "bench.simulate": ([], []),
    "bench.crowd": ([], ["--images", "20", "--people", "10", "--rounds", "1"]),
    "bench.watchers": ([], ["--images", "40", "--watchers", "5", "--rounds", "1"]),
}


def main() -> None:
    """Run them, then fill the docs' tables; a failing one does not keep the others from running."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny counts, nothing kept: does all still run?")
    parser.add_argument("--images", type=Path, help="folder of real radiographs, for bench.scoring")
    arguments = parser.parse_args()
    real = ["--images", str(arguments.images)] if arguments.images else []
    failed = []
    with tempfile.TemporaryDirectory(prefix="fractureai-bench-") as tries:
        environment = {**os.environ, **({"FRACTUREAI_BENCH_RESULTS": tries} if arguments.quick else {})}
        for module, (full, quick) in BENCHES.items():
            command = [sys.executable, "-m", module, *(quick if arguments.quick else full)]
            started = time.monotonic()
            status = subprocess.run(
                [*command, *(real if module == "bench.scoring" else [])],
                cwd=ROOT,
                env=environment,
                check=False,
            )
            print(f"{module}: {time.monotonic() - started:.0f} s\n", flush=True)
            if status.returncode:
                failed.append(module)
        for kept in Path(tries).iterdir():
            markdown(json.loads(kept.read_text()))
    if not arguments.quick:
        subprocess.run([sys.executable, "-m", "bench.tables"], cwd=ROOT, check=True)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()

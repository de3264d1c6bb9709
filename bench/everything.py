"""Every benchmark in turn, as ``make bench`` runs them: ``python -m bench.everything [--quick]``."""

from __future__ import annotations

import argparse
import subprocess
import sys

from bench.measure import ROOT

#: Module to its arguments, and to those of a quick try.
BENCHES: dict[str, tuple[list[str], list[str]]] = {
    "bench.floor": ([], ["--count", "16", "--rounds", "1"]),
    "bench.report": ([], []),
    "bench.scoring": ([], ["--rounds", "1"]),
    "bench.compare": (
        ["--count", "2000"],
        ["--count", "32", "--rounds", "1", "--plain", "4"],
    ),
    "bench.latency": ([], ["--samples", "2", "--load", "40"]),
    "bench.finish": ([], ["--images", "300"]),
    "bench.service": ([], ["--counts", "20", "40"]),
}


def main() -> None:
    """Run them; a failing one does not keep the others from running."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny counts: does everything still run?")
    arguments = parser.parse_args()
    failed = []
    for module, (full, quick) in BENCHES.items():
        command = [sys.executable, "-m", module, *(quick if arguments.quick else full)]
        if subprocess.run(command, cwd=ROOT, check=False).returncode:
            failed.append(module)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()

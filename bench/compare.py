"""The service, the floor and a plain script on the same images, in turns: ``python -m bench.compare``.

On a rented machine the hypervisor takes processor time away, now half of it, now none. What it took is
printed, and the ratios once as seen and once as if it had taken nothing.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import psutil

from bench.floor import all_cores, make_images, read_with
from bench.measure import ROOT, Spread, machine, publish
from bench.reading import BUNDLE
from bench.service import send, with_server, write_variants
from cli.supervise import Server

#: Of a batch that is read: without its upload and its ZIP.
READING = "from submission to end"


@dataclass(frozen=True)
class Rate:
    """Images a second, and the share of the busy processor time that the machine really had meanwhile."""

    seen: float
    share: float

    @property
    def corrected(self) -> float:
        """Images a second, had the hypervisor taken nothing away."""
        return self.seen / self.share


def given() -> Callable[[], float]:
    """Return a function that says which share (0-1) of the busy time since now the hypervisor left us."""
    before = psutil.cpu_times()

    def share() -> float:
        now = psutil.cpu_times()
        stolen = getattr(now, "steal", 0.0) - getattr(before, "steal", 0.0)
        busy = sum(getattr(now, name) - getattr(before, name) for name in ("user", "nice", "system"))
        return busy / (busy + stolen)

    return share


def main() -> None:
    """Print one table with the ratios of each round."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=500, help="images a round")
    parser.add_argument("--plain", type=int, default=40, help="images a round for the plain script")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    before = machine()
    seen: dict[str, list[Rate]] = defaultdict(list)

    def work(running: Server, folder: Path) -> None:
        made = make_images(folder / "made", min(arguments.count, 128))
        pictures = [path.read_bytes() for path in sorted(made.iterdir())]
        images = write_variants(folder / "floor", pictures, arguments.count, 0)
        for number in range(arguments.rounds):
            with all_cores() as readers:
                for reports, name in ((False, "without reports"), (True, "with reports")):
                    share = given()
                    rate = read_with(readers, images, reports=reports)
                    seen[f"floor, {name}"].append(Rate(rate, share()))
            for reports, name in ((False, "without reports"), (True, "with reports")):
                series = 10 + 2 * number + reports
                mine = write_variants(folder / f"service-{series}", pictures, arguments.count, series)
                share = given()
                out = folder / f"{series}.zip"
                seconds, batch = send(running, mine, reports=reports, out=out, bundle=BUNDLE.name)
                out.unlink()
                taken = share()
                seen[f"service, {name}"].append(Rate(arguments.count / seconds, taken))
                begun, ended = (datetime.fromisoformat(batch[f"{at}_at"]) for at in ("submitted", "finished"))
                rate = arguments.count / (ended - begun).total_seconds()
                seen[f"service, {name}, {READING}"].append(Rate(rate, taken))
            seen["plain script, with reports"].append(_plain_rate(images, arguments.plain))

    with_server(work)
    rows: dict[str, dict[str, Spread | str]] = {
        name: {
            "images/s": Spread.of([rate.seen for rate in rates]),
            "taken away, %": Spread.of([100 * (1 - rate.share) for rate in rates]),
        }
        for name, rates in seen.items()
    }

    def compare(a: str, b: str, goal: str) -> dict[str, Spread | str]:
        pairs = list(zip(seen[a], seen[b], strict=True))
        return {
            "ratio": Spread.of([one.seen / other.seen for one, other in pairs]),
            "ratio, corrected": Spread.of([one.corrected / other.corrected for one, other in pairs]),
            "goal": goal,
        }

    for name in ("without reports", "with reports"):
        rows[f"service / floor, {name}"] = compare(f"service, {name}", f"floor, {name}", "0.95")
    for whose, goal in (("service", "15"), ("floor", "")):
        rows[f"{whose} / plain script"] = compare(
            f"{whose}, with reports", "plain script, with reports", goal
        )
    title = f"{arguments.count} phantoms a round, {arguments.rounds} rounds, upload to ZIP"
    publish("compare", title, rows, before)


def _plain_rate(images: Path, count: int) -> Rate:
    """Run the plain script in a process of its own; its start and first images do not count."""
    script = subprocess.Popen(
        [sys.executable, "-m", "bench.naive"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert script.stdin is not None
        assert script.stdout is not None
        if script.stdout.readline().strip() != "ready":
            raise RuntimeError("the plain script did not start")
        script.stdin.write(f"{images} {count}\n")
        script.stdin.flush()
        script.stdout.readline()  # warm
        started, share = time.perf_counter(), given()
        done = int(script.stdout.readline())
        return Rate(done / (time.perf_counter() - started), share())
    finally:
        script.kill()
        script.communicate()


if __name__ == "__main__":
    main()

"""The service, the floor and a plain script on the same images, in turns: ``python -m bench.compare``."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

from bench.floor import all_cores, make_images, read_with
from bench.measure import ROOT, Spread, machine, publish
from bench.service import send, with_server, write_variants
from cli.supervise import Server


def main() -> None:
    """Print one table with the ratios of each round."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=500, help="images a round")
    parser.add_argument("--plain", type=int, default=40, help="images a round for the plain script")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    before = machine()
    seen: dict[str, list[float]] = defaultdict(list)

    def work(running: Server, folder: Path) -> None:
        made = make_images(folder / "made", min(arguments.count, 128))
        pictures = [path.read_bytes() for path in sorted(made.iterdir())]
        images = write_variants(folder / "floor", pictures, arguments.count, 0)
        for number in range(arguments.rounds):
            with all_cores() as readers:
                for reports, name in ((False, "without reports"), (True, "with reports")):
                    seen[f"floor, {name}"].append(read_with(readers, images, reports=reports))
            for reports, name in ((False, "without reports"), (True, "with reports")):
                series = 10 + 2 * number + reports
                mine = write_variants(folder / f"service-{series}", pictures, arguments.count, series)
                seconds, _ = send(running, mine, reports=reports, out=folder / f"{series}.zip")
                (folder / f"{series}.zip").unlink()
                seen[f"service, {name}"].append(arguments.count / seconds)
            seen["plain script, with reports"].append(_plain_rate(images, arguments.plain))

    with_server(work)
    rows: dict[str, dict[str, Spread | str]] = {
        name: {"images/s": Spread.of(rates)} for name, rates in seen.items()
    }
    for name in ("without reports", "with reports"):
        pairs = zip(seen[f"service, {name}"], seen[f"floor, {name}"], strict=True)
        rows[f"service / floor, {name}"] = {"ratio": Spread.of([a / b for a, b in pairs]), "goal": "0.85"}
    for whose in ("service", "floor"):
        pairs = zip(seen[f"{whose}, with reports"], seen["plain script, with reports"], strict=True)
        goal = {"goal": "10"} if whose == "service" else {}
        rows[f"{whose} / plain script"] = {"ratio": Spread.of([a / b for a, b in pairs]), **goal}
    title = f"{arguments.count} phantoms a round, {arguments.rounds} rounds, upload to ZIP"
    publish("compare", title, rows, before)


def _plain_rate(images: Path, count: int) -> float:
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
        started = time.perf_counter()
        done = int(script.stdout.readline())
        return done / (time.perf_counter() - started)
    finally:
        script.kill()
        script.communicate()


if __name__ == "__main__":
    main()

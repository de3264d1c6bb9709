"""One urgent image, the server idle and under a full low-priority load: ``python -m bench.latency``."""

from __future__ import annotations

import argparse
import statistics
import threading
from pathlib import Path

from bench.floor import make_images
from bench.measure import machine, publish, quantile
from bench.service import send, with_server, write_variants
from cli.client import Client
from cli.supervise import Server


def main() -> None:
    """Print p50 and p95 of submit to result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("--load", type=int, default=2000, help="images of the low-priority batch")
    arguments = parser.parse_args()
    before = machine()
    rows: dict[str, dict[str, float]] = {}

    def work(running: Server, folder: Path) -> None:
        made = make_images(folder / "made", 64)
        pictures = [path.read_bytes() for path in sorted(made.iterdir())]
        series = iter(range(1000))

        def one() -> float:
            number = next(series)
            mine = write_variants(folder / f"one-{number}", pictures, 1, 2000 + number)
            return send(running, mine, priority="urgent")[0]

        def sample(name: str, goes_on: threading.Event | None) -> None:
            seen: list[float] = []
            while len(seen) < arguments.samples and (goes_on is None or not goes_on.is_set()):
                seen.append(one())
            rows[name] = {
                "p50 s": statistics.median(seen),
                "p95 s": quantile(seen, 0.95),
                "samples": float(len(seen)),
            }

        sample("idle", None)
        load = write_variants(folder / "load", pictures, arguments.load, 5000)
        over = threading.Event()
        threading.Thread(target=_keep_busy, args=(running, load, over), daemon=True).start()
        with Client(running.address, running.access.api_key, patience=60.0) as client:
            while not any(batch["status"] == "running" for batch in client.batches()):
                if over.wait(0.5):
                    break
            sample("under a low-priority load", over)
            for batch in client.batches():
                if batch["status"] in {"queued", "running"}:
                    client.act(batch["id"], "cancel")
        over.wait(120)

    with_server(work)
    publish("latency", f"One urgent image, submit to result; load of {arguments.load} images", rows, before)


def _keep_busy(running: Server, load: Path, over: threading.Event) -> None:
    try:
        send(running, load, reports=True, priority="low")
    except RuntimeError:  # cancelled when the samples are taken
        pass
    finally:
        over.set()


if __name__ == "__main__":
    main()

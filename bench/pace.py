"""How well the time left is estimated on real runs: ``python -m bench.pace [--record]``.

With ``--record`` a whole server reads batches of several sizes and mixes, and what its counters said at each
change is kept in `bench/runs/` as JSON, with the load that the machine had before. Without it the estimates
are printed that the estimator makes of those files; `tests/unit/test_pace.py` holds it to some of them.
"""

from __future__ import annotations

import argparse
import json
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import Engine, create_engine, text

from bench.service import SILENT, small_pictures, variant, with_server
from cli.client import Client
from cli.submit import SubmitOptions, run_submit
from cli.supervise import Server
from phantoms.files import encode_phantom
from phantoms.film import make_phantom
from store.queue.pace import Mark, mark_number, passed_by_work, seconds_left
from vocabulary.states import STAGES

FOLDER = Path(__file__).resolve().parent / "runs"
#: Shares of the images that are through, at which the estimate is held against the truth.
SHARES = (0.1, 0.25, 0.5, 0.75)
_EVERY = 0.1
_STATE = text(
    "SELECT extract(epoch FROM clock_timestamp()) AS at, status, n_total,"
    " n_rejected + n_failed + n_cancelled AS unread, b.* FROM batches b WHERE label = :label"
)


@dataclass(frozen=True)
class RecordedRun:
    """What a batch's counters said at each change.

    Attributes
    ----------
    load
        Processes that wanted to run on the machine in the minute before, whosever they were.
    samples
        Seconds since the first, images in all, images that ended unread, and how many had passed each stage.
    """

    name: str
    load: float
    samples: list[list[float]]

    @property
    def seconds(self) -> float:
        """How long it took from the first change to the last."""
        return self.samples[-1][0]

    def estimates(self) -> Iterator[tuple[float, float | None, float]]:
        """Yield (share of the images that are through, estimated seconds left, true ones), as the server."""
        marks: dict[int, Mark] = {}
        for at, total, unread, *passed in self.samples:
            counts = [int(n) for n in passed]
            now = Mark(at, tuple(passed_by_work(counts, int(unread))))
            if any(counts):
                marks.setdefault(mark_number(counts, int(total)), now)
            if at < self.seconds:
                left = seconds_left(list(marks.values()), now, int(total - unread))
                yield min(now.passed) / (total - unread), left, self.seconds - at

    def at(self, share: float) -> tuple[float | None, float]:
        """Return the estimate and the truth when at least this share of the images was through."""
        return next(
            ((left, true) for through, left, true in self.estimates() if through >= share), (None, 0.0)
        )


def read_runs(folder: Path = FOLDER) -> list[RecordedRun]:
    """Return the runs that are kept."""
    return [RecordedRun(**json.loads(path.read_text())) for path in sorted(folder.glob("*.json"))]


@dataclass(frozen=True)
class Mix:
    """A batch to be recorded.

    Attributes
    ----------
    broken
        Each so manyth file is cut off and will be rejected; 0 for none.
    neighbour
        Images of another batch that is sent with it.
    """

    name: str
    pictures: Sequence[bytes]
    count: int
    report: bool = True
    broken: int = 0
    neighbour: int = 0
    ending: str = field(default="jpg")


def _send(running: Server, label: str, files: Path, *, report: bool) -> None:
    with Client(running.address, running.access.api_key, patience=600.0) as client:
        options = SubmitOptions(label=label, wait=True, report=report)
        run_submit(client, [files], options, SILENT, rows=0)


def _watch(engine: Engine, label: str, ended: threading.Event) -> list[list[float]]:
    samples: list[list[float]] = []
    while not ended.wait(_EVERY):
        with engine.connect() as connection:
            row = connection.execute(_STATE, {"label": label}).mappings().first()
        if row is not None and row["status"] not in {"draft", "queued"}:
            now = [int(row[key]) for key in ("n_total", "unread", *(f"s_{stage}" for stage in STAGES))]
            if not samples or samples[-1][1:] != now:
                samples.append([float(row["at"]), *now])
    begin = samples[0][0]
    return [[round(at - begin, 2), *counts] for at, *counts in samples]


def record(running: Server, mix: Mix, folder: Path, number: int) -> RecordedRun:
    """Send one batch, and another beside it if the mix says so; look at its counters until it has ended."""
    files = write_files(folder / f"files-{number}", mix, 2 * number)
    others = write_files(folder / f"others-{number}", mix, 2 * number + 1, count=mix.neighbour)
    load, ended = os.getloadavg()[0], threading.Event()

    def send() -> None:
        try:
            _send(running, mix.name, files, report=mix.report)
        finally:
            ended.set()

    threads = [threading.Thread(target=send, daemon=True)]
    if mix.neighbour:
        beside = {"label": f"beside {mix.name}", "files": others, "report": mix.report}
        threads.append(threading.Thread(target=_send, args=(running,), kwargs=beside, daemon=True))
    for thread in threads:
        thread.start()
    url = os.environ["FRACTUREAI_DATABASE_URL"].replace("postgresql://", "postgresql+psycopg://")
    engine = create_engine(url)
    samples = _watch(engine, mix.name, ended)
    engine.dispose()
    for thread in threads:
        thread.join()
    return RecordedRun(mix.name, round(load, 1), samples)


def write_files(folder: Path, mix: Mix, series: int, *, count: int | None = None) -> Path:
    """Write files that share no finding with others."""
    folder.mkdir(parents=True)
    for n in range(mix.count if count is None else count):
        data = mix.pictures[n % len(mix.pictures)]
        data = data if mix.ending == "dcm" else variant(data, 1_000_000 * series + n)
        cut = mix.broken and n % mix.broken == mix.broken - 1
        (folder / f"{n:04d}.{mix.ending}").write_bytes(data[: len(data) // 8] if cut else data)
    return folder


def mixes() -> list[Mix]:
    """Make the batches that are recorded, in their order."""
    small = small_pictures(24)
    large = [encode_phantom(make_phantom(n, "hand", size=(1800, 1500)), "jpeg") for n in range(4)]
    legs = [make_phantom(100 + n, "leg", size=(3000, 2500)) for n in range(3)]
    films = [encode_phantom(legs[n % 3], "dicom", study=f"{n // 2}", number=1 + n % 2) for n in range(40)]
    return [
        Mix("the first 60 of a fresh server", small, 60),
        Mix("60 with reports", small, 60),
        Mix("120 without reports", small, 120, report=False),
        Mix("80, a quarter refused", small, 80, broken=4),
        Mix("60 small and large", [*large, *small[:4]], 60),
        Mix("40 large DICOM files", films, 40, ending="dcm"),
        Mix("100 beside a batch of 100", small, 100, neighbour=100),
        Mix("200 with reports", small, 200),
    ]


def keep(run: RecordedRun, folder: Path) -> None:
    """Write a run's file, a line a sample."""
    name = run.name.replace(",", "").replace(" ", "-")
    lines = ",\n  ".join(json.dumps(sample) for sample in run.samples)
    head = f'"name": {json.dumps(run.name)}, "load": {run.load}'
    (folder / f"{name}.json").write_text(f'{{\n {head},\n "samples": [\n  {lines}\n ]\n}}\n')


def record_all(folder: Path) -> None:
    """Record each mix once."""
    folder.mkdir(exist_ok=True)
    wanted = mixes()

    def work(running: Server, home: Path) -> None:
        for number, mix in enumerate(wanted, 1):
            run = record(running, mix, home, number)
            keep(run, folder)
            print(f"{run.name}: {run.seconds:.1f} s", flush=True)

    with_server(work, warm=0)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m bench.pace", description=__doc__)
    parser.add_argument("--record", action="store_true", help="read batches anew on a server of its own")
    options = parser.parse_args()
    if options.record:
        record_all(FOLDER)
    print("| run | load before | seconds | " + " | ".join(f"after {share:.0%}" for share in SHARES) + " |")
    print("|---|--:|--:|" + "--:|" * len(SHARES))
    for run in read_runs():
        cells = []
        for share in SHARES:
            left, true = run.at(share)
            cells.append("" if left is None else f"{left:.0f} s for {true:.0f} s")
        print(f"| {run.name} | {run.load} | {run.seconds:.0f} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()

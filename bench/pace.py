"""How well the time left is estimated on real runs: ``python -m bench.pace [--record]``.

With ``--record`` a whole server reads batches of several sizes and mixes, and what its counters said at each
change is kept as JSON, with the load that the machine had before. Without it the estimates are printed that
the estimator makes of those files; `tests/unit/test_pace.py` holds it to those of `bench/runs`. The
estimator's constants were chosen on others, in `bench/runs/chosen`.
"""

from __future__ import annotations

import argparse
import json
import os
import threading
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import Engine, create_engine, text
from sqlalchemy.orm import Session

from bench.service import SILENT, small_pictures, variant, with_server
from cli.client import Client
from cli.submit import SubmitOptions, run_submit
from cli.supervise import Server
from phantoms.files import encode_phantom
from phantoms.film import make_phantom
from store.base.tables import Batch
from store.queue.pace import (
    EARLIER,
    Beside,
    Mark,
    Pace,
    batches_beside,
    ended_batches,
    mark_number,
    pace_of,
    passed_by_work,
    seconds_left,
    typical,
)
from vocabulary.states import STAGES

FOLDER = Path(__file__).resolve().parent / "runs"
#: Shares of the work that is done, at which the estimate is held against the truth.
SHARES = (0.1, 0.25, 0.5, 0.75)
#: Below this no figure is said: "a few seconds left".
FEW_SECONDS = 10
_EVERY = 0.1
_OF_STAGES = [f"{of}_{stage}" for of in ("s", "ms") for stage in STAGES]
_STATE = text(
    "SELECT extract(epoch FROM clock_timestamp()) AS at, status, n_total,"
    " n_rejected + n_failed + n_cancelled AS unread, b.* FROM batches b WHERE label = :label"
)


@dataclass(frozen=True)
class RecordedRun:
    """What a batch's counters said at each change.

    Attributes
    ----------
    number
        Its place among the batches that the server read.
    report
        Whether reports were asked for: of batches with the same answer the earlier ones tell.
    load
        Processes that wanted to run on the machine in the minute before, whosever they were.
    samples
        Seconds since the first, images in all, images that ended unread, how many had passed each stage, and
        how many milliseconds workers had been at each.
    beside
        At each sample, of each other batch that the server counted: a number that it keeps, its images that
        wait, those in flight, whether it has reports, when it changed last, and the same counts.
    """

    name: str
    number: int
    report: bool
    load: float
    samples: list[list[float]]
    beside: list[list[list[float]]] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """How long it took from the first change to the last."""
        return self.samples[-1][0]

    @property
    def pace(self) -> Pace | None:
        """What it took."""
        others = self._beside()[-1] if self.beside else []
        return pace_of(self._thinned(), self.seconds, sum(other.worked_since(0.0) for other in others))

    def _marks(self) -> list[Mark]:
        found = []
        for at, _, unread, *rest in self.samples:
            counts = [int(n) for n in rest]
            passed, worked = counts[: len(STAGES)], counts[len(STAGES) :]
            found.append(Mark(at, tuple(passed_by_work(passed, int(unread))), tuple(worked)))
        return found

    def _thinned(self) -> list[Mark]:
        """Return the marks that the server keeps, and the end."""
        marks: dict[int, Mark] = {}
        for (_, total, *_), now in zip(self.samples, self._marks(), strict=True):
            if any(now.passed):
                marks.setdefault(mark_number(now.passed, int(total)), now)
        return [*marks.values(), self._marks()[-1]]

    def _beside(self) -> list[list[Beside]]:
        marks: dict[float, list[Mark]] = {}
        found = []
        for others in self.beside:
            now = []
            for key, waiting, in_flight, report, at, *rest in others:
                counts = [int(n) for n in rest]
                mark = Mark(at, tuple(counts[: len(STAGES)]), tuple(counts[len(STAGES) :]))
                past = marks.setdefault(key, [])
                if not past or mark.worked != past[-1].worked:
                    past.append(mark)
                now.append(Beside([*past], int(waiting), int(in_flight), bool(report)))
            found.append(now)
        return found

    def estimates(self, earlier: Pace | None) -> Iterator[Estimate]:
        """Yield what the server says at each change."""
        marks: dict[int, Mark] = {}
        cost = self.samples[-1][3 + len(STAGES) :]
        others = self._beside() or [[] for _ in self.samples]
        for (at, total, unread, *counts), now, beside in zip(
            self.samples, self._marks(), others, strict=True
        ):
            passed = [int(n) for n in counts[: len(STAGES)]]
            if any(passed):
                marks.setdefault(mark_number(passed, int(total)), now)
            if at < self.seconds:
                read = int(total - unread)
                left = seconds_left([*marks.values(), now], now, read, earlier, beside)
                work = sum(ms * n / read for ms, n in zip(cost, now.passed, strict=True)) / sum(cost)
                yield Estimate(work, left, self.seconds - at)


@dataclass(frozen=True)
class Estimate:
    """What is said when a share of the work is done, and how long it took in truth."""

    work: float
    left: float | None
    true: float

    @property
    def holds(self) -> bool:
        """Whether it is within a quarter, or both are so short that no figure is said."""
        if self.left is None:
            return False
        return abs(self.left - self.true) <= 0.25 * self.true or max(self.left, self.true) < FEW_SECONDS


def told(runs: Sequence[RecordedRun]) -> Iterator[tuple[RecordedRun, list[Estimate]]]:
    """Yield each run with what the server says of it, which has read those before."""
    for run in runs:
        before = [other.pace for other in runs if other.number < run.number and other.report == run.report]
        paces = [pace for pace in before if pace is not None]
        yield run, list(run.estimates(typical(paces[-EARLIER:])))


def read_runs(folder: Path = FOLDER) -> list[RecordedRun]:
    """Return the runs that are kept, in the order in which they were read."""
    runs = [RecordedRun(**json.loads(path.read_text())) for path in folder.glob("*.json")]
    return sorted(runs, key=lambda run: run.number)


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


def _watch(
    engine: Engine, label: str, ended: threading.Event
) -> tuple[list[list[float]], list[list[list[float]]]]:
    samples: list[list[float]] = []
    beside: list[list[list[float]]] = []
    keys: dict[uuid.UUID | None, int] = {}
    while not ended.wait(_EVERY):
        with Session(engine) as session:
            row = session.execute(_STATE, {"label": label}).mappings().first()
            if row is None or row["status"] in {"draft", "queued"}:
                continue
            now = [int(row[key]) for key in ("n_total", "unread", *_OF_STAGES)]
            if samples and samples[-1][1:] == now:
                continue
            samples.append([float(row["at"]), *now])
            others = []
            batch = session.get_one(Batch, row["id"])
            for other in batches_beside(session, batch, ended_batches(session, batch)):
                last = other.marks[-1]
                key = keys.setdefault(other.batch_id, len(keys))
                what = (key, other.waiting, other.in_flight, int(other.report), last.at)
                others.append([*what, *last.passed, *last.worked])
            beside.append(others)
    begin = samples[0][0]
    for others in beside:
        for counts in others:
            counts[4] = round(counts[4] - begin, 2)
    return [[round(at - begin, 2), *counts] for at, *counts in samples], beside


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
        neighbour = {"label": f"beside {mix.name}", "files": others, "report": mix.report}
        threads.append(threading.Thread(target=_send, args=(running,), kwargs=neighbour, daemon=True))
    for thread in threads:
        thread.start()
    url = os.environ["FRACTUREAI_DATABASE_URL"].replace("postgresql://", "postgresql+psycopg://")
    engine = create_engine(url)
    samples, beside = _watch(engine, mix.name, ended)
    engine.dispose()
    for thread in threads:
        thread.join()
    return RecordedRun(mix.name, number, mix.report, round(load, 1), samples, beside if any(beside) else [])


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
    films = [encode_phantom(legs[n % 3], "dicom", study=f"{n // 2}", number=1 + n % 2) for n in range(80)]
    return [
        Mix("the first 300 of a fresh server", small, 300),
        Mix("300 with reports", small, 300),
        Mix("900 without reports", small, 900, report=False),
        Mix("400, a quarter refused", small, 400, broken=4),
        Mix("150 small and large", [*large, *small[:4]], 150),
        Mix("80 large DICOM files", films, 80, ending="dcm"),
        Mix("300 beside a batch of 300", small, 300, neighbour=300),
        Mix("900 with reports", small, 900),
    ]


def keep(run: RecordedRun, folder: Path) -> None:
    """Write a run's file, a line a sample."""
    name = run.name.replace(",", "").replace(" ", "-")
    lines = ",\n  ".join(json.dumps(sample) for sample in run.samples)
    facts = {"name": run.name, "number": run.number, "report": run.report, "load": run.load}
    head = json.dumps(facts).strip("{}")
    tail = ""
    if run.beside:
        tail = ',\n "beside": [\n  ' + ",\n  ".join(json.dumps(others) for others in run.beside) + "\n ]"
    (folder / f"{name}.json").write_text(f'{{\n {head},\n "samples": [\n  {lines}\n ]{tail}\n}}\n')


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
    parser.add_argument("--runs", type=Path, default=FOLDER, help="where the recorded runs are")
    options = parser.parse_args()
    if options.record:
        record_all(options.runs)
    print(
        "| run | load before | seconds | "
        + " | ".join(f"after {share:.0%}" for share in SHARES)
        + " | hold |"
    )
    print("|---|--:|--:|" + "--:|" * len(SHARES) + "--:|")
    for run, estimates in told(read_runs(options.runs)):
        cells = []
        for share in SHARES:
            at = next(each for each in estimates if each.work >= share)
            cells.append("not said" if at.left is None else f"{at.left:.0f} s for {at.true:.0f} s")
        said = [each for each in estimates if each.left is not None]
        cells.append(f"{sum(each.holds for each in said)} of {len(said)}")
        print(f"| {run.name} | {run.load} | {run.seconds:.0f} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()

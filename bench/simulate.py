"""A discrete-event model of queues and workers, and sizes of servers: ``python -m bench.simulate``.

What a stage costs comes from `bench.floor` and `bench.control_plane`, as kept in ``bench/results``; how units
of work move is modelled after `store.queue.dispatch` and `worker.flow`: a window of units in flight, chosen
by priority, waiting time and site; one unit a process at a time; a unit whose worker died is due again when
its lease has run out. ``--check`` says how far the model is from what real servers did.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
from collections import Counter, deque
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

import simpy

from bench.compare import READING
from bench.control_plane import ALONE, HELD, SMALL, SMALL_CHUNK, at_rest, carried, idle_workers
from bench.measure import RESULTS, machine, publish, quantile
from bench.service import in_own_process, small_pictures, with_server, write_variants
from cli.supervise import Server
from settings import Settings
from vocabulary.states import STAGES, Stage

SETTINGS = Settings()
CHUNK = SETTINGS.chunk_size
LEASE = SETTINGS.lease_seconds
RECONCILE = SETTINGS.reconcile_seconds
AGING = SETTINGS.aging_seconds
IN_FLIGHT = SETTINGS.in_flight_per_slot
SERVERS = ("web", "reconcile", "Postgres", "Valkey")
ALONE_IMAGES = 2
#: Of an image: a radiograph of 2 MB as it came, and what is made of it; rows as `bench.service` found them.
FILE_BYTES, ROW_BYTES = 2_000_000 + 160_000, 7_000
Steps = Generator[simpy.Event, Any, None]


@dataclass(frozen=True)
class Costs:
    """Seconds, of a processor but for `wait`.

    Attributes
    ----------
    image
        Of an image's reading, by stage.
    worker, worker_unit
        Of a worker beside an image's reading, by stage: for an image, and for a unit of work, however many
        images travel in it.
    server, server_unit
        Of Postgres, Valkey, `reconcile` and web likewise, while a batch is read.
    upload
        Of web for an image before its batch is submitted.
    server_batch
        Of the servers for a batch, however small: its draft, its submission, its end.
    wait
        That a worker waits for the disk at an image, by stage, and leaves the processor to others.
    """

    image: Mapping[Stage, float]
    worker: Mapping[Stage, float] = field(default_factory=dict)
    worker_unit: Mapping[Stage, float] = field(default_factory=dict)
    server: float = 0.0
    server_unit: float = 0.0
    upload: float = 0.0
    server_batch: float = 0.0
    wait: Mapping[Stage, float] = field(default_factory=dict)

    def of_worker(self, stage: Stage, images: float) -> float:
        """Return what a unit of so many images takes of a worker in a stage, beside its reading."""
        return self.worker_unit.get(stage, 0.0) + images * self.worker.get(stage, 0.0)

    def of_servers(self, images: float) -> float:
        """Return what a unit of so many images takes of the servers in each stage."""
        return (self.server_unit + images * self.server) / len(STAGES)


@dataclass(frozen=True)
class Pool:
    """Worker processes that take from the same queues on one host.

    Attributes
    ----------
    threads
        On which a process computes at a time: as many as there are cores where it scores.
    speed
        How many times as fast as a core; of a card, say.
    """

    queues: tuple[str, ...]
    slots: int
    urgent_only: bool = False
    threads: int = 1
    speed: float = 1.0


class Cores:
    """The cores of a host, shared evenly by the threads that want to run, each on at most one."""

    def __init__(self, env: simpy.Environment, cores: float) -> None:
        self.env, self.cores, self.busy = env, cores, 0.0
        self._left: dict[simpy.Event, float] = {}  # seconds of each of its threads
        self._threads: dict[simpy.Event, int] = {}
        self._seen, self._turns, self._turn = 0.0, itertools.count(), 0

    @property
    def _rate(self) -> float:
        return min(1.0, self.cores / sum(self._threads.values()))

    def _advance(self) -> None:
        if self._left:
            each = (self.env.now - self._seen) * self._rate
            self.busy += each * sum(self._threads.values())
            for event in self._left:
                self._left[event] -= each
        self._seen = self.env.now

    def work(self, seconds: float, threads: int = 1) -> simpy.Event:
        """Return the event of having had so many processor seconds."""
        self._advance()
        done = self.env.event()
        self._left[done], self._threads[done] = seconds / threads, threads
        self._plan()
        return done

    def _plan(self) -> None:
        self._turn = next(self._turns)
        if self._left:
            after = max(0.0, min(self._left.values())) / self._rate
            self.env.process(self._wake(after, self._turn))

    def _wake(self, after: float, turn: int) -> Steps:
        yield self.env.timeout(after)
        if turn != self._turn:
            return  # somebody came or went meanwhile
        self._advance()
        for event in [event for event, left in self._left.items() if left <= 1e-9]:
            del self._left[event], self._threads[event]
            event.succeed()
        self._plan()


@dataclass
class Unit:
    """A chunk on its way."""

    batch: Batch
    images: int
    due_at: float
    stage: int = 0
    taken: int = 0


@dataclass
class Batch:
    """Images that were submitted together."""

    site: str
    images: int
    at: float
    priority: int = 1
    reports: bool = True
    left: int = 0
    submitted: float = 0.0
    ended: float = math.inf

    @property
    def seconds(self) -> float:
        """From its first file to its end."""
        return self.ended - self.at


@dataclass
class Queue:
    """Messages by priority, and the processes that wait for one."""

    messages: list[deque[Unit]] = field(default_factory=lambda: [deque(), deque(), deque()])


class Service:
    """Hosts with pools of workers, and one host for web, Postgres and Valkey."""

    def __init__(
        self,
        costs: Costs,
        hosts: Sequence[tuple[float, Sequence[Pool]]],
        *,
        server_cores: float | None = None,
        chunk: int = CHUNK,
    ) -> None:
        self.env = simpy.Environment()
        self.costs, self.chunk = costs, chunk
        self.cores = [Cores(self.env, cores) for cores, _ in hosts]
        self.servers = Cores(self.env, server_cores) if server_cores else self.cores[0]
        self.queues = {name: Queue() for name in dict.fromkeys(stage.queue for stage in Stage)}
        self.due: list[Unit] = []
        self.in_flight: Counter[str] = Counter()  # by site
        self.batches: list[Batch] = []
        self.lost = 0
        slots = sum(pool.slots for _, pools in hosts for pool in pools)
        self.window = max(4, IN_FLIGHT * slots)
        self._waiting: list[tuple[Pool, simpy.Event]] = []
        self._deaths: dict[Pool, float] = {}
        for (_, pools), cores in zip(hosts, self.cores, strict=True):
            for pool in pools:
                for _ in range(pool.slots):
                    self.env.process(self._worker(pool, cores))

    def submit(self, batches: Iterable[Batch]) -> None:
        """Have batches come at their times."""
        for batch in batches:
            self.batches.append(batch)
            self.env.process(self._arrive(batch))

    def kill(self, pool: Pool, at: float) -> None:
        """Have one process of a pool die in the midst of the first unit that it works on after `at`."""
        self._deaths[pool] = at

    def run(self, until: float | None = None) -> None:
        """Let time pass until all is done, or until then."""
        self.env.run(until=until)

    def _arrive(self, batch: Batch) -> Steps:
        yield self.env.timeout(batch.at)
        if sent := self.costs.server_batch + batch.images * self.costs.upload:
            yield self.servers.work(sent)
        batch.submitted = self.env.now
        batch.left = batch.images
        for first in range(0, batch.images, self.chunk):
            self.due.append(Unit(batch, min(self.chunk, batch.images - first), self.env.now))
        self._dispatch()

    def _dispatch(self) -> None:
        """Publish due units into the window, as `store.queue.dispatch` chooses them."""
        room = self.window - self.in_flight.total()
        if any(unit.batch.priority == 0 for unit in self.due):
            room = max(room, 2)
        if room <= 0 or not self.due:
            return
        now, turns = self.env.now, Counter(self.in_flight)
        ranked = []
        for unit in sorted(self.due, key=lambda unit: (unit.batch.priority, unit.due_at)):
            turns[unit.batch.site] += 1
            aged = max(0, unit.batch.priority - min(1, int((now - unit.batch.at) // AGING)))
            ranked.append((aged, turns[unit.batch.site], unit.due_at, unit))
        for *_, unit in sorted(ranked, key=lambda each: each[:3])[:room]:
            self.due.remove(unit)
            self.in_flight[unit.batch.site] += 1
            self._send(unit)

    def _send(self, unit: Unit) -> None:
        queue = STAGES[unit.stage].queue
        self.queues[queue].messages[unit.batch.priority].append(unit)
        for waiting in self._waiting:
            pool, event = waiting
            if queue in pool.queues and (unit.batch.priority == 0 or not pool.urgent_only):
                self._waiting.remove(waiting)
                event.succeed()
                return

    def _take(self, pool: Pool) -> Unit | None:
        for priority in (0,) if pool.urgent_only else range(3):
            for name in pool.queues:
                if self.queues[name].messages[priority]:
                    return self.queues[name].messages[priority].popleft()
        return None

    def _worker(self, pool: Pool, cores: Cores) -> Steps:
        while True:
            unit = self._take(pool)
            if unit is None:
                event = self.env.event()
                self._waiting.append((pool, event))
                yield event
                continue
            unit.taken += 1
            if self.env.now >= self._deaths.get(pool, math.inf):
                del self._deaths[pool]
                self.env.process(self._recover(unit))
                continue  # a new process, at once
            stage = STAGES[unit.stage]
            images = unit.images if stage is not Stage.REPORT or unit.batch.reports else 0
            yield cores.work(images * self.costs.image[stage] / pool.speed, pool.threads)
            if wait := images * self.costs.wait.get(stage, 0.0):
                yield self.env.timeout(wait)
            if beside := self.costs.of_worker(stage, images):
                yield cores.work(beside)
            if served := self.costs.of_servers(unit.images):
                yield self.servers.work(served)
            self._pass_on(unit)

    def _recover(self, unit: Unit) -> Steps:
        yield self.env.timeout(LEASE + RECONCILE / 2)
        self.in_flight[unit.batch.site] -= 1
        self.lost += 1
        self.due.append(unit)
        self._dispatch()

    def _pass_on(self, unit: Unit) -> None:
        unit.stage += 1
        if unit.stage < len(STAGES):
            self._send(unit)
            return
        self.in_flight[unit.batch.site] -= 1
        unit.batch.left -= unit.images
        if unit.batch.left == 0:
            unit.batch.ended = self.env.now
        self._dispatch()


def kept(name: str) -> dict[str, dict[str, Any]]:
    """Return the figures of a benchmark that are kept in ``bench/results``."""
    figures: dict[str, dict[str, Any]] = json.loads((RESULTS / f"{name}.json").read_text())["figures"]
    return figures


def measured_costs() -> Costs:
    """Return the costs of an image as `bench.floor` and `bench.control_plane` found them.

    What a unit costs is the difference between small chunks and large ones. A worker waits for as long as it
    was at an image whose stage computes nothing, less what it took of the processor.
    """
    steps = dict(zip(STAGES, kept("floor").values(), strict=False))
    image = {stage: _middle(row["CPU ms an image"]) / 1000 for stage, row in steps.items()}
    beside = kept("control_plane")
    large = next(iter(beside["all, CPU ms"]))

    def of(roles: Iterable[str], column: str) -> float:
        return sum(_middle(beside[f"{role}, CPU ms"][column]) for role in roles) / 1000

    def parted(*roles: str) -> tuple[float, float]:
        """Return what an image costs, and what a unit does."""
        unit = max(0.0, (of(roles, SMALL) - of(roles, large)) / (1 / SMALL_CHUNK - 1 / CHUNK))
        return of(roles, large) - unit / CHUNK, unit

    of_queue = {queue: parted(f"{queue} worker") for queue in {stage.queue for stage in STAGES}}
    shares = Counter(stage.queue for stage in STAGES)
    worker, worker_unit = (
        {stage: of_queue[stage.queue][part] / shares[stage.queue] for stage in STAGES} for part in (0, 1)
    )
    upload, _ = parted("web")
    server, server_unit = parted(*(role for role in SERVERS if role != "web"))
    alike = ALONE_IMAGES * (server + upload) + server_unit
    held = {stage: _middle(beside[f"{stage}, {HELD}"][large]) / 1000 for stage in STAGES}
    return Costs(
        image,
        worker=worker,
        worker_unit=worker_unit,
        server=server,
        server_unit=server_unit,
        upload=upload,
        server_batch=max(0.0, of(SERVERS, ALONE) - alike),
        wait={stage: max(0.0, held[stage] - worker[stage] - worker_unit[stage] / CHUNK) for stage in STAGES},
    )


def _middle(cell: Mapping[str, float] | float) -> float:
    return float(cell["median"] if isinstance(cell, Mapping) else cell)


def one_machine(decoders: int = 1, cores: int = 2) -> list[Pool]:
    """Return the workers of `fractureai up` with so many that decode."""
    return [
        Pool(("gpu",), 1, threads=cores),
        Pool(("cpu",), decoders),
        Pool(("report",), 2 * decoders),
        Pool(("cpu", "gpu", "report"), 1, urgent_only=True),
    ]


def reads(costs: Costs, pools: Sequence[Pool], cores: float, batch: Batch, *, chunk: int = CHUNK) -> float:
    """Return the images a second of one batch on one machine, from its submission to its end."""
    service = Service(costs, [(cores, pools)], chunk=chunk)
    service.submit([batch])
    service.run()
    return batch.images / (batch.ended - batch.submitted)


# --- how far the model is from real servers ---


def check_kept(costs: Costs) -> dict[str, dict[str, Any]]:
    """Compare with what `bench.compare` found of a whole server, from a batch's submission to its end."""
    found = kept("compare")
    command = json.loads((RESULTS / "compare.json").read_text())["command"]
    count = int(command.partition("--count ")[2].split()[0])
    rows = {}
    for kind, reports in (("with reports", True), ("without reports", False)):
        row = f"service, {kind}, {READING}"
        real = _middle(found[row]["images/s"])
        said = reads(costs, one_machine(), 2, Batch("one", count, 0.0, reports=reports))
        rows[row] = {"real, images/s": real, "model, images/s": said, "model / real": said / real}
    return rows


def check_sleepers(
    costs: Costs, decoders: Sequence[int], images: int, *, again: bool
) -> dict[str, dict[str, Any]]:
    """Compare with real servers whose stages take a known time and no processor (`bench.idle`).

    What is compared is how units move: the window, the queues, one unit a process, the hand-over, which takes
    what it takes of this machine.

    Parameters
    ----------
    again
        Take what the servers did in the last check, as the model or its costs have changed since.
    """
    slept = {
        Stage.PREPARE: 0.4,
        Stage.CLASSIFY: 0.1,
        Stage.DETECT: 0.6,
        Stage.EXPLAIN: 0.2,
        Stage.REPORT: 1.6,
    }
    chunk = 4
    os.environ["FRACTUREAI_IDLE_MS"] = ",".join(f"{stage}={1000 * s:g}" for stage, s in slept.items())
    os.environ["FRACTUREAI_CHUNK_SIZE"] = str(chunk)
    waits = {stage: seconds + costs.wait[stage] for stage, seconds in slept.items()}
    costs = replace(costs, image=dict.fromkeys(STAGES, 0.0), wait=waits)
    cores = len(os.sched_getaffinity(0))
    rows = {}
    for number in decoders:
        row = f"{number} decoding, {2 * number} reporting, 1 scoring; stages that sleep"
        real = (
            _middle(kept("simulate_check")[row]["real, images/s"])
            if again
            else in_own_process(sleepers, number, images)
        )
        said = reads(costs, one_machine(number), cores, Batch("one", images, 0.0), chunk=chunk)
        rows[row] = {"real, images/s": real, "model, images/s": said, "model / real": said / real}
    return rows


def sleepers(decoders: int, images: int) -> float:
    """Return how many images a second a real server carries whose stages sleep."""
    idle_workers()
    seen: list[float] = []

    def work(running: Server, folder: Path) -> None:
        files = write_variants(folder / "images", small_pictures(4), images, 1)
        seen.append(carried(running, files, "sleepers", at_rest(1))["images/s"])

    with_server(work, workers=decoders, warm=8)
    return seen[0]


# --- sizes ---


@dataclass(frozen=True)
class Prices:
    """What is paid, in one currency; put your own in."""

    core_hour: float = 0.04
    card_hour: float = 1.0
    gb_month_files: float = 0.02
    gb_month_database: float = 0.12


@dataclass(frozen=True)
class Need:
    """How many images come, and how."""

    name: str
    images_a_month: float
    images_a_study: float
    busiest_hour: float  # of a day's images
    backfill: int = 0  # to be read in one night, beside


HOSPITAL = Need("hospital, 200 a day and 30,000 in a night", 6_000, 2.5, 0.12, 30_000)
REGION = Need("region, 10,000 a day", 300_000, 2.5, 0.10)
NATION = Need("nation, 100 million a month", 100e6, 2.5, 0.08)
NIGHT = 10 * 3600
#: How busy a core may be at the busiest hour.
BUSY = 0.65
CORES_A_HOST = 16


def busiest(need: Need) -> float:
    """Return the images a second of a need's busiest hour, or of its night."""
    return max(need.images_a_month / 30 * need.busiest_hour / 3600, need.backfill / NIGHT)


def fleet(costs: Costs, need: Need, card: float) -> list[tuple[float, list[Pool]]]:
    """Return hosts that carry a need at its busiest; `card` is a GPU's images a second.

    A process holds its unit while the servers answer and the disk writes, too: there are more of them than
    cores that they keep busy.
    """
    rate = busiest(need)
    share = 1 / (CHUNK if need.backfill else need.images_a_study)  # of a unit, by image
    answered = share * costs.of_servers(1 / share)
    hosts: list[tuple[float, list[Pool]]] = []
    for name in dict.fromkeys(stage.queue for stage in STAGES):
        stages = [stage for stage in STAGES if stage.queue == name and stage in costs.image]
        read = sum(costs.image[stage] for stage in stages)
        speed = card * read if card and name == "gpu" else 1.0
        busy = read / speed + sum(share * costs.of_worker(stage, 1 / share) for stage in stages)
        cores = max(1, math.ceil(rate * busy / BUSY))
        waits = sum(costs.wait.get(stage, 0.0) for stage in stages)
        slots = max(cores, math.ceil(rate * (busy + waits + len(stages) * answered) / BUSY))
        per_host = math.ceil(slots * min(1.0, CORES_A_HOST / cores))
        for first in range(0, slots, per_host):
            some = min(per_host, slots - first)
            hosts.append((cores * some / slots, [Pool((name,), some, speed=speed)]))
    return hosts


def arrivals(need: Need, seconds: float, seed: int = 1) -> list[Batch]:
    """Return studies as they come at random in the busiest hour, and the backfill before them."""
    random = Random(seed)  # noqa: S311 - no secret
    rate = need.images_a_month / 30 * need.busiest_hour / 3600 / need.images_a_study
    batches = [Batch("backfill", need.backfill, 0.0, priority=2)] if need.backfill else []
    at = 0.0
    while (at := at + random.expovariate(rate)) < seconds:
        batches.append(Batch(f"site {random.randrange(50)}", random.choice((1, 2, 3, 4)), at))
    return batches


def size(costs: Costs, need: Need, *, card: float, seconds: float, prices: Prices) -> dict[str, Any]:
    """Return a column of the table: what a need takes, and how it did in the model."""
    hosts = fleet(costs, need, card)
    slots = {
        name: sum(p.slots for _, pools in hosts for p in pools if p.queues == (name,))
        for name in (stage.queue for stage in Stage)
    }
    rate = busiest(need)
    share = 1 / (CHUNK if need.backfill else need.images_a_study)  # of a unit, by image
    beside = costs.server_unit + (0.0 if need.backfill else costs.server_batch)
    servers = max(1, math.ceil(rate * (costs.upload + costs.server + share * beside) / BUSY))
    service = Service(costs, hosts, server_cores=servers)
    batches = arrivals(need, seconds)
    service.submit(batches)
    service.run(until=None if need.backfill else seconds + 600)
    studies = [batch.seconds for batch in batches if batch.site != "backfill"]
    cards = math.ceil(rate / card / BUSY) if card else 0
    cores = servers + math.ceil(sum(cores for cores, _ in hosts) - 1e-9) - cards
    files = need.images_a_month * FILE_BYTES
    rows = need.images_a_month * ROW_BYTES
    money = 730 * (cores * prices.core_hour + cards * prices.card_hour)
    return {
        "images/s at the busiest": rate,
        "decoding processes": slots["cpu"],
        "reporting processes": slots["report"],
        "scoring processes": slots["gpu"],
        "GPUs": cards,
        "cores for web, Postgres, Valkey": servers,
        "cores, all": cores,
        "study read, p50 s": quantile(studies, 0.5),
        "study read, p95 s": quantile(studies, 0.95),
        "backfill, hours": batches[0].seconds / 3600 if need.backfill else "",
        "files, GB a month": files / 1e9,
        "database, GB a month": rows / 1e9,
        "machines a month, money": money,
        "files and rows of one month, money a month": files / 1e9 * prices.gb_month_files
        + rows / 1e9 * prices.gb_month_database,
        "machines, money a 1,000 images": 1000 * money / need.images_a_month,
    }


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare with real servers, on this machine too")
    parser.add_argument("--again", action="store_true", help="compare with what the last --check measured")
    parser.add_argument(
        "--decoders", type=int, nargs="*", default=[1, 2, 4], help="of the servers for --check"
    )
    parser.add_argument("--images", type=int, default=120, help="that each of these reads")
    parser.add_argument(
        "--card", type=float, default=500.0, help="images a second of a GPU: taken, not measured"
    )
    arguments = parser.parse_args()
    before, costs = machine(), measured_costs()
    if arguments.check:
        rows = {
            **check_kept(costs),
            **check_sleepers(costs, arguments.decoders, arguments.images, again=arguments.again),
        }
        publish("simulate_check", "The model and real servers", rows, before)
        return
    prices = Prices()
    sizes = {
        HOSPITAL.name: size(costs, HOSPITAL, card=0, seconds=3600, prices=prices),
        REGION.name: size(costs, REGION, card=0, seconds=3600, prices=prices),
        NATION.name: size(costs, NATION, card=0, seconds=300, prices=prices),
        f"the same, a GPU {arguments.card:g} images/s": size(
            costs, NATION, card=arguments.card, seconds=300, prices=prices
        ),
    }
    figures = {row: {name: column[row] for name, column in sizes.items()} for row in sizes[HOSPITAL.name]}
    title = f"Sizes by the model; prices: {prices}"
    publish("simulate", title, figures, before)


if __name__ == "__main__":
    main()

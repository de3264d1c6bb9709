"""Random faults every few seconds while batches come in: ``python -m tests.faults.soak --minutes 30``.

The sequence of batches, faults and pauses follows from the seed alone; how far it gets in its time depends on
the machine. After each round the oracle is asked about every batch of it.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import psutil
import pytest
import redis
from sqlalchemy import select, text

from store.base.errors import ServiceError
from store.base.session import own_connection, session_scope
from store.base.tables import ENDED_WORK, Batch, Priority, Work, WorkKind
from store.intake import batches
from store.queue import dispatch
from tests.running import PATIENCE, QUEUES, Service, assert_sound, submit, wait_until_ended
from vocabulary.states import STAGES

if TYPE_CHECKING:
    from tests.faults.conftest import Breakable

#: Two workers that take everything, so that work goes on while one of them is dead; the names are log files'.
WORKERS = (",".join(QUEUES), ",".join(reversed(QUEUES)))
#: For how long the soak's processes wait for a lock.
LOCK_SECONDS = 3
PEOPLE = (batches.cancel, batches.retry, batches.pause, batches.resume)


@dataclass(frozen=True)
class Step:
    """One thing that happens: a batch of so many images, or a fault; then a pause."""

    what: str
    number: int
    pause: float


def plan_round(chance: random.Random) -> list[Step]:
    """Draw what happens in a round: one to three batches among three to eight faults."""
    steps = [("batch", chance.randint(1, 24)) for _ in range(chance.randint(1, 3))]
    steps += [(chance.choice(sorted(FAULTS)), chance.randrange(10**6)) for _ in range(chance.randint(3, 8))]
    first, *rest = steps
    chance.shuffle(rest)
    return [Step(*step, round(chance.uniform(0.2, 4), 1)) for step in (first, *rest)]


@dataclass
class Soak:
    """What is broken, and what has to come out."""

    service: Service
    postgres: Breakable
    valkey: Breakable
    site_id: uuid.UUID
    pictures: Mapping[str, bytes]
    calm: Mapping[str, float]
    open: list[Batch] = field(default_factory=list)
    sent: int = 0
    happened: Counter[str] = field(default_factory=Counter)

    def run(self, minutes: float, seed: int) -> None:
        """Do round after round until the time is over."""
        chance = random.Random(seed)
        began = time.monotonic()
        print(f"soak of {minutes:g} minutes, seed {seed}", flush=True)
        while time.monotonic() - began < 60 * minutes:
            for step in plan_round(chance):
                print(f"{time.monotonic() - began:7.1f} s  {step.what} {step.number}", flush=True)
                self.happened[step.what] += 1
                self.batch(step.number) if step.what == "batch" else FAULTS[step.what](self, step.number)
                time.sleep(step.pause)
            self.end_round()
        said = ", ".join(f"{n} {what}" for what, n in sorted(self.happened.items()))
        print(f"{time.monotonic() - began:7.1f} s  sound; {self.sent} images; {said}", flush=True)

    def batch(self, images: int) -> None:
        """Submit images of which no byte for byte copy was sent before."""
        files = {}
        for name, data in list(self.pictures.items())[:images]:
            self.sent += 1
            files[name.rpartition("/")[2]] = data + self.sent.to_bytes(4, "big")
        self.open.append(submit(self.site_id, files))

    def end_round(self) -> None:
        """Wait until every batch has ended; retry what was cancelled or failed; ask the oracle."""
        for batch in self.open:
            self._tell(batches.resume, batch)
            ended = wait_until_ended(batch)
            while ended.n_failed or ended.n_cancelled:
                self._tell(batches.retry, batch)
                ended = wait_until_ended(batch)
            assert ended.n_done == ended.n_total
        for batch in self.open:
            assert_sound(batch, self.calm)
        self.open.clear()

    def _tell(self, change: Callable[..., object], batch: Batch) -> None:
        with suppress(ServiceError), session_scope() as session:  # it may be in no state for that
            change(session, batch.id, self.site_id)
        dispatch.dispatch()

    # faults; each ends with everything started again, so that only time heals the rest

    def kill_child(self, number: int) -> None:
        """SIGKILL the process that works, not its parent."""
        for child in psutil.Process(self.service.processes[WORKERS[number % 2]].pid).children():
            with suppress(psutil.NoSuchProcess):
                child.kill()

    def kill_worker(self, number: int) -> None:
        """SIGKILL a worker."""
        self._again(WORKERS[number % 2])

    def kill_everything(self, number: int) -> None:
        """SIGKILL both workers and reconcile."""
        self._again("reconcile", *WORKERS)

    def kill_reconcile(self, number: int) -> None:
        """SIGKILL reconcile."""
        self._again("reconcile")

    def stop_worker(self, number: int) -> None:
        """SIGTERM a worker, as an upgrade does."""
        name = WORKERS[number % 2]
        self.service.processes[name].terminate()
        self.service.processes[name].wait(PATIENCE)
        self.service.start(name)

    def freeze_worker(self, number: int) -> None:
        """SIGSTOP a worker, every other time for longer than its lease."""
        parent = psutil.Process(self.service.processes[WORKERS[number % 2]].pid)
        frozen = [parent, *parent.children()]
        for process in frozen:
            process.send_signal(signal.SIGSTOP)
        time.sleep(3 if number % 4 < 2 else 10)
        for process in frozen:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)

    def flush_broker(self, number: int) -> None:
        """FLUSHALL."""
        with redis.Redis.from_url(self.valkey.servers.broker_url) as client:
            client.flushall()

    def kill_valkey(self, number: int) -> None:
        """SIGKILL Valkey; every other time its file is lost, too."""
        self.valkey.kill()
        if number % 2:
            self.valkey.forget()
        time.sleep(number % 3)
        self.valkey.start()

    def hang_valkey(self, number: int) -> None:
        """SIGSTOP Valkey for a while."""
        self.valkey.hang()
        time.sleep(2 + number % 5)
        self.valkey.wake()

    def kill_postgres(self, number: int) -> None:
        """SIGKILL Postgres."""
        self.postgres.kill()
        time.sleep(number % 3)
        self.postgres.start()

    def hang_postgres(self, number: int) -> None:
        """SIGSTOP Postgres, every other time for longer than a lease."""
        self.postgres.hang()
        time.sleep(2 if number % 2 else 10)
        self.postgres.wake()

    def kill_both(self, number: int) -> None:
        """SIGKILL both servers; the broker forgets."""
        self.postgres.kill()
        self.valkey.kill()
        self.valkey.forget()
        self.valkey.start()
        self.postgres.start()

    def kill_all(self, number: int) -> None:
        """SIGKILL every process at once, servers included, as a power cut does; the broker may forget."""
        self.postgres.kill()
        self.valkey.kill()
        self.service.kill("reconcile", *WORKERS)
        if number % 2:
            self.valkey.forget()
        for name in ("reconcile", *WORKERS):
            self.service.start(name)
        time.sleep(number % 3)
        self.valkey.start()
        self.postgres.start()

    def lock_table(self, number: int) -> None:
        """Hold a table for longer than anybody waits for a lock."""
        table = ("work", "batches", "images", "findings")[number % 4]
        with own_connection(autocommit=False) as holder:
            holder.execute(text("SET LOCAL lock_timeout = 0"))
            holder.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
            holder.execute(text(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE"))
            time.sleep(LOCK_SECONDS + 2 + number % 3)

    def double_messages(self, number: int) -> None:
        """Send every open chunk's messages again, for stages that are over and stages to come."""
        with session_scope() as session:
            chunks = (Work.kind == WorkKind.CHUNK, Work.state.not_in(ENDED_WORK))
            open_units = session.scalars(select(Work.id).where(*chunks).order_by(Work.created_at)).all()
        app = dispatch._publisher()
        for unit in open_units:
            for stage in random.Random(number).choices(STAGES, k=3):
                dispatch._send(app, dispatch._Message(unit, WorkKind.CHUNK, stage, number % 3))

    def change_minds(self, number: int) -> None:
        """Cancel, retry, pause, resume or hurry one of the batches."""
        chance = random.Random(number)
        batch = chance.choice(self.open)
        for change in chance.choices(PEOPLE, k=2):
            self._tell(change, batch)
        with suppress(ServiceError), session_scope() as session:
            batches.set_priority(session, batch.id, self.site_id, chance.choice(list(Priority)))

    def _again(self, *names: str) -> None:
        self.service.kill(*names)
        for name in names:
            self.service.start(name)


FAULTS: dict[str, Callable[[Soak, int], None]] = {
    fault.__name__: fault
    for fault in (
        Soak.kill_child,
        Soak.kill_worker,
        Soak.kill_everything,
        Soak.kill_reconcile,
        Soak.stop_worker,
        Soak.freeze_worker,
        Soak.flush_broker,
        Soak.kill_valkey,
        Soak.hang_valkey,
        Soak.kill_postgres,
        Soak.hang_postgres,
        Soak.kill_both,
        Soak.kill_all,
        Soak.lock_table,
        Soak.double_messages,
        Soak.change_minds,
    )
}


def main() -> None:
    """Run the soak as pytest does, with its servers and fixtures; status 0 when all was sound."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    arguments = parser.parse_args()
    os.environ["FRACTUREAI_SOAK_MINUTES"] = str(arguments.minutes)
    os.environ["FRACTUREAI_SOAK_SEED"] = str(arguments.seed)
    sys.exit(pytest.main(["-q", "-s", "-m", "faults", "tests/faults/test_soak.py::test_a_soak"]))


if __name__ == "__main__":
    main()

"""The running service of the worker's tests, its servers for breaking, and what a calm run says."""

from __future__ import annotations

import shutil
import signal
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import redis

from cli.child import Child
from cli.embedded import Servers, postgres_answers, valkey_answers
from settings import get_settings
from tests.faults.disk import mounted
from tests.running import PATIENCE, Service, light_service, wait_for
from tests.worker.conftest import (
    cache_folder,
    kept_folder,
    pictures,
    service,
    service_settings,
    site_id,
    untrained_bundle,
)

__all__ = [
    "cache_folder",
    "kept_folder",
    "pictures",
    "service",
    "service_settings",
    "site_id",
    "untrained_bundle",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What waits for so many things needs more time than other tests."""
    for item in items:
        if Path(__file__).parent in item.path.parents and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(3 * PATIENCE))


@pytest.fixture(scope="session")
def few(pictures: dict[str, bytes]) -> dict[str, bytes]:
    """Ten of the pictures: two chunks."""
    return {path.rpartition("/")[2]: data for path, data in list(pictures.items())[:10]}


@pytest.fixture(scope="session")
def calm(untrained_bundle: Path, pictures: dict[str, bytes], cache_folder: Path) -> dict[str, float]:
    """File name -> probability, read by the pipeline alone: what a run without faults says."""
    import numpy as np

    from models.bundle import load_bundle
    from models.scorer import open_scorer
    from pipeline.decode import decode
    from pipeline.preprocess import model_input
    from pipeline.triage import calibrate

    bundle = load_bundle(untrained_bundle)
    scorer = open_scorer(bundle, threads=1, cache=cache_folder / "networks", conversion_seconds=2 * PATIENCE)
    said = {}
    for path, data in pictures.items():
        pixels = decode(data, max_pixels=10**6, pseudonymise=str).pixels
        stack = model_input(pixels, bundle.region_input_size)[None]
        region = bundle.regions[int(np.argmax(scorer.classify(stack).probabilities))]
        reader = bundle.models[region]
        logit = scorer.detect(reader.network, stack).logits[0]
        said[path.rpartition("/")[2]] = calibrate(float(logit), reader.calibration)
    return said


@pytest.fixture
def patient(service_settings: pytest.MonkeyPatch) -> None:
    """No lease runs out by itself, however slow the machine: for tests that count attempts.

    By ``usefixtures``: it has to come before whatever starts a service.
    """
    service_settings.setenv("FRACTUREAI_LEASE_SECONDS", str(PATIENCE))
    get_settings.cache_clear()


@pytest.fixture
def small_disk(home: Path) -> Iterator[Path]:
    """A disk of its own, where Postgres can work, too."""
    folder = home / f"small-{uuid.uuid4().hex[:8]}"
    with mounted(folder, "200m") as disk:
        yield disk


@pytest.fixture
def light(site_id: uuid.UUID, tmp_path: Path) -> Iterator[Service]:
    """Reconcile and one worker for all queues."""
    with light_service(tmp_path) as running:
        yield running


class Breakable:
    """One of the servers: kill it, start it again, hang it."""

    def __init__(self, child: Child, servers: Servers, home: Path) -> None:
        self.child, self.servers, self.home = child, servers, home

    def _processes(self) -> list[psutil.Process]:
        assert self.child.process is not None
        parent = psutil.Process(self.child.process.pid)
        return [parent, *parent.children(recursive=True)]

    def kill(self) -> None:
        """SIGKILL it with all that it started."""
        assert self.child.process is not None
        for process in self._processes():
            process.kill()
        self.child.process.wait()

    def start(self) -> None:
        """Start it again at the same address, and wait until it answers."""

        def started() -> bool:
            if (
                not self.child.running
            ):  # for the first time, or since its port was somebody else's for a while
                self.child.start()
            return self.answers()

        wait_for(started, PATIENCE, f"{self.child.name} to answer")

    def answers(self) -> bool:
        if self.child.name == "valkey":
            return valkey_answers(self.servers.broker_url)
        return postgres_answers(self.servers.database_url)

    def forget(self) -> None:
        """Throw the broker's file away: it starts empty."""
        shutil.rmtree(self.home / "valkey" / "appendonlydir")

    def hang(self) -> None:
        """SIGSTOP: connections stay, nothing answers."""
        self._signal(signal.SIGSTOP)

    def wake(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        for process in self._processes():
            with suppress(psutil.NoSuchProcess):  # Postgres ends processes of its own at any time
                process.send_signal(number)

    def repair(self) -> None:
        """Have it run again after a test that ended in between."""
        if self.child.running:
            self.wake()
        else:
            self.start()


@pytest.fixture
def postgres(running_servers: tuple[Servers, dict[str, Child]], home: Path) -> Iterator[Breakable]:
    broken = Breakable(running_servers[1]["postgres"], running_servers[0], home)
    yield broken
    broken.repair()


@pytest.fixture
def valkey(
    running_servers: tuple[Servers, dict[str, Child]], home: Path, broker: redis.Redis
) -> Iterator[Breakable]:
    broken = Breakable(running_servers[1]["valkey"], running_servers[0], home)
    yield broken
    broken.repair()

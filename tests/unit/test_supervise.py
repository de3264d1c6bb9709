"""The supervisor starts again what ends by itself, ever more slowly, and says so once it is hopeless."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cli import supervise
from cli.child import Child
from cli.embedded import EmbeddedError
from cli.prepare import Access
from cli.supervise import HOPELESS_DEATHS, Server, Supervisor, listen, processes, wait_until_answering
from store.queue.dispatch import ALL_QUEUES


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(supervise, "time", clock)
    return clock


def ended(child: Child) -> Child:
    assert child.process is not None
    child.process.wait(10)
    return child


def test_it_restarts_with_longer_and_longer_waits(clock: Clock, tmp_path: Path) -> None:
    said: list[str] = []
    failing = [sys.executable, "-c", "import sys; print('no tables'); sys.exit(3)"]
    child = Child("worker", failing, tmp_path / "worker.log")
    supervisor = Supervisor([], said.append)
    supervisor.start(child)
    waits = []
    for _ in range(HOPELESS_DEATHS):
        assert supervisor.hopeless() is None
        ended(child)
        supervisor.tick()
        began, pid = clock.now, child.process and child.process.pid
        while child.process and child.process.pid == pid:
            clock.now += 0.25
            supervisor.tick()
        waits.append(clock.now - began)
    assert waits == [0.5, 1.0, 2.0, 4.0, 8.0]
    assert supervisor.hopeless() == "worker"
    assert "status 3" in said[0]
    assert "no tables" in said[-1]
    ended(child)


def test_a_steady_run_is_forgiven(clock: Clock, tmp_path: Path) -> None:
    child = Child("web", [sys.executable, "-c", "import time; time.sleep(60)"], tmp_path / "web.log")
    supervisor = Supervisor([], lambda line: None)
    supervisor.start(child)
    try:
        for _ in range(2 * HOPELESS_DEATHS):
            clock.now += supervise.STEADY_SECONDS + 1
            supervisor.tick()
            child.wait_or_kill(time.monotonic())
            supervisor.tick()
            clock.now += 0.5
            supervisor.tick()
            assert child.running
        assert supervisor.hopeless() is None
    finally:
        child.wait_or_kill(time.monotonic())


def test_next_free_port_unless_one_was_asked_for() -> None:
    with listen("127.0.0.1", None) as first, listen("127.0.0.1", None) as second:
        assert first.getsockname()[1] < second.getsockname()[1]
        with pytest.raises(EmbeddedError) as caught:
            listen("127.0.0.1", first.getsockname()[1])
        assert caught.value.code == "port_in_use"


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(EmbeddedError):
        listen("192.0.2.1", None)


def test_a_small_server_is_three_processes_and_one_worker_takes_everything(tmp_path: Path) -> None:
    with listen("127.0.0.1", 0) as listener, listen("127.0.0.1", 0) as health:
        small = {child.name: child for child in processes(tmp_path, listener, health, 0)}
    assert set(small) == {"web", "reconcile", "worker-all"}
    argv = small["worker-all"].argv
    assert set(argv[argv.index("-Q") + 1].split(",")) == set(ALL_QUEUES)
    assert argv[argv.index("-c") + 1] == "1"
    assert list(small["web"].argv).index("1") > list(small["web"].argv).index("2"), "the later option counts"


@contextmanager
def started(code: str, port: int, folder: Path) -> Iterator[Server]:
    child = Child("web", [sys.executable, "-c", code], folder / "web.log")
    supervisor = Supervisor([], lambda line: None)
    supervisor.start(child)
    address = f"http://127.0.0.1:{port}"
    try:
        yield Server(address, address, Access("", ""), supervisor, folder)
    finally:
        child.wait_or_kill(time.monotonic())


def test_a_web_process_that_is_slow_is_waited_for_and_one_that_does_nothing_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervise, "LITTLE_WORK_SECONDS", 0.02)
    with listen("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    slow = f"""
import http.server, time
end = time.monotonic() + 5
while time.monotonic() < end: pass
http.server.HTTPServer(("127.0.0.1", {port}), http.server.SimpleHTTPRequestHandler).serve_forever()
"""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "healthz").write_text("")
    with started(slow, port, tmp_path) as running:
        wait_until_answering(running, print, stuck=2.5)
    with (
        started("import time; time.sleep(600)", port, tmp_path) as running,
        pytest.raises(EmbeddedError) as caught,
    ):
        wait_until_answering(running, print, stuck=2.5)
    assert caught.value.code == "web_not_started"

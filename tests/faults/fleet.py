"""Hosts of a fleet as network namespaces: database, broker, store, web, and two workers of each kind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cli.embedded import Servers
from cli.supervise import ONE_THREAD, WEB_OPTIONS
from tests.conftest import ROOT
from tests.faults.web import answers
from tests.running import PATIENCE, wait_for

NEAR, FAR = 2, 50  # milliseconds of a link, each way
#: By host: what it runs, and how far it is.
HOSTS: dict[str, int] = {
    "database": NEAR,
    "broker": NEAR,
    "store": NEAR,
    "web": NEAR,
    "cpu-near": NEAR,
    "cpu-far": FAR,
    "score-near": NEAR,
    "score-far": FAR,
    "report-near": NEAR,
    "report-far": FAR,
}
QUEUES = {"cpu": "cpu", "score": "gpu", "report": "report,notices,exports"}
WEB_PORT = STORE_PORT = 8000
KEY = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}


def why_not() -> str:
    """Say why a fleet cannot run here; empty if it can."""
    if os.geteuid() != 0:
        return "namespaces need root"
    if shutil.which("ip") is None:
        return "needs iproute2: apt-get install iproute2"
    if not Path("/dev/net/tun").exists():
        return "the kernel has no TUN devices"
    probe = f"fai{os.getpid()}"
    if subprocess.run(["ip", "netns", "add", probe], check=False, capture_output=True).returncode:
        return "the kernel lets nobody make network namespaces"
    subprocess.run(["ip", "netns", "del", probe], check=True)
    return ""


@dataclass
class Fleet:
    """A fleet that runs: where its parts are, and the network between them."""

    logs: Path
    names: Mapping[str, str]  # of the namespaces
    addresses: Mapping[str, str]
    network: subprocess.Popen[str]
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)

    def at(self, host: str) -> list[str]:
        """Return what runs a command on a host."""
        return ["ip", "netns", "exec", self.names[host]]

    def start(self, host: str, command: Sequence[str], **environment: str) -> None:
        """Start a process on a host."""
        with (self.logs / f"{host}.log").open("ab") as log:
            process = subprocess.Popen(
                [*self.at(host), sys.executable, "-m", *command],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, **self.environment, **environment},
            )
        self.processes.append(process)

    def start_worker(self, host: str, **environment: str) -> None:
        """Start the worker of a host."""
        queues = QUEUES[host.partition("-")[0]]
        command = ["celery", "-A", "worker.app", "worker", "-Q", queues, "-c", "1", "-l", "INFO"]
        alone = ["-n", f"{host}@test", "--without-gossip", "--without-mingle", "--without-heartbeat"]
        self.start(host, [*command, *alone], **ONE_THREAD, **environment)

    def say(self, word: str, host: str) -> None:
        """``cut`` or ``heal`` a host's link."""
        assert self.network.stdin is not None
        assert self.network.stdout is not None
        name = self.names[host]
        self.network.stdin.write(f"{word} {name}\n")
        self.network.stdin.flush()
        assert self.network.stdout.readline().split() == [word, name]

    @property
    def web(self) -> str:
        """Where the web is."""
        return f"http://{self.addresses['web']}:{WEB_PORT}"

    def stop(self) -> None:
        """End every process of the hosts."""
        for process in self.processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _serve(fleet: Fleet, host: str, kind: str, home: Path, stack: ExitStack) -> dict[str, str]:
    """Start the database or the broker; return its addresses. It ends with the stack."""
    command = [sys.executable, "-m", "tests.faults.fleet_server", kind, str(home), fleet.addresses[host]]
    log = stack.enter_context((fleet.logs / f"{host}.log").open("ab"))
    server = subprocess.Popen(
        [*fleet.at(host), *command],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
    )

    def end() -> None:
        server.communicate(timeout=60)

    stack.callback(end)
    assert server.stdout is not None
    told: dict[str, str] = json.loads(server.stdout.readline())
    return told


@contextmanager
def namespaces(names: Sequence[str]) -> Iterator[None]:
    """Make network namespaces, and remove them."""
    try:
        for name in names:
            subprocess.run(["ip", "netns", "add", name], check=True)
        yield
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


@contextmanager
def fleet_of_hosts(home: Path, logs: Path) -> Iterator[Fleet]:
    """Run the network, the database, the broker and the store; what else there is starts by `Fleet.start`."""
    mark = f"fai{os.getpid() % 10_000}"
    block = os.getpid() % 250
    names = {host: f"{mark}-{host}" for host in HOSTS}
    addresses = {host: f"10.77.{block}.{n + 2}" for n, host in enumerate(HOSTS)}
    links = [f"@{mark}=10.77.{block}.1,0", *(f"{names[h]}={addresses[h]},{ms}" for h, ms in HOSTS.items())]
    with ExitStack() as stack:
        stack.enter_context(namespaces(list(names.values())))
        command = [sys.executable, "-m", "tests.faults.network", *links]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        # which ends when its input does
        network = stack.enter_context(subprocess.Popen(command, cwd=ROOT, text=True, **pipes))
        assert network.stdout is not None
        assert network.stdout.readline() == "ready\n"
        fleet = Fleet(logs, names, addresses, network)
        told = Servers(
            **{
                **_serve(fleet, "database", "postgres", home / "database", stack),
                "broker_url": _serve(fleet, "broker", "valkey", home / "broker", stack)["broker_url"],
            }
        )
        stack.callback(fleet.stop)
        store = f"{addresses['store']}:{STORE_PORT}"
        fleet.start("store", ["moto.server", "-H", addresses["store"], "-p", str(STORE_PORT)])
        fleet.environment = {
            **told.environment(),
            **KEY,
            "FRACTUREAI_BLOB_URL": f"s3://fleet?endpoint=http://{store}",
            "FRACTUREAI_PUBLIC_URL": fleet.web,
        }
        wait_for(lambda: answers(store), PATIENCE, "the store")
        yield fleet


def start_web(fleet: Fleet) -> None:
    """Start web and `reconcile` on the web's host."""
    bind = f"{fleet.addresses['web']}:{WEB_PORT}"
    fleet.start("web", ["gunicorn", "web.factory:create_app()", "--bind", bind, *WEB_OPTIONS])
    fleet.start("web", ["worker.reconcile"])
    wait_for(lambda: answers(bind), PATIENCE, "the web")


@contextmanager
def cut(fleet: Fleet, host: str) -> Iterator[None]:
    """Cut a host's link while the block runs."""
    fleet.say("cut", host)
    try:
        yield
    finally:
        fleet.say("heal", host)

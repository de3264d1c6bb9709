"""`fractureai up`: every process of a server as a child of this one, started again when it ends by itself."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import click
import psutil

from cli.child import Child, stop_all
from cli.client import UsageProblem
from cli.embedded import EmbeddedError, embedded, set_defaults, write_private
from cli.home import default_home
from cli.prepare import ROOT, Access, convert_networks, issue_admin_access, prepare
from settings import from_environ, stated

TICK_SECONDS = 0.5
STEADY_SECONDS = 30.0
HOPELESS_DEATHS = 5
LITTLE_WORK_SECONDS = (
    2.0  # of a processor: less than that in minutes is a process that waits, not one that starts
)
STOP_SECONDS = 4.0  # then the servers stop: nothing runs ten seconds after Ctrl-C, on a busy machine too
PORT = 8000
ANYWHERE = "0.0.0.0"  # noqa: S104 - only where somebody asks for it
WEB_OPTIONS = (
    *("--worker-class", "web.server.Worker", "--workers", "2", "--threads", "32"),
    *("--worker-connections", "4000"),  # most of them wait, in the event loop
    # pages and proxies keep their connections for longer than the two seconds that gunicorn would
    *("--keep-alive", "75", "--timeout", "120", "--graceful-timeout", "4", "--no-control-socket"),
)
#: A report takes two thirds of an image's processor time: one process for them would leave a core idle.
REPORTS_A_DECODER = 2
#: What waits for others, and what takes long: on workers of their own, so that no reading waits behind it.
NOTICE_SLOTS = DELIVERY_SLOTS = 2
EXPORT_SLOTS = 1
#: One worker is free for urgent work, whatever the others do; it scores on the processor, the GPU is theirs.
URGENT_QUEUES = "cpu,gpu,report"
URGENT = {"FRACTUREAI_URGENT_ONLY": "true", "CUDA_VISIBLE_DEVICES": "-1"}
#: On one core: one worker does everything in turn, and nothing stands ready beside it.
SMALL_WEB = ("--workers", "1", "--threads", "8")
SMALL_QUEUES = "cpu,gpu,report,notices,exports,deliveries"
ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL", "OPENCV_FOR")}


class Supervisor:
    """Watches children and starts again, ever more slowly, those that end by themselves."""

    def __init__(self, children: Sequence[Child], say: Callable[[str], None]) -> None:
        self.children = list(children)
        self._say = say
        self._deaths: dict[str, int] = {}
        self._due: dict[str, float] = {}
        self._started: dict[str, float] = {}

    def start(self, child: Child) -> None:
        """Start a child; from the main thread only."""
        self._due.pop(child.name, None)
        self._started[child.name] = time.monotonic()
        child.start()
        if child not in self.children:
            self.children.append(child)

    def tick(self) -> None:
        """Look at every child once."""
        now = time.monotonic()
        for child in self.children:
            child.trim_log()
            if child.running:
                if now - self._started.get(child.name, now) > STEADY_SECONDS:
                    self._deaths[child.name] = 0
            elif child.name not in self._due:
                deaths = self._deaths[child.name] = self._deaths.get(child.name, 0) + 1
                wait = min(30.0, 0.5 * 2 ** (deaths - 1))
                self._due[child.name] = now + wait
                self._say(
                    f"{child.name} ended by itself (status {child.status}); starting it again in {wait:g} s"
                )
                if deaths == HOPELESS_DEATHS:
                    self._say(f"{child.name} keeps ending. The end of {child.log}:\n{child.log_tail()}")
            elif now >= self._due[child.name]:
                self.start(child)

    def hopeless(self) -> str | None:
        """Return the name of a child that keeps ending, if one does."""
        return next((name for name, deaths in self._deaths.items() if deaths >= HOPELESS_DEATHS), None)

    def run(self, until: threading.Event | None = None) -> None:
        """Watch until the event, or for ever."""
        until = until or threading.Event()
        while not until.wait(TICK_SECONDS):
            self.tick()


@dataclass(frozen=True)
class Server:
    """A server that runs: where it is for this machine, how to get in, and who watches it."""

    address: str
    health: str
    access: Access
    supervisor: Supervisor
    home: Path


def interruptible() -> None:
    """Treat SIGTERM and a closed terminal like Ctrl-C, and let no second one cut the stop short."""
    signals = [signal.SIGINT, signal.SIGTERM]  # SIGINT also where a script's `&` had it ignored
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as it is under nohup
        signals.append(signal.SIGHUP)

    def interrupt(_signal: int, _frame: object) -> NoReturn:
        for each in signals:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    for each in signals:
        signal.signal(each, interrupt)


def listen(host: str, port: int | None) -> socket.socket:
    """Return a listening socket: on the port asked for, or on the first free one from 8000.

    ``::`` listens on IPv4, too, where the system can.

    Every web process of this run inherits it, so nobody else can take the port between two of them.

    Raises
    ------
    EmbeddedError
        `port_in_use`.
    """
    for candidate in [port] if port is not None else range(PORT, PORT + 100):
        try:
            return socket.create_server(
                (host, candidate),
                family=socket.AF_INET6 if ":" in host else socket.AF_INET,
                dualstack_ipv6=host == "::" and socket.has_dualstack_ipv6(),
                backlog=2048,
            )
        except OSError as error:
            last = error
    raise EmbeddedError(
        "port_in_use", f"Cannot listen on {host}:{port or PORT}: {last.strerror}. Try another --port."
    )


def processes(
    home: Path, listener: socket.socket, health: socket.socket, workers: int, receivers: int = 0
) -> list[Child]:
    """Return the processes of a server that are ours, `receivers` of DICOM among them.

    With no `workers` of each kind, one does everything in turn, for a machine of one core and little memory.
    """
    python = [sys.executable, "-m"]
    binds = [f"--bind=fd://{each.fileno()}" for each in (listener, health)]
    options = WEB_OPTIONS if workers else (*WEB_OPTIONS, *SMALL_WEB)
    web = [*python, "gunicorn", "web.factory:create_app()", *binds, *options]

    def child(name: str, argv: Sequence[str], **extra: str) -> Child:
        return Child(
            name,
            argv,
            home / "logs" / f"{name}.log",
            env={**os.environ, "PYTHONUNBUFFERED": "1", "TF_CPP_MIN_LOG_LEVEL": "2", **extra},
            cwd=ROOT,
        )

    def worker(name: str, slots: int, *, queues: str | None = None, **extra: str) -> Child:
        argv = [*python, "celery", "-A", "worker.app", "worker", "-Q", queues or name, "-c", str(slots)]
        alone = ["-n", f"{name}@%h", "--without-gossip", "--without-mingle", "--without-heartbeat"]
        return child(f"worker-{name}", [*argv, *alone], **extra)

    # who delivers alone opens sealed identities
    named = os.environ.get("FRACTUREAI_GATEWAY_KEYS", str(home / "gateway-keys"))
    keys = {"FRACTUREAI_GATEWAY_KEYS": named}
    front = child("web", web, FRACTUREAI_HEALTH_PORT=str(health.getsockname()[1]))
    front.keep_open = (listener.fileno(), health.fileno())
    always = [
        front,
        child("reconcile", [*python, "worker.reconcile"]),
        *(child(f"gateway-{n + 1}", [*python, "interop.gateway"], **ONE_THREAD) for n in range(receivers)),
        *([child("poller", [*python, "interop.poller"], **ONE_THREAD)] if receivers else []),
    ]
    if not workers:
        one = {**ONE_THREAD, "FRACTUREAI_SCORER_THREADS": "1", "CUDA_VISIBLE_DEVICES": "-1"}
        return [*always, worker("all", 1, queues=SMALL_QUEUES, **one, **keys)]
    return [
        *always,
        worker("gpu", 1),
        worker("cpu", workers, **ONE_THREAD),
        worker("report", REPORTS_A_DECODER * workers, **ONE_THREAD),
        worker("notices", NOTICE_SLOTS, **ONE_THREAD),
        worker("exports", EXPORT_SLOTS, **ONE_THREAD),
        worker("urgent", 1, queues=URGENT_QUEUES, **URGENT),
        *([worker("deliveries", DELIVERY_SLOTS, **ONE_THREAD, **keys)] if receivers else []),
    ]


def _leave_key(home: Path, address: str) -> Access:
    """Let the administrator in; leave an API key in the home, where this user's client commands find it."""
    note = home / "client.json"
    known = json.loads(note.read_text())["api_key"] if note.exists() else None
    access = issue_admin_access(known)
    write_private(note, json.dumps({"url": address, "api_key": access.api_key}))
    return access


@contextmanager
def server(
    home: Path,
    *,
    host: str,
    port: int | None,
    workers: int | None,
    say: Callable[[str], None],
    gateway: int | None = None,
) -> Iterator[Server]:
    """Run a whole server while the block runs; from the main thread only.

    Parameters
    ----------
    home
        Data, logs and secrets.
    host, port
        Where it listens; without a port the first free one from 8000.
    workers
        Processes that decode, by default half of the cores; twice as many write reports. 0: one process does
        everything in turn.
    say
        Takes a line for the person.
    gateway
        The port on which images come by DICOM; None: they do not.

    Raises
    ------
    EmbeddedError
        A server does not start, the folder or the port is in use.
    """
    named = {name: stated(name) for name in ("database_url", "broker_url")}
    with ExitStack() as stack:
        listener = stack.enter_context(listen(host, port))
        # not `get_settings`, which would remember that nothing names the servers yet
        health = stack.enter_context(listen("127.0.0.1", from_environ(os.environ).health_port))
        servers, children = stack.enter_context(
            embedded(home, postgres=not named["database_url"], valkey=not named["broker_url"])
        )
        number = listener.getsockname()[1]
        everywhere = host in {ANYWHERE, "::"}
        address = f"http://{'127.0.0.1' if everywhere else f'[{host}]' if ':' in host else host}:{number}"
        set_defaults(home, servers)
        os.environ.setdefault(
            "FRACTUREAI_PUBLIC_URL",
            f"http://{socket.gethostname()}:{number}" if everywhere else address,
        )
        os.environ.setdefault("FRACTUREAI_SOFT_SHUTDOWN_SECONDS", str(STOP_SECONDS - 1))

        prepare()
        os.environ.pop("FRACTUREAI_DATABASE_OWNER_URL", None)  # nobody needs it from here on
        access = _leave_key(home, address)
        supervisor = Supervisor(children, say)
        receivers = 0
        if gateway is not None:
            os.environ["FRACTUREAI_GATEWAY_PORT"] = str(gateway)
            receivers = from_environ(os.environ).gateway_processes
        slots = max(1, (os.cpu_count() or 2) // 2) if workers is None else workers
        if not slots:  # little memory: before anything else takes some
            convert_networks(say)
        ours = processes(home, listener, health, slots, receivers)
        stack.callback(stop_all, ours, STOP_SECONDS)
        for child in ours:
            supervisor.start(child)
        local = f"http://127.0.0.1:{health.getsockname()[1]}"
        yield Server(address, local, access, supervisor, home)


def leave(status: int) -> NoReturn:
    """End at once: all is closed, and taking the interpreter apart takes seconds on a busy machine."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _processor_seconds(child: Child) -> float:
    """Return how long a child and what it started have used the processor, those that ended included."""
    used = 0.0
    with suppress(psutil.NoSuchProcess):
        first = psutil.Process(child.process.pid if child.process else -1)
        for process in (first, *first.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                used += times.user + times.system + times.children_user + times.children_system
    return used


def wait_until_answering(
    running: Server, say: Callable[[str], None], *, stuck: float = 180.0, longest: float = 1800.0
) -> None:
    """Wait until the web process answers, as long as it gets on: a busy machine may need minutes.

    Parameters
    ----------
    say
        Takes a line for the person, each quarter of a minute.
    stuck
        Seconds after which it is given up where it did next to nothing meanwhile.
    longest
        Seconds after which it is given up whatever it does.

    Raises
    ------
    EmbeddedError
        `web_not_started`.
    """
    web = next(child for child in running.supervisor.children if child.name == "web")
    began = said = progressed = time.monotonic()
    used = 0.0
    while not running.supervisor.hopeless():
        running.supervisor.tick()
        try:
            urllib.request.urlopen(f"{running.address}/healthz", timeout=5).close()  # noqa: S310 - our own address
        except OSError:
            time.sleep(0.1)
        else:
            return
        now = time.monotonic()
        if (present := _processor_seconds(web)) > used + LITTLE_WORK_SECONDS or present < used:
            used, progressed = present, now
        if now - progressed > stuck or now - began > longest:
            break
        if now - said > 15:
            said = now
            load = os.getloadavg()[0]
            say(
                f"Waiting for the web process to start, for {now - began:.0f} s; "
                f"{load:.0f} processes want this machine's {os.cpu_count()} cores."
            )
    raise EmbeddedError(
        "web_not_started", f"The web process does not answer; see {running.home / 'logs' / 'web.log'}."
    )


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=int, help="Port to listen on.  [default: the first free one from 8000]")
@click.option("--workers", type=click.IntRange(1), help="Decoding processes; twice as many write reports.")
@click.option("--home", type=click.Path(path_type=Path, file_okay=False), help="Folder for data and logs.")
@click.option(
    "--dicom",
    type=click.IntRange(1, 65535),
    help="Port on which to receive images by DICOM; see `fractureai gateway`.",
)
@click.option("--small", is_flag=True, help="For one core and 1.5 GB: one worker does everything in turn.")
def up(
    *, host: str, port: int | None, workers: int | None, home: Path | None, dicom: int | None, small: bool
) -> None:
    """Run a whole server here, until Ctrl-C.

    Postgres and Valkey come out of the installed packages, unless FRACTUREAI_DATABASE_URL and
    FRACTUREAI_BROKER_URL name others; files go below the home folder, unless FRACTUREAI_BLOB_URL says where.
    """
    interruptible()
    folder = home.resolve() if home else default_home()
    try:
        options = {"host": host, "port": port, "workers": 0 if small else workers, "gateway": dicom}
        with server(folder, say=click.echo, **options) as running:  # type: ignore[arg-type]
            wait_until_answering(running, click.echo)
            click.echo(
                f"Serving at {running.address}\nSign in:   {running.access.sign_in}\nData, logs: {folder}"
            )
            if dicom is not None:
                click.echo(f"Receiving DICOM on port {dicom}.")
            click.echo(f"Readiness, metrics: {running.health}/readyz, /metrics\nCtrl-C ends it.")
            running.supervisor.run()
    except KeyboardInterrupt:
        click.echo("\nStopped.")
        leave(0)
    except EmbeddedError as error:
        raise UsageProblem(f"{error} [{error.code}]") from None

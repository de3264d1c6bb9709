"""`fractureai up` and `demo`: a server from one command, its data found again, and nothing left behind."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from cli.client import Client
from cli.embedded import running_servers
from cli.supervise import listen
from phantoms.files import encode_phantom
from phantoms.film import make_phantom
from tests.conftest import ROOT
from tests.e2e.conftest import bare_environment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]  # a whole server is started several times

COMMAND = [sys.executable, "-m", "cli.main"]
ENDS_WITHIN = 60.0  # seconds after Ctrl-C or a kill: ten where the machine is not busy


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="fractureai-up-"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for seed, region in enumerate(("hand", "leg", "hip")):
        (folder / f"{region}.png").write_bytes(encode_phantom(make_phantom(seed, region), "png"))
    (folder / "notes.txt").write_text("not an image")
    return folder


def runs(process: psutil.Process) -> bool:
    """Whether it is there and not only waiting for somebody to ask how it ended."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class Running:
    """A command of ours in a process group of its own, and all that it started."""

    def __init__(self, *arguments: str, cwd: Path = ROOT) -> None:
        self.process = subprocess.Popen(
            arguments,
            cwd=cwd,
            env={**bare_environment(), "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.output = ""

    def wait_for(self, pattern: str) -> str:
        """Read what it prints until a line matches; return the first group."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output += line
            if found := re.search(pattern, line):
                return found[1]
        raise AssertionError(f"ended without {pattern!r}:\n{self.output}")

    def family(self) -> list[psutil.Process]:
        """Return it and everything below it."""
        root = psutil.Process(self.process.pid)
        return [root, *root.children(recursive=True)]

    def ends(self, how: signal.Signals) -> int:
        """Send a signal to the command alone; see that nothing of it runs any more soon after."""
        family = self.family()
        assert len(family) > 10  # web, workers, their children, Postgres' own
        self.process.send_signal(how)
        began = time.monotonic()
        status = self.process.wait(ENDS_WITHIN)
        while (left := [each for each in family if runs(each)]) and time.monotonic() < began + ENDS_WITHIN:
            time.sleep(0.05)
        assert not left
        return status

    def close(self) -> None:
        """End it if it still runs, and read no more of what it prints."""
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(ENDS_WITHIN)
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def run() -> Iterator[list[Running]]:
    started: list[Running] = []
    yield started
    for each in started:
        each.close()


def start(run: list[Running], *arguments: str) -> Running:
    run.append(Running(*arguments))
    return run[-1]


def client_of(home: Path) -> Client:
    note = json.loads((home / "client.json").read_text())
    return Client(note["url"], note["api_key"])


def test_it_serves_heals_ends_without_a_trace_and_starts_again(run: list[Running], home: Path) -> None:
    up = start(run, *COMMAND, "up", "--home", str(home))
    address = up.wait_for(r"Serving at (http\S+)")
    link = up.wait_for(r"Sign in:\s+(http\S+)")
    assert link.startswith(address)
    with httpx.Client(follow_redirects=True) as browser:
        assert browser.get(link).status_code == 200
    another = [*COMMAND, "people", "link", "admin@localhost", "--home", str(home)]
    printed = subprocess.run(another, capture_output=True, text=True, check=True).stdout
    assert f"One-time link: {address}/sign-in?token=" in printed
    with client_of(home) as client:
        client.create_batch({"label": "kept"}, "first")

    victim = next(p for p in up.family() if "worker.reconcile" in p.cmdline())
    victim.kill()
    up.wait_for(r"(reconcile) ended by itself .*starting it again")
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if any(runs(p) and "worker.reconcile" in p.cmdline() and p != victim for p in up.family()):
            break
        time.sleep(0.1)
    else:
        pytest.fail("reconcile was not started again")

    second = start(run, *COMMAND, "up", "--home", str(home))
    second.wait_for(r"(home_in_use)")
    assert second.process.wait() == 2

    assert up.ends(signal.SIGKILL) == -signal.SIGKILL
    assert running_servers(home) is None

    # again: its data are there, a port that is taken is passed over, and Ctrl-C ends it too
    with listen("127.0.0.1", None) as taken:
        up = start(run, *COMMAND, "up", "--home", str(home))
        address = up.wait_for(r"Serving at (http\S+)")
        assert f":{taken.getsockname()[1]}" not in address
        with client_of(home) as client:
            assert [batch["label"] for batch in client.batches()] == ["kept"]
        assert up.ends(signal.SIGINT) == 0


def test_a_port_that_was_asked_for_is_not_exchanged(run: list[Running], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        up = start(run, *COMMAND, "up", "--home", str(tmp_path / "home"), "--port", port)
        up.wait_for(r"(port_in_use)")
        assert up.process.wait() == 2


def test_demo_reads_saves_and_exits(run: list[Running], home: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "results.zip"
    demo = start(
        run, *COMMAND, "demo", "--exit", "--home", str(home), "--images", str(images), "--out", str(out)
    )
    output, _ = demo.process.communicate()
    assert demo.process.returncode == 0, output
    assert "3 done, 1 rejected" in output
    with zipfile.ZipFile(out) as archive:
        assert "manifest.json" in archive.namelist()
        assert len(archive.read("results.csv").splitlines()) == 1 + 4
    assert running_servers(home) is None


def test_demo_ends_with_the_make_that_was_killed(run: list[Running], home: Path) -> None:
    command = " ".join([*COMMAND, "demo", "--home", str(home), "--end-with", "$$"])
    shell = start(run, "sh", "-c", f"{command}; true")
    shell.wait_for(r"(Batch)")
    shell.ends(signal.SIGKILL)
    assert running_servers(home) is None

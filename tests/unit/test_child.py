"""A child ends with us whatever happens to us, stops when asked, and logs within bounds."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from cli import child as child_module
from cli.child import Child, end_with_parent

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)",
]


def gone_within(pid: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.02)
    return False


def test_child_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from cli.child import Child\n"
        f"child = Child('c', {SLEEP!r}, Path({str(tmp_path / 'c.log')!r})); child.start()\n"
        "print(child.process.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert psutil.pid_exists(pid)
        parent.kill()
    assert gone_within(pid, 5)


def test_a_dead_parent_is_noticed() -> None:
    pid = os.fork()
    if pid == 0:
        try:
            end_with_parent(signal.SIGKILL, 2**22)
        except ProcessLookupError:
            os._exit(7)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7


def test_stop_asks_first_and_kills_the_deaf(tmp_path: Path) -> None:
    polite = Child("polite", SLEEP, tmp_path / "polite.log")
    deaf = Child("deaf", STUBBORN, tmp_path / "deaf.log")
    for child in (polite, deaf):
        child.start()
    deadline = time.monotonic() + 10
    while "deaf" not in deaf.log_tail() and time.monotonic() < deadline:
        time.sleep(0.02)
    for child in (polite, deaf):
        child.ask_to_stop()
        child.wait_or_kill(time.monotonic() + 1)
    assert (polite.status, deaf.status) == (-signal.SIGTERM, -signal.SIGKILL)


def test_terminal_signals_do_not_reach_it(tmp_path: Path) -> None:
    child = Child("c", SLEEP, tmp_path / "c.log")
    child.start()
    assert child.process is not None
    try:
        assert os.getpgid(child.process.pid) == child.process.pid != os.getpgid(0)
    finally:
        child.wait_or_kill(time.monotonic())


def test_log_is_moved_aside_when_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_module, "LOG_BYTES", 100)
    child = Child("c", SLEEP, tmp_path / "c.log")
    child.log.write_text("first\n" + "x" * 100)
    child.trim_log()
    assert child.log.stat().st_size == 0
    assert (tmp_path / "c.log.1").read_text().startswith("first")

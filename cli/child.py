"""A process that ends when we do, even when we are killed; its output goes to a log of bounded size."""

from __future__ import annotations

import ctypes
import os
import pwd
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

PR_SET_PDEATHSIG = 1
LOG_BYTES = 10 * 1024**2
_libc = ctypes.CDLL(None, use_errno=True)


def end_with_parent(death_signal: signal.Signals, parent: int) -> None:
    """Have the kernel send us `death_signal` when the thread that made us ends.

    Raises
    ------
    ProcessLookupError
        `parent` ended before the kernel knew.
    """
    if _libc.prctl(PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        raise ProcessLookupError("the parent process has already ended")


def dies_with_us(death_signal: signal.Signals = signal.SIGKILL) -> Callable[[], None]:
    """Return a `preexec_fn`. It runs after `user=` took effect: a change of user clears the setting.

    Call it, and start the process, from the main thread: the signal follows the thread, not the process.
    """
    parent = os.getpid()
    return lambda: end_with_parent(death_signal, parent)


def unprivileged(user: int | None) -> dict[str, object]:
    """Return the arguments of `subprocess` that run a command as `user`, or as ourselves."""
    if user is None:
        return {}
    return {"user": user, "group": pwd.getpwuid(user).pw_gid, "extra_groups": []}


@dataclass
class Child:
    """One process of ours: how to start it, how to stop it, and where it logs.

    It leads a session of its own, so that Ctrl-C in a terminal reaches us alone and we decide the order.
    """

    name: str
    argv: Sequence[str]
    log: Path
    env: Mapping[str, str] | None = None
    cwd: Path | None = None
    user: int | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    death_signal: signal.Signals = signal.SIGKILL
    keep_open: tuple[int, ...] = ()
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def start(self) -> None:
        """Start it; from the main thread only."""
        self.trim_log()
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(  # type: ignore[call-overload]
                list(self.argv),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.env,
                cwd=self.cwd,
                pass_fds=self.keep_open,
                start_new_session=True,
                preexec_fn=dies_with_us(self.death_signal),  # noqa: PLW1509 - calls prctl and getppid, takes no lock
                **unprivileged(self.user),
            )

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self.process is not None and self.process.poll() is None

    @property
    def status(self) -> int | None:
        """Its exit status, negative for a signal; None while it runs."""
        return None if self.process is None else self.process.poll()

    def ask_to_stop(self) -> None:
        """Send its stop signal, if it runs."""
        if self.process is not None and self.running:
            self.process.send_signal(self.stop_signal)

    def wait_or_kill(self, deadline: float) -> None:
        """Wait until `deadline` (of `time.monotonic`), then kill it and all that it started."""
        if self.process is None:
            return
        try:
            self.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def trim_log(self) -> None:
        """Move the log's contents aside once it is large; the file stays, for a writer has it open."""
        if self.log.exists() and self.log.stat().st_size > LOG_BYTES:
            self.log.with_suffix(".log.1").write_bytes(self.log.read_bytes())
            os.truncate(self.log, 0)

    def log_tail(self, lines: int = 8) -> str:
        """Return the last lines that it logged."""
        if not self.log.exists():
            return ""
        with self.log.open("rb") as log:
            log.seek(max(0, self.log.stat().st_size - 16_384))
            text = log.read().decode(errors="replace")
        return "\n".join(text.splitlines()[-lines:])


def stop_all(children: Sequence[Child], seconds: float) -> None:
    """Ask all to stop, wait so many seconds for all of them together, then kill those that did not."""
    deadline = time.monotonic() + seconds
    for child in children:
        child.ask_to_stop()
    for child in children:
        child.wait_or_kill(deadline)

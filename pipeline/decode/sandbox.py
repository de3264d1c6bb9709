"""Decoding a stranger's file in a confined process: the only way in which the product decodes one.

A process of its own, started with an empty environment, has every codec loaded and forks a child (`child.py`)
for each owner of files, such as a batch. The child reads a file from a descriptor that it is handed, and
writes the pixels to another; it can open no file, reach no network and start no process. Its processor time,
memory and time are limited. What it answers is checked (`wire.py`), never trusted.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import math
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import pipeline
from pipeline.decode import wire
from pipeline.types import Radiograph, Rejected, Skipped
from vocabulary.reasons import Reason

log = logging.getLogger("fractureai.decode")

#: Seconds that loading the codecs may take on a busy machine.
_START_SECONDS = 120.0
#: Seconds between two looks at a child that has not answered yet.
_TICK = 0.1
_END_SECONDS = 10.0
#: A file of few bytes is decoded in a moment, or is made to take long: seconds for any, bytes for one more.
_LEAST_CPU_SECONDS = 2.0
_BYTES_PER_CPU_SECOND = 1 << 20
#: The most often that one file's header may ask for a pseudonym.
_MAX_IDENTITIES = 4
#: What the two shared files keep from one picture to the next: fresh pages are dear.
_KEPT_BYTES = 64 << 20


@dataclass(frozen=True)
class Limits:
    """What decoding one file may cost.

    Attributes
    ----------
    cpu_seconds
        Processor time; a small file gets less (2 s, and one more for each MiB).
    wall_seconds
        Time on the clock: reached only where the machine is far too busy, and so nobody's fault.
    memory_bytes
        Address space beyond that of the loaded codecs.
    """

    cpu_seconds: float = 10.0
    wall_seconds: float = 60.0
    memory_bytes: int = 2 << 30

    def cpu_for(self, size: int) -> float:
        """Return the processor time that a file of `size` bytes may take."""
        return min(self.cpu_seconds, _LEAST_CPU_SECONDS + size / _BYTES_PER_CPU_SECOND)


class Stopped(Exception):
    """Decoding was no longer wanted."""


class _Ended(Exception):
    """The process at the other end of a socket has ended."""


@dataclass
class _Child:
    pid: int
    socket: socket.socket
    owner: str
    limits: Limits
    max_pixels: int
    incoming: int
    outgoing: int

    def close(self) -> None:
        self.socket.close()
        os.close(self.incoming)
        os.close(self.outgoing)

    def cpu_time(self) -> float:
        # a process's clock, as clock_getcpuclockid(3) names it; the child is not reaped until we say so
        return time.clock_gettime((~self.pid << 3) | 2)


class Sandbox:
    """The decoding processes of this one; starts them when they are first needed, and again if they end.

    Calls from several threads wait for each other.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._child: _Child | None = None
        self.layers: dict[str, int] = {}

    def decode(
        self,
        data: bytes,
        *,
        max_pixels: int,
        pseudonymise: Callable[[str], str],
        refuse_burned_in: bool = False,
        at_full_depth: bool = False,
        owner: str = "",
        limits: Limits | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> Radiograph:
        """Decode and pseudonymise a file, as `pipeline.decode.picture.decode` does, in the sandbox.

        Parameters
        ----------
        owner
            Whose file it is, such as a batch's id: no process decodes files of two owners.
        stop
            Asked now and then while it takes long; when true, the child is killed.

        Raises
        ------
        Rejected
            The input is unusable, or costs more than `limits` to decode.
        Skipped
            A valid DICOM object without a picture.
        Stopped
            `stop` said so.
        TimeoutError, RuntimeError
            The machine was too busy, or the decoder failed: not the file's fault.
        """
        if not data:
            raise Rejected(Reason.EMPTY_FILE)
        with self._lock:
            try:
                child = self._child_of(owner, limits or Limits(), max_pixels)
                wanted = {
                    "size": len(data),
                    "max_pixels": max_pixels,
                    "refuse_burned_in": int(refuse_burned_in),
                    "at_full_depth": int(at_full_depth),
                }
                return self._exchange(child, data, wanted, pseudonymise, stop)
            except (Rejected, Skipped):
                raise
            except BaseException:  # also a time limit's signal: what the child is at, nobody waits for
                self._drop_child()
                raise

    def warm_up(self) -> None:
        """Start the process that has the codecs loaded."""
        with self._lock:
            self._running()

    def child_cpu_time(self) -> float:
        """Return the seconds of processor time that the child of the last owner has taken."""
        with self._lock:
            return self._child.cpu_time() if self._child is not None else 0.0

    def close(self) -> None:
        """End the processes."""
        with self._lock:
            self._close()

    # the processes

    def _running(self) -> socket.socket:
        if self._control is not None:
            return self._control
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        root = str(Path(pipeline.__file__).resolve().parents[1])
        start = (
            "import sys; fd, *sys.path[:0] = sys.argv[1:]\n"
            "from pipeline.decode.child import main; main(int(fd))"
        )
        path = [root, *(entry for entry in sys.path if entry and entry != root)]
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-c", start, str(theirs.fileno()), *path],
            env={"OPENBLAS_NUM_THREADS": "1"},
            cwd="/",
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        theirs.close()
        self._control = ours
        ours.settimeout(_START_SECONDS)
        try:
            self.layers = json.loads(self._heard(ours))
        except (OSError, _Ended) as error:
            self._close()
            raise RuntimeError("the decoder does not start") from error
        ours.settimeout(_END_SECONDS)
        if not self.layers["seccomp"]:
            log.warning("files are decoded without seccomp: install libseccomp2 (and a kernel that has it)")
        return ours

    @staticmethod
    def _heard(end: socket.socket) -> bytes:
        try:
            message = end.recv(wire.MAX_MESSAGE)
        except ConnectionError:
            message = b""
        if not message:
            raise _Ended
        return message

    def _close(self) -> None:
        if self._child is not None:
            self._child.close()
            self._child = None
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._process is not None:
            try:
                self._process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def _child_of(self, owner: str, limits: Limits, max_pixels: int) -> _Child:
        child = self._child
        if child is not None and (child.owner, child.limits, child.max_pixels) == (owner, limits, max_pixels):
            return child
        self._drop_child()
        for _ in range(2):  # the process that forks may have been killed meanwhile
            control = self._running()
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            incoming, outgoing = (os.memfd_create(name) for name in ("incoming", "outgoing"))
            made = _Child(0, ours, owner, limits, max_pixels, incoming, outgoing)
            file_size = 8 * max_pixels + (64 << 20)  # 16-bit colour and the 8-bit picture, both uncompressed
            try:
                message = wire.FORK + struct.pack("<qq", limits.memory_bytes, file_size)
                socket.send_fds(control, [message], [theirs.fileno(), incoming, outgoing])
                (made.pid,) = struct.unpack("<q", self._heard(control))
            except (_Ended, OSError):
                made.close()
                self._close()
                continue
            finally:
                theirs.close()
            self._child = made
            return made
        raise RuntimeError("the decoder does not stay alive")

    def _drop_child(self) -> tuple[int, float]:
        """Kill the child if it lives; return its wait status and the processor time it took."""
        child, self._child = self._child, None
        if child is None or self._control is None:
            return 0, 0.0
        child.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(child.pid, signal.SIGKILL)  # not reaped yet: nobody else has this number
        try:
            self._control.send(wire.END + struct.pack("<q", child.pid))
            status, used, _ = struct.unpack("<qdq", self._heard(self._control))
        except (_Ended, OSError):
            self._close()
            return 0, 0.0
        return status, used

    # one file

    def _exchange(
        self,
        child: _Child,
        data: bytes,
        wanted: dict[str, int],
        pseudonymise: Callable[[str], str],
        stop: Callable[[], bool] | None,
    ) -> Radiograph:
        allowed = child.limits.cpu_for(len(data))
        _write(child.incoming, data)
        try:
            until = child.cpu_time() + allowed
            # the kernel ends it even where nobody looks; whole seconds, so a little later than we do
            soft = math.ceil(until) + 1
            resource.prlimit(child.pid, resource.RLIMIT_CPU, (soft, resource.RLIM_INFINITY))
            child.socket.send(json.dumps(wanted).encode())
            message = self._answer(child, until, pseudonymise, stop)
            found = wire.read_answer(message, max_pixels=child.max_pixels)
            if isinstance(found, Rejected | Skipped):
                raise found
            read = _read(child.outgoing, found)
        except (_Ended, ProcessLookupError, BrokenPipeError):
            raise self._verdict() from None
        except wire.MalformedAnswer as error:
            self._drop_child()
            raise Rejected(Reason.CORRUPT, f"the decoder was misled: {error}") from None
        for descriptor in (
            child.incoming,
            child.outgoing,
        ):  # what small files need stays, what large ones do not
            if os.fstat(descriptor).st_size > _KEPT_BYTES:
                os.ftruncate(descriptor, 0)
        return read

    def _answer(
        self,
        child: _Child,
        until: float,
        pseudonymise: Callable[[str], str],
        stop: Callable[[], bool] | None,
    ) -> bytes:
        deadline = time.monotonic() + child.limits.wall_seconds
        child.socket.settimeout(_TICK)
        identities = 0
        while True:
            try:
                message = self._heard(child.socket)
            except TimeoutError:
                if stop is not None and stop():
                    raise Stopped from None
                if child.cpu_time() > until:
                    self._drop_child()
                    raise Rejected(Reason.TOO_EXPENSIVE_TO_DECODE, "processor time") from None
                if time.monotonic() > deadline:
                    raise TimeoutError("decoding took longer than the machine could give it") from None
                continue
            if message[:1] == wire.ANSWER:
                if child.cpu_time() > until:  # it answered before we looked; the limit is the same
                    raise Rejected(Reason.TOO_EXPENSIVE_TO_DECODE, "processor time")
                return message[1:]
            identities += 1
            if message[:1] != wire.IDENTITY or identities > _MAX_IDENTITIES:
                raise wire.MalformedAnswer("neither an answer nor a question")
            child.socket.send(pseudonymise(message[1:].decode("utf-8", "replace")).encode())

    def _verdict(self) -> Exception:
        """Describe why a child has exited."""
        status, _ = self._drop_child()
        if self._control is None:
            return RuntimeError("the decoder was killed")
        ended = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        if ended == signal.SIGXCPU:
            return Rejected(Reason.TOO_EXPENSIVE_TO_DECODE, "processor time")
        if ended == signal.SIGKILL:  # not by us: the machine is out of memory, or somebody did it
            return MemoryError("the decoder was killed")
        return Rejected(Reason.CORRUPT, f"the decoder crashed (signal {ended})")


def _write(descriptor: int, data: bytes) -> None:
    rest, at = memoryview(data), 0
    while rest:
        written = os.pwrite(descriptor, rest, at)
        rest, at = rest[written:], at + written


def _read(descriptor: int, found: dict[str, Any]) -> Radiograph:
    """Copy pixels and bytes out of what the child wrote: it can change nothing of the copy."""
    stored_size, width, height = found.pop("stored_size"), found["width"], found["height"]
    pixels = np.empty((height, width), np.uint8)
    _fill(descriptor, pixels.data.cast("B"), 0)
    stored = os.pread(descriptor, stored_size, width * height)
    if len(stored) != stored_size:
        raise wire.MalformedAnswer("fewer bytes than it says")
    return Radiograph(pixels=pixels, stored=stored, **found)


def _fill(descriptor: int, buffer: memoryview, at: int) -> None:
    while buffer:
        n = os.preadv(descriptor, [buffer], at)
        if not n:
            raise wire.MalformedAnswer("fewer bytes than it says")
        buffer, at = buffer[n:], at + n


_sandboxes: dict[int, Sandbox] = {}
_starting = threading.Lock()


def sandbox() -> Sandbox:
    """Return this process's sandbox; a process that was forked from one with a sandbox gets its own."""
    with _starting:
        if os.getpid() not in _sandboxes:
            _sandboxes.clear()
            _sandboxes[os.getpid()] = made = Sandbox()
            atexit.register(made.close)
        return _sandboxes[os.getpid()]


def decode(
    data: bytes,
    *,
    max_pixels: int,
    pseudonymise: Callable[[str], str],
    refuse_burned_in: bool = False,
    at_full_depth: bool = False,
    owner: str = "",
    limits: Limits | None = None,
    stop: Callable[[], bool] | None = None,
) -> Radiograph:
    """Decode a file in this process's sandbox; parameters and errors as `Sandbox.decode`."""
    return sandbox().decode(
        data,
        max_pixels=max_pixels,
        pseudonymise=pseudonymise,
        refuse_burned_in=refuse_burned_in,
        at_full_depth=at_full_depth,
        owner=owner,
        limits=limits,
        stop=stop,
    )

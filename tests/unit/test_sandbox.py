"""Files are decoded in a process that can do nothing but decode, and that ends when it takes too much."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline.decode import Limits, Sandbox, Stopped, confine, picture, wire
from pipeline.decode.sandbox import _read as take
from pipeline.types import Radiograph, Rejected, StudyFacts
from tests.unit.test_decode_fuzz import FILES
from vocabulary.reasons import Reason

MAX_PIXELS = 4_000_000


def grey(width: int = 640, height: int = 480) -> np.ndarray:
    across, down = np.meshgrid(np.arange(width), np.arange(height))
    return (128 + 90 * np.sin(across / 9) * np.cos(down / 7) + across % 7).astype(np.uint8)


def png(array: np.ndarray) -> bytes:
    return cv2.imencode(".png", array)[1].tobytes()


def pseudonym(identity: str) -> str:
    return f"{len(identity):064x}"


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    made = Sandbox()
    yield made
    made.close()


def read(sandbox: Sandbox, data: bytes, **options: object) -> Radiograph:
    return sandbox.decode(data, **{"max_pixels": MAX_PIXELS, "pseudonymise": pseudonym, **options})


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def child_of(sandbox: Sandbox) -> int:
    child = sandbox._child
    assert child is not None
    return child.pid


@pytest.mark.parametrize("name", FILES)
def test_a_file_comes_out_as_it_does_without_the_sandbox(sandbox: Sandbox, name: str) -> None:
    inside = read(sandbox, FILES[name])
    outside = picture.decode(FILES[name], max_pixels=MAX_PIXELS, pseudonymise=pseudonym)
    np.testing.assert_array_equal(inside.pixels, outside.pixels)
    assert {**inside.__dict__, "pixels": 0} == {**outside.__dict__, "pixels": 0}


def test_a_refusal_keeps_its_reason_and_its_detail(sandbox: Sandbox) -> None:
    for data in (b"", b"rubbish", FILES["png"][:-20], png(np.zeros((99, 99), np.uint8)), png(grey(9, 99))):
        with pytest.raises(Rejected) as outside:
            picture.decode(data, max_pixels=MAX_PIXELS, pseudonymise=pseudonym)
        with pytest.raises(Rejected) as inside:
            read(sandbox, data)
        assert str(inside.value) == str(outside.value)


def test_the_child_is_confined(sandbox: Sandbox) -> None:
    read(sandbox, png(grey()))
    pid = child_of(sandbox)
    assert sandbox.layers["seccomp"], "libseccomp2 is missing"
    status = status_of(pid)
    assert (status["Seccomp"], status["NoNewPrivs"]) == ("2", "1")
    secret = [line for line in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") if line]
    assert secret == [b"OPENBLAS_NUM_THREADS=1"]
    limits = Path(f"/proc/{pid}/limits").read_text()
    for what in ("Max address space", "Max file size", "Max cpu time", "Max open files"):
        (line,) = (line for line in limits.splitlines() if line.startswith(what))
        assert "unlimited" not in line.split()[3:4], line
    opened = [os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()]
    assert all(name.startswith(("/dev/null", "socket:", "/memfd:")) for name in opened), opened
    if sandbox.layers["network"]:
        assert os.readlink(f"/proc/{pid}/ns/net") != os.readlink("/proc/self/ns/net")


def test_under_the_filter_no_file_process_or_socket_can_be_had() -> None:
    code = """
import ctypes, json, mmap, os, resource, signal, socket
from pipeline.decode import confine
filter = confine.SystemCallFilter()
parent = os.getppid()
filter.apply()
refused = {}
for name, attempt in {
    "open": lambda: open("/etc/passwd"),
    "create": lambda: open("/tmp/new", "w"),
    "memfd": lambda: os.memfd_create("more"),
    "socket": lambda: socket.socket(),
    "fork": os.fork,
    "exec": lambda: os.execv("/bin/true", ["true"]),
    "kill": lambda: os.kill(parent, signal.SIGTERM),
    "limits": lambda: resource.setrlimit(resource.RLIMIT_CPU, (1000, 1000)),
    "list": lambda: os.listdir("/"),
    "executable memory": lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC),
}.items():
    try:
        attempt()
    except (PermissionError, ValueError) as error:  # setrlimit says EPERM as a ValueError
        refused[name] = True
    else:
        refused[name] = False
os.write(1, json.dumps(refused).encode())
os._exit(0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    refused = json.loads(done.stdout)
    assert len(refused) == 10
    assert all(refused.values()), refused


def test_landlock_closes_the_files_by_itself() -> None:
    code = """
import os
from pipeline.decode import confine
confine.drop_privileges()
version = confine.close_file_system()
try:
    open("/etc/passwd")
except PermissionError:
    print(version, "refused")
else:
    print(version, "opened")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    version, what = done.stdout.split()
    assert (int(version) > 0) == (what == "refused")


def test_no_process_reads_the_files_of_two_owners(sandbox: Sandbox) -> None:
    pids = []
    for owner in ("a", "a", "b", "a"):
        read(sandbox, png(grey()), owner=owner)
        pids.append(child_of(sandbox))
    assert pids[0] == pids[1]
    assert len(set(pids)) == 3
    assert all(not Path(f"/proc/{pid}").exists() for pid in pids[:-1])


def test_too_much_processor_time_is_the_files_fault_and_the_next_file_is_read(sandbox: Sandbox) -> None:
    large = png(np.random.default_rng(0).integers(0, 255, (2000, 2000), np.uint8))
    with pytest.raises(Rejected) as refused:
        read(sandbox, large, limits=Limits(cpu_seconds=0.001))
    assert refused.value.reason is Reason.TOO_EXPENSIVE_TO_DECODE
    assert read(sandbox, png(grey())).width == 640


def test_a_small_file_gets_less_time_than_a_large_one() -> None:
    limits = Limits(cpu_seconds=10)
    assert limits.cpu_for(600) < 3
    assert limits.cpu_for(4 << 20) == 6
    assert limits.cpu_for(512 << 20) == 10


@pytest.mark.parametrize("kind", ["png", "tiff", "dicom"])
def test_too_much_memory_is_the_files_fault(sandbox: Sandbox, kind: str) -> None:
    data = {"png": png, "tiff": _tiff, "dicom": _deflated}[kind](np.zeros((3000, 8000), np.uint16) + 7)
    with pytest.raises(Rejected) as refused:
        read(sandbox, data, max_pixels=30_000_000, limits=Limits(memory_bytes=24 << 20))
    assert refused.value.reason is Reason.TOO_EXPENSIVE_TO_DECODE


def _tiff(array: np.ndarray) -> bytes:
    return cv2.imencode(".tif", array)[1].tobytes()


def _deflated(array: np.ndarray) -> bytes:
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    from tests.unit.test_dicom import make_dicom

    return make_dicom(array, DeflatedExplicitVRLittleEndian)


def test_a_crash_is_the_files_fault_and_the_next_file_is_read(sandbox: Sandbox) -> None:
    read(sandbox, png(grey()))
    victim = child_of(sandbox)
    os.kill(victim, signal.SIGSTOP)
    threading.Timer(0.3, _crash, [victim]).start()
    with pytest.raises(Rejected) as refused:
        read(sandbox, png(grey()))
    assert refused.value.reason is Reason.CORRUPT
    assert "signal 11" in refused.value.detail
    assert read(sandbox, png(grey())).width == 640


def _crash(pid: int) -> None:
    os.kill(pid, signal.SIGSEGV)
    os.kill(pid, signal.SIGCONT)


def test_a_killed_child_is_our_fault_and_so_is_a_standstill(sandbox: Sandbox) -> None:
    read(sandbox, png(grey()))
    victim = child_of(sandbox)
    os.kill(victim, signal.SIGKILL)
    with pytest.raises(MemoryError):
        read(sandbox, png(grey()))
    read(sandbox, png(grey()), limits=Limits(wall_seconds=0.5))
    os.kill(child_of(sandbox), signal.SIGSTOP)
    with pytest.raises(TimeoutError):
        read(sandbox, png(grey()), limits=Limits(wall_seconds=0.5))
    assert read(sandbox, png(grey())).width == 640


def test_the_process_that_forks_is_started_again(sandbox: Sandbox) -> None:
    read(sandbox, png(grey()), owner="before")
    child, process = child_of(sandbox), sandbox._process
    assert process is not None
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert read(sandbox, png(grey()), owner="after").width == 640
    assert not Path(f"/proc/{child}").exists() or status_of(child)["State"].startswith("Z")


def test_whoever_waits_can_have_it_stopped(sandbox: Sandbox) -> None:
    read(sandbox, png(grey()))
    victim = child_of(sandbox)
    os.kill(victim, signal.SIGSTOP)
    with pytest.raises(Stopped):
        read(sandbox, png(grey()), stop=lambda: True)
    assert not Path(f"/proc/{victim}").exists()
    assert read(sandbox, png(grey())).width == 640


def test_nothing_of_it_outlives_whoever_started_it() -> None:
    code = """
import sys, time
from pipeline.decode import sandbox
from tests.unit.test_sandbox import grey, png, read
read(sandbox(), png(grey()))
print(sandbox()._process.pid, sandbox()._child.pid, flush=True)
time.sleep(600)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    pids = [int(pid) for pid in process.stdout.readline().split()]
    process.kill()
    process.wait()
    process.stdout.close()
    until = time.monotonic() + 30
    while alive := [pid for pid in pids if Path(f"/proc/{pid}/stat").exists()]:
        assert time.monotonic() < until, alive
        time.sleep(0.05)


@pytest.mark.parametrize(
    "change",
    [
        {"width": "640"},
        {"width": 10**12},
        {"height": -480},
        {"media_type": "text/html"},
        {"flags": ["no_such_reason"]},
        {"flags": ["partial_picture"] * 100},
        {"facts": {}},
        {"facts": {"accession": "a\nb"}},
        {"facts": {"accession": "a" * 1000}},
        {"facts": {"age_years": True}},
        {"unknown": 1},
    ],
)
def test_no_answer_is_believed_that_is_not_what_it_should_be(change: dict[str, object]) -> None:
    pixels = grey()
    good = Radiograph(pixels, 640, 480, StudyFacts(), "image/png", b"x", (Reason.PARTIAL_PICTURE,))
    said = json.loads(wire.answer(good))
    assert wire.read_answer(json.dumps(said).encode(), max_pixels=MAX_PIXELS)["flags"] == good.flags
    facts = change.get("facts")
    said["radiograph"] |= change
    if facts:
        said["radiograph"]["facts"] = {**wire.pack(StudyFacts()), **facts}
    with pytest.raises(wire.MalformedAnswer):
        wire.read_answer(json.dumps(said).encode(), max_pixels=MAX_PIXELS)


@pytest.mark.parametrize(("width", "enough"), [(4, True), (5, False)])
def test_what_was_written_is_copied_and_as_long_as_was_said(width: int, enough: bool) -> None:
    said = {"width": width, "height": 2, "stored_size": 1, "facts": StudyFacts(), "media_type": "image/png"}
    descriptor = os.memfd_create("outgoing")
    os.write(descriptor, b"12345678s")
    try:
        if not enough:
            with pytest.raises(wire.MalformedAnswer, match="fewer bytes"):
                take(descriptor, said)
            return
        taken = take(descriptor, said)
        os.pwrite(descriptor, bytes(9), 0)
        os.ftruncate(descriptor, 0)
        assert (taken.pixels.tobytes(), taken.stored) == (b"12345678", b"s")
    finally:
        os.close(descriptor)


def test_a_smaller_picture_after_a_larger_one_has_nothing_of_it(sandbox: Sandbox) -> None:
    large, small = png(grey()), png(grey(96, 80))
    for data in (large, small, large):
        found = read(sandbox, data, owner="sizes")
        alone = picture.decode(data, max_pixels=MAX_PIXELS, pseudonymise=pseudonym)
        np.testing.assert_array_equal(found.pixels, alone.pixels)
        assert found.stored == alone.stored


@pytest.mark.parametrize("message", [b"", b"{", b"[]", b"[" * 60_000, b"\x80\x04N.", b"{}", b'{"failed": 1}'])
def test_rubbish_is_no_answer(message: bytes) -> None:
    with pytest.raises(wire.MalformedAnswer):
        wire.read_answer(message, max_pixels=MAX_PIXELS)


def test_the_filter_names_only_what_decoding_takes() -> None:
    assert not {"open", "openat", "socket", "connect", "clone", "fork", "execve", "kill", "ptrace"} & set(
        confine.SYSTEM_CALLS
    )

"""Nothing calls home: every process under a tracer, and no connection or look-up that no setting names."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from phantoms.files import encode_phantom
from phantoms.film import make_phantom
from tests.conftest import ROOT

pytestmark = pytest.mark.timeout(1200)

#: An address that a process gave the kernel: to connect to, or to send to without having connected.
ADDRESS = re.compile(r'sin6?_port=htons\((\d+)\).*?(?:inet_addr\("([^"]+)"\)|inet_pton\(AF_INET6, "([^"]+)")')
IMPORT_EVERYTHING = """
import importlib, pkgutil, sys
for name in (
    "settings", "cli", "web", "worker", "store", "interop", "models", "pipeline", "training", "bench"
):
    package = importlib.import_module(name)
    for found in pkgutil.walk_packages(getattr(package, "__path__", []), name + "."):
        if not found.name.endswith("__main__"):
            try:
                importlib.import_module(found.name)
            except ImportError as error:
                print("not imported:", found.name, error)
import boto3, highdicom, openvino.tools.ovc, pynetdicom, tensorflow, pyarrow.parquet, weasyprint
"""

Trace = Callable[..., list[str]]


@pytest.fixture
def trace(tmp_path: Path) -> Iterator[Trace]:
    """Run a command with everything that it starts; return the addresses that are not this machine's."""
    if not (strace := shutil.which("strace")):
        pytest.skip("strace is not installed")
    home = Path(tempfile.mkdtemp(prefix="fractureai-trace-"))
    home.chmod(0o711)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("FRACTUREAI_", "AWS_"))}

    def run(*command: str, **settings: str) -> list[str]:
        calls = tmp_path / "calls"
        done = subprocess.run(
            [
                *(strace, "-f", "-qq", "--seccomp-bpf", "-s", "0", "-e", "signal=none", "-o", str(calls)),
                *("-e", "trace=connect,sendto,sendmsg,sendmmsg", *command),
            ],
            cwd=ROOT,
            # a home of its own: analytics ask only once, and note that they did
            env={**environment, "HOME": str(home), "XDG_CACHE_HOME": str(home / "cache"), **settings},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
        found = {
            f"{four or six} port {port}"
            for line in calls.read_text(errors="replace").splitlines()
            for port, four, six in ADDRESS.findall(line)
            if port == "53" or not (four.startswith("127.") or four == "0.0.0.0" or six in {"::1", "::"})
        }
        return sorted(found)

    yield run
    shutil.rmtree(home)


def test_the_tracer_sees_what_it_has_to(trace: Trace) -> None:
    code = """
import contextlib, socket
with contextlib.suppress(OSError):
    socket.getaddrinfo("analytics.invalid", 443)
with contextlib.suppress(OSError):
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(("192.0.2.1", 443))
with contextlib.suppress(OSError):
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("192.0.2.2", 443))
"""
    found = trace(sys.executable, "-c", code)
    assert {"192.0.2.1 port 443", "192.0.2.2 port 443"} <= set(found)
    if "nameserver" in Path("/etc/resolv.conf").read_text():
        assert any(address.endswith(" port 53") for address in found)


def test_importing_everything_asks_nobody(trace: Trace) -> None:
    settings = {
        "FRACTUREAI_DATABASE_URL": "postgresql+psycopg://nobody@127.0.0.1:1/nothing",
        "FRACTUREAI_BROKER_URL": "redis://127.0.0.1:1/0",
        "FRACTUREAI_BLOB_URL": "file:///nowhere",
        "FRACTUREAI_SECRET_KEY": "x" * 64,
    }
    assert trace(sys.executable, "-c", IMPORT_EVERYTHING, **settings) == []


@pytest.mark.faults  # a whole server, which converts its networks first
def test_a_server_that_reads_images_asks_nobody(trace: Trace, tmp_path: Path) -> None:
    """Web, workers of all queues, reconcile, Postgres, Valkey and the client, from start to end."""
    images = tmp_path / "images"
    images.mkdir()
    for seed, region in enumerate(("hand", "leg")):
        (images / f"{region}.png").write_bytes(encode_phantom(make_phantom(seed, region), "png"))
        (images / f"{region}.dcm").write_bytes(encode_phantom(make_phantom(seed + 9, region), "dicom"))
    home = Path(tempfile.mkdtemp(prefix="fractureai-demo-"))
    home.chmod(0o711)
    try:
        command = (sys.executable, "-m", "cli.main", "demo", "--exit", "--home", str(home))
        found = trace(*command, "--images", str(images), "--out", str(tmp_path / "results.zip"))
    finally:
        shutil.rmtree(home)
    assert found == []


def test_an_s3_store_without_keys_does_not_ask_the_cloud_for_them(trace: Trace) -> None:
    code = """
from store.base.blobs import open_blobs
from store.base.errors import BlobUnavailable
try:
    open_blobs("s3://bucket/?endpoint=http://127.0.0.1:1").size("key")
except BlobUnavailable as error:
    assert "NoCredentials" in str(error), error
"""
    assert trace(sys.executable, "-c", code) == []


def test_openvino_has_no_telemetry_to_send_with() -> None:
    """Also where somebody installed without the lock: `models` keeps the package out."""
    code = "import models, openvino.tools.ovc as ovc; print(ovc.telemetry.__class__.__module__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("telemetry_stub")
    for lock in ROOT.glob("requirements*.lock"):
        assert "telemetry" not in lock.read_text()

"""A real Orthanc, for as long as a block runs: DICOM and DICOMweb on ports of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from cli.embedded import free_port

PROGRAM = "/usr/sbin/Orthanc"
PLUGIN = "/usr/share/orthanc/plugins/libOrthancDicomWeb.so"
AE_TITLE = "ARCHIVE"


class Orthanc:
    """An archive: starts, stops, hangs, and says what it has."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.dicom, self.http = free_port(), free_port()
        self._folder = folder
        folder.mkdir(exist_ok=True)
        self._settings = {
            "StorageDirectory": str(folder / "storage"),
            "IndexDirectory": str(folder / "storage"),
            "DicomAet": AE_TITLE,
            "DicomPort": self.dicom,
            "HttpPort": self.http,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomAlwaysAllowStore": True,
            "DicomAlwaysAllowFind": True,
            "DicomAlwaysAllowEcho": True,
            "StableAge": 1,
            "Plugins": [PLUGIN],
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/", "StudiesMetadata": "Full"},
            **settings,
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        (self._folder / "orthanc.json").write_text(json.dumps(self._settings))
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [PROGRAM, str(self._folder / "orthanc.json")], stdout=log, stderr=log, start_new_session=True
            )
        until = time.monotonic() + 60
        while True:
            try:
                self.get("/system")
                return
            except httpx.HTTPError:
                assert time.monotonic() < until, (self._folder / "log").read_text()[-2000:]
                time.sleep(0.1)

    def stop(self) -> None:
        """Kill it."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def restart(self, **settings: Any) -> None:
        """Kill it, and start it with other settings."""
        self.stop()
        self._settings |= settings
        self.start()

    def hang(self) -> None:
        """Let it take connections and say nothing."""
        self._signal(signal.SIGSTOP)

    def wake(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        os.killpg(self._process.pid, number)

    def get(self, path: str) -> Any:
        """Ask its own API."""
        answer = httpx.get(f"http://127.0.0.1:{self.http}{path}", timeout=20)
        answer.raise_for_status()
        return answer.json()

    def file(self, instance: str) -> bytes:
        """The file of an instance."""
        answer = httpx.get(f"http://127.0.0.1:{self.http}/instances/{instance}/file", timeout=20)
        return answer.raise_for_status().content

    def files(self) -> dict[str, bytes]:
        """SOP Instance UID -> file, of all that it has."""
        found = {}
        for instance in self.get("/instances"):
            uid = self.get(f"/instances/{instance}/simplified-tags")["SOPInstanceUID"]
            found[uid] = self.file(instance)
        return found

    def put(self, data: bytes) -> None:
        """Give it a file."""
        httpx.post(f"http://127.0.0.1:{self.http}/instances", content=data, timeout=20).raise_for_status()

    def remove(self, path: str) -> None:
        """Delete a study or an instance by its place."""
        httpx.delete(f"http://127.0.0.1:{self.http}{path}", timeout=20).raise_for_status()

    def delete(self, uid: str) -> None:
        """Delete an instance."""
        for instance in self.get("/instances"):
            if self.get(f"/instances/{instance}/simplified-tags")["SOPInstanceUID"] == uid:
                httpx.delete(
                    f"http://127.0.0.1:{self.http}/instances/{instance}", timeout=20
                ).raise_for_status()


@contextmanager
def running_orthanc(folder: Path, **settings: Any) -> Iterator[Orthanc]:
    """Run an Orthanc while the block runs; skips the test where it is not installed."""
    if not Path(PROGRAM).exists() or not Path(PLUGIN).exists():
        pytest.skip("Orthanc is not installed; scripts/setup.sh test installs it")
    archive = Orthanc(folder, **settings)
    archive.start()
    try:
        yield archive
    finally:
        archive.stop()

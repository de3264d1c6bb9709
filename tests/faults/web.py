"""The web as it is deployed: gunicorn with two processes, on a port of its own."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from cli.embedded import free_port
from cli.supervise import WEB_OPTIONS
from tests.conftest import ROOT
from tests.running import PATIENCE, wait_for


class Web:
    """The processes, to be killed and started again at one address."""

    def __init__(self, logs: Path) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self.log = logs / "web.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it takes connections."""
        command = [sys.executable, "-m", "gunicorn", "web.factory:create_app()", "--bind", self.address]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen([*command, *WEB_OPTIONS], cwd=ROOT, stderr=log)
        wait_for(lambda: answers(self.address), PATIENCE, "the web")

    def kill(self) -> None:
        """SIGKILL the parent, and wait until its children have noticed."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            wait_for(lambda: not answers(self.address), PATIENCE, "its children to end")


@contextmanager
def running_web(logs: Path) -> Iterator[Web]:
    """Run it with the environment's settings."""
    web = Web(logs)
    web.start()
    try:
        yield web
    finally:
        web.kill()


def answers(address: str) -> bool:
    """Whether somebody takes connections there."""
    url = urlsplit(f"http://{address}")
    try:
        socket.create_connection((url.hostname or "", url.port or 0), timeout=2).close()
    except OSError:
        return False
    return True

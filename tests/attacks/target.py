"""What attacks share: the server that is attacked, and the list of them.

An attack is a function in one of this folder's files, marked with `attack`. It asserts that the server
refused, and returns in a few words how.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

import httpx
import psutil

API = "/api/v1"
#: Seconds in which a server that is not held up answers; longer where it is slow without any attack.
PROMPTLY, TIMES_ALONE = 15.0, 20


@dataclass(frozen=True)
class Target:
    """A server, and what the attacker has: a key, or nothing."""

    url: str
    key: str = ""
    clients: int = 80  # slow ones at one time
    other_key: str = ""  # of another site of the server
    link: str = ""  # a one-time link to sign in
    dicom: str = ""  # host:port of its DICOM receiver
    promptly: float = PROMPTLY

    def client(self, *, known: bool = True, other: bool = False, seconds: float = 120.0) -> httpx.Client:
        """Return an HTTP client, with the key if `known`, of the `other` site where asked for."""
        headers = {"Authorization": f"Bearer {self.other_key if other else self.key}"} if known else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=seconds, verify=False)

    @property
    def host(self) -> str:
        """The value of the Host header."""
        return urlsplit(self.url).netloc

    def processes(self) -> list[psutil.Process]:
        """Return the web's processes, as far as they run on this machine and may be looked at."""
        port = urlsplit(self.url).port
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if any("gunicorn" in word for word in process.cmdline()) and any(
                    each.status == psutil.CONN_LISTEN and each.laddr.port == port
                    for each in process.net_connections("tcp")
                ):
                    found.append(process)
        return found

    def connect(self, *, receive_buffer: int = 0) -> socket.socket:
        """Open a connection, with TLS where the address says so."""
        parts = urlsplit(self.url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        raw = socket.socket(socket.AF_INET6 if ":" in (parts.hostname or "") else socket.AF_INET)
        raw.settimeout(self.promptly)
        if receive_buffer:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        raw.connect((parts.hostname, port))
        if parts.scheme != "https":
            return raw
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context.wrap_socket(raw, server_hostname=parts.hostname)

    def answer(self, request: bytes, seconds: float | None = None) -> bytes:
        """Send bytes and return what comes back until the server closes or `seconds` (`promptly`) pass."""
        with closing(self.connect()) as connection:
            connection.sendall(request)
            connection.settimeout(seconds or self.promptly)
            answer = b""
            try:
                while piece := connection.recv(1 << 16):
                    answer += piece
            except (TimeoutError, ConnectionResetError):
                pass
            return answer

    def slowest_of(self, times: int) -> float:
        """Ask for a page so often; return the seconds that the slowest answer took."""
        slowest = 0.0
        for _ in range(times):
            began = time.monotonic()
            with self.client(known=False, seconds=self.promptly) as client:
                assert client.get("/sign-in").status_code == 200
            slowest = max(slowest, time.monotonic() - began)
        return slowest

    def measured(self) -> Target:
        """Return the target with what is prompt on its machine; to be asked before an attack."""
        alone = replace(self, promptly=120.0).slowest_of(5)
        return replace(self, promptly=max(PROMPTLY, TIMES_ALONE * alone))

    def assert_serving(self, times: int = 5) -> str:
        """Assert that somebody else is served promptly meanwhile; return how long the slowest answer took."""
        return f"others were served in {self.slowest_of(times):.2f} s"


@dataclass(frozen=True)
class Attack:
    """One attack: what it does, how, and what it needs."""

    title: str
    run: Callable[[Target], str] = field(repr=False)
    needs_key: bool
    needs_workers: bool
    needs_other: bool
    needs_link: bool
    needs_dicom: bool

    def lacks(self, target: Target, *, workers: bool) -> bool:
        """Tell whether it cannot be tried on a server of which no more is known."""
        return (
            (self.needs_key and not target.key)
            or (self.needs_workers and not workers)
            or (self.needs_other and not (target.key and target.other_key))
            or (self.needs_link and not target.link)
            or (self.needs_dicom and not target.dicom)
        )


ATTACKS: list[Attack] = []


def attack(
    title: str,
    *,
    needs_key: bool = False,
    needs_workers: bool = False,
    needs_other: bool = False,
    needs_link: bool = False,
    needs_dicom: bool = False,
) -> Callable[[Callable[[Target], str]], Callable[[Target], str]]:
    """Put a function into the list of attacks."""

    def add(run: Callable[[Target], str]) -> Callable[[Target], str]:
        needs = (needs_key, needs_workers, needs_other, needs_link, needs_dicom)
        ATTACKS.append(Attack(title, run, *needs))
        return run

    return add

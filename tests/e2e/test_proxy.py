"""Compose's proxy, the real program with the real file: TLS on localhost, what it hides, an upgrade."""

from __future__ import annotations

import os
import re
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from cli.child import Child, stop_all
from cli.embedded import free_port
from settings import get_settings
from tests.conftest import ROOT
from tests.web.serving import Server

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Proxy:
    https: str
    http: str
    authority: Path
    server: Server
    key: str

    def client(self) -> httpx.Client:
        return httpx.Client(verify=ssl.create_default_context(cafile=str(self.authority)), timeout=20)


@pytest.fixture
def proxy(site_key: str, settings_env: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Proxy]:
    settings_env.setenv("FRACTUREAI_SECURE_COOKIES", "true")
    get_settings.cache_clear()
    server = Server()
    http, https = free_port(), free_port()
    text = (ROOT / "docker" / "Caddyfile").read_text()
    text = text.replace("http://{$DOMAIN:localhost}", f"http://localhost:{http}")
    text = text.replace("{$DOMAIN:localhost} {", f"https://localhost:{https} {{")
    text = text.replace("web:8000", f"127.0.0.1:{server.server.server_port}")
    text = re.sub(
        r"^{$",
        f"{{\n\tadmin off\n\tskip_install_trust\n\thttp_port {http}",
        text,
        count=1,
        flags=re.MULTILINE,
    )
    file = tmp_path / "Caddyfile"
    file.write_text(text)
    environment = {**os.environ, "XDG_DATA_HOME": str(tmp_path / "data"), "XDG_CONFIG_HOME": str(tmp_path)}
    environment["CERTIFICATE"] = "internal"
    caddy = str(Path(sys.executable).parent / "caddy")
    command = [caddy, "run", "--adapter", "caddyfile", "--config", str(file)]
    child = Child("caddy", command, tmp_path / "caddy.log", env=environment)
    child.start()
    authority = tmp_path / "data" / "caddy" / "pki" / "authorities" / "local" / "root.crt"
    made = Proxy(f"https://localhost:{https}", f"http://localhost:{http}", authority, server, site_key)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                with made.client() as client:
                    client.get(f"{made.https}/healthz")
                break
            except (OSError, httpx.TransportError):
                assert child.running, child.log_tail()
                assert time.monotonic() < deadline, child.log_tail()
                time.sleep(0.2)
        yield made
    finally:
        stop_all([child], 10)
        server.stop()


def test_what_it_gives_out(proxy: Proxy) -> None:
    with proxy.client() as client:
        page = client.get(f"{proxy.https}/sign-in")
        assert page.status_code == 200
        assert page.headers.get_list("strict-transport-security") == ["max-age=31536000"], "once"
        for path in ("/metrics", "/readyz", "/readyz/web"):
            assert client.get(proxy.https + path).status_code == 404
        moved = client.get(f"{proxy.http}/sign-in")
        assert moved.status_code == 301
        assert client.get(f"{proxy.http}/api/v1/batches").json()["code"] == "https_only"


def test_the_command_line_trusts_its_authority_on_localhost(proxy: Proxy, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cli.main", "status", "--json"]
    environment = {**os.environ, "FRACTUREAI_URL": proxy.https, "FRACTUREAI_API_KEY": proxy.key}
    environment["SSL_CERT_FILE"] = str(proxy.authority)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    del environment["SSL_CERT_FILE"]
    untrusted = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert untrusted.returncode == 3
    assert "SSL_CERT_FILE" in untrusted.stderr


def test_a_web_process_that_is_replaced_costs_no_answer(proxy: Proxy) -> None:
    port = proxy.server.server.server_port
    statuses: list[int] = []
    ended = threading.Event()

    def ask() -> None:
        with proxy.client() as client:
            while not ended.wait(0.1):
                statuses.append(client.get(f"{proxy.https}/healthz").status_code)

    asking = threading.Thread(target=ask)
    asking.start()
    time.sleep(0.5)
    proxy.server.stop()
    time.sleep(2)
    proxy.server.__init__(port)  # type: ignore[misc]
    time.sleep(2)
    ended.set()
    asking.join()
    assert len(statuses) > 5
    assert set(statuses) == {200}

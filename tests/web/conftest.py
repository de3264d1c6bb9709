"""What the web's tests share: an application on real servers, programs and browsers that ask it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from sqlalchemy import select

from cli.embedded import free_port
from store.accounts import accounts
from store.base.session import session_scope
from store.base.tables import Site, User
from tests.web.asking import Asker, Browser
from tests.web.contract import CheckedClient
from tests.web.serving import serving, site_key
from web.factory import create_app
from web.operations.health import create_health_app

__all__ = ["serving", "site_key"]


@pytest.fixture
def app(site_key: str) -> Any:
    """The application; its clients hold every answer against the API's description."""
    app = create_app()
    app.test_client_class = CheckedClient
    return app


@pytest.fixture
def health(app: Any) -> Any:
    """A client of the health listener."""
    return create_health_app(app.extensions["settings"]).test_client()


@pytest.fixture
def ask(app: Any, site_key: str) -> Asker:
    return Asker(app.test_client(use_cookies=False), site_key)


@pytest.fixture
def stranger(app: Any) -> Asker:
    """A program of another site."""
    with session_scope() as session:
        site = Site(name="Other hospital", default_bundle="b1")
        session.add(site)
        session.flush()
        user = accounts.create_user(session, site.id, "stranger@localhost", role=accounts.Role.ADMIN)
        key = accounts.create_api_key(session, user, "tests")[1]
    return Asker(app.test_client(use_cookies=False), key)


@pytest.fixture
def link(site_key: str) -> Callable[[], str]:
    """Makes one-time sign-in tokens of the administrator."""

    def make() -> str:
        with session_scope() as session:
            return accounts.create_sign_in_token(session, session.scalars(select(User)).first())

    return make


@pytest.fixture
def browser(app: Any, link: Callable[[], str]) -> Browser:
    browser = Browser(app.test_client())
    assert browser.sign_in(token=link()).status_code == 303
    return browser


@dataclass(frozen=True)
class Process:
    """A server as it is deployed, with one worker: a client with a key, and what it weighs."""

    client: httpx.Client
    worker: psutil.Process

    def memory(self) -> int:
        return int(self.worker.memory_info().rss)


@pytest.fixture
def process(site_key: str) -> Iterator[Process]:
    port = free_port()
    arguments = [
        "--bind",
        f"127.0.0.1:{port}",
        "--worker-class",
        "web.server.Worker",
        "--threads",
        "4",
        "--timeout",
        "120",
    ]
    server = subprocess.Popen(
        [sys.executable, "-m", "gunicorn", "web.factory:create_app()", *arguments],
        cwd=Path(__file__).parents[2],
    )
    client = httpx.Client(
        base_url=f"http://127.0.0.1:{port}/api/v1",
        headers={"Authorization": f"Bearer {site_key}"},
        timeout=120,
    )
    try:
        for _ in range(300):
            with suppress(httpx.TransportError):
                client.get("/bundles")
                break
            time.sleep(0.1)
        yield Process(client, psutil.Process(server.pid).children()[0])
    finally:
        client.close()
        server.terminate()
        server.wait(30)

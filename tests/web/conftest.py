"""What the web's tests share: an application on real servers, programs and browsers that ask it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import select

from store import accounts
from store.session import session_scope
from store.tables import Site, User
from tests.web.asking import Asker, Browser
from tests.web.serving import serving, site_key
from web.factory import create_app

__all__ = ["serving", "site_key"]


@pytest.fixture
def app(site_key: str) -> Any:
    return create_app()


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
        user = accounts.create_user(session, site.id, "stranger@localhost")
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

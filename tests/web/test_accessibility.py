"""Every page that a person can open, looked at by axe in a real browser: light, dark, and at a phone's width.

A new page takes part as soon as the table of routes in ``test_access.py`` names it.
"""

from __future__ import annotations

from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

from store.accounts import Role
from store.session import session_scope
from store.tables import User
from tests.web.browsing import chromium
from tests.web.serving import Serving
from tests.web.test_access import LINES
from tests.web.world import World, make_world
from web.factory import create_app

__all__ = ["chromium"]

NO_PAGES = ("/healthz", "/readyz", "/metrics", "/sign-in/provider", "/api/v1/openapi.json")
#: Pages that look different with these words behind their address.
MORE = ("/downloads?batch={batch_id}", "/batches/{batch_id}?status=failed", "/nothing/here")


def addresses(world: World) -> list[str]:
    """Return the address of every page, with the ids of the world's objects."""
    found = [path.format(**world.ids) for path in MORE]
    for line in LINES:
        is_page = not line.rule.startswith("/api/") or line.rule == "/api/v1/docs"
        if (
            line.method == "GET"
            and is_page
            and not line.rule.startswith(NO_PAGES)
            and ".csv" not in line.rule
        ):
            found += line.paths(world.ids)
    return found


@pytest.fixture
def world(serving: Serving) -> World:
    return make_world(create_app(), Role.ADMIN)


def open_page(chromium: Any, serving: Serving, world: World, **look: Any) -> Page:
    from store import accounts

    page = chromium.new_context(base_url=serving.url, **look).new_page()
    page.set_default_timeout(60_000)
    with session_scope() as session:
        user = session.query(User).filter_by(email=world.email).one()
        token = accounts.create_sign_in_token(session, user)
    page.goto(f"/sign-in?token={token}")
    page.get_by_role("main").get_by_role("button", name="Sign in").click()
    page.wait_for_url(lambda url: "/sign-in" not in url)
    return page


def faults(page: Page, address: str) -> list[str]:
    """Return what axe calls serious or critical."""
    found = Axe().run(page).response["violations"]
    return [
        f"{address}: {violation['id']}: {node['html'][:160]}"
        for violation in found
        if violation["impact"] in {"serious", "critical"}
        for node in violation["nodes"][:3]
    ]


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_on_any_page(
    chromium: Any, serving: Serving, world: World, scheme: str
) -> None:
    page = open_page(chromium, serving, world, color_scheme=scheme)
    found: list[str] = []
    for address in addresses(world):
        page.goto(address)
        found += faults(page, address)
    page.context.close()
    assert found == []


@pytest.mark.timeout(1200)
def test_no_page_is_wider_than_a_phone(chromium: Any, serving: Serving, world: World) -> None:
    page = open_page(chromium, serving, world, viewport={"width": 390, "height": 844})
    wide = []
    for address in addresses(world):
        page.goto(address)
        width = page.evaluate("document.documentElement.scrollWidth")
        if width > 390:
            wide.append(f"{address}: {width} pixels")
    page.context.close()
    assert wide == []

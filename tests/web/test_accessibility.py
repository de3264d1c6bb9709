"""Every page that a person can open, looked at by axe in a real browser: light and dark, wide and on a phone.

A new page takes part as soon as the table of routes in ``test_access.py`` names it.
"""

from __future__ import annotations

from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, ViewportSize

from store.accounts.accounts import Role
from store.base.session import session_scope
from store.base.tables import User
from tests.web.browsing import chromium
from tests.web.serving import Serving
from tests.web.test_access import LINES
from tests.web.world import World, make_world
from web.factory import create_app

__all__ = ["chromium"]

NO_PAGES = ("/fhir/", "/healthz", "/sign-in/provider", "/api/v1/openapi.json")
DESK: ViewportSize = {"width": 1280, "height": 800}
PHONE: ViewportSize = {"width": 390, "height": 844}
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
    from store.accounts import accounts

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
def test_axe_finds_nothing_serious_and_no_page_is_too_wide(
    chromium: Any, serving: Serving, world: World
) -> None:
    page = open_page(chromium, serving, world)
    found: list[str] = []
    for address in addresses(world):
        page.set_viewport_size(DESK)
        page.goto(address)
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            found += faults(page, f"{address}, {scheme}")
        page.set_viewport_size(PHONE)  # colours are the same there: it is looked at once
        found += faults(page, f"{address}, on a phone")
        for size in (PHONE, DESK):
            page.set_viewport_size(size)
            width = page.evaluate("document.documentElement.scrollWidth")
            if width > size["width"]:
                found.append(f"{address}: {width} pixels wide where there are {size['width']}")
    page.context.close()
    assert found == []

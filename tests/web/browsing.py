"""A real Chromium that signs in; what it complains of fails the test."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from store.base.blobs import BlobStore
from store.base.session import session_scope
from store.base.tables import Image
from tests.web.serving import Serving

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Browser, serving: Serving) -> Iterator[Page]:
    """A page of a fresh profile; whatever the browser complains of fails the test."""
    context = chromium.new_context(base_url=serving.url)
    page = context.new_page()
    page.set_default_timeout(30_000)
    expect.set_options(timeout=30_000)
    complaints: list[str] = []

    def listen(said: Any) -> None:
        if said.type in {"error", "warning"} and "ERR_CONNECTION_RESET" not in said.text:
            complaints.append(said.text)

    page.on("console", listen)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    yield page
    context.close()
    assert complaints == []


def sign_in(page: Page, link: Callable[[], str]) -> None:
    page.goto(f"/sign-in?token={link()}")
    page.get_by_role("main").get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/batches")


def draw(batch: str, blobs: BlobStore) -> None:
    """Give every image of a batch pictures, as the stages would."""
    _, data = cv2.imencode(".jpg", np.full((120, 90), 90, np.uint8))
    with session_scope() as session:
        for image in session.query(Image).filter_by(batch_id=batch, status="done"):
            image.display_key, image.width, image.height = f"images/{image.id}/display.jpg", 900, 1200
            image.attention_regions = [{"x": 100, "y": 200, "width": 300, "height": 250, "score": 0.7}]
            image.heat_key = f"images/{image.id}/heat.png"
            for key, picture in (
                (image.display_key, data),
                (image.overlay_key, data),
                (image.heat_key, cv2.imencode(".png", np.full((12, 9, 4), 90, np.uint8))[1]),
            ):
                blobs.put(key, picture.tobytes())

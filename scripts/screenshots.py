"""Takes docs/screenshots from a running server: ``python scripts/screenshots.py LINK [NAME ...]``.

LINK is a one-time sign-in link of an administrator, as `fractureai up` prints it. Of each page one picture is
1280 pixels wide and one 390, as on a phone. Batch and study are the first ones listed.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from urllib.parse import urlsplit

from playwright.sync_api import Page, ViewportSize, sync_playwright

FOLDER = Path(__file__).parent.parent / "docs/screenshots"
SIZES: dict[str, ViewportSize] = {
    "": {"width": 1280, "height": 900},
    "-phone": {"width": 390, "height": 844},
}
PAGES = {
    "upload": "/batches/new",
    "batches": "/batches",
    "worklist": "/worklist",
    "downloads": "/downloads",
    "research": "/research",
    "bundles": "/bundles",
    "account": "/account",
    "people": "/admin/people",
    "keys": "/admin/keys",
    "audit": "/admin/audit",
    "notices": "/admin/notices",
    "retention": "/admin/retention",
}
#: Pages that are reached by the first link of another one.
BEHIND = {
    "batch": ("/batches", "table .name a"),
    "study": ("/worklist", "table .name a"),
    "run": ("/research", "a[href^='/research/runs/']"),
}


def address(page: Page, name: str) -> str | None:
    """Return where a page is; None when there is none of its kind on this server."""
    if name in PAGES:
        return PAGES[name]
    start, first = BEHIND[name]
    page.goto(start)
    link = page.locator(first)
    return link.first.get_attribute("href") if link.count() else None


def main() -> None:
    """Take the pictures that are named, or all of them."""
    link, *names = sys.argv[1:]
    server = urlsplit(link)
    browser_path = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        page = browser.new_page(base_url=f"{server.scheme}://{server.netloc}", color_scheme="light")
        page.goto(link)
        page.get_by_role("main").get_by_role("button", name="Sign in").click()
        page.wait_for_url("**/batches")
        for name in names or [*PAGES, *BEHIND]:
            at = address(page, name)
            if at is None:
                print(f"{name}: there is none here")
                continue
            for ending, size in SIZES.items():
                page.set_viewport_size(size)
                page.goto(at)
                page.wait_for_load_state("networkidle")
                page.screenshot(path=FOLDER / f"{name}{ending}.png", full_page=True)
        browser.close()


if __name__ == "__main__":
    main()

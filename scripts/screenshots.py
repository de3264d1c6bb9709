"""Takes docs/screenshots from a running server: ``python scripts/screenshots.py LINK [NAME ...]``.

LINK is a one-time sign-in link of an administrator, as `fractureai up` prints it. What the documents show is
taken, 1280 pixels wide or 390 (`-phone`), light or `-dark`; a picture that none shows is deleted. Batch,
study, run and the like are the first ones listed. For all pages the server needs `FRACTUREAI_SMTP_HOST`, a
batch, a study of several images, and a run with two bundles that are compared.
"""

from __future__ import annotations

import re
import shutil
import sys
from itertools import product
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from PIL import Image
from playwright.sync_api import FilePayload, FloatRect, Page, ViewportSize, sync_playwright

FOLDER = Path(__file__).parent.parent / "docs/screenshots"
SIZES: dict[str, ViewportSize] = {
    "": {"width": 1280, "height": 900},
    "-phone": {"width": 390, "height": 844},
}
SCHEMES: dict[str, Literal["light", "dark"]] = {"": "light", "-dark": "dark"}
#: Of longer pages the beginning is shown.
HIGHEST = 1800
DOCS = (*FOLDER.parent.glob("*.md"), FOLDER.parent.parent / "README.md")
#: Pages that are seen before one signs in.
OUTSIDE = {"sign-in": "/sign-in", "forgotten": "/sign-in/forgotten"}
PAGES = {
    "upload": "/batches/new",
    "batches": "/batches",
    "worklist": "/worklist",
    "downloads": "/downloads",
    "research": "/research",
    "bundles": "/bundles",
    "account": "/account",
    "api": "/api/v1/docs",
    "health": "/admin/health",
    "site": "/admin/site",
    "people": "/admin/people",
    "keys": "/admin/keys",
    "audit": "/admin/audit",
    "notices": "/admin/notices",
    "retention": "/admin/retention",
}
#: Pages that are reached by the first link of another one, and of that one.
BEHIND: dict[str, tuple[str, ...]] = {
    "batch": ("/batches", "table .name a"),
    "study": ("/worklist", "table .name a"),
    "study-two": ("/worklist", "table .name a"),
    "image": ("/worklist", "table .name a", "a[href^='/images/']"),
    "bundle": ("/bundles", "table .name:has(.chip) a"),  # the default one
    "dataset": ("/research", "a[href^='/research/datasets/']"),
    "run": ("/research", "a[href^='/research/runs/']"),
    "comparison": ("/research", "a[href^='/research/comparisons/']"),
    "changed-image": ("/research", "a[href^='/research/comparisons/']", "a[href*='/images/']"),
}


def address(page: Page, name: str) -> str | None:
    """Return where a page is; None when there is none of its kind on this server."""
    if name in PAGES:
        return PAGES[name]
    at, *links = BEHIND[name]
    for first in links:
        page.goto(at)
        link = page.locator(first)
        if not link.count():
            return None
        at = link.first.get_attribute("href") or ""
    return at


def shown() -> set[str]:
    """Return the names of the pictures that the documents show."""
    return {name for path in DOCS for name in re.findall(r"screenshots/([a-z-]+\.png)", path.read_text())}


def take(page: Page, name: str, at: str) -> None:
    """Take those of a page's pictures that are shown."""
    for (ending, size), (shade, scheme) in product(SIZES.items(), SCHEMES.items()):
        if f"{name}{ending}{shade}.png" not in shown():
            continue
        page.set_viewport_size(size)
        page.emulate_media(color_scheme=scheme)
        page.goto(at)
        page.wait_for_load_state("networkidle")
        if name == "upload":  # chosen, and not sent
            files: list[FilePayload] = [
                {"name": f"wrist-{n}.dcm", "mimeType": "", "buffer": bytes(n * 400_000)} for n in range(1, 6)
            ]
            page.locator("[data-files]").set_input_files(files)
        elif name == "study-two":
            page.get_by_role("button", name="Side by side").click()
            page.locator("[data-do=mirror]").click()
        if name.startswith("study"):
            page.wait_for_timeout(3000)  # every grey value has come
        height = min(page.locator("html").evaluate("e => e.scrollHeight"), HIGHEST)
        clip: FloatRect = {"x": 0, "y": 0, "width": size["width"], "height": height}
        path = FOLDER / f"{name}{ending}{shade}.png"
        page.screenshot(path=path, full_page=True, clip=clip)
        with Image.open(path) as picture:  # 256 colours do for a page, at a third of the bytes
            picture.convert("RGB").quantize(256).save(path, optimize=True)


def main() -> None:
    """Take the pictures that are named, or all of them."""
    link, *names = sys.argv[1:]
    server = urlsplit(link)
    browser_path = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        page = browser.new_page(base_url=f"{server.scheme}://{server.netloc}", color_scheme="light")
        for name in names or OUTSIDE:
            if name in OUTSIDE:
                take(page, name, OUTSIDE[name])
        page.goto(link)
        page.get_by_role("main").get_by_role("button", name="Sign in").click()
        page.wait_for_url("**/batches")
        for name in names or [*PAGES, *BEHIND]:
            if name in OUTSIDE:
                continue
            if at := address(page, name):
                take(page, name, at)
            else:
                print(f"{name}: there is none here")
        browser.close()
    for path in FOLDER.glob("*.png"):
        if path.name not in shown():
            path.unlink()


if __name__ == "__main__":
    main()

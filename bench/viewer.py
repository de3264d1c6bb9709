"""How fast the viewer draws a large film at full depth in Chromium: ``python -m bench.viewer``.

A whole server reads DICOM films of 3,000 x 2,500 pixels; a browser opens their studies and drags the window
and turns the wheel with a real mouse.
"""

from __future__ import annotations

import argparse
import io
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from playwright.sync_api import Browser, Page, sync_playwright

from bench.measure import machine, publish, quantile
from bench.service import SILENT, with_server
from cli.client import Client
from cli.submit import SubmitOptions, run_submit
from cli.supervise import Server
from phantoms.files import encode_phantom
from phantoms.film import make_phantom

ROWS, COLUMNS = 3000, 2500
BITS = (12, 16)
#: What a person's screen is; the picture takes what the page leaves it.
SCREENS = ((1280, 900), (1680, 1050))
SECONDS = 4.0
WHEELS = 40
#: Notes when the picture of 256 levels and that of all of them is shown, and how long each drawing takes.
_LISTEN = """(() => {
    window.noted = {};
    const look = () => {
        const drawn = typeof viewer === "object" && viewer?.active?.frames;
        if (drawn) noted.picture ??= performance.now();
        if (drawn && Number(viewer.active.root.dataset.depth)) noted.depth ??= performance.now();
        else requestAnimationFrame(look);
    };
    requestAnimationFrame(look);
})()"""
_TIME = """() => {
    window.took = [];
    const kind = Object.getPrototypeOf(viewer.active);
    const paint = kind.paint;
    kind.paint = function () {
        const began = performance.now();
        paint.call(this);
        took.push(performance.now() - began);
    };
}"""


def deep_film(seed: int, bits: int) -> bytes:
    """Return a film whose pixels use all of `bits`, with noise below the eighth."""
    film = pydicom.dcmread(
        io.BytesIO(encode_phantom(make_phantom(seed, "leg", size=(ROWS, COLUMNS)), "dicom", study=str(bits)))
    )
    noise = np.random.default_rng(seed).integers(0, 1 << (bits - 8), (film.Rows, film.Columns))
    film.PixelData = ((film.pixel_array.astype(np.uint16) << (bits - 8)) + noise).astype("<u2").tobytes()
    film.BitsAllocated, film.BitsStored, film.HighBit = 16, bits, bits - 1
    target = io.BytesIO()
    film.save_as(target, enforce_file_format=True)
    return target.getvalue()


def _drag(page: Page) -> tuple[float, list[float]]:
    """Drag the window for a while; return frames a second, and the page's own ms for each."""
    box = page.locator("[data-viewport]:not([hidden]) [data-screen]").first.bounding_box()
    assert box
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 10, y + 10, steps=10)
    page.evaluate("took.length = 0")
    began, n = time.perf_counter(), 0
    while time.perf_counter() - began < SECONDS:
        n += 1
        page.mouse.move(x + 100 * (n % 2), y + 60 * ((n // 2) % 2), steps=60)
    seconds = time.perf_counter() - began
    took = page.evaluate("took.slice()")
    page.mouse.up()
    return len(took) / seconds, took


def _zoom(page: Page) -> list[float]:
    page.evaluate("took.length = 0")
    for n in range(WHEELS):
        page.mouse.wheel(0, -40 if n < WHEELS / 2 else 40)
        page.wait_for_timeout(30)
    took: list[float] = page.evaluate("took.slice()")
    return took


def measure(
    browser: Browser, running: Server, study: str, bits: int, screen: tuple[int, int]
) -> dict[str, Any]:
    """Open one study in a fresh profile, drag and zoom; return a row of the table."""
    width, height = screen
    context = browser.new_context(base_url=running.address, viewport={"width": width, "height": height})
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.goto(_sign_in(running))
    page.get_by_role("main").get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/batches")
    page.add_init_script(_LISTEN)
    seen = []
    for _ in range(3):
        page.goto(study)
        page.locator(f"[data-viewport][data-depth='{bits}']:not([hidden])").first.wait_for()
        page.wait_for_timeout(1000)
        paint = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
        seen.append([page.evaluate(paint), page.evaluate("noted.picture"), page.evaluate("noted.depth")])
    page.evaluate(_TIME)
    rate, drawn = _drag(page)
    zoomed = _zoom(page)
    size = page.evaluate("[viewer.active.canvas.width, viewer.active.canvas.height]")
    context.close()
    first, picture, depth = (statistics.median(times) / 1000 for times in zip(*seen, strict=True))
    return {
        "pixels drawn": f"{size[0]} x {size[1]}",
        "frames/s, window": rate,
        "ms a frame, median": statistics.median(drawn),
        "95%": quantile(drawn, 0.95),
        "ms a zoom step, median": statistics.median(zoomed),
        "95% ": quantile(zoomed, 0.95),
        "first paint, s": first,
        "picture, s": picture,
        "every grey value, s": depth,
    }


def _sign_in(running: Server) -> str:
    from sqlalchemy import select

    from store.accounts import accounts
    from store.base.session import session_scope
    from store.base.tables import User

    with session_scope() as session:
        user = session.scalars(select(User)).first()
        assert user
        return f"/sign-in?token={accounts.create_sign_in_token(session, user)}"


def main() -> None:
    """Measure and publish."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.parse_args()
    before = machine()
    rows: dict[str, dict[str, Any]] = {}

    def work(running: Server, home: Path) -> None:
        studies = {}
        with Client(running.address, running.access.api_key, patience=600.0) as client:
            for bits in BITS:
                folder = home / f"{bits}"
                folder.mkdir()
                (folder / "film.dcm").write_bytes(deep_film(bits, bits))
                run_submit(client, [folder], SubmitOptions(label=str(bits), wait=True), SILENT, rows=0)
                found = client.request("GET", "/worklist?limit=50").json()["items"]
                ours = [row for row in found if row["batch_label"] == str(bits)]
                studies[bits] = f"/studies/{ours[0]['study_id']}"
        with sync_playwright() as playwright:
            path = shutil.which("chromium") or shutil.which("google-chrome")
            browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
            for bits, study in studies.items():
                for screen in SCREENS:
                    row = measure(browser, running, study, bits, screen)
                    rows[f"{bits} bits, screen of {screen[0]} x {screen[1]}"] = row
            browser.close()

    with_server(work, warm=0)
    publish("viewer", f"A film of {ROWS:,} x {COLUMNS:,} pixels in Chromium", rows, before)


if __name__ == "__main__":
    main()

"""The main pages in Debian's Firefox: sign in, worklist, viewer, answer, send files.

Driven by puppeteer-core over WebDriver BiDi, since Playwright drives only a Firefox of its own build.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from store.base.session import session_scope
from store.base.tables import Batch
from tests.npm import npm_folder, run_script
from tests.web import films
from tests.web.asking import Asker, png
from tests.web.conftest import app, ask, link
from tests.web.serving import Serving, serving, site_key

__all__ = ["app", "ask", "link", "serving", "site_key"]
pytestmark = pytest.mark.faults

_WALK = """
(async () => {
const { default: puppeteer } = await import("puppeteer-core");
const [firefox, url, token, ...files] = process.argv.slice(2);
const waits = { timeout: 240000 };
const browser = await puppeteer.launch({
    browser: "firefox", executablePath: firefox, protocolTimeout: 600000, ...waits,
    defaultViewport: { width: 1280, height: 900 },
});
const page = await browser.newPage();
page.setDefaultTimeout(waits.timeout);
const complaints = [];
page.on("console", (said) => { if (["error", "warn"].includes(said.type())) complaints.push(said.text()); });
page.on("pageerror", (error) => complaints.push(String(error)));
const said = {};
const state = (words) => page.evaluate(`(() => { const one = viewer.active; return ${words}; })()`);
const text = (selector) => page.$eval(selector, (e) => e.innerText);
const frame = () => page.evaluate(
    "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))");
// not `waitForFunction`, which makes a function out of the text: the pages' policy forbids it
const until = async (words) => {
    for (const end = Date.now() + waits.timeout; Date.now() < end; ) {
        if (await page.evaluate(words).catch(() => false)) return;
        await new Promise((rested) => setTimeout(rested, 200));
    }
    throw new Error(`never true: ${words}`);
};

await page.goto(`${url}/sign-in?token=${token}`);
await Promise.all([page.waitForNavigation(waits), page.click("main form button")]);
await page.goto(`${url}/worklist`);
said.rows = (await page.$$("[data-row]")).length;
await page.keyboard.press("j");
await Promise.all([page.waitForNavigation(waits), page.keyboard.press("o")]);

await page.waitForSelector("[data-viewport][data-depth='12']");
await frame();
said.greys = await page.evaluate(`(() => {
    const { context } = viewer.active, { width, height } = context.canvas;
    const data = context.getImageData(0, 0, width, height).data;
    return new Set(data.filter((_, n) => n % 4 === 0)).size;
})()`);
const screen = await page.$("[data-viewport]:not([hidden]) [data-screen]");
const box = await screen.boundingBox();
const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
const window = "one.window.high - one.window.low";
said.window = [await state(window)];
await page.mouse.move(x, y);
await page.mouse.down();
await page.mouse.move(x + 100, y, { steps: 5 });
await page.mouse.up();
await frame();
said.window.push(await state(window));
await page.mouse.wheel({ deltaY: -120 });
await frame();
said.zoom = await state("one.scale / one.fitting");
await page.keyboard.press("h");
said.turned = await text("[data-viewport]:not([hidden]) [data-turned]");
await page.keyboard.press(" ");
said.scrolled = await page.evaluate("scrollY");

await page.keyboard.press("1");
const record = await page.evaluateHandle(
    `[...document.querySelectorAll("[data-review] button")].find((b) => b.innerText === "Record")`);
await Promise.all([page.waitForNavigation(waits), record.click()]);
said.done = await text("[data-done]");

await page.goto(`${url}/batches/new`);
await page.type("[name=label]", "From Firefox");
await (await page.$("[data-files]")).uploadFile(...files);
await until(`document.querySelectorAll("[data-files-list] tr").length === ${files.length}`);
await page.click("[data-upload] button.primary");
await until(`document.querySelector("h1")?.innerText.includes("From Firefox")`);
said.heading = await text("h1");
said.complaints = complaints;
console.log(JSON.stringify(said));
await browser.close();
})().catch((error) => { console.error(error); process.exit(1); });
"""


def test_firefox_reads_and_sends(
    serving: Serving, ask: Asker, link: Callable[[], str], pytestconfig: pytest.Config, tmp_path: Path
) -> None:
    firefox = shutil.which("firefox-esr") or shutil.which("firefox")
    if firefox is None:
        pytest.skip("no Firefox on this machine: apt-get install firefox-esr")
    folder = npm_folder(pytestconfig, "puppeteer-core@24.10.0")
    films.study(ask)
    files = [tmp_path / name for name in ("a.png", "b.png")]
    for path in files:
        path.write_bytes(png(path.name))

    said = json.loads(run_script(folder, _WALK, firefox, serving.url, link(), *files, timeout=900))

    assert said["rows"] == 1
    assert said["greys"] > 50  # a picture, drawn from its 12 bits
    before, after = said["window"]
    assert after > 1.1 * before
    assert 1.1 < said["zoom"] < 1.4
    assert "flipped" in said["turned"]
    assert said["scrolled"] == 0
    assert "Recorded: Fracture present" in said["done"]
    assert "From Firefox" in said["heading"]
    with session_scope() as session:
        assert session.query(Batch).filter_by(label="From Firefox").one().n_total == len(files)
    assert said["complaints"] == []

"""A real browser: sign in, drop files, watch the batch end; and the same pages without scripts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, expect

from store.base.blobs import BlobStore
from store.base.session import session_scope
from store.base.tables import Batch
from tests.web.asking import png
from tests.web.browsing import chromium, draw, page, sign_in
from tests.web.serving import Reader, Serving

__all__ = ["chromium", "page"]

DROP = """([zone, files]) => {
    const data = new DataTransfer();
    for (const [name, text] of files) data.items.add(new File([text], name));
    for (const kind of ["dragenter", "dragover", "drop"]) {
        zone.dispatchEvent(new DragEvent(kind, {dataTransfer: data, bubbles: true, cancelable: true}));
    }
}"""


def test_drop_files_and_watch_them_being_read(
    page: Page, link: Callable[[], str], blobs: BlobStore, serving: Serving
) -> None:
    sign_in(page, link)
    page.get_by_role("link", name="Make the first one").click()
    page.get_by_label("Label").fill("Night shift")
    zone = page.locator("[data-drop]").element_handle()
    good = [[f"ward 3/{i}.png", "\x89PNG"] for i in range(3)]
    page.evaluate(DROP, [zone, [["notes.txt", "not an image"], *good]])
    expect(page.get_by_text("4 files chosen")).to_be_visible()
    page.locator("[data-files]").set_input_files(
        [{"name": f"{i}.png", "mimeType": "image/png", "buffer": png(str(i))} for i in range(66)]
    )
    expect(page.get_by_text("70 files chosen")).to_be_visible()
    page.get_by_role("button", name="Upload").click()
    expect(page.get_by_text("Uploaded; some files were not accepted")).to_be_visible()
    rejected = page.locator("[data-files-list] tr")
    expect(rejected).to_have_count(4)  # the text, and three that end after four bytes
    expect(rejected.filter(has_text="notes.txt")).to_contain_text("not a PNG")
    page.get_by_role("link", name="Open the batch").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Night shift")
    expect(page.get_by_role("heading", level=1)).to_contain_text("queued")
    with Reader():
        expect(page.get_by_role("heading", level=1)).to_contain_text("done", timeout=120_000)  # by itself
    expect(page.locator("[data-field='counts.done']")).to_have_text("66")
    expect(page.get_by_text("4 rejected")).to_be_visible()
    expect(page.get_by_role("button", name="Cancel")).to_have_count(0)
    with session_scope() as session:
        batch = str(session.query(Batch).one().id)
    draw(batch, blobs)

    page.get_by_label("Status").select_option("rejected")
    expect(page.locator("#batch-images tbody tr")).to_have_count(4)
    page.get_by_role("link", name="Clear").click()
    expect(page.locator("#batch-images tbody tr")).to_have_count(50)
    page.get_by_role("link", name="Next page").click()
    expect(page.locator("#batch-images tbody tr")).to_have_count(20)

    link_to_image = page.locator("#batch-images tbody tr:has(svg) a").first
    name = link_to_image.inner_text()
    link_to_image.click()
    expect(page.get_by_role("heading", level=1)).to_have_text(name)
    slider = page.get_by_label("Attention map", exact=True)
    overlay = page.locator("[data-overlay]")
    slider.fill("80")
    expect(overlay).to_have_css("opacity", "0.8")
    page.get_by_label("Outlines", exact=True).uncheck()
    expect(page.locator("[data-outlines]")).to_be_hidden()
    expect(page.get_by_role("contentinfo")).to_contain_text("to be verified by a clinician")
    with page.expect_download() as download:
        page.goto(f"/batches/{batch}")
        page.get_by_role("link", name="Download ZIP").click()
    assert Path(download.value.path()).read_bytes().startswith(b"PK")
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()


def test_an_upload_goes_on_after_the_connection_broke(
    page: Page, link: Callable[[], str], serving: Serving
) -> None:
    sign_in(page, link)
    broken: list[str] = []

    def break_once(route: Any) -> None:
        if broken:
            route.continue_()
        else:
            broken.append(route.request.url)
            route.abort("connectionreset")

    page.route("**/files", break_once)
    page.goto("/batches/new")
    page.locator("[data-files]").set_input_files(
        [{"name": f"{i}.png", "mimeType": "image/png", "buffer": png(str(i))} for i in range(3)]
    )
    page.get_by_role("button", name="Upload").click()
    expect(page.locator("#batch-images tbody tr")).to_have_count(3, timeout=60_000)
    assert broken


def test_the_pages_work_without_scripts(
    chromium: Browser, serving: Serving, link: Callable[[], str], blobs: BlobStore, tmp_path: Path
) -> None:
    context = chromium.new_context(base_url=serving.url, java_script_enabled=False)
    page = context.new_page()
    page.set_default_timeout(30_000)
    sign_in(page, link)
    page.goto("/batches/new")
    page.get_by_label("Label").fill("Plain form")
    page.get_by_label("Choose files").set_input_files(
        [
            {"name": "a.png", "mimeType": "image/png", "buffer": png("a")},
            {"name": "b.txt", "mimeType": "text/plain", "buffer": b"text"},
        ]
    )
    page.get_by_text("Manifest (optional)").click()
    page.get_by_label("Manifest").set_input_files(
        [{"name": "m.csv", "mimeType": "text/csv", "buffer": b"path,accession\na.png,A17\n"}]
    )
    page.get_by_role("button", name="Upload").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Plain form")
    expect(page.get_by_role("heading", level=1)).to_contain_text("queued")
    expect(page.get_by_text("1 rejected")).to_be_visible()
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("paused")
    page.get_by_role("button", name="Resume").click()
    # the next page is there: one cannot load again what is still on its way
    expect(page.get_by_role("heading", level=1)).not_to_contain_text("paused")
    with Reader():
        for _ in range(60):
            page.reload()
            if "done" in page.get_by_role("heading", level=1).inner_text():
                break
            page.wait_for_timeout(500)
    draw(page.url.rsplit("/", 1)[1], blobs)
    page.get_by_role("link", name="a.png").click()
    expect(page.get_by_role("img", name="The radiograph, with the outlines")).to_be_visible()
    expect(page.get_by_role("img", name="The attention map over the radiograph")).to_be_visible()
    page.get_by_text("Details").click()
    expect(page.get_by_text("A17")).to_be_visible()

    page.goto("/batches/new")
    page.get_by_label("Choose files").set_input_files(
        [{"name": "c.png", "mimeType": "image/png", "buffer": png("c")}]
    )
    page.get_by_label("Start reading").uncheck()
    page.get_by_role("button", name="Upload").click()
    page.get_by_text("Cancel…").click()
    page.get_by_role("button", name="Cancel this batch").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("cancelled")
    context.close()

"""Uploads in a real browser that break off and go on: the line, the page, the folder dropped again."""

from __future__ import annotations

import io
import os
import random
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect
from sqlalchemy import select, update

from store.base.blobs import BlobStore
from store.base.session import session_scope
from store.base.tables import Batch, Image, Site
from store.intake import batches
from tests.reading import read_batch
from tests.running import wait_for
from tests.web.asking import PNG, png, zipped
from tests.web.browsing import chromium, sign_in
from tests.web.serving import Reader, Serving
from vocabulary.states import BatchStatus

__all__ = ["chromium"]

pytestmark = pytest.mark.timeout(900)


@pytest.fixture
def page(chromium: Any, serving: Serving) -> Any:
    """A page that may complain of connections: they are cut on purpose."""
    context = chromium.new_context(base_url=serving.url)
    page = context.new_page()
    page.set_default_timeout(120_000)
    expect.set_options(timeout=120_000)
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    context.close()
    assert errors == []


def folder(root: Path, n: int, **others: bytes) -> Path:
    """Write a folder with `n` good files and some others."""
    (root / "ward").mkdir(parents=True, exist_ok=True)
    for i in range(n):
        (root / "ward" / f"{i:03d}.png").write_bytes(png(f"{i}"))
    for name, data in others.items():
        (root / name.replace("_", ".")).write_bytes(data)
    return root


def images() -> list[Image]:
    with session_scope() as session:
        return list(session.scalars(select(Image).order_by(Image.path)))


def batch_of() -> Batch:
    with session_scope() as session:
        return session.scalars(select(Batch)).one()


class Line:
    """The network between page and server: counts file bytes, and can be cut."""

    def __init__(self, page: Page, cut_after: int) -> None:
        self.sent: list[int] = []
        self.down = False
        self.cut_after = cut_after
        page.route("**/api/v1/**", self._handle)

    def _handle(self, route: Any) -> None:
        if self.down:
            route.abort("internetdisconnected")
            return
        if route.request.url.endswith("/files"):
            if len(self.sent) >= self.cut_after:
                self.down = True
                route.abort("connectionreset")
                return
            self.sent.append(len(route.request.post_data_buffer or b""))
        route.continue_()


def test_a_folder_whose_connection_is_cut_goes_on_and_sends_nothing_twice(
    page: Page, link: Callable[[], str], tmp_path: Path
) -> None:
    root = folder(tmp_path / "night", 150, notes_txt=b"not an image", empty_png=b"")
    sign_in(page, link)
    page.goto("/batches/new")
    line = Line(page, cut_after=1)
    page.locator("[data-folder]").set_input_files(root)
    expect(page.get_by_text("152 files chosen")).to_be_visible()
    page.get_by_role("button", name="Upload", exact=True).click()
    expect(page.get_by_text("Waiting for the connection")).to_be_visible()
    assert line.down
    line.down, line.cut_after = False, 99
    page.evaluate("dispatchEvent(new Event('online'))")
    expect(page.get_by_text("Uploaded; some files were not accepted")).to_be_visible()
    rows = page.locator("[data-files-list] tr")
    expect(rows).to_have_count(2)
    expect(rows.filter(has_text="notes.txt")).to_contain_text("not accepted")
    expect(rows.filter(has_text="empty.png")).to_contain_text("empty")
    page.get_by_label("Show").select_option("all")
    expect(rows).to_have_count(100)
    page.get_by_role("button", name="Later").click()
    expect(rows).to_have_count(52)
    assert len(images()) == 152
    assert len(line.sent) == 3, "64, 64 and 24 files, each once"
    assert {image.path for image in images()} >= {"night/ward/000.png", "night/notes.txt"}
    assert batch_of().status == BatchStatus.QUEUED


def test_a_reloaded_page_goes_on_with_its_draft(page: Page, link: Callable[[], str], tmp_path: Path) -> None:
    root = folder(tmp_path / "night", 130)
    sign_in(page, link)
    page.goto("/batches/new")
    page.get_by_label("Label").fill("Night shift")
    line = Line(page, cut_after=1)
    page.locator("[data-folder]").set_input_files(root)
    page.get_by_role("button", name="Upload", exact=True).click()
    expect(page.get_by_text("Waiting for the connection")).to_be_visible()
    arrived = wait_for(lambda: len(images()), 60, "the first request to be taken")
    assert arrived < 130
    page.on("dialog", lambda dialog: dialog.accept())
    page.goto("/batches/new")  # the laptop was closed
    line.down = False
    page.get_by_role("link", name="Night shift").click()
    expect(page.get_by_text(f"{arrived} files are here")).to_be_visible()
    line.cut_after = 99
    before = sum(line.sent)
    page.locator("[data-folder]").set_input_files(root)
    page.get_by_role("button", name="Add files").click()
    page.wait_for_url("**/batches/*-*")
    expect(page.get_by_role("heading", level=1)).to_contain_text("queued")
    assert len(images()) == 130
    resent = sum(line.sent) - before
    assert resent < (130 - arrived) * (len(png("000")) + 400), "only what was missing"


def test_a_large_zip_goes_in_pieces_and_goes_on(
    page: Page, link: Callable[[], str], tmp_path: Path, blobs: BlobStore
) -> None:
    noise = random.Random(1)
    members = {f"scan/{i}.png": png(str(i)) + noise.randbytes(5 << 20) for i in range(8)}
    (tmp_path / "all.zip").write_bytes(zipped({**members, "notes.txt": b"text"}))
    sign_in(page, link)
    page.goto("/batches/new")
    pieces: list[str] = []
    cut: list[str] = []

    def handle(route: Any) -> None:
        if route.request.method == "PATCH":
            pieces.append(route.request.headers["upload-offset"])
            if len(pieces) == 2:
                cut.append(route.request.url)
                route.abort("connectionreset")
                return
        route.continue_()

    page.route("**/api/v1/uploads/*", handle)
    page.locator("[data-files]").set_input_files(tmp_path / "all.zip")
    page.get_by_role("button", name="Upload", exact=True).click()
    expect(page.get_by_text("Uploaded; some files were not accepted")).to_be_visible(timeout=120_000)
    assert cut
    assert pieces.count("0") == 1, "the first piece was sent once"
    expect(page.locator("[data-files-list] tr")).to_contain_text("all.zip › notes.txt")
    assert len(images()) == 9
    assert not list(blobs.keys("uploads/"))
    assert page.evaluate("Object.keys(localStorage).length") == 0


def test_too_much_for_the_quota_is_refused_before_the_bytes(
    page: Page, link: Callable[[], str], tmp_path: Path
) -> None:
    with session_scope() as session:
        session.execute(update(Site).values(quota_bytes=1000))
    sign_in(page, link)
    page.goto("/batches/new")
    line = Line(page, cut_after=99)
    page.locator("[data-folder]").set_input_files(folder(tmp_path / "night", 50))
    page.get_by_role("button", name="Upload", exact=True).click()
    expect(page.get_by_text("The upload stopped")).to_be_visible()
    expect(page.get_by_role("alert")).to_contain_text("1000 are left")
    assert line.sent == []
    assert images() == []


def test_five_thousand_files(page: Page, link: Callable[[], str], tmp_path: Path) -> None:
    root = folder(tmp_path / "night", 5000)
    sign_in(page, link)
    page.goto("/batches/new")
    page.locator("[data-folder]").set_input_files(root)
    page.get_by_label("Start reading").uncheck()
    page.get_by_role("button", name="Upload", exact=True).click()
    rows = page.locator("[data-files-list] tr")
    expect(rows).to_have_count(100)
    expect(page.locator("[data-range]")).to_have_text("1 to 100 of 5,000")
    expect(page.get_by_text("5,000 files are here")).to_be_visible(timeout=200_000)
    assert batch_of().n_total == 5000


@pytest.mark.usefixtures("kept_for_a_retry")
def test_cancel_retry_prioritise_and_download(
    page: Page, link: Callable[[], str], tmp_path: Path, blobs: BlobStore, serving: Serving
) -> None:
    sign_in(page, link)
    page.goto("/batches/new")
    page.locator("[data-folder]").set_input_files(folder(tmp_path / "night", 20))
    page.get_by_role("button", name="Upload", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("queued")
    batch = batch_of()
    page.get_by_text("Priority…").click()
    page.get_by_label("Read this batch as").select_option("urgent")
    page.get_by_role("button", name="Change priority").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("urgent")
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("paused")
    page.get_by_role("button", name="Resume").click()
    page.get_by_text("Cancel…").click()
    page.get_by_role("button", name="Cancel this batch").click()
    expect(page.locator("[data-field='counts.cancelled']")).to_have_text("20")
    expect(page.get_by_text("being cancelled")).to_be_visible()  # until a worker has ended the round
    expect(page.get_by_role("button", name="Pause")).to_have_count(0)
    expect(page.get_by_text("Cancel…")).to_have_count(0)
    read_batch(batch.id)  # ends it
    with session_scope() as session:
        batches.retry(session, batch.id, batch.site_id)
    names = [image.path for image in images()]
    read_batch(batch.id, fail=frozenset(names[:3]))
    page.goto(f"/batches/{batch.id}")
    expect(page.get_by_role("button", name="Retry failed", exact=True)).to_be_visible()
    page.get_by_role("link", name="3 failed").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("partial")
    page.get_by_label(f"Choose {names[1]}").check()
    page.get_by_role("button", name="Retry the chosen images").click()
    with Reader():
        expect(page.get_by_role("heading", level=1)).to_contain_text("done", timeout=120_000)
    statuses = [image.status for image in images()]
    assert (statuses.count("done"), statuses.count("failed")) == (18, 2)

    page.get_by_role("link", name="More…").click()
    page.locator("select[name=status]").select_option("done")
    page.get_by_text("Parts of the ZIP").click()
    page.get_by_label("attention maps").uncheck()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download", exact=True).click()
    with zipfile.ZipFile(io.BytesIO(Path(download.value.path()).read_bytes())) as archive:
        assert archive.testzip() is None
        kinds = {name.split("/")[0] for name in archive.namelist()}
        lines = archive.read("results.csv").decode().splitlines()
    assert kinds == {"index.html", "results.csv", "errors.csv", "manifest.json", "reports"}
    assert len(lines) == 19
    page.locator("select[name=format]").select_option("parquet")
    page.get_by_role("button", name="Download", exact=True).click()
    expect(page.get_by_role("cell", name="waiting")).to_be_visible()
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("cell", name="cancelled")).to_be_visible()


def test_files_of_the_same_name_of_two_folders_are_both_kept(
    page: Page, link: Callable[[], str], tmp_path: Path
) -> None:
    """Two CDs, each with its folder DICOM, and files of the same size and time."""
    first, second = folder(tmp_path / "cd 1" / "DICOM", 4), folder(tmp_path / "cd 2" / "DICOM", 4)
    for path in (second / "ward").iterdir():
        path.write_bytes(PNG[:8] + path.read_bytes()[8:].swapcase())  # of another patient
    for path in (*(first / "ward").iterdir(), *(second / "ward").iterdir()):
        os.utime(path, (1.7e9, 1.7e9))
    sign_in(page, link)
    page.goto("/batches/new")
    for chosen, n in ((first, 4), (second, 8), (first, 8), (second, 8)):
        page.locator("[data-folder]").set_input_files(chosen)
        expect(page.get_by_text(f"{n} files chosen")).to_be_visible()
    page.get_by_role("button", name="Upload", exact=True).click()
    expect(page).to_have_url(re.compile(r"/batches/[0-9a-f-]{36}$"))
    wait_for(lambda: batch_of().status == BatchStatus.QUEUED, 60, "the batch to be submitted")
    assert [image.path for image in images()] == [f"DICOM/ward/{n // 2:03d}.png" for n in range(8)]
    assert len({image.sha256 for image in images()}) == 8


def drag(page: Page, paths: list[Path], x: float, y: float) -> None:
    """Drag files and folders of the disk onto a place of the page, as the system's file manager does."""
    devtools = page.context.new_cdp_session(page)
    data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        devtools.send("Input.dispatchDragEvent", {"type": kind, "x": x, "y": y, "data": data})
    devtools.detach()


def test_files_and_folders_are_dropped_from_the_disk(
    page: Page, link: Callable[[], str], tmp_path: Path
) -> None:
    first, second = folder(tmp_path / "cd 1", 70), folder(tmp_path / "cd 2", 3)
    (tmp_path / "alone.png").write_bytes(png("alone"))
    sign_in(page, link)
    page.goto("/batches/new")
    box = page.locator("[data-drop]").bounding_box()
    assert box
    middle = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    drag(page, [first, tmp_path / "alone.png"], *middle)
    expect(page.locator("[data-drop].over")).to_have_count(0)
    drag(page, [second], *middle)  # while the first is still being listed
    expect(page.get_by_text("74 files chosen")).to_be_visible()
    page.get_by_role("button", name="Upload", exact=True).click()
    expect(page).to_have_url(re.compile(r"/batches/[0-9a-f-]{36}$"))
    wait_for(lambda: batch_of().status == BatchStatus.QUEUED, 60, "the batch to be submitted")
    paths = [image.path for image in images()]
    assert len(paths) == 74
    assert {"alone.png", "cd 1/ward/069.png", "cd 2/ward/002.png"} <= set(paths)


def test_a_drop_beside_the_box_is_taken_and_the_page_stays(
    page: Page, link: Callable[[], str], tmp_path: Path
) -> None:
    (tmp_path / "one.png").write_bytes(png("one"))
    (tmp_path / "two.png").write_bytes(png("two"))
    sign_in(page, link)
    page.goto("/batches/new")
    page.locator("[data-files]").set_input_files(tmp_path / "one.png")
    drag(page, [tmp_path / "two.png"], 5, 5)
    expect(page.get_by_text("2 files chosen")).to_be_visible()
    assert page.url.endswith("/batches/new")


def test_what_is_dropped_while_others_are_sent_is_sent_too(
    page: Page, link: Callable[[], str], tmp_path: Path
) -> None:
    root = folder(tmp_path / "night", 3)
    (tmp_path / "late.png").write_bytes(png("late"))
    sign_in(page, link)
    page.goto("/batches/new")
    page.locator("[data-folder]").set_input_files(root)
    held: list[Any] = []
    page.route("**/files", lambda route: route.continue_() if held else held.append(route))
    page.get_by_role("button", name="Upload", exact=True).click()
    wait_for(lambda: page.title() and bool(held), 60, "the first request")
    drag(page, [tmp_path / "late.png"], 300, 300)
    expect(page.get_by_text("4 files chosen")).to_be_visible()
    held[0].continue_()
    wait_for(
        lambda: page.title() and batch_of().status == BatchStatus.QUEUED, 60, "the batch to be submitted"
    )
    assert [image.path for image in images()] == ["late.png", *(f"night/ward/{n:03d}.png" for n in range(3))]

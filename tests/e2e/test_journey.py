"""A working day in a real browser on a whole server: X-rays sent, watched, opened, answered, taken away."""

from __future__ import annotations

import csv
import io
import re
import subprocess
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from phantoms.files import encode_phantom
from phantoms.film import make_phantom
from tests.conftest import ROOT
from tests.e2e.test_up import COMMAND, Running
from tests.web.browsing import chromium

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
__all__ = ["chromium"]

PATIENCE = 600_000  # ms: the first reading of a run also converts the networks
REGIONS = ("hand", "leg", "hip", "shoulder")


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="fractureai-day-") as folder:
        Path(folder).chmod(0o711)
        yield Path(folder)


@pytest.fixture(scope="module")
def service(home: Path) -> Iterator[tuple[str, str]]:
    """A server with everything it stands on; its address, and a link that signs an administrator in."""
    up = Running(*COMMAND, "up", "--home", str(home))
    address = up.wait_for(r"Serving at (http\S+)")
    yield address.rstrip("/"), up.wait_for(r"Sign in:\s+(http\S+)")
    up.close()


def pictures(folder: Path, n: int, first: int = 0) -> Path:
    """Write a folder of small phantoms, every fourth with a break."""
    folder.mkdir()
    for seed in range(first, first + n):
        phantom = make_phantom(seed, REGIONS[seed % 4], size=(240, 240))
        (folder / f"{seed:03d}.png").write_bytes(encode_phantom(phantom))
    return folder


def signed_in(browser: Browser, address: str, link: str) -> tuple[BrowserContext, Page]:
    context = browser.new_context(base_url=address)
    page = context.new_page()
    page.set_default_timeout(60_000)
    expect.set_options(timeout=60_000)
    page.goto(link)
    page.get_by_role("main").get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/batches")
    return context, page


def upload(page: Page, label: str, folder: Path, *, start: bool = True) -> None:
    page.goto("/batches/new")
    page.get_by_label("Label").fill(label)
    page.locator("[data-folder]").set_input_files(folder)
    if not start:
        page.get_by_label("Start reading").uncheck()
    page.get_by_role("button", name="Upload", exact=True).click()


def test_a_day_at_the_hospital(
    chromium: Browser, service: tuple[str, str], home: Path, tmp_path: Path
) -> None:
    address, link = service
    context, page = signed_in(chromium, address, link)
    title = page.get_by_role("heading", level=1)

    # a folder with good and bad files; the line goes dead in the middle, and comes back
    night = pictures(tmp_path / "night", 72)
    (night / "notes.txt").write_text("not an image")
    (night / "half.png").write_bytes((night / "000.png").read_bytes()[:300])
    sent: list[str] = []

    def cut(route) -> None:
        sent.append(route.request.url)
        if len(sent) == 2:
            context.set_offline(True)
        route.continue_()

    page.route("**/files", cut)
    upload(page, "Night shift", night)
    expect(page.get_by_text("Waiting for the connection")).to_be_visible()
    context.set_offline(False)
    expect(page.get_by_text("Uploaded; some files were not accepted")).to_be_visible()
    expect(page.locator("[data-files-list] tr").filter(has_text="notes.txt")).to_contain_text("not accepted")
    page.unroute("**/files")

    # watched live to its end
    page.get_by_role("link", name="Open the batch").click()
    expect(title).to_contain_text("Night shift")
    expect(title).to_contain_text("done", timeout=PATIENCE)
    expect(page.locator("[data-field='counts.done']")).to_have_text("72")
    expect(page.locator("[data-field='counts.rejected']")).to_have_text("2")
    night_page = page.url

    # the most urgent is opened from the keyboard and answered; the signed report has the reader's name
    page.get_by_role("link", name="Worklist").click()
    expect(title).to_contain_text("Worklist")
    page.keyboard.press("j")
    first = page.locator("[data-row]").first.get_by_role("link")
    expect(first).to_be_focused()
    name = first.inner_text()
    page.keyboard.press("o")
    expect(title).to_contain_text(name)
    study_page = page.url
    expect(page.locator("[data-viewer]").first).to_be_visible()
    page.keyboard.press("1")
    page.get_by_role("button", name="Record", exact=True).click()
    page.goto(study_page)
    expect(page.get_by_role("region", name="Readers said")).to_contain_text("Fracture present")

    # what was read as doubtful, and only that, is taken away
    page.goto(night_page)
    page.get_by_role("link", name="More…").click()
    page.locator("select[name=triage]").select_option("doubt")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download", exact=True).click()
    with zipfile.ZipFile(io.BytesIO(Path(download.value.path()).read_bytes())) as archive:
        assert archive.testzip() is None
        rows = list(csv.DictReader(io.StringIO(archive.read("results.csv").decode())))
        reports = [n for n in archive.namelist() if n.startswith("reports/")]
        assert all(archive.read(n).startswith(b"%PDF") for n in reports)
    assert {row["triage"] for row in rows} == {"doubt"}
    assert len(reports) == len(rows) > 0

    # a running batch is cancelled
    upload(page, "By mistake", pictures(tmp_path / "mistake", 100, 200))
    expect(title).to_contain_text("By mistake")
    page.get_by_text("Cancel…").click()
    page.get_by_role("button", name="Cancel this batch").click()
    expect(title).to_contain_text("cancelled", timeout=PATIENCE)
    counts = {w: page.locator(f"[data-field='counts.{w}']").inner_text() for w in ("done", "cancelled")}
    assert int(counts["cancelled"]) > 0
    assert sum(map(int, counts.values())) == 100

    # one whose bytes are gone fails alone; it is retried once they are back
    upload(page, "Morning", pictures(tmp_path / "morning", 8, 400), start=False)
    expect(page.get_by_text("8 files are here")).to_be_visible()
    morning = re.search(r"/batches/([0-9a-f-]{36})", page.url)
    assert morning, page.url
    gone = next((home / "blobs" / "incoming" / morning[1]).iterdir())
    aside = tmp_path / "aside"
    gone.rename(aside)
    page.get_by_role("button", name="Start reading", exact=True).click()
    expect(title).to_contain_text("partial", timeout=PATIENCE)
    expect(page.locator("[data-field='counts.failed']")).to_have_text("1")
    gone.parent.mkdir(parents=True, exist_ok=True)
    aside.rename(gone)
    page.get_by_role("button", name="Retry failed", exact=True).click()
    expect(title).to_contain_text("done", timeout=PATIENCE)
    expect(page.locator("[data-field='counts.done']")).to_have_text("8")

    # another site sees none of it
    added = subprocess.run(
        [*COMMAND, "sites", "add", "North Hospital", "--admin", "ada@north.example", "--home", str(home)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    invited = re.search(r"http\S+/sign-in\S+", added.stdout)
    assert invited, added.stdout
    other = chromium.new_context(base_url=address)
    stranger = other.new_page()
    stranger.set_default_timeout(60_000)
    stranger.goto(urlsplit(invited[0])._replace(scheme="", netloc="").geturl())
    stranger.get_by_label("New password").fill("a long enough password")
    stranger.get_by_label("Again").fill("a long enough password")
    stranger.get_by_role("button", name="Set the password and sign in").click()
    stranger.wait_for_url("**/batches")
    expect(stranger.get_by_text("Make the first one")).to_be_visible()
    stranger.goto("/worklist")
    expect(stranger.locator("[data-row]")).to_have_count(0)
    for path in (night_page, study_page):
        answer = stranger.goto(path)
        assert answer is not None
        assert answer.status == 404
        assert "Night shift" not in stranger.content()
    other.close()
    context.close()

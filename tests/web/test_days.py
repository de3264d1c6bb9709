"""The days of four people, each walked in a real browser from signing in to the last click."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import openpyxl
import pytest
from playwright.sync_api import Page, expect
from sqlalchemy import select

from store.accounts import accounts
from store.accounts.accounts import Role
from store.base.blobs import BlobStore, get_blobs
from store.base.session import session_scope
from store.base.tables import Image, Site, User
from store.operations import monitoring
from store.research.research_tables import Run
from tests.reading import read_batch
from tests.web.asking import Asker, png
from tests.web.browsing import chromium, draw, page
from tests.web.evaluated import make_evaluated_world
from tests.web.serving import Reader
from web.factory import create_app

__all__ = ["chromium", "page"]

PASSWORD = "a long enough password"


def come(page: Page, role: Role, email: str = "") -> None:
    """Let a person of a role sign in by a one-time link."""
    email = email or f"{role.value}@hospital.example"
    with session_scope() as session:
        user = session.scalar(select(User).where(User.email == email))
        if user is None:
            site = session.scalars(select(Site)).first()
            user = accounts.create_user(session, site.id, email, role=role)
            session.flush()
        token = accounts.create_sign_in_token(session, user)
    page.goto(f"/sign-in?token={token}")
    page.get_by_role("main").get_by_role("button", name="Sign in").click()
    page.wait_for_url(lambda url: "/sign-in" not in url)


def films(folder: Path) -> list[Path]:
    """Write radiographs of two CDs, with one name on both."""
    paths = [folder / name for name in ("dupA/1.png", "dupB/1.png", "dupB/2.png", "wrong.png")]
    for path in paths:
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_bytes(png(str(path.relative_to(folder))))
    return paths


def test_the_submitter_sends_a_cd_and_takes_the_results(page: Page, tmp_path: Path, blobs: BlobStore) -> None:
    come(page, Role.SUBMITTER)
    page.get_by_role("navigation", name="Main").get_by_role("link", name="New batch").click()
    paths = films(tmp_path / "in")
    page.get_by_label("Choose files").set_input_files(paths)
    listed = page.get_by_role("region", name="Files").get_by_role("row")
    expect(listed).to_have_count(1 + 4)  # both of one name
    expect(listed.nth(1)).to_contain_text(" B")
    page.get_by_role("button", name="Remove wrong.png").click()
    expect(listed).to_have_count(1 + 3)
    page.get_by_label("Label").fill("Two CDs")
    with Reader():
        page.get_by_role("button", name="Upload").click()
        expect(page.get_by_role("heading", level=1)).to_contain_text("done", timeout=240_000)
    expect(page.get_by_role("heading", name="Summary")).to_be_visible()
    with page.expect_download() as saved:
        page.get_by_role("link", name="Download ZIP").click()
    with zipfile.ZipFile(saved.value.path()) as archive:
        assert archive.testzip() is None
        text = archive.read("index.html").decode()
        assert text.count("<tr>") == 1 + 3
        assert sum(name.startswith("reports/") for name in archive.namelist()) == 3
    with page.expect_download() as saved:
        page.get_by_role("button", name="Excel").click()
    book = openpyxl.load_workbook(io.BytesIO(Path(saved.value.path()).read_bytes()))
    assert book["results"].max_row == 1 + 3


@pytest.fixture
def night(ask: Asker, blobs: BlobStore) -> str:
    """What came in the night: an urgent batch of six, two images of one study."""
    batch = ask.draft(label="Night", priority="urgent")
    ask.send(batch, *((f"{n}.png", png(f"night {n}")) for n in range(6)), ("note.txt", b"x"))
    ask.post(f"/batches/{batch}/submit")
    read_batch(
        batch,
        facts=lambda path: (
            {
                "accession": f"00012{path[0]}",
                "study_uid": "1.2.3" if path in ("4.png", "5.png") else f"1.2.{path[0]}9",
            }
            | ({"accession": "000124"} if path == "5.png" else {})
        ),
    )
    draw(batch, blobs)
    return batch


def test_the_clinician_reads_what_came_in_the_night(page: Page, night: str, ask: Asker) -> None:
    come(page, Role.CLINICIAN)
    page.get_by_role("link", name="Worklist").click()
    rows = page.locator("[data-row]")
    expect(rows).to_have_count(6)
    page.get_by_role("link", name="Probability").click()
    page.get_by_role("link", name="Probability").click()
    page.wait_for_url("**sort=-probability**")
    page.get_by_text("Keep this view…").click()
    page.get_by_label("Its name").fill("Worst first")
    page.get_by_role("button", name="Keep", exact=True).click()
    expect(page.get_by_role("navigation", name="Your views")).to_contain_text("Worst first")

    page.keyboard.press("j")
    first = rows.nth(0).get_by_role("link").inner_text()
    page.keyboard.press("o")
    expect(page.get_by_role("heading", level=1)).to_contain_text(first)
    page.keyboard.press("1")
    page.get_by_role("button", name="Record", exact=True).click()
    expect(page.locator("[data-done]")).to_contain_text(f"Recorded: Fracture present, for {first}.")
    page.keyboard.press("z")
    expect(page.get_by_text("taken back")).to_be_visible()
    expect(page.get_by_role("heading", level=1)).to_contain_text(first)
    page.keyboard.press("2")
    page.get_by_role("button", name="Record", exact=True).click()
    expect(page.locator("[data-done]")).to_be_visible()
    page.keyboard.press("u")
    expect(rows).to_have_count(5)

    page.get_by_label("Choose note.txt").check()
    page.get_by_role("button", name="Dismiss").click()
    expect(page.locator("[data-done]")).to_contain_text("1 study dismissed.")
    expect(rows).to_have_count(4)
    page.get_by_role("searchbox").fill("123")
    page.keyboard.press("Enter")
    expect(rows).to_have_count(1)  # 000123
    page.get_by_role("link", name="Reviewed").click()
    expect(rows).to_have_count(2)
    assert {row["answer"] for row in ask.get("/worklist?reviewed=yes").json["items"]} == {
        "absent",
        "dismissed",
    }


@pytest.fixture
def evaluated(site_key: str) -> dict[str, Any]:
    """A site with an evaluated run of two bundles, and their comparison."""
    world, figures = make_evaluated_world(create_app())
    with session_scope() as session:
        run = session.get_one(Run, world.ids["run_id"])
        image = session.scalars(select(Image).where(Image.batch_id == run.batch_id)).one()
        image.width, image.height = 200, 100
        get_blobs().put(image.display_key, png("x"))
    return {"world": world, "figures": figures}


def test_the_researcher_compares_two_bundles(page: Page, evaluated: dict[str, Any]) -> None:
    world, figures = evaluated["world"], evaluated["figures"]
    come(page, Role.RESEARCHER, world.email)
    page.get_by_role("link", name="Research").click()
    expect(page.get_by_role("heading", name="Figures of all runs")).to_be_visible()
    page.goto(f"/research/runs/{world.ids['run_id']}")
    expect(page.get_by_role("heading", name="By study, worst image")).to_be_visible()
    slider = page.get_by_role("slider")
    slider.focus()
    said = page.locator("[data-roc-said] li")
    expect(said).to_have_count(2)
    before = said.all_inner_texts()
    for _ in range(20):
        page.keyboard.press("ArrowRight")
    assert said.all_inner_texts() != before
    at = float(said.nth(0).inner_text().split("sensitivity ")[1].split(",")[0])
    earlier = float(before[0].split("sensitivity ")[1].split(",")[0])
    assert at <= earlier, "a higher cut finds no more"
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save as SVG: ROC curves by study").click()
    drawn = Path(saved.value.path()).read_text()
    assert drawn.startswith("<svg")
    assert 'stroke="rgb' in drawn

    page.goto(f"/research/comparisons/{world.ids['comparison_id']}")
    pictures = page.locator(".changed li")
    expect(pictures).to_have_count(len(figures["changed_images"]))
    page.get_by_label("What became of it").select_option("no")
    page.wait_for_url("**right=no**")
    wrong = [c for c in figures["changed_images"] if c["right"] is False]
    expect(pictures).to_have_count(len(wrong))
    expect(pictures.nth(0)).to_contain_text("now wrong")


@pytest.fixture
def served(ask: Asker, night: str) -> None:
    with session_scope() as session:
        for step in monitoring.Step:
            monitoring.record_success(session, step)
        monitoring.record_success(session, monitoring.BACKUP)


def test_the_administrator_looks_after_the_service(page: Page, served: None, ask: Asker) -> None:
    page.goto("/sign-in")
    expect(page.get_by_text("This server is new")).to_be_visible()
    expect(page.get_by_text("Ask an administrator")).to_have_count(0)
    come(page, Role.ADMIN, "admin@localhost")
    page.get_by_role("link", name="Admin", exact=True).click()
    page.get_by_role("link", name="Health").click()
    expect(page.get_by_role("alert")).to_contain_text("worker was seen in 30 seconds")
    expect(page.get_by_text("overdue")).to_have_count(0)
    page.get_by_role("link", name="Site", exact=True).click()
    page.get_by_label("with the attention map of the AI").uncheck()
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_label("with the attention map of the AI")).not_to_be_checked()
    study = ask.get("/worklist").json["items"][0]["study_id"]
    page.goto(f"/studies/{study}")
    expect(page.locator("[data-viewer], .viewer").first).to_be_visible()
    page.goto("/admin/audit")
    expect(page.locator("td").filter(has_text="viewer start changed")).to_be_visible()

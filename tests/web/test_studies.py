"""Study and image pages: the viewer, what was said before, a reader's answer; as program, page and person."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from playwright.sync_api import Page, expect

from store.accounts import accounts
from store.accounts.accounts import Role
from store.base.blobs import BlobStore
from store.base.session import session_scope
from store.base.tables import Bundle, Image, Site
from store.reading import reviews
from tests.reading import read_batch
from tests.web.asking import Asker, Browser, png
from tests.web.browsing import chromium, draw, page, sign_in
from web.openapi import document

__all__ = ["chromium", "page"]

STUDY = {"study_uid": "1.2.3", "accession": "ACC-1"}


def fits(name: str, value: Any) -> None:
    schema = {"$ref": f"#/components/schemas/{name}", "components": document()["components"]}
    assert [error.message for error in Draft202012Validator(schema).iter_errors(value)] == []


def read(ask: Asker, *names: str, label: str = "Night", facts: Any = STUDY, **wish: Any) -> str:
    batch = ask.draft(label=label, **wish)
    ask.send(batch, *((name, png(name)) for name in names))
    ask.post(f"/batches/{batch}/submit")
    read_batch(batch, facts=lambda _: facts)
    return batch


@pytest.fixture
def batch(ask: Asker, blobs: BlobStore) -> str:
    """A study of two images, with pictures."""
    batch = read(ask, "a.png", "b.png")
    draw(batch, blobs)
    return batch


@pytest.fixture
def study(ask: Asker, batch: str) -> str:
    return str(ask.get("/worklist").json["items"][0]["study_id"])


def test_a_program_reads_and_answers_a_study(ask: Asker, stranger: Asker, study: str) -> None:
    found = ask.get(f"/studies/{study}").json
    fits("Study", found)
    assert (found["accession"], len(found["images"])) == ("ACC-1", 2)
    report = ask.get(found["links"]["report"])
    assert report.data.startswith(b"%PDF")
    assert report.headers["Content-Disposition"].endswith("; filename*=UTF-8''ACC-1%20report.pdf")
    assert ask.get(f"/studies/{study}/report?version=9").status_code == 404
    here = f"/studies/{study}/reviews"
    image = found["images"][0]["id"]
    said = ask.post(
        here,
        json={"answer": "present", "comment": "distal", "version": 1, "image_id": image, "x": 5, "y": 6},
    )
    assert said.status_code == 201
    fits("Review", said.json)
    assert said.json["place"] == {"image_id": image, "x": 5, "y": 6, "width": 0, "height": 0}
    listed = ask.get(here).json
    fits("Reviews", listed)
    assert [line["answer"] for line in listed["items"]] == ["present"]
    assert ask.get("/worklist").json["items"] == []
    assert ask.get("/worklist?reviewed=yes").json["items"][0]["answer"] == "present"
    for wrong in (
        {}, {"answer": "yes"}, {"answer": "present", "colour": 1}, {"answer": "present", "sign": "yes"},
        {"answer": "present", "x": 5}, {"answer": "present", "image_id": image, "x": "a", "y": 1},
        {"answer": "present", "image_id": image, "x": 10**6, "y": 1},
        {"answer": "absent", "comment": "x" * 2001},
    ):  # fmt: skip
        answer = ask.post(here, json=wrong)
        assert answer.status_code == 422, wrong
        assert answer.json["advice"]
    for path in (f"/studies/{study}", here, f"/studies/{study}/report"):
        assert stranger.get(path).status_code == 404
    assert stranger.post(here, json={"answer": "present"}).status_code == 404
    counted = ask.get("/bundles/b1/agreement").json
    fits("Agreement", counted)
    assert counted["reviewed"] == 1
    assert "neither sensitivity" in counted["notice"]
    assert stranger.get("/bundles/b1/agreement").json["reviewed"] == 0
    assert ask.get("/bundles/b1/disagreements.csv").text.startswith("path,label,")
    assert ask.get("/bundles/none/agreement").status_code == 404


def test_what_was_said_before_and_of_whom_it_is_hidden(
    ask: Asker, app: Any, browser: Browser, stranger: Asker
) -> None:
    with session_scope() as session:
        manifest = {"name": "trial", "label_meaning": "abnormal", "models": {}}
        session.add(Bundle(name="trial", sha256="1" * 64, manifest=manifest, files={}))
        site = session.query(Site).filter_by(name="General Hospital").one().id
        clinician = accounts.create_user(session, site, "clin@localhost", role=Role.CLINICIAN)
        reader = Asker(
            app.test_client(use_cookies=False), accounts.create_api_key(session, clinician, "c")[1]
        )
    read(stranger, "same.png", label="Theirs", facts={})
    first = read(ask, "same.png", label="First time", facts={})
    read(ask, "same.png", label="Trial", facts={}, bundle="trial")
    second = read(ask, "same.png", label="Second time", facts={})
    image = ask.get(f"/batches/{second}/images").json["items"][0]
    shown = browser.client.get(f"/images/{image['id']}").text  # an administrator
    assert "The same image before" in shown
    assert "First time" in shown
    assert "Trial" in shown
    assert "Theirs" not in shown
    with session_scope() as session:
        token = accounts.create_sign_in_token(session, session.merge(clinician))
        trial = session.query(Image).filter(Image.batch_id.not_in([first, second])).all()
        trial_image = next(i for i in trial if i.site_id == site).id
    theirs = Browser(app.test_client())
    theirs.sign_in(token=token)
    shown = theirs.client.get(f"/images/{image['id']}").text
    assert "First time" in shown
    assert "Trial" not in shown
    assert theirs.client.get(f"/images/{trial_image}").status_code == 404
    assert reader.get(f"/images/{trial_image}").status_code == 404
    assert reader.get(f"/images/{trial_image}/display").status_code == 404


def test_an_abnormality_is_never_called_a_fracture(ask: Asker, browser: Browser, study: str) -> None:
    with session_scope() as session:
        bundle = session.get_one(Bundle, "b1")
        bundle.manifest = {**bundle.manifest, "label_meaning": "abnormal"}
    ask.post(f"/studies/{study}/reviews", json={"answer": "absent"})
    image = ask.get(f"/studies/{study}").json["images"][0]["links"]["page"]
    for path in (f"/studies/{study}", image, "/worklist?reviewed=all", "/bundles/b1"):
        text = browser.client.get(path).text
        assert "style=" not in text
        assert "fracture" not in text.replace("FractureAI", "").replace("fractureai", "").lower()
    assert "No abnormality" in browser.client.get(f"/studies/{study}").text


def test_looked_at_closely_and_answered(
    page: Page, link: Callable[[], str], study: str, ask: Asker, blobs: BlobStore
) -> None:
    draw(read(ask, "c.png", facts={"accession": "ACC-2"}), blobs)
    sign_in(page, link)
    page.goto("/worklist?q=acc-1")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_contain_text("ACC-1")
    expect(page.locator("[data-viewport]")).to_have_count(2)
    one = page.locator("[data-viewport]:not([hidden])")
    expect(one).to_have_count(1)
    expect(one.locator("[data-told]")).to_contain_text("8 bit")
    zoom = page.locator("[data-zoom]")
    whole = zoom.inner_text()
    page.get_by_role("button", name="Zoom in").click()
    expect(zoom).not_to_have_text(whole)
    invert = page.get_by_role("button", name="Invert", exact=True)
    page.keyboard.press("i")
    expect(invert).to_have_attribute("aria-pressed", "true")
    page.get_by_label("Window", exact=True).fill("500")
    page.get_by_label("Attention map", exact=True).fill("0")
    expect(one.locator("[data-overlay]")).to_have_css("opacity", "0")
    page.get_by_label("Attention map", exact=True).fill("50")
    page.get_by_label("Outlines", exact=True).uncheck()
    expect(one.locator("[data-outlines]")).to_be_hidden()
    page.get_by_role("button", name="Reset").click()
    expect(zoom).to_have_text(whole)
    expect(invert).to_have_attribute("aria-pressed", "false")

    page.get_by_text("Mark a place").click()
    page.get_by_role("button", name="Mark on the picture").click()
    screen = one.locator("[data-screen]")
    screen.scroll_into_view_if_needed()
    box = screen.bounding_box()
    assert box is not None
    scale = min(box["width"] / 900, box["height"] / 1200)  # 900 by 1200 pixels in the middle of the field
    left, top = box["x"] + (box["width"] - 900 * scale) / 2, box["y"] + (box["height"] - 1200 * scale) / 2
    page.mouse.move(left + 300 * scale, top + 600 * scale)
    page.mouse.down()
    page.mouse.move(left + 450 * scale, top + 900 * scale, steps=4)
    page.mouse.up()
    expect(page.get_by_role("button", name="Mark on the picture")).to_have_attribute("aria-pressed", "false")
    place = [int(page.locator(f"[name={name}]").input_value()) for name in ("x", "y", "width", "height")]
    assert place == pytest.approx([300, 600, 150, 300], abs=12)  # in pixels of the original
    page.get_by_label("Left", exact=True).focus()
    page.keyboard.press("2")  # a digit in a field is a digit
    page.get_by_label("Left", exact=True).fill("300")
    page.get_by_role("heading", level=1).click()
    page.keyboard.press("1")
    expect(page.get_by_label("Fracture present")).to_be_checked()
    page.get_by_label("Comment", exact=True).fill("Distal radius.\nTwo views.")
    page.get_by_role("button", name="Record", exact=True).click()
    page.goto(f"/studies/{study}")
    said = page.get_by_role("region", name="Readers said")
    expect(said).to_contain_text("Fracture present")
    expect(said).to_contain_text("Two views.")
    expect(page.locator("[data-marks] rect")).to_have_count(1)
    page.keyboard.press("u")
    page.wait_for_url("**/worklist*")
    expect(page.locator("[data-row]")).to_have_count(1)
    with session_scope() as session:
        assert [line.review.answer for line in reviews.history(session, study, "b1")] == ["present"]

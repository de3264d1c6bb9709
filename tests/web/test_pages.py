"""The pages: what they show, and what they never run or tell."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from typing import Any
from uuid import UUID

import pytest
from markupsafe import escape
from sqlalchemy import select

from pipeline.types import RenderingStep
from store.accounts import accounts
from store.base.session import session_scope
from store.base.tables import Bundle, Image, User
from tests.reading import read_batch
from tests.web.asking import Asker, Browser, png
from vocabulary.rendering import RenderingCode
from web.base.filters import duration, percent
from web.intake import pages

HOSTILE = '<img src=x onerror="alert(1)">.png'


def read(ask: Asker, *names: str) -> str:
    batch = ask.draft(label="<b>Label</b>")
    ask.send(batch, *((name, png(name)) for name in names), ("bad.txt", b"text"))
    ask.post(f"/batches/{batch}/submit")
    read_batch(batch)
    return batch


def test_every_page_of_a_batch(browser: Browser, ask: Asker) -> None:
    batch = read(ask, HOSTILE, "b.png")
    image = ask.get(f"/batches/{batch}/images").json["items"][0]["id"]
    for path in ("/batches", f"/batches/{batch}", f"/images/{image}"):
        page = browser.client.get(path)
        assert page.status_code == 200
        assert "<img src=x" not in page.text
        assert "<b>Label" not in page.text
        assert "&lt;b&gt;Label" in page.text
        assert "style=" not in page.text
        assert "onclick" not in page.text
        assert "to be verified by a clinician" in page.text
    assert "&lt;img src=x" in browser.client.get(f"/images/{image}").text


def test_image_study_and_api_tell_how_the_grey_values_came_about(browser: Browser, ask: Asker) -> None:
    batch = read(ask, "steps.png")
    found = ask.get(f"/batches/{batch}/images").json["items"][0]
    steps = [
        RenderingStep(RenderingCode.COMMA_REPAIRED, "WindowCenter"),
        RenderingStep(RenderingCode.HEADER_WINDOW, "2"),
        RenderingStep(RenderingCode.INVERTED),
        RenderingStep(RenderingCode.ORIENTATION, "EXIF"),
    ]
    with session_scope() as session:
        image = session.get_one(Image, UUID(found["id"]))
        image.rendering = [{"code": step.code.value, "detail": step.detail} for step in steps]
        study = image.study_id
    said = ask.get(f"/images/{found['id']}").json["rendering"]
    assert [step["sentence"] for step in said] == [step.sentence for step in steps]
    for path in (f"/images/{found['id']}", f"/studies/{study}"):
        page = browser.client.get(path).text
        assert " ".join(step.sentence for step in steps) in page


def test_filters_and_wrong_filters(browser: Browser, ask: Asker) -> None:
    batch = read(ask, "a.png", "b.png")
    page = browser.client.get(f"/batches/{batch}?status=rejected&triage=&region=")
    assert "bad.txt" in page.text
    assert "a.png" not in page.text
    assert browser.client.get(f"/batches/{batch}?status=nonsense").status_code == 422
    assert browser.client.get(f"/batches/{batch}?cursor=nonsense").status_code == 422


def test_another_sites_pages_are_not_there(browser: Browser, stranger: Asker) -> None:
    batch = read(stranger, "theirs.png")
    image = stranger.get(f"/batches/{batch}/images").json["items"][0]["id"]
    for path in (f"/batches/{batch}", f"/images/{image}", "/bundles/none", "/nowhere"):
        page = browser.client.get(path)
        assert page.status_code == 404
        assert "nothing at this address" in page.text
        assert "theirs" not in page.text
    assert browser.post(f"/batches/{batch}/cancel").status_code == 404
    assert "theirs" not in browser.client.get("/batches").text


def test_a_form_with_files_makes_a_batch(browser: Browser, ask: Asker) -> None:
    fields = {"csrf": browser.csrf, "label": "night shift"}
    data = fields | {"files": [(BytesIO(png("a")), "a.png"), (BytesIO(b"text"), "b.txt")]}
    page = browser.client.post("/batches", data=data, content_type="multipart/form-data")
    assert page.status_code == 303
    batch = ask.get(f"/batches/{page.location.rsplit('/', 1)[1]}").json
    assert (batch["label"], batch["status"], batch["counts"]["total"]) == ("night shift", "draft", 2)


def test_a_form_without_files_is_told(browser: Browser) -> None:
    fields = {"csrf": browser.csrf, "label": "x"}
    page = browser.client.post("/batches", data=fields, content_type="multipart/form-data")
    assert page.status_code == 409
    assert "The batch has no files" in page.text


def test_a_bundles_card(browser: Browser, app: Any) -> None:
    with session_scope() as session:
        session.get_one(Bundle, "b1").card = "# b1\n\nTrained on *nothing*.\n\n<script>alert(1)</script>"
    page = browser.client.get("/bundles/b1")
    assert "Trained on <em>nothing</em>" in page.text
    assert "<script>alert" not in page.text
    assert page.text.count("<h1>") == 1
    assert "b1" in browser.client.get("/bundles").text


def test_no_share_is_rounded_to_certainty() -> None:
    assert [percent(share) for share in (0.0, 0.004, 0.5, 0.996, 1.0, None)] == [
        "0%",
        "< 1%",
        "50%",
        "> 99%",
        "100%",
        "",
    ]
    assert [duration(seconds) for seconds in (None, 5, 600, 7200)] == ["", "5 s", "10 min", "2.0 h"]


def test_people_who_share_a_page_get_their_own_address_and_token(
    app: Any, browser: Browser, ask: Asker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever opens a page with others gets what one of them rendered, and nothing that is another's."""
    batch = read(ask, "a.png")
    with session_scope() as session:
        site = session.scalars(select(User)).one().site_id
        people = {}
        for role in (accounts.Role.ADMIN, accounts.Role.CLINICIAN):
            user = accounts.create_user(session, site, f"<{role}>@localhost", role=role)
            people[role] = user.email, accounts.create_sign_in_token(session, user)
    rendered: dict[Any, str] = {}

    def shared(key: Any, work: Callable[[], str]) -> str:
        if key not in rendered:
            rendered[key] = work()
        return rendered[key]

    monkeypatch.setattr(pages._batch_pages, "answer", shared)
    first = browser.client.get(f"/batches/{batch}").text
    for role, (email, token) in people.items():
        other = Browser(app.test_client())
        assert other.sign_in(token=token).status_code == 303
        page = other.client.get(f"/batches/{batch}").text
        assert len(rendered) == (1 if role == accounts.Role.ADMIN else 2)  # who may do less has another page
        assert browser.csrf in first
        assert browser.csrf not in page
        assert page.count(other.csrf) == first.count(browser.csrf) or role != accounts.Role.ADMIN
        assert str(escape(email)) in page
        assert email not in page

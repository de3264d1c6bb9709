"""What is done with several studies at once, taken back, or kept as a view: by whom, and how often."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select, update

from store.accounts import accounts
from store.accounts.accounts import Role
from store.base.session import session_scope
from store.base.tables import Image, Site, User
from store.reading import reviews, worklist
from store.reading.review_tables import Review
from store.reading.worklist_tables import WorklistRow
from tests.web.asking import Asker, Browser
from tests.web.test_worklist import read
from tests.web.world import make_world

ACTIONS = ("read", "dismiss", "undo", "retry", "download")


@pytest.fixture
def colleague(app: Any, ask: Asker) -> Browser:
    """Another clinician of the same site, signed in."""
    with session_scope() as session:
        site = session.scalars(select(Site)).one()
        user = accounts.create_user(session, site.id, "bo@hospital.example", role=Role.CLINICIAN)
        token = accounts.create_sign_in_token(session, user)
    browser = Browser(app.test_client())
    assert browser.sign_in(token=token).status_code == 303
    return browser


def rows() -> list[tuple[Any, ...]]:
    """What the worklist says of every site, but for who looked at it."""
    with session_scope() as session:
        query = select(WorklistRow.study_id, WorklistRow.rank, WorklistRow.answer, WorklistRow.reviewed_at)
        return sorted(map(tuple, session.execute(query)), key=str)


def test_studies_of_another_site_are_not_touched(app: Any, ask: Asker, browser: Browser) -> None:
    read(ask, "ours", "a.png")
    other = make_world(app, Role.ADMIN)
    theirs = str(other.ids["study_id"])
    with session_scope() as session:
        where = Image.study_id == other.ids["study_id"]
        session.execute(update(Image).where(where).values(status="failed", reason="worker_lost"))
    before = rows()
    for action in ACTIONS:
        answer = browser.post(f"/worklist/{action}", study=[theirs])
        assert answer.status_code in {200, 303}, (action, answer.text)
        assert other.marker.encode() not in answer.data, action
    assert rows() == before
    with session_scope() as session:
        assert session.scalar(select(Image.status).where(where)) == "failed"
        worklist.set_aside(session, session.scalars(select(Site.id).where(Site.name == other.marker)).one(),
                           [other.ids["study_id"]], worklist.Mark.READ)  # fmt: skip
    before = rows()
    browser.post("/worklist/undo", study=[theirs])
    assert rows() == before


def test_many_and_odd_ids_are_refused(ask: Asker, browser: Browser) -> None:
    read(ask, "ours", "a.png")
    before = rows()
    for action in ACTIONS:
        for studies in ([str(uuid.uuid4())] * 201, [str(uuid.uuid4()) for _ in range(5000)], ["x"], ["'"]):
            assert browser.post(f"/worklist/{action}", study=studies).status_code == 422, action
    assert rows() == before


def answered(ask: Asker, browser: Browser) -> tuple[str, uuid.UUID]:
    """Let somebody answer a study; return its id and the answer's."""
    read(ask, "ours", "a.png")
    study = ask.get("/worklist").json["items"][0]["study_id"]
    assert browser.post(f"/studies/{study}/reviews", answer="absent").status_code == 303
    with session_scope() as session:
        return study, session.scalars(select(Review.id)).one()


def test_an_answer_is_taken_back_by_its_reader_once_and_soon(
    ask: Asker, browser: Browser, colleague: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, review = answered(ask, browser)
    before = rows()
    assert colleague.post(f"/reviews/{review}/take-back").status_code == 409
    assert rows() == before
    with monkeypatch.context() as later:
        later.setattr(reviews, "TAKE_BACK_WITHIN", timedelta(0))
        assert browser.post(f"/reviews/{review}/take-back").status_code == 409
    assert browser.post(f"/reviews/{review}/take-back").status_code == 303
    (row,) = rows()
    assert row[2] is None, "it waits again"
    assert browser.post(f"/reviews/{review}/take-back").status_code == 409
    assert rows() == [row]


def test_an_answer_that_another_one_followed_stays(ask: Asker, browser: Browser, colleague: Browser) -> None:
    study, review = answered(ask, browser)
    assert colleague.post(f"/studies/{study}/reviews", answer="present").status_code == 303
    before = rows()
    assert browser.post(f"/reviews/{review}/take-back").status_code == 409
    assert rows() == before


def test_an_answer_that_is_signed_stays(ask: Asker, browser: Browser) -> None:
    read(ask, "ours", "a.png")
    study = ask.get("/worklist").json["items"][0]["study_id"]
    with session_scope() as session:
        accounts.set_password(session, session.scalars(select(User)).first(), "a sentence is easy")
    browser.sign_in(email="admin@localhost", password="a sentence is easy")
    signed = browser.post(
        f"/studies/{study}/reviews", answer="absent", sign="yes", password="a sentence is easy"
    )
    assert signed.status_code == 303, signed.text
    with session_scope() as session:
        review = session.scalars(select(Review.id)).one()
    before = rows()
    assert browser.post(f"/reviews/{review}/take-back").status_code == 409
    assert rows() == before


def test_a_view_is_its_owners_alone(ask: Asker, browser: Browser, colleague: Browser) -> None:
    assert browser.post("/worklist/views?q=secretive", name="mine <i>").status_code == 303
    with session_scope() as session:
        owner = session.scalars(select(User).where(User.email == "admin@localhost")).one()
        (view,) = worklist.views(session, owner.id)
    assert "mine" not in colleague.client.get("/worklist").text
    assert colleague.post(f"/worklist/views/{view.id}/delete").status_code == 404
    assert "mine &lt;i&gt;" in browser.client.get("/worklist").text
    assert browser.post(f"/worklist/views/{view.id}/delete").status_code == 303
    assert browser.post(f"/worklist/views/{view.id}/delete").status_code == 404

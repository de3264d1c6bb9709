"""What somebody typed before their session ran out comes back after signing in: to them alone, and unsent."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, select, update

from store.accounts import accounts
from store.base.session import session_scope
from store.base.tables import User, UserSession
from store.reading.review_tables import Review
from tests.reading import read_batch
from tests.web.asking import Asker, Browser, png

COMMENT = 'Haarriss <b>Radius</b> "distal", Röntgen nach 7 Tagen'


def run_out() -> None:
    """Let every session be over, as after a night."""
    with session_scope() as session:
        session.execute(update(UserSession).values(expires_at=func.now() - timedelta(minutes=1)))


@pytest.fixture
def stranger_link(stranger: Asker) -> Callable[[], str]:
    """Makes one-time sign-in tokens of somebody of another site."""

    def make() -> str:
        with session_scope() as session:
            user = session.scalars(select(User).where(User.email == "stranger@localhost")).one()
            return accounts.create_sign_in_token(session, user)

    return make


@pytest.fixture
def study(ask: Asker) -> str:
    batch = ask.draft()
    ask.send(batch, ("a.png", png("a")))
    ask.post(f"/batches/{batch}/submit")
    read_batch(batch)
    return ask.get(f"/batches/{batch}/images").json["items"][0]["study_id"]


def answer(browser: Browser, study: str, comment: str = COMMENT) -> Any:
    return browser.post(
        f"/studies/{study}/reviews?triage=positive",
        answer="uncertain",
        comment=comment,
        version="",
        password="a password that stays here",
        sign="1",
    )


def test_an_answer_comes_back_in_its_form_and_is_not_sent(
    browser: Browser, study: str, link: Callable[[], str]
) -> None:
    run_out()
    over = answer(browser, study)
    assert over.status_code == 401
    assert "kept for half an hour" in over.text
    assert "next=/account/kept" in over.text
    with session_scope() as session:
        assert session.scalar(select(func.count()).select_from(Review).where(Review.study_id == study)) == 0
    assert browser.sign_in(token=link(), next="/account/kept").headers["Location"] == "/account/kept"
    page = browser.client.get("/account/kept")
    assert page.status_code == 200
    assert "Haarriss &lt;b&gt;Radius&lt;/b&gt;" in page.text
    assert 'value="uncertain" required data-answer checked' in page.text
    assert "nothing was done" in page.text
    assert f'action="/studies/{study}/reviews?triage=positive"' in page.text
    assert "a password that stays here" not in page.text
    assert page.headers["Cache-Control"] == "no-store"
    with session_scope() as session:
        assert session.scalar(select(func.count()).select_from(Review).where(Review.study_id == study)) == 0
    assert answer(browser, study).status_code == 403  # signing asks for the password as ever
    assert browser.post(f"/studies/{study}/reviews", answer="uncertain", version="").status_code == 303


def test_nobody_else_at_the_same_browser_sees_it(
    browser: Browser, study: str, stranger_link: Callable[[], str]
) -> None:
    run_out()
    assert answer(browser, study).status_code == 401
    assert browser.sign_in(token=stranger_link()).status_code == 303
    page = browser.client.get("/account/kept")
    assert page.status_code == 410
    assert "Haarriss" not in page.text


def test_signing_in_anew_in_another_window_loses_nothing(
    browser: Browser, study: str, link: Callable[[], str]
) -> None:
    old = browser.csrf
    assert browser.sign_in(token=link()).status_code == 303
    new, browser.csrf = browser.csrf, old
    over = answer(browser, study)
    assert over.status_code == 403
    assert 'href="/account/kept"' in over.text
    assert "Haarriss" in browser.client.get("/account/kept").text
    assert new in browser.client.get("/account/kept").text


def test_a_form_of_no_page_of_ours_is_not_kept(browser: Browser, study: str) -> None:
    browser.csrf = "made-up"
    assert "half an hour" not in answer(browser, study).text
    run_out()
    over = answer(browser, study)
    assert over.status_code == 401
    assert "half an hour" not in over.text
    assert browser.client.get_cookie("fractureai_kept", path="/account/kept") is None


def test_a_list_of_fields_for_every_other_form(browser: Browser, link: Callable[[], str]) -> None:
    run_out()
    over = browser.post("/admin/people", email="new@localhost", name="Dr <New>", role="reader")
    assert over.status_code == 401
    assert browser.sign_in(token=link()).status_code == 303
    page = browser.client.get("/account/kept").text
    assert 'action="/admin/people"' in page
    assert 'name="name" value="Dr &lt;New&gt;"' in page
    assert f'name="csrf" value="{browser.csrf}"' in page


def test_what_is_too_long_to_keep_can_be_copied(browser: Browser, study: str) -> None:
    run_out()
    text = "".join(chr(0x4E00 + (i * 7919) % 20000) for i in range(3000))
    over = answer(browser, study, text)
    assert over.status_code == 401
    assert text in over.text
    assert "Copy it" in over.text


def test_half_an_hour_later_it_is_gone(
    browser: Browser, study: str, link: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_out()
    assert answer(browser, study).status_code == 401
    assert browser.sign_in(token=link()).status_code == 303
    monkeypatch.setattr("web.auth.kept_forms.KEPT_SECONDS", -1)
    assert browser.client.get("/account/kept").status_code == 410

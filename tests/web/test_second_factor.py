"""The second factor: set by a first code, asked for at each sign-in, demanded of roles, reset by others."""

from __future__ import annotations

import re
import time
from typing import Any

import pyotp
import pytest
from click.testing import CliRunner
from sqlalchemy import select

from cli.main import main
from store.accounts import accounts
from store.base.session import session_scope
from store.base.tables import Audit, User
from tests.web.asking import Browser

PASSWORD = "a sentence is easy"
EMAIL = "admin@localhost"


@pytest.fixture
def signed_in(app: Any, site_key: str) -> Browser:
    with session_scope() as session:
        accounts.set_password(session, session.scalars(select(User)).one(), PASSWORD)
    browser = Browser(app.test_client())
    assert browser.sign_in(email=EMAIL, password=PASSWORD).status_code == 303
    return browser


def enrol(browser: Browser) -> tuple[pyotp.TOTP, list[str]]:
    """Set a second factor; return the app's side of it, and the recovery codes."""
    page = browser.client.get("/account/second-factor").text
    assert "<svg" in page
    secret = re.search(r"Secret: <code[^>]*>([A-Z2-7 ]+)<", page).group(1).replace(" ", "")
    offer = re.search(r'name="offer" value="([^"]+)"', page).group(1)
    app = pyotp.TOTP(secret)
    assert browser.post("/account/second-factor", offer=offer, code="000000").status_code == 422
    done = browser.post("/account/second-factor", offer=offer, code=app.at(time.time() - 30))
    assert done.status_code == 200, done.text
    return app, re.findall(r"<code>([0-9a-f]{6}-[0-9a-f]{6})</code>", done.text)


def give_code(browser: Browser, code: str) -> int:
    browser.client.get("/sign-in/code")
    twin = browser.client.get_cookie("fractureai_form", path="/sign-in").value
    return int(browser.client.post("/sign-in/code", data={"csrf": twin, "code": code}).status_code)


def gave_password(app: Any) -> Browser:
    browser = Browser(app.test_client())
    browser.client.get("/sign-in")
    twin = browser.client.get_cookie("fractureai_form", path="/sign-in").value
    form = {"csrf": twin, "email": EMAIL, "password": PASSWORD}
    answer = browser.client.post("/sign-in", data=form)
    assert answer.location.startswith("/sign-in/code")
    return browser


def test_a_sign_in_takes_the_password_and_a_code_that_counts_once(app: Any, signed_in: Browser) -> None:
    other = Browser(app.test_client())
    other.sign_in(email=EMAIL, password=PASSWORD)
    authenticator, codes = enrol(signed_in)
    assert len(codes) == 10
    assert signed_in.client.get("/batches").status_code == 200
    assert other.client.get("/batches").status_code == 302  # it gave no code
    browser = gave_password(app)
    assert browser.client.get("/batches").status_code == 302
    assert browser.client.get("/api/v1/batches").status_code == 401
    assert give_code(browser, "12345") == 401
    code = authenticator.now()
    assert give_code(browser, code) == 303
    assert browser.client.get("/batches").status_code == 200
    thief = gave_password(app)
    assert give_code(thief, code) == 401  # seen over the shoulder
    assert thief.client.get("/batches").status_code == 302
    lost = gave_password(app)
    assert give_code(lost, codes[0].upper()) == 303
    assert give_code(gave_password(app), codes[0]) == 401
    with session_scope() as session:
        user = session.scalars(select(User)).one()
        assert authenticator.secret not in str(vars(user))
        assert codes[1] not in str(vars(user))
        actions = list(session.scalars(select(Audit.action)))
    assert actions.count("second_factor_failed") == 3
    assert "recovery_code_used" in actions


def test_codes_are_not_guessed(app: Any, signed_in: Browser) -> None:
    authenticator, _ = enrol(signed_in)
    thief = gave_password(app)
    assert [give_code(thief, f"{n:06d}") for n in range(10)].count(401) == 10
    assert give_code(thief, authenticator.now()) == 429


def test_a_site_demands_it_of_roles(app: Any, signed_in: Browser) -> None:
    assert signed_in.post("/admin/second-factor", role=["admin", "clinician"]).status_code == 303
    answer = signed_in.client.get("/batches")
    assert (answer.status_code, answer.location) == (302, "/account/second-factor")
    assert signed_in.client.get("/api/v1/batches").json["code"] == "second_factor_needed"
    assert signed_in.post("/account/keys", name="x", scope="read").status_code == 403
    enrol(signed_in)
    assert signed_in.client.get("/batches").status_code == 200


def test_removing_takes_a_code_and_others_reset_it(app: Any, signed_in: Browser) -> None:
    authenticator, codes = enrol(signed_in)
    assert signed_in.post("/account/second-factor/remove", code="1").status_code == 422
    with session_scope() as session:
        me = session.scalars(select(User)).one().id
    assert signed_in.post(f"/admin/people/{me}/reset-second-factor").status_code == 409
    assert signed_in.post("/account/second-factor/remove", code=codes[0]).status_code == 303
    enrol(signed_in)
    done = CliRunner().invoke(main, ["people", "reset-second-factor", EMAIL])
    assert done.exit_code == 0, done.output
    assert signed_in.client.get("/batches").status_code == 302  # signed out
    assert signed_in.sign_in(email=EMAIL, password=PASSWORD).location == "/batches"
    with session_scope() as session:
        lines = session.scalars(select(Audit).where(Audit.action == "second_factor_removed")).all()
    assert [line.operator is not None for line in lines] == [False, True]
    assert authenticator

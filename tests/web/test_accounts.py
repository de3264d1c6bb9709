"""People of a site: invited by link, given roles, shut out; keys with scopes; sessions that end."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, select, update

from store.accounts import accounts, throttle
from store.accounts.accounts import Role
from store.base.session import session_scope
from store.base.tables import ApiKey, Audit, SignInAttempt, User, UserSession
from tests.web.asking import Asker, Browser
from web.auth import sign_in as signing_in
from web.factory import create_app

PASSWORD = "a sentence is easy"


def invited(browser: Browser, email: str, role: Role) -> str:
    """Invite somebody; return the token of their link."""
    page = browser.post("/admin/people", email=email, name="Bo", role=role.value)
    assert page.status_code == 200, page.text
    token = re.search(r"token=([\w-]+)", page.text).group(1)
    assert token not in browser.client.get("/admin/people").text  # shown once
    return token


def user_id(email: str) -> uuid.UUID:
    with session_scope() as session:
        return session.scalars(select(User.id).where(User.email == email)).one()


def test_somebody_is_invited_and_chooses_a_password(browser: Browser, app: Any) -> None:
    token = invited(browser, "bo@hospital.example", Role.STAFF)
    bo = Browser(app.test_client())
    assert "Choose a password" in bo.client.get("/sign-in", query_string={"token": token}).text
    assert bo.sign_in(token=token, password="short", again="short").status_code == 422
    for easy in ("qwertyuiop", "bo@hospital.example", "Hospital 2026"):
        refused = bo.sign_in(token=token, password=easy, again=easy)
        assert refused.status_code == 422
        assert "too easy to guess" in refused.text
    assert bo.sign_in(token=token, password=PASSWORD, again="other").status_code == 422
    assert bo.sign_in(token=token).status_code == 422  # a link that sets a password does nothing without one
    assert bo.sign_in(token=token, password=PASSWORD, again=PASSWORD).status_code == 303
    assert bo.client.get("/batches").status_code == 200
    assert bo.client.get("/admin/people").status_code == 403
    assert "Admin" not in bo.client.get("/batches").text
    assert (
        Browser(app.test_client()).sign_in(token=token, password=PASSWORD, again=PASSWORD).status_code == 401
    )
    assert (
        Browser(app.test_client()).sign_in(email="bo@hospital.example", password=PASSWORD).status_code == 303
    )
    assert browser.post("/admin/people", email="BO@hospital.example", role="staff").status_code == 409
    assert browser.post("/admin/people", email="nobody", role="staff").status_code == 422
    assert browser.post("/admin/people", email="c@hospital.example", role="king").status_code == 422


def test_a_link_resets_a_password_and_ends_what_was_open(browser: Browser, app: Any) -> None:
    bo = Browser(app.test_client())
    bo.sign_in(token=invited(browser, "bo@hospital.example", Role.STAFF), password=PASSWORD, again=PASSWORD)
    path = f"/admin/people/{user_id('bo@hospital.example')}"
    links = [re.search(r"token=([\w-]+)", browser.post(f"{path}/link").text).group(1) for _ in range(2)]
    assert bo.client.get("/batches").status_code == 200
    other = Browser(app.test_client())
    assert other.sign_in(token=links[0], password=PASSWORD + "!", again=PASSWORD + "!").status_code == 303
    assert bo.client.get("/batches").status_code == 302
    assert other.sign_in(token=links[1], password=PASSWORD, again=PASSWORD).status_code == 401  # void by now
    assert (
        Browser(app.test_client()).sign_in(email="bo@hospital.example", password=PASSWORD).status_code == 401
    )


def test_roles_count_at_once_and_one_administrator_stays(browser: Browser, app: Any) -> None:
    bo = Browser(app.test_client())
    bo.sign_in(token=invited(browser, "bo@hospital.example", Role.STAFF), password=PASSWORD, again=PASSWORD)
    me, them = user_id("admin@localhost"), user_id("bo@hospital.example")
    assert browser.post(f"/admin/people/{me}/role", role="staff").status_code == 409
    assert browser.post(f"/admin/people/{me}/disable").status_code == 409
    assert browser.post(f"/admin/people/{them}/role", role="admin").status_code == 303
    assert bo.client.get("/admin/people").status_code == 200
    assert bo.post(f"/admin/people/{me}/role", role="clinician").status_code == 303
    assert browser.client.get("/admin/people").status_code == 403
    assert bo.post(f"/admin/people/{them}/disable").status_code == 409


def test_who_is_disabled_is_out_with_keys_and_links(browser: Browser, app: Any) -> None:
    bo = Browser(app.test_client())
    bo.sign_in(token=invited(browser, "bo@hospital.example", Role.STAFF), password=PASSWORD, again=PASSWORD)
    page = bo.post("/account/keys", name="mine", scope="read")
    key = page.text.split('<code class="hash">')[1].split("<")[0]
    ask = Asker(app.test_client(use_cookies=False), key)
    path = f"/admin/people/{user_id('bo@hospital.example')}"
    link = re.search(r"token=([\w-]+)", browser.post(f"{path}/link").text).group(1)
    assert ask.get("/batches").status_code == 200
    assert browser.post(f"{path}/disable").status_code == 303
    assert bo.client.get("/batches").status_code == 302
    assert ask.get("/batches").status_code == 401
    again = Browser(app.test_client())
    assert again.sign_in(token=link, password=PASSWORD, again=PASSWORD).status_code == 401
    assert again.sign_in(email="bo@hospital.example", password=PASSWORD).status_code == 401
    assert browser.post(f"{path}/enable").status_code == 303
    assert ask.get("/batches").status_code == 401  # nothing from before comes back
    assert again.sign_in(token=link, password=PASSWORD, again=PASSWORD).status_code == 401
    assert bo.client.get("/batches").status_code == 302
    assert again.sign_in(email="bo@hospital.example", password=PASSWORD).status_code == 303
    with session_scope() as session:
        lines = list(
            session.scalars(select(Audit.action).where(Audit.object_id == path.rsplit("/", maxsplit=1)[-1]))
        )
    assert lines == ["person_invited", "password_link_made", "person_disabled", "person_enabled"]


def test_a_lower_role_narrows_keys_for_good(browser: Browser, app: Any) -> None:
    bo = Browser(app.test_client())
    bo.sign_in(token=invited(browser, "bo@hospital.example", Role.ADMIN), password=PASSWORD, again=PASSWORD)
    for name, scope in (("reads", ["read", "administer"]), ("rules", ["administer"])):
        bo.post("/account/keys", name=name, scope=scope)
    path = f"/admin/people/{user_id('bo@hospital.example')}/role"
    assert browser.post(path, role="staff").status_code == 303
    assert browser.post(path, role="admin").status_code == 303
    with session_scope() as session:
        keys = {key.name: key for key in session.scalars(select(ApiKey).where(ApiKey.name != "tests"))}
    assert keys["reads"].scope == ["read"]
    assert keys["rules"].revoked_at is not None


def test_a_key_is_made_with_a_scope_and_an_end(browser: Browser, app: Any) -> None:
    assert browser.post("/account/keys", name="x").status_code == 422  # may nothing
    assert browser.post("/account/keys", name="x", scope="everything").status_code == 422
    assert browser.post("/account/keys", name="x", scope="read", life="7").status_code == 422
    page = browser.post("/account/keys", name="reads", scope="read", life="30")
    key = page.text.split('<code class="hash">')[1].split("<")[0]
    ask = Asker(app.test_client(use_cookies=False), key)
    assert ask.get("/batches").status_code == 200
    assert ask.post("/batches", json={}).status_code == 403
    with session_scope() as session:
        row = session.scalars(select(ApiKey).where(ApiKey.name == "reads")).one()
        assert timedelta(days=29) < row.expires_at - row.created_at <= timedelta(days=30)
        row.expires_at = func.now()
    assert ask.get("/batches").status_code == 401
    assert "reads" not in browser.client.get("/admin/keys").text


def test_an_administrator_sees_and_revokes_everybodys_keys(browser: Browser, ask: Asker) -> None:
    assert "tests" in browser.client.get("/admin/keys").text
    with session_scope() as session:
        key_id = session.scalars(select(ApiKey.id).where(ApiKey.name == "tests")).one()
    assert browser.post(f"/admin/keys/{key_id}/revoke").status_code == 303
    assert ask.get("/batches").status_code == 401


def sit_unattended(minutes: float = 6) -> None:
    """Let the time pass in which a sign-in counts as a confirmation."""
    with session_scope() as session:
        session.execute(update(UserSession).values(proved_at=func.now() - timedelta(minutes=minutes)))


def test_an_open_browser_alone_makes_no_key_and_no_administrator(browser: Browser, app: Any) -> None:
    token = invited(browser, "bo@hospital.example", Role.STAFF)
    bo = f"/admin/people/{user_id('bo@hospital.example')}"
    acts: list[tuple[str, dict[str, str]]] = [
        ("/account/keys", {"name": "x", "scope": "read"}),
        ("/account/password", {"password": PASSWORD, "again": PASSWORD}),  # a first one
        ("/admin/people", {"email": "c@hospital.example", "role": "admin"}),
        (f"{bo}/role", {"role": "admin"}),
        (f"{bo}/link", {}),
        (f"{bo}/name", {"name": "Prof. Chief"}),
        (f"{bo}/enable", {}),
        (f"{bo}/reset-second-factor", {}),
        ("/admin/second-factor", {"role": "admin"}),
        ("/account/second-factor", {"offer": "x", "code": "123456"}),
        ("/account/second-factor/remove", {"code": "123456"}),
        ("/admin/retention/erase", {"study": str(uuid.uuid4()), "sure": "yes"}),
    ]
    sit_unattended()
    for path, form in acts:
        answer = browser.post(path, **form)
        assert answer.status_code == 403, path
        assert "/account/confirm" in answer.text
    assert "with a new link" in browser.client.get("/account/confirm").text  # has no password
    with session_scope() as session:
        accounts.set_password(session, session.scalars(select(User)).first(), PASSWORD)
    browser.sign_in(email="admin@localhost", password=PASSWORD)
    sit_unattended()
    assert browser.post("/account/keys", name="x", scope="read").status_code == 403
    assert browser.post("/account/confirm", password="a guess", next="/account").status_code == 403
    page = browser.client.get("/account/confirm?next=/account").text
    assert "Your password, once more" in page
    confirmed = browser.post("/account/confirm", password=PASSWORD, next="//evil.example")
    assert (confirmed.status_code, confirmed.location) == (303, "/batches")
    assert browser.post("/account/keys", name="x", scope="read").status_code == 200
    assert token


def test_guessing_from_elsewhere_shuts_nobody_out_of_their_own_place(
    app: Any, site_key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signing_in, "MAX_PER_PERSON", 2)
    monkeypatch.setattr(signing_in, "MAX_FROM_STRANGE_PLACES", 4)
    with session_scope() as session:
        accounts.set_password(session, session.scalars(select(User)).one(), PASSWORD)

    def sign_in(address: str, password: str) -> int:
        browser = Browser(app.test_client())
        browser.client.environ_base["REMOTE_ADDR"] = address
        return int(browser.sign_in(email="admin@localhost", password=password).status_code)

    assert sign_in("192.0.2.1", PASSWORD) == 303
    guesses = [sign_in(f"2001:db8:{n}::{k}", "guess") for n in range(3) for k in range(2)]
    assert guesses == [401] * 4 + [429] * 2  # three networks of an attacker
    assert sign_in("2001:db8:9::1", PASSWORD) == 429
    assert sign_in("192.0.2.1", PASSWORD) == 303
    assert [sign_in("192.0.2.1", "guess") for _ in range(3)] == [401] * 2 + [429]
    with session_scope() as session:
        lines = list(session.scalars(select(Audit).where(Audit.action.like("sign_in_%"))))
    assert sum(line.action == "sign_in_failed" for line in lines) == 6
    throttled = [line.address for line in lines if line.action == "sign_in_throttled"]
    assert sorted(set(throttled)) == sorted(throttled)
    assert "192.0.2.1" in throttled
    assert {line.user_id for line in lines} == {user_id("admin@localhost")}


def test_an_address_that_guesses_at_many_people_is_slowed_down_itself(
    app: Any, site_key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signing_in, "MAX_PER_ADDRESS", 3)
    with session_scope() as session:
        accounts.set_password(session, session.scalars(select(User)).one(), PASSWORD)

    def sign_in(address: str, email: str, password: str = "guess") -> int:
        browser = Browser(app.test_client())
        browser.client.environ_base["REMOTE_ADDR"] = address
        return int(browser.sign_in(email=email, password=password).status_code)

    people = [f"person{n}@hospital.example" for n in range(4)]
    assert [sign_in("203.0.113.5", email) for email in people] == [401, 401, 401, 429]
    assert sign_in("203.0.113.5", "admin@localhost", PASSWORD) == 429
    assert sign_in("203.0.113.77", "admin@localhost", PASSWORD) == 303  # each address by itself
    # of IPv6 it is the network: an attacker has all of it
    assert [sign_in(f"2001:db8::{n}", email) for n, email in enumerate(people)] == [401, 401, 401, 429]


def test_a_session_that_nobody_uses_ends_and_use_keeps_it(browser: Browser) -> None:
    def seen_ago(**ago: float) -> None:
        with session_scope() as session:
            session.execute(update(UserSession).values(last_seen_at=func.now() - timedelta(**ago)))

    seen_ago(minutes=119)
    assert browser.client.get("/batches").status_code == 200
    with session_scope() as session:
        recent = UserSession.last_seen_at > func.now() - timedelta(minutes=1)
        assert session.scalars(select(UserSession).where(recent)).one()  # the use was noted
    seen_ago(minutes=121)
    assert browser.client.get("/batches").status_code == 302


def test_a_person_sees_their_browsers_and_ends_one(
    browser: Browser, app: Any, link: Callable[[], str]
) -> None:
    other = Browser(app.test_client())
    other.client.environ_base["HTTP_USER_AGENT"] = "A phone"
    other.sign_in(token=link())
    page = browser.client.get("/account").text
    assert "A phone" in page
    ended = re.search(r"/account/sessions/([\w-]+)/end", page).group(1)
    assert browser.post(f"/account/sessions/{ended}/end").status_code == 303
    assert other.client.get("/batches").status_code == 302
    assert browser.client.get("/batches").status_code == 200
    assert browser.post(f"/account/sessions/{ended}/end").status_code == 404


def test_signing_in_again_ends_the_session_that_the_browser_had(
    browser: Browser, app: Any, link: Callable[[], str]
) -> None:
    before = browser.client.get_cookie("fractureai_session").value
    browser.sign_in(token=link())
    assert browser.client.get_cookie("fractureai_session").value != before
    thief = app.test_client()
    thief.set_cookie("fractureai_session", before)
    assert thief.get("/batches").status_code == 302


def test_all_processes_count_failed_sign_ins_together(app: Any, site_key: str) -> None:
    with session_scope() as session:
        accounts.set_password(session, session.scalars(select(User)).one(), PASSWORD)
    for process in [create_app(), create_app()] * 5:
        answer = Browser(process.test_client()).sign_in(email="admin@localhost", password="guess")
        assert answer.status_code == 401
    stopped = Browser(create_app().test_client()).sign_in(email="admin@localhost", password=PASSWORD)
    assert stopped.status_code == 429
    with session_scope() as session:
        assert "admin" not in str(session.execute(select(SignInAttempt.key_hash)).all())
        session.execute(update(SignInAttempt).values(at=func.now() - timedelta(minutes=16)))
    assert Browser(app.test_client()).sign_in(email="admin@localhost", password=PASSWORD).status_code == 303
    with session_scope() as session:
        throttle.delete_old(session)
        assert session.scalar(select(func.count()).select_from(SignInAttempt)) == 0  # right ones do not count

"""A forgotten password: a link by mail from a real mail server, and the same answer whoever asks."""

from __future__ import annotations

import re
import socket
import uuid
from collections.abc import Iterator
from datetime import timedelta
from email import message_from_bytes, policy
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from sqlalchemy import func, select, update

from settings import get_settings
from store.accounts import accounts
from store.accounts.accounts import Role
from store.base.session import session_scope
from store.base.tables import AccountMail, Audit, SignInToken, Site, User, Work, WorkKind
from tests.web.asking import Browser
from web.factory import create_app
from worker import flow
from worker.accounts import account_mails, passwords

OLD, NEW = "the old sentence", "a new sentence"
EMAIL = "bo@hospital.example"


class Inbox:
    """Keeps the mails that arrive; can be out of order."""

    def __init__(self) -> None:
        self.got: list[Any] = []
        self.answer = "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        if self.answer.startswith("250"):
            self.got.append(envelope)
        return self.answer


@pytest.fixture
def inbox(site_key: str, settings_env: pytest.MonkeyPatch) -> Iterator[Inbox]:
    """A mail server that the settings name, and a person with a password."""
    inbox = Inbox()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name, value in {"HOST": "127.0.0.1", "PORT": str(port), "SECURITY": "none"}.items():
        settings_env.setenv(f"FRACTUREAI_SMTP_{name}", value)
    settings_env.setenv("FRACTUREAI_PUBLIC_URL", "https://xray.hospital.example")
    get_settings.cache_clear()
    with session_scope() as session:
        site = session.scalars(select(Site.id)).one()
        accounts.create_user(session, site, EMAIL, role=Role.STAFF, password=OLD)
    controller = Controller(inbox, hostname="127.0.0.1", port=port)
    controller.start()
    yield inbox
    controller.stop()


def ask(email: str, host: str = "localhost") -> Any:
    """Ask for a link in a fresh browser; return the answer."""
    client, at = create_app().test_client(), f"http://{host}"
    client.get("/sign-in/forgotten", base_url=at)
    twin = client.get_cookie("fractureai_form", domain=host, path="/sign-in").value
    return client.post("/sign-in/forgotten", base_url=at, data={"csrf": twin, "email": email})


def text_of(mail: Any) -> str:
    """Return what a reader of the mail sees."""
    return str(message_from_bytes(mail.content, policy=policy.default).get_content())


def deliver() -> list[str]:
    """Do what is due, as a worker does; return the units' states."""
    with session_scope() as session:
        units = session.scalars(select(Work).where(Work.kind == WorkKind.PASSWORD, Work.state == "due")).all()
        session.execute(update(Work).values(due_at=func.now()))
    for unit in units:
        flow.run(unit.id, None, passwords.mail_link)
    with session_scope() as session:
        return [session.get_one(Work, unit.id).state for unit in units]


def test_a_link_comes_by_mail_and_works_once(inbox: Inbox) -> None:
    browser = Browser(create_app().test_client())
    assert "/sign-in/forgotten" in browser.client.get("/sign-in").text
    answer = ask(f" {EMAIL.upper()} ", host="evil.example")
    assert "a link is on its way" in answer.text
    assert ask(EMAIL).status_code == 200
    assert deliver() == ["done"]  # asked twice, one mail
    (mail,) = inbox.got
    assert mail.rcpt_tos == [EMAIL]
    text = text_of(mail)
    assert "evil.example" not in text
    token = re.search(r"https://xray\.hospital\.example/sign-in\?token=([\w-]+)", text).group(1)
    assert Browser(create_app().test_client()).sign_in(email=EMAIL, password=OLD).status_code == 303
    assert browser.sign_in(token=token, password=NEW, again=NEW).status_code == 303
    for fields in ({"token": token, "password": OLD, "again": OLD}, {"email": EMAIL, "password": OLD}):
        assert Browser(create_app().test_client()).sign_in(**fields).status_code == 401
    assert Browser(create_app().test_client()).sign_in(email=EMAIL, password=NEW).status_code == 303
    with session_scope() as session:
        assert "password_link_mailed" in session.scalars(select(Audit.action)).all()


def test_an_old_link_does_nothing(inbox: Inbox) -> None:
    ask(EMAIL)
    deliver()
    token = re.search(r"token=([\w-]+)", text_of(inbox.got[0])).group(1)
    with session_scope() as session:
        ends = session.scalars(select(SignInToken.expires_at - func.now())).one()
        assert timedelta(minutes=50) < ends <= timedelta(minutes=60)
        session.execute(update(SignInToken).values(expires_at=func.now()))
        assert session.scalars(select(SignInToken.token_hash)).one() == accounts.hash_token(token)
    browser = Browser(create_app().test_client())
    assert browser.sign_in(token=token, password=NEW, again=NEW).status_code == 401


def test_the_answer_is_the_same_whoever_asks(inbox: Inbox) -> None:
    with session_scope() as session:
        site = session.scalars(select(Site.id)).one()
        gone = accounts.create_user(session, site, "gone@hospital.example", role=Role.STAFF, password=OLD)
        gone.disabled_at = func.now()
        away = accounts.create_user(session, site, "away@hospital.example", role=Role.STAFF)
        away.provider_subject = f"provider {uuid.uuid4()}"
    known = ask(EMAIL)
    for email in ("nobody@hospital.example", "gone@hospital.example", "away@hospital.example", "", "x" * 999):
        answer = ask(email)
        assert answer.status_code == known.status_code == 200
        strip = re.compile(r'value="[^"]*"')
        assert strip.sub("", answer.text) == strip.sub("", known.text), email
    assert deliver() == ["done"]
    assert [mail.rcpt_tos for mail in inbox.got] == [[EMAIL]]


def test_nobody_is_flooded(inbox: Inbox) -> None:
    for email in (EMAIL, "nobody@hospital.example"):
        assert [ask(email).status_code for _ in range(4)] == [200, 200, 200, 429]
        deliver()
    assert len(inbox.got) == 1
    client = create_app().test_client()
    assert client.post("/sign-in/forgotten", data={"email": EMAIL}).status_code == 403  # no form of ours


def test_a_mail_server_that_is_out_of_order_is_tried_again(inbox: Inbox) -> None:
    inbox.answer = "451 not now"
    ask(EMAIL)
    assert deliver() == ["due"]
    inbox.answer = "250 OK"
    assert deliver() == ["done"]
    assert len(inbox.got) == 1


def test_who_was_shut_out_meanwhile_gets_none(inbox: Inbox) -> None:
    ask(EMAIL)
    with session_scope() as session:
        session.execute(update(User).where(User.email == EMAIL).values(disabled_at=func.now()))
    assert deliver() == ["done"]
    assert inbox.got == []


@pytest.mark.parametrize("missing", ["FRACTUREAI_SMTP_HOST", "FRACTUREAI_PUBLIC_URL"])
def test_without_mail_or_an_address_of_its_own_nothing_is_offered(
    inbox: Inbox, settings_env: pytest.MonkeyPatch, missing: str
) -> None:
    settings_env.setenv(missing, "")
    get_settings.cache_clear()
    client = create_app().test_client()
    assert "/sign-in/forgotten" not in client.get("/sign-in").text
    assert client.get("/sign-in/forgotten").status_code == 404
    assert client.post("/sign-in/forgotten").status_code == 404


def test_people_are_told_what_happens_to_their_accounts(inbox: Inbox) -> None:
    app = create_app()
    for address in ("192.0.2.1", "192.0.2.1", "198.51.100.7"):  # the first place is no news
        browser = Browser(app.test_client())
        browser.client.environ_base["REMOTE_ADDR"] = address
        assert browser.sign_in(email=EMAIL, password=OLD).status_code == 303
    assert browser.post("/account/keys", name="PACS", scope="read").status_code == 200
    changed = {"old": OLD, "password": NEW, "again": NEW}
    assert browser.post("/account/password", **changed).status_code == 200
    with session_scope() as session:
        units = session.scalars(select(Work).where(Work.kind == WorkKind.ACCOUNT_MAIL)).all()
    for unit in units:
        flow.run(unit.id, None, account_mails.send)
    said = "\n".join(text_of(mail) for mail in inbox.got)
    assert "198.51.100.7" in said
    assert "192.0.2.1" not in said
    assert "API key was made for your account: PACS" in said
    assert "password of your account was changed" in said
    assert NEW not in said
    with session_scope() as session:
        assert session.scalars(select(AccountMail)).all() == []
        assert {session.get_one(Work, unit.id).state for unit in units} == {"done"}

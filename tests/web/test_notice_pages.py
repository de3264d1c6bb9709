"""The page of notices: adding a target, its secret shown once, the test button, the log."""

from __future__ import annotations

import re

import pytest
from sqlalchemy import select

from settings import get_settings
from store.base.session import session_scope
from store.base.tables import Audit, Notice, NoticeTarget, Work, WorkKind
from tests.web.asking import Browser
from web.factory import create_app

HOOK = "https://ris.hospital.example/hooks?key=1"
EVENTS = ["study.positive", "batch.finished"]


def test_a_target_is_added_tried_and_removed(browser: Browser) -> None:
    page = browser.post("/admin/notices", channel="webhook", address=HOOK, event=EVENTS)
    assert page.status_code == 200, page.text
    secret = re.search(r"whsec_[\w+/=]+", page.text).group()
    shown = browser.client.get("/admin/notices").text
    assert "ris.hospital.example" in shown
    assert secret not in shown
    with session_scope() as session:
        target = session.scalars(select(NoticeTarget)).one()
        assert target.events == sorted(EVENTS)
    assert browser.post(f"/admin/notices/{target.id}/test").status_code == 303
    with session_scope() as session:
        notice = session.scalars(select(Notice)).one()
        unit = session.scalars(select(Work).where(Work.kind == WorkKind.NOTICE)).one()
        assert unit.subject_id == notice.id
        notice.attempts, notice.error = 1, "the receiver answered 500"
    shown = browser.client.get("/admin/notices").text
    assert "the receiver answered 500" in shown
    assert "again at" in shown
    assert browser.post(f"/admin/notices/{target.id}/remove").status_code == 303
    assert browser.post(f"/admin/notices/{target.id}/test").status_code == 404
    assert "the target was removed" in browser.client.get("/admin/notices").text
    with session_scope() as session:
        said = session.scalars(select(Audit).where(Audit.action.like("notice_target_%")).order_by(Audit.id))
        lines = [(line.action, line.detail) for line in said]
        assert [action for action, _ in lines] == [
            "notice_target_added", "notice_target_test", "notice_target_remove",
        ]  # fmt: skip
        assert "key=1" not in str(lines)  # an address may hold a secret of the receiver's


@pytest.mark.parametrize(
    "wrong",
    [
        {"address": "http://ris.hospital.example/"},
        {"address": "https://user:word@ris.hospital.example/"},
        {"address": "javascript:alert(1)"},
        {"address": "https://["},
        {"address": "https://x:99999/"},
        {"event": []},
        {"event": ["test"]},
        {"channel": "pigeon"},
        {"channel": "email", "address": "reader@hospital.example"},  # no mail server is set
    ],
)
def test_what_is_not_a_target_is_told(browser: Browser, wrong: dict[str, object]) -> None:
    fields = {"channel": "webhook", "address": HOOK, "event": EVENTS, **wrong}
    assert browser.post("/admin/notices", **fields).status_code == 422
    with session_scope() as session:
        assert session.scalars(select(NoticeTarget)).all() == []


def test_mail_is_offered_where_there_is_a_server(
    site_key: str, link: object, settings_env: pytest.MonkeyPatch
) -> None:
    settings_env.setenv("FRACTUREAI_SMTP_HOST", "mail.hospital.example")
    get_settings.cache_clear()
    browser = Browser(create_app().test_client())
    browser.sign_in(token=link())  # type: ignore[operator]
    fields = {"channel": "email", "address": "reader@hospital.example", "event": EVENTS}
    assert browser.post("/admin/notices", **fields).status_code == 200
    assert browser.post("/admin/notices", **{**fields, "address": "a@b, c@d"}).status_code == 422

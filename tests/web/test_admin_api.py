"""What administrators do on pages, done by a program: people, keys, notices, retention, erasure, quota."""

from __future__ import annotations

import re
import uuid
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from sqlalchemy import select

from settings import get_settings
from store.accounts import accounts
from store.accounts.accounts import Permission
from store.base.session import session_scope
from store.base.tables import Audit, Notice, Study, User
from tests.reading import read_batch
from tests.web.asking import Asker, Browser, png
from web.openapi import document

WORD = "a sentence is easy"
HOOK = {"channel": "webhook", "address": "https://ris.hospital.example/hook", "events": ["study.positive"]}


def fits(name: str, answer: Any, status: int = 200) -> Any:
    """Check an answer against the API's description; return its document."""
    assert answer.status_code == status, answer.text
    schema = {"$ref": f"#/components/schemas/{name}", "components": document()["components"]}
    assert [error.message for error in Draft202012Validator(schema).iter_errors(answer.json)] == []
    return answer.json


def code(answer: Any) -> str:
    assert answer.json["advice"]
    return str(answer.json["code"])


def test_a_person_is_invited_changed_and_shut_out(browser: Browser, app: Any) -> None:
    ask = browser.asker()
    wish = {"email": "bo@hospital.example", "role": "staff", "name": "Bo"}
    bo = fits("PersonWithLink", ask.post("/people", json=wish), 201)
    assert (bo["role"], bo["name"], bo["seen_at"]) == ("staff", "Bo", None)
    bos = Browser(app.test_client())
    token = re.search(r"token=([\w-]+)", bo["link"]).group(1)
    password = "a sentence is easy"
    assert bos.sign_in(token=token, password=password, again=password).status_code == 303
    listed = fits("People", ask.get("/people"))["items"]
    assert [person["email"] for person in listed] == ["admin@localhost", "bo@hospital.example"]
    assert "link" not in listed[1]
    assert listed[1]["sessions"] == 1
    links = bo["links"]
    assert fits("Person", ask.post(links["role"], json={"role": "clinician"}))["role"] == "clinician"
    assert fits("Person", ask.get(links["self"]))["role"] == "clinician"
    assert fits("PersonWithLink", ask.post(links["link"]))["link"] != bo["link"]
    assert fits("Person", ask.post(links["sign-out"]))["sessions"] == 0
    assert bos.client.get("/batches").status_code == 302
    assert fits("Person", ask.post(links["disable"]))["disabled_at"]
    assert bos.sign_in(email=wish["email"], password=password).status_code == 401
    assert fits("Person", ask.post(links["enable"]))["disabled_at"] is None
    assert bos.sign_in(email=wish["email"], password=password).status_code == 303
    assert code(ask.post("/people", json=wish)) == "email_taken"
    assert code(ask.post("/people", json={**wish, "email": "nobody"})) == "email_invalid"
    for wrong in ({**wish, "role": "king"}, {**wish, "name": 1}, {**wish, "site": "other"}, {}):
        assert code(ask.post("/people", json=wrong)) in {"invalid_request", "email_invalid"}
    me = listed[0]["links"]
    assert code(ask.post(me["role"], json={"role": "staff"})) == "last_administrator"
    assert code(ask.post(me["disable"])) == "last_administrator"
    assert code(ask.post(me["disable"], json={"role": "staff"})) == "invalid_request"


def test_a_key_that_administers_makes_nobody_more(ask: Asker, browser: Browser) -> None:
    """A key whose scope is `administer` alone does not become a person, nor gets more than its scope."""
    with session_scope() as session:
        admin = session.scalars(select(User)).one()
        scope = [Permission.ADMINISTER]
        other = accounts.create_api_key(session, admin, "other", scope=scope)[0].id
        ask.headers = Asker(ask.client, accounts.create_api_key(session, admin, "it", scope=scope)[1]).headers
    wish = {"email": "mallory@hospital.example", "role": "admin", "name": ""}
    assert code(ask.post("/people", json=wish)) == "needs_person"
    assert code(ask.post("/people", json={**wish, "role": "clinician"})) == "needs_person"
    bo = browser.asker().post("/people", json={**wish, "email": "bo@hospital.example", "role": "staff"}).json
    for action in ("role", "name", "link", "enable"):
        body = {"role": {"role": "clinician"}, "name": {"name": "Prof. Chief"}}.get(action)
        assert code(ask.post(bo["links"][action], json=body)) == "needs_person", action
    me = ask.get("/people").json["items"][0]["links"]
    for action in ("disable", "sign-out", "link"):
        assert code(ask.post(me[action])) == "needs_person", action
    assert code(ask.post(f"/keys/{other}/revoke")) == "needs_person"
    assert fits("Person", ask.post(bo["links"]["disable"]))["disabled_at"]  # who leaves may be shut out
    form = {"email": "mallory@hospital.example", "role": "admin"}
    assert ask.client.post("/admin/people", data=form, headers=ask.headers).status_code == 403
    with session_scope() as session:
        assert {user.email for user in session.scalars(select(User))} == {"admin@localhost", bo["email"]}
        line = session.scalars(select(Audit).where(Audit.action == "person_disabled")).one()
        assert (line.key_id is not None, line.address) == (True, "127.0.0.1")


def test_keys_are_listed_and_revoked(ask: Asker) -> None:
    listed = fits("Keys", ask.get("/keys"))["items"]
    assert [key["name"] for key in listed] == ["tests"]
    assert "fai_" not in str(listed)
    assert ask.post(listed[0]["links"]["revoke"]).status_code == 204
    assert ask.get("/keys").status_code == 401


def test_notices_go_to_a_target_and_are_logged(ask: Asker) -> None:
    made = fits("NewNoticeTarget", ask.post("/notice-targets", json=HOOK), 201)
    assert made["secret"].startswith("whsec_")
    listed = fits("NoticeTargets", ask.get("/notice-targets"))["items"]
    assert [target["address"] for target in listed] == [HOOK["address"]]
    assert ask.post(made["links"]["test"]).status_code == 204
    assert ask.post(made["links"]["test"]).status_code == 204
    first = fits("Notices", ask.get("/notices?limit=1"))
    assert [(line["event"], line["state"]) for line in first["items"]] == [("test", "waiting")]
    last = fits("Notices", ask.get(first["next"]))
    assert (len(last["items"]), last["next"]) == (1, None)
    assert ask.post(made["links"]["remove"]).status_code == 204
    assert ask.post(made["links"]["test"]).status_code == 404
    with session_scope() as session:
        assert {notice.state for notice in session.scalars(select(Notice))} == {"failed"}
    for wrong in ({**HOOK, "events": []}, {**HOOK, "events": "study.positive"}, {**HOOK, "address": "http://x"},
                  {**HOOK, "channel": "pigeon"}, {**HOOK, "events": ["test"]}, {**HOOK, "events": [{}]},
                  {**HOOK, "address": 1}):  # fmt: skip
        assert code(ask.post("/notice-targets", json=wrong)) == "invalid_request", wrong


def test_times_and_the_quota_are_set(ask: Asker, settings_env: pytest.MonkeyPatch) -> None:
    forever = {"keep_originals_days": None, "keep_results_days": None}
    assert fits("Retention", ask.get("/retention")) == forever
    times = {"keep_originals_days": 30, "keep_results_days": None}
    assert fits("Retention", ask("PUT", "/retention", json=times)) == times
    assert ask.get("/retention").json == times
    for wrong in ({}, {"keep_originals_days": 30}, {**times, "keep_results_days": 0},
                  {**times, "keep_results_days": "30"}, {**times, "keep_results_days": True}):  # fmt: skip
        assert code(ask("PUT", "/retention", json=wrong)) == "invalid_request", wrong
    settings_env.setenv("FRACTUREAI_SITE_QUOTA_BYTES", "5000")
    get_settings.cache_clear()
    assert fits("Quota", ask.get("/quota")) == {"own_bytes": None, "limit_bytes": 5000, "used_bytes": 0}
    ask.send(ask.draft(), ("a.png", png("a")))
    said = fits("Quota", ask("PUT", "/quota", json={"own_bytes": 10**12}))
    assert said == {"own_bytes": 10**12, "limit_bytes": 10**12, "used_bytes": len(png("a"))}
    for wrong in ({}, {"own_bytes": 0}, {"own_bytes": "1"}, {"own_bytes": 1.5}, {"own_bytes": True}):
        assert code(ask("PUT", "/quota", json=wrong)) == "invalid_request", wrong
    assert ask("PUT", "/quota", json={"own_bytes": None}).json["limit_bytes"] == 5000
    with session_scope() as session:
        said = list(session.scalars(select(Audit.action).order_by(Audit.id)))
    assert said.count("retention_changed") == 1
    assert said.count("quota_changed") == 2


def test_a_study_is_found_and_erased(ask: Asker, stranger: Asker) -> None:
    batch = ask.draft()
    ask.send(batch, ("a.png", png("a")), ("b.png", png("b")))
    ask.post(f"/batches/{batch}/submit")
    read_batch(batch, facts=lambda path: {"accession": f"ACC-{path[0]}"})
    found = fits("ErasableStudies", ask.get("/erasures/studies?find=ACC-a"))["items"]
    assert [(study["accession"], study["images"], study["in_use"]) for study in found] == [
        ("ACC-a", 1, False)
    ]
    assert ask.get("/erasures/studies").json["items"] == []
    assert stranger.get("/erasures/studies?find=ACC-a").json["items"] == []
    wish = {"studies": [found[0]["id"]]}
    assert code(ask.post("/erasures", json=wish)) == "confirmation_needed"  # not by a key alone
    with session_scope() as session:
        accounts.set_password(session, session.scalars(select(User).order_by(User.created_at)).first(), WORD)
    assert code(ask.post("/erasures", json={**wish, "password": "a guess"})) == "confirmation_failed"
    sure = {**wish, "password": WORD}
    with session_scope() as session:
        other = session.scalars(select(User).where(User.email == "stranger@localhost")).one()
        accounts.set_password(session, other, WORD)
    assert stranger.post("/erasures", json=sure).status_code == 404
    for wrong in ({}, {"studies": []}, {"studies": ["x"]}, {"studies": "all"}, {"studies": [None]}):
        assert code(ask.post("/erasures", json=wrong)) == "invalid_request", wrong
    assert fits("Erased", ask.post("/erasures", json=sure)) == {"studies": 1, "images": 1}
    assert ask.post("/erasures", json=sure).status_code == 404
    assert ask.post("/erasures", json={**sure, "studies": [str(uuid.uuid4())]}).status_code == 404
    with session_scope() as session:
        assert list(session.scalars(select(Study.accession))) == ["ACC-b"]

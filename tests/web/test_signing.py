"""Signing a report: who confirms that it is them, whose name it carries, and what becomes of it later."""

from __future__ import annotations

import uuid
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect
from sqlalchemy import func, select

from store.accounts import accounts
from store.accounts.accounts import Role
from store.base.blobs import BlobStore, get_blobs
from store.base.session import session_scope
from store.base.tables import Audit, Site, User, Work
from store.reading import reviews, studies, study_view
from tests.web.asking import Asker, Browser
from tests.web.browsing import chromium, page, sign_in
from tests.web.test_studies import batch, fits, read, study
from vocabulary.states import Triage

__all__ = ["batch", "chromium", "page", "study"]

PASSWORD = "a password of ten"


@pytest.fixture
def password(site_key: str) -> str:
    with session_scope() as session:
        accounts.set_password(session, session.scalars(select(User)).one(), PASSWORD)
    return PASSWORD


def waiting() -> int:
    with session_scope() as session:
        return int(session.scalar(select(func.count()).select_from(Work).where(Work.kind == "sign")) or 0)


def sign(study_id: str) -> None:
    """Make the signed version that waits, as a worker would."""
    with session_scope() as session:
        found = study_view.get_study(
            session, session.scalars(select(Site.id)).one(), uuid.UUID(study_id), trials=True
        )
        review = reviews.history(session, found.study.id, found.bundle.name)[0].review
        assert found.finding is not None
        key = f"reports/{study_id}/signed.pdf"
        signed = studies.NewFinding(
            study_id=found.study.id,
            basis=found.finding.basis,
            triage=Triage(found.finding.triage),
            reasons=(),
            n_images=found.finding.n_images,
            version=found.finding.version + 1,
            report=studies.Report(key, *get_blobs().put(key, b"%PDF-1.7 signed")),
            signature=studies.Signature(review.id, review.reader, review.created_at),
        )
        assert studies.save_findings(session, found.batch, [signed])


def test_a_program_signs_with_its_owners_password_alone(ask: Asker, study: str, password: str) -> None:
    here = f"/studies/{study}/reviews"
    for more, code in (({}, "confirmation_needed"), ({"password": "not this one"}, "confirmation_failed")):
        refused = ask.post(here, json={"answer": "present", "sign": True, **more})
        assert (refused.status_code, refused.json["code"]) == (403, code)
        assert refused.json["advice"]
    assert ask.get(here).json["items"] == []  # nothing was recorded
    assert ask.post(here, json={"answer": "present"}).status_code == 201  # a signature alone needs it
    signed = ask.post(here, json={"answer": "present", "sign": True, "password": password})
    assert (signed.status_code, signed.json["signing"], waiting()) == (201, "waits", 1)
    assert signed.json["account"] == "admin@localhost"
    fits("Review", signed.json)
    with session_scope() as session:
        assert "confirmation_failed" in session.scalars(select(Audit.action)).all()


def test_guessing_is_slowed_down(ask: Asker, study: str, password: str) -> None:
    guesses = [
        ask.post(
            f"/studies/{study}/reviews", json={"answer": "absent", "sign": True, "password": f"guess {n}"}
        )
        for n in range(11)
    ]
    assert [g.json["code"] for g in guesses] == ["confirmation_failed"] * 10 + ["too_many_attempts"]
    right = {"answer": "absent", "sign": True, "password": password}
    assert ask.post(f"/studies/{study}/reviews", json=right).status_code == 429


def test_who_has_no_password_is_told_to_set_one(browser: Browser, study: str) -> None:
    shown = browser.client.get(f"/studies/{study}").text
    assert "set a password on your account page" in shown
    assert 'name="sign"' not in shown
    refused = browser.post(
        f"/studies/{study}/reviews", answer="present", sign="1", password="anything at all"
    )
    assert refused.status_code == 403
    assert waiting() == 0


def test_a_wrong_password_loses_nothing_that_was_typed(password: str, browser: Browser, study: str) -> None:
    said = {"answer": "uncertain", "comment": "Old <line>?", "sign": "1"}
    again = browser.post(f"/studies/{study}/reviews", **said, password="wrong password")
    assert again.status_code == 403
    assert "The password is wrong" in again.text
    assert "Old &lt;line&gt;?" in again.text
    assert 'value="uncertain" required data-answer checked' in again.text
    assert "wrong password" not in again.text
    assert browser.post(f"/studies/{study}/reviews", **said, password=password).status_code == 303
    assert waiting() == 1


def test_nobody_names_themselves(browser: Browser, site_key: str) -> None:
    ask = browser.asker()
    assert browser.post("/account/name", name="Prof. Chief").status_code == 404
    with session_scope() as session:
        admin = session.scalars(select(User)).one()
        bo = accounts.create_user(session, admin.site_id, "bo@localhost", role=Role.CLINICIAN)
        joined = accounts.create_user(
            session, admin.site_id, "ada@localhost", role=Role.CLINICIAN, name="Ada"
        )
        joined.provider_subject = "issuer 7"
    mine = ask.post(f"/people/{admin.id}/name", json={"name": "Prof. Chief"})
    assert (mine.status_code, mine.json["code"]) == (409, "own_name")
    assert ask.post(f"/people/{joined.id}/name", json={"name": "Eve"}).json["code"] == "name_from_provider"
    assert ask.post(f"/people/{bo.id}/name", json={"name": "x" * 101}).status_code == 422
    assert ask.post(f"/people/{bo.id}/name", json={"name": " Dr  Bo "}).json["name"] == "Dr Bo"
    assert browser.post(f"/admin/people/{bo.id}/name", name="Dr Bo Reader").status_code == 303
    with session_scope() as session:
        assert session.get_one(User, bo.id).name == "Dr Bo Reader"
        assert session.get_one(User, admin.id).name == ""
        changed = session.scalars(select(Audit.detail).where(Audit.action == "name_changed")).all()
    assert [line["after"] for line in changed] == ["Dr Bo", "Dr Bo Reader"]


def test_a_signed_study_that_changes_is_shown_as_amended(
    password: str, ask: Asker, browser: Browser, batch: str, study: str
) -> None:
    answer = {"answer": "absent", "sign": True, "password": password}
    assert ask.post(f"/studies/{study}/reviews", json=answer).status_code == 201
    sign(study)
    signed = ask.get(f"/studies/{study}").json
    assert (signed["version"], signed["amended"]) == (2, None)
    assert signed["read_at"] < signed["created_at"]
    assert (
        f'Read by <a href="/bundles/b1">b1</a>, <time datetime="{signed["read_at"]}"'
        in browser.client.get(f"/studies/{study}").text
    )
    read(ask, "0-first-by-name.png", label="Later")
    now = ask.get(f"/studies/{study}").json
    fits("Study", now)
    assert (now["version"], now["amended"]["version"]) == (3, 2)
    assert [(v["version"], bool(v["signed_at"])) for v in now["versions"]] == [
        (3, False),
        (2, True),
        (1, False),
    ]
    assert [(i["number"], i["filename"]) for i in now["images"]] == [
        (1, "a.png"), (2, "b.png"), (3, "0-first-by-name.png"),
    ]  # fmt: skip
    assert ask.get(now["amended"]["links"]["report"]).data == b"%PDF-1.7 signed"
    assert ask.get(now["links"]["report"]).data != b"%PDF-1.7 signed"
    row = ask.get("/worklist").json["items"][0]
    fits("WorklistRow", row)
    assert (row["study_id"], row["read_again"], row["signed_at"]) == (study, True, None)
    assert row["class"] == "amended"
    assert [row["study_id"] for row in ask.get("/worklist?class=amended").json["items"]] == [study]
    assert "to be read again" in browser.client.get("/worklist").text
    shown = browser.client.get(f"/studies/{study}").text
    assert "Amended: to be read again." in shown
    assert "Image 3" in shown


def test_a_child_and_a_shared_identifier_are_flagged_wherever_the_image_is(
    ask: Asker, browser: Browser, blobs: BlobStore
) -> None:
    batch = read(ask, "kid.png", facts={"study_uid": "1.2.3", "patient_hash": "aa", "age_years": 9})
    read(ask, "other.png", facts={"study_uid": "1.2.3", "patient_hash": "bb", "age_years": 40})
    image = ask.get(f"/batches/{batch}/images").json["items"][0]
    codes = [flag["code"] for flag in image["flags"]]
    assert codes == ["not_validated_in_children", "study_identity_conflict"]
    assert (
        "not_validated_in_children study_identity_conflict" in ask.get(f"/batches/{batch}/results.csv").text
    )
    rows = {
        row["filename"]: {flag["code"] for flag in row["flags"]} for row in ask.get("/worklist").json["items"]
    }
    assert rows == {"kid.png": set(codes), "other.png": {"study_identity_conflict"}}
    for path in (f"/batches/{batch}", "/worklist"):
        text = browser.client.get(path).text
        assert "child: not validated" in text
        assert "whose images?" in text
    for path in (image["links"]["page"], f"/studies/{image['study_id']}"):
        text = browser.client.get(path).text
        assert "not validated in children" in text
        assert "carry the same study identifier" in text


def test_signed_in_a_browser_from_the_keyboard(
    page: Page, link: Callable[[], str], ask: Asker, batch: str, study: str, password: str, blobs: BlobStore
) -> None:
    sign_in(page, link)
    page.goto(f"/studies/{study}")
    page.keyboard.press("2")
    expect(page.get_by_label("No fracture")).to_be_checked()
    page.get_by_label("Your password, once more").fill(password)
    page.keyboard.press("Enter")  # signs, and does not only record
    expect(page.get_by_role("region", name="Readers said")).to_contain_text("is being signed")
    assert waiting() == 1

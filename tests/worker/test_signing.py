"""A signed report: a new version with the reader's answer, the AI's finding as it was, on real servers."""

from __future__ import annotations

import uuid

from sqlalchemy import select

from store.accounts import accounts
from store.accounts.accounts import Role
from store.base.session import session_scope
from store.base.tables import Audit, StudyFinding, Work, WorkState
from store.reading import reviews, studies, study_view
from store.reading.worklist_tables import WorklistRow
from tests.worker.test_reading import by_path, dicom, pdf_text, png, read
from vocabulary.states import Answer
from worker import flow
from worker.reading import signing


def sign_due() -> None:
    """Run the unit that waits for signing."""
    with session_scope() as session:
        unit = session.scalars(select(Work).where(Work.kind == "sign", Work.state == WorkState.DUE)).one()
    flow.run(unit.id, None, signing.sign)
    with session_scope() as session:
        assert session.get_one(Work, unit.id).state == WorkState.DONE, session.get_one(Work, unit.id).error


def test_a_signed_report_stands_beside_the_ais(site_id: uuid.UUID) -> None:
    batch = read(site_id, {"a.png": png(1)})
    image = by_path(batch)["a.png"]
    assert image.study_id is not None
    with session_scope() as session:
        reader = accounts.create_user(session, site_id, "ana@localhost", role=Role.CLINICIAN)
        reader.name = "Dr Ana Reader"
        session.flush()
        found = study_view.get_study(session, site_id, image.study_id, trials=False)
        first = found.finding
        place = reviews.Place(image.id, 10, 20, 30, 40)
        reviews.record(
            session, found, reader.id, Answer.UNCERTAIN, comment="Old <line>?", place=place, sign=True
        )
    sign_due()
    with session_scope() as session:
        signed = studies.latest_finding(session, image.study_id, batch.bundle)
        versions = session.scalars(select(StudyFinding).order_by(StudyFinding.version)).all()
        row = session.get_one(WorklistRow, image.study_id)
        said = reviews.history(session, image.study_id, batch.bundle)
        actions = session.scalars(select(Audit.action)).all()
    assert first is not None
    assert signed is not None
    assert (signed.version, signed.signed_by, signed.legal_hold) == (2, "Dr Ana Reader", False)
    assert (signed.triage, signed.reasons, signed.basis) == (first.triage, first.reasons, first.basis)
    kept = versions[0]
    assert (kept.version, kept.report_key, kept.signed_at) == (1, first.report_key, None)
    assert (row.signed_at, row.answer) == (signed.signed_at, "uncertain")
    assert [line.signing for line in said] == ["signed"]
    assert "report_signed" in actions
    text, before = pdf_text(signed), pdf_text(first)
    for words in (
        "Uncertain whether a fracture is present",
        "Old <line>?",
        "Signed by Dr Ana Reader, account ana@localhost",
        "Marked on image 1 at left 10, top 20, 30 × 40",
        "Version 2",
    ):
        assert words in text
    assert "Signed by" not in before


def test_a_study_that_changed_meanwhile_is_not_signed(site_id: uuid.UUID) -> None:
    batch = read(site_id, {"a.png": png(1)})
    study_id = by_path(batch)["a.png"].study_id
    assert study_id is not None
    with session_scope() as session:
        reader = accounts.create_user(session, site_id, "ana@localhost", role=Role.CLINICIAN)
        found = study_view.get_study(session, site_id, study_id, trials=False)
        reviews.record(session, found, reader.id, Answer.ABSENT, sign=True)
        image = by_path(batch)["a.png"]
        session.merge(image).flags = ["burned_in_flag"]  # the finding stands on something else now
    sign_due()
    with session_scope() as session:
        latest = studies.latest_finding(session, study_id, batch.bundle)
        assert latest is not None
        assert (latest.version, latest.signed_at) == (1, None)
        assert [line.signing for line in reviews.history(session, study_id, batch.bundle)] == ["failed"]


def test_a_signed_version_is_amended_and_never_replaced_in_silence(site_id: uuid.UUID) -> None:
    uid = "1.2.826.0.1.3680043.8.498.6"
    first = read(site_id, {"b.dcm": dicom(1, "leg", uid, 1)})
    study_id = by_path(first)["b.dcm"].study_id
    assert study_id is not None
    with session_scope() as session:
        reader = accounts.create_user(session, site_id, "ana@localhost", role=Role.CLINICIAN, name="Ana")
        found = study_view.get_study(session, site_id, study_id, trials=False)
        mark = reviews.Place(by_path(first)["b.dcm"].id, 1, 2)
        reviews.record(session, found, reader.id, Answer.ABSENT, place=mark, sign=True)
    sign_due()
    with session_scope() as session:
        signed = study_view.get_study(session, site_id, study_id, trials=False)
    assert signed.amended is None
    assert signed.read_at is not None
    assert signed.finding is not None
    assert signed.read_at == found.finding.created_at < signed.finding.created_at  # type: ignore[union-attr]

    second = read(site_id, {"a.dcm": dicom(2, "leg", uid, 2)})  # its path comes before the first one's
    with session_scope() as session:
        now = study_view.get_study(session, site_id, study_id, trials=False)
        row = session.get_one(WorklistRow, study_id)
    assert (row.reread, row.reviewed_at, row.batch_id) == (True, None, second.id)
    assert now.amended is not None
    assert (now.amended.version, now.amended.signed_by) == (2, "Ana")
    assert [version.version for version in now.reports] == [3, 2, 1]
    assert [(line.image.path, line.image.number) for line in now.images] == [("b.dcm", 1), ("a.dcm", 2)]
    text = " ".join(pdf_text(now.reports[0]).split())
    assert "Version 3, not signed. Ana signed version 2" in text
    assert "read again" in text
    assert "on image 1 at left 1" in " ".join(pdf_text(now.reports[1]).split())  # as it was signed

    with session_scope() as session:
        now = study_view.get_study(session, site_id, study_id, trials=False)
        reviews.record(session, now, reader.id, Answer.PRESENT, sign=True)
    sign_due()
    with session_scope() as session:
        again = study_view.get_study(session, site_id, study_id, trials=False)
        row = session.get_one(WorklistRow, study_id)
    assert (again.amended, row.reread) == (None, False)
    assert "This version amends it" in " ".join(pdf_text(again.reports[0]).split())

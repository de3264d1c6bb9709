"""What readers say is kept, never changed, and compared only where both sides are clear."""

from __future__ import annotations

import csv
import io
import uuid

import pytest
from sqlalchemy import select, text, update
from sqlalchemy.exc import DBAPIError

from store.accounts import accounts
from store.accounts.accounts import Role
from store.base.errors import NotFound
from store.base.session import session_scope
from store.base.tables import Bundle, Image, Work
from store.reading import reviews, study_view, worklist
from store.reading.reviews import Agreement, NothingToSign, Place, PlaceOutside, StudyChanged, agreement
from store.reading.worklist import Filters, Rank
from tests.db.test_worklist import DOUBT, NEGATIVE, POSITIVE, read
from vocabulary.states import Answer


@pytest.fixture
def reader(site: uuid.UUID) -> uuid.UUID:
    with session_scope() as session:
        return accounts.create_user(session, site, "ana@localhost", role=Role.CLINICIAN).id


def study_of(path: str) -> uuid.UUID:
    with session_scope() as session:
        return session.scalars(select(Image.study_id).where(Image.path == path)).one()


def answer(site: uuid.UUID, reader: uuid.UUID, path: str, said: Answer, **more: object) -> uuid.UUID:
    with session_scope() as session:
        found = study_view.get_study(session, site, study_of(path), trials=False)
        return reviews.record(session, found, reader, said, **more).id


@pytest.mark.parametrize(
    ("said", "triage", "expected"),
    [
        ("present", "positive", Agreement.AGREE),
        ("present", "negative", Agreement.DISAGREE),
        ("absent", "negative", Agreement.AGREE),
        ("absent", "positive", Agreement.DISAGREE),
        ("present", "doubt", Agreement.OPEN),
        ("absent", "not_assessable", Agreement.OPEN),
        ("absent", None, Agreement.OPEN),
        ("uncertain", "positive", Agreement.OPEN),
        ("unreadable", "negative", Agreement.OPEN),
    ],
)
def test_only_clear_answers_agree_or_disagree(said: str, triage: str | None, expected: Agreement) -> None:
    assert agreement(said, triage) is expected


def test_answers_are_counted_listed_and_leave_the_list(
    site: uuid.UUID, reader: uuid.UUID, blobs: object
) -> None:
    read(site, {"p.png": POSITIVE, "q.png": POSITIVE, "n.png": NEGATIVE, "d.png": DOUBT, "x.png": DOUBT})
    answer(site, reader, "p.png", Answer.ABSENT)
    answer(site, reader, "p.png", Answer.PRESENT, comment="seen again")  # the last one counts
    answer(site, reader, "q.png", Answer.ABSENT)
    answer(site, reader, "n.png", Answer.PRESENT)
    answer(site, reader, "d.png", Answer.PRESENT)
    with session_scope() as session:
        left = worklist.list_studies(session, site, Filters()).items
        assert [item.row.path for item in left] == ["x.png"]
        done = worklist.list_studies(session, site, Filters(reviewed=True)).items
        assert [item.row.path for item in done] == ["d.png", "n.png", "q.png", "p.png"]  # newest first
        assert worklist.counts(session, site)[Rank.REVIEWED] == 4
        counted = reviews.tally(session, site, "b1")
        said = reviews.history(session, study_of("p.png"), "b1")
        listed = b"".join(reviews.disagreements(site, session.get_one(Bundle, "b1"))).decode()
        assert reviews.tally(session, uuid.uuid4(), "b1").n == 0
    lines = list(csv.DictReader(io.StringIO(listed)))
    assert (counted.n, counted.compared, counted.agree, counted.disagree) == (4, 3, 1, 2)
    assert counted.table[("present", "doubt")] == 1
    assert [(line.review.answer, line.agreement, line.review.comment) for line in said] == [
        ("present", Agreement.AGREE, "seen again"), ("absent", Agreement.DISAGREE, ""),
    ]  # fmt: skip
    assert [(line["label"], line["labelled"], line["ai_triage"]) for line in lines] in (
        [("normal", "image", "positive"), ("fractured", "study", "negative")],
        [("fractured", "study", "negative"), ("normal", "image", "positive")],
    )
    assert "png" not in lines[0]["study"] + lines[0]["path"].split(".")[0]


def test_nobody_changes_what_was_said(site: uuid.UUID, reader: uuid.UUID, blobs: object) -> None:
    read(site, {"p.png": POSITIVE})
    answer(site, reader, "p.png", Answer.PRESENT)
    for statement in ("UPDATE reviews SET answer = 'absent'", "DELETE FROM reviews", "TRUNCATE reviews"):
        with pytest.raises(DBAPIError, match=r"append-only|permission denied"), session_scope() as session:
            session.execute(text(statement))
    with session_scope() as session:  # erased on request, and only so
        session.execute(text("SET LOCAL fractureai.erasing = 'on'"))
        session.execute(text("DELETE FROM reviews"))


def test_a_place_lies_on_an_image_of_the_study(site: uuid.UUID, reader: uuid.UUID, blobs: object) -> None:
    read(site, {"p.png": POSITIVE, "q.png": POSITIVE})
    with session_scope() as session:
        session.execute(update(Image).values(width=100, height=80))
        ids = dict(session.execute(select(Image.path, Image.id)).all())
    for place in (
        Place(ids["q.png"], 1, 1),
        Place(ids["p.png"], 90, 70, 20, 5),
        Place(ids["p.png"], -1, 0),
        Place(uuid.uuid4(), 0, 0),
    ):
        with pytest.raises(PlaceOutside):
            answer(site, reader, "p.png", Answer.PRESENT, place=place)
    answer(site, reader, "p.png", Answer.PRESENT, place=Place(ids["p.png"], 90, 70, 10, 10))


def test_a_study_that_changed_is_asked_again(site: uuid.UUID, reader: uuid.UUID, blobs: object) -> None:
    facts = {"study_uid": "1.2.3"}
    read(site, {"a.dcm": NEGATIVE}, facts={"a.dcm": facts})
    answer(site, reader, "a.dcm", Answer.ABSENT, seen_version=1)
    read(site, {"b.dcm": POSITIVE}, facts={"b.dcm": facts})  # more of the study arrives
    with session_scope() as session:
        assert [i.row.path for i in worklist.list_studies(session, site, Filters()).items] == ["b.dcm"]
    with pytest.raises(StudyChanged):
        answer(site, reader, "b.dcm", Answer.ABSENT, seen_version=1)
    answer(site, reader, "b.dcm", Answer.PRESENT, seen_version=2, sign=True)
    with session_scope() as session:
        assert session.scalars(select(Work.kind).where(Work.subject_id.is_not(None))).all() == ["sign"]
        assert [line.signing for line in reviews.history(session, study_of("b.dcm"), "b1")] == ["waits", None]


def test_what_was_not_read_is_answered_and_not_signed(
    site: uuid.UUID, reader: uuid.UUID, blobs: object
) -> None:
    read(site, {"lost.png": POSITIVE}, fail=frozenset({"lost.png"}))
    with pytest.raises(NothingToSign):
        answer(site, reader, "lost.png", Answer.UNREADABLE, sign=True)
    answer(site, reader, "lost.png", Answer.UNREADABLE)
    with session_scope() as session:
        assert worklist.list_studies(session, site, Filters()).items == []


def test_a_trial_is_for_those_who_compare_bundles(site: uuid.UUID, blobs: object) -> None:
    with session_scope() as session:
        session.add(Bundle(name="trial", sha256="1" * 64, manifest={"name": "trial"}, files={}))
    read(site, {"t.png": POSITIVE}, bundle="trial")
    with session_scope() as session:
        with pytest.raises(NotFound):
            study_view.get_study(session, site, study_of("t.png"), trials=False)
        assert study_view.get_study(session, site, study_of("t.png"), trials=True).bundle.name == "trial"

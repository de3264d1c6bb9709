"""Archives that say what makes no sense when they are asked for new studies; studies that were erased."""

from __future__ import annotations

import io
import json
import uuid
from collections.abc import Iterator
from datetime import date
from typing import Any

import pydicom
import pytest
from sqlalchemy import func, select, text, update

from store.base.session import session_scope
from store.base.tables import Base, Image
from store.intake import gateway_peers, poll_sources
from store.intake.poll_sources import PolledStudy, PollSource
from store.operations import retention
from tests.interop.conftest import CALLED, film
from tests.interop.polling import poll, serving

DEEP = b"[" * 100_000


def study(uid: object, n: object = 1) -> dict[str, Any]:
    """A study as QIDO-RS tells it."""
    return {"0020000D": {"vr": "UI", "Value": [uid]}, "00201208": {"vr": "IS", "Value": [n]}}


class FakeArchive:
    """An archive that answers what it is told to."""

    def __init__(self) -> None:
        self.studies: list[Any] = []
        self.files: dict[str, list[bytes]] = {}
        self.odd: dict[str, tuple[int, bytes]] = {}
        self.port = 0

    def answer(self, path: str) -> tuple[int, str, bytes]:
        """Return status, type and body."""
        place, _, query = path.partition("?")
        parts = place.split("/")[3:]  # of /dicom-web/studies/...
        if "offset=0" not in query and not place.endswith(".bin") and "instances/" not in place:
            return 200, "application/dicom+json", b"[]"
        if not parts:
            return 200, "application/dicom+json", json.dumps(self.studies).encode()
        if parts[0] in self.odd:
            status, body = self.odd[parts[0]]
            return status, "application/dicom+json", body
        found = [pydicom.dcmread(io.BytesIO(data)) for data in self.files[parts[0]]]
        if len(parts) > 2:
            data = next(
                d for d, f in zip(self.files[parts[0]], found, strict=True) if f.SOPInstanceUID == parts[4]
            )
            return 200, "application/dicom", data
        listed = [
            {
                "0020000E": {"Value": [f.SeriesInstanceUID]},
                "00080018": {"Value": [f.SOPInstanceUID]},
                "00080016": {"Value": [f.SOPClassUID]},
            }
            for f in found
        ]
        return 200, "application/dicom+json", json.dumps(listed).encode()


@pytest.fixture
def archive(site: uuid.UUID) -> Iterator[FakeArchive]:
    found = FakeArchive()
    with serving(found.answer) as found.port:
        ask_it(site, found, "archive")
        yield found


def ask_it(site: uuid.UUID, archive: FakeArchive, name: str) -> None:
    with session_scope() as session:
        gateway_peers.set_site(session, site, ae_title=CALLED, release=0)
        address = f"http://127.0.0.1:{archive.port}/dicom-web"
        poll_sources.add(session, site, name, address, since=date(2026, 11, 19))


def have(archive: FakeArchive, name: str) -> str:
    """Put a study of one image into the archive; return its UID."""
    data = film(name, 1)
    uid = str(pydicom.dcmread(io.BytesIO(data)).StudyInstanceUID)
    archive.files[uid] = [data]
    archive.studies.append(study(uid))
    return uid


def n_images() -> int:
    with session_scope() as session:
        return session.scalars(select(func.count()).select_from(Image)).one()


@pytest.mark.parametrize("said", [(404, b""), (500, b"oops"), (200, b"no JSON"), (200, DEEP), (200, b"{}")])
def test_a_study_that_cannot_be_fetched_holds_no_other_up(archive: FakeArchive, said: tuple[int, bytes]):
    archive.studies.append(study("1.2.3"))
    archive.odd["1.2.3"] = said
    have(archive, "good")
    told = poll()
    assert n_images() == 1
    assert told, "the operator is told"
    assert "oops" not in told
    with session_scope() as session:
        assert session.scalars(select(PollSource.cursor_day)).one() == date(2026, 11, 19), (
            "it is asked for again"
        )
    archive.odd["1.2.3"] = (200, b"[]")
    assert poll() is None


def test_values_that_make_no_sense_hold_nothing_up(archive: FakeArchive):
    archive.studies += [
        study(None),
        study(["1.2"], {}),
        {"0020000D": "1.2.3"},
        {"0020000D": {"Value": "1.2"}},
    ]
    uid = have(archive, "good")
    for n in (None, "many", "-1", -5, 10**30, "9" * 5000, {}, []):
        archive.studies[-1] = study(uid, n)
        assert poll() is None, n
    assert n_images() == 1
    with session_scope() as session:
        (mark,) = session.scalars(select(PolledStudy.study_uid))
        assert mark == poll_sources.mark_of(session.scalars(select(PollSource.id)).one(), uid)


@pytest.mark.parametrize("n", [1, None], ids=["counted", "not counted"])
def test_what_was_erased_leaves_no_uid_and_does_not_come_back(
    archive: FakeArchive, site: uuid.UUID, n: int | None
):
    uid = have(archive, "good")
    archive.studies[-1] = study(uid, n)
    assert poll() is None
    retention.erase_studies(site, [], by=None, named=uid)
    assert n_images() == 0
    with session_scope() as session:
        for table in Base.metadata.sorted_tables:
            rows = session.scalars(text(f"SELECT t::text FROM {table.name} t")).all()
            assert not [row for row in rows if uid in row], table.name
    with session_scope() as session:  # its day is within what is asked for again
        session.execute(update(PollSource).values(cursor_day=date(2026, 11, 19)))
    assert poll() is None
    assert n_images() == 0
    archive.files[uid].append(film("good", 2))  # what is new since is fetched
    archive.studies[-1] = study(uid, n and 2)
    assert poll() is None
    assert n_images() == 2


def test_who_is_not_let_in_asks_once(archive: FakeArchive):
    for n in range(3):
        archive.studies.append(study(f"1.2.{n}"))
        archive.odd[f"1.2.{n}"] = (403, b"")
    archive.odd["1.2.1"] = archive.odd["1.2.2"] = (500, b"")
    assert poll() == "the archive answers 403"

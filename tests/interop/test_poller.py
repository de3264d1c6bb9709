"""Studies fetched from a real archive by DICOMweb: all of them, once, whatever ends a round."""

from __future__ import annotations

import io
import uuid
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pydicom
import pytest
from click.testing import CliRunner
from sqlalchemy import func, select, update

from cli.main import main
from interop import poller
from store.base.errors import BlobUnavailable
from store.base.sealed_blobs import get_opened
from store.base.session import session_scope
from store.base.tables import Image
from store.intake import gateway_peers, poll_sources, received
from store.intake.gateway_tables import ReceivedStudy
from store.intake.poll_sources import PollSource
from tests.interop.conftest import CALLED, film
from tests.interop.orthanc import Orthanc, running_orthanc

DAY = "20261120"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with running_orthanc(tmp_path_factory.mktemp("orthanc")) as found:
        yield found


@pytest.fixture
def archive(running: Orthanc, site: uuid.UUID, settings_env: pytest.MonkeyPatch) -> Orthanc:
    """An archive with three studies of two images, one of them no X-ray's, and a site that asks it."""
    for study in running.get("/studies"):
        running.remove(f"/studies/{study}")
    with session_scope() as session:
        gateway_peers.set_site(session, site, ae_title=CALLED, release=0)
        poll_sources.add(
            session, site, "archive", f"http://127.0.0.1:{running.http}/dicom-web", since=date(2026, 11, 19),
            filters=["ModalitiesInStudy=DX"],
        )  # fmt: skip
    for name in ("one", "two"):
        for number in (1, 2):
            running.put(film(name, number, StudyDate=DAY, Modality="DX"))
    running.put(film("old", 1, StudyDate="20260101", Modality="DX"))
    running.put(film("other", 1, StudyDate=DAY, Modality="OT"))
    return running


def poll() -> str | None:
    """A round, whenever it is due; return what went wrong."""
    with session_scope() as session:
        session.execute(update(PollSource).values(due_at=func.clock_timestamp()))
    assert poller.poll_once()
    with session_scope() as session:
        return session.scalars(select(PollSource.error)).one()


def sop_uids() -> list[str]:
    with session_scope() as session:
        images = session.scalars(select(Image).order_by(Image.seq)).all()
        found = [pydicom.dcmread(io.BytesIO(get_opened(each.incoming_key or ""))) for each in images]
    return sorted(each.SOPInstanceUID for each in found)


def expected(*which: tuple[str, int]) -> list[str]:
    return sorted(pydicom.dcmread(io.BytesIO(film(*each))).SOPInstanceUID for each in which)


FOUR = [("one", 1), ("one", 2), ("two", 1), ("two", 2)]


def test_new_studies_are_fetched_once_and_late_images_too(archive: Orthanc, monkeypatch: pytest.MonkeyPatch):
    assert poll() is None
    assert sop_uids() == expected(*FOUR)
    with session_scope() as session:
        assert session.scalar(select(func.count()).select_from(ReceivedStudy)) == 2
        assert session.scalars(select(PollSource.cursor_day)).one() > date(2026, 11, 20)
    assert received.complete_due() == 2
    asked: list[str] = []
    get = poller.Poll._file
    monkeypatch.setattr(poller.Poll, "_file", lambda self, path: asked.append(path) or get(self, path))
    with session_scope() as session:  # as long as the day is within what is asked for again
        session.execute(update(PollSource).values(cursor_day=date(2026, 11, 21)))
    assert poll() is None
    assert not asked, "what is here is not fetched again"
    with session_scope() as session:
        session.execute(update(PollSource).values(cursor_day=date(2026, 11, 21)))
    archive.put(film("one", 3, StudyDate=DAY, Modality="DX"))
    assert poll() is None
    assert len(asked) == 1
    assert sop_uids() == expected(*FOUR, ("one", 3))


def test_whatever_ends_a_round_the_next_one_fetches_the_rest(
    archive: Orthanc, monkeypatch: pytest.MonkeyPatch
):
    keep, n = received.keep, 0

    def failing(*arguments: object, **named: object) -> received.Arrival:
        nonlocal n
        n += 1
        if n == 3:
            raise BlobUnavailable
        return keep(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(received, "keep", failing)
    assert poll() == "storage_unavailable"
    with session_scope() as session:
        assert session.scalars(select(PollSource.cursor_day)).one() == date(2026, 11, 19), (
            "nothing is skipped"
        )
    assert poll() is None
    assert sop_uids() == expected(*FOUR)


def test_an_archive_that_is_away_is_asked_again(archive: Orthanc):
    archive.stop()
    try:
        assert "no answer" in (poll() or "")
    finally:
        archive.start()
    assert poll() is None
    assert sop_uids() == expected(*FOUR)


def test_many_pages(archive: Orthanc, monkeypatch: pytest.MonkeyPatch):
    for size in (1, 2, 3):
        monkeypatch.setattr(poller, "PAGE", size)
        assert poll() is None
        with session_scope() as session:
            session.execute(update(PollSource).values(cursor_day=date(2026, 11, 21)))
    assert sop_uids() == expected(*FOUR)


def test_commands(database: object, site: uuid.UUID, tmp_path: Path):
    make = ["gateway", "poll", "pacs", "https://pacs.example/dicom-web", "--since", "2026-11-01"]
    done = CliRunner().invoke(main, [*make, "--where", "ModalitiesInStudy=DX"])
    assert done.exit_code == 0, done.output
    assert "2026-11-01" in CliRunner().invoke(main, ["gateway", "polls"]).output
    assert CliRunner().invoke(main, [*make, "--where", "StudyDate=20260101"]).exit_code == 4
    assert CliRunner().invoke(main, ["gateway", "unpoll", "pacs"]).exit_code == 0
    assert CliRunner().invoke(main, ["gateway", "unpoll", "pacs"]).exit_code == 4

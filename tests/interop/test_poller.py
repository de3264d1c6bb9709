"""Studies fetched from a real archive by DICOMweb: all of them, once, whatever ends a round."""

from __future__ import annotations

import io
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import pydicom
import pytest
from click.testing import CliRunner
from sqlalchemy import func, select, update

from cli.main import main
from interop import poller
from settings import get_settings
from store.base.errors import BlobUnavailable
from store.base.sealed_blobs import get_opened
from store.base.session import session_scope
from store.base.tables import Image
from store.intake import gateway_peers, poll_sources, received
from store.intake.gateway_tables import ReceivedStudy
from store.intake.poll_sources import PollSource
from tests.interop.conftest import CALLED, film
from tests.interop.orthanc import Orthanc, running_orthanc
from tests.interop.polling import poll
from tests.interop.test_stalled_archive import answering
from tests.running import PATIENCE, wait_for

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


def test_slow_archives_hold_no_other(
    archive: Orthanc, site: uuid.UUID, monkeypatch: pytest.MonkeyPatch, settings_env: pytest.MonkeyPatch
):
    settings_env.setenv("FRACTUREAI_DELIVERY_TIMEOUT_SECONDS", str(PATIENCE))
    get_settings.cache_clear()
    asked: list[float] = []
    left = threading.Event()

    def talk(line: socket.socket) -> None:
        asked.append(time.monotonic())
        left.wait(PATIENCE)  # it says nothing

    def sources(*names: str) -> None:
        """Have these archives due, in this order."""
        with session_scope() as session:
            session.execute(update(PollSource).values(due_at=func.clock_timestamp() + timedelta(hours=1)))
            for n, name in enumerate(names):
                due = func.clock_timestamp() - timedelta(seconds=100 - n)
                session.execute(update(PollSource).where(PollSource.name == name).values(due_at=due))

    with answering(talk) as port:
        with session_scope() as session:
            for name in ("slow", "slower"):
                address = f"http://127.0.0.1:{port}/dicom-web"
                poll_sources.add(session, site, name, address, since=date(2026, 11, 19), seconds=1)
        rounds = poller.Rounds()
        sources("slow", "slower", "archive")
        assert [rounds.begin_due() for _ in range(4)] == [True, True, True, False]
        wait_for(lambda: sop_uids() == expected(*FOUR), PATIENCE, "the studies of the archive that answers")
        wait_for(lambda: len(asked) == 2, PATIENCE, "the slow ones")
        sources("slow")
        assert not rounds.begin_due(), "its round goes on: it is not asked twice at a time"
        assert len(asked) == 2
        # places are few: each is given up after a while
        monkeypatch.setattr(poller, "MAX_AT_ONCE", 2)
        sources("archive")
        assert not rounds.begin_due()
        left.set()
        wait_for(rounds.begin_due, PATIENCE, "a place")


def test_a_round_that_takes_too_long_goes_on_with_the_next(archive: Orthanc, monkeypatch: pytest.MonkeyPatch):
    get, n = poller.Poll._file, 0

    def late(self: poller.Poll, path: str) -> bytes:
        nonlocal n
        n += 1
        if n == 2:
            self._until = 0.0
        return get(self, path)

    monkeypatch.setattr(poller.Poll, "_file", late)
    assert "the next one goes on" in (poll() or "")
    assert len(sop_uids()) == 1
    assert poll() is None
    assert sop_uids() == expected(*FOUR)
    assert n == 5, "what the first round fetched is not fetched again"


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

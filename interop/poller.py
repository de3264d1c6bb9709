"""Asks archives for new studies by DICOMweb (QIDO-RS, WADO-RS) and keeps what they have as the receiver does.

Run as ``python -m interop.poller``. A round asks for the studies of all days from some before the cursor to
today; the cursor moves when all of them are kept. Whatever ends a round, the next one begins where it began,
and what is here already is not fetched again. A study that cannot be fetched holds no other up. Each archive
has a thread of its own, so that a slow one holds no other.
"""

from __future__ import annotations

import json
import logging
import re
import signal
import threading
import time
import uuid
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from typing import Any

import httpx
from sqlalchemy.exc import SQLAlchemyError

from interop.asking import TooLong, ask, new_client, parsed
from pipeline.dicom.elements import UID, HeaderUnreadable, split_file
from settings import Settings, get_settings, start_log
from store.base.errors import ServiceError
from store.base.session import session_scope
from store.base.throttled_log import log_throttled
from store.intake import poll_sources, received
from store.intake.poll_sources import PollSource
from store.intake.received import ObjectRefused, Refusal, Source
from vocabulary.dicom import TAKEN_CLASSES

log = logging.getLogger("fractureai.poller")

#: Studies, or instances, of one answer.
PAGE = 100
#: What an archive may answer: bytes of a page, pages, and passes until nothing new is found.
MAX_ANSWERED, MAX_PAGES, MAX_PASSES = 64 << 20, 10_000, 20
#: Seconds between two looks for an archive that is due.
LOOK_SECONDS = 2.0
#: Archives that are asked at one time, and seconds after which one gives its place to the next.
MAX_AT_ONCE, ROUND_SECONDS = 8, 300.0
#: Instances of a study that can be counted.
_MAX_INSTANCES = 1 << 30
#: Of what a query finds: study, series and instance.
_KEYS = ("0020000D", "0020000E", "00080018")
_FILE = 'multipart/related; type="application/dicom"; transfer-syntax=*'


class PollFailed(Exception):
    """The archive does not answer as it should; the message quotes nothing of what it said."""


class StudyFailed(PollFailed):
    """The archive answers, but not with the study; it may have others."""


def _first(item: dict[str, Any], tag: str) -> str:
    """Return a value as text; empty where there is none, or it is no value (PS3.18, F.2)."""
    said = item.get(tag)
    values = said.get("Value") if isinstance(said, dict) else None
    value = values[0] if isinstance(values, list) and values else None
    return str(value).strip() if isinstance(value, str | int | float) else ""


def _count(text: str) -> int:
    """Return a number of instances; 0 where it is none."""
    return min(int(text), _MAX_INSTANCES) if re.fullmatch(r"[0-9]{1,12}", text) else 0


class Poll:
    """One round at one archive.

    Parameters
    ----------
    client
        With the address of its DICOMweb service, and its headers.
    """

    def __init__(self, source: PollSource, client: httpx.Client, settings: Settings) -> None:
        self._source, self._client, self._settings = source, client, settings
        self._as = Source(source.site_id, source.name)
        self._until = time.monotonic() + ROUND_SECONDS
        self.kept = 0

    def run(self) -> None:
        """Fetch what is new, and move the cursor. Raises `PollFailed`, `ServiceError`, `SQLAlchemyError`."""
        source = self._source
        with session_scope() as session:
            to, before = poll_sources.today(session), poll_sources.fetched(session, source)
        since = source.cursor_day - timedelta(days=source.overlap_days)
        failed: StudyFailed | None = None
        for study in self._studies(since, to):
            uid, n = _first(study, "0020000D"), _count(_first(study, "00201208"))
            if not UID.fullmatch(uid):
                continue
            known = before.get(poll_sources.mark_of(source.id, uid))
            if n and known == n:
                continue
            try:
                fetched = self._fetch_study(uid, known)
            except StudyFailed as failure:
                failed = failed or failure
                continue
            with session_scope() as session:
                day = _day_of(_first(study, "00080020"))
                poll_sources.record_fetched(session, source.id, uid, day, n or fetched)
        if failed is not None:
            raise failed
        with session_scope() as session:
            # what arrives later today is of today again: that day is asked for once more
            poll_sources.record_poll(session, source.id, to=to - timedelta(days=1))

    def _query(self, path: str, parameters: dict[str, str]) -> list[dict[str, Any]]:
        """Return all that a query finds.

        Archives may change the order between two pages, so that one is met twice and another not at all: what
        takes several pages is asked for until a whole pass finds nothing new.
        """
        found: dict[str, dict[str, Any]] = {}
        for _ in range(MAX_PASSES):
            before, pages = len(found), 0
            for page in self._pages(path, parameters):
                pages += 1
                found |= {json.dumps([_first(each, tag) for tag in _KEYS]): each for each in page}
            if pages < 2 or len(found) == before:
                return list(found.values())
        raise StudyFailed("an answer that is another one each time")

    def _pages(self, path: str, parameters: dict[str, str]) -> Iterator[list[dict[str, Any]]]:
        last: list[dict[str, Any]] = []
        offset = 0
        for _ in range(MAX_PAGES):
            page = {**parameters, "limit": str(PAGE), "offset": str(offset)}
            answer = self._get(path, page, "application/dicom+json")
            try:
                found = parsed(answer) if answer.status_code == 200 else []
            except ValueError:
                raise StudyFailed("an answer that is no JSON") from None
            if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
                raise StudyFailed("an answer that is no list")
            if not found or found == last:  # the same once more: the archive knows no offset
                return
            yield found
            last = found
            offset += len(found)  # an archive may answer fewer than it is asked for
        raise StudyFailed("an answer without end")

    def _get(self, path: str, parameters: dict[str, str], accept: str) -> httpx.Response:
        try:
            answer = self._ask(path, MAX_ANSWERED, accept, params=parameters)
        except TooLong:
            raise StudyFailed("an answer that is longer than it may be") from None
        if answer.status_code not in {200, 204}:
            raise StudyFailed(f"the archive answers {answer.status_code}")
        return answer

    def _studies(self, since: date, to: date) -> list[dict[str, Any]]:
        wanted = {"StudyDate": f"{since:%Y%m%d}-{to:%Y%m%d}", "includefield": "00201208"}
        wanted |= {name: value for name, _, value in (each.partition("=") for each in self._source.filters)}
        return self._query("/studies", wanted)

    def _fetch_study(self, study_uid: str, known: int | None) -> int:
        """Fetch the images of a study that are not here; return how many instances it has.

        Parameters
        ----------
        known
            How many it had when all of them had been fetched; with as many there is nothing new.
        """
        n, wanted = 0, []
        for item in self._query(f"/studies/{study_uid}/instances", {}):
            n += 1
            uids = _first(item, "0020000E"), _first(item, "00080018")
            if _first(item, "00080016") in TAKEN_CLASSES and all(map(UID.fullmatch, uids)):
                wanted.append(uids)
        if n == known:
            return n
        studies: set[uuid.UUID] = set()
        failed: StudyFailed | None = None
        try:
            for start in range(0, len(wanted), PAGE):
                part = wanted[start : start + PAGE]
                with session_scope() as session:
                    sop_uids = [sop_uid for _, sop_uid in part]
                    here = poll_sources.known_objects(session, self._source.site_id, sop_uids)
                for series_uid, sop_uid in part:
                    if sop_uid not in here:
                        place = f"/studies/{study_uid}/series/{series_uid}/instances/{sop_uid}"
                        failed = self._fetch(place, study_uid, studies) or failed
        finally:
            received.sending_ended(self._source.site_id, studies)
        if failed is not None:
            raise failed
        return n

    def _fetch(self, place: str, study_uid: str, studies: set[uuid.UUID]) -> StudyFailed | None:
        """Fetch an object and keep it; return why the archive does not give it now: others it may give."""
        try:
            self._keep(self._file(place), study_uid, studies)
        except StudyFailed as failure:
            return failure
        except TooLong:
            log.warning("an object from %s is refused: %s", self._source.name, Refusal.TOO_LARGE.value)
        return None

    def _file(self, path: str) -> bytes:
        """Return the one file of a WADO-RS answer (PS3.18, 8.6.1.2). Raises `PollFailed`, `TooLong`."""
        answer = self._ask(path, self._settings.max_file_bytes + (1 << 16), _FILE)
        if answer.status_code != 200:
            raise StudyFailed(f"the archive answers {answer.status_code}")
        return _only_part(answer.content, answer.headers.get("Content-Type", ""))

    def _ask(self, path: str, most: int, accept: str, **more: Any) -> httpx.Response:
        """Ask in time: other archives may wait for this one's place. Raises `PollFailed`, `TooLong`."""
        if time.monotonic() > self._until:
            raise PollFailed("not all of it came in one round: the next one goes on")
        seconds = self._settings.delivery_timeout_seconds
        try:
            answer = ask(
                self._client, "GET", path, seconds=seconds, most=most, headers={"Accept": accept}, **more
            )
        except (httpx.HTTPError, OSError) as error:
            raise PollFailed(f"no answer: {type(error).__name__}") from None
        if answer.status_code in {401, 403, 429}:  # it would say so of every study
            raise PollFailed(f"the archive answers {answer.status_code}")
        return answer

    def _keep(self, data: bytes, study_uid: str, studies: set[uuid.UUID]) -> None:
        try:
            found = split_file(data)
            arrival = received.keep(
                self._as,
                found.dataset,
                found.syntax,
                sop_class=found.sop_class,
                sop_uid=found.sop_uid,
                study_uid=study_uid,
            )
        except HeaderUnreadable:
            log.warning("an object from %s is refused: no DICOM", self._source.name)
            return
        except ObjectRefused as refused:
            log.warning("an object from %s is refused: %s", self._source.name, refused.refusal.value)
            return
        self.kept += arrival.kept is received.Kept.NEW
        if arrival.study is not None:
            studies.add(arrival.study)


def _day_of(text: str) -> date | None:
    try:
        return datetime.strptime(text, "%Y%m%d").date()
    except ValueError:
        return None


def _only_part(body: bytes, content_type: str) -> bytes:
    """Return the first part of a ``multipart/related`` body (RFC 2387), or the body where it is none."""
    if not content_type.lower().startswith("multipart/"):
        return body
    match = re.search(r'boundary="?([^";]+)"?', content_type, re.IGNORECASE)
    if match is None:
        raise StudyFailed("an answer without a boundary")
    mark = b"--" + match.group(1).encode("latin-1", "replace")
    begin = body.find(mark)
    head = body.find(b"\r\n\r\n", begin)
    end = body.find(b"\r\n" + mark, head)
    if min(begin, head, end) < 0:
        raise StudyFailed("an answer that ends early")
    return body[head + 4 : end]


def poll_once() -> bool:
    """Do the round of an archive that is due; return whether there was one."""
    with session_scope() as session:
        source = poll_sources.claim_due(session)
    if source is not None:
        _poll(source)
    return source is not None


def _poll(source: PollSource) -> None:
    """Do an archive's round, and write down how it went. Raises `SQLAlchemyError`."""
    settings = get_settings()
    authorization = poll_sources.authorization_of(source)
    headers = {"Authorization": authorization} if authorization else {}
    timeout = settings.delivery_timeout_seconds
    error = ""
    with new_client(timeout, base_url=source.address, headers=headers) as client:
        poll = Poll(source, client, settings)
        try:
            poll.run()
        except PollFailed as failure:
            error = str(failure)
        except SQLAlchemyError:
            raise
        except ServiceError as failure:  # no room, a quota: the next round tries again
            error = failure.code
        except Exception as failure:  # its text may quote what the archive said
            error = type(failure).__name__
    if error:
        log_throttled(
            log, logging.WARNING, f"{source.id} {error}", "asking %s failed: %s", source.name, error
        )
        with session_scope() as session:
            poll_sources.record_poll(session, source.id, to=None, error=error)
    elif poll.kept:
        log.info("%d objects from %s", poll.kept, source.name)


class Rounds:
    """The rounds that go on, each in a thread that ends with the process; no archive is in two of them."""

    def __init__(self) -> None:
        self._asked: set[uuid.UUID] = set()
        self._counting = threading.Lock()

    def begin_due(self) -> bool:
        """Begin the round of an archive that is due; return whether there was one and a place for it."""
        with self._counting:
            asked = set(self._asked)
        if len(asked) >= MAX_AT_ONCE:
            return False
        with session_scope() as session:
            source = poll_sources.claim_due(session, but_not=asked)
        if source is None:
            return False
        with self._counting:
            self._asked.add(source.id)
        threading.Thread(target=self._run, args=(source,), name=f"poll {source.id}", daemon=True).start()
        return True

    def _run(self, source: PollSource) -> None:
        try:
            _poll(source)
        except Exception as error:  # an unwritten error's text may quote what the archive said
            _tell(error)
        finally:
            with self._counting:
                self._asked.remove(source.id)


def _tell(error: Exception) -> None:
    kind = type(error).__name__
    what = "the database does not answer" if isinstance(error, SQLAlchemyError) else "a round ended early"
    log_throttled(log, logging.WARNING, kind, "%s: %s", what, kind)


def main() -> None:
    """Ask until SIGTERM or SIGINT."""
    settings = get_settings().require("database_url", "broker_url", "blob_url", "secret_key")
    start_log(settings)
    for name in ("httpx", "httpcore"):  # they log addresses with what is asked for
        logging.getLogger(name).setLevel(logging.WARNING)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    rounds = Rounds()
    while not stop.is_set():
        try:
            found = rounds.begin_due()
        except SQLAlchemyError as error:
            _tell(error)
            found = False
        if not found:
            stop.wait(LOOK_SECONDS)


if __name__ == "__main__":
    main()

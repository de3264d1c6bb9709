"""Notices, delivered by the task's own body to real receivers: signed, tried again, never to inner places."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import redis
from aiosmtpd.controller import Controller
from sqlalchemy import select, text, update

from settings import get_settings
from store.base.session import session_scope
from store.base.tables import Batch, Image, Notice, NoticeTarget, StudyFinding, Work, WorkKind, WorkState
from store.intake import batches
from store.outgoing import notices
from store.outgoing.notices import Channel, Event
from store.queue import dispatch, work
from store.reading.studies import NewFinding, assign, save_findings, study_states
from tests.db.conftest import new_files
from vocabulary.reasons import Reason
from vocabulary.states import Triage
from worker import flow, reconcile, stages
from worker.base import outbound
from worker.base.outbound import Refused
from worker.operations import notices as worker_notices


@dataclass
class Receiver:
    """A real web server that keeps what it gets and answers `answers` in turn, then 204."""

    answers: list[int] = field(default_factory=list)
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    url: str = ""

    def __enter__(self) -> Receiver:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.got.append(({k.lower(): v for k, v in self.headers.items()}, body))
                self.send_response(receiver.answers.pop(0) if receiver.answers else 204)
                self.send_header("Location", receiver.url + "/elsewhere")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def receiver(settings_env: pytest.MonkeyPatch, broker: redis.Redis) -> Iterator[Receiver]:
    settings_env.setenv("FRACTUREAI_NOTICE_PRIVATE_ADDRESSES", "true")
    get_settings.cache_clear()
    with Receiver() as receiver:
        yield receiver


def add_target(site: uuid.UUID, address: str, channel: Channel = Channel.WEBHOOK) -> tuple[uuid.UUID, str]:
    with session_scope() as session:
        target, secret = notices.add_target(session, site, channel, address, notices.EVENTS)
        return target.id, secret


def send_test(target_id: uuid.UUID) -> uuid.UUID:
    with session_scope() as session:
        return notices.add(session, session.get_one(NoticeTarget, target_id), Event.TEST, {}).id


def deliver(*, rested: bool = True) -> int:
    """Run the body of every unit of notices that is not over; return how many there were.

    Parameters
    ----------
    rested
        As if every target had rested for long enough.
    """
    with session_scope() as session:
        if rested:
            session.execute(update(NoticeTarget).values(rest_until=None))
        session.execute(update(Work).where(Work.state == WorkState.DUE).values(due_at=text("now()")))
        waiting = list(
            session.scalars(
                select(Work.id).where(
                    Work.kind == WorkKind.NOTICE, Work.state.not_in(["done", "cancelled", "failed"])
                )
            )
        )
    for unit in waiting:
        flow.run(unit, None, worker_notices.send)
    return len(waiting)


def row(notice_id: uuid.UUID) -> Notice:
    with session_scope() as session:
        return session.get_one(Notice, notice_id)


def test_a_webhook_is_signed_so_that_the_receiver_can_tell(receiver: Receiver, site: uuid.UUID) -> None:
    target, secret = add_target(site, f"{receiver.url}/hook?x=1")
    notice = send_test(target)
    assert deliver() == 1
    headers, body = receiver.got[0]
    assert json.loads(body)["type"] == "test"
    assert headers["webhook-id"] == str(notice)
    key = base64.b64decode(secret.removeprefix("whsec_"))  # as any receiver does it
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    expected = base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"
    assert (row(notice).state, row(notice).status, row(notice).attempts) == ("delivered", 204, 1)
    with session_scope() as session:
        kept = session.get_one(NoticeTarget, target).secret
    assert secret not in kept
    assert secret.removeprefix("whsec_") not in kept
    assert deliver() == 0


def test_what_is_not_taken_is_tried_again_with_longer_pauses(receiver: Receiver, site: uuid.UUID) -> None:
    receiver.answers = [500, 302, 503]
    notice = send_test(add_target(site, receiver.url)[0])
    pauses = []
    for _ in range(4):
        assert deliver() == 1
        with session_scope() as session:
            waits = "SELECT extract(epoch FROM due_at - clock_timestamp()) FROM work WHERE state = 'due'"
            pauses.append(session.scalar(text(waits)))
    assert pauses[:3] == sorted(pauses[:3])
    assert pauses[2] > 60
    assert pauses[3] is None
    assert (row(notice).state, row(notice).attempts) == ("delivered", 4)
    assert len(receiver.got) == 4  # the redirect was not followed
    assert len({headers["webhook-id"] for headers, _ in receiver.got}) == 1


def test_a_receiver_that_is_gone_or_never_there_ends_it(
    receiver: Receiver, site: uuid.UUID, settings_env: pytest.MonkeyPatch
) -> None:
    settings_env.setenv("FRACTUREAI_NOTICE_ATTEMPTS", "2")
    get_settings.cache_clear()
    receiver.answers = [410]
    gone = send_test(add_target(site, receiver.url)[0])
    assert deliver() == 1
    assert (row(gone).state, row(gone).error) == ("failed", "the receiver answered 410")
    nobody = send_test(add_target(site, "http://127.0.0.1:9/")[0])
    assert [deliver(), deliver(), deliver()] == [1, 1, 0]
    assert (row(nobody).state, row(nobody).attempts) == ("failed", 2)
    assert "no answer" in row(nobody).error


def test_inner_addresses_are_refused_unless_a_setting_allows_them(
    receiver: Receiver, site: uuid.UUID, settings_env: pytest.MonkeyPatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings_env.setenv("FRACTUREAI_NOTICE_PRIVATE_ADDRESSES", "false")
    get_settings.cache_clear()
    notice = send_test(add_target(site, receiver.url.replace("http", "https"))[0])
    deliver()
    assert row(notice).state == "failed"
    assert "private network" in row(notice).error
    assert receiver.got == []
    for host in (
        "localhost",
        "[::1]",
        "169.254.169.254",
        "10.0.0.8",
        "[::ffff:127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "0x7f000001",
        "0.0.0.0",
    ):
        with pytest.raises(Refused):
            outbound.post(f"https://{host}/", b"", {}, timeout=5, allow_private=False)
    for url in ("http://192.0.2.1/", "ftp://192.0.2.1/", "https://user:word@192.0.2.1/", "https:///x"):
        with pytest.raises(Refused):
            outbound.post(url, b"", {}, timeout=5, allow_private=False)
    # a name with one inner address among outer ones
    answers = [(socket.AF_INET, 1, 6, "", (ip, 443)) for ip in ("93.184.216.34", "127.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answers)
    with pytest.raises(Refused):
        outbound.post("https://rebind.example/", b"", {}, timeout=5, allow_private=False)


@pytest.fixture
def positive(site: uuid.UUID) -> Callable[[str, Triage], None]:
    """Saves one version of the finding of a study with one image, whose file name tells a name."""
    with session_scope() as session:
        batch_id = batches.create_batch(session, site_id=site, user_id=None)[0].id
        batches.add_files(session, batch_id, site, [replace(new_files(1)[0], path="Anna Smith.png")])
        image = session.scalars(select(Image).where(Image.batch_id == batch_id)).one()
        image.accession = "A-secret"
        assign(session, [image])

    def save(basis: str, triage: Triage) -> None:
        with session_scope() as session:
            batch = session.get_one(Batch, batch_id)
            image = session.scalars(select(Image).where(Image.batch_id == batch_id)).one()
            image.passed, image.error = "report", basis
            session.flush()
            state = study_states(session, [image.study_id], batch.bundle)[image.study_id]
            latest = session.execute(text("SELECT coalesce(max(version), 0) FROM study_findings")).scalar()
            new = NewFinding(
                image.study_id, state.basis, triage, (Reason.STUDY_INCOMPLETE,), 1, latest + 1, None
            )
            assert save_findings(session, batch, [new]) == {image.study_id}

    return save


def test_a_study_that_becomes_positive_is_told_once_and_without_names(
    receiver: Receiver, site: uuid.UUID, positive: Callable[[str, Triage], None]
) -> None:
    add_target(site, receiver.url)
    for triage in (Triage.DOUBT, Triage.POSITIVE, Triage.POSITIVE):
        positive(triage.value, triage)
    assert deliver() == 1
    body = receiver.got[0][1].decode()
    said = json.loads(body)
    assert said["type"] == "study.positive"
    assert said["data"]["triage"] == "positive"
    assert "Anna" not in body
    assert "A-secret" not in body


def test_a_signed_report_that_no_longer_holds_is_told_once_and_without_names(
    receiver: Receiver, site: uuid.UUID, positive: Callable[[str, Triage], None]
) -> None:
    add_target(site, receiver.url)
    positive("1", Triage.NEGATIVE)
    with session_scope() as session:
        session.execute(update(StudyFinding).values(signed_at=datetime.now(UTC), signed_by="Ana"))
    positive("2", Triage.NEGATIVE)  # the same again: no news
    assert deliver() == 0
    for basis, triage in (("3", Triage.DOUBT), ("4", Triage.DOUBT), ("5", Triage.POSITIVE)):
        positive(basis, triage)
    assert deliver() == 3
    said = [json.loads(body) for _, body in receiver.got]
    amended = [each["data"] for each in said if each["type"] == "study.amended"]
    assert [(data["triage"], data["signed_version"]) for data in amended] == [("doubt", 1), ("positive", 1)]
    assert [each["type"] for each in said if each["type"] != "study.amended"] == ["study.positive"]
    for _, body in receiver.got:
        assert b"Anna" not in body
        assert b"A-secret" not in body


def test_a_batch_that_ends_is_told(receiver: Receiver, site: uuid.UUID) -> None:
    add_target(site, receiver.url)
    with session_scope() as session:
        batch_id = batches.create_batch(session, site_id=site, user_id=None)[0].id
        batches.add_files(session, batch_id, site, new_files(2))
        batches.submit(session, batch_id, site)
        batches.cancel(session, batch_id, site)
    with session_scope() as session:
        finish = session.scalars(select(Work.id).where(Work.kind == WorkKind.FINISH)).one()
    flow.run(finish, None, stages.finish.run)
    assert deliver() == 1
    said = json.loads(receiver.got[0][1])
    assert (said["type"], said["data"]["status"]) == ("batch.finished", "cancelled")
    assert said["data"]["counts"]["cancelled"] == 2
    assert dispatch.dispatch() == 0


def test_a_target_that_was_removed_gets_nothing(receiver: Receiver, site: uuid.UUID) -> None:
    target, _ = add_target(site, receiver.url)
    notice = send_test(target)
    with session_scope() as session:
        notices.remove_target(session, notices.get_target(session, site, target))
    assert deliver() == 0
    assert receiver.got == []
    assert row(notice).state == "failed"


def waits() -> list[float]:
    """Return in how many seconds each waiting unit is due, the first one first."""
    with session_scope() as session:
        query = (
            "SELECT extract(epoch FROM due_at - clock_timestamp()) FROM work WHERE state = 'due' ORDER BY 1"
        )
        return [float(seconds) for seconds in session.scalars(text(query))]


def test_a_target_that_fails_rests_and_one_notice_at_a_time_tries_it(
    receiver: Receiver, site: uuid.UUID, settings_env: pytest.MonkeyPatch
) -> None:
    settings_env.setenv("FRACTUREAI_NOTICE_RETRY_SECONDS", "600")  # no rest ends by itself
    get_settings.cache_clear()
    target, _ = add_target(site, receiver.url)
    receiver.answers = [503, 503]
    told = [send_test(target) for _ in range(6)]
    deliver(rested=False)
    assert len(receiver.got) == 1, "the others wait with the target"
    assert sorted(row(notice).attempts for notice in told) == [0, 0, 0, 0, 0, 1]
    assert all(500 < seconds < 700 for seconds in waits())
    assert deliver() == 6
    assert len(receiver.got) == 2, "one tries it"
    first, second = waits()[:2]
    assert first > 2000, "the pause grows"
    assert second > first + 10, "should the one be lost, the others come later"
    with session_scope() as session:
        state = session.get_one(NoticeTarget, target)
        assert (state.failures, state.last_error) == (2, "the receiver answered 503")
        assert notices.count_waiting(session, site) == {target: 6}
    deliver()  # the one is taken, and wakes the others
    deliver()
    assert {row(notice).state for notice in told} == {"delivered"}
    with session_scope() as session:
        state = session.get_one(NoticeTarget, target)
        assert (state.failures, state.rest_until, state.last_error) == (0, None, None)


def test_a_resting_target_holds_up_no_other(receiver: Receiver, site: uuid.UUID) -> None:
    send_test(add_target(site, "http://127.0.0.1:9/")[0])
    deliver()
    other = send_test(add_target(site, receiver.url)[0])
    deliver(rested=False)
    assert row(other).state == "delivered"


def test_a_notice_that_waits_for_days_is_given_up_with_the_reason(
    receiver: Receiver, site: uuid.UUID
) -> None:
    receiver.answers = [503]
    target, _ = add_target(site, receiver.url)
    tried, waited = send_test(target), send_test(target)
    deliver(rested=False)
    with session_scope() as session:
        session.execute(update(Notice).values(created_at=text("now() - interval '4 days'")))
    deliver(rested=False)
    for notice in (tried, waited):
        assert row(notice).state == "failed"
        assert "given up after 4.0 days: the receiver answered 503" in (row(notice).error or "")
    assert len(receiver.got) == 1


@contextmanager
def dripping(data: bytes) -> Iterator[int]:
    """Take connections, send `data` byte by byte for ever, a tenth of a second apart; yields the port."""
    ended = threading.Event()
    server = socket.create_server(("127.0.0.1", 0))

    def drip(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            while not ended.is_set():
                for byte in data:
                    connection.sendall(bytes([byte]))
                    ended.wait(0.1)

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=drip, args=[server.accept()[0]], daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield int(server.getsockname()[1])
    finally:
        ended.set()
        server.shutdown(socket.SHUT_RDWR)
        server.close()


@pytest.mark.parametrize(
    ("data", "scheme"),
    [(b"HTTP/1.1 200", "http"), (b"X: y\r\n", "http"), (b"\x16\x03\x03\x40\x00", "https")],
    ids=["the status", "endless lines", "the handshake"],
)
def test_a_receiver_that_drips_bytes_is_left_in_time(
    data: bytes, scheme: str, site: uuid.UUID, receiver: Receiver, settings_env: pytest.MonkeyPatch
) -> None:
    settings_env.setenv("FRACTUREAI_NOTICE_TIMEOUT_SECONDS", "0.5")
    get_settings.cache_clear()
    with dripping(data) as port:
        notice = send_test(add_target(site, f"{scheme}://127.0.0.1:{port}/")[0])
        began = time.monotonic()
        deliver()
        assert time.monotonic() - began < 10, "without a deadline it never ends"
    assert (row(notice).state, row(notice).attempts) == ("waiting", 1)


@pytest.mark.parametrize(("security", "data"), [("none", b"220-wait\r\n"), ("tls", b"\x16\x03\x03\x40\x00")])
def test_a_mail_server_that_drips_bytes_is_left_in_time(
    security: str, data: bytes, site: uuid.UUID, receiver: Receiver, settings_env: pytest.MonkeyPatch
) -> None:
    settings_env.setenv("FRACTUREAI_NOTICE_TIMEOUT_SECONDS", "0.2")
    settings_env.setenv("FRACTUREAI_SMTP_HOST", "127.0.0.1")
    settings_env.setenv("FRACTUREAI_SMTP_SECURITY", security)
    with dripping(data) as port:
        settings_env.setenv("FRACTUREAI_SMTP_PORT", str(port))
        get_settings.cache_clear()
        notice = send_test(add_target(site, "reader@hospital.example", Channel.EMAIL)[0])
        began = time.monotonic()
        deliver()
        assert time.monotonic() - began < 10, "without a deadline it never ends"
    assert row(notice).error == "no answer: TimeoutError"


def test_a_notice_whose_work_has_failed_waits_no_more(receiver: Receiver, site: uuid.UUID) -> None:
    """As when each try loses its worker: nobody would ever send it, and the page said that it waits."""
    target, _ = add_target(site, receiver.url)
    failed, waiting, again = send_test(target), send_test(target), send_test(target)
    with session_scope() as session:
        session.execute(update(Work).where(Work.subject_id.in_([failed, again])).values(state="failed"))
        work.add_unit(session, WorkKind.NOTICE, site_id=site, subject_id=again)
    reconcile.tidy()
    assert [row(each).state for each in (failed, waiting, again)] == ["failed", "waiting", "waiting"]
    assert row(failed).error


def test_every_address_of_a_name_is_tried(
    receiver: Receiver, site: uuid.UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = int(receiver.url.rpartition(":")[2])
    found = [(socket.AF_INET, 1, 6, "", (ip, port)) for ip in ("127.0.0.77", "127.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    assert outbound.post(f"http://ris.example:{port}/", b"{}", {}, timeout=5, allow_private=True) == 204


def test_a_name_server_that_hangs_is_left_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [ended.wait(60)][:0])
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        outbound.post("http://ris.example/", b"{}", {}, timeout=0.3, allow_private=True)
    assert time.monotonic() - began < 10
    ended.set()


class Inbox:
    """A real mail server that keeps what it gets, and refuses one address."""

    def __init__(self) -> None:
        self.got: list[Any] = []

    async def handle_RCPT(
        self, server: Any, session: Any, envelope: Any, address: str, options: list[str]
    ) -> str:
        if address.startswith("refused"):
            return "550 no such box"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        self.got.append(envelope)
        return "250 OK"


def test_an_email_says_what_happened_and_no_name(
    receiver: Receiver, site: uuid.UUID, settings_env: pytest.MonkeyPatch,
    positive: Callable[[str, Triage], None],
) -> None:  # fmt: skip
    inbox = Inbox()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    controller = Controller(inbox, hostname="127.0.0.1", port=port)
    controller.start()
    try:
        for name, value in {"HOST": "127.0.0.1", "PORT": str(port), "SECURITY": "none"}.items():
            settings_env.setenv(f"FRACTUREAI_SMTP_{name}", value)
        settings_env.setenv("FRACTUREAI_PUBLIC_URL", "https://xray.hospital.example")
        get_settings.cache_clear()
        add_target(site, "reader@hospital.example", Channel.EMAIL)
        positive("x", Triage.POSITIVE)
        assert deliver() == 1
        mail = inbox.got[0]
        assert mail.rcpt_tos == ["reader@hospital.example"]
        body = mail.content.decode()
        assert "Subject: FractureAI: a study needs to be looked at" in body
        assert "https://xray.hospital.example/studies/" in body
        assert "Anna" not in body
        refused = send_test(add_target(site, "refused@hospital.example", Channel.EMAIL)[0])
        deliver()
        assert row(refused).state == "failed"
    finally:
        controller.stop()
    away = send_test(add_target(site, "reader@hospital.example", Channel.EMAIL)[0])
    deliver()
    assert (row(away).state, row(away).attempts) == ("waiting", 1)

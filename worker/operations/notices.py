"""Delivers one notice: a signed webhook or an e-mail, tried again with growing pauses until given up."""

from __future__ import annotations

import json
import logging
import time
import uuid

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from settings import VERSION, Settings, get_settings
from store.base.session import session_scope
from store.base.tables import Notice, NoticeTarget, Work
from store.outgoing import notices
from store.outgoing.notices import Channel, Event, NoticeState
from store.queue import backoff, work
from store.queue.work import Lease
from worker.base.mail import EXCHANGES, Outcome, send_mail
from worker.base.outbound import Refused, post

log = logging.getLogger("fractureai.notices")

LONGEST_PAUSE = 12 * 3600.0
_GONE = 410
_SUBJECTS = {
    Event.POSITIVE_STUDY: "A study needs to be looked at",
    Event.AMENDED_STUDY: "A signed study has changed and needs to be read again",
    Event.FINISHED_BATCH: "A batch has ended",
    Event.STOPPED_DESTINATION: "An archive takes no results any more",
    Event.MONITORING_ALARM: "Findings are no longer as they were",
    Event.TEST: "A test notice",
}


def pause(attempt: int, settings: Settings) -> float:
    """Return the seconds to wait after the `attempt`-th try (from 1): five times longer each time."""
    return min(LONGEST_PAUSE, settings.notice_retry_seconds * 5.0 ** (attempt - 1))


def _longest(settings: Settings) -> float:
    """Return for how many seconds one try may last, with some to write down what came of it."""
    return EXCHANGES * settings.notice_timeout_seconds + 5


def send(lease: Lease) -> bool:
    """Try to deliver a notice, and write down what came of it; one whose target rests waits with it."""
    settings = get_settings()
    with session_scope() as session:
        unit = work.hold(session, lease)
        notice = session.get(Notice, lease.subject_id)
        target = _locked(session, notice.target_id) if notice else None
        if notice is None or target is None:
            work.pass_stage(session, unit, None)
            return False
        outcome = _refused(session, notice, target, settings)
        if outcome is None:
            wait = backoff.seconds_to_wait(session, target, _longest(settings))
            if wait:
                work.postpone(session, lease, wait)
                return False
    if outcome is None:
        deliver = _post if target.channel == Channel.WEBHOOK else _mail
        outcome = deliver(notice, target, settings)
    with session_scope() as session:
        unit = work.hold(session, lease)
        notice = session.get(Notice, lease.subject_id)
        if notice is None:
            work.pass_stage(session, unit, None)
            return False
        _write_down(session, lease, unit, notice, outcome, settings)
    if outcome.error:
        log.warning("notice %s: %s", lease.subject_id, outcome.error)
    return False


def _locked(session: Session, target_id: uuid.UUID) -> NoticeTarget | None:
    """Return the target, locked against other notices' tries, but not against new notices for it."""
    return session.get(NoticeTarget, target_id, with_for_update={"key_share": True}, populate_existing=True)


def _refused(session: Session, notice: Notice, target: NoticeTarget, settings: Settings) -> Outcome | None:
    """Return why a notice is not even tried, or None."""
    if target.removed_at is not None:
        return Outcome(error="the target was removed", final=True)
    age = func.extract("epoch", func.clock_timestamp() - Notice.created_at)
    waited = session.scalars(select(age).where(Notice.id == notice.id)).one()
    if waited > settings.unavailable_seconds:
        why = notice.error or target.last_error or "it was not tried"
        return Outcome(notice.status, f"given up after {waited / 86_400:.1f} days: {why}", final=True)
    return None


def _write_down(
    session: Session, lease: Lease, unit: Work, notice: Notice, outcome: Outcome, settings: Settings
) -> None:
    notice.attempts += 1
    notice.status, notice.error = outcome.status, outcome.error or None
    notice.tried_at = func.clock_timestamp()
    session.flush()
    target = _locked(session, notice.target_id)
    ended = not outcome.error or outcome.final or notice.attempts >= settings.notice_attempts
    if ended:
        notice.state = (NoticeState.FAILED if outcome.error else NoticeState.DELIVERED).value
        work.pass_stage(session, unit, None)
    if target is None:
        return
    if not outcome.error:
        notices.wake(session, target)
    elif not outcome.final:
        rest = pause(target.failures + 1, settings)
        notices.back_off(session, target, outcome.error, rest, _longest(settings))
        if not ended:
            work.postpone(session, lease, max(rest, pause(notice.attempts, settings)))


def _post(notice: Notice, target: NoticeTarget, settings: Settings) -> Outcome:
    body = json.dumps(notice.payload, separators=(",", ":")).encode()
    timestamp = int(time.time())
    headers = {
        "Content-Type": "application/json",
        "User-Agent": f"FractureAI/{VERSION}",
        "webhook-id": str(notice.id),
        "webhook-timestamp": str(timestamp),
        "webhook-signature": notices.sign(notices.secret_of(target), str(notice.id), timestamp, body),
    }
    try:
        status = post(
            target.address,
            body,
            headers,
            timeout=settings.notice_timeout_seconds,
            allow_private=settings.notice_private_addresses,
        )
    except Refused as error:
        return Outcome(error=str(error), final=True)
    except OSError as error:
        return Outcome(error=f"no answer: {type(error).__name__}")
    if 200 <= status < 300:
        return Outcome(status)
    return Outcome(status, f"the receiver answered {status}", final=status == _GONE)


def _mail(notice: Notice, target: NoticeTarget, settings: Settings) -> Outcome:
    if not settings.smtp_host:
        return Outcome(error="no mail server is set", final=True)
    data = notice.payload["data"]
    lines = [f"{_SUBJECTS[Event(notice.event)]}.", ""]
    if "counts" in data:
        lines += [f"{name}: {n}" for name, n in {**data["counts"], **data["triage"]}.items()] + [""]
    if "page" in data:
        lines += [str(data["page"]), ""]
    lines.append("AI output, to be verified by a clinician. Not a medical device.")
    subject = _SUBJECTS[Event(notice.event)].lower()
    return send_mail(target.address, subject, lines, mark=str(notice.id), settings=settings)

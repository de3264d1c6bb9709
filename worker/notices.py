"""Delivers one notice: a signed webhook or an e-mail, tried again with growing pauses until given up."""

from __future__ import annotations

import json
import logging
import time

from sqlalchemy import func

from settings import VERSION, Settings, get_settings
from store import notices, work
from store.notices import Channel, Event, NoticeState
from store.session import session_scope
from store.tables import Notice, NoticeTarget
from store.work import Lease
from worker.mail import Outcome, send_mail
from worker.outbound import Refused, post

log = logging.getLogger("fractureai.notices")

LONGEST_PAUSE = 12 * 3600.0
_GONE = 410
_SUBJECTS = {
    Event.POSITIVE_STUDY: "A study needs to be looked at",
    Event.FINISHED_BATCH: "A batch has ended",
    Event.TEST: "A test notice",
}


def pause(attempt: int, settings: Settings) -> float:
    """Return the seconds to wait after the `attempt`-th try (from 1): five times longer each time."""
    return min(LONGEST_PAUSE, settings.notice_retry_seconds * 5.0 ** (attempt - 1))


def send(lease: Lease) -> bool:
    """Try to deliver a notice, and write down what came of it."""
    settings = get_settings()
    with session_scope() as session:
        notice = session.get(Notice, lease.subject_id)
        target = session.get(NoticeTarget, notice.target_id) if notice else None
    if notice is None or target is None or target.removed_at is not None:
        outcome = Outcome(error="the target was removed", final=True)
    elif target.channel == Channel.WEBHOOK:
        outcome = _post(notice, target, settings)
    else:
        outcome = _mail(notice, target, settings)
    with session_scope() as session:
        unit = work.hold(session, lease)
        notice = session.get(Notice, lease.subject_id)
        if notice is None:
            work.pass_stage(session, unit, None)
            return False
        notice.attempts += 1
        notice.status, notice.error = outcome.status, outcome.error or None
        notice.tried_at = func.clock_timestamp()
        if not outcome.error or outcome.final or notice.attempts >= settings.notice_attempts:
            state = NoticeState.FAILED if outcome.error else NoticeState.DELIVERED
            notice.state = state.value
            work.pass_stage(session, unit, None)
        else:
            work.postpone(session, lease, pause(notice.attempts, settings))
    if outcome.error:
        log.warning("notice %s: %s", lease.subject_id, outcome.error)
    return False


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

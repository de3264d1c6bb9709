"""Mails people what happened to their own accounts."""

from __future__ import annotations

from settings import get_settings
from store.accounts.account_mails import WORDS, AccountEvent
from store.base.session import session_scope
from store.base.tables import AccountMail, Site, User
from store.queue import work
from store.queue.work import Lease
from vocabulary.times import moment
from worker.accounts.passwords import MailFailed
from worker.base.mail import send_mail


def send(lease: Lease) -> bool:
    """Mail what happened; what was sent, or cannot be, is forgotten."""
    settings = get_settings()
    with session_scope() as session:
        mail = session.get(AccountMail, lease.subject_id)
        user = session.get(User, mail.user_id) if mail else None
        site = session.get_one(Site, user.site_id) if user else None
    if mail is not None and user is not None and site is not None:
        subject, sentence = WORDS[AccountEvent(mail.event)]
        lines = [
            f"{sentence} {mail.said}".rstrip(),
            "",
            f"When: {moment(mail.at, zone=site.time_zone)}",
            "",
            "If it was not you, change your password and tell the administrator of your site.",
        ]
        outcome = send_mail(user.email, subject, lines, mark=str(lease.work_id), settings=settings)
        if outcome.error and not outcome.final:
            raise MailFailed(outcome.error)
    with session_scope() as session:
        work.end_unit(session, lease)
        if mail is not None:
            session.delete(session.get_one(AccountMail, mail.id))
    return False

"""Mails a one-time link to somebody who forgot their password; it is made here and lies nowhere else."""

from __future__ import annotations

from settings import get_settings
from store.accounts import accounts
from store.accounts.people import FORGOTTEN_MINUTES, can_reset
from store.base.session import session_scope
from store.base.tables import User
from store.queue import work
from store.queue.work import Lease
from worker.base.mail import send_mail


class MailFailed(Exception):
    """The mail server did not take the mail; the text says why, and is tried again."""


def mail_link(lease: Lease) -> bool:
    """Make a link for a new password and mail it to the person; one that was shut out meanwhile gets none."""
    settings = get_settings()
    with session_scope() as session:
        user = session.get(User, lease.subject_id)
        if user is None or not can_reset(user) or not settings.mails_links:
            work.end_unit(session, lease)
            return False
        address = user.email
        token = accounts.create_sign_in_token(session, user, minutes=FORGOTTEN_MINUTES, sets_password=True)
        accounts.write_audit(session, user.site_id, user.id, "password_link_mailed", user.id)
    link = f"{settings.public_url.rstrip('/')}/sign-in?token={token}"
    lines = [
        "Somebody, probably you, asked for a new password.",
        "",
        f"This link sets one. It works once, within {FORGOTTEN_MINUTES:.0f} minutes:",
        link,
        "",
        "If it was not you, do nothing: your password stays as it is.",
    ]
    outcome = send_mail(address, "a new password", lines, mark=str(lease.work_id), settings=settings)
    if outcome.error and not outcome.final:
        raise MailFailed(outcome.error)
    with session_scope() as session:
        work.end_unit(session, lease)
    return False

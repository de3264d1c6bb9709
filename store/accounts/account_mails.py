"""Mails to people about their own accounts, so that they notice what somebody else did in their name."""

from __future__ import annotations

from enum import StrEnum

from sqlalchemy.orm import Session

from settings import get_settings
from store.base.tables import AccountMail, Priority, User, WorkKind
from store.queue import work


class AccountEvent(StrEnum):
    """What happened to an account."""

    NEW_KEY = "new_key"
    PASSWORD_CHANGED = "password_changed"  # noqa: S105 - an event, not a password
    PASSWORD_LINK = "password_link"  # noqa: S105
    NEW_PLACE = "new_place"
    SECOND_FACTOR_SET = "second_factor_set"
    SECOND_FACTOR_REMOVED = "second_factor_removed"


#: Subject and sentence of each mail; a detail follows the sentence.
WORDS = {
    AccountEvent.NEW_KEY: ("a new API key", "An API key was made for your account:"),
    AccountEvent.PASSWORD_CHANGED: ("your password was changed", "The password of your account was changed."),
    AccountEvent.PASSWORD_LINK: (
        "a link for a new password",
        "An administrator made a link by which the password of your account can be changed.",
    ),
    AccountEvent.NEW_PLACE: ("a sign-in from a new place", "Somebody signed in to your account from"),
    AccountEvent.SECOND_FACTOR_SET: (
        "your second factor was set",
        "Signing in to your account takes a code of your authenticator app from now on.",
    ),
    AccountEvent.SECOND_FACTOR_REMOVED: (
        "your second factor was removed",
        "Signing in to your account takes no code of an authenticator app any more.",
    ),
}


def tell(session: Session, user: User, event: AccountEvent, said: str = "") -> None:
    """Queue a mail to a person, where there is a mail server; part of the transaction that did it."""
    if not get_settings().smtp_host:
        return
    mail = AccountMail(user_id=user.id, event=event.value, said=said)
    session.add(mail)
    session.flush()
    work.add_unit(
        session,
        WorkKind.ACCOUNT_MAIL,
        site_id=user.site_id,
        subject_id=mail.id,
        priority=Priority.URGENT,
    )

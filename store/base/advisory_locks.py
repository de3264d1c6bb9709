"""The advisory locks of the database: every number that is taken, and for what."""

from __future__ import annotations

from enum import IntEnum, unique

from sqlalchemy import Connection, text
from sqlalchemy.orm import Session


@unique
class AdvisoryLock(IntEnum):
    """What is done by one at a time. A number stays with its purpose: another version may hold it."""

    MIGRATIONS = 7211
    FIRST_SITE = 7212
    #: Held by the active `worker.reconcile` as long as it lives: no step that it calls may ask for it.
    RECONCILE = 7213
    #: Of a site.
    SHADOW_RUN = 7214
    MONITORING = 7215
    #: Of whom attempts count for.
    SIGN_IN = 7216
    #: Taken by the database itself, in `audit_link_new`.
    AUDIT_CHAIN = 7218


def wait_for_lock(session: Session | Connection, lock: AdvisoryLock, of: str = "") -> None:
    """Wait until nobody else has the lock; the transaction's end gives it back.

    Parameters
    ----------
    of
        Whose lock it is, where each has one: others with another text do not wait.
    """
    if of:
        session.execute(
            text("SELECT pg_advisory_xact_lock(:lock, hashtext(:of))"), {"lock": int(lock), "of": of}
        )
    else:
        session.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": int(lock)})


def try_to_hold(connection: Connection, lock: AdvisoryLock) -> bool:
    """Take the lock for as long as the connection lives; return False where somebody has it."""
    return bool(connection.scalar(text("SELECT pg_try_advisory_lock(:lock)"), {"lock": int(lock)}))

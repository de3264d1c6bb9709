"""Counts failed sign-ins by address and by person over a sliding window, for all web processes together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta

from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from store.accounts.accounts import hash_token
from store.base.advisory_locks import AdvisoryLock, wait_for_lock
from store.base.tables import SignInAttempt

WINDOW = timedelta(minutes=15)


def try_sign_in(session: Session, limits: Mapping[str, int]) -> list[int] | None:
    """Count an attempt before it is looked at, so that many at once are not more than many in a row.

    Commit before the password is looked at; pass what is returned to `clear_attempts` when it was right.

    Parameters
    ----------
    limits
        Whom the attempt counts for, and how many of theirs are allowed within `WINDOW`.

    Returns
    -------
    list of int, or None
        The attempt's rows; None when it is one too many, which is not counted.
    """
    hashes = {hash_token(key): most for key, most in limits.items()}
    for key_hash in sorted(hashes):
        wait_for_lock(session, AdvisoryLock.SIGN_IN, of=key_hash)
    for key_hash, most in hashes.items():
        recent = select(func.count()).where(
            SignInAttempt.key_hash == key_hash, SignInAttempt.at > func.clock_timestamp() - WINDOW
        )
        if (session.scalar(recent) or 0) >= most:
            return None
    rows = [{"key_hash": key_hash} for key_hash in hashes]
    return list(session.scalars(insert(SignInAttempt).values(rows).returning(SignInAttempt.id)))


def clear_attempts(session: Session, attempt: Sequence[int]) -> None:
    """Take an attempt back: it was the right person."""
    session.execute(delete(SignInAttempt).where(SignInAttempt.id.in_(attempt)))


def delete_old(session: Session) -> None:
    """Delete attempts that no longer count."""
    session.execute(delete(SignInAttempt).where(SignInAttempt.at < func.clock_timestamp() - WINDOW))

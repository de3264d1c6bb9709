"""Hashes passwords with argon2id, a few at a time: each hash takes 64 MiB, and strangers choose how many."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerifyMismatchError

from store.base.errors import SignInBusy

#: Of one process. Those that wait hold a thread each, and the database's connection of their request.
AT_ONCE, WAITING = 2, 6
WAIT_SECONDS = 10.0

_hasher = PasswordHasher()
_running = threading.BoundedSemaphore(AT_ONCE)
_admitted = threading.BoundedSemaphore(AT_ONCE + WAITING)
#: Compared with when there is no such person, so that the answer takes as long.
_NOBODY = _hasher.hash(secrets.token_urlsafe(16))


@contextmanager
def _turn() -> Iterator[None]:
    if not _admitted.acquire(blocking=False):
        raise SignInBusy
    try:
        if not _running.acquire(timeout=WAIT_SECONDS):
            raise SignInBusy
        try:
            yield
        finally:
            _running.release()
    finally:
        _admitted.release()


def hash_password(password: str) -> str:
    """Return the hash under which a password is kept.

    Raises
    ------
    SignInBusy
    """
    with _turn():
        return _hasher.hash(password)


def matches(password_hash: str | None, password: str) -> bool:
    """Tell whether this is the password of the hash; as slow without one, and then false.

    Raises
    ------
    SignInBusy
    """
    with _turn():
        try:
            return _hasher.verify(password_hash or _NOBODY, password) and password_hash is not None
        except (VerifyMismatchError, InvalidHashError):
            return False


def is_outdated(password_hash: str) -> bool:
    """Tell whether a hash was made with weaker parameters than today's."""
    return _hasher.check_needs_rehash(password_hash)

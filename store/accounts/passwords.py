"""Says which passwords are too common, and hashes them with argon2id.

A few are hashed at a time: each hash takes 64 MiB, and strangers choose how many.
"""

from __future__ import annotations

import gzip
import itertools
import re
import secrets
import string
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

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


#: Made by scripts/common_passwords.py.
COMMON = Path(__file__).with_name("common_passwords.txt.gz")
#: So much has to be left of a password without the words that are on everybody's mind here.
LEAST_OF_ONES_OWN = 6
#: Letters that are written as digits and signs.
_DISGUISED = str.maketrans("@013457$!", "aoieastsi")
_AROUND = string.digits + string.punctuation + " "


@cache
def _common() -> frozenset[str]:
    return frozenset(gzip.decompress(COMMON.read_bytes()).decode().split())


def is_common(password: str, words: Iterable[str] = ()) -> bool:
    """Tell whether a guesser would try this password early.

    That is one of the list, alone or between digits and punctuation, `words` with little besides, something
    short that repeats, and a row of the alphabet or of digits.

    Parameters
    ----------
    words
        Of the context: the service's name, the person's address, the site.
    """
    plain = password.casefold()
    own = plain
    for word in sorted({word.casefold() for word in words if len(word) >= 3}, key=len, reverse=True):
        own = own.replace(word, "")
    if len(own) < LEAST_OF_ONES_OWN or len(set(plain)) < 4:
        return True
    if re.fullmatch(r"(.{1,5})\1+.{0,4}", plain, re.DOTALL):
        return True
    steps = {ord(after) - ord(before) for before, after in itertools.pairwise(plain)}
    if len(steps) == 1:
        return True
    forms = (plain, plain.translate(_DISGUISED))
    return not _common().isdisjoint({*forms, *(form.strip(_AROUND) for form in forms)})


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

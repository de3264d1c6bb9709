"""Which passwords are refused, how they are kept, and that many at one time take little memory."""

from __future__ import annotations

import subprocess
import sys

import pytest

from store.accounts.passwords import hash_password, is_common, matches
from tests.conftest import ROOT

PROGRAM = """
import resource, threading
from store.accounts import passwords
from store.base.errors import SignInBusy
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
outcomes = []
def sign_in():
    try:
        outcomes.append(passwords.matches(None, "a password"))
    except SignInBusy:
        outcomes.append("busy")
threads = [threading.Thread(target=sign_in) for _ in range(48)]
[t.start() for t in threads]
[t.join() for t in threads]
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(grown // 1024, outcomes.count("busy"), outcomes.count(False))
"""


def test_48_sign_ins_at_once_stay_small() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, check=True, capture_output=True, text=True
    )
    megabytes, busy, checked = map(int, done.stdout.split())
    assert megabytes < 64 * 4, "two hashes at one time, of 64 MiB each"
    assert busy + checked == 48
    assert checked >= 2


def test_a_password_matches_its_own_hash_alone() -> None:
    kept = hash_password("a long sentence")
    assert matches(kept, "a long sentence")
    assert not matches(kept, "another sentence")
    assert not matches("no hash", "a long sentence")
    assert not matches(None, "a long sentence")


def test_a_password_is_hashed_by_argon2id_with_much_memory() -> None:
    assert hash_password("a sentence is easy").startswith("$argon2id$v=19$m=65536,t=3,")
    assert hash_password("a sentence is easy") != hash_password("a sentence is easy")


def test_every_character_of_a_long_password_counts() -> None:
    long = "a sentence \u9aa8 \N{SKULL} " * 40
    kept = hash_password(long)
    assert matches(kept, long)
    assert not matches(kept, long[:-1])
    assert not matches(kept, long[:72])
    assert not matches(kept, long.upper())


CONTEXT = ("fractureai", "ada", "lovelace", "North", "Hospital")


@pytest.mark.parametrize(
    "password",
    [
        *("1234567890", "qwertyuiop", "Manchester1", "password123", "Passw0rd!!!", "abcdefghijkl"),
        *("9876543210", "understanding", "aaaaaaaaaaaa", "abababababab", "FractureAI-2026", "ada.lovelace"),
        *("North Hospital 1", "sunshine 2026!", "letmein123456", "1qaz2wsx3edc"),
    ],
)
def test_a_password_that_guessers_try_early_is_common(password: str) -> None:
    assert is_common(password, CONTEXT)


@pytest.mark.parametrize(
    "password",
    [
        "a sentence is easy",
        "correct horse battery",
        "kqzvwtyrpl",
        "North by 7 rivers",
        "骨折" * 2 + "かもしれない",
    ],
)
def test_a_password_of_ones_own_is_not(password: str) -> None:
    assert not is_common(password, CONTEXT)

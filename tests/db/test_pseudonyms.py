"""The keyed hash of patient ids: slow to guess, cheap to use, the same for what an earlier version kept."""

from __future__ import annotations

import hashlib
import hmac
import uuid

import pytest

from store.accounts import sites
from store.accounts.sites import pseudonymiser

SECRET = b"a secret for tests alone"


def quick(site_id: uuid.UUID, identity: str) -> str:
    """The hash that earlier versions kept."""
    key = hmac.new(SECRET, b"patient-pseudonym:" + site_id.bytes, hashlib.sha256).digest()
    return hmac.new(key, identity.encode(), hashlib.sha256).hexdigest()


def test_the_hash_by_hand_a_site_and_a_patient(settings_env: pytest.MonkeyPatch) -> None:
    one, other = uuid.UUID(int=1), uuid.UUID(int=2)
    salt = hmac.new(SECRET, b"patient-pseudonym-scrypt:" + one.bytes, hashlib.sha256).digest()
    expected = hashlib.scrypt(
        bytes.fromhex(quick(one, "KH|4711")), salt=salt, n=4096, r=8, p=1, dklen=32
    ).hex()
    pseudonymise = pseudonymiser(one)
    assert pseudonymise("KH|4711") == expected
    assert pseudonymise(quick(one, "KH|4711")) == expected  # a copy of an earlier version
    assert (
        len({expected, pseudonymise("KH|4712"), pseudonymise("|4711"), pseudonymiser(other)("KH|4711")}) == 4
    )


def test_a_patient_is_hashed_slowly_once(
    settings_env: pytest.MonkeyPatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    scrypt = hashlib.scrypt

    def counted(password: bytes, **options: int) -> bytes:
        calls.append(password)
        return scrypt(password, **options)

    monkeypatch.setattr(sites.hashlib, "scrypt", counted)
    pseudonymise = pseudonymiser(uuid.uuid4())
    assert len({pseudonymise(f"|{n % 5}") for n in range(200)}) == 5
    assert len(calls) == 5

"""The private keys that open sealed identities: files that their owner alone reads, never in a backup."""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from store.intake.envelopes import Binding, EnvelopeUnreadable, key_id_of, open_sealed, sealed_to

_SUFFIX = ".key"


class KeyMissing(Exception):
    """There is no private key for an envelope here; the message says which."""


def make_key_pair(folder: Path) -> bytes:
    """Make a key pair, leave the private key in the folder, and return the public one."""
    key = X25519PrivateKey.generate()
    public = key.public_key().public_bytes_raw()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / f"{key_id_of(public)}{_SUFFIX}"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400)
    with os.fdopen(descriptor, "w") as file:
        file.write(key.private_bytes_raw().hex() + "\n")
        file.flush()
        os.fsync(file.fileno())
    return public


class KeyRing:
    """The private keys in a folder.

    Parameters
    ----------
    folder
        Empty: there are none.
    """

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder) if folder else None

    def open(self, sealed: bytes, binding: Binding) -> bytes:
        """Return what an envelope holds.

        Raises
        ------
        KeyMissing
            Its key is not here, or others than its owner may read it.
        EnvelopeUnreadable
        """
        name = sealed_to(sealed)
        if self._folder is None:
            raise KeyMissing("FRACTUREAI_GATEWAY_KEYS names no folder")
        path = self._folder / f"{name}{_SUFFIX}"
        try:
            if path.stat().st_mode & 0o077:
                raise KeyMissing(f"others may read the private key {name}; chmod 400")
            private = bytes.fromhex(path.read_text().strip())
        except (OSError, ValueError) as error:
            raise KeyMissing(f"the private key {name} is not here ({type(error).__name__})") from None
        if len(private) != 32:
            raise EnvelopeUnreadable
        return open_sealed(private, sealed, binding)

"""The private keys that open sealed identities: files of their owner alone, or given out by a KMS."""

from __future__ import annotations

import os
import shlex
import subprocess
from functools import lru_cache
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


#: That a command may take to give a key out.
COMMAND_SECONDS = 30.0


@lru_cache(maxsize=64)
def _issued_key(command: str, name: str) -> bytes:
    """Return the private key that a command prints, kept while the process lives. Raises `KeyMissing`."""
    try:
        done = subprocess.run(
            [*shlex.split(command), name],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=COMMAND_SECONDS,
            check=True,
        )
        return bytes.fromhex(done.stdout.decode("ascii").strip())
    except (OSError, ValueError, subprocess.SubprocessError) as error:  # what it prints may hold the key
        kind = type(error).__name__
        raise KeyMissing(f"the command gives no private key {name} out ({kind})") from None


def _is_open(path: Path) -> bool:
    """Tell whether others may read a file; its group may where an orchestrator put it there."""
    found = path.stat()
    mine = found.st_uid == os.geteuid()
    return bool(found.st_mode & (0o077 if mine else 0o037))


class KeyRing:
    """The private keys in a folder, or behind a command.

    Parameters
    ----------
    folder
        Empty: there are none.
    command
        Of a KMS: prints the private key, in hexadecimal, whose name is its last argument. Empty: none.
    """

    def __init__(self, folder: str, command: str = "") -> None:
        self._folder = Path(folder) if folder else None
        self._command = command

    def has(self, name: str) -> bool:
        """Tell whether a private key can be had."""
        try:
            self._private(name)
        except (KeyMissing, EnvelopeUnreadable):
            return False
        return True

    def _private(self, name: str) -> bytes:
        if self._command:
            private = _issued_key(self._command, name)
        elif self._folder is None:
            raise KeyMissing("FRACTUREAI_GATEWAY_KEYS names no folder")
        else:
            path = self._folder / f"{name}{_SUFFIX}"
            try:
                if _is_open(path):
                    raise KeyMissing(f"others may read the private key {name}; chmod 400")
                private = bytes.fromhex(path.read_text().strip())
            except (OSError, ValueError) as error:
                kind = type(error).__name__
                raise KeyMissing(f"the private key {name} is not here ({kind})") from None
        if len(private) != 32:
            raise EnvelopeUnreadable
        return private

    def open(self, sealed: bytes, binding: Binding) -> bytes:
        """Return what an envelope holds.

        Raises
        ------
        KeyMissing
            Its key is not here, or others than its owner may read it.
        EnvelopeUnreadable
        """
        return open_sealed(self._private(sealed_to(sealed)), sealed, binding)

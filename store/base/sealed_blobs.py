"""Blobs that nobody reads who has only the blob store: what was sent, until it has lost its names.

AES-256-GCM in segments, as Tink's streaming AEAD has them: each file has a key of its own, derived (HKDF,
RFC 5869) from the secret key, the site and a salt. A segment's nonce is its number and whether it is the
last: none can be left out, moved or added. A file is bound to its blob's key and opens under no other.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from io import BytesIO
from itertools import chain
from typing import IO, Protocol, cast

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from settings import get_settings
from store.base.blobs import CHUNK, BlobGroup, get_blobs
from store.base.errors import BlobAltered

#: Begins no file of a kind that is taken.
MAGIC = b"\x89FAU1\r\n\x1a"
_SALT, _TAG = 32, 16
_HEAD = len(MAGIC) + 16 + _SALT
#: Bytes of a segment as it lies in the store, and as it was.
_SEALED = CHUNK
_PLAIN = _SEALED - _TAG


class Readable(Protocol):
    """Bytes that come one piece after the other."""

    def read(self, n: int = -1, /) -> bytes:
        """Return at most `n` bytes, none at the end."""


def _cipher(head: bytes) -> AESGCM:
    secret = get_settings().require("secret_key").secret_key.encode()
    site, salt = head[len(MAGIC) :][:16], head[-_SALT:]
    return AESGCM(HKDF(SHA256(), 32, salt=salt, info=b"fractureai upload 1" + site).derive(secret))


def _nonce(number: int, *, last: bool) -> bytes:
    return number.to_bytes(11, "big") + bytes([last])


class _Sealing:
    """What is read of it is the sealed form of what it reads."""

    def __init__(self, key: str, site_id: uuid.UUID, source: Readable) -> None:
        self._source = source
        self._head = MAGIC + site_id.bytes + os.urandom(_SALT)
        self._cipher = _cipher(self._head)
        self._bound = self._head + key.encode()
        self._plain, self._out = bytearray(), bytearray(self._head)
        self._number = 0
        self._ended = False
        self.size = 0

    def read(self, n: int = -1) -> bytes:
        """Return at most `n` bytes, none at the end."""
        if not self._out and not self._ended:
            self._seal_next()
        taken = bytes(self._out if n < 0 else self._out[:n])
        del self._out[: len(taken)]
        return taken

    def _seal_next(self) -> None:
        # one byte more than a segment tells whether it is the last
        while len(self._plain) <= _PLAIN and (piece := self._source.read(CHUNK)):
            self._plain += piece
            self.size += len(piece)
        self._ended = len(self._plain) <= _PLAIN
        segment = bytes(self._plain[:_PLAIN])
        del self._plain[:_PLAIN]
        self._out += self._cipher.encrypt(_nonce(self._number, last=self._ended), segment, self._bound)
        self._number += 1


def put_sealed(
    key: str, site_id: uuid.UUID, data: bytes | Readable, *, group: BlobGroup | None = None
) -> int:
    """Store bytes under `key` so that only who has the secret key can read them; return how many they were.

    With a `group` they are stored when that is kept. Raises `BlobFull`, `BlobUnavailable`.
    """
    source = BytesIO(data) if isinstance(data, bytes) else data
    sealing = _Sealing(key, site_id, source)
    (group or get_blobs()).put(key, cast(IO[bytes], sealing))  # only `read` is called
    return sealing.size


def stream_opened(key: str) -> Iterator[bytes]:
    """Yield the bytes that were sealed under `key`. One that an earlier version stored in clear is as it is.

    Raises
    ------
    BlobMissing
        Before the first piece.
    BlobAltered
        They are not those that were sealed, or were sealed under another key.
    """
    pieces = get_blobs().stream(key)  # raises before the first piece
    return _opened(key, pieces)


def _opened(key: str, pieces: Iterator[bytes]) -> Iterator[bytes]:
    buffer = bytearray()
    for piece in pieces:
        buffer += piece
        if len(buffer) >= _HEAD:
            break
    if not buffer.startswith(MAGIC):
        yield bytes(buffer)
        yield from pieces
        return
    head = bytes(buffer[:_HEAD])
    if len(head) < _HEAD:
        raise BlobAltered
    del buffer[:_HEAD]
    cipher, bound, number = _cipher(head), head + key.encode(), 0
    try:
        for piece in chain([b""], pieces):
            buffer += piece
            while len(buffer) > _SEALED:  # more follows: it is not the last
                yield cipher.decrypt(_nonce(number, last=False), bytes(buffer[:_SEALED]), bound)
                del buffer[:_SEALED]
                number += 1
        yield cipher.decrypt(_nonce(number, last=True), bytes(buffer), bound)
    except InvalidTag:
        raise BlobAltered from None


def get_opened(key: str) -> bytes:
    """Return the bytes that were sealed under `key`. Raises `BlobMissing`, `BlobAltered`."""
    return b"".join(stream_opened(key))

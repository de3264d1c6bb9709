"""What was sent lies sealed in the blob store, and opens only whole, unaltered, in its own place."""

from __future__ import annotations

import io
import os
import random
import uuid

import pytest

from settings import get_settings
from store.base import sealed_blobs
from store.base.blobs import CHUNK, BlobStore
from store.base.errors import BlobAltered, BlobMissing
from store.base.sealed_blobs import get_opened, put_sealed, stream_opened

SITE = uuid.UUID(int=7)
SEGMENT = sealed_blobs._SEALED
HEAD = sealed_blobs._HEAD


class Dribble:
    """Gives its bytes in pieces of odd sizes, as a network does."""

    def __init__(self, data: bytes) -> None:
        self._data, self._random = io.BytesIO(data), random.Random(1)

    def read(self, n: int = -1) -> bytes:
        return self._data.read(self._random.randint(1, 3 * CHUNK // 2))


PLAIN = SEGMENT - 16


@pytest.mark.parametrize("size", [0, 1, PLAIN - 1, PLAIN, PLAIN + 1, 2 * PLAIN, 3 << 20])
def test_what_is_sealed_opens_and_says_nothing(blobs: BlobStore, size: int) -> None:
    data = os.urandom(64) * (size // 64 + 1)
    data = data[:size]
    assert put_sealed("incoming/a/b", SITE, Dribble(data)) == size
    lying = blobs.get("incoming/a/b")
    segments = max(1, -(-size // PLAIN))
    assert len(lying) == HEAD + size + 16 * segments
    assert size < 16 or data[:64] not in lying
    assert get_opened("incoming/a/b") == data
    put_sealed("incoming/a/c", SITE, data)
    assert blobs.get("incoming/a/c")[HEAD:] != lying[HEAD:], "the same bytes twice cannot be told"


def test_it_opens_whole_and_in_its_place_only(blobs: BlobStore, settings_env: pytest.MonkeyPatch) -> None:
    put_sealed("incoming/a/b", SITE, os.urandom(3 << 20))
    lying = blobs.get("incoming/a/b")
    one, two = slice(HEAD, HEAD + SEGMENT), slice(HEAD + SEGMENT, HEAD + 2 * SEGMENT)
    wrong = {
        "cut in a segment": lying[:-1],
        "cut between segments": lying[: HEAD + SEGMENT],
        "a segment left out": lying[:HEAD] + lying[two] + lying[HEAD + 2 * SEGMENT :],
        "two changed about": lying[:HEAD] + lying[two] + lying[one] + lying[HEAD + 2 * SEGMENT :],
        "a bit": lying[:-20] + bytes([lying[-20] ^ 1]) + lying[-19:],
        "more at the end": lying + b"\0",
        "another site": lying[:8] + uuid.UUID(int=8).bytes + lying[24:],
        "hardly begun": lying[:20],
    }
    for what, data in wrong.items():
        blobs.put("incoming/a/b", data)
        with pytest.raises(BlobAltered):
            pytest.fail(f"{what}: {len(get_opened('incoming/a/b'))}")
    blobs.put("incoming/a/c", lying)  # another image's place
    with pytest.raises(BlobAltered):
        get_opened("incoming/a/c")
    blobs.put("incoming/a/b", lying)
    settings_env.setenv("FRACTUREAI_SECRET_KEY", "another secret")
    get_settings.cache_clear()
    with pytest.raises(BlobAltered):
        get_opened("incoming/a/b")


def test_what_an_earlier_version_left_in_clear_is_read(blobs: BlobStore) -> None:
    for data in (b"", b"\x89PNG", os.urandom(3 << 20)):
        blobs.put("incoming/a/b", data)
        assert get_opened("incoming/a/b") == data
    with pytest.raises(BlobMissing):
        stream_opened("incoming/a/x")

"""Which images a bundle was fitted on: by the hash of their files, and by what they look like.

A bundle names the beginnings of their SHA-256 (`fitted_on.txt`), and since looks are kept, the perceptual
hash of each (`looks.bin`). The bundles that were shipped before have theirs in a file beside their folders: a
bundle never changes once it is served.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path

from models.bundle import Bundle, BundleError
from pipeline.lookalikes import ALIKE, LOOK_BYTES, nearest

#: Hex digits of a SHA-256 that a bundle names.
DIGITS = 12
_SHIPPED = Path(__file__).resolve().parent / "bundles" / "looks.bin"
_SHIPPED_SHA256 = "0879a341459b5af0f50823f0084759db82342e7b3e2948d93f02ba152d75ba95"
_RECORD = DIGITS // 2 + LOOK_BYTES


class FoundBy(StrEnum):
    """How an image was found among those that a bundle was fitted on."""

    FILE = "file"
    LOOK = "look"


@dataclass(frozen=True)
class FittedOn:
    """What a bundle says of the images that it was fitted on.

    Attributes
    ----------
    digests
        The first `DIGITS` hex digits of the SHA-256 of each.
    looks
        Of those of which it is known.
    """

    digests: frozenset[str]
    looks: tuple[bytes, ...]

    @property
    def has_all_looks(self) -> bool:
        """Tell whether the look of every image is known."""
        return len(self.looks) == len(self.digests)

    def find(self, images: Sequence[tuple[str, bytes | None]]) -> list[FoundBy | None]:
        """Tell of each image, given by its SHA-256 and its look, how it was found among them, if it was."""
        alike = self._alike([look for _, look in images if look])
        return [
            FoundBy.FILE
            if sha256[:DIGITS] in self.digests
            else FoundBy.LOOK
            if look is not None and alike.get(look)
            else None
            for sha256, look in images
        ]

    def _alike(self, looks: Sequence[bytes]) -> dict[bytes, bool]:
        asked = sorted(set(looks))
        return dict(zip(asked, (nearest(asked, self.looks) <= ALIKE).tolist(), strict=True))


def fitted_on(bundle: Bundle) -> FittedOn:
    """Return which images a bundle was fitted on.

    Raises
    ------
    BundleError
        The looks of the shipped bundles are missing or altered.
    """
    return FittedOn(digests_of(bundle), tuple(looks_of(bundle).values()))


def looks_of(bundle: Bundle) -> dict[str, bytes]:
    """Return the looks of the images that a bundle was fitted on, by the beginnings of their SHA-256."""
    digests, own = digests_of(bundle), bundle.manifest.get("looks")
    known = _read((bundle.folder / own["file"]).read_bytes()) if own else _shipped()
    return {digest: look for digest, look in sorted(known.items()) if digest in digests}


def digests_of(bundle: Bundle) -> frozenset[str]:
    """Return the first `DIGITS` hex digits of the SHA-256 of each image that a bundle was fitted on."""
    entry = bundle.manifest.get("fitted_on")
    return frozenset((bundle.folder / entry["file"]).read_text().split()) if entry else frozenset()


@cache
def _shipped() -> Mapping[str, bytes]:
    try:
        data = _SHIPPED.read_bytes()
    except OSError as error:
        raise BundleError(f"the looks of the shipped bundles are missing: {error}") from error
    if hashlib.sha256(data).hexdigest() != _SHIPPED_SHA256:
        raise BundleError(f"{_SHIPPED.name}, the looks of the shipped bundles, was altered")
    return _read(data)


def written(looks: Iterable[tuple[str, bytes]]) -> bytes:
    """Return looks by SHA-256 as a file holds them: the digest's beginning and the look, sorted."""
    return b"".join(sorted(bytes.fromhex(sha256[:DIGITS]) + look for sha256, look in looks))


def _read(data: bytes) -> dict[str, bytes]:
    records = (data[at : at + _RECORD] for at in range(0, len(data), _RECORD))
    return {record[: DIGITS // 2].hex(): record[DIGITS // 2 :] for record in records}

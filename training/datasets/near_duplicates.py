"""Near-duplicate pictures: a perceptual hash of 256 bits, pairs within a Hamming distance, groups of pairs.

The hash is the difference hash (dHash: N. Krawetz, "Kind of Like That", 2013) on 16 x 16 cells: whether each
cell is brighter than its left neighbour. It stands against rescaling, recompression, and changes of
brightness and contrast, not against mirroring or turning.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.types import UInt8Array

HASH_BYTES = 32
#: Bits of 256 in which near-duplicates may differ.
NEAR = 10

_SIDE = 16
_BLOCK = 256


def difference_hash(pixels: UInt8Array) -> bytes:
    """Return the hash of a picture, `HASH_BYTES` long.

    Parameters
    ----------
    pixels
        uint8, shape (height, width).
    """
    small = cv2.resize(pixels, (_SIDE + 1, _SIDE), interpolation=cv2.INTER_AREA)
    return np.packbits(small[:, 1:] > small[:, :-1]).tobytes()


def near_pairs(hashes: Sequence[bytes], distance: int = NEAR) -> npt.NDArray[np.int64]:
    """Return the pairs (i, j), i < j, whose hashes differ in at most `distance` bits, shape (n, 2).

    Every pair is looked at, on a quarter of its bits first: 40,000 pictures take seconds.
    """
    if len(hashes) < 2:
        return np.zeros((0, 2), np.int64)
    # each word takes every fourth byte, so that the first one sees the whole picture
    table = np.frombuffer(b"".join(hashes), np.uint8).reshape(len(hashes), -1, 4)
    words = np.ascontiguousarray(table.transpose(0, 2, 1)).view(np.uint64)[..., 0]
    found = []
    for start in range(0, len(words), _BLOCK):
        block = words[start : start + _BLOCK]
        rest = words[start:]
        maybe = np.bitwise_count(block[:, :1] ^ rest[None, :, 0]) <= distance
        i, j = np.nonzero(maybe)
        i, j = i[j > i], j[j > i]
        near = np.bitwise_count(block[i] ^ rest[j]).sum(axis=1) <= distance
        found.append(np.column_stack([i[near], j[near]]) + start)
    return np.concatenate(found)


def joined(names: Iterable[str], links: Iterable[Sequence[str]]) -> dict[str, str]:
    """Return for each name the first name of its group; the members of a link belong together.

    Parameters
    ----------
    links
        Each of one or more names; a name may stand in several.
    """
    parent = {name: name for name in names}

    def root(name: str) -> str:
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    for first, *others in links:
        for other in others:
            low, high = sorted((root(first), root(other)))
            parent[high] = low
    return {name: root(name) for name in parent}

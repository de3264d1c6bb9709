"""Look-alikes: a perceptual hash of a picture, and which of many known pictures another one looks like.

The hash is the DCT hash (C. Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions",
2010) with 16 x 16 coefficients: whether each of the lowest frequencies of the picture, brought to 32 x 32,
lies above their median. Saving again, another size, brightness and contrast change few of its bits; turning,
mirroring and cutting more than a little off change many. ``python -m bench.lookalikes`` measures how many.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.types import UInt8Array

LOOK_BYTES = 32
#: Bits of 256 in which pictures of one film may differ.
ALIKE = 28

_SIDE, _FREQUENCIES = 32, 16
_BLOCK = 256


def look_of(pixels: UInt8Array) -> bytes:
    """Return the hash of a grey picture, `LOOK_BYTES` long.

    Parameters
    ----------
    pixels
        uint8, shape (height, width).
    """
    small = cv2.resize(pixels.astype(np.float32), (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    low = cv2.dct(small)[:_FREQUENCIES, :_FREQUENCIES].ravel()
    low[0] = 0  # the mean brightness says nothing
    return np.packbits(low > np.median(low)).tobytes()


def nearest(looks: Sequence[bytes], known: Sequence[bytes]) -> npt.NDArray[np.int64]:
    """Return for each hash the bits to the nearest known one; more than all where none is known."""
    if not looks or not known:
        return np.full(len(looks), 8 * LOOK_BYTES + 1, np.int64)
    asked, table = (
        np.frombuffer(b"".join(each), np.uint64).reshape(len(each), -1) for each in (looks, known)
    )
    found = [
        np.bitwise_count(asked[start : start + _BLOCK, None] ^ table[None])
        .sum(axis=2, dtype=np.int64)
        .min(axis=1)
        for start in range(0, len(asked), _BLOCK)
    ]
    return np.concatenate(found)

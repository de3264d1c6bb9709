"""A radiograph at full depth, as a viewer windows it: every grey value that the file holds, and its windows.

The picture that people see and networks read has 256 levels; a detector gives 4,096 or more. What is written
here is a PNG of 8 or 16 bits whose values are the file's own, upright and bone bright, with one text chunk:
how to look at them, how large a pixel is, and which way the body lies.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.types import UInt8Array

#: The keyword of the text chunk.
KEYWORD = "fractureai"
#: Points of a window that is no straight line.
_POINTS = 256
#: Levels by which a straight line may differ from a table.
_STRAIGHT = 2
_IHDR_END = 8 + 25

Values = npt.NDArray[Any]


@dataclass(frozen=True)
class Window:
    """How values become grey levels: black up to `low`, white from `high`.

    Attributes
    ----------
    name
        For a person.
    curve
        Levels at 256 even steps from `low` to `high`; None for a straight line.
    """

    name: str
    low: float
    high: float
    curve: tuple[int, ...] | None = None


@dataclass(frozen=True)
class FullDepth:
    """A radiograph at full depth.

    Attributes
    ----------
    values
        uint8 or uint16, shape (height, width), bone bright.
    bits
        How many bits of them the file uses.
    windows
        At least one; the first is that of the picture that the networks read.
    spacing
        Height and width of a pixel in millimetres; None where the file does not say.
    plane
        Where that was measured: ``"detector"``, ``"calibrated"``, ``"film"``, or empty.
    orientation
        Patient Orientation (0020,0020): where rows and columns lead to; empty where not stated.
    """

    values: Values
    bits: int
    windows: tuple[Window, ...]
    spacing: tuple[float, float] | None = None
    plane: str = ""
    orientation: tuple[str, ...] = ()

    def inverted(self) -> FullDepth:
        """Return it black for white."""
        most = (1 << self.bits) - 1
        return replace(
            self,
            values=np.asarray(most - self.values, self.values.dtype),
            windows=tuple(_inverted(window, most) for window in self.windows),
        )

    def png(self) -> bytes:
        """Write it."""
        said = {
            "bits": self.bits,
            "windows": [asdict(window) for window in self.windows],
            "spacing": self.spacing,
            "plane": self.plane,
            "orientation": self.orientation,
        }
        done, coded = cv2.imencode(".png", self.values)
        if not done:
            raise ValueError(f"cannot encode {self.values.dtype} {self.values.shape} as PNG")
        data = bytes(coded)
        text = b"tEXt" + KEYWORD.encode() + b"\0" + json.dumps(said, separators=(",", ":")).encode("ascii")
        chunk = struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))
        return data[:_IHDR_END] + chunk + data[_IHDR_END:]


def _inverted(window: Window, most: int) -> Window:
    curve = window.curve and tuple(255 - level for level in reversed(window.curve))
    return Window(window.name, most - window.high, most - window.low, curve)


def window_of(name: str, table: UInt8Array) -> Window | None:
    """Return a table of grey levels, one a value, as a window; None for one that never changes."""
    changes = np.flatnonzero(np.diff(table.astype(np.int16)))
    if not changes.size:
        return None
    first, last = int(changes[0]), int(changes[-1])
    # a level begins where the line is half a level below it
    width = max((last - first) * 255 / 254, 1.0)
    low = first + 0.5 - width * 0.5 / 255
    high = low + width
    at = np.clip(np.rint(np.linspace(low, high, _POINTS)), 0, table.size - 1).astype(np.intp)
    curve = table[at].astype(np.int16)
    expected = np.clip(np.rint((at - low) / width * 255), 0, 255)
    straight = bool(np.abs(curve - expected).max() <= max(_STRAIGHT, 255 / width))
    return Window(name, round(low, 3), round(high, 3), None if straight else tuple(int(c) for c in curve))


def from_tables(
    index: Values, bits: int, tables: Iterable[tuple[str, UInt8Array]], padding: npt.NDArray[np.bool_]
) -> FullDepth:
    """Return values at full depth from what is stored and the tables that show it.

    Parameters
    ----------
    index
        Which entry of a table each pixel takes.
    tables
        Named; the first is that of the picture. Where it falls, bone is stored dark: the values are turned.
    padding
        Entries that are no part of the picture: they become the lowest value.
    """
    named = list(tables)
    shown = named[0][1].astype(np.int64)
    seen = np.flatnonzero(~padding)
    most = (1 << bits) - 1
    falls = bool(shown[seen[-1]] < shown[seen[0]]) if seen.size else False
    order = np.arange(most, -1, -1) if falls else np.arange(most + 1)
    values = order.astype(np.uint16 if bits > 8 else np.uint8)
    values[padding] = 0
    windows: list[Window] = []
    for name, table in named:
        clean = table.copy()
        if padding.any() and seen.size:  # a step into the padding is no part of a window
            clean[padding] = np.interp(np.flatnonzero(padding), seen, clean[seen]).astype(np.uint8)
        window = window_of(name, clean[order])
        if window is not None and all(
            (window.low, window.high, window.curve) != (w.low, w.high, w.curve) for w in windows
        ):
            windows.append(window)
    return FullDepth(values[index], bits, tuple(windows) or (Window("All values", 0.0, float(most)),))

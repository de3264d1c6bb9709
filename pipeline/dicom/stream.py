"""What the pixel data say of themselves beside the header, and which of the two is believed.

The decisions stand one a line, each with its paragraph of the standard, in docs/picture.md; the functions
here follow that table.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.uid import UID, ExplicitVRLittleEndian

from pipeline.decode.containers import JPEG_START_OF_FRAME, behind_jpeg, jpeg_segments
from pipeline.dicom.terms import JPEG_2000_SYNTAXES, JPEG_SYNTAXES, LOSSY_JPEG_SYNTAXES, NATIVE, RLE
from pipeline.types import Rejected, RenderingStep
from vocabulary.reasons import Reason
from vocabulary.rendering import RenderingCode

ITEM, _DELIMITER = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
_JPEG, _JPEG_2000, _JP2 = b"\xff\xd8\xff", b"\xff\x4f\xff\x51", b"\x00\x00\x00\x0cjP"
_SIGNATURES = (_JPEG, _JPEG_2000, _JP2)
#: The end of a coded frame (EOI, EOC), perhaps padding, and the beginning of another.
_ANOTHER = re.compile(rb"\xff\xd9[\0\xff]*(?:\xff\xd8\xff|\xff\x4f\xff\x51|\0\0\0\x0cjP)", re.DOTALL)
_JPEG_BASELINE, _JPEG_EXTENDED = UID("1.2.840.10008.1.2.4.50"), UID("1.2.840.10008.1.2.4.51")
_JPEG_LOSSLESS, _JPEG_LS = UID("1.2.840.10008.1.2.4.57"), UID("1.2.840.10008.1.2.4.80")
_JPEG_2000_SYNTAX = UID("1.2.840.10008.1.2.4.91")
_LOSSLESS_SYNTAXES = frozenset({"1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70"})
_JPEG_LS_SYNTAXES = frozenset({"1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81"})
#: Share of the pixels whose channels must agree, within so many levels, for a picture to be grey.
_GREY_SHARE, _GREY_LEVELS = 0.98, 4
#: Share of native values above the stored bits from which the picture is flagged.
MAX_BEYOND = 0.001
#: Share from which the stream's own depth is believed, or the bytes may be swapped. Fewer are no picture: a
#: coder that overshot, or something written into bits that nobody looks at.
MIN_BEYOND = 0.05
#: Share of its roughness that a picture of swapped bytes has left once they are put right.
MAX_ROUGHNESS = 0.25
#: The same of neighbours down once the rows have the right length.
MAX_ROUGHNESS_DOWN = 0.4
#: Share of neighbours that lie at the two ends of the range from which values have a wrong sign.
MAX_OVERRUN = 0.002


@dataclass(frozen=True)
class Stream:
    """The pixel data of one frame.

    Attributes
    ----------
    syntax
        The transfer syntax that they are coded in, whatever the header says.
    coded
        Native bytes, or one coded frame.
    """

    syntax: UID
    coded: bytes

    @property
    def native(self) -> bool:
        """Whether the values stand there as they are."""
        return self.syntax in NATIVE


def locate(value: bytes, stated: UID, native_length: int) -> tuple[Stream, list[RenderingStep]]:
    """Find the frame in the value of Pixel Data, and how it is coded.

    Parameters
    ----------
    value
        Of the element, without the delimiter of a sequence of fragments.
    stated
        Transfer syntax of the header.
    native_length
        Bytes that the header's rows, columns, samples and bits come to.
    """
    fragments = value.startswith(ITEM) and end_of_fragments(value) >= len(value) - 1
    bare = value.startswith((_JPEG, _JPEG_2000, _JP2))
    coded = fragments or (
        (bare or value.startswith(ITEM)) and (stated not in NATIVE or len(value) < native_length)
    )
    if not coded and stated not in NATIVE and len(value) < native_length:
        raise Rejected(Reason.DICOM_CORRUPT, "pixel data that are neither fragments nor native")
    if not coded:
        syntax = stated if stated in NATIVE else ExplicitVRLittleEndian
        return Stream(syntax, value), _told(syntax, stated)
    frame = first_frame(value) if value.startswith(ITEM) else value
    if _holds_another(frame):
        raise Rejected(Reason.DICOM_CONTRADICTION, "a frame behind the frame's end, and the header says one")
    syntax = _coding(frame, stated)
    return Stream(syntax, frame), _told(syntax, stated)


def _holds_another(frame: bytes) -> bool:
    """Tell whether a frame begins behind the end of a coded one, in the same fragment or across several."""
    if not frame.startswith(_JPEG):  # no packet of JPEG 2000 holds its end marker (T.800, B.10.1)
        return frame.startswith(_SIGNATURES) and _ANOTHER.search(frame) is not None
    try:
        *_, last = jpeg_segments(frame)
    except (Rejected, struct.error, ValueError):
        return False  # whoever decodes it says what is wrong
    return _ANOTHER.match(frame, behind_jpeg(frame, last) - 2) is not None


def _told(syntax: UID, stated: UID) -> list[RenderingStep]:
    return [] if syntax == stated else [RenderingStep(RenderingCode.SYNTAX_FROM_STREAM, syntax.name)]


def _coding(frame: bytes, stated: UID) -> UID:
    """Return the transfer syntax of a coded frame: the stated one where it is of the same kind."""
    if frame.startswith((_JPEG_2000, _JP2)):
        return stated if stated in JPEG_2000_SYNTAXES else _JPEG_2000_SYNTAX
    if not frame.startswith(_JPEG):
        return UID(RLE) if _begins_like_rle(frame) else stated
    marker, precision = next(
        ((s.marker, s.body[0]) for s in jpeg_segments(frame) if s.marker in JPEG_START_OF_FRAME and s.body),
        (0, 0),
    )
    if marker == 0xF7:
        return stated if stated in _JPEG_LS_SYNTAXES else _JPEG_LS
    if marker == 0xC3:
        return stated if stated in _LOSSLESS_SYNTAXES else _JPEG_LOSSLESS
    if stated in LOSSY_JPEG_SYNTAXES or stated not in JPEG_SYNTAXES | JPEG_2000_SYNTAXES | NATIVE | {RLE}:
        return stated
    return _JPEG_BASELINE if precision == 8 else _JPEG_EXTENDED


def _begins_like_rle(frame: bytes) -> bool:
    """Tell whether a frame begins with the header of RLE: how many segments, the first one behind it."""
    return len(frame) > 64 and 1 <= int.from_bytes(frame[:4], "little") <= 15 and frame[4:8] == b"\x40\0\0\0"


def first_frame(value: bytes) -> bytes:
    """Join the fragments of a single frame (PS3.5 A.4); one that ends inside a fragment is truncated.

    The sequence delimiter may be missing: what counts is that the frame is whole, which its own end tells. So
    may the offset table, where the first fragment begins as a frame does. Of two frames none is believed.
    """
    fragments: list[bytes] = []
    position, first = 0, True
    while value[position : position + 4] == ITEM:
        (length,) = struct.unpack_from("<I", value, position + 4)
        fragment = value[position + 8 : position + 8 + length]
        if len(fragment) < length:
            raise Rejected(Reason.TRUNCATED, "pixel data end inside a fragment")
        position += 8 + length
        if first and not fragment.startswith(_SIGNATURES):  # the basic offset table; one frame needs none
            first = False
            continue
        first = False
        if fragments and (
            fragment.startswith(_SIGNATURES)
            if fragments[0].startswith(_SIGNATURES)
            else _begins_like_rle(fragment) and _begins_like_rle(fragments[0])
        ):
            raise Rejected(Reason.DICOM_CONTRADICTION, "several frames, and the header says one")
        fragments.append(fragment)
    if not fragments:
        raise Rejected(Reason.TRUNCATED, "pixel data without a fragment")
    return b"".join(fragments)


def end_of_fragments(value: bytes) -> int:
    """Return where a sequence of fragments ends: behind its delimiter, or the last one if it has none."""
    position = 0
    while value[position : position + 4] == ITEM:
        position += 8 + int.from_bytes(value[position + 4 : position + 8], "little")
    return position + 8 * (value[position : position + 4] == _DELIMITER)


def native_value(body: bytes, position: int) -> bytes:
    """Return native pixel data of undefined length from `position` up to a delimiter, if any."""
    end = body.find(_DELIMITER + bytes(4), position)
    return body[position:] if end < 0 else body[position:end]


def cut_native(coded: bytes, length: int, row: int) -> tuple[bytes, tuple[Reason, ...], list[RenderingStep]]:
    """Cut native pixel data to the picture; see the table.

    Parameters
    ----------
    length, row
        Bytes of the picture and of one row of it.
    """
    if len(coded) < length:
        raise Rejected(Reason.TRUNCATED, "pixel data shorter than rows times columns")
    surplus = coded[length:]
    if len(surplus) <= 1:
        return coded[:length], (), []
    step = [RenderingStep(RenderingCode.SURPLUS_IGNORED)]
    if not surplus.strip(b"\0") or not surplus.strip(b"\xff"):
        return coded[:length], (), step
    if len(surplus) >= row:
        raise Rejected(Reason.DICOM_CONTRADICTION, "pixel data longer than rows times columns")
    return coded[:length], (Reason.HEADER_CONTRADICTS_PICTURE,), step


def put_right(
    words: npt.NDArray[Any], stored: int, *, signed: bool, grey: bool
) -> tuple[npt.NDArray[Any], tuple[Reason, ...], list[RenderingStep]]:
    """Look at the bits of native values above the stored ones, which begin at the lowest bit.

    Words of grey without such bits are noise where their bytes are swapped: neighbours are far apart then.

    Parameters
    ----------
    words
        Of 8 or 16 bits without a sign, in this machine's order.
    """
    full = int(np.iinfo(words.dtype).max)
    may_be_swapped = grey and words.itemsize == 2
    if may_be_swapped and stored == 16:
        values = words.view(np.int16 if signed else np.uint16)
        if roughness(values.byteswap()) < MAX_ROUGHNESS * roughness(values):
            step = [RenderingStep(RenderingCode.BYTES_SWAPPED)]
            return words.byteswap(), (Reason.HEADER_CONTRADICTS_PICTURE,), step
    above = full & ~((1 << stored) - 1)
    if not above:
        return words, (), []
    beyond = (words & above) != 0
    if signed:
        sign = full & ~((1 << stored - 1) - 1)
        beyond &= (words & sign) != sign
    share = np.count_nonzero(beyond) / max(words.size, 1)
    if share <= MAX_BEYOND:
        return words, (), []
    if may_be_swapped and share > MIN_BEYOND and not signed:
        swapped = words.byteswap()
        if not (swapped & above).any():
            step = [RenderingStep(RenderingCode.BYTES_SWAPPED)]
            return swapped, (Reason.HEADER_CONTRADICTS_PICTURE,), step
    return words, (Reason.HEADER_CONTRADICTS_PICTURE,), []


def roughness(words: npt.NDArray[Any]) -> float:
    """Mean difference between neighbours of a line, as a share of the spread, of some stretches of a picture.

    As a share: values of 8 bits that a writer put into the upper byte are 256 times smaller once swapped.
    """
    lines = words.ravel()[: words.size // 256 * 256].reshape(-1, 256)
    lines = lines[:: max(1, len(lines) // 512)].astype(np.int32)
    if not lines.size or not (spread := float(lines.std())):
        return 0.0
    return float(np.abs(np.diff(lines, axis=1)).mean()) / spread


def is_transposed(values: npt.NDArray[Any]) -> bool:
    """Tell whether values lie in rows as long as there are rows, and columns and rows were exchanged.

    Native data and RLE do not say how long a row is; in a wrong one what stands below each other has nothing
    to do with each other.

    Parameters
    ----------
    values
        Of shape (h, w), as stated.
    """
    flat, (rows, columns) = values.reshape(-1), values.shape

    def roughness_down(length: int) -> float:
        lines = flat[: flat.size // length * length].reshape(-1, length)
        step = max(1, len(lines) // 64)
        some = slice(None, None, max(1, length // 256))
        above, below = lines[:-1:step, some].astype(np.int32), lines[1::step, some].astype(np.int32)
        return float(np.abs(above - below).mean())

    return rows != columns and roughness_down(rows) < MAX_ROUGHNESS_DOWN * roughness_down(columns)


def values_of(bits: int, *, signed: bool) -> npt.NDArray[np.int32]:
    """Return what each pattern of so many stored bits stands for: PS3.5, 8.1.1."""
    stored = np.arange(1 << bits, dtype=np.int32)
    if signed:
        stored[stored.size // 2 :] -= stored.size
    return stored


def has_other_sign(values: npt.NDArray[Any], bits: int, *, signed: bool) -> bool:
    """Tell whether decoded values run over the end of their range as stated, and not with the other sign.

    Parameters
    ----------
    values
        Of shape (h, w).
    bits, signed
        Bits Stored, and whether Pixel Representation says so.
    """
    wide = np.int16 if values.dtype.kind == "i" else np.uint16
    index = values.astype(wide, copy=False).view(np.uint16) & np.uint16((1 << bits) - 1)
    return wraps(index, values_of(bits, signed=signed)) and not wraps(
        index, values_of(bits, signed=not signed)
    )


def wraps(index: npt.NDArray[np.uint16], stored: npt.NDArray[np.int32]) -> bool:
    """Tell whether values run over the end of their range, as those of a wrong sign do.

    Parameters
    ----------
    index
        Stored bits of each pixel, of shape (h, w).
    stored
        The value that each of them stands for.
    """
    values = stored[index[:: max(1, index.shape[0] // 256)]]
    overrun = np.abs(np.diff(values, axis=1)) > stored.size * 7 // 8
    least = MAX_OVERRUN * overrun.size
    if np.count_nonzero(overrun) <= least:
        return False
    inside = (values > stored.min()) & (values < stored.max())  # black beside white is no overrun
    return bool(np.count_nonzero(overrun & inside[:, 1:] & inside[:, :-1]) > least)


def by_plane(planes: npt.NDArray[Any], other: npt.NDArray[Any]) -> bool:
    """Tell whether three channels are grey, in RGB or YBR, in another arrangement than the stated one."""
    exact = []
    for sample in map(_sample, (planes, other)):
        as_rgb, as_ybr = np.ptp(sample, axis=2) == 0, (sample[..., 1:] == 128).all(axis=2)
        exact.append(max(float(as_rgb.mean()), float(as_ybr.mean())))
    return exact[1] > _GREY_SHARE > exact[0]


def _sample(planes: npt.NDArray[Any]) -> npt.NDArray[np.int16]:
    step = max(1, int((planes.shape[0] * planes.shape[1] / 250_000) ** 0.5))
    return planes[::step, ::step].astype(np.int16)


def is_grey(colours: npt.NDArray[Any]) -> bool:
    """Tell whether the three channels of a picture of shape (h, w, 3) are one."""
    return float(np.mean(np.ptp(_sample(colours), axis=2) <= _GREY_LEVELS)) > _GREY_SHARE


def colour_of(planes: npt.NDArray[Any], label: str) -> str:
    """Return ``RGB`` or ``YBR``: what grey in colour shows the three planes to be, else what the label says.

    Parameters
    ----------
    planes
        uint8 array of shape (h, w, 3), as coded.
    label
        Photometric Interpretation.
    """
    sample = _sample(planes)
    as_rgb = is_grey(planes)
    as_ybr = float(np.mean(np.abs(sample[..., 1:] - 128).max(axis=2) <= _GREY_LEVELS)) > _GREY_SHARE
    if as_rgb != as_ybr:
        return "RGB" if as_rgb else "YBR"
    return "YBR" if label.startswith("YBR") else "RGB"

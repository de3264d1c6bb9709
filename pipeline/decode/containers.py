"""What a picture file says of itself, read in pure Python before any decoder sees it.

Size, number of pictures, orientation and completeness come from the bytes alone, so that a decompression
bomb is refused before memory is taken, and metadata are cut away before a C library parses them.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from pipeline.decode.orientation import from_exif, from_png_text, from_xmp
from pipeline.types import Rejected
from vocabulary.media import SNIFF_BYTES, sniff
from vocabulary.reasons import Reason

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
#: A complete progressive JPEG has about ten scans; thousands of them are a way to hang a decoder.
MAX_JPEG_SCANS = 100
#: Chunks or segments in one file; a large picture has some ten thousand, more are a way to hang us.
MAX_SEGMENTS = 200_000

#: SOF markers, with that of JPEG-LS.
JPEG_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xF7}
_JPEG_MARKER = re.compile(rb"\xff+([^\xff])", re.DOTALL)
_JPEG_MARKER_BEHIND_STRAY_BYTES = re.compile(rb"\xff+([\xc0-\xfe])")
#: Bytes between two segments that are passed over, as decoders do: some writers pad, or count wrongly.
_MAX_STRAY_BYTES = 1024
_JPEG_LS_MARKER_IN_SCAN = re.compile(rb"\xff[\x80-\xcf\xd8-\xfe]")  # ITU-T T.87 A.1: stuffed bits, not bytes
_JPEG_MARKER_IN_SCAN = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_PNG_KEPT = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"gAMA", b"sBIT"})
PNG_SAMPLES: Mapping[int, int] = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
_PNG_PALETTE = 3
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
_JPEG_PROGRESSIVE = frozenset({0xC2, 0xCA})
#: Frames whose scans send all of a component at once, and what these state then (ITU-T T.81 B.2.3).
JPEG_SEQUENTIAL, ALL_AT_ONCE = frozenset({0xC0, 0xC1, 0xC9}), b"\0\x3f\0"
_TIFF_PLACES = frozenset({273, 279, 324, 325})  # where strips and tiles lie, and how long they are
_TIFF_FIELDS = _TIFF_PLACES | {254, 256, 257, 258, 259, 262, 274, 277, 278, 284, 317, 322, 323, 338, 339}
#: Compressions that libtiff undoes here (TIFF 6.0): none, fax, LZW, JPEG, deflate, PackBits.
_TIFF_CODINGS = frozenset({1, 2, 3, 4, 5, 7, 8, 32773, 32946})
#: Where the resolution across and down stands, and the type of its values: two numbers, one over the other.
_RESOLUTIONS, _RATIONAL = (282, 283), 5
#: Compressions of strips that are undone here: none, and deflate by its two numbers.
_PLAIN, _DEFLATED = 1, (8, 32946)
#: Photometric Interpretation (TIFF 6.0): white or black is zero, and red-green-blue.
TIFF_GREYS, TIFF_RGB = (0, 1), 2
#: Extra Samples: a transparency that the colours are not yet multiplied by.
_UNASSOCIATED = 2
#: Pixels of grey and transparency that are taken apart here.
_MAX_PAIRS = 1 << 28
#: Writers make some twenty.
_MAX_TIFF_ENTRIES = 1024
_TIFF_TYPES: Mapping[int, str] = {1: "B", 3: "H", 4: "I", 16: "Q"}


@dataclass(frozen=True)
class Container:
    """A picture file, described.

    Attributes
    ----------
    width, height
        Pixels, as coded (before `orientation`).
    pictures
        How many full pictures the file holds.
    orientation
        EXIF orientation 1-8 that the decoder does not apply itself.
    orientation_from
        What stated it: ``EXIF`` or ``XMP``; empty where nothing did.
    clean
        The same coded picture without metadata, or None where the format has no lossless way here (or, of
        JPEG, where `strip_jpeg` is it).
    inverted
        The decoder returns the grey values of this file upside down (white is 0).
    coded
        What the decoder is to be given in place of the file, or None.
    straight_alpha
        The decoder leaves the colours of this TIFF as they are under a transparency.
    pixel_aspect
        Height of a pixel as a multiple of its width, as the file states it.
    damaged
        The file breaks off behind this picture, or points beyond its end.
    deflated
        Where the deflated strips of a TIFF begin, and how long they are.
    unpacked_bytes
        The most that they may come to.
    photometric
        Of a TIFF of three or four samples: what it states, where, and in which byte order.
    """

    media_type: str
    width: int
    height: int
    pictures: int = 1
    orientation: int = 1
    orientation_from: str = ""
    clean: bytes | None = None
    inverted: bool = False
    coded: bytes | None = None
    straight_alpha: bool = False
    pixel_aspect: float = 1.0
    damaged: bool = False
    deflated: tuple[tuple[int, int], ...] = ()
    unpacked_bytes: int = 0
    photometric: tuple[int, int, str] | None = None


def _stated(exif: int, xmp: int) -> tuple[int, str]:
    """Return the orientation, and what states it if it is not upright: EXIF before XMP, as viewers have it.

    Parameters
    ----------
    exif, xmp
        0 where nothing is stated.
    """
    found = exif or xmp or 1
    return found, "" if found == 1 else "EXIF" if exif else "XMP"


def _aspect(across: float, down: float) -> float:
    """Height of a pixel as a multiple of its width, from pixels for each unit of length."""
    return across / down if across > 0 and down > 0 else 1.0


def describe(data: bytes, media_type: str) -> Container:
    """Walk the container of a plain image.

    Parameters
    ----------
    data
        The whole file.
    media_type
        What its first bytes say: ``image/png``, ``image/jpeg``, ``image/tiff`` or ``image/webp``.

    Raises
    ------
    Rejected
        TRUNCATED when the file ends before its container does, CORRUPT when the container is malformed.
    """
    walk = {"image/png": _png, "image/jpeg": _jpeg, "image/tiff": _tiff, "image/webp": _webp}[media_type]
    try:
        return walk(data)
    except (struct.error, IndexError):
        raise Rejected(Reason.TRUNCATED, f"{media_type} ends inside its header") from None


def _corrupt(detail: str) -> Rejected:
    return Rejected(Reason.CORRUPT, detail)


def _behind(data: bytes, at: int) -> bytes:
    """Return what stands from `at` on, without the zeros and FF before it that are padding."""
    rest = data[at:].lstrip(b"\0\xff")
    return b"\xff" + rest if rest[:1] == b"\xd8" else rest


def _pictures(data: bytes, at: int, size: tuple[int, int]) -> int:
    """Tell whether another file stands behind a picture: 1, or 2 if it holds a picture, too.

    A JPEG that is smaller both ways is the preview that some cameras put there.
    """
    rest = _behind(data, at)
    kind = sniff(rest[:SNIFF_BYTES])
    if kind == "image/jpeg":
        try:
            frames = (s.body for s in jpeg_segments(rest) if s.marker in JPEG_START_OF_FRAME)
            height, width = struct.unpack_from(">HH", next(frames, b""), 1)
        except (Rejected, struct.error):
            return 1
        return 1 if width < size[0] and height < size[1] else 2
    return 1 if kind is None else 2


# --- PNG -----------------------------------------------------------------------------------------


def _png(data: bytes) -> Container:
    position, kept, pictures, aspect = len(PNG_SIGNATURE), [memoryview(PNG_SIGNATURE)], 1, 1.0
    view = memoryview(data)  # the picture's data are not copied to be checked
    header, seen = b"", set[bytes]()
    width = height = 0
    exif, xmp = 0, 0
    for _ in range(MAX_SEGMENTS):
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if end > len(data):
            raise Rejected(Reason.TRUNCATED, "PNG ends inside a chunk")
        body = b"" if kind == b"IDAT" else data[position + 8 : end - 4]
        if (kind == b"IHDR") != (len(kept) == 1):
            raise _corrupt("PNG whose header is not its first chunk")
        if kind in _PNG_KEPT:
            if zlib.crc32(view[position + 4 : end - 4]) != struct.unpack_from(">I", data, end - 4)[0]:
                raise _corrupt("PNG chunk with a wrong checksum")
            if kind == b"IDAT" or (kind not in seen and _png_fits(kind, body, header)):
                kept.append(view[position:end])
            seen.add(kind)
        if kind == b"IHDR":
            width, height = struct.unpack_from(">II", body)
            header = body
        elif kind == b"eXIf" and not exif:
            exif = from_exif([body.removeprefix(b"Exif\0\0")])
        elif kind in {b"tEXt", b"zTXt", b"iTXt"}:
            stated = from_png_text(kind, body)
            if body[:20].lower().startswith((b"xml:", b"raw profile type xmp")):
                xmp = xmp or stated
            else:
                exif = exif or stated
        elif kind == b"pHYs":
            aspect = _aspect(*struct.unpack_from(">II", body))
        elif kind == b"acTL":
            pictures = max(pictures, struct.unpack_from(">I", body)[0])
        elif kind == b"fdAT":
            pictures = max(pictures, 2)
        elif kind == b"IEND":
            coded = b"".join((*kept, _PNG_END))
            return Container(
                "image/png",
                width,
                height,
                max(pictures, _pictures(data, end, (width, height))),
                *_stated(exif, xmp),
                # a palette may hold colours that no pixel has: such a picture is written anew
                clean=coded if header[9] != _PNG_PALETTE else None,
                coded=coded,
                pixel_aspect=aspect,
            )
        position = end
    raise _corrupt("PNG of too many chunks")


def _png_fits(kind: bytes, body: bytes, header: bytes) -> bool:
    """Tell whether a chunk is as long as the standard says, so that nothing else stands in it (PNG, 11)."""
    colour = header[9] if header else 0
    samples = 3 if colour == _PNG_PALETTE else PNG_SAMPLES.get(colour, 0)
    if kind == b"IHDR" and len(body) != 13:
        raise _corrupt("PNG with a malformed header")
    if colour == _PNG_PALETTE and kind in {b"PLTE", b"tRNS"}:
        return True
    lengths = {b"IHDR": 13, b"gAMA": 4, b"sBIT": samples, b"tRNS": 2 * samples}
    return lengths.get(kind) == len(body)


# --- JPEG ----------------------------------------------------------------------------------------


class JpegSegment(NamedTuple):
    """One marker segment; `body` is without marker and length, `scan` the coded data that follow an SOS.

    `end` is where the next one begins. A tuple: it is made in a third of the time, some twenty times a file.
    """

    marker: int
    body: bytes
    scan: bytes = b""
    end: int = 0


def jpeg_segments(data: bytes) -> Iterator[JpegSegment]:
    """Yield the segments of a JPEG stream (also lossless and JPEG-LS) between SOI and EOI.

    Raises
    ------
    Rejected
        TRUNCATED when there is no EOI, CORRUPT when many bytes that are no segment stand between two.
    """
    position, end_of_scan = 2, _JPEG_MARKER_IN_SCAN
    for _ in range(MAX_SEGMENTS):
        found = _JPEG_MARKER.match(data, position)
        if found is None:
            if not data[position:].strip(b"\xff"):
                raise Rejected(Reason.TRUNCATED, "JPEG without its end marker")
            found = _JPEG_MARKER_BEHIND_STRAY_BYTES.search(data, position, position + _MAX_STRAY_BYTES)
        if found is None:
            raise _corrupt("JPEG without a marker where one must stand")
        marker, position = found[1][0], found.end()
        if marker == 0xD9:
            return
        if marker == 0x01 or 0xD0 <= marker <= 0xD7:
            continue
        (length,) = struct.unpack_from(">H", data, position)
        body = data[position + 2 : position + length]
        position += length
        if length < 2:
            raise _corrupt("JPEG segment of impossible length")
        if position > len(data):
            raise Rejected(Reason.TRUNCATED, "JPEG ends inside a segment")
        scan = b""
        if marker == 0xF7:
            end_of_scan = _JPEG_LS_MARKER_IN_SCAN
        if marker == 0xDA:
            following = end_of_scan.search(data, position)
            if following is None:
                raise Rejected(Reason.TRUNCATED, "JPEG without its end marker")
            scan = data[position : following.start()]
            position = following.start()
        yield JpegSegment(marker, body, scan, position)
    raise _corrupt("JPEG of too many segments")


def behind_jpeg(data: bytes, last: JpegSegment) -> int:
    """Return where a JPEG stream ends whose last segment is known."""
    return data.index(b"\xff\xd9", last.end) + 2


def _jpeg(data: bytes) -> Container:
    scans, aspect, album, marked, components = 0, 1.0, False, False, 0
    exif, xmp = 0, 0
    size: tuple[int, int] | None = None
    unsent: dict[tuple[int, int], int] = {}  # progressive: (component, coefficient) -> low bits still to come
    for segment in jpeg_segments(data):
        marker, body = segment.marker, segment.body
        if marker == 0xE0 and body[:5] == b"JFIF\0":
            aspect = _aspect(*struct.unpack_from(">HH", body, 8))
        elif marker in JPEG_START_OF_FRAME:
            precision, height, width, components = struct.unpack_from(">BHHB", body)
            if precision != 8 or marker == 0xF7 or not height:
                layout = "JPEG-LS" if marker == 0xF7 else f"JPEG of {precision} bits, {width} x {height}"
                raise Rejected(Reason.UNSUPPORTED_CODING, layout)
            if size or components not in {1, 3, 4} or len(body) != 6 + 3 * components:
                raise _corrupt("JPEG that is not one frame of grey, colour or CMYK")
            size = width, height
            if marker in _JPEG_PROGRESSIVE:
                unsent = {(body[6 + 3 * n], k): 99 for n in range(components) for k in range(64)}
        elif marker == 0xDA:
            scans += 1
            if size is None or scans > MAX_JPEG_SCANS or len(body) != 4 + 2 * body[0]:
                raise _corrupt("JPEG with a misplaced or malformed scan, or too many of them")
            first, last, steps = body[-3:]
            for n in range(body[0] if unsent else 0):  # a sequential scan sends all, whatever it states
                for k in range(first, min(last, 63) + 1):
                    unsent[body[1 + 2 * n], k] = steps & 15
        elif marker == 0xE1 and body[:5] == b"Exif\0" and not exif:  # any byte may follow
            exif = from_exif([body[6:]])
        elif marker == 0xE1 and body[:28] == b"http://ns.adobe.com/xap/1.0/" and not xmp:
            xmp = from_xmp(body)
        elif marker == 0xEE and body[:5] == b"Adobe":
            marked = True
        elif marker == 0xE2 and body[:4] == b"MPF\0":
            album = True  # CIPA DC-007: the first of its pictures is the one to be shown
    if size is None or not scans:
        raise Rejected(Reason.TRUNCATED, "JPEG ends before its picture")
    if components == 4 and not marked:  # read as Adobe writes them, upside down (T.872, 6.5.3)
        raise Rejected(Reason.UNSUPPORTED_CODING, "CMYK without Adobe's mark")
    if any(unsent.values()):  # a decoder would not mind, and show a coarse picture
        raise Rejected(Reason.TRUNCATED, "progressive JPEG without its last scans")
    orientation, source = _stated(exif, xmp)
    return Container(
        "image/jpeg",
        *size,
        pictures=1 if album else _pictures(data, behind_jpeg(data, segment), size),
        orientation=orientation,
        orientation_from=source,
        pixel_aspect=aspect,
    )


# --- TIFF ----------------------------------------------------------------------------------------


class _Tiff:
    """Image file directories of a TIFF or BigTIFF (TIFF 6.0, section 2)."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.order = {b"II": "<", b"MM": ">"}.get(data[:2], "")
        magic = struct.unpack_from(f"{self.order}H", data, 2)[0] if self.order else 0
        if magic not in {42, 43}:
            raise _corrupt("TIFF without its signature")
        self.big = magic == 43
        self.first = self._read("Q" if self.big else "I", 8 if self.big else 4)[0]
        #: Where the values of a field stand, by directory and tag.
        self.places: dict[tuple[int, int], int] = {}
        #: Height of a pixel as a multiple of its width, by directory.
        self.aspects: dict[int, float] = {}

    def _read(self, kinds: str, position: int) -> tuple[int, ...]:
        return struct.unpack_from(self.order + kinds, self.data, position)

    def directory(self, position: int) -> tuple[dict[int, tuple[int, ...]], int]:
        """Return the fields that matter of the directory at `position`, and where the next one is, or 0.

        Raises
        ------
        Rejected
            CORRUPT also for what only serves to keep a reader busy: thousands of entries, and fields that
            are stated twice, of which decoders take different ones.
        """
        at = position
        (entries,) = self._read("Q" if self.big else "H", position)
        position += 8 if self.big else 2
        if entries > _MAX_TIFF_ENTRIES:
            raise _corrupt("TIFF directory of too many entries")
        width, inline = (20, 8) if self.big else (12, 4)
        if position + entries * width > len(self.data):
            raise Rejected(Reason.TRUNCATED, "TIFF ends inside a directory")
        fields: dict[int, tuple[int, ...]] = {}
        resolutions: dict[int, float] = {}
        for entry in range(position, position + entries * width, width):
            tag, kind, count = self._read("HHQ" if self.big else "HHI", entry)
            if tag in _RESOLUTIONS and kind == _RATIONAL and count == 1:
                where = entry + width - inline
                where = where if inline == 8 else self._read("I", where)[0]
                if where + 8 <= len(self.data):
                    over, under = self._read("II", where)
                    resolutions[tag] = over / under if under else 0.0
            letter = _TIFF_TYPES.get(kind)
            if letter is None or tag not in _TIFF_FIELDS:
                continue
            if tag in fields:
                raise _corrupt("TIFF that states a field twice")
            if count > (MAX_SEGMENTS if tag in _TIFF_PLACES else 16):
                raise _corrupt("TIFF field of impossible length")
            where = entry + width - inline
            if count * struct.calcsize(letter) > inline:
                (where,) = self._read("Q" if self.big else "I", where)
            if where + count * struct.calcsize(letter) > len(self.data):
                raise Rejected(Reason.TRUNCATED, "TIFF ends inside a field")
            fields[tag] = self._read(f"{count}{letter}", where)
            self.places[at, tag] = where
        self.aspects[at] = _aspect(*(resolutions.get(tag, 0.0) for tag in _RESOLUTIONS))
        behind = position + entries * width
        if behind + (8 if self.big else 4) > len(self.data):  # some writers leave out that there is no other
            return fields, 0
        (following,) = self._read("Q" if self.big else "I", behind)
        return fields, following


def _without_alpha(
    tiff: _Tiff,
    width: int,
    height: int,
    strips: list[tuple[int, int]],
    one: Callable[[int, int], int],
) -> bytes:
    """Return a grey TIFF of the first of two samples of 16 bits; its transparency is left out."""
    size = 4 * width * height
    pairs = bytearray()
    for at, length in strips:
        strip = tiff.data[at : at + length]
        if one(259, _PLAIN) in _DEFLATED:
            try:
                strip = zlib.decompressobj().decompress(strip, max(size - len(pairs), 1))
            except zlib.error:
                raise _corrupt("TIFF strip that cannot be unpacked") from None
        pairs += strip
    if len(pairs) < size:
        raise Rejected(Reason.TRUNCATED, "TIFF ends before its picture data do")
    grey = bytearray(size // 2)
    grey[0::2], grey[1::2] = pairs[0:size:4], pairs[1:size:4]
    entries = ((256, 4, width), (257, 4, height), (258, 3, 16), (259, 3, 1), (262, 3, 1), (273, 4, 8))
    more = ((274, 3, one(274, 1)), (277, 3, 1), (278, 4, height), (279, 4, len(grey)))
    directory = b"".join(
        struct.pack(tiff.order + ("HHIHH" if kind == 3 else "HHII"), tag, kind, 1, value, *[0] * (kind == 3))
        for tag, kind, value in (*entries, *more)
    )
    head = tiff.data[:2] + struct.pack(tiff.order + "HI", 42, 8 + len(grey))
    return head + bytes(grey) + struct.pack(tiff.order + "H", 10) + directory + bytes(4)


def _tiff(data: bytes) -> Container:
    tiff = _Tiff(data)
    fields: dict[int, tuple[int, ...]] = {}
    at, main, pictures, seen = tiff.first, 0, 0, set[int]()
    damaged, reduced = False, list[tuple[int, int]]()
    while at and pictures < 2:
        if damaged := pictures > 0 and at >= len(data):
            break
        if at in seen or len(seen) > 100:
            raise _corrupt("TIFF whose directories run in a circle")
        seen.add(at)
        page, following = tiff.directory(at)
        if not page.get(254, (0,))[0] & 1:  # a reduced copy (thumbnail, pyramid) is no picture of its own
            pictures += 1
            fields, main = (page, at) if pictures == 1 else (fields, main)
        else:
            reduced.append(((page.get(256) or (0,))[0], (page.get(257) or (0,))[0]))
        at = following
    if not pictures:
        fields, main, pictures = tiff.directory(tiff.first)[0], tiff.first, 1
        reduced.clear()

    def one(tag: int, default: int) -> int:
        return (fields.get(tag) or (default,))[0]

    width, height, samples = one(256, 0), one(257, 0), one(277, 1)
    bits, photometric = fields.get(258) or (1,), one(262, -1)
    if any(across >= width and down >= height for across, down in reduced):
        pictures = 2  # which of them is the film?
    if one(259, _PLAIN) not in _TIFF_CODINGS:
        raise Rejected(Reason.UNSUPPORTED_CODING, f"TIFF of compression {one(259, _PLAIN)}")
    plain = one(259, 1) in {_PLAIN, *_DEFLATED} and one(284, 1) == one(317, 1) == 1 and 322 not in fields
    # the decoder would cut 16 bits to 8
    alpha = samples == 2 and photometric in {0, 1} and (bits[0] == 8 or (bits[0] == 16 and plain))
    if (
        not (samples in {1, 3, 4} or alpha)
        or len(set(bits)) != 1
        or bits[0] not in {1, 4, 8, 16}
        or (bits[0] == 4 and photometric != 3)
        or photometric not in {0, 1, 2, 3, 6}
        or set(fields.get(339, ())) - {1}
        or (bits[0] == 16 and (photometric == 3 or (samples > 1 and one(284, 1) == 2)))
    ):
        layout = f"{samples} samples of {bits[0]} bits, format {one(339, 1)}, photometric {photometric}"
        raise Rejected(Reason.TIFF_PIXEL_FORMAT, layout)
    if 322 in fields and one(322, 0) * one(323, 0) > max(4 * width * height, 1 << 20):
        raise _corrupt("TIFF with tiles far larger than its picture")
    offsets = fields.get(324) or fields.get(273) or ()
    counts = fields.get(325) or fields.get(279) or ()
    if not offsets:
        raise _corrupt("TIFF without picture data")
    short = one(259, 1) == 1 and counts and 8 * sum(counts) < width * height * samples * bits[0]
    if short or any(at + size > len(data) for at, size in zip(offsets, counts, strict=False)):
        raise Rejected(Reason.TRUNCATED, "TIFF ends before its picture data do")
    if sum(counts) > len(data):
        raise _corrupt("TIFF whose strips share their data")
    planes, together = (samples, 1) if one(284, 1) == 2 else (1, samples)
    row = -(-width * together * bits[0] // 8)
    if tiled := 322 in fields:
        whole = len(offsets) * one(323, 0) * -(-one(322, 0) * together * bits[0] // 8)
    else:  # the last strip may be as high as the others are
        high = max(min(one(278, height), height), 1)
        whole = row * planes * -(-height // high) * high
    surplus = sum(counts) - whole if one(259, _PLAIN) == _PLAIN and not tiled else 0
    end = offsets[-1] + counts[-1] if surplus >= row else 0
    if data[max(end - surplus, 0) : end].strip(b"\0\xff"):
        raise _corrupt("TIFF whose data are longer than its picture")
    strips = tuple(zip(offsets, counts, strict=False)) if one(259, _PLAIN) in _DEFLATED else ()
    coded, straight_alpha = None, False
    if main != tiff.first:  # decoders take the first one
        where = struct.pack(tiff.order + ("Q" if tiff.big else "I"), main)
        start = 8 if tiff.big else 4
        coded = data[:start] + where + data[start + len(where) :]
    if samples == 2 and bits[0] == 16 and width * height <= _MAX_PAIRS:  # more is too large for anybody
        coded = _without_alpha(tiff, width, height, list(zip(offsets, counts, strict=False)), one)
    elif samples == 4 and bits[0] == 8 and fields.get(338) == (_UNASSOCIATED,):
        # else the decoder lays the colours on black, though all be transparent
        place = tiff.places[main, 338]
        coded = (coded or data)[:place] + bytes(2) + (coded or data)[place + 2 :]
        straight_alpha = True
    # OpenCV turns TIFF upright itself, and turns white-is-zero round in 8 bits but not in 16
    inverted = photometric == 0 and bits[0] == 16
    return Container(
        "image/tiff",
        width,
        height,
        pictures,
        inverted=inverted,
        coded=coded,
        straight_alpha=straight_alpha,
        pixel_aspect=tiff.aspects.get(main, 1.0),
        damaged=damaged,
        deflated=strips,
        unpacked_bytes=whole + row - 1,
        photometric=(photometric, tiff.places[main, 262], tiff.order) if samples >= 3 else None,
    )


# --- WebP and GIF ---------------------------------------------------------------------------------


def _webp(data: bytes) -> Container:
    (size,) = struct.unpack_from("<I", data, 4)
    if size + 8 > len(data):
        raise Rejected(Reason.TRUNCATED, "WebP ends before its length says")
    position, exif, xmp, pictures = 12, 0, 0, 1
    sizes: list[tuple[int, int]] = []
    for _ in range(MAX_SEGMENTS):
        if position + 8 > size + 8:
            break
        kind, length = struct.unpack_from("<4sI", data, position)
        body = data[position + 8 : position + 8 + length]
        if len(body) < length:
            raise Rejected(Reason.TRUNCATED, "WebP ends inside a chunk")
        if kind == b"VP8 ":
            width, height = struct.unpack_from("<HH", body, 6)
            sizes.append((width & 0x3FFF, height & 0x3FFF))
        elif kind == b"VP8L":
            (packed,) = struct.unpack_from("<I", body, 1)
            sizes.append(((packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1))
        elif kind == b"VP8X":
            sizes.append((int.from_bytes(body[4:7], "little") + 1, int.from_bytes(body[7:10], "little") + 1))
            pictures = max(pictures, 1 + (body[0] >> 1 & 1))
        elif kind == b"ANMF":
            pictures = 2
        elif kind == b"EXIF" and not exif:
            exif = from_exif([body.removeprefix(b"Exif\0\0")])
        elif kind == b"XMP " and not xmp:
            xmp = from_xmp(body)
        position += 8 + length + length % 2
    if not sizes:
        raise _corrupt("WebP without a picture")
    if pictures == 1 and len(set(sizes)) > 1:
        raise _corrupt("WebP whose picture does not fit its canvas")
    pictures = max(pictures, _pictures(data, size + 8, sizes[0]))
    # what stands behind its stated length was put in somewhere: nothing else tells that the picture broke
    damaged = bool(_behind(data, size + 8))
    return Container("image/webp", *sizes[0], pictures, *_stated(exif, xmp), damaged=damaged)


def gif_pictures(data: bytes) -> int:
    """Count the pictures of a GIF, up to two; a broken one counts as far as it can be followed."""
    try:
        position = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)
        pictures = 0
        while pictures < 2 and data[position] in {0x21, 0x2C}:
            if data[position] == 0x2C:
                pictures += 1
                table = data[position + 9]
                position += 11 + (3 << (table & 7) + 1 if table & 0x80 else 0)
            else:
                position += 2
            while data[position]:
                position += 1 + data[position]
            position += 1
    except IndexError:
        pass
    return pictures

"""Coded pictures cut to what a decoder needs: no comments, no metadata, nothing beside or behind the picture.

The coded samples themselves are copied as they are. What somebody hides among them (behind the last block of
a scan, in coefficients) is not looked for.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator

from pipeline.decode.containers import (
    ALL_AT_ONCE,
    JPEG_SEQUENTIAL,
    JPEG_START_OF_FRAME,
    PNG_SAMPLES,
    PNG_SIGNATURE,
    jpeg_segments,
)
from pipeline.types import Rejected
from vocabulary.reasons import Reason

#: Frames without a quantisation table: lossless JPEG, JPEG-LS.
_LOSSLESS_FRAMES = frozenset({0xC3, 0xC7, 0xCB, 0xCF, 0xF7})
_JFIF = b"JFIF\0\1\1\0\0\1\0\1\0\0"
_ADOBE = b"Adobe\0\x64\0\0\0\0"

#: Adam7 (PNG, 8.2): first column and row of each pass, and the steps from there.
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_STORED_BLOCK = 0xFFFF
#: Bytes that are unpacked at a time where nobody needs them.
_PIECE = 1 << 20

_SOC, _SOT, _SOD, _EOC = b"\xff\x4f", 0xFF90, 0xFF93, b"\xff\xd9"
#: ITU-T T.800 and T.814, annex A: SIZ CAP CPF, and COD COC RGN QCD QCC POC PPM PPT, which may stand in a
#: tile-part, too. Without TLM, PLM and PLT (lengths, which only speed up access), CRG and COM.
_MAIN_HEADER = frozenset({0xFF51, 0xFF50, 0xFF59, 0xFF52, 0xFF53, 0xFF5E, 0xFF5C, 0xFF5D, 0xFF5F, 0xFF60})
_TILE_HEADER = frozenset({0xFF52, 0xFF53, 0xFF5E, 0xFF5C, 0xFF5D, 0xFF5F, 0xFF61})


def strip_jpeg(data: bytes) -> bytes:
    """Return a JPEG stream (also lossless or JPEG-LS) with its frame, its scans and the tables that they use.

    Of the application segments only what decides over the colours stays: JFIF and Adobe, written anew, and
    HP's transform of JPEG-LS.

    Raises
    ------
    Rejected
        As `jpeg_segments`; CORRUPT for a table or a header that is malformed.
    """
    stream = [b"\xff\xd8"]
    quantisation: dict[int, bytes] = {}
    huffman: dict[int, bytes] = {}
    wanted: set[int] = set()
    sequential = False

    def add(marker: int, body: bytes, scan: bytes = b"") -> None:
        stream.append(struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body + scan)

    try:
        for segment in jpeg_segments(data):
            marker, body = segment.marker, segment.body
            if marker in JPEG_START_OF_FRAME:
                components, sequential = body[5], marker in JPEG_SEQUENTIAL
                if marker not in _LOSSLESS_FRAMES:
                    wanted = {body[8 + 3 * n] for n in range(components)}
                add(marker, body[: 6 + 3 * components])
            elif marker == 0xDB:
                quantisation |= dict(_quantisation_tables(body))
            elif marker == 0xC4:
                huffman |= dict(_huffman_tables(body))
            elif marker == 0xCC and not any(kind & 0xEC for kind in body[:16:2]):
                add(marker, body[:16])  # conditioning of arithmetic coding: pairs of table and value
            elif marker in {0xDC, 0xDD}:
                add(marker, body[:4] if marker == 0xDD else body[:2])
            elif marker == 0xDA:
                count = body[0]
                specifications = [body[2 + 2 * n] for n in range(count)]
                used = {spec >> 4 for spec in specifications} | {16 | spec & 15 for spec in specifications}
                for number in sorted(wanted & quantisation.keys()):
                    add(0xDB, quantisation.pop(number))
                for number in sorted(used & huffman.keys()):
                    add(0xC4, huffman.pop(number))
                parameters = ALL_AT_ONCE if sequential else body[1 + 2 * count : 4 + 2 * count]
                add(marker, body[: 1 + 2 * count] + parameters, segment.scan)
            elif marker == 0xF8 and body[:1] == b"\1":  # JPEG-LS: preset coding parameters
                add(marker, body[:11])
            elif marker == 0xE0 and body[:5] == b"JFIF\0":
                add(marker, _JFIF)
            elif marker == 0xEE and body[:5] == b"Adobe" and len(body) >= 12:
                add(marker, _ADOBE + body[11:12])
            elif marker == 0xE8 and body[:4] == b"mrfx" and len(body) >= 5:
                add(marker, body[:5])
    except IndexError:
        raise Rejected(Reason.CORRUPT, "JPEG with a malformed table or header") from None
    return b"".join((*stream, b"\xff\xd9"))


def with_transform(frame: bytes, transform: int) -> bytes:
    """Return a JPEG stream that says by an Adobe segment alone how its colours are coded (T.872, 6.5.3)."""
    segments = [b"\xff\xd8\xff\xee\0\x0eAdobe\0\x64\0\0\0\0" + bytes([transform])]
    for segment in jpeg_segments(frame):
        if segment.marker not in {0xE0, 0xEE}:
            head = struct.pack(">BBH", 0xFF, segment.marker, len(segment.body) + 2)
            segments.append(head + segment.body + segment.scan)
    return b"".join(segments) + b"\xff\xd9"


def _quantisation_tables(body: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(body):
        end = at + 1 + 64 * (1 + (body[at] >> 4 & 1))
        if end > len(body):
            raise IndexError
        yield body[at] & 15, body[at:end]
        at = end


def _huffman_tables(body: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(body):
        end = at + 17 + sum(body[at + 1 : at + 17])
        if end > len(body):
            raise IndexError
        yield body[at], body[at:end]
        at = end


def unpack_png(data: bytes) -> bytes | None:
    """Return a PNG with its rows uncompressed, or None where its coded data hold more or less than them.

    A decoder takes the same picture from it, and need not unpack the data a second time.

    Parameters
    ----------
    data
        A PNG as `describe` gives it, without metadata; its size is known to be bearable.
    """
    width, height, depth, colour = struct.unpack_from(">IIBB", data, 16)
    bits = depth * PNG_SAMPLES.get(colour, 0)
    size = 0
    for left, top, across, down in _PASSES if data[28] else ((0, 0, 1, 1),):
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        size += rows * (1 + -(-columns * bits // 8)) if columns > 0 and rows > 0 else 0
    before, coded, behind, at = [PNG_SIGNATURE], list[bytes](), list[bytes](), len(PNG_SIGNATURE)
    while at < len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if kind == b"IDAT" and not behind:
            coded.append(data[at + 8 : end - 4])
        else:
            (behind if coded else before).append(data[at:end])
        at = end
    packed, inflate = b"".join(coded), zlib.decompressobj()
    try:
        unpacked = inflate.decompress(packed, size + 1)
    except zlib.error:
        return None  # the decoder says what is wrong
    if len(unpacked) != size or not inflate.eof or inflate.unused_data:
        return None
    stream: list[bytes | memoryview] = [b"IDAT\x78\1"]  # RFC 1950, 2.2, and blocks of RFC 1951, 3.2.4
    for start in range(0, size, _STORED_BLOCK):
        block = memoryview(unpacked)[start : start + _STORED_BLOCK]
        stream += struct.pack("<BHH", start + len(block) == size, len(block), len(block) ^ 0xFFFF), block
    stream.append(packed[-4:])  # the checksum of the rows stays
    length, crc = sum(map(len, stream)) - 4, 0
    for part in stream:
        crc = zlib.crc32(part, crc)
    return b"".join((*before, struct.pack(">I", length), *stream, struct.pack(">I", crc), *behind))


def strips_hold(data: bytes, strips: Iterable[tuple[int, int]], most: int) -> bool:
    """Tell whether deflated strips end where they say, with the checksum of what they hold (RFC 1950).

    Parameters
    ----------
    strips
        Where each begins in `data`, and how long it is.
    most
        Bytes that all of them together may come to.
    """
    for at, length in strips:
        inflate, coded = zlib.decompressobj(), data[at : at + length]
        while not inflate.eof:
            try:
                unpacked = inflate.decompress(coded, _PIECE)
            except zlib.error:
                return False
            coded, most = inflate.unconsumed_tail, most - len(unpacked)
            if most < 0 or not (unpacked or coded):
                return False
    return True


def strip_jpeg_2000(data: bytes) -> bytes | None:
    """Return the bare codestream of a JPEG 2000 picture, or None when it does not hold together.

    Comments, pointers and the boxes of a JP2 file go, and what lies behind the end marker.
    """
    start = data.find(_SOC + b"\xff\x51")
    if start < 0:
        return None
    try:
        header, at = _marker_segments(data, start + 2, _SOT, _MAIN_HEADER)
        stream = [_SOC, header]
        while data[at : at + 2] != _EOC:
            marker, length, tile, size, part, parts = struct.unpack_from(">HHHIBB", data, at)
            end = at + size if size else data.rindex(_EOC)
            if marker != _SOT or length != 10 or not at + 14 <= end <= len(data) - 2:
                return None
            header, body = _marker_segments(data, at + 12, _SOD, _TILE_HEADER)
            if body + 2 > end:
                return None
            size = 12 + len(header) + end - body
            stream += [struct.pack(">HHHIBB", _SOT, 10, tile, size, part, parts), header, data[body:end]]
            at = end
    except (struct.error, ValueError):
        return None
    return b"".join((*stream, _EOC))


def _marker_segments(data: bytes, at: int, last: int, kept: frozenset[int]) -> tuple[bytes, int]:
    """Return the segments that are kept of those before the marker `last`, and where that stands."""
    segments = []
    while (marker := struct.unpack_from(">H", data, at)[0]) != last:
        (length,) = struct.unpack_from(">H", data, at + 2)
        if not marker > 0xFF00 or length < 2:
            raise ValueError
        if marker in kept:
            segments.append(data[at : at + 2 + length])
        at += 2 + length
    return b"".join(segments), at

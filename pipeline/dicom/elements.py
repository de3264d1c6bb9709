"""Header elements of a DICOM object read without decoding it; splits and writes files of PS3.10.

No value is parsed but those asked for, nothing is believed that the bytes do not bear out, and the standard
library suffices: so the web process may use it, and a receiver while its sender waits.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from mmap import mmap

from vocabulary.dicom import IMPLEMENTATION_UID

SOP_CLASS, SOP_INSTANCE = 0x00080016, 0x00080018
MANUFACTURER_TAG, STUDY_UID = 0x00080070, 0x0020000D
DEFLATED = "1.2.840.10008.1.2.1.99"
#: As devices write them, and never dots alone: a UID is a part of an address.
UID = re.compile(r"(?=\.*[0-9])[0-9.]{1,64}")

_PIXEL_DATA = 0x7FE00010
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_UNDEFINED = 0xFFFFFFFF
_LONG_VRS = frozenset(["OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"])
#: Of an inflated data set; what files it stands in front.
_INFLATED = 1 << 20
_MAX_VALUE_BYTES = 1024
#: Elements, items and delimiters that are stepped over: a header has hundreds, a file made for it a million.
_MAX_STEPS = 100_000


#: Bytes that need not lie in memory of ours.
Bytes = bytes | memoryview


class HeaderUnreadable(ValueError):
    """The bytes are no data set, or end in the middle of one. Says nothing of what they hold."""


@dataclass(frozen=True)
class Element:
    """The head of an element: its value has `length` bytes from `at` on; the VR is empty where implicit."""

    tag: int
    vr: str
    length: int
    at: int


def encoding_of(data: Bytes) -> tuple[bool, bool]:
    """Tell from its first element whether a data set is implicit, and whether it is little-endian.

    The transfer syntax of the header may say otherwise; there is no other way to read the bytes (PS3.5, 7.1).
    """
    if len(data) < 8:
        return False, True
    word = bytes(data[4:6])
    little = int.from_bytes(data[:2], "little") <= int.from_bytes(data[:2], "big")
    return not (word.isalpha() and word.isupper()), little


def element_at(data: Bytes, at: int, *, implicit: bool, little: bool) -> Element | None:
    """Read the head of an element, an item or a delimiter; None where the bytes end within it."""
    order = "<" if little else ">"
    if at + 8 > len(data):
        return None
    group, element, length = struct.unpack_from(order + "HHI", data, at)
    tag = group << 16 | element
    if implicit:
        return Element(tag, "", length, at + 8)
    vr = bytes(data[at + 4 : at + 6]).decode("latin-1")
    if vr not in _LONG_VRS:
        return Element(tag, vr, struct.unpack_from(order + "H", data, at + 6)[0], at + 8)
    if at + 12 > len(data):
        return None
    return Element(tag, vr, struct.unpack_from(order + "I", data, at + 8)[0], at + 12)


class _Walk:
    """Steps over the elements of a data set."""

    def __init__(self, data: Bytes) -> None:
        self.data = data
        self._left = _MAX_STEPS
        if len(data) < 8:
            raise HeaderUnreadable
        self.implicit, self.little = encoding_of(data)

    def element(self, at: int, *, implicit: bool) -> Element:
        """Read the head of the element at `at`."""
        self._left -= 1
        found = element_at(self.data, at, implicit=implicit, little=self.little)
        if found is None or self._left < 0:
            raise HeaderUnreadable
        return found

    def after(self, element: Element) -> int:
        """Return where the next element begins, behind whatever this one holds."""
        if element.length != _UNDEFINED:
            return element.at + element.length
        at = element.at
        # sequences (True) and items (False) that are open, each with whether it is implicit
        levels = [(True, self.implicit or element.vr == "UN")]
        while levels:
            in_sequence, implicit = levels[-1]
            head = self.element(at, implicit=True)  # an item or a delimiter has no value representation
            tag, length = head.tag, head.length
            if tag == (_SEQUENCE_END if in_sequence else _ITEM_END):
                levels.pop()
                at += 8
            elif in_sequence:
                if tag != _ITEM:
                    raise HeaderUnreadable
                at += 8
                if length == _UNDEFINED:
                    levels.append((False, implicit))
                else:
                    at += length
            else:
                inner = self.element(at, implicit=implicit)
                at = inner.at
                if inner.length == _UNDEFINED:
                    levels.append((True, implicit or inner.vr == "UN"))
                else:
                    at += inner.length
        return at


def read_header(data: Bytes, syntax: str, wanted: Collection[int]) -> dict[int, str]:
    """Return the texts of the top-level elements `wanted` that are there, without padding.

    Parameters
    ----------
    data
        A data set, without preamble and file meta information.
    syntax
        Its transfer syntax.
    wanted
        Tags before Pixel Data.

    Raises
    ------
    HeaderUnreadable
    """
    values = _values(data, syntax, wanted)
    return {tag: value.decode("latin-1").strip(" \0") for tag, value in values.items()}


def _values(data: Bytes, syntax: str, wanted: Collection[int]) -> dict[int, bytes]:
    if syntax == DEFLATED:
        try:
            data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, _INFLATED)
        except zlib.error:
            raise HeaderUnreadable from None
    walk, at, last = _Walk(data), 0, max(wanted)
    found: dict[int, bytes] = {}
    while at < len(data):
        element = walk.element(at, implicit=walk.implicit)
        if element.tag > last or element.tag >= _PIXEL_DATA:
            break
        if element.tag in wanted and element.length <= _MAX_VALUE_BYTES:
            found[element.tag] = bytes(data[element.at : element.at + element.length])
        at = walk.after(element)
    return found


def cut_out(data: Bytes, syntax: str, wanted: Mapping[int, str]) -> bytes:
    """Return top-level elements as a data set of their own, their values byte by byte as they were.

    Parameters
    ----------
    wanted
        Tag -> value representation, of texts alone: those are written alike in every transfer syntax.

    Raises
    ------
    HeaderUnreadable
    """
    cut = []
    for tag, value in sorted(_values(data, syntax, wanted).items()):
        padded = value + b"\0" * (len(value) % 2)
        cut.append(struct.pack("<HH", tag >> 16, tag & 0xFFFF) + wanted[tag].encode())
        cut.append(struct.pack("<H", len(padded)) + padded)
    return b"".join(cut)


@dataclass(frozen=True)
class DicomFile:
    """A file taken apart: what its meta information says, and its data set, which is not copied."""

    sop_class: str
    sop_uid: str
    syntax: str
    dataset: Bytes


def split_file(whole: bytes | mmap) -> DicomFile:
    """Take a file of PS3.10 apart. Raises `HeaderUnreadable`."""
    data = memoryview(whole)
    if bytes(data[128:132]) != b"DICM":
        raise HeaderUnreadable
    at, texts = 132, {}
    walk = _Walk(b"\x02\x00\x00\x00UL\x04\x00")  # always explicit, little-endian
    walk.data = data
    while bytes(data[at : at + 2]) == b"\x02\x00":
        element = walk.element(at, implicit=False)
        if element.length > len(data):
            raise HeaderUnreadable
        text = bytes(data[element.at : element.at + element.length])
        texts[element.tag] = text.decode("latin-1").strip(" \0")
        at = element.at + element.length
    return DicomFile(
        texts.get(0x00020002, ""), texts.get(0x00020003, ""), texts.get(0x00020010, ""), data[at:]
    )


def file_head(sop_class: str, sop_uid: str, syntax: str) -> bytes:
    """Return preamble and file meta information: always the same, so that an object has one hash."""

    def element(number: int, vr: bytes, value: bytes) -> bytes:
        value += b"\0" * (len(value) % 2)
        length = struct.pack("<HI", 0, len(value)) if vr == b"OB" else struct.pack("<H", len(value))
        return struct.pack("<HH", 2, number) + vr + length + value

    meta = b"".join(
        (
            element(0x0001, b"OB", b"\0\1"),
            element(0x0002, b"UI", sop_class.encode()),
            element(0x0003, b"UI", sop_uid.encode()),
            element(0x0010, b"UI", syntax.encode()),
            element(0x0012, b"UI", IMPLEMENTATION_UID.encode()),
        )
    )
    return bytes(128) + b"DICM" + element(0x0000, b"UL", struct.pack("<I", len(meta))) + meta

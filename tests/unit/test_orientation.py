"""Where a plain picture states its orientation, in all the ways in which programs write that."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest

from pipeline.decode.orientation import from_exif, from_png_text, from_xmp
from tests.unit.test_decode import (
    UPRIGHT,
    encoded,
    exif,
    picture,
    read,
    tiff,
    with_jpeg_segment,
    with_png_chunk,
)

XAP = b"http://ns.adobe.com/xap/1.0/\0"


def block(value, order="<", kind=3, count=1, before=0, at=8, following=b"\0\0\0\0"):
    """An EXIF block that states an orientation behind `before` other entries, its directory at `at`."""
    entry = order + ("HHIHH" if kind == 3 else "HHII")
    others = struct.pack(order + "HHIHH", 256, 3, 1, 99, 0) * before
    stated = struct.pack(entry, 274, kind, count, value, *([0] if kind == 3 else []))
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", at)
    return head.ljust(at, b"\0") + struct.pack(order + "H", before + 1) + others + stated + following


def xmp(value, element=False):
    said = f"<tiff:Orientation>{value}</tiff:Orientation>" if element else f' tiff:Orientation="{value}"'
    return f"<x:xmpmeta><rdf:RDF><rdf:Description{'>' if element else ''}{said}".encode()


def raw_profile(name, data):
    """A profile as ImageMagick lays it into the text of a PNG."""
    digits = data.hex()
    lines = "\n".join(digits[at : at + 72] for at in range(0, len(digits), 72))
    return f"\n{name}\n{len(data):8}\n{lines}\n".encode()


@pytest.mark.parametrize("value", range(1, 9))
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    "how",
    [
        {},
        {"following": b""},
        {"following": b"\xff\xff\xff\xff"},
        {"at": 26},
        {"before": 7},
        {"kind": 4},
        {"count": 60_000},
        {"count": 2},
    ],
)
def test_exif_as_programs_write_it(value, order, how):
    assert from_exif([block(value, order, **how)]) == value


def test_the_first_block_that_states_an_orientation_counts():
    assert from_exif([b"II*\0\x08\0\0\0\0\0", block(0), block(9), block(6), block(3)]) == 6
    assert from_exif([block(1), block(6)]) == 1
    entries = struct.pack("<HHHIHHHHIHH", 2, 274, 3, 1, 0, 0, 274, 3, 1, 6, 0)
    assert from_exif([b"II*\0\x08\0\0\0" + entries]) == 6  # of two fields, too
    assert from_exif([b"", b"II*\0", block(6)[:14], b"XX" + block(6)[2:]]) == 0


def test_a_directory_that_says_too_much_is_read_as_far_as_it_goes():
    said = bytearray(block(6))
    said[8:10] = struct.pack("<H", 5000)
    assert from_exif([bytes(said)]) == 6


@pytest.mark.parametrize("value", range(1, 9))
@pytest.mark.parametrize("element", [False, True])
def test_xmp_states_it_as_attribute_or_element(value, element):
    assert from_xmp(xmp(value, element)) == value


def test_xmp_without_or_with_an_impossible_orientation():
    assert [from_xmp(xmp(value)) for value in (0, 9, "x")] == [0, 0, 0]


@pytest.mark.parametrize("value", [3, 6])
def test_text_of_a_png(value):
    stated = {
        (b"tEXt", b"Raw profile type exif\0" + raw_profile("exif", b"Exif\0\0" + exif(value))),
        (b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(raw_profile("exif", exif(value)))),
        (b"zTXt", b"Raw profile type APP1\0\0" + zlib.compress(raw_profile("app1", XAP + xmp(value)))),
        (b"zTXt", b"Raw profile type xmp\0\0" + zlib.compress(raw_profile("xmp", xmp(value)))),
        # ExifTool
        (b"tEXt", b"Raw profile type APP1\0" + raw_profile("generic profile", b"Exif\0\0" + exif(value))),
        (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp(value)),
        (b"iTXt", b"XML:com.adobe.xmp\0\1\0en\0word\0" + zlib.compress(xmp(value, element=True))),
    }
    array = picture()
    for kind, body in stated:
        assert from_png_text(kind, body) == value, body[:24]
        result = read(with_png_chunk(encoded(array), kind, body))
        np.testing.assert_array_equal(result.pixels, UPRIGHT[value](array))


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (b"tEXt", b"Comment\0tiff:Orientation='6'"),
        (b"tEXt", b"Raw profile type exif\0no digits"),
        (b"zTXt", b"Raw profile type exif\0\0not deflated"),
        (b"iTXt", b"XML:com.adobe.xmp"),
        (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0not deflated"),
        (b"tEXt", b"Raw profile type exif\0\nexif\n4\n\xff\xfe\xff\xfe"),
    ],
)
def test_text_that_states_nothing_turns_nothing(kind, body):
    assert from_png_text(kind, body) == 0
    array = picture()
    np.testing.assert_array_equal(read(with_png_chunk(encoded(array), kind, body)).pixels, array)


def test_exif_counts_before_xmp_in_a_jpeg_whichever_stands_first():
    jpeg = encoded(picture(), ".jpg")
    plain = read(jpeg).pixels
    for first, second in (
        (b"Exif\0\0" + exif(6), XAP + xmp(3)),
        (XAP + xmp(3), b"Exif\0\0" + exif(6)),
        (b"Exif\0\0" + block(0), b"Exif\0\0" + exif(6)),
        (b"Exif\0\xff" + exif(6), XAP + xmp(3)),
    ):
        data = with_jpeg_segment(with_jpeg_segment(jpeg, 0xE1, second), 0xE1, first)
        np.testing.assert_array_equal(read(data).pixels, UPRIGHT[6](plain))
    only_xmp = read(with_jpeg_segment(jpeg, 0xE1, XAP + xmp(3)))
    np.testing.assert_array_equal(only_xmp.pixels, UPRIGHT[3](plain))
    assert only_xmp.rendering[-1].detail == "XMP"
    upright = with_jpeg_segment(with_jpeg_segment(jpeg, 0xE1, XAP + xmp(3)), 0xE1, b"Exif\0\0" + exif(1))
    np.testing.assert_array_equal(read(upright).pixels, plain)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("value", range(1, 9))
def test_orientation_of_a_tiff_in_both_byte_orders_and_16_bits(value, order, tmp_path):
    array = picture(dtype=np.uint16)
    data = tiff(array, tmp_path / "a.tif", byteorder=order, extratags=[(274, "H", 1, value, True)])
    upright = read(tiff(array, tmp_path / "b.tif")).pixels
    np.testing.assert_array_equal(read(data).pixels, UPRIGHT[value](upright))

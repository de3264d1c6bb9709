"""Plain images: what is read, what is refused and why, and what is kept of them."""

from __future__ import annotations

import csv
import struct
import zlib

import cv2
import numpy as np
import pytest
import tifffile

from pipeline.decode.containers import PNG_SIGNATURE
from pipeline.decode.picture import decode, turn_upright
from pipeline.decode.stripped import unpack_png
from pipeline.types import Rejected
from vocabulary.media import sniff
from vocabulary.reasons import Reason

SECRET = b"DOE^JANE 1970"


def read(data, **options):
    return decode(data, max_pixels=options.pop("max_pixels", 10**7), pseudonymise=str, **options)


def refusal(data, **options):
    with pytest.raises(Rejected) as refused:
        read(data, **options)
    assert SECRET.decode() not in str(refused.value)
    return refused.value.reason


def picture(height=96, width=128, dtype=np.uint8, seed=0):
    """A bright bar on a dark, noisy ground, no two of whose eight turns look alike."""
    rng = np.random.default_rng(seed)
    grey = np.linspace(20, 90, width)[None, :] + np.linspace(0, 40, height)[:, None]
    grey[height // 4 : height // 2, width // 8 : width // 2] += 90
    grey = np.clip(grey + rng.normal(0, 4, grey.shape), 0, 255)
    return (grey * 16).astype(dtype) if dtype == np.uint16 else grey.astype(dtype)


def encoded(array, kind=".png", *options):
    return cv2.imencode(kind, array, list(options))[1].tobytes()


def tiff(array, path, **options):
    tifffile.imwrite(path, array, **options)
    return path.read_bytes()


def exif(orientation):
    return b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHIHHI", 274, 3, 1, orientation, 0, 0)


def png_chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def vp8x(flags):
    return b"VP8X" + struct.pack("<IB3xHxHx", 10, flags, 127, 95)


def with_png_chunk(data, kind, body):
    return data[:33] + png_chunk(kind, body) + data[33:]


def with_jpeg_segment(data, marker, body):
    return data[:2] + struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body + data[2:]


# --- what is read -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [".png", ".tiff"])
def test_lossless_8_bit_files_give_the_array_that_was_written(kind):
    array = picture()
    result = read(encoded(array, kind))
    np.testing.assert_array_equal(result.pixels, array)
    assert (result.width, result.height, result.media_type) == (128, 96, "image/png")
    assert result.flags == ()


@pytest.mark.parametrize("kind", [".png", ".tiff"])
def test_16_bit_files_are_cut_to_their_percentile_window_and_kept_in_16_bits(kind):
    array = picture(dtype=np.uint16)
    array[0, 0] = 65535  # one hot pixel must not make the rest dark
    result = read(encoded(array, kind))
    low, high = np.percentile(array, (0.5, 99.5))
    expected = np.clip((array - low) / (high - low), 0, 1) * 255
    assert np.abs(result.pixels - expected).max() <= 0.5001
    kept = cv2.imdecode(np.frombuffer(result.stored, np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(kept, array)


def test_lossless_webp_and_grey_in_three_channels_give_the_array_that_was_written():
    array = picture()
    np.testing.assert_array_equal(read(encoded(array, ".webp", cv2.IMWRITE_WEBP_QUALITY, 101)).pixels, array)
    np.testing.assert_array_equal(read(encoded(np.dstack([array] * 3))).pixels, array)


def test_a_jpeg_gives_what_the_codec_gives_also_when_progressive_and_with_restarts():
    for options in ((), (cv2.IMWRITE_JPEG_PROGRESSIVE, 1), (cv2.IMWRITE_JPEG_RST_INTERVAL, 2)):
        data = encoded(picture(), ".jpg", *options)
        result = read(data)
        expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(result.pixels, expected)
        np.testing.assert_array_equal(read(result.stored).pixels, expected)
        assert read(result.stored).stored == result.stored


def test_alpha_is_laid_on_black():
    array = np.dstack([picture()] * 3 + [np.full((96, 128), 255, np.uint8)])
    array[:, 64:, 3] = 0
    result = read(encoded(array))
    np.testing.assert_array_equal(result.pixels[:, :64], picture()[:, :64])
    assert not result.pixels[:, 64:].any()


@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        (np.uint8, {"photometric": "miniswhite"}),
        (np.uint16, {"photometric": "miniswhite"}),
        (np.uint16, {"byteorder": ">"}),
        (np.uint16, {"bigtiff": True}),
        (np.uint16, {"tile": (32, 32), "compression": "zlib"}),
        (np.uint8, {"rowsperstrip": 7, "compression": "zlib"}),
    ],
)
def test_tiff_layouts(tmp_path, dtype, options):
    array = picture(dtype=dtype)
    result = read(tiff(array, tmp_path / "a.tif", **options))
    expected = read(encoded(array)).pixels
    if options.get("photometric") == "miniswhite":
        expected = read(encoded(np.invert(array))).pixels
        assert np.abs(result.pixels.astype(int) - expected.astype(int)).max() <= 1
    else:
        np.testing.assert_array_equal(result.pixels, expected)


def test_a_thumbnail_page_does_not_make_a_tiff_several_pictures(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(picture())
        file.write(picture()[::4, ::4], subfiletype=1)
    np.testing.assert_array_equal(read((tmp_path / "a.tif").read_bytes()).pixels, picture())


def test_what_follows_the_end_of_a_jpeg_is_cut_off():
    data = encoded(picture(), ".jpg")
    assert read(data + SECRET * 100).stored == read(data).stored


# --- orientation --------------------------------------------------------------------------------

# as in EXIF 2.32, figure "orientation": what to do to the stored array to see it upright
UPRIGHT = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: np.transpose,
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).T,
    8: np.rot90,
}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_honoured_and_dropped_in_every_format(orientation, tmp_path):
    array = picture()
    expected = UPRIGHT[orientation](array)
    webp = encoded(array, ".webp", cv2.IMWRITE_WEBP_QUALITY, 101)
    extended = (
        b"VP8X" + struct.pack("<IB3x", 10, 8) + (127).to_bytes(3, "little") + (95).to_bytes(3, "little")
    )
    chunk = b"EXIF" + struct.pack("<I", len(exif(orientation))) + exif(orientation)
    body = b"WEBP" + extended + webp[12:] + chunk
    png = with_png_chunk(encoded(array), b"eXIf", exif(orientation))
    assert sniff(png) == "image/png"
    for data in (
        png,
        b"RIFF" + struct.pack("<I", len(body)) + body,
        tiff(array, tmp_path / "8.tif", extratags=[(274, "H", 1, orientation, True)]),
    ):
        result = read(data)
        np.testing.assert_array_equal(result.pixels, expected)
        np.testing.assert_array_equal(read(result.stored).pixels, expected)
        assert (result.height, result.width) == expected.shape
    jpeg = encoded(array, ".jpg")
    result = read(with_jpeg_segment(jpeg, 0xE1, b"Exif\0\0" + exif(orientation)))
    np.testing.assert_array_equal(result.pixels, UPRIGHT[orientation](read(jpeg).pixels))
    np.testing.assert_array_equal(read(result.stored).pixels, result.pixels)
    assert b"Exif" not in result.stored
    assert result.media_type == ("image/jpeg" if orientation == 1 else "image/png")


def test_turning_upright_agrees_with_the_table_for_colour_too():
    array = np.arange(24).reshape(2, 4, 3)
    for orientation, turn in UPRIGHT.items():
        planes = [turn(array[..., c]) for c in range(3)]
        np.testing.assert_array_equal(turn_upright(array, orientation), np.dstack(planes))


def test_broken_exif_means_upright():
    for block in (b"II*\0", exif(9), exif(0), b"XX*\0\x08\0\0\0", exif(6)[:12]):
        data = with_png_chunk(encoded(picture()), b"eXIf", block)
        np.testing.assert_array_equal(read(data).pixels, picture())


# --- what is kept -------------------------------------------------------------------------------


def test_metadata_leave_a_jpeg_and_its_coded_picture_stays():
    clean = encoded(picture(), ".jpg")
    dirty = clean
    for marker in (0xE1, 0xE2, 0xED, 0xEF, 0xFE):
        dirty = with_jpeg_segment(dirty, marker, SECRET)
    dirty = with_jpeg_segment(dirty, 0xE0, b"JFXX\0\x13" + SECRET)  # a thumbnail
    result = read(dirty)
    assert result.stored == read(clean).stored
    assert result.stored[result.stored.index(b"\xff\xda") :] == clean[clean.index(b"\xff\xda") :]
    assert SECRET not in result.stored


def test_metadata_leave_a_png_and_its_coded_picture_stays():
    clean = encoded(picture())
    dirty = clean
    for kind in (b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"iCCP", b"prVt"):
        dirty = with_png_chunk(dirty, kind, SECRET)
    assert read(dirty + SECRET).stored == clean


def test_metadata_leave_a_tiff(tmp_path):
    data = tiff(picture(), tmp_path / "a.tif", description=SECRET.decode(), software=SECRET.decode())
    assert SECRET in data
    assert SECRET not in read(data).stored


def png_of(rows: np.ndarray, colour: int, *chunks: bytes, behind: bytes = b"", more: bytes = b"") -> bytes:
    """A PNG of 8-bit rows with chunks before its data, bytes behind the stream, and more rows than it has."""
    height, width = rows.shape[:2]
    lines = np.concatenate([np.zeros((height, 1), np.uint8), rows.reshape(height, -1)], axis=1)
    packed = zlib.compress(lines.tobytes() + more) + behind
    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    parts = [png_chunk(b"IHDR", header), *chunks, png_chunk(b"IDAT", packed), png_chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def secrets_in(stored: bytes) -> list[str]:
    """The forms in which the secret is in a stored picture: as bytes, in its pixels, in its unpacked rows."""
    found = ["bytes"] if SECRET in stored else []
    if stored.startswith(b"\x89PNG"):
        at, packed = 8, b""
        while at < len(stored):
            length, kind = struct.unpack_from(">I4s", stored, at)
            packed += stored[at + 8 : at + 8 + length] if kind == b"IDAT" else b""
            at += 12 + length
        unpack = zlib.decompressobj()
        found += ["rows"] if SECRET in unpack.decompress(packed) else []
        found += ["behind the rows"] if unpack.unused_data else []
    return found


def places() -> dict[str, bytes]:
    """A plain picture of every format with the secret in every place that is not the picture itself."""
    grey = picture()
    colour = np.repeat(grey[..., None], 3, axis=2)
    long = SECRET * 8
    plain = encoded(grey)
    end = plain.index(b"IEND") - 4
    found = {
        f"png {k.decode()}": with_png_chunk(plain, k, SECRET) for k in (b"tEXt", b"eXIf", b"iCCP", b"prVt")
    }
    for kind in (b"gAMA", b"sBIT", b"tRNS", b"PLTE", b"hIST", b"tIME"):
        found[f"png {kind.decode()}"] = plain[:33] + png_chunk(kind, long[:96]) + plain[33:]
    found["png gamma again and again"] = (
        plain[:33] + b"".join(png_chunk(b"gAMA", SECRET[n : n + 4]) for n in range(0, 12, 4)) + plain[33:]
    )
    found["png end"] = plain[:end] + png_chunk(b"IEND", SECRET)
    found["png tail"] = plain + SECRET
    found["png behind the stream"] = png_of(grey, 0, behind=SECRET)
    found["png more rows"] = png_of(grey, 0, more=SECRET)
    found["png another chunk of data"] = plain[:end] + png_chunk(b"IDAT", SECRET) + plain[end:]
    found["png suggested palette"] = png_of(colour, 2, png_chunk(b"PLTE", long[:96]))
    greys = bytes(value for step in range(128) for value in [step] * 3)
    palette = greys + (SECRET * 40)[:384]
    found["png palette"] = png_of(grey >> 1, 3, png_chunk(b"PLTE", palette))
    jpeg = encoded(grey, ".jpg")
    for marker in (*range(0xE0, 0xF0), 0xFE):
        found[f"jpeg {marker:X}"] = with_jpeg_segment(jpeg, marker, SECRET)
    for name in (
        b"JFIF\0\1\2\0\0\1\0\1\0\0",
        b"Exif\0\0",
        b"Adobe\0d\0\0\0\0\0",
        b"Photoshop 3.0\0",
        b"JFXX\0\x10",
    ):
        marker = {b"JF": 0xE0, b"Ex": 0xE1, b"Ad": 0xEE, b"Ph": 0xED}[name[:2]]
        found[f"jpeg {name[:4].decode()}"] = with_jpeg_segment(jpeg, marker, name + SECRET)
    found["jpeg unused quantisation"] = with_jpeg_segment(jpeg, 0xDB, b"\3" + long[:64])
    huffman = b"\x13" + bytes(7) + b"\x50" + bytes(8) + (long * 2)[:80]
    found["jpeg unused Huffman codes"] = with_jpeg_segment(jpeg, 0xC4, huffman)
    found["jpeg tail"] = jpeg + SECRET
    ok, webp = cv2.imencode(".webp", colour, [cv2.IMWRITE_WEBP_QUALITY, 101])
    assert ok
    chunk = b"EXIF" + struct.pack("<I", len(SECRET)) + SECRET + b"\0" * (len(SECRET) % 2)
    data = bytearray(webp.tobytes() + chunk)
    struct.pack_into("<I", data, 4, len(data) - 8)
    found["webp"] = bytes(data) + SECRET
    return found


@pytest.mark.parametrize("place", places())
def test_nothing_of_a_plain_file_is_kept_but_the_picture(place):
    data = places()[place]
    result = read(data)
    assert not secrets_in(result.stored)
    np.testing.assert_array_equal(read(result.stored).pixels, result.pixels)
    if not place.startswith("png palette"):
        expected = picture() if not place.startswith("jpeg") else read(encoded(picture(), ".jpg")).pixels
        np.testing.assert_array_equal(result.pixels, expected)


@pytest.mark.parametrize("kind", ["description", "software", "datetime", "extratags", "tail"])
def test_nothing_of_a_tiff_is_kept_but_the_picture(kind, tmp_path):
    text = SECRET.decode()
    options = {
        "description": {"description": text},
        "software": {"software": text},
        "datetime": {"datetime": "2026:01:01 00:00:00", "metadata": None},
        "extratags": {
            "extratags": [(t, "s", 0, text, True) for t in (269, 271, 272, 285, 315, 316, 33432, 65000)]
        },
        "tail": {},
    }[kind]
    data = tiff(picture(), tmp_path / "a.tif", **options) + SECRET
    result = read(data)
    assert result.media_type == "image/png"
    assert not secrets_in(result.stored)
    np.testing.assert_array_equal(result.pixels, picture())


def test_interlaced_pngs_are_kept_as_they_are():
    """Their rows come in seven passes; a stream that holds just these is kept."""
    grey = picture()
    height, width = grey.shape
    lines = b""
    for left, top, across, down in (
        (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2),
    ):  # fmt: skip
        lines += b"".join(b"\0" + row.tobytes() for row in grey[top::down, left::across])
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 1)

    def whole(stream: bytes) -> bytes:
        body = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", stream) + png_chunk(b"IEND", b"")
        return b"\x89PNG\r\n\x1a\n" + body

    data = whole(zlib.compress(lines))
    result = read(data)
    np.testing.assert_array_equal(result.pixels, grey)
    assert result.stored == data
    assert not secrets_in(read(whole(zlib.compress(lines + SECRET))).stored)


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("chunk", [1000, 1 << 20])
def test_an_unpacked_png_holds_the_same_picture(depth, channels, chunk):
    noise = np.random.default_rng(1).integers(0, np.iinfo(depth).max, (200, 301, channels), depth)
    data = encoded(noise[..., 0] if channels == 1 else noise)
    header, packed = data[:33], zlib.compress(png_rows(data))
    parts = [png_chunk(b"IDAT", packed[at : at + chunk]) for at in range(0, len(packed), chunk)]
    data = b"".join((header, *parts, png_chunk(b"IEND", b"")))
    unpacked = unpack_png(data)
    assert unpacked is not None
    assert png_rows(unpacked) == png_rows(data)
    np.testing.assert_array_equal(
        *(cv2.imdecode(np.frombuffer(d, np.uint8), cv2.IMREAD_UNCHANGED) for d in (unpacked, data))
    )


def png_rows(data):
    at, packed = 8, b""
    while at < len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        packed += data[at + 8 : at + 8 + length] if kind == b"IDAT" else b""
        at += 12 + length
    return zlib.decompress(packed)


# --- what is refused ----------------------------------------------------------------------------


def test_empty_and_foreign_files():
    assert refusal(b"") is Reason.EMPTY_FILE
    for data in (b"x", b"%PDF-1.7 " + SECRET, b"PK\x03\x04" + bytes(100), bytes(1000), b"BM" + bytes(200)):
        assert refusal(data) is Reason.NOT_AN_IMAGE


@pytest.mark.parametrize("kind", [".png", ".jpg", ".tiff", ".webp"])
def test_a_file_cut_anywhere_is_truncated(kind):
    data = encoded(picture(), kind)
    for share in (0.1, 0.3, 0.5, 0.9, 0.99):
        assert refusal(data[: int(len(data) * share)]) is Reason.TRUNCATED, share


@pytest.mark.parametrize("progressive", [0, 1])
def test_a_jpeg_cut_anywhere_is_truncated_even_by_two_bytes_or_filled_with_zeros(progressive):
    data = encoded(picture(), ".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, progressive)
    assert refusal(data[:-2]) is Reason.TRUNCATED
    assert refusal(data[: len(data) // 2] + bytes(len(data) // 2)) is Reason.TRUNCATED


def test_a_progressive_jpeg_that_was_cut_and_closed_again_lacks_scans():
    data = encoded(picture(), ".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    assert refusal(data[: data.rfind(b"\xff\xda")] + b"\xff\xd9") is Reason.TRUNCATED


def test_a_jpeg_that_was_cut_and_closed_again_is_flagged():
    data = encoded(picture(400, 400), ".jpg")
    assert read(data[: len(data) // 2] + b"\xff\xd9").flags == (Reason.PARTIAL_PICTURE,)


def test_a_bomb_is_too_large_before_it_is_decoded():
    side = 60_000
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    png = (
        PNG_SIGNATURE
        + png_chunk(b"IHDR", header)
        + png_chunk(b"IDAT", zlib.compress(b""))
        + png_chunk(b"IEND", b"")
    )
    assert refusal(png) is Reason.TOO_LARGE
    jpeg = bytearray(encoded(picture(), ".jpg"))
    at = jpeg.find(b"\xff\xc0") + 5
    jpeg[at : at + 4] = struct.pack(">HH", side, side)
    assert refusal(bytes(jpeg)) is Reason.TOO_LARGE
    assert refusal(encoded(picture()), max_pixels=96 * 128 - 1) is Reason.TOO_LARGE
    assert read(encoded(picture()), max_pixels=96 * 128).width == 128


def test_less_than_64_pixels_on_a_side_is_too_small():
    assert refusal(encoded(picture(63, 200))) is Reason.TOO_SMALL
    assert read(encoded(picture(64, 200))).height == 64


def test_several_pictures_in_one_file_are_refused(tmp_path):
    apng = with_png_chunk(encoded(picture()), b"acTL", struct.pack(">II", 2, 0))
    assert refusal(apng) is Reason.ANIMATED
    pages = tiff(np.stack([picture()] * 2), tmp_path / "pages.tif", photometric="minisblack")
    assert refusal(pages) is Reason.ANIMATED
    webp = b"WEBP" + vp8x(flags=2) + b"ANIM" + struct.pack("<I6x", 6)
    assert refusal(b"RIFF" + struct.pack("<I", len(webp)) + webp) is Reason.ANIMATED
    frame = b",\0\0\0\0\x01\0\x01\0\0\x02\x02L\x01\0"
    still = b"GIF89a\x01\0\x01\0\x80\0\0" + bytes(6) + b"!\xf9\x04\0\0\0\0\0" + frame
    assert refusal(still + frame + b";") is Reason.ANIMATED
    assert refusal(still + b";") is Reason.NOT_AN_IMAGE


def test_a_png_with_a_wrong_checksum_or_less_picture_than_it_says_is_corrupt():
    data = bytearray(encoded(picture()))
    data[data.find(b"IDAT") + 10] ^= 1
    assert refusal(bytes(data)) is Reason.CORRUPT
    header = encoded(picture())[:33]
    short = png_chunk(b"IDAT", zlib.compress(bytes(129 * 40)))
    assert refusal(header + short + png_chunk(b"IEND", b"")) is Reason.CORRUPT


def test_tiff_layouts_that_would_be_misread_are_refused(tmp_path):
    for array, options in (
        (picture().astype(np.float32), {}),
        (picture().astype(np.int16), {}),
        (np.stack([picture(dtype=np.uint16)] * 3), {"photometric": "rgb", "planarconfig": "separate"}),
    ):
        assert refusal(tiff(array, tmp_path / "a.tif", **options)) in {
            Reason.CORRUPT,
            Reason.TIFF_PIXEL_FORMAT,
        }


def test_a_jpeg_of_a_thousand_scans_does_not_hang_us():
    data = encoded(picture(), ".jpg")
    scan = data[data.find(b"\xff\xda") : -2]
    assert refusal(data[:-2] + scan * 1000 + b"\xff\xd9") is Reason.CORRUPT


# --- real files ---------------------------------------------------------------------------------


def manifest(shared_data):
    return list(csv.DictReader((shared_data / "fracatlas" / "manifest.csv").read_text().splitlines()))


def test_every_truncated_original_is_refused_and_no_other(shared_data):
    truncated = {row["image_id"] for row in manifest(shared_data) if row["truncated"] == "1"}
    refused = set()
    originals = sorted((shared_data / "fracatlas" / "originals").iterdir())
    for path in originals[::20] + [p for p in originals if p.name in truncated]:
        try:
            result = read(path.read_bytes(), max_pixels=10**8)
        except Rejected as error:
            refused.add((path.name, error.reason))
        else:
            assert path.name not in truncated
            np.testing.assert_array_equal(read(result.stored, max_pixels=10**8).pixels, result.pixels)
    assert refused == {(p.name, Reason.TRUNCATED) for p in originals if p.name in truncated}
    assert len(refused) == 24


def test_downscaled_radiographs_are_read_and_those_that_end_in_fill_are_flagged(shared_data):
    rows = manifest(shared_data)
    flagged = set()
    for row in rows[::50] + [row for row in rows if row["truncated"] == "1"]:
        data = (shared_data / "fracatlas" / "images" / row["image_id"]).read_bytes()
        if Reason.PARTIAL_PICTURE in read(data).flags:
            flagged.add(row["image_id"])
    truncated = {row["image_id"] for row in rows if row["truncated"] == "1"}
    assert flagged <= truncated
    assert len(flagged) >= 0.75 * len(truncated)

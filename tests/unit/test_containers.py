"""Files made to keep a reader busy are refused at once; odd ones that any viewer opens are read."""

from __future__ import annotations

import io
import resource
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from pipeline.decode.picture import decode
from pipeline.decode.stripped import with_transform
from pipeline.types import Radiograph, Rejected
from tests.tiffs import entry, tiff
from vocabulary.reasons import Reason
from vocabulary.rendering import RenderingCode

MAX_PIXELS = 100_000_000


def grey(height: int = 96, width: int = 128) -> np.ndarray:
    down, across = np.mgrid[:height, :width]
    return (128 + 90 * np.sin(across / 19) * np.cos(down / 17) + across % 7).astype(np.uint8)


def read(data: bytes) -> Radiograph:
    return decode(data, max_pixels=MAX_PIXELS, pseudonymise=lambda _: "")


def refusal(data: bytes) -> Reason:
    """Return the reason for which a file is refused, in at most two seconds of processor time."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    with pytest.raises(Rejected) as refused:
        read(data)
    after = resource.getrusage(resource.RUSAGE_SELF)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2
    return refused.value.reason


def busy_directory() -> list[bytes]:
    """An entry that names 200,000 offsets, again and again, for readers to fetch each time."""
    return [entry(273, 4, 200_000, 8)] * 60_000


def test_a_tiff_directory_that_repeats_an_entry_is_refused_at_once() -> None:
    data = tiff(*[busy_directory()] * 3, behind=bytes(1_000_000))
    assert len(zlib.compress(data, 9)) < 20_000  # what it weighs in a ZIP
    assert refusal(data) is Reason.CORRUPT
    few = tiff([entry(273, 4, 200_000, 8)] * 500, behind=bytes(1_000_000))
    assert refusal(few) is Reason.CORRUPT


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_an_exif_block_that_repeats_an_entry_does_not_keep_us(kind: str) -> None:
    exif = tiff([entry(273, 4, 10_000, 8)] * 5_000, behind=bytes(100))[:65_000]
    plain = cv2.imencode(f".{kind}", grey())[1].tobytes()
    if kind == "png":
        chunk = struct.pack(">I", len(exif)) + b"eXIf" + exif + struct.pack(">I", zlib.crc32(b"eXIf" + exif))
        data = plain[:33] + chunk * 40 + plain[33:]
    else:
        segment = b"\xff\xe1" + struct.pack(">H", len(exif) + 8) + b"Exif\0\0" + exif
        data = plain[:2] + segment * 40 + plain[2:]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    assert read(data).width == 128
    assert resource.getrusage(resource.RUSAGE_SELF).ru_utime - before < 2


def test_a_tiff_that_states_its_size_twice_is_refused() -> None:
    fields = [
        entry(256, 4, 1, 20_000),
        entry(257, 4, 1, 20_000),
        entry(256, 4, 1, 128),
        entry(257, 4, 1, 96),
        entry(258, 3, 1, 8),
        entry(259, 3, 1, 1),
        entry(262, 3, 1, 1),
        entry(273, 4, 1, 8),
        entry(277, 3, 1, 1),
        entry(278, 4, 1, 20_000),
        entry(279, 4, 1, 12_288),
    ]
    assert refusal(tiff(fields, behind=bytes(20_000))) is Reason.CORRUPT


def test_tiff_strips_that_share_their_data_are_refused() -> None:
    with io.BytesIO() as file:
        tifffile.imwrite(file, grey(2000, 128), rowsperstrip=10, compression="zlib")
        data = bytearray(file.getvalue())
    with tifffile.TiffFile(io.BytesIO(data)) as opened:
        tags = opened.pages[0].tags  # type: ignore[union-attr]
        for code in (273, 279):
            tag = tags[code]
            data[tag.valueoffset : tag.valueoffset + 4 * tag.count] = struct.pack(
                f"<{tag.count}I", *([tag.value[0] if code == 273 else 4_000] * tag.count)
            )
    assert refusal(bytes(data)) in {Reason.CORRUPT, Reason.TRUNCATED}


def jpeg(array: np.ndarray | None = None) -> bytes:
    return cv2.imencode(".jpg", grey() if array is None else array)[1].tobytes()


@pytest.mark.parametrize("stray", [b"\0", b"\x12" * 26, b"\xff\xff\xff", bytes(1000)])
def test_stray_bytes_between_jpeg_segments_are_passed_over(stray: bytes) -> None:
    plain = jpeg()
    at = plain.index(b"\xff\xdb")
    odd = plain[:at] + stray + plain[at:]
    np.testing.assert_array_equal(read(odd).pixels, read(plain).pixels)
    assert stray not in read(odd).stored or stray in read(plain).stored


def test_many_stray_bytes_are_no_jpeg() -> None:
    plain = jpeg()
    at = plain.index(b"\xff\xdb")
    assert refusal(plain[:at] + bytes(5000) + plain[at:]) is Reason.CORRUPT


@pytest.mark.parametrize("parameters", [b"\0\0\0", b"\0\x3f\x01", b"\x01\x05\x11"])
def test_a_sequential_jpeg_sends_all_whatever_its_scan_states(parameters: bytes) -> None:
    plain = jpeg()
    at = plain.index(b"\xff\xda")
    end = at + 2 + struct.unpack_from(">H", plain, at + 2)[0]
    odd = plain[: end - 3] + parameters + plain[end:]
    np.testing.assert_array_equal(read(odd).pixels, read(plain).pixels)


def _without_next_directory(path: Path) -> bytes:
    data = bytearray(cv2.imencode(".tif", grey())[1].tobytes())
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        start = file.pages[0].offset  # type: ignore[union-attr]
    (entries,) = struct.unpack_from("<H", data, start)
    directory = data[start : start + 2 + 12 * entries]
    data[4:8] = struct.pack("<I", len(data))
    return bytes(data + directory)


def _thumbnail_first(path: Path) -> bytes:
    with tifffile.TiffWriter(path) as file:
        file.write(grey()[::2, ::2], subfiletype=1)
        file.write(grey(), subfiletype=0)
    return path.read_bytes()


def _grey_and_alpha(path: Path) -> bytes:
    pair = np.stack([grey(), np.full_like(grey(), 255)], axis=-1)
    tifffile.imwrite(path, pair, photometric="minisblack", extrasamples=["unassalpha"])
    return path.read_bytes()


@pytest.mark.parametrize("write", [_without_next_directory, _thumbnail_first, _grey_and_alpha])
def test_tiff_as_some_programs_write_it(write: Callable[[Path], bytes], tmp_path: Path) -> None:
    np.testing.assert_array_equal(read(write(tmp_path / "a.tif")).pixels, grey())


DIFFERENCES = {"photometric": "minisblack", "compression": "zlib", "predictor": True}


@pytest.mark.parametrize(
    "options",
    [
        {"dtype": np.float32},
        {"dtype": np.int16},
        {"dtype": np.uint32},
        {"photometric": "separated", "shape": (96, 128, 4)},
        {"shape": (96, 128, 2), "dtype": np.uint16, "planarconfig": "contig", **DIFFERENCES},
        {"photometric": "cielab", "shape": (96, 128, 3)},
    ],
    ids=["float", "int16", "uint32", "CMYK", "16 bits and alpha, differences", "CIELab"],
)
def test_tiff_pixels_that_are_not_read_have_a_reason_of_their_own(
    options: dict[str, object], tmp_path: Path
) -> None:
    shape, dtype = options.pop("shape", (96, 128)), options.pop("dtype", np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", np.ones(shape, dtype), **options)  # type: ignore[call-overload]
    assert refusal((tmp_path / "a.tif").read_bytes()) is Reason.TIFF_PIXEL_FORMAT


def by_hand(*, without: int = 0, behind: bytes = bytes(4), **changed: int) -> bytes:
    """A grey TIFF of one strip, without a field, or with other values, and what ends its directory."""
    height, width = grey().shape
    values = {
        256: width,
        257: height,
        258: 8,
        259: 1,
        262: 1,
        273: 8,
        277: 1,
        278: height,
        279: height * width,
    }
    values |= {int(tag.removeprefix("tag")): value for tag, value in changed.items()}
    values.pop(without, None)
    entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(values.items())]
    head = struct.pack("<2sHI", b"II", 42, 8 + height * width) + grey().tobytes()
    return head + struct.pack("<H", len(entries)) + b"".join(entries) + behind


def test_tiff_of_four_bits_or_of_no_photometric_interpretation() -> None:
    np.testing.assert_array_equal(read(by_hand()).pixels, grey())
    assert refusal(by_hand(tag258=4)) is Reason.TIFF_PIXEL_FORMAT
    assert refusal(by_hand(without=262)) is Reason.TIFF_PIXEL_FORMAT


@pytest.mark.parametrize("coding", [6, 34712, 34887, 34892, 50000, 50002])
def test_a_rare_compression_of_a_tiff_has_a_reason_of_its_own(coding: int) -> None:
    assert refusal(by_hand(tag259=coding)) is Reason.UNSUPPORTED_CODING


@pytest.mark.parametrize(("behind", "damaged"), [(b"", False), (b"\0\0", False), (b"\xff" * 4, True)])
def test_a_tiff_that_ends_behind_its_picture(behind: bytes, damaged: bool) -> None:
    result = read(by_hand(behind=behind))
    np.testing.assert_array_equal(result.pixels, grey())
    assert (Reason.DAMAGED_PICTURE_DATA in result.flags) == damaged


def png(array: np.ndarray) -> bytes:
    return cv2.imencode(".png", array)[1].tobytes()


def webp(array: np.ndarray) -> bytes:
    return cv2.imencode(".webp", array)[1].tobytes()


@pytest.mark.parametrize("first", [jpeg, png, webp])
@pytest.mark.parametrize("second", [jpeg, png, webp])
def test_another_picture_behind_the_first_is_refused(
    first: Callable[[np.ndarray], bytes], second: Callable[[np.ndarray], bytes]
) -> None:
    for between in (b"", bytes(5), b"\xff\xff"):
        assert refusal(first(grey()) + between + second(grey())) is Reason.ANIMATED
    for behind in (bytes(9), b"\xff" * 9, b"SEFT and so on", second(grey())[2:]):
        assert read(first(grey()) + behind).pixels.shape == grey().shape


def test_previews_and_the_further_pictures_of_an_album_are_passed_over() -> None:
    small = np.ascontiguousarray(grey()[::2, ::2])
    assert read(jpeg(grey()) + jpeg(small)).pixels.shape == grey().shape
    first = jpeg(grey())
    assert read(first[:2] + b"\xff\xe2\0\x06MPF\0" + first[2:] + first).pixels.shape == grey().shape


def test_a_reduced_copy_that_is_no_smaller_is_a_picture_of_its_own() -> None:
    for step, several in ((1, True), (2, False)):
        with io.BytesIO() as file:
            with tifffile.TiffWriter(file) as writer:
                writer.write(grey(), photometric="minisblack")
                writer.write(grey()[::step, ::step].copy(), photometric="minisblack", subfiletype=1)
            data = file.getvalue()
        assert (refusal(data) is Reason.ANIMATED) if several else read(data).pixels.any()


def test_picture_data_longer_than_the_header_says() -> None:
    height, width = grey().shape
    assert refusal(by_hand(tag257=height // 2 + 20)) is Reason.CORRUPT
    assert refusal(by_hand(tag257=0)) is Reason.CORRUPT
    coded = png(grey())
    header = bytearray(coded[12:29])
    header[8:12] = struct.pack(">I", height - 20)
    shorter = coded[:12] + bytes(header) + struct.pack(">I", zlib.crc32(header)) + coded[33:]
    assert Reason.DAMAGED_PICTURE_DATA in read(shorter).flags
    # the last strip may be as high as the others are, and padding may follow
    padded = np.vstack([grey(), np.full((4, width), 7, np.uint8)])
    data = file_of(padded, photometric="minisblack", rowsperstrip=10)
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        tag = file.pages[0].tags[257]
    cut = data[: tag.valueoffset] + struct.pack("<H", height) + data[tag.valueoffset + 2 :]
    np.testing.assert_array_equal(read(cut).pixels, grey())


def relabelled(data: bytes, photometric: int) -> bytes:
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        tag, order = file.pages[0].tags[262], file.byteorder
    return data[: tag.valueoffset] + struct.pack(f"{order}H", photometric) + data[tag.valueoffset + 2 :]


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"byteorder": ">"}, {"bigtiff": True}])
def test_grey_settles_what_the_three_samples_of_a_tiff_are(options: dict[str, Any]) -> None:
    middle = np.full_like(grey(), 128)
    alike, brightness = np.dstack([grey()] * 3), np.dstack([grey(), middle, middle])
    alike, brightness = (file_of(a, photometric="rgb", **options) for a in (alike, brightness))
    for data in (alike, relabelled(alike, 6), relabelled(alike, 1), brightness):
        result = read(data)
        np.testing.assert_array_equal(result.pixels, grey())
        np.testing.assert_array_equal(read(result.stored).pixels, grey())
        settled = RenderingCode.COLOUR_FROM_STREAM in [step.code for step in result.rendering]
        assert settled == (data not in {alike, relabelled(alike, 1)})
    assert refusal(relabelled(brightness, 1)) is Reason.TIFF_PIXEL_FORMAT
    assert refusal(relabelled(brightness, 0)) is Reason.TIFF_PIXEL_FORMAT


def test_a_jpeg_within_a_tiff_that_is_labelled_wrongly() -> None:
    with io.BytesIO() as file:
        Image.fromarray(np.dstack([grey()] * 3)).save(file, "TIFF", compression="jpeg", quality=98)
        data = file.getvalue()
    for photometric in (2, 6):
        found = read(relabelled(data, photometric)).pixels
        assert np.abs(found.astype(int) - grey()).max() <= 4


@pytest.mark.parametrize("options", [{}, {"byteorder": ">"}, {"bigtiff": True}])
def test_the_resolution_of_a_tiff_tells_pixels_that_are_not_square(options: dict[str, Any]) -> None:
    even = file_of(grey(), photometric="minisblack", resolution=(100, 100), **options)
    squashed = file_of(grey(), photometric="minisblack", resolution=(200, 100), **options)
    assert Reason.NON_SQUARE_PIXELS not in read(even).flags
    assert Reason.NON_SQUARE_PIXELS in read(squashed).flags


def test_jpeg_of_other_than_8_bits_and_jpeg_ls_have_a_reason_of_their_own() -> None:
    data = jpeg()
    at = data.index(b"\xff\xc0")
    assert refusal(data[: at + 4] + b"\x0c" + data[at + 5 :]) is Reason.UNSUPPORTED_CODING
    assert (
        refusal(data[: at + 5] + b"\0\0" + data[at + 7 :]) is Reason.UNSUPPORTED_CODING
    )  # height told later
    assert refusal(data[: at + 1] + b"\xf7" + data[at + 2 :]) is Reason.UNSUPPORTED_CODING


@pytest.mark.parametrize("coded", ["RGB", "YCbCr"])
@pytest.mark.parametrize("marked", [0, 1])
def test_grey_settles_how_the_colours_of_a_jpeg_are_coded(coded: str, marked: int) -> None:
    planes = grey(), np.full_like(grey(), 128), np.full_like(grey(), 128)
    three = Image.merge("YCbCr", [Image.fromarray(p) for p in ((grey(),) * 3 if coded == "RGB" else planes)])
    with io.BytesIO() as file:
        three.save(file, "JPEG", quality=98, subsampling=0)
        data = with_transform(file.getvalue(), marked)
    result = read(data)
    assert np.abs(result.pixels.astype(int) - grey()).max() <= 4
    np.testing.assert_array_equal(read(result.stored).pixels, result.pixels)
    settled = RenderingCode.COLOUR_FROM_STREAM in [step.code for step in result.rendering]
    assert settled == ((coded == "RGB") == bool(marked))


@pytest.mark.parametrize("alpha", [0, 65535])
@pytest.mark.parametrize("how", [{}, {"compression": "zlib", "rowsperstrip": 7}, {"byteorder": ">"}])
def test_grey_of_16_bits_with_a_transparency(alpha: int, how: dict[str, Any]) -> None:
    deep = grey().astype(np.uint16) * 257
    pair = np.dstack([deep, np.full_like(deep, alpha)])
    written = {"photometric": "minisblack", "planarconfig": "contig", "extrasamples": ["UNASSALPHA"], **how}
    with io.BytesIO() as file, io.BytesIO() as alone:
        tifffile.imwrite(file, pair, **written)
        tifffile.imwrite(alone, deep)
        np.testing.assert_array_equal(read(file.getvalue()).pixels, read(alone.getvalue()).pixels)


def file_of(array: np.ndarray, **options: Any) -> bytes:
    with io.BytesIO() as file:
        tifffile.imwrite(file, array, **options)
        return file.getvalue()


def test_colours_under_a_full_transparency_are_shown() -> None:
    data = file_of(
        np.dstack([grey()] * 3 + [np.zeros_like(grey())]), photometric="rgb", extrasamples=["UNASSALPHA"]
    )
    np.testing.assert_array_equal(read(data).pixels, grey())


def test_cmyk_without_a_mark_is_refused_with_its_own_reason() -> None:
    inks = np.dstack([255 - grey()] * 3 + [np.zeros_like(grey())])
    out = io.BytesIO()
    Image.fromarray(inks, "CMYK").save(out, "JPEG", quality=95)
    marked = out.getvalue()
    assert np.abs(read(marked).pixels.astype(int) - grey()).mean() < 3
    at = marked.index(b"\xff\xee")
    assert refusal(marked[:at] + marked[at + 16 :]) == Reason.UNSUPPORTED_CODING


def test_a_webp_longer_than_it_says_is_flagged() -> None:
    whole = cv2.imencode(".webp", grey(), [cv2.IMWRITE_WEBP_QUALITY, 80])[1].tobytes()
    assert Reason.DAMAGED_PICTURE_DATA not in read(whole).flags
    assert Reason.DAMAGED_PICTURE_DATA not in read(whole + bytes(4)).flags
    assert Reason.DAMAGED_PICTURE_DATA in read(whole + whole[-6:]).flags

"""Header and picture data that disagree, values that cannot be read, pixels that are not square."""

from __future__ import annotations

import io
import zlib
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest
from openjpeg.utils import decode as jpeg_2000_decode
from openjpeg.utils import encode_array as encode_jpeg_2000
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    RLELossless,
)

from phantoms.film import make_phantom
from pipeline.decode import decode as decode_confined
from pipeline.types import RenderingStep
from tests.unit.test_dicom import make_dicom, packed_bits, read, refusal, rle_frame
from vocabulary.reasons import Reason
from vocabulary.rendering import RenderingCode

WINDOW = {"WindowCenter": 2048, "WindowWidth": 4096}


@pytest.fixture(scope="module")
def film():
    """A hand of 12 bits."""
    return make_phantom(2, "hand").pixels.astype(np.uint16)[:400, :300] * 16


@pytest.fixture(scope="module")
def shown(film):
    """The picture of `film` through its window."""
    return read(make_dicom(film, **WINDOW)).pixels


def jpeg_2000(film, bits=12):
    return bytes(encode_jpeg_2000(film, bits_stored=bits, photometric_interpretation=2))


def codes(result):
    return [step.code for step in result.rendering]


def same_again(result):
    """What is kept is read to the same picture."""
    np.testing.assert_array_equal(read(result.stored).pixels, result.pixels)
    return result


# --- length ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [200, 100])
def test_data_of_more_rows_than_the_header_says_are_refused(film, rows):
    assert refusal(make_dicom(film, Rows=rows, **WINDOW)) is Reason.DICOM_CONTRADICTION


@pytest.mark.parametrize("turn", [False, True])
def test_rows_and_columns_that_were_exchanged_are_refused(film, turn):
    film = film.T.copy() if turn else film
    columns, rows = film.shape
    assert read(make_dicom(film, **WINDOW)).flags == ()
    assert refusal(make_dicom(film, Rows=rows, Columns=columns, **WINDOW)) is Reason.DICOM_CONTRADICTION
    coded = rle_frame(packed_bits(film >> 8), packed_bits(film & 255))
    data = make_dicom(film, RLELossless, coded=coded, Rows=rows, Columns=columns, **WINDOW)
    assert refusal(data) is Reason.DICOM_CONTRADICTION


@pytest.mark.parametrize("padding", [bytes(2000), b"\xff" * 2000])
def test_padding_behind_the_picture_is_left_out(film, shown, padding):
    data = make_dicom(film, **WINDOW)
    dataset = pydicom.dcmread(io.BytesIO(data))
    dataset.PixelData += padding
    file = io.BytesIO()
    dataset.save_as(file)
    result = same_again(read(file.getvalue()))
    np.testing.assert_array_equal(result.pixels, shown)
    assert RenderingCode.SURPLUS_IGNORED in codes(result)
    assert result.flags == ()


@pytest.mark.parametrize("tail", [b"\xff" * 10, bytes(7), b"rubbish behind the end"])
def test_what_follows_the_data_set_is_not_read(film, shown, tail):
    np.testing.assert_array_equal(read(make_dicom(film, **WINDOW) + tail).pixels, shown)


# --- how the data are coded -----------------------------------------------------------------------


def test_the_frame_tells_how_it_is_coded(film, shown):
    coded = jpeg_2000(film)
    for data in (
        make_dicom(film, JPEGLosslessSV1, coded=coded, **WINDOW),
        make_dicom(film, JPEGBaseline8Bit, coded=coded, **WINDOW),
    ):
        result = same_again(read(data))
        np.testing.assert_array_equal(result.pixels, shown)
        assert RenderingCode.SYNTAX_FROM_STREAM in codes(result)


def test_native_data_under_a_compressed_syntax_and_the_other_way_round(film, shown):
    native = make_dicom(film, **WINDOW)
    compressed = make_dicom(film, JPEG2000Lossless, coded=jpeg_2000(film), **WINDOW)
    for data in (
        rewrite_syntax(native, JPEGLosslessSV1),
        rewrite_syntax(compressed, ExplicitVRLittleEndian),
    ):
        np.testing.assert_array_equal(same_again(read(data)).pixels, shown)


def rewrite_syntax(data, syntax):
    """Name another transfer syntax in the file meta information, and leave the rest as it is."""
    at = data.index(b"\x02\x00\x10\x00UI")
    length = int.from_bytes(data[at + 6 : at + 8], "little")
    value = str(syntax).encode()
    value += b"\0" * (len(value) % 2)
    group = data.index(b"\x02\x00\x00\x00UL")
    stated = int.from_bytes(data[group + 8 : group + 12], "little") + len(value) - length
    changed = data[: at + 6] + len(value).to_bytes(2, "little") + value + data[at + 8 + length :]
    return changed[: group + 8] + stated.to_bytes(4, "little") + changed[group + 12 :]


@pytest.mark.parametrize("stated", [ExplicitVRBigEndian, ImplicitVRLittleEndian])
def test_a_data_set_coded_otherwise_than_stated_is_read(film, shown, stated):
    np.testing.assert_array_equal(read(rewrite_syntax(make_dicom(film, **WINDOW), stated)).pixels, shown)


def test_a_sequence_of_fragments_without_its_delimiter(film, shown):
    data = make_dicom(film, JPEG2000Lossless, coded=jpeg_2000(film), **WINDOW)
    assert data.endswith(b"\xfe\xff\xdd\xe0\0\0\0\0")
    np.testing.assert_array_equal(read(data[:-8]).pixels, shown)
    assert refusal(data[:-200]) is Reason.TRUNCATED


@pytest.mark.parametrize("padding", [bytes(3000), b"\xff" * 3000])
def test_jpeg_2000_padded_by_any_length(film, shown, padding):
    data = make_dicom(film, JPEG2000Lossless, coded=jpeg_2000(film) + padding, **WINDOW)
    np.testing.assert_array_equal(same_again(read(data)).pixels, shown)


@pytest.mark.parametrize("confined", [False, True])
def test_high_throughput_jpeg_2000_is_read_bit_for_bit(confined):
    """The stream was made by OpenJPH 0.9 (Debian's openjph-tools) of the picture below, as a PGM of 12 bits.

    ``ojph_compress -i film.pgm -o htj2k_12_bits.j2c -reversible true``
    """
    rows, columns = np.mgrid[:80, :96]
    bump = np.maximum(0, 1600 - ((rows - 40) ** 2 + (columns - 48) ** 2))
    film = ((rows * columns) // 3 + (rows * 7 + columns * 13) % 64 * 4 + bump).astype(np.uint16)
    coded = (Path(__file__).parent / "streams" / "htj2k_12_bits.j2c").read_bytes()
    data = make_dicom(film, HTJ2KLossless, coded=coded)
    result = decode_confined(data, max_pixels=10**6, pseudonymise=str) if confined else read(data)
    plain = read(make_dicom(film))
    np.testing.assert_array_equal(result.pixels, plain.pixels)
    assert result.flags == plain.flags
    kept = pydicom.dcmread(io.BytesIO(same_again(result).stored))
    assert kept.file_meta.TransferSyntaxUID == HTJ2KLossless
    np.testing.assert_array_equal(jpeg_2000_decode(get_frame(kept.PixelData, 0, number_of_frames=1)), film)


# --- depth ----------------------------------------------------------------------------------------


def test_a_codestream_deeper_than_the_header_says_is_believed(film):
    deep = film * 16
    data = make_dicom(film, JPEG2000Lossless, coded=jpeg_2000(deep, 16), bits=12)
    result = same_again(read(data))
    expected = read(make_dicom(deep, bits=16)).pixels
    np.testing.assert_array_equal(result.pixels, expected)
    assert result.flags == (Reason.HEADER_CONTRADICTS_PICTURE,)
    assert RenderingStep(RenderingCode.DEPTH_FROM_STREAM, "16") in result.rendering


def test_swapped_bytes_are_put_right_and_flagged(film, shown):
    result = same_again(read(make_dicom((film + 1).byteswap(), **WINDOW)))
    assert np.abs(result.pixels.astype(int) - shown).max() <= 1
    assert Reason.HEADER_CONTRADICTS_PICTURE in result.flags
    assert RenderingCode.BYTES_SWAPPED in codes(result)


def test_bytes_of_a_picture_that_is_stored_high_are_left_as_they_are(film):
    """Eight bits that matter, in the upper byte of words: no writer put the low bytes first."""
    high = (film // 16 << 8).astype(np.uint16)
    coded = rle_frame(packed_bits((high >> 8).astype(np.uint8)), packed_bits((high & 255).astype(np.uint8)))
    for frame in (None, coded):
        syntax = ExplicitVRLittleEndian if frame is None else RLELossless
        result = read(make_dicom(high, syntax, coded=frame, BitsStored=12, HighBit=15, **WINDOW))
        assert RenderingCode.BYTES_SWAPPED not in codes(result)
        assert Reason.HEADER_CONTRADICTS_PICTURE not in result.flags


def test_native_values_beyond_the_stored_bits_are_masked_and_flagged(film):
    result = read(make_dicom(film * 16 + 7, **WINDOW))
    assert Reason.HEADER_CONTRADICTS_PICTURE in result.flags


@pytest.mark.parametrize("label", ["MONOCHROME2", "RGB", "YBR_FULL"])
@pytest.mark.parametrize("coding", ["native", "rle"])
def test_values_of_8_bits_beyond_the_stored_ones_are_flagged_and_kept_as_they_were_read(film, label, coding):
    grey = (film // 16).astype(np.uint8)
    picture = grey if label == "MONOCHROME2" else np.dstack([grey] * 3)
    planes = 1 if picture.ndim == 2 else 3
    frame = rle_frame(*[packed_bits(grey)] * planes) if coding == "rle" else None
    options = {"bits": 8, "BitsStored": 6, "HighBit": 5, "PhotometricInterpretation": label}
    syntax = ExplicitVRLittleEndian if frame is None else RLELossless
    result = same_again(read(make_dicom(picture, syntax, coded=frame, **options)))
    assert Reason.HEADER_CONTRADICTS_PICTURE in result.flags


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, RLELossless])
@pytest.mark.parametrize("fragments", [1, 3])
def test_two_frames_of_which_the_header_says_nothing_are_refused(film, syntax, fragments):
    if syntax == RLELossless:
        coded = rle_frame(packed_bits(film >> 8), packed_bits(film & 255))
    else:
        coded = jpeg_2000(film)
    dataset = pydicom.dcmread(io.BytesIO(make_dicom(film, syntax, coded=coded, **WINDOW)))
    assert read(file_of(dataset)).flags == ()
    dataset.PixelData = encapsulate([coded, coded], fragments_per_frame=fragments)
    assert refusal(file_of(dataset)) is Reason.DICOM_CONTRADICTION


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGBaseline8Bit])
@pytest.mark.parametrize("between", [b"", b"\0", b"\xff\xff\0\0"])
@pytest.mark.parametrize("fragments", [1, 3])
def test_two_frames_in_one_fragment_or_cut_anywhere_are_refused(film, syntax, between, fragments):
    grey = (film >> 4).astype(np.uint8)
    coded = jpeg_2000(grey, 8) if syntax == JPEG2000Lossless else cv2.imencode(".jpg", grey)[1].tobytes()
    dataset = pydicom.dcmread(io.BytesIO(make_dicom(grey, syntax, coded=coded, bits=8)))
    assert read(file_of(dataset)).flags == ()
    dataset.PixelData = encapsulate([coded + between + coded], fragments_per_frame=fragments)
    assert refusal(file_of(dataset)) is Reason.DICOM_CONTRADICTION


def test_a_thumbnail_within_a_jpeg_frame_is_no_second_one(film):
    grey = (film >> 4).astype(np.uint8)
    coded, small = (cv2.imencode(".jpg", g)[1].tobytes() for g in (grey, grey[::8, ::8].copy()))
    exif = b"\xff\xe1" + (2 + len(small) * 2).to_bytes(2, "big") + small * 2
    coded = coded[:2] + exif + coded[2:] + bytes(3)
    assert read(make_dicom(grey, JPEGBaseline8Bit, coded=coded, bits=8)).flags == ()


def test_fragments_without_an_offset_table(film, shown):
    coded = jpeg_2000(film)
    dataset = pydicom.dcmread(io.BytesIO(make_dicom(film, JPEG2000Lossless, coded=coded, **WINDOW)))
    dataset.PixelData = encapsulate([coded], has_bot=False)[8:]
    np.testing.assert_array_equal(read(file_of(dataset)).pixels, shown)


def file_of(dataset):
    file = io.BytesIO()
    dataset.save_as(file)
    return file.getvalue()


# --- colours --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def grey(film):
    return (film // 16).astype(np.uint8)


@pytest.mark.parametrize("label", ["RGB", "YBR_FULL", "YBR_FULL_422", "MONOCHROME2"])
@pytest.mark.parametrize("coding", ["native", "rle"])
def test_grey_in_colour_settles_how_the_colours_are_coded(grey, label, coding):
    colours = np.dstack([grey] * 3)
    options = {"bits": 8, "PhotometricInterpretation": label}
    if coding == "rle":
        frame = rle_frame(*(packed_bits(grey) for _ in range(3)))
        data = make_dicom(colours, RLELossless, coded=frame, **options)
    else:
        data = make_dicom(colours, **options)
    result = same_again(read(data))
    np.testing.assert_array_equal(result.pixels, grey)
    assert (RenderingCode.COLOUR_FROM_STREAM in codes(result)) == (label != "RGB")


def test_brightness_and_two_empty_differences_are_grey_whatever_the_label(grey):
    planes = np.dstack([grey, np.full_like(grey, 128), np.full_like(grey, 128)])
    result = same_again(read(make_dicom(planes, bits=8, PhotometricInterpretation="RGB")))
    assert np.abs(result.pixels.astype(int) - grey).max() <= 1


@pytest.mark.parametrize("label", ["RGB", "YBR_FULL_422"])
def test_a_bare_jpeg_of_brightness_and_differences(grey, label):
    coded = cv2.imencode(".jpg", np.dstack([grey] * 3), [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
    at = coded.index(b"\xff\xe0")
    bare = coded[:at] + coded[at + 2 + int.from_bytes(coded[at + 2 : at + 4], "big") :]
    data = make_dicom(
        np.dstack([grey] * 3), JPEGBaseline8Bit, coded=bare, bits=8, PhotometricInterpretation=label
    )
    result = same_again(read(data))
    assert np.abs(result.pixels.astype(int) - grey).mean() <= 2


# --- values of the header -------------------------------------------------------------------------


def unreadable(film, **texts):
    """A DICOM file in which decimal strings are what a modality wrote, not what the standard allows."""
    places = {word: f"{n}{n}{n}.{n}" for n, word in enumerate(texts, 1)}
    data = make_dicom(film, **{word: float(place) for word, place in places.items()})
    for word, place in places.items():
        old, new = place.encode(), texts[word].encode()
        at = data.index(
            pydicom.datadict.tag_for_keyword(word).to_bytes(4, "big")[1::-1]
            + pydicom.datadict.tag_for_keyword(word).to_bytes(4, "big")[3:1:-1]
            + b"DS"
        )
        length = int.from_bytes(data[at + 6 : at + 8], "little")
        assert old in data[at + 8 : at + 8 + length]
        new += b" " * (len(new) % 2)
        data = data[: at + 6] + len(new).to_bytes(2, "little") + new + data[at + 8 + length :]
    return data


def test_a_decimal_comma_is_read_as_a_point(film):
    texts = {
        "WindowCenter": "512,0",
        "WindowWidth": "1024,00",
        "RescaleIntercept": "0",
        "RescaleSlope": "0,25",
    }
    result = same_again(read(unreadable(film, **texts)))
    right = {"WindowCenter": 512, "WindowWidth": 1024, "RescaleIntercept": 0, "RescaleSlope": 0.25}
    np.testing.assert_array_equal(result.pixels, read(make_dicom(film, **right)).pixels)
    assert RenderingStep(RenderingCode.COMMA_REPAIRED, "RescaleSlope") in result.rendering
    assert result.flags == ()


@pytest.mark.parametrize("slope", ["1.0.0", "one", "1,024"])
def test_a_window_is_not_used_without_the_rescale_that_it_is_meant_for(film, slope):
    texts = {"WindowCenter": "100", "WindowWidth": "300", "RescaleIntercept": "0", "RescaleSlope": slope}
    result = same_again(read(unreadable(film, **texts)))
    np.testing.assert_array_equal(result.pixels, read(make_dicom(film)).pixels)
    assert result.flags == (Reason.HEADER_VALUE_UNREADABLE,)


@pytest.mark.parametrize("word", ["RescaleSlope", "RescaleIntercept"])
def test_a_rescale_of_two_values_is_none(film, word):
    rescale = {"RescaleSlope": 2, "RescaleIntercept": 0} | {word: [1, 2]}
    result = same_again(read(make_dicom(film, **rescale, WindowCenter=4096, WindowWidth=8192)))
    assert result.flags == (Reason.HEADER_VALUE_UNREADABLE,)
    np.testing.assert_array_equal(result.pixels, read(make_dicom(film)).pixels)


def test_a_rescale_that_makes_all_values_one_is_none(film):
    result = read(make_dicom(film, RescaleSlope="0", RescaleIntercept="-1024", **WINDOW))
    assert Reason.HEADER_VALUE_UNREADABLE in result.flags
    np.testing.assert_array_equal(result.pixels, read(make_dicom(film)).pixels)


@pytest.mark.parametrize("kind", ["VOILUTSequence", "ModalityLUTSequence"])
@pytest.mark.parametrize("spoilt", [1, 4])
def test_a_lut_with_entries_that_stand_out_is_not_used(film, kind, spoilt):
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [4096, 0, 16])
    table = (np.linspace(0, 1, 4096) ** 0.8 * 4000).astype(np.uint16)
    table[3900:] = 0  # some tables end so, beyond the values that there are
    item.add_new("LUTData", "US", table.tolist())
    assert read(make_dicom(film, **{kind: [item]})).flags == ()
    table[1000 : 1000 + spoilt] = 65535
    item.add_new("LUTData", "US", table.tolist())
    result = read(make_dicom(film, **{kind: [item]}))
    assert Reason.HEADER_VALUE_UNREADABLE in result.flags
    np.testing.assert_array_equal(result.pixels, read(make_dicom(film)).pixels)


def test_a_spacing_of_three_values_is_flagged(film):
    result = same_again(read(make_dicom(film, PixelSpacing=[0.1, 0.2, 0.1], **WINDOW)))
    assert result.flags == (Reason.HEADER_VALUE_UNREADABLE,)


def test_a_bad_first_window_does_not_hide_the_good_one(film, shown):
    data = make_dicom(film, WindowCenter=[0, 2048], WindowWidth=[-5, 4096])
    result = same_again(read(data))
    np.testing.assert_array_equal(result.pixels, shown)
    assert RenderingStep(RenderingCode.HEADER_WINDOW, "2") in result.rendering


@pytest.mark.parametrize("width", [-4096, 0])
def test_a_window_that_cannot_be_applied_is_flagged_where_there_is_no_other(film, width):
    result = same_again(read(make_dicom(film, WindowCenter=2048, WindowWidth=width)))
    np.testing.assert_array_equal(result.pixels, read(make_dicom(film)).pixels)
    assert result.flags == (Reason.HEADER_VALUE_UNREADABLE,)


@pytest.mark.parametrize("label", ["MONOCHROME1", "MONOCHROME2"])
def test_a_window_that_leaves_bone_white_is_replaced_and_flagged(film, label):
    def flags(share):
        """What is said of a window under which this share of the pixels is white."""
        top = float(np.percentile(film, 100 - 100 * share))
        header = {"WindowCenter": top / 2, "WindowWidth": top}
        if label == "MONOCHROME1":
            header["WindowCenter"] = 4095 - top / 2
        values = 4095 - film if label == "MONOCHROME1" else film
        return same_again(read(make_dicom(values, PhotometricInterpretation=label, **header))).flags

    assert Reason.WINDOW_REPLACED not in flags(0.2)
    assert Reason.WINDOW_REPLACED in flags(0.3)


@pytest.mark.parametrize("times", [3, 8, 16])
def test_a_window_far_too_wide_is_replaced_and_flagged(film, times):
    result = same_again(read(make_dicom(film, WindowCenter=2048 * times, WindowWidth=4096 * times)))
    np.testing.assert_array_equal(result.pixels, read(make_dicom(film)).pixels)
    assert result.flags == (Reason.WINDOW_REPLACED,)


# --- shape ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["PixelSpacing", "ImagerPixelSpacing", "PixelAspectRatio"])
@pytest.mark.parametrize("axis", [0, 1])
def test_pixels_that_are_not_square_are_resampled(film, shown, word, axis):
    squashed = film[::2] if axis == 0 else film[:, ::2]
    sides = [2, 1] if axis == 0 else [1, 2]
    result = same_again(read(make_dicom(squashed, **{word: sides}, **WINDOW)))
    assert result.pixels.shape == shown.shape == (result.height, result.width)
    assert np.abs(result.pixels.astype(int) - shown).mean() < 8
    assert RenderingStep(RenderingCode.SQUARE_PIXELS, word) in result.rendering


def test_an_absurd_spacing_is_flagged_and_one_of_nothing_is_none(film, shown):
    result = read(make_dicom(film, PixelSpacing=[0.1, 10], **WINDOW))
    assert result.flags == (Reason.NON_SQUARE_PIXELS,)
    np.testing.assert_array_equal(result.pixels, shown)
    assert read(make_dicom(film, PixelSpacing=[0, 0], **WINDOW)).flags == ()


@pytest.mark.parametrize("second", ["ImagerPixelSpacing", "PixelAspectRatio"])
def test_two_statements_about_the_shape_of_a_pixel_are_flagged(film, shown, second):
    agreed = read(make_dicom(film[::2], PixelSpacing=[0.2, 0.1], **{second: [2, 1]}, **WINDOW))
    assert (agreed.pixels.shape, agreed.flags) == (shown.shape, ())
    contradicted = read(make_dicom(film[::2], PixelSpacing=[0.1, 0.1], **{second: [2, 1]}, **WINDOW))
    assert contradicted.flags == (Reason.NON_SQUARE_PIXELS,)


def test_a_film_far_wider_than_high_is_flagged_unless_its_pixels_are_said_to_be_square(film):
    squashed = film[::3]
    assert read(make_dicom(squashed, **WINDOW)).flags == (Reason.ELONGATED_PICTURE,)
    assert read(make_dicom(squashed, PixelSpacing=[0.1, 0.1], **WINDOW)).flags == ()
    plain = cv2.imencode(".png", (squashed // 16).astype(np.uint8))[1].tobytes()
    assert read(plain).flags == (Reason.ELONGATED_PICTURE,)


def test_high_bit_tells_the_depth_where_bits_stored_is_missing(film, shown):
    dataset = pydicom.dcmread(io.BytesIO(make_dicom(film, **WINDOW)))
    del dataset.BitsStored
    result = same_again(read(file_of(dataset)))
    np.testing.assert_array_equal(result.pixels, shown)
    assert result.flags == (Reason.HEADER_VALUE_UNREADABLE,)


def test_bits_below_the_stored_ones_are_flagged(film, shown):
    high = read(make_dicom(film << 4, HighBit=15, **WINDOW))
    np.testing.assert_array_equal(high.pixels, shown)
    assert high.flags == ()
    values = film + np.random.default_rng(0).integers(0, 16, film.shape, np.uint16)
    for header in ({"HighBit": 15}, {"BitsStored": 7, "HighBit": 11}):
        assert Reason.HEADER_CONTRADICTS_PICTURE in read(make_dicom(values, **header)).flags


def test_an_icon_is_not_the_picture(film):
    icon = pydicom.Dataset()
    icon.Rows = icon.Columns = 64
    icon.SamplesPerPixel, icon.PhotometricInterpretation, icon.PixelRepresentation = 1, "MONOCHROME2", 0
    icon.BitsAllocated = icon.BitsStored = 8
    icon.HighBit = 7
    icon.add_new("PixelData", "OB", bytes(64 * 64))
    data = make_dicom(film, IconImageSequence=[icon], **WINDOW)
    picture_at = data.rindex(b"\xe0\x7f\x10\x00OW")
    assert refusal(data[:picture_at]) is Reason.DICOM_NO_PIXELS


# --- found by holding films against another reader ------------------------------------------------


def test_signed_values_in_rle(film, shown):
    signed = film.astype(np.int16) - 2048
    words = signed.view(np.uint16)
    frame = rle_frame(packed_bits(words >> 8), packed_bits(words & 255))
    window = {"WindowCenter": 0, "WindowWidth": 4096}
    result = same_again(read(make_dicom(signed, RLELossless, coded=frame, **window)))
    np.testing.assert_array_equal(result.pixels, shown)


def test_the_first_value_of_a_voi_lut_is_signed_where_a_rescale_makes_its_input_signed(film):
    lut = pydicom.Dataset()
    lut.add_new("LUTDescriptor", "SS", [4096, -1024, 12])
    lut.add_new("LUTData", "OW", np.arange(4096, dtype="<u2").tobytes())
    options = {"RescaleSlope": 1, "RescaleIntercept": -1024, "VOILUTSequence": [lut]}
    explicit, implicit = (
        same_again(read(make_dicom(film, syntax, **options)))
        for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
    )
    np.testing.assert_array_equal(implicit.pixels, explicit.pixels)
    assert RenderingStep(RenderingCode.VOI_LUT, "1") in implicit.rendering


def test_the_confined_process_has_all_that_these_ways_need(film, grey):
    framed = np.pad(film, 8, constant_values=4095)
    colours = np.dstack([grey] * 3)
    seen = np.dstack([grey, grey, grey, np.where(np.arange(grey.shape[1]) < 200, 255, 90) + 0 * grey])
    for data in (
        make_dicom(framed, PixelPaddingValue=4095, **WINDOW),
        make_dicom(film, WindowCenter=40000, WindowWidth=80000),
        make_dicom(film[::2], PixelSpacing=[2, 1], **WINDOW),
        make_dicom(film, JPEGLosslessSV1, coded=jpeg_2000(film), **WINDOW),
        make_dicom((film + 1).byteswap(), **WINDOW),
        make_dicom(colours, bits=8, PhotometricInterpretation="YBR_FULL"),
        make_dicom(255 - grey, bits=8),
        unreadable(film, RescaleIntercept="0", RescaleSlope="one"),
        cv2.imencode(".png", seen.astype(np.uint8))[1].tobytes(),
        cv2.imencode(".png", (grey * 0.4).astype(np.uint8))[1].tobytes(),
        cv2.imencode(".png", film)[1].tobytes(),
        cv2.imencode(".png", 255 - grey)[1].tobytes(),
    ):
        found = read(data, pseudonymise=str)
        confined = decode_confined(data, max_pixels=10**7, pseudonymise=str)
        np.testing.assert_array_equal(confined.pixels, found.pixels)
        assert (confined.flags, confined.rendering) == (found.flags, found.rendering)


# --- kinds that public reports name ---------------------------------------------------------------


def test_swapped_bytes_of_16_bits_are_told_by_their_roughness(film):
    deep = (film * 16 + np.random.default_rng(0).integers(0, 200, film.shape)).astype(np.uint16)
    good, swapped = read(make_dicom(deep, bits=16)), same_again(read(make_dicom(deep.byteswap(), bits=16)))
    np.testing.assert_array_equal(swapped.pixels, good.pixels)
    assert (good.flags, swapped.flags) == ((), (Reason.HEADER_CONTRADICTS_PICTURE,))


def test_values_of_a_wrong_sign_are_flagged(film):
    bright = np.minimum(film * 2, 4095).astype(np.uint16)
    noise = np.random.default_rng(0).integers(0, 60, film.shape)
    bright = np.where(bright > 4000, bright, bright + noise).astype(np.uint16)
    assert Reason.HEADER_CONTRADICTS_PICTURE not in read(make_dicom(bright, **WINDOW)).flags
    assert Reason.HEADER_CONTRADICTS_PICTURE in read(make_dicom(bright, PixelRepresentation=1)).flags


def test_swapped_bytes_of_values_with_a_sign_are_told_by_their_roughness(film):
    deep = (film * 16 + np.random.default_rng(0).integers(0, 200, film.shape)).astype(np.int32) - 30_000
    good = make_dicom(deep.astype(np.int16), bits=16)
    swapped = make_dicom(deep.astype(np.int16).byteswap(), bits=16)
    assert read(good).flags == ()
    np.testing.assert_array_equal(same_again(read(swapped)).pixels, read(good).pixels)
    moved = deep.astype("<i2").tobytes()[1:] + b"\0"  # a byte is lost: each word has two values' halves
    result = read(make_dicom(np.frombuffer(moved, "<i2").reshape(film.shape), bits=16))
    assert result.flags == (Reason.HEADER_CONTRADICTS_PICTURE,)


def test_values_of_8_bits_in_the_upper_byte_are_not_swapped(film):
    result = read(make_dicom((film >> 4) << 8, bits=16))
    assert result.flags == ()
    assert RenderingCode.BYTES_SWAPPED not in codes(result)


def test_the_sign_of_a_codestream_is_believed_where_the_stated_one_makes_values_run_over(film):
    signed = film.astype(np.int16) - 2048
    expected = read(make_dicom(signed)).pixels
    for coded, stated in ((signed, 0), (film, 1)):
        data = make_dicom(film, JPEG2000Lossless, coded=jpeg_2000(coded), PixelRepresentation=stated)
        result = same_again(read(data))
        np.testing.assert_array_equal(result.pixels, expected)
        assert result.flags == (Reason.HEADER_CONTRADICTS_PICTURE,)
        assert RenderingCode.SIGN_FROM_STREAM in codes(result)
    # patterns of values with a sign, in a stream that knows none: the header is right
    patterns = signed.view(np.uint16) & 4095
    data = make_dicom(film, JPEG2000Lossless, coded=jpeg_2000(patterns), PixelRepresentation=1)
    result = read(data)
    np.testing.assert_array_equal(result.pixels, expected)
    assert result.flags == ()


def test_bone_that_is_saturated_at_the_padding_value_stays_white(film):
    bright = np.minimum(film.astype(int) * 3, 4095).astype(np.uint16)
    result = read(make_dicom(bright, PixelPaddingValue=4095, **WINDOW))
    assert RenderingCode.PADDING_IGNORED in codes(result)
    assert set(result.pixels[bright == 4095]) == {255}
    for values, stated in ((np.pad(film, 20, constant_values=63536), -2000), (np.pad(film + 1000, 20), 0)):
        data = make_dicom(values.astype(np.uint16), bits=16)
        raw = pydicom.dcmread(io.BytesIO(data))
        raw.add_new("PixelPaddingValue", "SS", stated)  # a sign that the values do not have
        out = io.BytesIO()
        raw.save_as(out)
        assert RenderingCode.PADDING_BLACK in codes(read(out.getvalue()))
    framed = np.pad(film, 20, constant_values=4095)
    result = read(make_dicom(framed, PixelPaddingValue=4095, **WINDOW))
    assert RenderingCode.PADDING_BLACK in codes(result)
    assert set(result.pixels[:20].ravel()) == {0}


def test_run_lengths_with_the_low_bytes_first_are_swapped(film, shown):
    low, high = (packed_bits(((film + 1) >> n & 255).astype(np.uint8)) for n in (0, 8))
    assert read(make_dicom(film, RLELossless, coded=rle_frame(high, low), **WINDOW)).flags == ()
    result = same_again(read(make_dicom(film, RLELossless, coded=rle_frame(low, high), **WINDOW)))
    assert np.abs(result.pixels.astype(int) - shown).max() <= 1
    assert result.flags == (Reason.HEADER_CONTRADICTS_PICTURE,)
    assert RenderingCode.BYTES_SWAPPED in codes(result)


@pytest.mark.parametrize("stated", [0, 1])
def test_grey_in_colour_settles_how_the_planes_are_arranged(grey, stated):
    noisy = np.clip(grey + np.random.default_rng(0).normal(0, 5, grey.shape), 0, 255).astype(np.uint8)
    colours = np.dstack([noisy] * 3)
    planes = np.ascontiguousarray(colours.transpose(2, 0, 1)).reshape(colours.shape)
    for data, arranged in ((colours, 0), (planes, 1)):
        result = same_again(read(make_dicom(data, bits=8, PlanarConfiguration=stated)))
        np.testing.assert_array_equal(result.pixels, noisy)
        assert (RenderingCode.COLOUR_FROM_STREAM in codes(result)) == (arranged != stated)


def test_rle_under_another_syntax(film, shown):
    frame = rle_frame(packed_bits(film >> 8), packed_bits(film & 255))
    for syntax in (ExplicitVRLittleEndian, JPEGBaseline8Bit, RLELossless):
        result = same_again(read(make_dicom(film, syntax, coded=frame, **WINDOW)))
        np.testing.assert_array_equal(result.pixels, shown)


def test_a_deflated_data_set_with_a_header_or_not_deflated_at_all(film, shown):
    plain = make_dicom(film, **WINDOW)
    start = 144 + int.from_bytes(plain[140:144], "little")
    dataset = pydicom.dcmread(io.BytesIO(plain))
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    file = io.BytesIO()
    dataset.save_as(file)
    deflated = file.getvalue()
    head = deflated[: 144 + int.from_bytes(deflated[140:144], "little")]
    for body in (zlib.compress(plain[start:]), plain[start:], deflated[len(head) :]):
        np.testing.assert_array_equal(read(head + body).pixels, shown)


def test_floats_and_unknown_colours_have_a_reason_of_their_own(film):
    dataset = pydicom.dcmread(io.BytesIO(make_dicom(film)))
    del dataset.PixelData
    dataset.FloatPixelData, dataset.BitsAllocated = film.astype("<f4").tobytes(), 32
    file = io.BytesIO()
    dataset.save_as(file)
    assert refusal(file.getvalue()) is Reason.DICOM_PIXEL_FORMAT
    assert refusal(make_dicom(film, PhotometricInterpretation="ARGB")) is Reason.DICOM_PIXEL_FORMAT


def test_the_second_voi_lut_where_the_first_has_no_table(film, shown):
    first, second = Dataset(), Dataset()
    first.add_new("LUTDescriptor", "US", [4096, 0, 12])
    second.add_new("LUTDescriptor", "US", [4096, 0, 12])
    second.add_new("LUTData", "OW", np.arange(4096, dtype="<u2").tobytes())
    result = same_again(read(make_dicom(film, VOILUTSequence=Sequence([first, second]))))
    assert result.rendering == (RenderingStep(RenderingCode.VOI_LUT, "2"),)
    assert np.abs(result.pixels.astype(int) - shown).max() <= 1


@pytest.mark.parametrize("word", ["RescaleSlope", "RescaleIntercept"])
def test_half_a_rescale_is_none_and_flagged(film, word):
    result = read(make_dicom(film, **{word: 2}, **WINDOW))
    assert result.flags == (Reason.HEADER_VALUE_UNREADABLE,)
    assert codes(result)[-1] is RenderingCode.PERCENTILE_WINDOW


def test_a_value_that_is_there_and_cannot_be_read_is_flagged(film):
    data = make_dicom(film, VOILUTFunction="NOTHING", PixelSpacing=[0.1, 0.1], **WINDOW)
    result = read(data)
    assert result.flags == (Reason.HEADER_VALUE_UNREADABLE,)
    assert RenderingStep(RenderingCode.VALUE_DROPPED, "VOILUTFunction") in result.rendering
    assert read(make_dicom(film, VOILUTFunction="", **WINDOW)).flags == ()


# --- found by changing films at random ------------------------------------------------------------


@pytest.mark.parametrize(
    "header",
    [
        {"SamplesPerPixel": [12340, 13881]},
        {"BitsStored": None, "HighBit": None},
        {"WindowCenter": None, "WindowWidth": 4096},
        {"WindowCenter": [2048, 2048], "WindowWidth": 4096},
        {"VOILUTSequence": Sequence([Dataset()]), "WindowCenter": None, "WindowWidth": None},
    ],
)
def test_a_header_that_leaves_a_choice_is_flagged(film, header):
    result = same_again(read(make_dicom(film, **WINDOW | header)))
    assert result.flags == (Reason.HEADER_VALUE_UNREADABLE,)


@pytest.mark.parametrize("word", ["VOILUTSequence", "ModalityLUTSequence"])
def test_a_lut_that_is_no_sequence_is_flagged(film, word):
    data = make_dicom(film, ImplicitVRLittleEndian, **(WINDOW if word == "ModalityLUTSequence" else {}))
    dataset = pydicom.dcmread(io.BytesIO(data))
    tag = pydicom.tag.Tag(word)
    dataset[tag] = RawDataElement(tag, "UN", 12, b"1.2.840.1000", 0, True, True)
    file = io.BytesIO()
    dataset.save_as(file)
    result = same_again(read(file.getvalue()))
    assert result.flags == (Reason.HEADER_VALUE_UNREADABLE,)


def test_a_voi_lut_whose_bytes_have_moved_is_left_out(film):
    rising = np.arange(4096, dtype="<u2")
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [4096, 0, 12])
    item.add_new("LUTData", "OW", rising.tobytes())
    assert RenderingCode.VOI_LUT in codes(read(make_dicom(film, VOILUTSequence=[item])))
    item.LUTData = rising.tobytes()[1:] + b"\0"  # a saw
    result = read(make_dicom(film, VOILUTSequence=[item]))
    assert result.flags == (Reason.HEADER_VALUE_UNREADABLE,)
    np.testing.assert_array_equal(result.pixels, read(make_dicom(film)).pixels)

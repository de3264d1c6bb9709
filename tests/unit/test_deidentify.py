"""The pseudonymised copy: a name put wherever a DICOM object has room for one is not in it."""

from __future__ import annotations

import io
import struct

import cv2
import numpy as np
import pydicom
import pytest
from openjpeg.utils import encode_array as encode_jpeg_2000
from pydicom import Dataset
from pydicom.data import get_testdata_file
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)

from pipeline.decode.stripped import strip_jpeg
from pipeline.dicom.header import study_facts
from pipeline.dicom.terms import BODY_PARTS, DEFINED_TERMS, UNLISTED
from pipeline.types import Rejected
from tests.unit.test_dicom import SC, lut_item, make_dicom, packed_bits, ramp, read, rle_frame
from vocabulary import anatomy
from vocabulary.reasons import Reason

NAME = b"MUSTERMANN^ERIKA"
WINDOW = {"WindowCenter": 2048, "WindowWidth": 4096}


def traces(data: bytes) -> list[str]:
    """The forms in which the name is in the bytes: as it is, one letter a word, in the high nibbles."""
    letters = np.frombuffer(data[: len(data) // 2 * 2], np.uint8).reshape(-1, 2)
    nibbles = letters >> 4
    forms = {
        "as it is": data,
        "in capitals or not": data.upper(),
        "first bytes of words": letters[:, 0].tobytes(),
        "second bytes of words": letters[:, 1].tobytes(),
    }
    for n in (0, 1):
        for shift in (0, 1):
            pairs = nibbles[shift : (len(nibbles) - shift) // 2 * 2 + shift, n]
            pairs = pairs[: len(pairs) // 2 * 2].reshape(-1, 2)
            forms[f"high nibbles {n} {shift}"] = (pairs[:, 0] << 4 | pairs[:, 1]).tobytes()
    return [form for form, text in forms.items() if NAME in text]


def segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def jpeg_with_names(coded: bytes) -> bytes:
    """The stream with the name in every segment with room for text, in unused tables, and behind its end."""
    body = NAME * 5
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x0e\x01\x02\0\x10\0\0\0\x1a\0\0\0" + NAME
    added = [segment(0xFE, NAME), segment(0xE1, exif), segment(0xE0, b"JFXX\0" + NAME)]
    added += [segment(0xED, b"Photoshop 3.0\08BIM\x04\x04" + NAME), segment(0xDB, b"\3" + body[:64])]
    added += [segment(marker, NAME) for marker in range(0xE2, 0xF0)]
    added += [segment(0xC4, b"\x13" + bytes(7) + b"\x50" + bytes(8) + body)]
    return coded[:2] + b"".join(added) + coded[2:] + NAME


def jpeg_2000_with_names(coded: bytes) -> bytes:
    """The codestream in a JP2 box, with a comment in the main and in the tile's header, and a tail."""
    comment = segment(0x64, b"\0\1" + NAME)
    tile = coded.index(b"\xff\x90")
    (size,) = struct.unpack_from(">I", coded, tile + 6)
    coded = bytearray(coded)
    struct.pack_into(">I", coded, tile + 6, size + len(comment) if size else 0)
    coded[tile + 12 : tile + 12] = comment
    coded[tile:tile] = comment
    return struct.pack(">I", 8 + len(NAME)) + b"xml " + NAME + bytes(coded) + NAME


def test_names_in_coded_elements_that_look_like_terms():
    elements = {
        word: NAME.decode().replace("^", " ") for word in DEFINED_TERMS if word != "PhotometricInterpretation"
    }
    kept = read(make_dicom(ramp(), **elements)).stored
    assert b"MUSTERMANN" not in kept
    for word, first in (("ImageType", ["ORIGINAL", "PRIMARY"]), ("PatientOrientation", ["L", "F"])):
        kept = pydicom.dcmread(io.BytesIO(read(make_dicom(ramp(), **{word: [*first, "MUSTERMANN"]})).stored))
        assert kept[word].value == first
    facts = read(make_dicom(ramp(), BodyPartExamined="MUSTERMANN", ViewPosition="ERIKA")).facts
    assert (facts.body_part, facts.view) == (UNLISTED, "")
    region = Dataset()
    region.CodeMeaning = "Mustermann"
    assert read(make_dicom(ramp(), AnatomicRegionSequence=[region])).facts.body_part == UNLISTED


def test_terms_of_the_standard_stay():
    stated = {
        "ImageType": ["DERIVED", "PRIMARY"], "Modality": "DX", "BodyPartExamined": "LOWER_EXTREMITY",
        "ViewPosition": "LL", "PatientOrientation": ["P", "FL"], "VOILUTFunction": "SIGMOID",
        "PresentationLUTShape": "IDENTITY", "LossyImageCompression": "00", "BurnedInAnnotation": "NO",
    }  # fmt: skip
    kept = pydicom.dcmread(io.BytesIO(read(make_dicom(ramp(), **stated)).stored))
    assert {word: kept[word].value for word in stated} == stated


def test_every_part_that_routing_knows_is_on_the_list_and_what_is_not_there_is_not_read():
    for part in anatomy.STATED_PARTS:
        assert part.replace(" ", "") in BODY_PARTS
        header = Dataset()
        header.BodyPartExamined = f"{part}S"
        assert anatomy.stated_regions(study_facts(header)[0].body_part) == anatomy.STATED_PARTS[part]
    assert anatomy.stated_regions(UNLISTED) == frozenset()


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
@pytest.mark.parametrize("signed", [False, True])
def test_text_in_the_bits_beside_the_stored_ones(syntax, signed):
    pixels = ramp(12, signed)
    nibbles = [half for byte in NAME for half in (byte >> 4, byte & 15)]
    hidden = pixels.view(np.uint16).copy()
    hidden[0, : len(nibbles)] = hidden[0, : len(nibbles)] & 0xFFF | np.array(nibbles, np.uint16) << 12
    data = make_dicom(hidden.view(pixels.dtype), syntax, **WINDOW)
    assert traces(data)
    result = read(data)
    assert not traces(result.stored)
    np.testing.assert_array_equal(result.pixels, read(make_dicom(pixels, syntax, **WINDOW)).pixels)
    np.testing.assert_array_equal(pydicom.dcmread(io.BytesIO(result.stored)).pixel_array, pixels)


def test_text_in_whole_unused_bytes_of_words():
    """8 bits stored of 16: as native words, as RLE planes, as JPEG 2000 of 16 bits."""
    pixels = ramp(8).astype(np.uint16)
    hidden = pixels.copy()
    hidden[0, : len(NAME)] |= np.frombuffer(NAME, np.uint8).astype(np.uint16) << 8
    window = {"bits": 8, "WindowCenter": 128, "WindowWidth": 256}
    rle = rle_frame(packed_bits(hidden >> 8), packed_bits(hidden & 255))
    j2k = bytes(encode_jpeg_2000(hidden, bits_stored=16, photometric_interpretation=2))
    for syntax, coded in ((ExplicitVRLittleEndian, None), (RLELossless, rle), (JPEG2000Lossless, j2k)):
        data = make_dicom(hidden, syntax, coded=coded, **window)
        result = read(data)
        kept = pydicom.dcmread(io.BytesIO(result.stored))
        assert kept.pixel_array.max() <= 255
        assert not traces(result.stored)
        assert not traces(kept.pixel_array.tobytes())
        np.testing.assert_array_equal(read(result.stored).pixels, result.pixels)


def test_names_beside_and_behind_a_coded_frame():
    pixels, eight = ramp(), ramp(8)
    j2k = bytes(encode_jpeg_2000(pixels, bits_stored=12, photometric_interpretation=2))
    rle = rle_frame(packed_bits(pixels >> 8) + NAME, packed_bits(pixels & 255) + NAME)
    rle = rle[:48] + NAME + rle[64:] + NAME
    jpeg = cv2.imencode(".jpg", eight)[1].tobytes()
    progressive = cv2.imencode(".jpg", eight, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    for syntax, coded, plain, bits in (
        (JPEG2000Lossless, jpeg_2000_with_names(j2k), j2k, 12),
        (RLELossless, rle, None, 12),
        (JPEGBaseline8Bit, jpeg_with_names(jpeg), jpeg, 8),
        (JPEGBaseline8Bit, jpeg_with_names(progressive), progressive, 8),
    ):
        image = pixels if bits == 12 else eight
        data = make_dicom(image, syntax, bits=bits, coded=coded)
        assert NAME in data
        result = read(data)
        assert not traces(result.stored), syntax.name
        expected = read(make_dicom(image, syntax, bits=bits, coded=plain) if plain else make_dicom(image))
        np.testing.assert_array_equal(result.pixels, expected.pixels)
        again = read(result.stored)
        np.testing.assert_array_equal(again.pixels, result.pixels)
        start = b"\xe0\x7f\x10\x00OB"
        assert again.stored.partition(start)[2] == result.stored.partition(start)[2]


@pytest.mark.parametrize("name", ["MR_small_jpeg_ls_lossless.dcm", "SC_rgb_jpeg_gdcm.dcm"])
def test_lossless_jpeg_streams_decode_to_the_same_without_the_names(name):
    dataset = pydicom.dcmread(get_testdata_file(name, download=False))
    frame = next(pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=1))
    stripped = strip_jpeg(jpeg_with_names(frame))
    assert NAME not in stripped
    for coded in (frame, stripped):
        dataset.PixelData = pydicom.encaps.encapsulate([coded])
        dataset["PixelData"].is_undefined_length = True
        if coded is frame:
            expected = dataset.pixel_array.copy()
    np.testing.assert_array_equal(dataset.pixel_array, expected)


def test_a_codestream_that_does_not_hold_together_is_kept_uncompressed():
    """The tile says that it is shorter than it is: what follows could be anything."""
    pixels = ramp()
    j2k = bytearray(encode_jpeg_2000(pixels, bits_stored=12, photometric_interpretation=2))
    j2k[-2:-2] = NAME
    try:
        result = read(make_dicom(pixels, JPEG2000Lossless, coded=bytes(j2k)))
    except Rejected as refused:
        assert refused.reason in {Reason.DICOM_CORRUPT, Reason.TRUNCATED}  # noqa: PT017 - both ways are right
        return
    assert not traces(result.stored)


def test_names_behind_look_up_tables_and_palettes():
    item = lut_item(range(4096), 0, 16, "OW")
    item.LUTData = item.LUTData + NAME
    assert not traces(read(make_dicom(ramp(), VOILUTSequence=[item])).stored)
    listed = lut_item(range(4096), 0, 16)
    listed.add_new("LUTData", "US", [*range(4096), *struct.unpack("<8H", NAME)])
    assert not traces(read(make_dicom(ramp(), VOILUTSequence=[listed])).stored)
    grey = np.arange(256, dtype="<u2").tobytes()
    colours = {f"{c}PaletteColorLookupTableDescriptor": [256, 0, 16] for c in ("Red", "Green", "Blue")}
    tables = {f"{c}PaletteColorLookupTableData": grey + NAME for c in ("Red", "Green", "Blue")}
    header = {"bits": 8, "SOPClassUID": SC} | colours | tables
    coloured = read(make_dicom(ramp(8), PhotometricInterpretation="PALETTE COLOR", **header))
    assert not traces(coloured.stored)
    assert "RedPaletteColorLookupTableData" in pydicom.dcmread(io.BytesIO(coloured.stored))
    assert not traces(read(make_dicom(ramp(8), **header)).stored)  # a grey picture needs no palette


def test_numbers_are_as_many_as_the_standard_says():
    letters = [float(byte) for byte in NAME]
    kept = pydicom.dcmread(
        io.BytesIO(
            read(make_dicom(ramp(), PixelSpacing=letters, WindowCenter=letters, WindowWidth=letters)).stored
        )
    )
    assert "PixelSpacing" not in kept
    assert len(kept.WindowCenter) == 8


def test_a_picture_with_burned_in_text_does_not_claim_to_be_without_identity():
    for stated, claim in (("YES", "NO"), ("NO", "YES"), (None, "YES")):
        kept = read(make_dicom(ramp(), BurnedInAnnotation=stated)).stored
        dataset = pydicom.dcmread(io.BytesIO(kept))
        assert dataset.PatientIdentityRemoved == claim
        assert dataset.LongitudinalTemporalInformationModified == "UNMODIFIED"

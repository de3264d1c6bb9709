"""Picture data that are damaged or have moved: what decoders complain of, and what is left over."""

from __future__ import annotations

import io
import struct
import zlib

import cv2
import numpy as np
import pydicom
import pytest
import tifffile
from PIL import Image
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)

from phantoms.film import make_phantom
from pipeline.decode import decode as decode_confined
from pipeline.decode.complaints import reports_damage
from pipeline.triage import may_be_negative
from pipeline.types import Rejected
from tests.unit.test_dicom import make_dicom, packed_bits, read, rle_frame
from tests.unit.test_disagreements import jpeg_2000
from vocabulary.reasons import Reason


@pytest.fixture(scope="module")
def grey():
    """A hand of 8 bits."""
    return make_phantom(2, "hand").pixels[:400, :300].copy()


def flags(data):
    """What is said of a file, read in the confined process: there codecs are listened to."""
    return decode_confined(data, max_pixels=10**6, pseudonymise=str).flags


def damaged_or_refused(data):
    try:
        return Reason.DAMAGED_PICTURE_DATA in flags(data)
    except Rejected:
        return True


def jpeg(grey, *options):
    return cv2.imencode(".jpg", grey, list(options))[1].tobytes()


@pytest.mark.parametrize(
    "options", [(), (cv2.IMWRITE_JPEG_RST_INTERVAL, 10), (cv2.IMWRITE_JPEG_PROGRESSIVE, 1)]
)
@pytest.mark.parametrize("spoil", ["cut and closed", "a stretch of zeros", "a stretch gone"])
def test_a_jpeg_whose_scan_is_damaged(grey, options, spoil):
    data = jpeg(grey, *options)
    scan = data.index(b"\xff\xda") + 20
    middle = (scan + len(data)) // 2
    spoilt = {
        "cut and closed": data[:middle] + b"\xff\xd9",
        "a stretch of zeros": data[:middle] + bytes(600) + data[middle + 600 :],
        "a stretch gone": data[:middle] + data[middle + 600 :],
    }[spoil]
    assert damaged_or_refused(spoilt)
    assert flags(data) == ()


@pytest.mark.parametrize(("tail", "damaged"), [(bytes(300), False), (b"\x55" * 300, True), (b"", False)])
def test_what_stands_between_the_last_block_and_the_end_of_a_jpeg(grey, tail, damaged):
    data = jpeg(grey)[:-2] + tail + b"\xff\xd9"
    assert (Reason.DAMAGED_PICTURE_DATA in flags(data)) == damaged
    dicom = make_dicom(grey, JPEGBaseline8Bit, coded=data, bits=8)
    assert (Reason.DAMAGED_PICTURE_DATA in flags(dicom)) == damaged


def test_odd_scan_parameters_do_not_hide_what_follows(grey):
    data = jpeg(grey)
    end = data.index(b"\xff\xda") + 2 + struct.unpack_from(">H", data, data.index(b"\xff\xda") + 2)[0]
    odd = data[: end - 3] + b"\0\0\0" + data[end:]
    assert flags(odd) == ()
    middle = (end + len(odd)) // 2
    assert damaged_or_refused(odd[:middle] + b"\xff\xd9")


def test_a_tiff_whose_strips_are_damaged(grey):
    with io.BytesIO() as file:
        tifffile.imwrite(file, grey, compression="zlib", rowsperstrip=50)
        data = file.getvalue()
    middle = len(data) // 2
    assert flags(data) == ()
    assert damaged_or_refused(data[:middle] + bytes(500) + data[middle + 500 :])


@pytest.mark.parametrize("compression", ["tiff_lzw", "jpeg", "packbits", "tiff_adobe_deflate"])
def test_what_libtiff_tells_of_a_coding_is_heard(grey, compression):
    # of packbits only runs can be damaged: noise is stored as it is, and no byte of it is wrong
    film = grey & 0xE0 if compression == "packbits" else grey
    with io.BytesIO() as file:
        Image.fromarray(film).save(file, "TIFF", compression=compression)
        data = file.getvalue()
    assert flags(data) == ()
    middle = len(data) // 2
    assert damaged_or_refused(data[:middle] + b"\x80\xff\x3f" * 9 + data[middle + 27 :])


def test_the_checksum_of_a_deflated_strip_is_looked_at(grey):
    with io.BytesIO() as file:
        tifffile.imwrite(file, grey, compression="zlib", rowsperstrip=50, photometric="minisblack")
        data = file.getvalue()
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        at, length = file.pages[0].dataoffsets[3], file.pages[0].databytecounts[3]
    strip = zlib.decompress(data[at : at + length])
    packed = zlib.compress(strip, 0)  # stored as they are: a changed byte breaks no code
    packed = packed[:300] + b"\x55" + packed[301:]
    moved = data + packed
    for tag, value in ((273, len(data)), (279, len(packed))):
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            entry = file.pages[0].tags[tag]
        size = entry.valuebytecount // entry.count
        place = entry.valueoffset + 3 * size
        moved = moved[:place] + value.to_bytes(size, "little") + moved[place + size :]
    assert Reason.DAMAGED_PICTURE_DATA in flags(moved)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_bytes_inserted_into_native_data(grey, syntax):
    film = grey.astype(np.uint16) * 16 + 5
    data = make_dicom(film, syntax, WindowCenter=2048, WindowWidth=4096)
    for size in (1, 2, 400):
        at = len(data) // 2
        moved = flags(data[:at] + b"\x17" * size + data[at:])
        assert Reason.DAMAGED_PICTURE_DATA in moved
        assert not may_be_negative(moved)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
@pytest.mark.parametrize("tail", [b"", bytes(512), b"\xff" * 512, b"\r\n"])
def test_padding_and_elements_behind_the_picture_are_no_damage(grey, syntax, tail):
    data = make_dicom(grey, syntax, bits=8)
    film = pydicom.dcmread(io.BytesIO(data))
    film.add_new(0x7FE10010, "LO", "A PROGRAM")
    film.add_new(0xFFFCFFFC, "OB", bytes(100))
    file = io.BytesIO()
    film.save_as(file)
    assert flags(data + tail) == flags(file.getvalue() + tail) == ()


def test_runs_of_rle_that_are_left_over(grey):
    segment = packed_bits(grey)
    frame = rle_frame(segment)
    assert flags(make_dicom(grey, RLELossless, coded=frame, bits=8)) == ()
    assert flags(make_dicom(grey, RLELossless, coded=frame + bytes(6), bits=8)) == ()
    for more in (segment + b"\x03abcd", segment[:900] + segment[500:900] + segment[900:]):
        found = read(make_dicom(grey, RLELossless, coded=rle_frame(more), bits=8))
        assert found.flags == (Reason.DAMAGED_PICTURE_DATA,)


def test_a_jpeg_2000_stream_that_does_not_hold_together(grey):
    frame = jpeg_2000(grey, 8)
    assert flags(make_dicom(grey, JPEG2000Lossless, coded=frame, bits=8)) == ()
    at = len(frame) // 2
    assert damaged_or_refused(make_dicom(grey, JPEG2000Lossless, coded=frame[:at] + frame[at + 7 :], bits=8))


def test_what_codecs_write_by_hand():
    said = b"Corrupt JPEG data: 55 extraneous bytes before marker 0xd9\n"
    assert reports_damage(said, b"\x12" * 100 + b"\xff\xd9")
    assert not reports_damage(said, b"\x12" * 9 + bytes(55) + b"\xff\xd9")
    assert reports_damage(b"Corrupt JPEG data: premature end of data segment", b"")
    assert reports_damage(b"[ERROR:0@1] TIFF_Error LZWDecode: Not enough data at scanline 102", b"")
    assert reports_damage(b"[ERROR:0@1] TIFF_Error Using code not yet in table", b"")
    assert not reports_damage(b"TIFF_Warning Unknown field with tag 65000", b"")
    assert not reports_damage(b"TIFF_Error TIFFFetchDirectory: Can not read TIFF directory link", b"")
    assert not reports_damage(b"", b"")

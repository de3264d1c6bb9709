"""Whatever bytes come in: a radiograph, a refusal or a skip goes out, and nothing else."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pydicom
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from pipeline.decode import decode
from pipeline.types import Rejected, Skipped

SEEDS = ["png", "png16", "jpeg", "progressive", "tiff", "deflated tiff", "webp", "explicit", "implicit"]
SHIPPED = {
    "jpeg 2000": "MR_small_jp2klossless.dcm",
    "jpeg-ls": "MR_small_jpeg_ls_lossless.dcm",
    "rle": "MR_small_RLE.dcm",
}
SEEDS += SHIPPED
LIES = [b"\xff\xff\xff\xff", b"\0\0\0\0", b"\xff\xd9", b"\xff\x7f", b"\x80\0\0\0", b"\x01"]
MAX_PIXELS = 200_000


def picture(dtype=np.uint8):
    across, down = np.meshgrid(np.arange(96), np.arange(80))
    grey = 128 + 90 * np.sin(across / 9) * np.cos(down / 7) + (across % 7) + (down % 5)
    return (grey * (200 if dtype == np.uint16 else 1)).astype(dtype)


def seed_file(name):
    if name in {"explicit", "implicit"}:
        dataset = pydicom.Dataset()
        dataset.file_meta = pydicom.dataset.FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = (
            ExplicitVRLittleEndian if name == "explicit" else ImplicitVRLittleEndian
        )
        dataset.SOPClassUID, dataset.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1", "1.2.3"
        dataset.PatientAge, dataset.PatientID, dataset.StudyDate = "034Y", "4711", "20240101"
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME1"
        dataset.Rows, dataset.Columns, dataset.BitsAllocated, dataset.BitsStored = 80, 96, 16, 16
        dataset.HighBit, dataset.PixelRepresentation = 15, 0
        dataset.WindowCenter, dataset.WindowWidth = 30000, 40000
        dataset.RescaleSlope, dataset.RescaleIntercept = 1, 0
        lut = pydicom.Dataset()
        lut.add_new("LUTDescriptor", "US", [16, 0, 16])
        lut.add_new("LUTData", "US", list(range(0, 64, 4)))
        dataset.VOILUTSequence = [lut]
        dataset.add_new("PixelData", "OW", picture(np.uint16).tobytes())
        file = io.BytesIO()
        dataset.save_as(file, enforce_file_format=True)
        return file.getvalue()
    if name in SHIPPED:
        dataset = pydicom.dcmread(pydicom.data.get_testdata_file(SHIPPED[name]))
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
        file = io.BytesIO()
        dataset.save_as(file)
        return file.getvalue()
    if "tiff" in name:
        file = io.BytesIO()
        tifffile.imwrite(file, picture(np.uint16), compression="zlib" if "deflated" in name else None)
        return file.getvalue()
    kinds = {"png": ".png", "png16": ".png", "jpeg": ".jpg", "progressive": ".jpg", "webp": ".webp"}
    options = [cv2.IMWRITE_JPEG_PROGRESSIVE, 1] if name == "progressive" else []
    array = picture(np.uint16 if name == "png16" else np.uint8)
    return cv2.imencode(kinds[name], array, options)[1].tobytes()


FILES = {name: seed_file(name) for name in SEEDS}

# where to change what: most changes in the header, where the lies are
places = st.one_of(st.integers(0, 200), st.integers(0, 2000), st.integers(0, 1 << 20))
changes = st.lists(
    st.tuples(
        places,
        st.sampled_from(["set", "insert", "delete", "cut"]),
        st.one_of(
            st.binary(min_size=1, max_size=8),
            st.sampled_from(LIES),
        ),
    ),
    min_size=1,
    max_size=5,
)


def mutated(data, edits):
    for place, what, value in edits:
        at = place % (len(data) + 1)
        if what == "set":
            data = data[:at] + value + data[at + len(value) :]
        elif what == "insert":
            data = data[:at] + value + data[at:]
        elif what == "delete":
            data = data[:at] + data[at + len(value) :]
        elif place > 2000:
            data = data[:at]
    return data


def check(data):
    try:
        result = decode(data, max_pixels=MAX_PIXELS, pseudonymise=str)
    except (Rejected, Skipped):
        return None
    assert result.pixels.dtype == np.uint8
    assert result.pixels.shape == (result.height, result.width)
    assert 64 * 64 <= result.pixels.size <= MAX_PIXELS
    assert result.stored
    return result


@pytest.mark.parametrize("name", SEEDS)
def test_the_seeds_themselves_are_read(name):
    result = check(FILES[name])
    assert result is not None
    again = check(result.stored)
    np.testing.assert_array_equal(again.pixels, result.pixels)


@pytest.mark.parametrize("name", SEEDS)
@given(edits=changes)
@settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
def test_damaged_files_are_read_or_refused(name, edits):
    result = check(mutated(FILES[name], edits))
    if result is not None:  # what is kept can be read again
        np.testing.assert_array_equal(check(result.stored).pixels, result.pixels)


@given(name=st.sampled_from(SEEDS), length=st.sampled_from([4, 40, 140]), tail=st.binary(max_size=300))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_rubbish_behind_a_true_beginning(name, length, tail):
    check(FILES[name][:length] + tail)

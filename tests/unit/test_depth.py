"""Full depth: a viewer gets every grey value of a file, and looks at them as the picture was made."""

from __future__ import annotations

import json
import struct

import cv2
import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from pipeline.decode.picture import decode
from pipeline.decode.sandbox import Sandbox
from tests.unit.test_dicom import make_dicom, ramp


def deep(data, **options):
    found = decode(data, max_pixels=10**7, pseudonymise=str, at_full_depth=True)
    assert found.media_type == "image/png"
    return (*read_png(found.stored), found.pixels)


def read_png(png):
    values = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
    at = png.index(b"tEXtfractureai\0")
    (length,) = struct.unpack(">I", png[at - 4 : at])
    return values, json.loads(png[at + 15 : at + 4 + length])


def windowed(values, window):
    """Look at values as a viewer does."""
    t = np.clip((values.astype(np.float64) - window["low"]) / (window["high"] - window["low"]), 0, 1)
    return np.array(window["curve"])[np.rint(t * 255).astype(int)] if window["curve"] else t * 255


def wedge(signed=False):
    """A film of 12 bits, on it eight steps that differ by three values."""
    values = ramp(12, signed, 128)
    values[40:48, 32:96] = 2000 - 2048 * signed + 3 * np.repeat(np.arange(8), 8)
    return values


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("window", [(2048, 4096), (1000, 1500), None])
def test_what_the_picture_cannot_show_is_there_and_the_first_window_is_the_pictures(
    signed, photometric, window
):
    header = {"PixelRepresentation": int(signed), "PhotometricInterpretation": photometric}
    if window:
        header |= {"WindowCenter": window[0] - 2048 * signed, "WindowWidth": window[1]}
    values, said, pixels = deep(make_dicom(wedge(signed), **header))
    assert (values.dtype, said["bits"]) == (np.uint16, 12)
    steps = values[44, 36:96:8].astype(int)
    assert len(set(steps)) == 8
    assert set(np.abs(np.diff(steps))) == {3}
    assert len(set(pixels[44, 36:96:8])) < 8  # one grey or two: why this is here
    assert np.abs(windowed(values, said["windows"][0]) - pixels).max() <= 1.5


def test_a_lut_is_a_curve_and_a_modality_lut_changes_no_value():
    entries = [int(65535 * (n / 4095) ** 2) for n in range(4096)]
    lut = Dataset()
    lut.LUTDescriptor, lut.LUTData = [4096, 0, 16], entries
    lut["LUTDescriptor"].VR = lut["LUTData"].VR = "US"
    values, said, pixels = deep(make_dicom(ramp(12, size=128), VOILUTSequence=Sequence([lut])))
    assert np.array_equal(np.sort(values, axis=None), np.sort(ramp(12, size=128), axis=None))
    assert said["windows"][0]["curve"] is not None
    assert np.abs(windowed(values, said["windows"][0]) - pixels).max() <= 3


@pytest.mark.parametrize(
    ("header", "spacing", "plane"),
    [
        ({}, None, ""),
        ({"ImagerPixelSpacing": [0.15, 0.15]}, [0.15, 0.15], "detector"),
        ({"PixelSpacing": [0.15, 0.15], "ImagerPixelSpacing": [0.15, 0.15]}, [0.15, 0.15], "detector"),
        ({"PixelSpacing": [0.12, 0.12], "ImagerPixelSpacing": [0.15, 0.15]}, [0.12, 0.12], "calibrated"),
        ({"NominalScannedPixelSpacing": [0.1, 0.1]}, [0.1, 0.1], "film"),
        ({"PixelSpacing": [0.3, 0.15]}, [0.15, 0.15], "detector"),  # resampled: rows twice as many
        ({"PixelSpacing": [0, 0.15]}, None, ""),
    ],
)
def test_how_large_a_pixel_is(header, spacing, plane):
    values, said, pixels = deep(make_dicom(wedge(), **header))
    assert (said["spacing"], said["plane"]) == (spacing, plane)
    assert values.shape == pixels.shape


def test_which_way_the_body_lies():
    _, said, _ = deep(make_dicom(wedge(), PatientOrientation=["L", "F"]))
    assert said["orientation"] == ["L", "F"]
    assert deep(make_dicom(wedge()))[1]["orientation"] == []


def test_padding_is_black_and_bends_no_window():
    film = np.linspace(1500, 3500, 128 * 128).reshape(128, 128).astype(np.uint16)
    film[:, :20] = 0
    values, said, _ = deep(make_dicom(film, PixelPaddingValue=0))
    assert (values[:, :20] == 0).all()
    assert said["windows"][0]["curve"] is None
    assert said["windows"][0]["low"] > 1400


def test_plain_pictures_of_16_and_of_8_bits():
    film = np.linspace(0, 60000, 128 * 128).reshape(128, 128).astype(np.uint16)
    values, said, pixels = deep(cv2.imencode(".png", film)[1].tobytes())
    assert np.array_equal(values, film)
    assert np.abs(windowed(values, said["windows"][0]) - pixels).max() <= 1
    values, said, pixels = deep(cv2.imencode(".png", (film >> 8).astype(np.uint8))[1].tobytes())
    assert np.array_equal(values, pixels)
    assert said["bits"] == 8


def test_it_comes_out_of_the_sandbox():
    box = Sandbox()
    try:
        found = box.decode(make_dicom(wedge()), max_pixels=10**7, pseudonymise=str, at_full_depth=True)
    finally:
        box.close()
    assert read_png(found.stored)[0].dtype == np.uint16

"""DICOM: grey values by hand, facts kept, everything else gone, lying headers refused."""

from __future__ import annotations

import hashlib
import io
import logging
import struct
import tracemalloc
import zlib
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest
from openjpeg.utils import encode_array as encode_jpeg_2000
from pydicom import Dataset
from pydicom.data import get_testdata_file
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    RLELossless,
)

from pipeline.decode.gdcm_frames import decode_frame
from pipeline.decode.picture import decode
from pipeline.dicom.reader import silent_pydicom
from pipeline.types import Rejected, RenderingStep, Skipped, StudyFacts
from pipeline.window import dicom_window
from vocabulary.media import sniff
from vocabulary.reasons import Reason
from vocabulary.rendering import RenderingCode

CR = "1.2.840.10008.5.1.4.1.1.1"
DX = "1.2.840.10008.5.1.4.1.1.1.1"
SC = "1.2.840.10008.5.1.4.1.1.7"
SECRET = "DOE^JANE"


def read(data, **options):
    options = {"max_pixels": 10**7, "pseudonymise": lambda identity: f"<{identity}>"} | options
    return decode(data, **options)


def refusal(data, **options):
    with pytest.raises(Rejected) as refused:
        read(data, **options)
    assert SECRET not in str(refused.value)
    assert refused.value.__context__ is None or SECRET not in repr(refused.value.__context__)
    return refused.value.reason


def ramp(bits=12, signed=False, size=64):
    """Every stored value of 64 x 64 steps, from the smallest to the largest."""
    values = np.linspace(0, (1 << bits) - 1, size * size).round().reshape(size, size)
    if signed:
        return (values - (1 << bits - 1)).astype(np.int16)
    return values.astype(np.uint16 if bits > 8 else np.uint8)


@silent_pydicom()
def make_dicom(pixels, syntax=ExplicitVRLittleEndian, bits=12, coded=None, **attributes):
    """A CR object with the pixels; attributes set to None are left out."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.preamble = b"II*\0" + SECRET.encode() + bytes(124 - len(SECRET))
    values = {
        "SOPClassUID": CR,
        "SOPInstanceUID": "1.2.3.4",
        "StudyInstanceUID": "1.2.3",
        "SeriesInstanceUID": "1.2.3.9",
        "PatientName": SECRET,
        "PatientID": "4711",
        "PatientComments": SECRET,
        "StudyDescription": SECRET,
        "InstitutionName": SECRET,
        "OperatorsName": SECRET,
        "ImageComments": SECRET,
        "SamplesPerPixel": 1 if pixels.ndim == 2 else 3,
        "PhotometricInterpretation": "MONOCHROME2" if pixels.ndim == 2 else "RGB",
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "BitsAllocated": pixels.itemsize * 8,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
    } | attributes
    if pixels.ndim == 3:
        values.setdefault("PlanarConfiguration", 0)
    for word, value in values.items():
        if value is not None:
            setattr(dataset, word, value)
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    dataset.PixelData = (
        encapsulate([coded]) if coded else pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    )
    dataset["PixelData"].VR = "OB" if coded or pixels.itemsize == 1 else "OW"
    dataset["PixelData"].is_undefined_length = bool(coded)
    private = dataset.private_block(0x0099, SECRET, create=True)
    private.add_new(1, "LO", SECRET)
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def packed_bits(plane):
    """PackBits of a byte plane in literal runs of 128 at most."""
    flat = plane.astype(np.uint8).tobytes()
    runs = (flat[at : at + 128] for at in range(0, len(flat), 128))
    return b"".join(bytes([len(run) - 1]) + run for run in runs)


def rle_frame(*segments):
    starts = np.cumsum([64, *map(len, segments[:-1])]).tolist()
    return struct.pack("<16I", len(segments), *starts, *[0] * (15 - len(segments))) + b"".join(segments)


@silent_pydicom()
def lut_item(data, first, bits, vr="US"):
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(data) % 65536, first, bits])
    item.add_new("LUTData", vr, np.asarray(data, "<u2").tobytes() if vr == "OW" else list(data))
    item.LUTExplanation = SECRET
    return item


def within_one(actual, expected):
    assert np.abs(actual.astype(int) - np.asarray(expected, float)).max() <= 1.0


# --- grey values ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bits", "signed"), [(8, False), (10, False), (12, True), (15, False), (16, True), (16, False)]
)
def test_a_linear_window_over_all_stored_values_is_the_identity_ramp(bits, signed):
    pixels = ramp(bits, signed)
    centre = 0.5 if signed else (1 << bits - 1) + 0.5
    result = read(make_dicom(pixels, bits=bits, WindowCenter=centre, WindowWidth=1 << bits))
    within_one(result.pixels, (pixels.astype(float) - pixels.min()) / ((1 << bits) - 1) * 255)


def test_windows_by_hand():
    x = np.array([-100, 0, 49, 50, 51, 100, 300])
    # LINEAR, PS3.3 C.11.2.1.2.1: ((x - (c - 0.5)) / (w - 1) + 0.5) * 255 with c = 50, w = 101
    assert dicom_window(x, 50, 101).tolist() == [0, 1, 126, 129, 131, 255, 255]
    assert dicom_window(x, 50, 100, "LINEAR_EXACT").tolist() == [0, 0, 125, 128, 130, 255, 255]
    assert dicom_window(x, 50, 100, "SIGMOID").tolist() == [1, 30, 125, 128, 130, 225, 255]
    assert dicom_window(np.array([49, 50]), 50, 1).tolist() == [0, 255]
    for width in (0, -5, 0.5, float("nan")):
        with pytest.raises(ValueError, match="window"):
            dicom_window(x, 50, width)


def test_monochrome1_is_turned_round_and_only_that():
    window = {"WindowCenter": 2048, "WindowWidth": 4096}
    straight = read(make_dicom(ramp(), **window)).pixels
    np.testing.assert_array_equal(
        read(make_dicom(ramp(), PhotometricInterpretation="MONOCHROME1", **window)).pixels, 255 - straight
    )


def test_rescale_comes_before_the_window():
    result = read(
        make_dicom(ramp(), RescaleSlope=2, RescaleIntercept=-1000, WindowCenter=3095.5, WindowWidth=8191)
    )
    within_one(result.pixels, ramp() / 4095 * 255)


@pytest.mark.parametrize("vr", ["US", "OW"])
def test_modality_and_voi_luts_by_hand(vr):
    backwards = np.arange(1023, -1, -1)
    pixels = ramp(10)
    result = read(
        make_dicom(
            pixels,
            bits=10,
            ModalityLUTSequence=[lut_item(backwards, 0, 16, vr)],
            WindowCenter=512,
            WindowWidth=1024,
        )
    )
    within_one(result.pixels, 255 - pixels / 1023 * 255)
    table = range(0, 4001, 8)  # first mapped value 300: below held at 0, above at 4000
    result = read(make_dicom(pixels, bits=10, VOILUTSequence=[lut_item(table, 300, 12, vr)]))
    assert set(result.pixels[pixels <= 300]) == {0}
    assert set(result.pixels[pixels == 550]) == {128}
    assert set(result.pixels[pixels >= 800]) == {255}


def test_a_lut_of_signed_values_with_many_entries():
    pixels = ramp(16, signed=True)
    table = np.arange(40_000)
    data = make_dicom(pixels, bits=16, VOILUTSequence=[lut_item(table, -20_000, 16, "OW")])
    result = read(data)
    within_one(result.pixels, np.clip((pixels.astype(float) + 20_000) / 39_999, 0, 1) * 255)
    np.testing.assert_array_equal(read(result.stored).pixels, result.pixels)


def test_bits_above_the_stored_ones_and_padding_do_not_show():
    pixels = ramp()
    window = {"WindowCenter": 2048, "WindowWidth": 4096}
    clean = read(make_dicom(pixels, **window)).pixels
    np.testing.assert_array_equal(read(make_dicom(pixels | 0xF000, **window)).pixels, clean)
    np.testing.assert_array_equal(read(make_dicom(pixels << 4, HighBit=15, **window)).pixels, clean)
    framed = np.pad(pixels // 2 + 1000, 8)
    options = {"PhotometricInterpretation": "MONOCHROME1", **window}
    padded = read(make_dicom(framed, PixelPaddingValue=0, **options))
    assert set(padded.pixels[framed == 0]) == {0}
    assert padded.pixels[framed == 1000].min() > 150
    assert RenderingStep(RenderingCode.PADDING_BLACK) in padded.rendering


@pytest.mark.parametrize(
    "padding", [{"PixelPaddingValue": 4095}, {"PixelPaddingValue": 0, "PixelPaddingRangeLimit": 4000}]
)
def test_a_padding_value_that_stands_in_the_picture_is_not_believed(padding):
    pixels = np.minimum(ramp().astype(int) * 2, 4095).astype(np.uint16)  # bone that is saturated
    window = {"WindowCenter": 2048, "WindowWidth": 4096}
    result = read(make_dicom(pixels, **padding, **window))
    np.testing.assert_array_equal(result.pixels, read(make_dicom(pixels, **window)).pixels)
    assert RenderingStep(RenderingCode.PADDING_IGNORED) in result.rendering


def test_without_a_usable_window_the_percentile_window_is_taken():
    expected = read(make_dicom(ramp())).pixels
    within_one(expected, np.clip((ramp() - 20.475) / (4095 * 0.99), 0, 1) * 255)
    for broken in (
        {"WindowCenter": 2048, "WindowWidth": -4096},
        {"WindowCenter": 2048, "WindowWidth": 0},
        {"WindowCenter": 60000, "WindowWidth": 2},  # shows nothing
        {"VOILUTSequence": [lut_item([], 0, 16)]},
        {"VOILUTSequence": [Dataset()]},
        {"VOILUTSequence": []},
    ):
        np.testing.assert_array_equal(read(make_dicom(ramp(), **broken)).pixels, expected)


def test_every_syntax_gives_the_same_picture_and_keeps_its_coding():
    pixels = ramp()
    expected = read(make_dicom(pixels)).pixels
    j2k = bytes(encode_jpeg_2000(pixels, bits_stored=12, photometric_interpretation=2))
    rle = rle_frame(packed_bits(pixels >> 8), packed_bits(pixels & 255))
    for syntax, coded in (
        (ImplicitVRLittleEndian, None),
        (ExplicitVRBigEndian, None),
        (DeflatedExplicitVRLittleEndian, None),
        (JPEG2000Lossless, j2k),
        (RLELossless, rle),
    ):
        result = read(make_dicom(pixels, syntax, coded=coded))
        np.testing.assert_array_equal(result.pixels, expected, err_msg=syntax.name)
        np.testing.assert_array_equal(read(result.stored).pixels, expected, err_msg=syntax.name)
        kept = pydicom.dcmread(io.BytesIO(result.stored)).file_meta.TransferSyntaxUID
        assert kept == (ExplicitVRLittleEndian if syntax == DeflatedExplicitVRLittleEndian else syntax)


def test_jpeg_ls_and_plain_copies_of_one_picture_agree():
    """The same MR slice in several codings, relabelled as secondary capture, must look the same."""

    def relabelled(name):
        dataset = pydicom.dcmread(get_testdata_file(name))
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = SC
        file = io.BytesIO()
        dataset.save_as(file)
        return file.getvalue()

    expected = read(relabelled("MR_small.dcm")).pixels
    for name in (
        "MR_small_jpeg_ls_lossless.dcm",
        "MR_small_RLE.dcm",
        "MR_small_jp2klossless.dcm",
        "MR_small_expb.dcm",
    ):
        np.testing.assert_array_equal(read(relabelled(name)).pixels, expected, err_msg=name)


def test_jpeg_baseline_gives_what_the_codec_gives():
    coded = cv2.imencode(".jpg", ramp(8))[1].tobytes()
    window = {"WindowCenter": 128, "WindowWidth": 256}
    result = read(make_dicom(ramp(8), JPEGBaseline8Bit, bits=8, coded=coded, **window))
    within_one(result.pixels, cv2.imdecode(np.frombuffer(coded, np.uint8), cv2.IMREAD_GRAYSCALE))
    assert refusal(make_dicom(ramp(8), JPEGBaseline8Bit, bits=8, coded=coded[:-2])) is Reason.TRUNCATED
    grey = cv2.cvtColor(ramp(8), cv2.COLOR_GRAY2BGR)
    coded = cv2.imencode(".jpg", grey)[1].tobytes()
    header = {"SOPClassUID": SC, "PhotometricInterpretation": "YBR_FULL_422"}
    within_one(read(make_dicom(grey, JPEGBaseline8Bit, bits=8, coded=coded, **header)).pixels, result.pixels)


def test_gdcm_may_die_and_we_live():
    frame = {"rows": 64, "columns": 64, "samples": 1, "precision": 12, "photometric": "MONOCHROME2"}
    for rubbish in (b"", b"\xff\xd8\xff", bytes(1000)):
        with pytest.raises(RuntimeError, match="GDCM"):
            decode_frame(rubbish, syntax=JPEGLosslessSV1, **frame)


def test_a_file_without_preamble_is_read():
    data = make_dicom(ramp())
    assert sniff(data[:136]) == "application/dicom"  # though its preamble starts like a TIFF
    bare_dataset = pydicom.dcmread(io.BytesIO(data))
    for implicit in (True, False):
        file = io.BytesIO()
        pydicom.dcmwrite(
            file, Dataset(bare_dataset), implicit_vr=implicit, little_endian=True, enforce_file_format=False
        )
        assert sniff(file.getvalue()[:136]) == "application/dicom"
        np.testing.assert_array_equal(read(file.getvalue()).pixels, read(data).pixels)
    assert sniff(data[132:268]) == "application/dicom"
    np.testing.assert_array_equal(read(data[132:]).pixels, read(data).pixels)


def test_colour_captures_pass_the_colour_gate_when_grey_and_not_otherwise():
    grey = ramp(8)
    result = read(make_dicom(np.dstack([grey] * 3), bits=8, SOPClassUID=SC))
    np.testing.assert_array_equal(result.pixels, grey)
    colours = np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8).repeat(16, 0).repeat(16, 1)
    assert refusal(make_dicom(colours, bits=8, SOPClassUID=SC)) is Reason.NOT_A_RADIOGRAPH


def test_the_real_radiographs_look_as_pydicom_shows_them(shared_data):
    for path in sorted((shared_data / "dicom").glob("*.dcm")):
        result = read(path.read_bytes(), max_pixels=10**8)
        dataset = pydicom.dcmread(path)
        shown = pydicom.pixels.apply_modality_lut(pydicom.pixels.pixel_array(dataset), dataset)
        if "WindowWidth" in dataset:
            shown = pydicom.pixels.apply_voi_lut(shown, dataset)
            assert dataset.PhotometricInterpretation == "MONOCHROME1"
            within_one(result.pixels, 255 - shown / (2**dataset.BitsStored - 1) * 255)
        else:
            assert np.corrcoef(result.pixels[::9, ::9].ravel(), shown[::9, ::9].ravel())[0, 1] < -0.97
        assert SECRET not in repr(result.facts)


# --- facts and what is kept ----------------------------------------------------------------------


def test_facts_are_kept_and_everything_else_is_gone():
    data = make_dicom(
        ramp(), AccessionNumber="A-17 ", StudyDate="20240229", StudyTime="101530.5", BodyPartExamined="hand",
        ImageLaterality="L", ViewPosition="AP", PatientAge="034Y", IssuerOfPatientID="KH", PatientSex="F",
        PatientBirthDate="19900101", PixelSpacing=[0.1, 0.1],
    )  # fmt: skip
    result = read(data)
    assert result.facts == StudyFacts(
        "A-17", "1.2.3", "1.2.3.9", "1.2.3.4", "20240229", "101530.5", "HAND", "L", "AP", 34, "<KH|4711>"
    )
    assert result.media_type == "application/dicom"
    assert SECRET.encode() in data
    for trace in (SECRET, "19900101", "KH\\", "II*"):
        assert trace.encode() not in result.stored
    kept = pydicom.dcmread(io.BytesIO(result.stored))
    assert kept.preamble == bytes(128)
    assert (kept.PatientID, kept.PatientName, kept.PatientBirthDate) == ("<KH|4711>", "", "")
    assert (kept.PatientIdentityRemoved, kept.PatientAge, kept.AccessionNumber) == ("YES", "034Y", "A-17")
    assert kept.PixelSpacing == [0.1, 0.1]
    assert not any(element.tag.is_private for element in kept)


def test_the_kept_copy_reads_like_the_upload_with_the_hash_it_has():
    def pseudonymise(identity):
        return hashlib.sha256(identity.encode()).hexdigest()

    data = make_dicom(ramp(), PatientAge="034Y", BodyPartExamined="HAND", StudyDate="20240229")
    first = read(data, pseudonymise=pseudonymise)
    again = read(first.stored, pseudonymise=pseudonymise)
    np.testing.assert_array_equal(again.pixels, first.pixels)
    assert again.facts == first.facts
    assert again.stored == first.stored
    forged = make_dicom(ramp(), DeidentificationMethod="FractureAI allow-list of attributes")
    assert read(forged).facts.patient_hash == "<|4711>"  # no hash, so it is hashed
    forged = make_dicom(
        ramp(), DeidentificationMethod="FractureAI allow-list of attributes", PatientID="a" * 64
    )
    assert read(forged).facts.patient_hash == f"<{'a' * 64}>"  # the first half of a hash


def test_free_text_in_coded_elements_goes_too():
    item = lut_item(range(4096), 0, 16)
    data = make_dicom(
        ramp(), BodyPartExamined=SECRET, ViewPosition=SECRET, ImageType=["ORIGINAL", SECRET],
        Modality=SECRET, StudyDate=SECRET, WindowCenterWidthExplanation=SECRET, VOILUTSequence=[item],
        SeriesInstanceUID=SECRET,
    )  # fmt: skip
    assert SECRET.encode() not in read(data).stored


@pytest.mark.parametrize(
    ("header", "age"),
    [
        ({"PatientAge": "090Y"}, 90),
        ({"PatientAge": "104Y"}, 90),
        ({"PatientAge": "018M"}, 1),
        ({"PatientAge": "010D"}, 0),
        ({"PatientAge": "060W"}, 1),
        ({"PatientBirthDate": "19800615", "StudyDate": "20240614"}, 43),
        ({"PatientBirthDate": "19800615", "StudyDate": "20240615"}, 44),
        ({"PatientBirthDate": "1900.01.01", "StudyDate": "20240615"}, 90),
        ({"PatientAge": "old", "PatientBirthDate": "20200101", "StudyDate": "20240615"}, 4),
        ({"PatientBirthDate": "20250101", "StudyDate": "20240615"}, None),
        ({"PatientBirthDate": "19801340", "StudyDate": "20240615"}, None),
        ({"PatientBirthDate": "19800101"}, None),
        ({}, None),
    ],
)
def test_age_in_whole_years_pooled_from_90(header, age):
    result = read(make_dicom(ramp(), **header))
    assert result.facts.age_years == age
    assert pydicom.dcmread(io.BytesIO(result.stored)).get("PatientAge") == (
        None if age is None else f"{age:03d}Y"
    )


def coded_side(code):
    side, region = Dataset(), Dataset()
    side.CodeValue, side.CodingSchemeDesignator, side.CodeMeaning = code, "SCT", SECRET
    region.CodeMeaning, region.AnatomicRegionModifierSequence = "Hip joint", [side]
    return {"AnatomicRegionSequence": [region]}


@pytest.mark.parametrize(
    ("header", "side"),
    [
        ({"Laterality": "R"}, "R"),
        ({"Laterality": "", "ImageLaterality": "B"}, "B"),
        ({"Laterality": "L", "ImageLaterality": "U"}, "L"),
        ({"Laterality": "L", "ImageLaterality": "R"}, ""),
        (coded_side("24028007"), "R"),
        ({"ImageLaterality": "L"} | coded_side("24028007"), ""),
        ({}, ""),
    ],
)
def test_laterality_from_wherever_it_is_stated_and_never_from_a_contradiction(header, side):
    result = read(make_dicom(ramp(), **header))
    assert result.facts.laterality == side
    assert read(result.stored).facts.laterality == side


def test_body_part_from_the_coded_region_and_no_hash_without_an_id():
    facts = read(make_dicom(ramp(), PatientID=None, **coded_side("7771000"))).facts
    assert (facts.body_part, facts.laterality, facts.patient_hash) == ("HIP JOINT", "L", "")


def test_burned_in_annotation_is_flagged_or_refused():
    data = make_dicom(ramp(), BurnedInAnnotation="YES")
    assert read(data).flags == (Reason.BURNED_IN_FLAG,)
    assert refusal(data, refuse_burned_in=True) is Reason.BURNED_IN_ANNOTATION
    assert read(make_dicom(ramp(), BurnedInAnnotation="NO"), refuse_burned_in=True).flags == ()


def test_an_error_of_the_pseudonymiser_is_not_blamed_on_the_file():
    with pytest.raises(ZeroDivisionError):
        read(make_dicom(ramp()), pseudonymise=lambda _: 1 // 0)


def test_reading_leaves_pydicom_as_it_was():
    settings, log = pydicom.config.settings, logging.getLogger("pydicom")
    settings.reading_validation_mode = settings.writing_validation_mode = pydicom.config.WARN
    before = log.disabled, settings.reading_validation_mode, settings.writing_validation_mode
    read(make_dicom(ramp(10), bits=10))
    assert (log.disabled, settings.reading_validation_mode, settings.writing_validation_mode) == before


def test_nothing_of_the_header_reaches_the_log(caplog):
    with caplog.at_level(logging.DEBUG):
        data = make_dicom(ramp(), StudyInstanceUID="1.02", PatientAge="34", SeriesNumber="5")
        read(data.replace(b"1.2.3.9", SECRET[:7].encode()))
        refusal(make_dicom(ramp(), JPEG2000Lossless, coded=b"\xff\x4f\xff\x51" + SECRET.encode()))
    assert SECRET[:7] not in caplog.text


# --- what is skipped and refused -----------------------------------------------------------------


def test_pictureless_objects_are_skipped(tmp_path):
    for name in ("test-SR.dcm", "reportsi.dcm", "DICOMDIR-nooffset"):
        path = get_testdata_file(name) if name.endswith("dcm") else get_testdata_file(f"dicomdirtests/{name}")
        with pytest.raises(Skipped) as skipped:
            read(Path(path).read_bytes())
        assert skipped.value.reason is Reason.DICOM_NOT_AN_IMAGE
    for suffix in ("11.1", "88.59", "104.1"):
        with pytest.raises(Skipped):
            read(make_dicom(ramp(), SOPClassUID=f"1.2.840.10008.5.1.4.1.1.{suffix}"))


def test_what_we_made_is_skipped_and_never_read():
    for maker in ("FractureAI", "FRACTUREAI "):
        with pytest.raises(Skipped) as skipped:
            read(make_dicom(ramp(), SOPClassUID=SC, Manufacturer=maker))
        assert skipped.value.reason is Reason.MADE_HERE
    assert read(make_dicom(ramp(), SOPClassUID=SC, Manufacturer="FractureAI phantom")).width == 64


def test_classes():
    for readable in (CR, DX, DX + ".1", SC):
        assert read(make_dicom(ramp(), SOPClassUID=readable)).width == 64
    for suffix in ("2", "4", "1.2", "6.1", "12.1", "481.1"):
        data = make_dicom(ramp(), SOPClassUID=f"1.2.840.10008.5.1.4.1.1.{suffix}")
        assert refusal(data) is Reason.DICOM_UNSUPPORTED_CLASS


def test_several_frames_are_refused_and_one_is_not():
    assert refusal(make_dicom(ramp(), NumberOfFrames=2)) is Reason.DICOM_MULTIFRAME
    assert read(make_dicom(ramp(), NumberOfFrames=1)).width == 64


def test_syntaxes_that_cannot_be_decoded():
    for syntax in ("1.2.840.10008.1.2.4.100", "1.2.3.4.5"):
        data = make_dicom(ramp(), JPEG2000Lossless, coded=b"12345678")
        padded = syntax.encode().ljust(22, b"\0")
        assert refusal(data.replace(b"1.2.840.10008.1.2.4.90", padded[:22])) in {
            Reason.DICOM_UNSUPPORTED_SYNTAX,
            Reason.DICOM_CORRUPT,
        }


@pytest.mark.parametrize("stated", [12, 16])
def test_jpeg_extended_of_12_bits_is_read(stated):
    twelve_bits = pydicom.dcmread(get_testdata_file("JPGExtended.dcm"))
    (frame,) = generate_frames(twelve_bits.PixelData, number_of_frames=1)
    at = frame.index(b"\xff\xc1")
    assert frame[at + 4] == 12
    twelve_bits.PixelData = encapsulate([frame[: at + 4] + bytes([stated]) + frame[at + 5 :]])
    twelve_bits.SOPClassUID = twelve_bits.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    file = io.BytesIO()
    twelve_bits.save_as(file)
    pixels = read(file.getvalue()).pixels
    assert pixels.shape == (1024, 256)
    assert pixels[420, 140] > pixels[230, 120] > pixels.min()
    words = decode_frame(
        frame,
        syntax=JPEGExtended12Bit,
        rows=1024,
        columns=256,
        samples=1,
        precision=12,
        photometric="MONOCHROME2",
    )
    values = np.frombuffer(words, "<u2").reshape(1024, 256)
    assert (values[420, 140], values[230, 120]) == (244, 95)  # as pydicom's own tests have it


@pytest.mark.parametrize("padding", [1, 2000, 70_000])
def test_a_jpeg_2000_frame_may_be_padded(padding):
    boxed = cv2.imencode(".jp2", ramp().astype(np.uint8))[1].tobytes()
    frame = boxed[boxed.index(b"\xff\x4f\xff\x51") :]
    plain, padded = (
        make_dicom(ramp().astype(np.uint8), JPEG2000Lossless, bits=8, coded=coded)
        for coded in (frame, frame + bytes(padding))
    )
    np.testing.assert_array_equal(read(padded).pixels, read(plain).pixels)
    cut = make_dicom(ramp().astype(np.uint8), JPEG2000Lossless, bits=8, coded=frame[:-40] + bytes(padding))
    assert refusal(cut) is Reason.TRUNCATED


def test_no_pixels_and_cut_pixels():
    data = make_dicom(ramp())
    start = data.rfind(b"\xe0\x7f\x10\x00OW")
    assert refusal(data[:start]) is Reason.DICOM_NO_PIXELS
    for end in (len(data) - 400, len(data) - 8000):
        assert refusal(data[:end]) is Reason.TRUNCATED
    j2k = bytes(encode_jpeg_2000(ramp(), bits_stored=12, photometric_interpretation=2))
    assert refusal(make_dicom(ramp(), JPEG2000Lossless, coded=j2k[: len(j2k) // 2])) is Reason.TRUNCATED
    whole = make_dicom(ramp(), JPEG2000Lossless, coded=j2k)
    assert refusal(whole[: -len(j2k) // 2]) is Reason.TRUNCATED
    deflated = make_dicom(ramp(), DeflatedExplicitVRLittleEndian)
    assert refusal(deflated[: len(deflated) * 3 // 4]) is Reason.TRUNCATED


@pytest.mark.parametrize(
    ("lie", "reason"),
    [
        ({"Rows": 65535, "Columns": 65535}, Reason.TOO_LARGE),
        ({"Rows": 0}, Reason.TOO_SMALL),
        ({"Rows": 63}, Reason.TOO_SMALL),
        ({"Rows": None}, Reason.DICOM_CORRUPT),
        ({"Rows": 128}, Reason.TRUNCATED),
        ({"BitsStored": 17}, Reason.DICOM_CORRUPT),
        ({"BitsStored": 0}, Reason.DICOM_CORRUPT),
        ({"HighBit": 3}, Reason.DICOM_CORRUPT),
        ({"HighBit": 60000}, Reason.DICOM_CORRUPT),
        ({"BitsAllocated": 32}, Reason.DICOM_PIXEL_FORMAT),
        ({"BitsAllocated": None}, Reason.DICOM_CORRUPT),
        ({"SamplesPerPixel": 3}, Reason.TRUNCATED),
        ({"PhotometricInterpretation": None}, Reason.DICOM_NO_PHOTOMETRIC),
        ({"PhotometricInterpretation": "RGB"}, Reason.DICOM_CONTRADICTION),
        ({"PixelRepresentation": 7}, Reason.DICOM_CORRUPT),
        ({"SOPClassUID": SECRET}, Reason.DICOM_UNSUPPORTED_CLASS),
    ],
)
def test_lying_headers(lie, reason):
    assert refusal(make_dicom(ramp(), **lie)) is reason


def test_a_codestream_larger_than_the_header_says_is_not_decoded():
    j2k = bytearray(encode_jpeg_2000(ramp(), bits_stored=12, photometric_interpretation=2))
    struct.pack_into(">II", j2k, 8, 60_000, 60_000)
    assert refusal(make_dicom(ramp(), JPEG2000Lossless, coded=bytes(j2k))) is Reason.DICOM_CONTRADICTION


def test_rle_runs_that_overshoot_or_stop_short():
    pixels = ramp()
    high, low = packed_bits(pixels >> 8), packed_bits(pixels & 255)
    bomb = b"\x81\0" * 100_000  # a run of 128 zeros each, far beyond the picture
    result = read(make_dicom(pixels, RLELossless, coded=rle_frame(high, low + bomb)))
    np.testing.assert_array_equal(result.pixels, read(make_dicom(pixels)).pixels)
    assert refusal(make_dicom(pixels, RLELossless, coded=rle_frame(high, low[:-20]))) is Reason.TRUNCATED
    assert refusal(make_dicom(pixels, RLELossless, coded=rle_frame(high))) is Reason.DICOM_CONTRADICTION


def test_a_file_cut_at_any_byte_is_refused():
    """Pydicom says so with many kinds of exception, OSError among them."""
    data = make_dicom(ramp(), BodyPartExamined="HAND", VOILUTSequence=[lut_item(range(16), 0, 16)])
    for end in [*range(0, len(data) - 8192, 7), *range(len(data) - 8300, len(data), 97)]:
        refusal(data[:end])


def test_lies_cost_no_memory():
    inflated = zlib.compressobj(wbits=-15)
    bomb = inflated.compress(bytes(1 << 26)) + inflated.flush()
    head = make_dicom(ramp(), DeflatedExplicitVRLittleEndian)
    start = head.find(b"1.2.840.10008.1.2.1.99")
    meta_length = struct.unpack_from("<I", head, 140)[0]
    assert start > 0
    huge = bytearray(make_dicom(ramp()))
    struct.pack_into("<I", huge, huge.find(b"\xe0\x7f\x10\x00OW") + 8, 0xFFFFFFF0)
    windows = make_dicom(ramp(), WindowCenter=[1.5] * 10_000, WindowWidth=[9.5] * 10_000)
    tracemalloc.start()
    try:
        assert refusal(head[: 144 + meta_length] + bomb, max_pixels=10**5) is Reason.TOO_LARGE
        assert read(bytes(huge)).width == 64
        read(windows)
        assert tracemalloc.get_traced_memory()[1] < 60_000_000
    finally:
        tracemalloc.stop()

"""The phantom generator: closed-form chords, known fractures, and files that say what they are."""

import csv
import io
import struct
import sys
from dataclasses import FrozenInstanceError

import cv2
import numpy as np
import pydicom
import pytest

from phantoms.anatomy import BALL, BUILDERS, LEG_BUILDERS, Plate, Solid, shape, turn_about
from phantoms.anatomy_arm import ARM_BUILDERS
from phantoms.files import demo_images, encode_phantom, write_phantoms
from phantoms.film import REGIONS, Screen, make_phantom
from training.make_phantoms import main

X, Y, Z = np.eye(3)


def screen(scale=2.0, side=400):
    return Screen(side, side, scale, np.zeros(3))


def ball(radius, centre=(0, 0, 0), cortex=0.0):
    at = np.array(centre, float)
    return Solid(BALL, at - Y * radius, at + Y * radius, X, (radius, radius), cortex)


def test_the_way_through_a_sphere_is_twice_the_root_of_r2_less_d2():
    shadow = screen(scale=1.0).chords(ball(50))
    row = 200 - shadow.rows.start
    columns = np.arange(shadow.columns.start, shadow.columns.stop) - 200
    expected = 2 * np.sqrt(np.maximum(50.0**2 - columns.astype(float) ** 2, 0))
    np.testing.assert_allclose(shadow.outer[row], expected, atol=0.02)


def test_the_cortex_of_a_sphere_is_a_shell_of_even_thickness():
    shadow = screen(scale=1.0).chords(ball(50, cortex=8))
    row, column = 200 - shadow.rows.start, 200 - shadow.columns.start
    assert shadow.outer[row, column] - shadow.inner[row, column] == pytest.approx(16, abs=0.01)
    # at 46 mm from the middle the ray meets cortex only: 2 sqrt(50^2 - 46^2)
    assert shadow.inner[row, column + 46] == 0
    assert shadow.outer[row, column + 46] == pytest.approx(39.192, abs=0.01)


@pytest.mark.parametrize("tilt", [0, 30, 60, 90])
def test_an_ellipsoid_keeps_its_volume_and_casts_its_shadow_from_any_side(tilt):
    turn = turn_about(X, tilt) @ turn_about(Z, 25)
    solid = Solid(BALL, -Y * 40, Y * 40, X, (20, 10), 0).moved(turn, np.zeros(3))
    shadow = screen().chords(solid)
    assert shadow.outer.sum() / 2.0**2 == pytest.approx(4 / 3 * np.pi * 40 * 20 * 10, rel=2e-3)
    matrix = turn @ np.diag([20.0**2, 40.0**2, 10.0**2]) @ turn.T  # its shadow's half-sizes are the roots
    half = (shadow.outer > 0).any(axis=0).sum() / 2 / 2.0
    assert half == pytest.approx(np.sqrt(matrix[0, 0]), abs=0.6)


@pytest.mark.parametrize("spin", [0, 35, 90])
def test_a_cylinder_has_the_chords_of_its_elliptical_section(spin):
    rod = shape([(0, 12, 6, 0, 0, 2), (1, 12, 6, 0, 0, 2)], (0, 0))
    solid = Solid(rod, -Y * 60, Y * 60, X).moved(turn_about(Y, spin), np.zeros(3))
    shadow = screen().chords(solid)
    row = shadow.outer[shadow.outer.shape[0] // 2]
    c, s = np.cos(np.radians(spin)), np.sin(np.radians(spin))
    half = np.sqrt((12 * c) ** 2 + (6 * s) ** 2)
    assert (row > 0).sum() / 2 / 2.0 == pytest.approx(half, abs=0.5)
    assert row.max() == pytest.approx(2 * 12 * 6 / half, rel=0.01)
    assert shadow.outer.sum() / 4 == pytest.approx(np.pi * 12 * 6 * 120, rel=0.01)


def test_what_lies_outside_the_picture_casts_no_shadow():
    assert screen().chords(ball(20, (500, 0, 0))) is None


def test_overlapping_solids_of_one_bone_count_once():
    both = screen().merged([ball(20), ball(20, (0, 0, 0))])
    np.testing.assert_array_equal(both.outer, screen().chords(ball(20)).outer)


def test_a_flat_bone_is_thicker_at_its_rim():
    outline = np.array([(-40, -40, 0), (40, -40, 0), (40, 40, 0), (-40, 40, 0)], float)
    way = screen().plate(Plate(outline, 2.0, 4.0))
    assert way[200, 200] == pytest.approx(2.0, abs=0.01)
    assert way[200].max() > 3.5
    assert way[0, 0] == 0


@pytest.mark.parametrize("region", REGIONS)
def test_the_same_seed_gives_the_same_picture_and_another_seed_another(region):
    first = make_phantom(5, region, fracture=True)
    again = make_phantom(5, region, fracture=True)
    np.testing.assert_array_equal(first.pixels, again.pixels)
    assert (first.box, first.polygon, first.bone) == (again.box, again.polygon, again.bone)
    other = make_phantom(6, region, fracture=True, size=first.pixels.shape[::-1])
    assert not np.array_equal(first.pixels, other.pixels)


@pytest.mark.parametrize("region", REGIONS)
def test_a_fracture_changes_the_picture_in_its_box_more_than_elsewhere(region):
    more = 0
    for seed in range(8):
        broken = make_phantom(seed, region, fracture=True, size=(256, 256))
        whole = make_phantom(seed, region, fracture=False, size=(256, 256))
        assert (whole.fractured, whole.box, whole.polygon, whole.bone) == (False, None, (), "")
        assert (whole.laterality, whole.view, whole.spacing) == (
            broken.laterality,
            broken.view,
            broken.spacing,
        )
        x, y, w, h = broken.box
        height, width = broken.pixels.shape
        assert 0 <= x < x + w <= width
        assert 0 <= y < y + h <= height
        assert all(x <= px <= x + w and y <= py <= y + h for px, py in broken.polygon)
        change = np.abs(broken.pixels.astype(int) - whole.pixels)
        inside = np.zeros(change.shape, bool)
        inside[y : y + h, x : x + w] = True
        more += change[inside].mean() > 1.5 * change[~inside].mean()
    assert more >= 6  # a far fragment that swings may change more outside than in


@pytest.mark.parametrize("region", REGIONS)
def test_a_picture_uses_the_grey_scale_and_shows_bone_brighter_than_air(region):
    for seed in range(4):
        phantom = make_phantom(seed, region)
        assert phantom.pixels.dtype == np.uint8
        assert max(phantom.pixels.shape) == 448
        low, high = np.percentile(phantom.pixels, (5, 99))
        assert high - low > 80
        assert phantom.laterality in {"L", "R"}
        assert 0.2 < phantom.spacing < 2


def test_left_open_the_seed_decides_about_the_fracture():
    decided = {make_phantom(seed, "hand", size=(64, 64)).fractured for seed in range(12)}
    assert decided == {True, False}


def test_the_size_asked_for_is_the_size_given():
    phantom = make_phantom(1, "leg", size=(320, 256))
    assert phantom.pixels.shape == (256, 320)
    with pytest.raises(FrozenInstanceError):
        phantom.seed = 2


@pytest.mark.parametrize(("region", "size"), [("skull", None), ("hand", (63, 200))])
def test_what_cannot_be_made_is_refused(region, size):
    with pytest.raises(ValueError, match=r"must be one of|at least 64"):
        make_phantom(0, region, size=size)


def test_both_sides_and_several_views_occur():
    made = [make_phantom(seed, "elbow", size=(64, 64)) for seed in range(16)]
    assert {phantom.laterality for phantom in made} == {"L", "R"}
    assert {phantom.view for phantom in made} == {"AP", "LL"}


@pytest.mark.parametrize("region", REGIONS)
def test_bones_that_move_with_a_fragment_exist(region):
    anatomy = {**BUILDERS, **ARM_BUILDERS, **LEG_BUILDERS}[region](np.random.default_rng(0))
    names = {bone.name for bone in anatomy.bones}
    for bone in anatomy.bones:
        for site in bone.breaks:
            assert 0 <= site.solid < len(bone.solids)
            assert 0 < site.low < site.high < 1
            assert set(site.carries) <= names - {bone.name}


def test_a_png_says_in_a_text_chunk_that_it_is_synthetic_and_keeps_every_pixel():
    phantom = make_phantom(3, "hand")
    data = encode_phantom(phantom, "png")
    length, kind = struct.unpack(">I4s", data[33:41])
    assert kind == b"tEXt"
    assert data[41 : 41 + length].startswith(b"Description\0SYNTHETIC PHANTOM")
    np.testing.assert_array_equal(
        cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED), phantom.pixels
    )


def test_a_jpeg_says_it_in_a_comment():
    phantom = make_phantom(3, "hand")
    data = encode_phantom(phantom, "jpeg")
    assert data[:4] == b"\xff\xd8\xff\xfe"
    assert b"SYNTHETIC PHANTOM" in data[:120]
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert np.abs(pixels.astype(int) - phantom.pixels).mean() < 4


def test_a_dicom_file_says_it_in_its_header_and_images_of_a_study_belong_together():
    one, two = make_phantom(3, "leg"), make_phantom(4, "leg")
    first = pydicom.dcmread(io.BytesIO(encode_phantom(one, "dicom", study="s", number=1)))
    second = pydicom.dcmread(io.BytesIO(encode_phantom(two, "dicom", study="s", number=2)))
    np.testing.assert_array_equal(first.pixel_array, one.pixels)
    assert first.SeriesDescription == "SYNTHETIC PHANTOM"
    assert list(first.ImageType) == ["DERIVED", "SECONDARY"]
    assert (first.Modality, first.BodyPartExamined, first.Laterality) == ("CR", "LEG", one.laterality)
    assert first.StudyInstanceUID == second.StudyInstanceUID
    assert first.AccessionNumber == second.AccessionNumber
    assert first.AccessionNumber.startswith("SYN")
    assert first.SOPInstanceUID != second.SOPInstanceUID
    assert encode_phantom(one, "dicom", study="s") == encode_phantom(one, "dicom", study="s")


def test_an_unknown_format_is_refused():
    with pytest.raises(ValueError, match="format"):
        encode_phantom(make_phantom(0, "hand", size=(64, 64)), "bmp")


def test_a_folder_of_phantoms_with_its_labels(tmp_path):
    seen = []
    paths = write_phantoms(
        tmp_path,
        5,
        seed=10,
        regions=("hand", "leg"),
        fracture_share=1.0,
        formats=("png", "dicom"),
        labels=True,
        on_progress=seen.append,
    )
    assert seen == [1, 2, 3, 4, 5]
    assert [path.suffix for path in paths] == [".png", ".png", ".dcm", ".dcm", ".png"]
    with (tmp_path / "labels.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["filename"] for row in rows] == [path.name for path in paths]
    assert {row["fractured"] for row in rows} == {"1"}
    phantom = make_phantom(10, "hand", fracture=True)
    assert tuple(int(rows[0][key]) for key in ("x", "y", "width", "height")) == phantom.box
    assert rows[0]["bone"] == phantom.bone


def test_the_demo_set_holds_every_kind_of_outcome(tmp_path):
    paths = demo_images(tmp_path)
    names = {str(path.relative_to(tmp_path)) for path in paths}
    assert len(names) == len(paths) >= 24
    for region, least in (("knee", 10), ("lower_leg", 3), ("humerus", 2), ("forearm", 2), ("hip", 2)):
        assert sum(name.startswith(f"{region}_") for name in names) >= least
    for region in ("forearm", "knee"):
        views = [pydicom.dcmread(tmp_path / f"study_{region}" / f"view_{i}.dcm") for i in (1, 2)]
        assert views[0].StudyInstanceUID == views[1].StudyInstanceUID
        assert views[0].ViewPosition != views[1].ViewPosition
        assert views[0].Laterality == views[1].Laterality
    copy = tmp_path / "study_knee" / "view_1_copy.dcm"
    assert copy.read_bytes() == (tmp_path / "study_knee" / "view_1.dcm").read_bytes()
    assert not (tmp_path / "cut_off.jpg").read_bytes().endswith(b"\xff\xd9")
    photograph = cv2.imread(str(tmp_path / "holiday.jpg"), cv2.IMREAD_COLOR).astype(int)
    assert (photograph.max(axis=2) - photograph.min(axis=2)).mean() > 60
    assert (tmp_path / "notes.txt").read_text().startswith("This is not an image")


def test_the_command_writes_files(tmp_path, capsys):
    main([str(tmp_path), "--count", "2", "--regions", "hip", "--format", "jpeg", "--labels"])
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "hip_000000.jpg",
        "hip_000001.jpg",
        "labels.csv",
    ]
    assert "2 files" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([])


def test_making_phantoms_does_not_load_tensorflow():
    # a fresh interpreter, since another test of the same run may have imported it
    import subprocess

    code = "import sys, phantoms.film; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

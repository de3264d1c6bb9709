"""Datasets, splits and augmentation: nothing leaks, nothing broken is swallowed."""

import csv
import json

import cv2
import numpy as np
import pytest

from training.augment import Augmentation, augmented, fracture_cells
from training.datasets import (
    DatasetError,
    Example,
    Split,
    load_pixels,
    phantom_examples,
    read_fracatlas,
    read_split,
    split_by_group,
    write_split,
)
from training.experiment import ROOT

COLUMNS = ("image_id", "label", "regions", "truncated", "sha256", "near_dup_group")
TRAITS = ("hardware", "multiscan", "mixed", "views", "width", "height")


@pytest.fixture
def fracatlas(tmp_path):
    """A folder laid out as FracAtlas is kept here: six images in four groups, one of them truncated."""
    (tmp_path / "images").mkdir()
    rows = []
    truths = ("normal a 0", "fractured b 0", "normal b 0", "normal c 0", "fractured d 0", "normal e 1")
    for i, truth in enumerate(truths):
        label, group, truncated = truth.split()
        name = f"IMG{i}.jpg"
        cv2.imwrite(str(tmp_path / "images" / name), np.full((600, 300), 40 * i, np.uint8))
        rows.append(dict(zip(COLUMNS, (name, label, "hand+leg", truncated, f"{i:064x}", group), strict=True)))
        rows[-1] |= dict.fromkeys(TRAITS, "0")
    with (tmp_path / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, (*COLUMNS, *TRAITS))
        writer.writeheader()
        writer.writerows(rows)
    note = {"image_id": 7, "segmentation": [[600, 0, 1200, 0, 1200, 1200]]}
    image = {"id": 7, "file_name": "IMG1.jpg", "width": 1200, "height": 2400}
    (tmp_path / "fracture_masks.coco.json").write_text(json.dumps({"images": [image], "annotations": [note]}))
    return tmp_path


def test_fracatlas_is_read_with_outlines_as_shares_and_truncated_files_left_out(fracatlas):
    found = read_fracatlas(fracatlas)
    assert [e.name for e in found.examples] == [f"IMG{i}.jpg" for i in range(5)]
    assert found.skipped == {"truncated": 1}
    second = found.examples[1]
    assert (second.regions, second.positive, second.group) == (("hand", "leg"), True, "b")
    assert second.polygons[0].tolist() == [[0.5, 0], [1, 0], [1, 0.5]]


def test_a_missing_image_is_counted_and_a_missing_manifest_named(fracatlas):
    (fracatlas / "images" / "IMG3.jpg").unlink()
    assert read_fracatlas(fracatlas).skipped == {"truncated": 1, "file missing": 1}
    (fracatlas / "manifest.csv").unlink()
    with pytest.raises(DatasetError, match=r"manifest\.csv is missing"):
        read_fracatlas(fracatlas)


def test_an_unknown_label_is_refused(fracatlas):
    path = fracatlas / "manifest.csv"
    path.write_text(path.read_text().replace("IMG0.jpg,normal", "IMG0.jpg,perhaps"))
    with pytest.raises(DatasetError, match=r"IMG0\.jpg: unknown label 'perhaps'"):
        read_fracatlas(fracatlas)


def test_pixels_are_cached_at_the_working_size(fracatlas, tmp_path):
    examples = read_fracatlas(fracatlas).examples
    first = load_pixels(examples, tmp_path / "cache")
    assert {p.shape for p in first} == {(448, 224)}
    (fracatlas / "images" / "IMG0.jpg").unlink()
    again = load_pixels(examples, tmp_path / "cache")
    assert all((a == b).all() for a, b in zip(first, again, strict=True))


def test_a_corrupt_image_is_named(fracatlas, tmp_path):
    (fracatlas / "images" / "IMG2.jpg").write_bytes(b"not a picture")
    with pytest.raises(DatasetError, match=r"IMG2\.jpg cannot be decoded"):
        load_pixels(read_fracatlas(fracatlas).examples, tmp_path / "cache")


def many(groups):
    return [
        Example(f"{g}-{i}", ROOT, (("hand", "leg")[g % 2],), g % 5 == 0, str(g), "")
        for g in range(groups)
        for i in range(1 + g % 3)
    ]


def test_no_group_crosses_a_split_and_shares_hold_for_both_labels(tmp_path):
    examples = many(400)
    split = split_by_group(examples, {"train": 0.7, "val": 0.15, "test": 0.15}, seed=3)
    assert split == split_by_group(examples[::-1], {"train": 0.7, "val": 0.15, "test": 0.15}, seed=3)
    assert split != split_by_group(examples, {"train": 0.7, "val": 0.15, "test": 0.15}, seed=4)
    write_split(tmp_path / "split.csv", Split(split))
    parts = read_split(tmp_path / "split.csv", examples)
    groups = {name: {e.group for e in part} for name, part in parts.items()}
    assert not groups["train"] & groups["val"]
    assert not groups["train"] & groups["test"]
    assert not groups["val"] & groups["test"]
    for name, share in (("train", 0.7), ("val", 0.15), ("test", 0.15)):
        assert abs(len(groups[name]) / 400 - share) < 0.02
        fractured = {e.group for e in parts[name] if e.positive}
        assert abs(len(fractured) / 80 - share) < 0.04


def test_a_group_on_both_sides_and_a_missing_row_are_refused(tmp_path):
    examples = [Example(n, ROOT, ("hand",), False, "same", "") for n in ("a", "b")]
    write_split(tmp_path / "split.csv", Split({"a": "train", "b": "test"}))
    with pytest.raises(DatasetError, match="group same stands in train and in test"):
        read_split(tmp_path / "split.csv", examples)
    write_split(tmp_path / "split.csv", Split({"a": "train"}))
    with pytest.raises(DatasetError, match="b is not in the split file"):
        read_split(tmp_path / "split.csv", examples)


def test_the_kept_split_of_fracatlas_holds_every_group_on_one_side(shared_data):
    dataset = read_fracatlas(shared_data / "fracatlas")
    parts = read_split(ROOT / "training" / "splits" / "fracatlas.csv", dataset.examples)  # raises on a leak
    assert dataset.skipped == {"truncated": 50}
    assert {name: len(part) for name, part in parts.items()} == {"train": 2412, "val": 515, "test": 521}


def test_phantoms_know_where_they_are_broken():
    examples, pictures = phantom_examples(["hand"], 4, 10)
    assert [e.positive for e in examples] == [True, False, True, False]
    for example, picture in zip(examples, pictures, strict=True):
        assert picture.dtype == np.uint8
        assert bool(example.polygons) == example.positive


def test_the_fracture_mask_follows_the_picture():
    picture = np.zeros((300, 200), np.uint8)
    picture[40:80, 120:160] = 255  # a bright patch, outlined as the fracture
    outline = np.float32([[0.6, 40 / 300], [0.8, 40 / 300], [0.8, 80 / 300], [0.6, 80 / 300]])
    still = Augmentation(gamma=0, contrast=0, brightness=0, noise=0)
    for seed in range(20):
        view, cells = augmented(picture, [outline], 320, 20, still, np.random.default_rng(seed))
        seen = cv2.resize(view, (20, 20), interpolation=cv2.INTER_AREA) / 255
        assert view.shape == (320, 320)
        assert cells.max() == 1
        assert (cells[seen > 0.4] > 0.9).all()
        assert (cells[seen < 0.01] < 0.25).all()


def test_a_normal_picture_has_no_fracture_cells():
    assert not fracture_cells([], np.eye(2, 3), 10, 10, 64, 4).any()


def test_a_view_is_settled_by_its_seed_alone():
    picture = np.random.default_rng(0).integers(0, 256, (90, 120), np.uint8)
    one, other = (augmented(picture, [], 64, 4, Augmentation(), np.random.default_rng(5))[0] for _ in "ab")
    assert (one == other).all()
    assert (one != augmented(picture, [], 64, 4, Augmentation(), np.random.default_rng(6))[0]).any()

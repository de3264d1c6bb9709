"""Readers of published data sets: as published, and as people's disks leave them."""

import csv
import json
import shutil
import subprocess
import sys
from collections import Counter

import cv2
import numpy as np
import pytest

from phantoms.files import write_phantoms
from phantoms.film import make_phantom
from training.datasets import DatasetError, detect_format, open_dataset
from training.mura_layout import plan_images, plan_with_fracatlas, write_mura


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mura")
    write_mura(folder, plan_images(60, seed=3), longest=64, jobs=1)
    return folder


@pytest.fixture
def mura(made, tmp_path):
    return shutil.copytree(made, tmp_path / "copy") / "MURA-v1.1"


def first_study(mura, word="positive"):
    return next(mura.glob(f"train/XR_*/patient*/study*_{word}"))


def test_mura_as_published(mura):
    assert detect_format(mura) == detect_format(mura.parent) == "mura"
    dataset = open_dataset(mura.parent)
    assert (len(dataset.examples), dataset.skipped, dataset.label_meaning) == (60, {}, "abnormal")
    assert {r for e in dataset.examples for r in e.regions} == {
        *("elbow", "finger", "forearm", "hand", "humerus", "shoulder", "wrist")
    }
    parts = {part: {e.patient for e in dataset.examples if e.part == part} for part in ("train", "valid")}
    assert all(parts.values())
    assert not parts["train"] & parts["valid"]
    for example in dataset.examples:
        assert example.path.is_file()
        assert example.positive == ("_positive/" in example.name)
        assert example.group == example.patient
        assert example.study.startswith(f"XR_{example.regions[0].upper()}/{example.patient}/study")


def test_studies_of_one_patient_may_differ_in_region_and_label():
    studies = {}
    for image in plan_images(2000, seed=1):
        _, region, patient, study, _ = image.name.split("/")
        studies.setdefault(patient, set()).add((region, study.split("_")[0], image.fracture))
    assert any(len({s[0] for s in of}) > 1 and len({s[2] for s in of}) > 1 for of in studies.values())
    assert any(any(s[1] == "study2" for s in of) for of in studies.values())


def test_a_stopped_run_goes_on_and_another_plan_is_refused(made, mura):
    pictures = sorted(mura.rglob("*.png"))
    before = {p: p.read_bytes() for p in pictures}
    for path in pictures[::3]:
        path.unlink()
    (mura / "valid_image_paths.csv").unlink()
    write_mura(mura.parent, plan_images(60, seed=3), longest=64, jobs=1)
    assert {p: p.read_bytes() for p in sorted(mura.rglob("*.png"))} == before
    assert open_dataset(mura).skipped == {}
    with pytest.raises(DatasetError, match="another plan"):
        write_mura(mura.parent, plan_images(60, seed=4), longest=64, jobs=1)


def test_what_mura_lacks_or_has_too_much_of_is_counted(mura):
    study = first_study(mura)
    images = sorted(study.iterdir())
    count = len(images)
    (mura / "__MACOSX").mkdir()
    (study / "._image1.png").write_bytes(b"x")
    (study / ".DS_Store").write_bytes(b"x")
    (study / "notes.txt").write_text("x")
    shutil.copy(images[0], study / "image99.png")
    images[0].rename(study / "image1.PNG")  # the case of an extension is nobody's fault
    missing = sorted(first_study(mura, "negative").iterdir())[0]
    missing.unlink()
    dataset = open_dataset(mura)
    assert dataset.skipped == {
        "hidden or system file": 2,
        "no picture": 1,
        "file not listed": 1,
        "listed, file missing": 1,
    }
    assert len(dataset.examples) == 59
    assert sum(e.path.parent == study for e in dataset.examples) == count


def test_studies_of_one_image_are_studies(mura):
    studies = Counter(e.study for e in open_dataset(mura).examples)
    assert {1, 2, 3} <= set(studies.values())


def test_a_study_whose_folder_and_list_differ_is_left_out_whole(mura):
    study = first_study(mura)
    images = len(list(study.iterdir()))
    table = mura / "train_labeled_studies.csv"
    name = f"MURA-v1.1/{study.relative_to(mura)}/"
    table.write_text(table.read_text().replace(f"{name},1", f"{name},0"))
    assert open_dataset(mura).skipped == {"label of folder and list differ": images}
    table.write_text(table.read_text().replace(f"{name},0\n", ""))
    assert open_dataset(mura).skipped == {"study without label": images}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda root: (root / "valid_labeled_studies.csv").unlink(),
            r"valid_labeled_studies\.csv is missing",
        ),
        (
            lambda root: (root / "train_labeled_studies.csv").write_text("MURA-v1.1/train/x/,perhaps\n"),
            "is 'perhaps', not 0 or 1",
        ),
        (
            lambda root: (root / "train_image_paths.csv").write_text("a,b\n"),
            "line 1: 1 columns expected, not 2",
        ),
        (lambda root: [shutil.rmtree(root / part) for part in ("train", "valid")], "no usable image"),
    ],
)
def test_what_makes_mura_unusable_is_said(mura, change, message):
    change(mura)
    with pytest.raises(DatasetError, match=message):
        open_dataset(mura, "mura")


FRACATLAS = (
    "image_id,hand,leg,hip,shoulder,mixed,hardware,multiscan,fractured,fracture_count,frontal,lateral,oblique"
)


@pytest.fixture
def fracatlas(tmp_path):
    """FracAtlas as published: two fractured, two normal."""
    root = tmp_path / "FracAtlas"
    rows = []
    for i in range(4):
        folder = root / "images" / ("Fractured" if i < 2 else "Non_fractured")
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f"IMG{i}.jpg"), np.full((90, 80), 40 * i, np.uint8))
        rows.append(f"IMG{i}.jpg,1,{i % 2},0,0,{i % 2},0,0,{int(i < 2)},{int(i < 2)},1,{i % 2},0")
    (root / "dataset.csv").write_text("\n".join((FRACATLAS, *rows)) + "\n")
    masks = root / "Annotations" / "COCO JSON"
    masks.mkdir(parents=True)
    note = {"image_id": 1, "segmentation": [[40, 0, 80, 0, 80, 45]]}
    image = {"id": 1, "file_name": "IMG1.jpg", "width": 80, "height": 90}
    (masks / "COCO_fracture_masks.json").write_text(json.dumps({"images": [image], "annotations": [note]}))
    return root


@pytest.fixture
def many_fracatlas(tmp_path):
    """Hands and shoulders of which some look alike, and what MURA has no place for."""
    root = tmp_path / "kept"
    (root / "images").mkdir(parents=True)
    rows = ["image_id,label,regions,mixed,hardware,multiscan,views,width,height,truncated,near_dup_group"]
    rows[0] += ",sha256"

    def add(n, regions, label, *, hardware=0, group=None, seed=None):
        name = f"IMG{n:03d}.jpg"
        pixels = make_phantom(n if seed is None else seed, "hand", longest=400).pixels
        cv2.imwrite(str(root / "images" / name), pixels)
        rows.append(f"{name},{label},{regions},0,{hardware},0,frontal,400,300,0,{group or n},{n:064x}")

    for n in range(24):
        add(n, ("hand", "shoulder")[n % 2], ("fractured", "normal")[n // 2 % 2])
    add(24, "hand", "fractured", group=4, seed=4)  # looks like IMG004: one patient
    add(25, "hand", "normal", group=4)
    add(30, "leg", "fractured")
    add(31, "hand+shoulder", "fractured")
    add(32, "hand", "normal", hardware=1)
    (root / "manifest.csv").write_text("\n".join(rows) + "\n")
    (root / "fracture_masks.coco.json").write_text('{"images": [], "annotations": []}')
    return root


def test_fracatlas_is_laid_out_as_mura_among_phantoms(many_fracatlas, tmp_path):
    plan = plan_with_fracatlas(70, many_fracatlas, seed=1, jobs=1)
    real = [image for image in plan if image.source]
    assert len(plan) == 70
    assert len({image.name for image in plan}) == 70
    assert {image.source.name for image in real} == {f"IMG{n:03d}.jpg" for n in range(26)}
    root = write_mura(tmp_path, plan, longest=128, jobs=1)
    dataset = open_dataset(root)
    assert (dataset.name, dataset.skipped) == ("Phantoms and FracAtlas laid out as MURA", {})
    assert "CC BY 4.0" in dataset.source
    assert {r for e in dataset.examples for r in e.regions} == {
        *("elbow", "finger", "forearm", "hand", "humerus", "shoulder", "wrist")
    }
    parts = {part: {e.patient for e in dataset.examples if e.part == part} for part in ("train", "valid")}
    assert not parts["train"] & parts["valid"]
    by_name = {e.name: e for e in dataset.examples}
    found = {image.source.name: by_name[image.name] for image in real}
    assert {e.part for e in found.values()} == {"train", "valid"}
    assert found["IMG000.jpg"].positive
    assert not found["IMG002.jpg"].positive
    one = [found[f"IMG{n:03d}.jpg"] for n in (4, 24, 25)]
    assert len({e.patient for e in one}) == 1  # look-alikes are one patient's, on one side
    assert (one[0].study, one[0].positive) == (one[1].study, True)
    assert one[2].study != one[0].study
    patients = Counter(e.patient for e in found.values())
    assert sorted(patients.values(), reverse=True)[:2] == [3, 1]
    for image in real:
        picture = cv2.imread(str(root / image.name), cv2.IMREAD_UNCHANGED)
        assert (picture.ndim, max(picture.shape), picture.dtype) == (2, 128, np.uint8)
    assert json.loads((root / "made_by.json").read_text())["radiographs"] == 26


def test_at_most_two_fifths_are_radiographs(many_fracatlas):
    plan = plan_with_fracatlas(40, many_fracatlas, jobs=1)
    assert len(plan) == 40
    assert 10 <= sum(image.source is not None for image in plan) <= 16


def test_fracatlas_as_published(fracatlas):
    dataset = open_dataset(fracatlas.parent)  # an archive's folder inside
    assert [(e.name, e.positive) for e in dataset.examples] == [
        ("IMG0.jpg", True),
        ("IMG1.jpg", True),
        ("IMG2.jpg", False),
        ("IMG3.jpg", False),
    ]
    second = dataset.examples[1]
    assert (second.regions, second.traits["views"], second.group) == (("hand", "leg"), "frontal+lateral", "")
    assert second.polygons[0].tolist() == [[0.5, 0], [1, 0], [1, 0.5]]


def test_what_fracatlas_lacks_is_counted(fracatlas):
    images = fracatlas / "images"
    (images / "Fractured" / "IMG0.jpg").rename(images / "Non_fractured" / "IMG0.jpg")
    (images / "Non_fractured" / "IMG2.jpg").unlink()
    (images / "Non_fractured" / "IMG9.jpg").write_bytes(b"x")
    dataset = open_dataset(fracatlas)
    assert dataset.skipped == {
        "label of folder and list differ": 1,
        "listed, file missing": 1,
        "file not listed": 1,
    }
    (images / "Fractured" / "IMG1.jpg").rename(images / "Fractured" / "IMG1.JPG")
    for name in ("__MACOSX/images/Fractured/._IMG1.jpg", "images/Fractured/.DS_Store", "images/._IMG3.jpg"):
        (fracatlas / name).parent.mkdir(parents=True, exist_ok=True)
        (fracatlas / name).write_bytes(b"x")
    again = open_dataset(fracatlas)
    assert again.skipped == dataset.skipped | {"hidden or system file": 2}
    assert [e.path.name for e in again.examples] == ["IMG1.JPG", "IMG3.jpg"]
    (fracatlas / "dataset.csv").write_text("image_id,hand\n")
    with pytest.raises(DatasetError, match=r"dataset\.csv lacks the columns fractured, hardware, multiscan"):
        open_dataset(fracatlas)


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((70, 70), 90, np.uint8))


def test_class_folders_in_any_order(tmp_path):
    for name in ("train/hand/Fractured/patient1/a.png", "valid/not fractured/XR_WRIST/b.JPG", "loose.png"):
        picture(tmp_path / name)
    dataset = open_dataset(tmp_path)
    one, other = dataset.examples
    assert (one.regions, one.positive, one.patient, one.part) == (("hand",), True, "patient1", "train")
    assert (other.regions, other.positive, other.part) == (("wrist",), False, "valid")
    assert (dataset.skipped, dataset.label_meaning) == ({"no class folder": 1}, "fractured")
    (tmp_path / "train" / "hand" / "normal").mkdir()
    with pytest.raises(DatasetError, match="normal holds no picture"):
        open_dataset(tmp_path)


def test_a_folder_without_classes_is_refused(tmp_path):
    picture(tmp_path / "a.png")
    with pytest.raises(DatasetError, match="no picture in a class folder"):
        open_dataset(tmp_path)


def test_a_table_of_pictures(tmp_path):
    for name in ("a.png", "b.png", "c.png"):
        picture(tmp_path / "pictures" / name)
    table = tmp_path / "set.csv"
    rows = [
        "path,label,region,patient,study,split",
        "pictures/a.png,1,hand+wrist,p1,s1,train",
        "pictures/b.png,normal,XR_ELBOW,p2,s2,test",
        "pictures/c.png,0,hand,p3,s3,train",
        "pictures/c.png,1,hand,p3,s3,train",
        "pictures/missing.png,1,hand,p4,s4,train",
    ]
    table.write_text("\n".join(rows))
    dataset = open_dataset(table, label_meaning="fractured")
    assert dataset.skipped == {"listed twice": 1, "listed with both labels": 1, "listed, file missing": 1}
    assert [(e.name, e.regions, e.positive, e.study, e.part) for e in dataset.examples] == [
        ("pictures/a.png", ("hand", "wrist"), True, "s1", "train"),
        ("pictures/b.png", ("elbow",), False, "s2", "test"),
    ]
    assert dataset.label_meaning == "fractured"
    table.write_text("path,label\npictures/a.png,perhaps\n")
    with pytest.raises(DatasetError, match="line 2: 'perhaps' is no label"):
        open_dataset(table)
    table.write_text("path,label\n../../etc/passwd,1\n")
    with pytest.raises(DatasetError, match="lies outside"):
        open_dataset(table)


def test_a_folder_of_phantoms_knows_its_outlines(tmp_path):
    write_phantoms(tmp_path, 8, regions=("wrist", "humerus"), longest=64, labels=True)
    dataset = open_dataset(tmp_path)
    with (tmp_path / "labels.csv").open() as file:
        truth = {row["filename"]: row["fractured"] == "1" for row in csv.DictReader(file)}
    assert {e.name: e.positive for e in dataset.examples} == truth
    assert Counter(r for e in dataset.examples for r in e.regions) == {"wrist": 4, "humerus": 4}
    for example in dataset.examples:
        assert bool(example.polygons) == example.positive
        assert all((p >= 0).all() and (p <= 1).all() for p in example.polygons)


def test_nothing_there_and_an_unknown_format(tmp_path):
    with pytest.raises(DatasetError, match="nowhere is missing"):
        open_dataset(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match="'imagenet' is none of mura, fracatlas"):
        open_dataset(tmp_path, "imagenet")


def test_reading_data_sets_loads_no_keras():
    code = "import sys, training.datasets; sys.exit(bool({'keras', 'tensorflow'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_several_processes_make_the_same_pictures(tmp_path):
    plan = plan_images(80, seed=5, regions=("wrist",))
    one, two = (write_mura(tmp_path / str(jobs), plan, longest=64, jobs=jobs) for jobs in (1, 2))
    assert all((one / i.name).read_bytes() == (two / i.name).read_bytes() for i in plan)

"""The scan before training, near-duplicates, and splits that divide no group."""

import csv
import json
import shutil
from collections import defaultdict
from dataclasses import replace

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from cli.main import main
from phantoms.film import make_phantom
from training.datasets import (
    Dataset,
    DatasetError,
    Example,
    Scan,
    SplitPlan,
    make_split,
    open_dataset,
    read_split,
    scan,
    write_split,
)
from training.datasets.near_duplicates import HASH_BYTES, difference_hash, joined, near_pairs
from training.datasets.scan import FileFacts
from training.experiment import ROOT


def phantom(seed, region="hand"):
    return make_phantom(seed, region, fracture=seed % 2 == 0, longest=160).pixels


def save(path, pixels, *options):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), pixels, list(options))
    return path


@pytest.fixture(scope="module")
def messy(tmp_path_factory):
    """Class folders with one of everything that goes wrong."""
    root = tmp_path_factory.mktemp("messy")
    good = save(root / "hand" / "normal" / "a.png", phantom(1))
    save(root / "hand" / "fractured" / "b.png", phantom(2))
    save(root / "leg" / "fractured" / "c.png", phantom(4, "leg"))
    shutil.copy(good, root / "hand" / "fractured" / "same bytes.png")
    save(root / "hand" / "fractured" / "again.jpg", cv2.resize(phantom(2), None, fx=0.9, fy=0.9), 1, 70)
    whole = save(root / "hand" / "normal" / "whole.jpg", phantom(3)).read_bytes()
    (root / "hand" / "normal" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "hand" / "normal" / "no picture.png").write_bytes(b"x" * 99)
    save(root / "hand" / "normal" / "small.png", phantom(5)[:40, :40])
    return root


def test_a_scan_finds_what_is_wrong(messy):
    report = scan(open_dataset(messy), jobs=1).report()
    assert report["broken"] == {
        "hand/normal/cut.jpg": "truncated",
        "hand/normal/no picture.png": "not_an_image",
        "hand/normal/small.png": "too_small",
    }
    assert report["duplicates"] == [("hand/fractured/same bytes.png", "hand/normal/a.png")]
    assert report["conflicts"] == report["duplicates"]
    assert report["near_duplicates"] == [
        ("hand/fractured/again.jpg", "hand/fractured/b.png"),
        ("hand/fractured/same bytes.png", "hand/normal/a.png"),
    ]
    assert report["near_conflicts"] == report["duplicates"]
    assert report["regions"] == {"hand": {"positive": 3, "negative": 5}, "leg": {"positive": 1}}
    assert report["empty_classes"] == ["leg: no negative"]


def test_a_scan_that_was_stopped_goes_on(messy, tmp_path):
    dataset = open_dataset(messy)
    looked = []

    def stop(number):
        looked.append(number)
        if number == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scan(dataset, jobs=1, cache=tmp_path, on_progress=stop)
    resumed = scan(dataset, jobs=1, cache=tmp_path, on_progress=looked.append)
    assert looked == list(range(1, 10))
    assert resumed.report() == scan(dataset, jobs=1).report()


def test_the_hash_stands_against_what_saving_again_does():
    bits = [np.unpackbits(np.frombuffer(difference_hash(phantom(n)), np.uint8)) for n in range(12)]
    small = cv2.resize(phantom(0), None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    again = np.unpackbits(np.frombuffer(difference_hash(small), np.uint8))
    assert (bits[0] != again).sum() <= 10
    assert min((bits[0] != other).sum() for other in bits[1:]) > 10


def test_near_pairs_are_all_pairs_within_the_distance():
    rng = np.random.default_rng(5)
    table = rng.integers(0, 256, (700, HASH_BYTES), np.uint8)
    for target in range(100, 160):  # some near, some just not
        table[target] = table[target - 100]
        bits = rng.choice(8 * HASH_BYTES, 5 + target % 12, replace=False)
        table[target] ^= np.packbits(np.isin(np.arange(8 * HASH_BYTES), bits))
    distances = np.unpackbits(table[:, None] ^ table[None], axis=2).sum(axis=2, dtype=int)
    expected = {(i, j) for i, j in zip(*np.nonzero(distances <= 10), strict=True) if i < j}
    assert len(expected) == 30
    assert {tuple(pair) for pair in near_pairs([row.tobytes() for row in table])} == expected
    assert len(near_pairs([])) == len(near_pairs([b"x" * HASH_BYTES])) == 0


def test_links_join_into_groups():
    groups = joined("abcdef", [("a", "c"), ("d", "c"), ("e", "f"), ("b",)])
    assert groups == {"a": "a", "c": "a", "d": "a", "e": "e", "f": "e", "b": "b"}


def made_up(patients=120, part=lambda patient: ""):
    """Three images a patient, some of whom look like the next; nothing of it is on disk."""
    examples, facts = [], {}
    rng = np.random.default_rng(0)
    looks = [rng.bytes(HASH_BYTES).hex() for _ in range(patients * 3)]
    for n in range(patients * 3):
        patient = n // 3
        name = f"p{patient}/{n}.png"
        region = ("hand", "wrist")[patient % 2]
        examples.append(
            Example(
                name, ROOT, (region,), patient % 3 == 0, f"p{patient}", "", patient=f"p{patient}",
                part=part(patient),
            )
        )  # fmt: skip
        facts[name] = FileFacts(
            f"{n:064x}", looks[n - 1 if patient % 10 == 1 and n % 3 == 0 else n], 200, 200
        )
    return Scan(Dataset("made up", tuple(examples), {}, "abnormal"), facts)


def sides(split):
    found = defaultdict(set)
    for name, side in split.sides.items():
        found[name.split("/")[0]].add(side)
    return found


def test_a_split_divides_no_patient_and_no_look_alikes(tmp_path):
    scanned = made_up()
    split = make_split(scanned, SplitPlan(seed=2))
    assert all(len(of) == 1 for of in sides(split).values())
    for patient in range(1, 120, 10):  # looks like the one before
        assert sides(split)[f"p{patient}"] == sides(split)[f"p{patient - 1}"]
    assert split == make_split(scanned, SplitPlan(seed=2))
    assert split != make_split(scanned, SplitPlan(seed=3))
    write_split(tmp_path / "split.csv", split, "the command")
    parts = read_split(tmp_path / "split.csv", scanned.dataset.examples)
    assert {name: len(part) for name, part in parts.items()} == {
        name: list(split.sides.values()).count(name) for name in ("test", "train", "val")
    }
    head = (tmp_path / "split.csv").read_text().splitlines()[:4]
    assert head[0] == "# made by: the command"
    assert "seed 2" in head[2]
    for part in parts.values():
        assert {e.positive for e in part} == {True, False}
        assert {e.regions[0] for e in part} == {"hand", "wrist"}


def test_a_published_split_is_kept_and_validation_cut_from_train():
    scanned = made_up(part=lambda patient: "valid" if patient >= 100 else "train")
    split = make_split(scanned, SplitPlan({"train": 0.8, "val": 0.2}))
    assert {p for p, of in sides(split).items() if of == {"test"}} == {f"p{n}" for n in range(100, 120)}
    # patients 100 and 101 look alike, on one side; 99 and 100 do not
    assert not split.left_out
    free = make_split(scanned, SplitPlan(published=False))
    assert {p for p, of in sides(free).items() if of == {"test"}} != {f"p{n}" for n in range(100, 120)}


def test_look_alikes_across_a_published_split_are_told_and_can_be_left_out():
    scanned = made_up(part=lambda patient: "valid" if patient % 10 == 1 else "train")
    assert len(scanned.crossing) == 12
    kept = make_split(scanned, SplitPlan({"train": 0.8, "val": 0.2}))
    assert kept.header[-1] == "12 groups of look-alikes stand on both sides of the published split"
    split = make_split(scanned, SplitPlan({"train": 0.8, "val": 0.2}, leave_out_crossing=True))
    assert len(split.left_out) == 36  # all of a patient one of whose images crosses
    assert not {p for p, of in sides(split).items() if of != {"test"}} & {f"p{n}" for n in range(0, 120, 10)}


def test_a_patient_on_both_sides_of_a_published_split():
    def part(patient):
        return "valid" if patient % 5 == 0 else "train"

    scanned = made_up(part=part)
    torn = [replace(e, part="train") if e.name == "p5/15.png" else e for e in scanned.dataset.examples]
    scanned = Scan(Dataset("made up", tuple(torn), {}, "abnormal"), scanned.facts)
    with pytest.raises(DatasetError, match="patient p5 and 0 others stand on both sides"):
        make_split(scanned, SplitPlan({"train": 0.8, "val": 0.2}))
    split = make_split(scanned, SplitPlan({"train": 0.8, "val": 0.2}, leave_out_crossing=True))
    assert "p5/15.png" in split.left_out


def test_a_part_without_one_of_the_labels_is_refused():
    scanned = made_up(6)
    with pytest.raises(DatasetError, match=r"has no (positive|negative) image"):
        make_split(scanned, SplitPlan())


@pytest.mark.parametrize("path", sorted((ROOT / "training" / "splits").glob("*.csv")), ids=lambda p: p.name)
def test_no_group_crosses_in_any_shipped_split(path):
    with path.open() as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    found = defaultdict(set)
    for row in rows:
        assert row["group"] or not row["split"]
        found[row["group"]].add(row["split"])
    assert all(len(of) == 1 for group, of in found.items() if group)
    assert {"train", "val", "test"} <= {row["split"] for row in rows}


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("FRACTUREAI_CACHE_DIR", str(tmp_path / "cache"))


def test_the_commands(messy, tmp_path, cache):
    out = tmp_path / "findings.json"
    said = CliRunner().invoke(main, ["datasets", "scan", str(messy), "--json", str(out), "--jobs", "1"])
    assert said.exit_code == 0, said.output
    assert "9 images; positive means fractured" in said.output
    assert "the service would refuse: 1 not_an_image, 1 too_small, 1 truncated" in said.output
    assert (
        "1 groups of duplicates (same bytes)\n  hand/fractured/same bytes.png hand/normal/a.png"
        in said.output
    )
    assert json.loads(out.read_text())["empty_classes"] == ["leg: no negative"]
    split = CliRunner().invoke(main, ["datasets", "split", str(messy), "--out", str(tmp_path / "s.csv")])
    assert split.exit_code == 2
    assert "the part test has no positive image; give it more, or another seed." in split.output


def test_the_split_command_writes_a_file_that_reads_back(tmp_path, cache):
    root = tmp_path / "set"
    for n in range(24):
        save(root / ("normal", "abnormal")[n % 2] / f"patient{n}" / f"{n}.png", phantom(n))
    out = tmp_path / "split.csv"
    arguments = ["datasets", "split", str(root), "--out", str(out), "--shares", "0.5", "0.25", "0.25"]
    said = CliRunner().invoke(main, arguments)
    assert said.exit_code == 0, said.output
    assert "train 12, val 6, test 6" in said.output
    assert {n: len(p) for n, p in read_split(out, open_dataset(root).examples).items()} == {
        "train": 12,
        "val": 6,
        "test": 6,
    }
    assert "# positive" not in out.read_text()
    assert "positive: abnormal" in out.read_text()

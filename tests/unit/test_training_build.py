"""The one command from published data to a bundle, on a small data set laid out as FracAtlas is."""

import csv
import json

import cv2
import pytest

from phantoms.film import make_phantom
from training.datasets import Split, read_fracatlas, split_by_group, write_split

CONFIG = """
from pathlib import Path
from training.experiment import OTHER, Experiment, NetworkPlan
from training.fit import Schedule

QUICK = Schedule(1, 64, rate=1e-3, batch=16, average=0.5)
LONGER = Schedule(12, 160, rate=2e-3, batch=16, average=0.5)
EXPERIMENT = Experiment(
    name="small",
    split=Path(__file__).parent / "split.csv",
    region=NetworkPlan("region", "custom_cnn", 64, ("hand", "leg", OTHER), LONGER, seed=1, phantom_share=0.3),
    fracture=(
        NetworkPlan("pooled", "custom_cnn", 64, ("hand", "leg"), QUICK, seed=2),
        NetworkPlan("hand", "custom_cnn", 64, ("hand",), QUICK, seed=3, start_from="pooled"),
    ),
    readers={"hand": "hand", "leg": "pooled"},
    phantoms=6,
    min_probability=0.0,
    second_region=1.0,
)
"""


@pytest.fixture
def published(tmp_path):
    """Write 96 phantoms as FracAtlas is kept here, with a split file and a config beside them."""
    (tmp_path / "images").mkdir()
    rows, images, notes = [], [], []
    for seed in range(96):
        region, fractured = ("hand", "leg")[seed % 2], seed % 4 < 2
        phantom = make_phantom(5000 + seed, region, fracture=fractured, size=(160, 200))
        name, (height, width) = f"IMG{seed}.png", phantom.pixels.shape
        cv2.imwrite(str(tmp_path / "images" / name), phantom.pixels)
        label = "fractured" if fractured else "normal"
        row = {
            "image_id": name,
            "label": label,
            "regions": region,
            "truncated": "0",
            "sha256": f"{seed:x}".rjust(12, "0").ljust(64, "0"),
        }
        row |= {"near_dup_group": str(seed // 4 * 2 + seed % 2), "hardware": "0", "multiscan": "0"}
        row |= {"width": str(width), "height": str(height)}
        rows.append(row | {"mixed": "0", "views": "frontal"})
        if fractured:
            images.append({"id": seed, "file_name": name, "width": width, "height": height})
            corners = [float(value) for corner in phantom.polygon for value in corner]
            notes.append({"image_id": seed, "segmentation": [corners]})
    with (tmp_path / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    masks = {"images": images, "annotations": notes}
    (tmp_path / "fracture_masks.coco.json").write_text(json.dumps(masks))
    examples = read_fracatlas(tmp_path).examples
    split = split_by_group(examples, {"train": 0.5, "val": 0.25, "test": 0.25}, seed=1)
    write_split(tmp_path / "split.csv", Split(split))
    (tmp_path / "small.py").write_text(CONFIG)
    return tmp_path


@pytest.mark.slow
def test_one_command_makes_a_bundle_that_the_service_can_read(published, monkeypatch, capsys):
    from models.bundle import load_bundle
    from training import evaluate, train

    monkeypatch.setenv("FRACTUREAI_CACHE_DIR", str(published / "cache"))
    arguments = [str(published / "small.py"), "--data", str(published), "--runs", str(published / "runs")]
    train.main([*arguments, "--out", str(published / "bundles")])
    bundle = load_bundle(published / "bundles" / "small")
    assert bundle.regions == ("hand", "leg", "other")
    assert {r: m.network for r, m in bundle.models.items()} == {"hand": "hand", "leg": "pooled"}
    assert bundle.manifest["split"] == {"train": 48, "val": 24, "test": 24}
    assert bundle.manifest["metrics"]["fitted_on_overlap"] == 0
    assert "| test | 24 |" in bundle.card
    with pytest.raises(FileExistsError, match="new name"):
        train.main([*arguments, "--out", str(published / "bundles")])

    capsys.readouterr()
    report = published / "report.json"
    split = ["--split", str(published / "split.csv"), "--cache", str(published / "runs" / "cache")]
    evaluate.main([str(bundle.folder), str(published), *split, "--json", str(report)])
    assert "24 images; 0 of them among those fitted on" in capsys.readouterr().out
    measured = json.loads(report.read_text())
    assert measured["overall"]["auc"] == bundle.manifest["metrics"]["overall"]["auc"]

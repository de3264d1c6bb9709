"""A bundle trained on a folder laid out as MURA is reads all seven regions, and speaks of abnormal images."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
import redis
from sqlalchemy import Engine, select

from models.bundle import load_bundle
from phantoms.files import encode_phantom
from phantoms.film import make_phantom
from store.accounts.sites import bootstrap
from store.base.session import session_scope
from store.base.tables import Finding
from store.bundles.bundles import add_bundle
from tests.worker.test_reading import by_path, finding_of, pdf_text, read
from training.datasets.mura import REGIONS
from training.mura_layout import plan_images, write_mura

CONFIG = """
from pathlib import Path
from training.datasets import SplitPlan
from training.datasets.mura import REGIONS
from training.experiment import DatasetPlan, Experiment, NetworkPlan
from training.fit import Schedule

def plan(name, seed):
    return NetworkPlan(
        name, "custom_cnn", 64, REGIONS, Schedule(4, 224, rate=2e-3, batch=32, average=0.5, local_weight=0.0),
        seed=seed, phantom_share=0.0,
    )

EXPERIMENT = Experiment(
    name="seven",
    dataset=DatasetPlan(Path("none"), "mura"),
    split=SplitPlan({"train": 0.6, "val": 0.4}),
    region=plan("region", 1),
    fracture=(plan("pooled", 2),),
    readers=dict.fromkeys(REGIONS, "pooled"),
    phantoms=0,
    unknown=(),
    min_probability=0.0,
    second_region=1.0,
    distance_slack=100.0,
)
"""


@pytest.fixture(scope="module")
def seven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train on 240 small phantoms with the command that people use."""
    from training import train

    folder = tmp_path_factory.mktemp("seven")
    write_mura(folder, plan_images(240, seed=7, valid_share=0.25), longest=96, jobs=2)
    (folder / "seven.py").write_text(CONFIG)
    folders = ["--data", str(folder), "--runs", str(folder / "runs"), "--out", str(folder / "bundles")]
    train.main([str(folder / "seven.py"), *folders])
    return folder / "bundles" / "seven"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_uploads_of_seven_regions_are_read_and_called_abnormal(
    seven: Path, database: Engine, broker: redis.Redis, service_settings: pytest.MonkeyPatch
) -> None:
    bundle = load_bundle(seven)
    assert bundle.label_meaning == "abnormal"
    assert bundle.regions == tuple(bundle.models) == REGIONS
    assert "synthetic phantoms alone" in " ".join(bundle.limits)
    assert "fractured" not in bundle.card.replace("every abnormality is a fracture", "")
    assert set(bundle.manifest["split"]) == {"train", "val", "test"}
    split = (seven.parent.parent / "runs" / "seven" / "split.csv").read_text()
    assert "the published test part is kept" in split

    add_bundle(seven)
    with session_scope() as session:
        site: uuid.UUID = bootstrap(session, "Test hospital", "admin@example.org")[0].id
    files = {
        f"{region}/{n}.png": encode_phantom(make_phantom(500 + n, region, fracture=n == 0, longest=160))
        for region in REGIONS
        for n in range(2)
    }
    batch = read(site, files)
    images = by_path(batch)
    assert {image.status for image in images.values()} == {"done"}
    with session_scope() as session:
        regions = set(session.scalars(select(Finding.region).where(Finding.bundle == "seven")))
    assert regions
    assert regions <= set(REGIONS)
    for path in ("wrist/0.png", "finger/1.png"):
        text = pdf_text(finding_of(images[path], "seven")).lower()
        assert "abnormal" in text
        assert "fractured" not in text

"""The shipped configs load, and fit together."""

import pytest

from training.datasets import SplitPlan
from training.experiment import ROOT, load_experiment
from training.fit import Schedule

CONFIGS = sorted(p for p in (ROOT / "training" / "configs").glob("*.py") if p.name != "__init__.py")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.name)
def test_a_shipped_config_fits_together(path):
    experiment = load_experiment(path)
    plans = {plan.name: plan for plan in experiment.fracture}
    assert set(experiment.readers.values()) <= set(plans)
    assert set(experiment.readers) <= set(experiment.region.regions)
    for region, network in experiment.readers.items():
        assert region in plans[network].regions
    earlier = {experiment.region.name}
    for plan in experiment.fracture:
        assert not plan.start_from or plan.start_from in earlier
        earlier.add(plan.name)
        assert isinstance(plan.schedule, Schedule)
    if isinstance(experiment.split, SplitPlan):
        assert {"train", "val"} <= set(experiment.split.shares)
    else:
        assert experiment.split.is_file()


@pytest.mark.parametrize(
    "name", ["mura.py", "mura_phantoms.py", "seven_regions.py", "seven_regions_labels.py"]
)
def test_the_configs_of_mura_read_its_seven_regions(name):
    experiment = load_experiment(ROOT / "training" / "configs" / name)
    regions = ("elbow", "finger", "forearm", "hand", "humerus", "shoulder", "wrist")
    assert tuple(experiment.region.regions) == tuple(experiment.readers) == regions
    # MURA has labels only: a target of outlines would say that no cell of an abnormal image is abnormal
    if experiment.dataset.format == "mura":
        assert all(plan.schedule.local_weight == 0 for plan in experiment.fracture)

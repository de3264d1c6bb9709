"""The shipped configs load, and fit together."""

import pytest

from training.datasets import SplitPlan
from training.experiment import ROOT, load_config, load_experiment
from training.fit import Schedule
from training.reading_plan import ReadingPlan

#: Of one network that tells the part and reads it.
READING = [
    ROOT / "training" / "configs" / f"{name}.py"
    for name in ("fracatlas_2", "fracatlas_3", "folds", "folds_96", "boxes_448")
]
CONFIGS = sorted(
    p for p in (ROOT / "training" / "configs").glob("*.py") if p.name != "__init__.py" and p not in READING
)


@pytest.mark.parametrize("path", READING, ids=lambda p: p.name)
def test_a_shipped_plan_of_a_reading_network_has_a_rate_for_every_step(path):
    plan = load_config(path, ReadingPlan)
    assert plan.split.is_file()
    steps = plan.steps * sum(stage.epochs for stage in plan.stages)
    rates = [plan.at(step)[1] for step in range(steps)]
    assert all(0 < rate <= max(stage.rate for stage in plan.stages) for rate in rates)
    with pytest.raises(ValueError, match="after the last stage"):
        plan.at(steps)


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

"""What an experiment is: its data, its networks in fitting order, and which network reads which region."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from training.datasets import AUTO, DatasetError, SplitPlan
from training.fit import Schedule

ROOT = Path(__file__).resolve().parent.parent
#: The region network's answer for a body part that no fracture network reads.
OTHER = "other"


def shared_data() -> Path:
    """Return the folder of public data beside the repository, or what FRACTUREAI_SHARED_DATA names."""
    return Path(os.environ.get("FRACTUREAI_SHARED_DATA") or ROOT.parent / "shared" / "data")


@dataclass(frozen=True)
class DatasetPlan:
    """Which data set an experiment reads.

    Attributes
    ----------
    path
        Its folder, or a CSV file; relative to the shared data.
    format
        One of `training.datasets.FORMATS`, or ``auto``.
    label_meaning
        What a positive means, in a ``table`` or a ``folder``.
    """

    path: Path
    format: str = AUTO
    label_meaning: str = ""


@dataclass(frozen=True)
class NetworkPlan:
    """How one network is made.

    Attributes
    ----------
    regions
        Images of these regions train a fracture network; a region network tells them apart.
    weights
        File below the shared data, ``"imagenet"``, or None.
    start_from
        Name of an earlier network of the experiment to go on from.
    mirrored
        Read every picture mirrored too and take the mean, see `models.bundle.Network`.
    """

    name: str
    architecture: str
    size: int
    regions: Sequence[str]
    schedule: Schedule
    seed: int
    weights: str | None = None
    start_from: str | None = None
    phantom_share: float = 0.06
    mirrored: bool = False


@dataclass(frozen=True)
class Experiment:
    """One bundle's making.

    Attributes
    ----------
    split
        A split file, or how to make one; it is then kept with the checkpoints.
    readers
        Region to the name of the fracture network that reads it.
    phantoms
        Made for each region of `readers`; those of `unknown` train the region network's answer `OTHER`.
    not_assessable, distance_slack
        Images further from the training data than all but this share of validation images, times the
        slack, are not read.
    min_probability, second_region
        See `pipeline.types.RoutingRules`; an image of two regions shares its probability between them.
    tried
        Sentences for the card: what was tried and not shipped.
    """

    name: str
    split: Path | SplitPlan
    region: NetworkPlan
    fracture: Sequence[NetworkPlan]
    readers: Mapping[str, str]
    dataset: DatasetPlan = DatasetPlan(Path("fracatlas"), "fracatlas")
    phantoms: int = 150
    first_seed: int = 1000
    unknown: Sequence[str] = ("elbow",)
    not_assessable: float = 0.01
    distance_slack: float = 1.1
    min_probability: float = 0.38
    second_region: float = 0.3
    tried: Sequence[str] = field(default_factory=tuple)


_Kind = TypeVar("_Kind")


def load_config(path: Path, kind: type[_Kind]) -> _Kind:
    """Run a config file and return the one object of a kind that it defines.

    Raises
    ------
    DatasetError
        The file is missing or defines none.
    """
    spec = importlib.util.spec_from_file_location("config", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise DatasetError(f"{path} is no config file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for value in vars(module).values():
        if isinstance(value, kind):
            return value
    raise DatasetError(f"{path} defines no {kind.__name__}")


def load_experiment(path: Path) -> Experiment:
    """Run a config file and return its `EXPERIMENT`.

    Raises
    ------
    DatasetError
        The file is missing or defines none.
    """
    return load_config(path, Experiment)

"""How a reading network is made: what a file of `training/configs` says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from training.reading_data import Fold, Shares


def weights_file(epoch: int) -> str:
    """Return the name of the file with the averaged weights after an epoch."""
    return f"epoch-{epoch:02d}.weights.h5"


@dataclass(frozen=True)
class Stage:
    """Some epochs at one picture size; the rate falls from `rate` to `last_rate` along a cosine."""

    epochs: int
    size: int
    rate: float
    last_rate: float


@dataclass(frozen=True)
class ReadingPlan:
    """How a reading network is made.

    Attributes
    ----------
    frozen
        Layers whose names start so keep their ImageNet weights: the first ones are most of the work and
        learn least.
    batch
        Pictures a step, all processes together.
    head_factor
        How much faster the new layers learn than the trunk.
    average
        Momentum of the moving average of the weights, which is what is measured and kept.
    boxes_weight
        Of the loss of boxes; with 0 the network draws none.
    folds
        For each of some folds of all films the kind of picture that its network is never shown.
    fold
        The one that is fitted, see `of_fold`.
    """

    name: str
    architecture: str
    variant: str
    split: Path
    stages: Sequence[Stage]
    seed: int
    frozen: tuple[str, ...] = ()
    draws: int = 2400
    batch: int = 32
    warmup: int = 30
    head_factor: float = 5.0
    decay: float = 0.02
    average: float = 0.99
    phantoms: int = 30
    first_seed: int = 1000
    shares: Shares = field(default_factory=Shares)
    local_weight: float = 0.5
    part_weight: float = 0.5
    view_weight: float = 1.0
    boxes_weight: float = 0.0
    folds: Sequence[str] = ()
    fold: Fold | None = None

    def of_fold(self, number: int) -> ReadingPlan:
        """Return the plan of one of the folds, counted from 1 on."""
        fold = Fold(number, len(self.folds), self.folds[number - 1])
        return replace(self, name=f"{self.name}-{number}", fold=fold)

    @property
    def steps(self) -> int:
        """Steps an epoch."""
        return self.draws // self.batch

    @property
    def epochs(self) -> int:
        """Epochs of all stages."""
        return sum(stage.epochs for stage in self.stages)

    def at(self, step: int) -> tuple[Stage, float]:
        """Return a step's stage and rate."""
        start = 0
        for stage in self.stages:
            length = stage.epochs * self.steps
            if step < start + length:
                through = (step - start) / length
                rate = stage.last_rate + (stage.rate - stage.last_rate) * (1 + np.cos(np.pi * through)) / 2
                return stage, rate * min(1.0, (step - start + 1) / self.warmup)
            start += length
        raise ValueError(f"step {step} is after the last stage")

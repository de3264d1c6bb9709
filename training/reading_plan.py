"""How a reading network is made: what a file of `training/configs` says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from training.reading_data import Shares


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

    @property
    def steps(self) -> int:
        """Steps an epoch."""
        return self.draws // self.batch

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

"""Fitting one network: seeded batches, losses, two phases, resumable checkpoints."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import keras
import numpy as np
from keras import ops

from models import architectures
from pipeline.types import UInt8Array
from training.augment import Augmentation, augmented
from training.datasets import Example

#: Share of fractured pictures in a batch; Platt scaling undoes the shift on validation.
FRACTURED_SHARE = 0.4


@dataclass(frozen=True)
class Schedule:
    """How long and how fast: `frozen_epochs` for the new layers alone, then all from `train_from` on.

    Attributes
    ----------
    draws
        Pictures an epoch.
    rate, frozen_rate
        Peak of the cosine schedule, and the constant rate of the first phase.
    train_from
        Name of the first trunk layer that learns in the second phase; empty for all.
    """

    epochs: int
    draws: int
    rate: float = 2.5e-4
    frozen_epochs: int = 0
    frozen_rate: float = 1e-3
    batch: int = 32
    decay: float = 1e-3
    average: float = 0.99
    train_from: str = ""
    local_weight: float = 0.5
    augmentation: Augmentation = field(default_factory=Augmentation)


@dataclass(frozen=True)
class Pictures:
    """Pixels and truths side by side; `phantom_share` of the draws come from synthetic ones."""

    examples: Sequence[Example]
    pixels: Sequence[UInt8Array]
    phantom_share: float = 0.0


class Batches(keras.utils.PyDataset):  # type: ignore[misc]  # keras has no types
    """Random views, drawn by (seed, epoch, index) alone, so that a resumed run sees the same ones."""

    def __init__(
        self, pictures: Pictures, regions: Sequence[str] | None, size: int, schedule: Schedule, seed: int
    ) -> None:
        """Serve fracture targets, or region targets where `regions` are given."""
        super().__init__()
        self.pictures, self.regions, self.size, self.schedule, self.seed = (
            pictures,
            regions,
            size,
            schedule,
            seed,
        )
        self.grid = size // 16
        self.epoch = 0
        examples = pictures.examples
        phantom = np.array([e.traits.get("phantom") == "1" for e in examples])
        fractured = np.array([e.positive for e in examples])
        share = FRACTURED_SHARE if regions is None else float(fractured.mean())
        weights = np.zeros(len(examples))
        for mask, total in ((phantom, pictures.phantom_share), (~phantom, 1 - pictures.phantom_share)):
            for label, part in ((fractured, share), (~fractured, 1 - share)):
                if (mask & label).any():
                    weights[mask & label] = total * part / (mask & label).sum()
        if not weights.sum():
            raise ValueError(f"no picture to draw: phantom share {pictures.phantom_share} of {len(examples)}")
        self.weights = weights / weights.sum()

    def __len__(self) -> int:
        return self.schedule.draws // self.schedule.batch

    def _order(self, epoch: int) -> np.ndarray:  # type: ignore[type-arg]
        # systematic sampling: every picture comes as often as its weight says, give or take one
        rng = np.random.default_rng([self.seed, epoch])
        count = len(self) * self.schedule.batch
        shuffled = rng.permutation(len(self.weights))
        edges = np.cumsum(self.weights[shuffled])
        picks = shuffled[np.searchsorted(edges, (np.arange(count) + rng.random()) / count * edges[-1])]
        return rng.permutation(picks)

    def __getitem__(self, index: int) -> tuple[UInt8Array, dict[str, Any]]:
        batch = self.schedule.batch
        views, cells = [], []
        chosen = self._order(self.epoch)[index * batch : (index + 1) * batch]
        for place, number in enumerate(chosen):
            rng = np.random.default_rng([self.seed, self.epoch, index, place])
            view, mask = augmented(
                self.pictures.pixels[number],
                self.pictures.examples[number].polygons,
                self.size,
                self.grid,
                self.schedule.augmentation,
                rng,
            )
            views.append(view[..., None])
            cells.append(mask[..., None])
        examples = [self.pictures.examples[number] for number in chosen]
        if self.regions is not None:
            return np.stack(views), {architectures.LOGIT: region_targets(examples, self.regions)}
        labels = np.array([[e.positive] for e in examples], np.float32)
        return np.stack(views), {architectures.LOGIT: labels, architectures.LOCAL: np.stack(cells)}

    def on_epoch_end(self) -> None:
        """Move on to the next epoch's draws."""
        self.epoch += 1


def region_targets(examples: Sequence[Example], regions: Sequence[str]) -> np.ndarray:  # type: ignore[type-arg]
    """Return float32 (n, R): equal shares for the regions that an image shows."""
    targets = np.array([[r in e.regions for r in regions] for e in examples], np.float32)
    return targets / targets.sum(axis=1, keepdims=True)


def local_loss(truth: Any, logits: Any) -> Any:
    """Quality focal loss over cells (Li et al. 2020), a fracture cell of the batch."""
    probability = ops.sigmoid(logits)
    entropy = ops.softplus(logits) - truth * logits
    cells = ops.sum(ops.abs(truth - probability) ** 2 * entropy)
    return cells / (ops.sum(ops.cast(truth > 0.1, "float32")) + 1.0)


def fit(network: Any, batches: Batches, folder: Path, *, verbose: int = 2, validate: Any = None) -> Any:
    """Fit a network in two phases and return it; a killed run takes up where its last epoch ended.

    Parameters
    ----------
    folder
        Keeps the checkpoints and `log.csv`.
    validate
        Called as ``validate(epoch, network)`` after each epoch.
    """
    schedule = batches.schedule
    folder.mkdir(parents=True, exist_ok=True)
    steps = len(batches)
    for phase, epochs in (("frozen", schedule.frozen_epochs), ("tuned", schedule.epochs)):
        done = folder / f"{phase}.weights.h5"
        if not epochs:
            continue
        if done.exists():
            network.load_weights(done)
            continue
        _set_trainable(network, phase, schedule.train_from)
        rate: Any = schedule.frozen_rate
        if phase == "tuned":
            rate = keras.optimizers.schedules.CosineDecay(
                schedule.rate / 10,
                epochs * steps - epochs * steps // 10,
                alpha=0.01,
                warmup_target=schedule.rate,
                warmup_steps=steps,
            )
        optimizer = keras.optimizers.AdamW(
            rate, schedule.decay, clipnorm=1.0, use_ema=True, ema_momentum=schedule.average
        )
        if batches.regions is None:
            losses: Any = {
                architectures.LOGIT: keras.losses.BinaryCrossentropy(from_logits=True),
                architectures.LOCAL: local_loss,
            }
            weights = {architectures.LOGIT: 1.0, architectures.LOCAL: schedule.local_weight}
        else:
            losses = {
                architectures.LOGIT: keras.losses.CategoricalCrossentropy(from_logits=True),
                architectures.FEATURES: None,
            }
            weights = None
        # XLA is ten times slower than oneDNN on a CPU
        network.compile(optimizer, losses, loss_weights=weights, jit_compile=False)
        callbacks: list[Any] = [
            _Epochs(batches),
            keras.callbacks.BackupAndRestore(folder / f"{phase}.backup", delete_checkpoint=False),
            keras.callbacks.CSVLogger(folder / f"{phase}.csv", append=True),
        ]
        if validate is not None:
            callbacks.append(keras.callbacks.LambdaCallback(on_epoch_end=lambda e, _: validate(e, network)))
        network.fit(batches, epochs=epochs, shuffle=False, verbose=verbose, callbacks=callbacks)
        network.save_weights(done)
    return network


class _Epochs(keras.callbacks.Callback):  # type: ignore[misc]
    """Tells the batches which epoch it is, also after a resume."""

    def __init__(self, batches: Batches) -> None:
        super().__init__()
        self.batches = batches

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Set the epoch."""
        self.batches.epoch = epoch


def _set_trainable(network: Any, phase: str, train_from: str) -> None:
    """Freeze the trunk in the first phase, and the layers before `train_from` in the second."""
    names = [layer.name for layer in network.layers]
    new = {"coarse", "fine", architectures.LOCAL, "whole", architectures.LOGIT}
    start = names.index(train_from) if train_from else 0
    for index, layer in enumerate(network.layers):
        layer.trainable = layer.name in new if phase == "frozen" else index >= start or layer.name in new

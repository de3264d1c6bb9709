"""Fitting one network: seeded batches, losses, two phases, early stopping, resumable checkpoints."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from models import architectures
from pipeline.types import Float32Array, UInt8Array
from training.augment import Augmentation, augmented
from training.datasets import Example

#: What share fractured pictures have, or weigh, where the classes are balanced; Platt scaling undoes the
#: shift on validation.
FRACTURED_SHARE = 0.4


class Balance(StrEnum):
    """What is done about fractures being rare: docs/models.md says how each fared."""

    NONE = "none"
    SAMPLING = "sampling"
    """Fractured pictures are drawn more often."""
    WEIGHTS = "weights"
    """They weigh more in the loss."""
    FOCAL = "focal"
    """Pictures that are told well count less (Lin et al. 2017)."""


@dataclass(frozen=True)
class Schedule:
    """How long and how fast: `frozen_epochs` for the new layers alone, then all from `train_from` on.

    Attributes
    ----------
    draws
        Pictures an epoch.
    rate, frozen_rate
        Peak of the cosine schedule, and the constant rate of the first phase.
    optimizer
        ``"adamw"``, or ``"adam"``: without `decay`.
    average
        Momentum of the moving average of the weights, which is what is kept in the end.
    train_from
        Name of the first trunk layer that learns in the second phase; empty for all.
    patience
        Epochs without a lower validation loss after which the second phase ends, with the weights of its
        best epoch; 0 for never.
    precision
        Keras dtype policy of fitting: ``"float32"``, ``"mixed_bfloat16"`` or ``"mixed_float16"``. What is
        saved computes in float32.
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
    optimizer: str = "adamw"
    balance: Balance = Balance.SAMPLING
    patience: int = 0
    precision: str = "float32"
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
        #: Of the pictures as they are, before any balancing.
        self.fractured_share = float(fractured.mean())
        balanced = regions is None and schedule.balance is Balance.SAMPLING
        share = FRACTURED_SHARE if balanced else self.fractured_share
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


def fracture_loss(balance: Balance, share: float) -> Any:
    """Return the loss of the image's logit; `share` of the pictures are fractured."""
    if balance is Balance.FOCAL:
        return keras.losses.BinaryFocalCrossentropy(from_logits=True)
    if balance is not Balance.WEIGHTS:
        return keras.losses.BinaryCrossentropy(from_logits=True)
    fractured, normal = FRACTURED_SHARE / share, (1 - FRACTURED_SHARE) / (1 - share)

    def weighted(truth: Any, logits: Any) -> Any:
        return ops.mean(
            fractured * truth * ops.softplus(-logits) + normal * (1 - truth) * ops.softplus(logits)
        )

    return weighted


def fit(
    network: Any,
    batches: Batches,
    folder: Path,
    *,
    verbose: int = 2,
    tensorboard: bool = False,
    validation: Validation | None = None,
    validate: Any = None,
) -> Any:
    """Fit a network in two phases and return it; a killed run takes up where its last epoch ended.

    Parameters
    ----------
    folder
        Keeps the checkpoints, the logs `frozen.csv` and `tuned.csv`, and TensorBoard's.
    validation
        Pictures and targets for early stopping.
    validate
        Called as ``validate(epoch, network)`` after each epoch.

    Raises
    ------
    ValueError
        The schedule stops early, but there is no validation.
    """
    schedule = batches.schedule
    if schedule.patience and validation is None:
        raise ValueError("early stopping needs pictures to validate on")
    folder.mkdir(parents=True, exist_ok=True)
    for phase, epochs in (("frozen", schedule.frozen_epochs), ("tuned", schedule.epochs)):
        done = folder / f"{phase}.weights.h5"
        if not epochs:
            continue
        if done.exists():
            network.load_weights(done)
            continue
        _set_trainable(network, phase, schedule.train_from)
        _compile(network, batches, phase, epochs)
        callbacks: list[Any] = [_Epochs(batches)]
        best = folder / "best.weights.h5"
        stops = phase == "tuned" and schedule.patience and validation is not None
        if stops:
            callbacks.append(_EarlyStopping(validation, schedule.patience, best))
        callbacks += [
            keras.callbacks.BackupAndRestore(folder / f"{phase}.backup", delete_checkpoint=False),
            keras.callbacks.CSVLogger(folder / f"{phase}.csv", append=True),
        ]
        if tensorboard and importlib.util.find_spec("tensorboard"):
            callbacks.append(keras.callbacks.TensorBoard(folder / "tensorboard" / phase, write_graph=False))
        if validate is not None:
            callbacks.append(keras.callbacks.LambdaCallback(on_epoch_end=lambda e, _: validate(e, network)))
        network.fit(batches, epochs=epochs, shuffle=False, verbose=verbose, callbacks=callbacks)
        if stops:
            network.load_weights(best)
        network.save_weights(done)
    return network


def curves(folder: Path) -> dict[str, list[float]]:
    """Return the loss of each epoch, over both phases, as the logs of a run keep it; empty without logs."""
    found: dict[str, list[float]] = {}
    for phase in ("frozen", "tuned"):
        log = folder / f"{phase}.csv"
        for row in csv.DictReader(log.read_text().splitlines()) if log.exists() else ():
            for column, word in (("loss", "training"), ("val_loss", "validation")):
                if row.get(column) not in {None, "", "NA"}:
                    found.setdefault(word, []).append(round(float(row[column]), 4))
    return found


def _compile(network: Any, batches: Batches, phase: str, epochs: int) -> None:
    """Set optimizer and losses for a phase."""
    schedule, steps = batches.schedule, len(batches)
    rate: Any = schedule.frozen_rate
    if phase == "tuned":
        rate = keras.optimizers.schedules.CosineDecay(
            schedule.rate / 10,
            epochs * steps - epochs * steps // 10,
            alpha=0.01,
            warmup_target=schedule.rate,
            warmup_steps=steps,
        )
    averaging: dict[str, Any] = {"clipnorm": 1.0, "use_ema": True, "ema_momentum": schedule.average}
    optimizer = {
        "adamw": lambda: keras.optimizers.AdamW(rate, schedule.decay, **averaging),
        "adam": lambda: keras.optimizers.Adam(rate, **averaging),
    }[schedule.optimizer]()
    if batches.regions is None:
        losses: Any = {
            architectures.LOGIT: fracture_loss(schedule.balance, batches.fractured_share),
            architectures.LOCAL: local_loss,
        }
        weights = {architectures.LOGIT: 1.0, architectures.LOCAL: schedule.local_weight}
    else:
        losses = {
            architectures.LOGIT: keras.losses.CategoricalCrossentropy(from_logits=True),
            architectures.FEATURES: None,
        }
        weights = None
    # for TensorFlow on a CPU XLA is ten times slower than oneDNN; JAX has nothing else
    compiled = keras.backend.backend() == "jax"
    network.compile(optimizer, losses, loss_weights=weights, jit_compile=compiled)


@dataclass(frozen=True)
class Validation:
    """Pictures to measure on, uint8 (n, s, s, 1), and float32 (n, 1) labels or (n, R) shares."""

    pictures: UInt8Array
    targets: Float32Array

    def logits(self, network: Any) -> npt.NDArray[np.float64]:
        """Return what a network says of the pictures, (n, 1) or (n, R)."""
        parts = [
            ops.convert_to_numpy(network(self.pictures[i : i + 32], training=False)[architectures.LOGIT])
            for i in range(0, len(self.pictures), 32)
        ]
        return np.concatenate(parts).astype(np.float64)

    def loss(self, network: Any) -> float:
        """Return the mean cross-entropy of a network's logits."""
        logits = self.logits(network)
        if logits.shape[1] == 1:
            return float((np.logaddexp(0, logits) - self.targets * logits).mean())
        return float((np.logaddexp.reduce(logits, axis=1) - (self.targets * logits).sum(axis=1)).mean())


class _EarlyStopping(keras.callbacks.Callback):  # type: ignore[misc]
    """Keeps the averaged weights of the best epoch and ends a run that no longer gets better.

    Keras' own would look at the weights of the moment, and forget what it had seen when a run is resumed.
    """

    def __init__(self, validation: Validation, patience: int, best: Path) -> None:
        super().__init__()
        self.validation, self.patience, self.best = validation, patience, best
        self.state = best.with_name("best.json")

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Measure the averaged weights; the logs get `val_loss`."""
        kept = json.loads(self.state.read_text()) if self.state.exists() else {"epoch": -1, "loss": None}
        raw = self.model.get_weights()
        self.model.optimizer.finalize_variable_values(self.model.trainable_weights)  # the average
        loss = self.validation.loss(self.model)
        if kept["loss"] is None or loss < kept["loss"]:
            kept = {"epoch": epoch, "loss": loss}
            self.model.save_weights(self.best)
            self.state.write_text(json.dumps(kept))
        self.model.set_weights(raw)
        if logs is not None:
            logs["val_loss"] = loss
        if epoch - kept["epoch"] >= self.patience:
            self.model.stop_training = True


class _Epochs(keras.callbacks.Callback):  # type: ignore[misc]
    """Tells batches and dropout which epoch it is, so that a resumed run goes on as an unbroken one."""

    def __init__(self, batches: Batches) -> None:
        super().__init__()
        self.batches = batches

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Set the epoch; checkpoints do not keep where dropout's random numbers were."""
        self.batches.epoch = epoch
        for number, layer in enumerate(self.model.layers):
            if (generator := getattr(layer, "seed_generator", None)) is not None:
                generator.state.assign([self.batches.seed * 1000 + epoch, number])


def _set_trainable(network: Any, phase: str, train_from: str) -> None:
    """Freeze the trunk in the first phase, and the layers before `train_from` in the second."""
    names = [layer.name for layer in network.layers]
    new = {"coarse", "fine", architectures.LOCAL, "whole", architectures.LOGIT}
    start = names.index(train_from) if train_from else 0
    for index, layer in enumerate(network.layers):
        layer.trainable = layer.name in new if phase == "frozen" else index >= start or layer.name in new

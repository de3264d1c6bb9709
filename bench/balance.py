"""What is done about fractures being rare: each way fitted alike, several seeds, measured on validation.

    python -m bench.balance ../shared/data/fracatlas --split training/splits/fracatlas.csv

Small networks and short runs: it compares, and tells nothing of what is reached in the end.
"""  # fmt: skip

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras

from bench.measure import Spread, machine, publish
from models import architectures
from pipeline import metrics
from training.benchmark import WEIGHTS, Budget, scored
from training.datasets import load_pixels, open_dataset, read_split
from training.experiment import shared_data
from training.fit import Balance, Batches, Pictures, fit

ARCHITECTURE = "mobilenet_v2"


def main(arguments: Sequence[str] | None = None) -> None:
    """Fit and print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.balance", description=__doc__)
    parser.add_argument("dataset", type=Path, help="folder of a data set, or a table of images")
    parser.add_argument("--split", type=Path, required=True, help="split file with train and val")
    parser.add_argument("--size", type=int, default=96, help="input side (default: 96)")
    parser.add_argument("--images-seen", type=int, default=4800, help="by each network (default: 4800)")
    parser.add_argument("--seeds", type=int, default=2, help="networks a way (default: 2)")
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"), help="default: runs/cache")
    args, before = parser.parse_args(arguments), machine()
    dataset = open_dataset(args.dataset)
    parts = read_split(args.split, dataset.examples)
    names = [e.name for e in dataset.examples]
    pixels = dict(zip(names, load_pixels(dataset.examples, args.cache), strict=True))
    pictures = Pictures(parts["train"], [pixels[e.name] for e in parts["train"]])
    schedule = Budget(args.size, args.images_seen, 3).schedule(pretrained=True)
    weights = shared_data() / "imagenet-weights" / WEIGHTS[ARCHITECTURE]
    rows: dict[str, dict[str, Any]] = {}
    for balance in Balance:
        aucs, precisions = [], []
        for seed in range(1, args.seeds + 1):
            keras.utils.set_random_seed(seed)
            network = architectures.fracture_network(ARCHITECTURE, args.size, weights)
            batches = Batches(pictures, None, args.size, replace(schedule, balance=balance), seed)
            with tempfile.TemporaryDirectory() as folder:
                fit(network, batches, Path(folder), verbose=0)
            p, y = scored(network, parts["val"], pixels, args.size)
            aucs.append(metrics.auc(p, y))
            precisions.append(metrics.average_precision(p, y))
        print(balance, aucs, precisions, flush=True)
        rows[str(balance)] = {"AUC on val": Spread.of(aucs), "average precision": Spread.of(precisions)}
    title = f"Class balance, {args.images_seen} pictures at {args.size} px, {args.seeds} network(s) a way"
    publish("balance", title, rows, before)


if __name__ == "__main__":
    main()

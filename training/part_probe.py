"""A new head for a region network: the parts and anything else, told from the features that it has.

    python -m training.part_probe models/bundles/OLD --runs runs

The trunk stays as it is, so this takes minutes where a network takes hours. Features come from random views
(`training.travel`) of films, pictures to refuse and phantoms; the head is a softmax, fitted with a penalty
that validation chooses.
"""  # fmt: skip

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

from models.bundle import load_bundle
from models.scorer import Scorer, open_scorer
from pipeline.preprocess import model_input
from pipeline.types import Float32Array
from training.datasets.parts import PARTS
from training.experiment import ROOT, shared_data
from training.reading_data import OTHER, Draws, Films, Shares, read_films

PENALTIES = (1e-4, 1e-3, 1e-2)
#: More pictures to refuse than a network sees: here nothing else is learned.
SHARES = Shares(negatives=0.24, phantoms=0.05, made_up=0.05)


def features_of(scorer: Scorer, films: Films) -> Float32Array:
    """Return the region network's features of pictures as they are, float32 (n, d)."""
    size, found = scorer.bundle.region_input_size, []
    for start in range(0, len(films.films), 32):
        some = films.pixels[start : start + 32]
        found.append(scorer.features(np.stack([model_input(p, size) for p in some])))
    return np.concatenate(found)


def drawn_features(scorer: Scorer, draws: Draws, count: int) -> tuple[Float32Array, Float32Array]:
    """Return features of `count` random views and their shares of the main subject, float32 (n, 13)."""
    size, found, main = scorer.bundle.region_input_size, [], []
    for number in range(count // 32):
        batch = draws.batch(number, 32, size, 1)
        found.append(scorer.features(batch.image[..., 0]))
        main.append(batch.main)
    known = np.concatenate(main).sum(axis=1) > 0
    return np.concatenate(found)[known], np.concatenate(main)[known]


def fit_head(
    features: Float32Array, main: Float32Array, penalty: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Fit a softmax by maximum likelihood with an L2 penalty; return kernel (d, 13) and bias (13,)."""
    mean, scale = features.mean(axis=0), features.std(axis=0) + 1e-3
    inputs = np.column_stack([(features - mean) / scale, np.ones(len(features))]).astype(np.float64)
    width = main.shape[1]

    def loss(flat: Any) -> tuple[float, Any]:
        weights = flat.reshape(-1, width)
        logits = inputs @ weights
        logits -= logits.max(axis=1, keepdims=True)
        exponents = np.exp(logits)
        p = exponents / exponents.sum(axis=1, keepdims=True)
        value = -(main * np.log(np.maximum(p, 1e-12))).sum() / len(inputs)
        slope = inputs.T @ (p - main) / len(inputs)
        value += penalty / 2 * (weights[:-1] ** 2).sum()
        slope[:-1] += penalty * weights[:-1]
        return float(value), slope.ravel()

    start = np.zeros(inputs.shape[1] * width)
    weights = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 120}).x.reshape(
        -1, width
    )
    kernel = weights[:-1] / scale[:, None]
    return kernel, weights[-1] - mean @ kernel


def told(features: Float32Array, kernel: Any, bias: Any) -> npt.NDArray[np.float64]:
    """Return the probabilities of a head, (n, 13)."""
    logits = features @ kernel + bias
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(exponents / exponents.sum(axis=1, keepdims=True))


def loss_of(features: Float32Array, main: Float32Array, kernel: Any, bias: Any) -> float:
    """Return the mean cross-entropy."""
    return float(-(main * np.log(np.maximum(told(features, kernel, bias), 1e-12))).sum(axis=1).mean())


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command: draw, fit, and keep the head as `parts.npz` below the runs."""
    parser = argparse.ArgumentParser(prog="python -m training.part_probe", description=__doc__)
    parser.add_argument("bundle", type=Path, help="whose region network's features are used")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--data", type=Path, help="default: ../shared/data")
    parser.add_argument("--draws", type=int, default=9600)
    args = parser.parse_args(arguments)
    scorer = open_scorer(load_bundle(args.bundle), threads=1, cache=args.runs / "openvino")
    data, split = args.data or shared_data(), ROOT / "training" / "splits" / "fracatlas.csv"
    films = read_films(data, split, args.runs / "cache", 30, 1000)
    draws = Draws(films["train"], SHARES, seed=7)
    features, truth = drawn_features(scorer, draws, args.draws)
    validation = features_of(scorer, films["val"])
    shares = np.array([f.main for f in films["val"].films])
    known = shares.sum(axis=1) > 0
    fitted = {}
    for penalty in PENALTIES:
        kernel, bias = fit_head(features, truth, penalty)
        fitted[loss_of(validation[known], shares[known], kernel, bias)] = (penalty, kernel, bias)
        print(f"penalty {penalty}: validation loss {list(fitted)[-1]:.4f}", flush=True)
    loss = min(fitted)
    penalty, kernel, bias = fitted[loss]
    top = told(validation, kernel, bias).argmax(axis=1)
    agreed = np.array([PARTS.index(f.agreed) if f.agreed else -1 for f in films["val"].films])
    negative = np.array([f.source == "negative" for f in films["val"].films])
    print(
        f"penalty {penalty}, loss {loss:.4f}; validation: part right "
        f"{(top[agreed >= 0] == agreed[agreed >= 0]).mean():.3f}, limbs called other "
        f"{(top[~negative] == OTHER).mean():.3f}, others called other {(top[negative] == OTHER).mean():.3f}"
    )
    np.savez(args.runs / "parts.npz", kernel=kernel.astype(np.float32), bias=bias.astype(np.float32))


if __name__ == "__main__":
    main()

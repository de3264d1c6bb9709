"""How much of a kind of picture is refused that the answer *other* was not taught with.

    python -m training.left_out models/bundles/fracatlas-1 --runs runs

A new head is fitted to the features of a bundle's region network (`training.part_probe`), each time without
one kind of `negatives`, and asked about all pictures of that kind. It says something only of a trunk that has
not seen them either: that of `fracatlas-1`, older than any of them. `training.folds` fits trunks anew.
"""  # fmt: skip

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from models.bundle import load_bundle
from models.scorer import Scorer, open_scorer
from pipeline.earned import wilson
from pipeline.types import Float32Array, UInt8Array
from training.calibrate import refused_from
from training.datasets import negatives
from training.datasets.negatives import KINDS, made_up, mosaic
from training.experiment import ROOT, shared_data
from training.part_probe import features_of, fit_head, told
from training.reading_data import OTHER, Film, Films, read_films
from training.travel import travelled

#: Random views of a picture to refuse, for one of a film; and how many drawn pictures and mosaics.
_VIEWS, _DRAWN = 3, 200
_PENALTY = 1e-3
_SEED = 5


@dataclass(frozen=True)
class Seen:
    """Features of pictures (n, d), what they show (n, 13), and their kind; empty for limbs."""

    features: Float32Array
    main: Float32Array
    kinds: npt.NDArray[np.str_]

    def of(self, chosen: npt.NDArray[np.bool_]) -> Seen:
        """Return some of them."""
        return Seen(self.features[chosen], self.main[chosen], self.kinds[chosen])


@dataclass(frozen=True)
class LeftOut:
    """What came of leaving one kind out: refused and all, of that kind, of the others, and of limbs."""

    kind: str
    refused: tuple[int, int]
    others: tuple[int, int]
    limbs: tuple[int, int]


def kind_of(film: Film) -> str:
    """Return the kind of a picture that must be refused; empty for a limb."""
    return negatives.kind_of(film.example) if film.source == "negative" else ""


def training_views(films: Films, size: int, seed: int) -> tuple[list[UInt8Array], list[Film], list[str]]:
    """Draw what a head learns from: views of films and of pictures to refuse, mosaics and drawn pictures."""
    pictures, shown, kinds = [], [], []
    for number, (film, pixels) in enumerate(zip(films.films, films.pixels, strict=True)):
        for again in range(_VIEWS if film.source == "negative" else 1):
            rng = np.random.default_rng([seed, number, again])
            pictures.append(travelled(pixels, (), size, 1, rng)[0])
            shown.append(film)
            kinds.append(kind_of(film))
    limbs = [p for f, p in zip(films.films, films.pixels, strict=True) if f.source == "film"]
    foreign = next(f for f in films.films if f.source == "negative")
    for number in range(_DRAWN):
        rng = np.random.default_rng([seed + 1, number])
        pictures += [made_up(rng), mosaic(limbs, rng)]
        shown += [foreign] * 2
        kinds += ["drawn"] * 2
    return pictures, shown, kinds


def leave_out(kind: str, parts: Mapping[str, Seen]) -> LeftOut:
    """Fit a head without one kind, choose from where on it refuses, and ask about that kind and all else."""
    train, val, test = parts["train"], parts["val"], parts["test"]
    known = train.main.sum(axis=1) > 0
    taught = train.of(known & (train.kinds != kind))
    kernel, bias = fit_head(taught.features, taught.main, _PENALTY)
    limbs = told(val.of(val.kinds == "").features, kernel, bias)[:, OTHER]
    cut = refused_from(limbs)

    def refused(*of: Seen) -> tuple[int, int]:
        said = np.concatenate([told(some.features, kernel, bias)[:, OTHER] for some in of])
        return int((said >= cut).sum()), len(said)

    return LeftOut(
        kind,
        refused(*(part.of(part.kinds == kind) for part in (val, test, parts["rest"]))),
        refused(test.of((test.kinds != "") & (test.kinds != kind))),
        refused(test.of(test.kinds == "")),
    )


def table(rows: Sequence[LeftOut]) -> str:
    """Return the outcome as Markdown, with 95% intervals (Wilson)."""

    def share(of: tuple[int, int]) -> str:
        low, high = wilson(*of)
        return f"{of[0] / of[1]:.3f} ({low:.3f}-{high:.3f}) of {of[1]}"

    lines = ["| left out | of it refused | others refused | limbs refused |", "|---|---|---|---|"]
    lines += [
        f"| {row.kind} | {share(row.refused)} | {share(row.others)} | {share(row.limbs)} |" for row in rows
    ]
    return "\n".join(lines)


def _seen(scorer: Scorer, films: Films) -> Seen:
    return Seen(
        features_of(scorer, films),
        np.array([f.main for f in films.films]),
        np.array([kind_of(f) for f in films.films]),
    )


def cache_key(bundle: str, films: Mapping[str, Films]) -> str:
    """Return what kept features go by: the bundle's hash, and which pictures are looked at and how."""
    looked = [
        (part, film.example.name, film.example.sha256, film.main.tolist(), kind_of(film))
        for part, some in sorted(films.items())
        for film in some.films
    ]
    said = json.dumps([bundle, _SEED, _VIEWS, _DRAWN, looked])
    return hashlib.sha256(said.encode()).hexdigest()[:16]


def seen_parts(scorer: Scorer, films: Mapping[str, Films], folder: Path) -> dict[str, Seen]:
    """Return the features of all parts, or those of an earlier run; in half precision on the disk."""
    kept = folder / f"{cache_key(scorer.bundle.sha256, films)}.npz"
    if not kept.exists():
        pictures, shown, kinds = training_views(films["train"], scorer.bundle.region_input_size, _SEED)
        drawn = Films(shown, pictures)
        parts = {"train": _seen(scorer, drawn), **{n: _seen(scorer, films[n]) for n in ("val", "test")}}
        # of a kind that is left out all pictures are unseen, those of the train part, too
        rest = [
            pair for pair in zip(films["train"].films, films["train"].pixels, strict=True) if kind_of(pair[0])
        ]
        parts["rest"] = _seen(scorer, Films([f for f, _ in rest], [p for _, p in rest]))
        arrays: dict[str, Any] = {}
        for name, part in parts.items():
            arrays |= {f"{name}_features": part.features.astype(np.float16), f"{name}_main": part.main}
            arrays[f"{name}_kinds"] = np.array(kinds) if name == "train" else part.kinds
        kept.parent.mkdir(parents=True, exist_ok=True)
        np.savez(kept, **arrays)
    with np.load(kept, allow_pickle=False) as file:
        return {
            name: Seen(
                file[f"{name}_features"].astype(np.float32), file[f"{name}_main"], file[f"{name}_kinds"]
            )
            for name in ("train", "val", "test", "rest")
        }


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m training.left_out", description=__doc__)
    parser.add_argument("bundle", type=Path, help="whose region network's features are used")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--data", type=Path, help="default: ../shared/data")
    parser.add_argument("--backend", default="auto", choices=("auto", "tensorflow", "openvino"))
    args = parser.parse_args(arguments)
    scorer = open_scorer(load_bundle(args.bundle), backend=args.backend, threads=1)
    split = ROOT / "training" / "splits" / "fracatlas.csv"
    films = read_films(args.data or shared_data(), split, args.runs / "cache", 0, 0)
    parts = seen_parts(scorer, films, args.runs / "left-out")
    print(table([leave_out(kind, parts) for kind in KINDS]))


if __name__ == "__main__":
    main()

"""How figures spread over folds of all films, and how networks take a kind of picture that they never saw.

    python -m training.folds training/configs/folds.py

Reads what `training.reading --fold` has fitted. Of each fold a third of the films is held out, and all
pictures of one kind; calibration, thresholds and what is refused stand on a validation part of the rest.
Every film is held out once: the last table has them all, each judged by the network that had not seen it.
"""  # fmt: skip

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from training.experiment import load_config, shared_data
from training.left_out import LeftOut, kind_of, table
from training.reading_bundle import (
    Judged,
    Read,
    drafted,
    figures_by_part,
    film_figures,
    judged,
    parts_figures,
    read_halves,
    reading_networks,
    rerouted,
    routing_rules,
)
from training.reading_card import figures_table, shown
from training.reading_data import read_films
from training.reading_plan import ReadingPlan, weights_file

_FRACTURES = {
    "auc": "AUC",
    "auc_within": "within parts",
    "ece": "ECE",
    "sensitivity_at_low": "sensitivity at low",
    "specificity_at_low": "specificity at low",
}
_PARTS = {"part_right": "part", "family_right": "family", "limbs_refused": "limbs refused"}


@dataclass(frozen=True)
class Fold:
    """What was measured on one fold: its films as they were judged, its figures, and what was refused."""

    number: int
    rows: Sequence[Judged]
    fractures: Mapping[str, Any]
    parts: Mapping[str, float]
    left_out: LeftOut


def refused(reads: Sequence[Read]) -> tuple[int, int]:
    """Return how many of some pictures were refused, and how many they are."""
    return sum(r.route.not_assessable is not None for r in reads), len(reads)


def measured(plan: ReadingPlan, epoch: int, data: Path, runs: Path) -> Fold:
    """Read the held-out pictures of a fold with the network that was fitted without them."""
    if plan.fold is None:
        raise ValueError(f"{plan.name} is no fold")
    size = plan.stages[-1].size
    films = read_films(data, plan.split, runs / "cache", 0, 0, plan.fold)
    networks = reading_networks(plan, size, runs / plan.name / weights_file(epoch))
    content = drafted(plan.name, networks, None, films)
    _, (validation, held_out) = read_halves(content, films, runs)
    held_out = rerouted(held_out, routing_rules(validation))
    rows = judged(held_out, validation, content.models)
    kinds = [kind_of(r.film) for r in held_out]
    unseen, others, limbs = (
        [r for r, kind in zip(held_out, kinds, strict=True) if chosen(kind)]
        for chosen in (
            lambda kind: kind == plan.fold.without,
            lambda kind: kind not in {"", plan.fold.without},
            lambda kind: not kind,
        )
    )
    return Fold(
        plan.fold.number,
        rows,
        film_figures(rows),
        parts_figures(held_out),
        LeftOut(plan.fold.without, refused(unseen), refused(others), refused(limbs)),
    )


def figures(folds: Sequence[Fold]) -> str:
    """Return the figures of folds as Markdown, with their mean and standard deviation."""
    lines = [
        "| fold | films | fractured | " + " | ".join([*_FRACTURES.values(), *_PARTS.values()]) + " |",
        "|---" * (3 + len(_FRACTURES) + len(_PARTS)) + "|",
    ]
    columns: list[list[float]] = []
    for fold in folds:
        values = [fold.fractures[name]["value"] for name in _FRACTURES] + [fold.parts[n] for n in _PARTS]
        columns.append(values)
        cells = [shown(fold.fractures[name]) for name in _FRACTURES]
        cells += [f"{fold.parts[name]:.3f}" for name in _PARTS]
        films, fractured = fold.fractures["images"], fold.fractures["fractured"]
        lines.append(f"| {fold.number} | {films} | {fractured} | {' | '.join(cells)} |")
    if len(folds) > 1:
        mean, spread = np.mean(columns, axis=0), np.std(columns, axis=0, ddof=1)
        cells = [f"{m:.3f} ± {s:.3f}" for m, s in zip(mean, spread, strict=True)]
        lines.append(f"| mean ± SD | | | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m training.folds", description=__doc__)
    parser.add_argument("config", type=Path, help="a file of training/configs that has folds")
    parser.add_argument("--epoch", type=int, help="whose weights are measured (default: the last)")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--data", type=Path, help="default: ../shared/data")
    args = parser.parse_args(arguments)
    plan = load_config(args.config, ReadingPlan)
    plans = [plan.of_fold(number) for number in range(1, len(plan.folds) + 1)]
    epoch = args.epoch or plan.epochs
    ended = [p for p in plans if (args.runs / p.name / weights_file(epoch)).exists()]
    if not ended:
        parser.error(f"no fold of {plan.name} has been fitted to the end of epoch {epoch}")
    folds = [measured(p, epoch, args.data or shared_data(), args.runs) for p in ended]
    print(f"{len(folds)} of {len(plans)} folds, epoch {epoch} of {plan.epochs}:\n\n{figures(folds)}\n")
    print("Refused, of a kind that a fold's network was never shown, of others, and of limbs:\n")
    print(table([fold.left_out for fold in folds]))
    print("\nAll held-out films:\n")
    print("\n".join(figures_table(figures_by_part([row for fold in folds for row in fold.rows]))))


if __name__ == "__main__":
    main()

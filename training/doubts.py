"""How many films are answered *doubt* as thresholds lie apart by part, more or less.

    python -m training.doubts models/bundles/NAME

A share `--centre` of `training.reading_bundle`. Validation and test are read once; each film is then judged
by calibration and thresholds that were fitted without its tenth of them. The last row chooses the share anew
within each tenth, too: it is what a choice may be expected to give. *Silent* are parts that may not say
*negative*.
"""  # fmt: skip

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from models.bundle import load_bundle
from pipeline.metrics import bootstrap
from pipeline.types import RegionModel
from training.datasets.parts import FAMILY
from training.experiment import ROOT, shared_data
from training.export import taken_over
from training.reading_bundle import (
    ALONE,
    Judged,
    Read,
    cross_fitted,
    doubtful,
    judged,
    read_halves,
    tenths,
    with_evidence,
)
from training.reading_data import read_films

CENTRES = (0.0, 0.25, 0.5, 0.75, 1.0)
Models = Mapping[str, RegionModel]
_HEADER = """\
| `--centre` | in doubt | of normal films negative | fractures missed | lower bound, arm and leg | silent |
|---|---|---|---|---|---|"""


def _doubts(rows: Sequence[Judged], models: Models) -> list[bool]:
    allowed = with_evidence(models, rows)
    return [doubtful(row, allowed) for row in rows]


def _worth(rows: Sequence[Judged], models: Models) -> tuple[int, float]:
    """Rank rows: by how many parts may say *negative*, then by how few films are in doubt."""
    allowed = with_evidence(models, rows)
    return sum(m.may_say_negative for m in allowed.values()), -float(np.mean(_doubts(rows, models)))


def best_centre(reads: Sequence[Read], models: Models) -> float:
    """Return the share that leaves the fewest films in doubt without silencing a part."""
    return max(CENTRES, key=lambda centre: _worth(cross_fitted(reads, models, centre), models))


def chosen_within(reads: Sequence[Read], models: Models) -> tuple[list[Judged], list[float]]:
    """Return every film judged by what was fitted, and by a share that was chosen, without its tenth.

    Beside them the share of each tenth.
    """
    rows: list[Judged] = []
    shares: list[float] = []
    for mine, others in tenths(reads):
        shares.append(best_centre(others, models))
        rows.extend(judged(mine, others, models, shares[-1]))
    return rows, shares


def line(name: str, rows: Sequence[Judged], models: Models) -> str:
    """Return a row of the table."""
    allowed = with_evidence(models, rows)
    normal = [row for row in rows if not row[0].film.example.positive]
    negative = [p < cuts.low and allowed[part].may_say_negative for _, part, p, cuts in normal]
    broken = [row for row in rows if row[0].film.example.positive]
    missed = sum(p < cuts.low for _, _, p, cuts in broken)
    bounds = []
    for family in ("arm", "leg"):
        evidence = next(m.evidence for p, m in allowed.items() if FAMILY[p] == family and p not in ALONE)
        bounds.append(f"{evidence.family_lower or 0:.3f}" if evidence else "none")
    silent = sum(not m.may_say_negative for m in allowed.values())
    doubts = np.mean(_doubts(rows, models))
    return (
        f"| {name} | {doubts:.3f} | {np.mean(negative):.3f} | {missed} of {len(broken)} | "
        f"{', '.join(bounds)} | {silent} |"
    )


def gain(first: Sequence[Judged], second: Sequence[Judged], models: Models) -> tuple[float, float, float]:
    """Return which share fewer of films the second leaves in doubt, and its 95% interval."""
    kept = {id(row[0]): doubt for row, doubt in zip(second, _doubts(second, models), strict=True)}
    fewer = np.array(
        [float(doubt) - kept[id(row[0])] for row, doubt in zip(first, _doubts(first, models), strict=True)]
    )
    groups = [row[0].film.example.group for row in first]
    low, high = bootstrap(lambda k: {"fewer": float(fewer[k].mean())}, groups)["fewer"]
    return float(fewer.mean()), low, high


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m training.doubts", description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--data", type=Path, help="default: ../shared/data")
    args = parser.parse_args(arguments)
    split = ROOT / "training" / "splits" / "fracatlas.csv"
    films = read_films(args.data or shared_data(), split, args.runs / "cache", 0, 0)
    content = taken_over(load_bundle(args.bundle), "doubts")
    _, (validation, test) = read_halves(content, films, args.runs)
    reads, models = [*validation, *test], content.models
    print(_HEADER)
    found = {centre: cross_fitted(reads, models, centre) for centre in CENTRES}
    for centre, rows in found.items():
        print(line(f"{centre:g}", rows, models))
    within, shares = chosen_within(reads, models)
    print(line("chosen anew within each tenth", within, models))
    print("\nchosen:", *(f"{share:g}" for share in shares))
    for name, rows in (("0.75", found[0.75]), ("chosen anew", within)):
        value, low, high = gain(found[0.0], rows, models)
        print(f"\n{name}: {value:.3f} ({low:.3f} to {high:.3f}) fewer than with 0")


if __name__ == "__main__":
    main()

"""Splits: which examples train, which calibrate, which measure; whole groups, kept as files."""

from __future__ import annotations

import csv
import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from training.datasets.example import DatasetError, Example


def split_by_group(examples: Sequence[Example], shares: Mapping[str, float], seed: int) -> dict[str, str]:
    """Assign whole groups to splits, in like proportions for every region and label.

    Returns
    -------
    dict
        Example name to split name.
    """
    strata: dict[tuple[str, bool], list[str]] = defaultdict(list)
    groups: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        groups[example.group].append(example)
    for group in sorted(groups):
        members = groups[group]
        strata["+".join(members[0].regions), any(e.positive for e in members)].append(group)
    assigned = {}
    for stratum in sorted(strata):
        members_of = strata[stratum]
        random.Random(f"{seed}/{stratum}").shuffle(members_of)  # noqa: S311  # not a secret
        ends = np.cumsum(list(shares.values())) / sum(shares.values()) * len(members_of)
        for index, group in enumerate(members_of):
            split = list(shares)[int(np.searchsorted(ends, index + 0.5))]
            assigned.update({example.name: split for example in groups[group]})
    return assigned


def write_split(path: Path, split: Mapping[str, str]) -> None:
    """Write a split as CSV: name, split."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["name", "split"])
        writer.writerows(sorted(split.items()))


def read_split(path: Path, examples: Iterable[Example]) -> dict[str, tuple[Example, ...]]:
    """Read a split file and sort examples by it.

    Raises
    ------
    DatasetError
        An example is not in the file, or a group stands on two sides.
    """
    with path.open(newline="") as file:
        split_of = {row["name"]: row["split"] for row in csv.DictReader(file)}
    sides: dict[str, str] = {}
    parts: dict[str, list[Example]] = {name: [] for name in sorted(set(split_of.values()))}
    for example in examples:
        if example.name not in split_of:
            raise DatasetError(f"{example.name} is not in the split file {path}")
        side = split_of[example.name]
        if sides.setdefault(example.group, side) != side:
            raise DatasetError(f"group {example.group} stands in {sides[example.group]} and in {side}")
        parts[side].append(example)
    return {name: tuple(part) for name, part in parts.items()}

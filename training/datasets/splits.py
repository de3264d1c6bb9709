"""Splits: which examples train, which calibrate, which measure; whole groups, kept as files."""

from __future__ import annotations

import csv
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from training.datasets.example import DatasetError, Example
from training.datasets.near_duplicates import NEAR, joined
from training.datasets.scan import Scan

#: What the parts of a published split are here; where none is ``test``, ``valid`` is everyone's test set.
_SIDES = {"train": "train", "valid": "val", "val": "val", "test": "test"}
_COLUMNS = ("name", "split", "group", "why")


@dataclass(frozen=True)
class SplitPlan:
    """How a split is made.

    Attributes
    ----------
    shares
        Of groups, by part. Where the data set has a published split, only ``train`` and ``val`` of them, and
        only of its train part.
    published
        Keep the publisher's split where there is one.
    leave_out_crossing
        Leave out of train what shares a patient or looks like an image of the published test part; else a
        shared patient is an error, and look-alikes stay.
    """

    shares: Mapping[str, float] = field(default_factory=lambda: {"train": 0.7, "val": 0.15, "test": 0.15})
    seed: int = 1
    published: bool = True
    leave_out_crossing: bool = False


@dataclass(frozen=True)
class Split:
    """Examples by part; what is left out, and why; and sentences on how it was made."""

    sides: Mapping[str, str]
    groups: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    header: tuple[str, ...] = ()


def make_split(scan: Scan, plan: SplitPlan) -> Split:
    """Split a scanned data set by group: images of one patient or group of the data set, and look-alikes.

    Files that the service would refuse and duplicates with two labels are left out.

    Raises
    ------
    DatasetError
        A patient stands on two sides of the published split, or a part lacks one of the labels.
    """
    left_out = {name: problem for name, problem in scan.broken.items()}
    left_out |= {name: "duplicate with the other label" for names in scan.conflicts for name in names}
    usable = [e for e in scan.dataset.examples if e.name not in left_out]
    fixed = _published_sides(usable) if plan.published else {}
    groups = _groups(usable, scan.near)
    crossing = {group for group, sides in _sides_of(groups, fixed).items() if {"train"} < sides}
    kept_crossing = 0
    if crossing and plan.leave_out_crossing:
        out = [e for e in usable if groups[e.name] in crossing and fixed[e.name] == "train"]
        left_out |= {e.name: "patient or near-duplicate also in the published test part" for e in out}
        usable = [e for e in usable if e.name not in left_out]
    elif crossing:
        if scan.crossing_patients:
            raise DatasetError(
                f"patient {scan.crossing_patients[0]} and {len(scan.crossing_patients) - 1} others stand on "
                "both sides of the published split; leave them out of train with --leave-out-crossing"
            )
        kept_crossing = len(crossing)
        groups |= {n: f"{g}/{fixed[n]}" for n, g in groups.items() if g in crossing}
    grouped = [replace(e, group=groups[e.name]) for e in usable]
    if fixed:
        sides = {e.name: fixed[e.name] for e in usable}
        if "val" not in sides.values():
            shares = {part: plan.shares[part] for part in ("train", "val")}
            sides |= split_by_group([e for e in grouped if sides[e.name] == "train"], shares, plan.seed)
    else:
        sides = split_by_group(grouped, plan.shares, plan.seed)
    wanted = {part for part, share in plan.shares.items() if share > 0}
    _require_both_labels(grouped, sides, wanted | set(sides.values()))
    shares = " ".join(f"{part} {share:g}" for part, share in plan.shares.items())
    header = [
        f"{scan.dataset.name}, {len(scan.dataset.examples)} images; positive: {scan.dataset.label_meaning}",
        f"seed {plan.seed}; shares of groups: {shares}; by region and label"
        + ("; the published test part is kept, train is divided" if fixed else ""),
        f"a group: images of one patient, and look-alikes (difference hash, 256 bits, at most {NEAR} differ)",
    ]
    if left_out:
        why = ", ".join(f"{count} {reason}" for reason, count in sorted(Counter(left_out.values()).items()))
        header.append(f"left out: {why}")
    if kept_crossing:
        header.append(f"{kept_crossing} groups of look-alikes stand on both sides of the published split")
    return Split(sides, {name: groups[name] for name in sides}, left_out, tuple(header))


def _published_sides(examples: Sequence[Example]) -> dict[str, str]:
    parts = {e.part for e in examples}
    if not {"train"} < parts or "" in parts:
        return {}
    if unknown := parts - _SIDES.keys():
        raise DatasetError(
            f"the data set's own split has a part {sorted(unknown)[0]!r}, none of {', '.join(_SIDES)}"
        )
    as_test = "test" not in parts
    return {e.name: "test" if as_test and e.part != "train" else _SIDES[e.part] for e in examples}


def _groups(examples: Sequence[Example], near: Iterable[Sequence[str]]) -> dict[str, str]:
    names = {e.name for e in examples}
    links: dict[tuple[str, str], list[str]] = defaultdict(list)
    for e in examples:
        for kind, value in (("patient", e.patient), ("group", e.group)):
            if value:
                links[kind, value].append(e.name)
    looks = ([name for name in group if name in names] for group in near)
    return joined(names, [*links.values(), *(group for group in looks if group)])


def _sides_of(groups: Mapping[str, str], sides: Mapping[str, str]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for name, group in groups.items():
        if name in sides:
            found[group].add(sides[name])
    return found


def _require_both_labels(examples: Sequence[Example], sides: Mapping[str, str], parts: Iterable[str]) -> None:
    labels = {(sides[e.name], e.positive) for e in examples}
    for part in sorted(parts):
        for positive in (True, False):
            if (part, positive) not in labels:
                word = "positive" if positive else "negative"
                raise DatasetError(f"the part {part} has no {word} image; give it more, or another seed")


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


def write_split(path: Path, split: Split, command: str = "") -> None:
    """Write a split as CSV, after lines that say how it was made."""
    rows = [(name, side, split.groups.get(name, ""), "") for name, side in split.sides.items()]
    rows += [(name, "", "", why) for name, why in split.left_out.items()]
    made_by = [f"made by: {command}"] if command else []
    with path.open("w", newline="") as file:
        file.writelines(f"# {line}\n" for line in (*made_by, *split.header))
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_COLUMNS)
        writer.writerows(sorted(rows))


def read_split(path: Path, examples: Iterable[Example]) -> dict[str, tuple[Example, ...]]:
    """Read a split file and sort examples by it; they take on its groups.

    Raises
    ------
    DatasetError
        An example is not in the file, or one patient or group stands on two sides.
    """
    if not path.is_file():
        raise DatasetError(f"{path} is missing; make it with `fractureai datasets split`")
    rows = {row["name"]: row for row in _rows(path)}
    names = {row["split"] for row in rows.values()} - {""}
    parts: dict[str, list[Example]] = {name: [] for name in sorted(names)}
    sides: dict[tuple[str, str], str] = {}
    for example in examples:
        row = rows.get(example.name)
        if row is None:
            raise DatasetError(f"{example.name} is not in the split file {path}")
        side = row["split"]
        if not side:
            continue
        group = row.get("group") or example.group
        if not group:
            raise DatasetError(f"nothing tells the group of {example.name}, neither data set nor {path}")
        for kind, value in (("group", group), ("group", example.group), ("patient", example.patient)):
            if value and sides.setdefault((kind, value), side) != side:
                raise DatasetError(f"{kind} {value} stands in {sides[kind, value]} and in {side}")
        parts[side].append(replace(example, group=group))
    return {name: tuple(part) for name, part in parts.items()}


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with path.open(newline="") as file:
        yield from csv.DictReader(line for line in file if not line.startswith("#"))

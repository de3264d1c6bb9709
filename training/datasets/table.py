"""A table of pictures: CSV with `path,label`, and where known `region,patient,study,group,split,view`."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

from training.datasets import words
from training.datasets.example import Dataset, DatasetError, Example
from training.datasets.folder import chosen_meaning

_TRUTH = ("path", "label")


def read_table(path: Path, label_meaning: str = "") -> Dataset:
    """Read a CSV file with a header; paths are relative to its folder, several regions are joined by ``+``.

    Parameters
    ----------
    label_meaning
        What a positive means; empty takes the labels' word for it.

    Raises
    ------
    DatasetError
        The file is missing, lacks a column, a label or a path is wrong, or nothing can be used.
    """
    if not path.is_file():
        raise DatasetError(f"{path} is missing")
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    if lacking := set(_TRUTH) - set(reader.fieldnames or ()):
        raise DatasetError(f"{path.name} lacks the columns {', '.join(sorted(lacking))}")
    root = path.parent.resolve()
    found: dict[str, Example] = {}
    clashing: set[str] = set()
    skipped, meanings = Counter[str](), set()
    for number, row in enumerate(rows, 2):
        positive = words.label(row["label"] or "")
        if positive is None:
            raise DatasetError(f"{path.name}, line {number}: {row['label']!r} is no label")
        name = (row["path"] or "").strip().replace("\\", "/")
        file_path = (root / name).resolve()
        if not file_path.is_relative_to(root):
            raise DatasetError(f"{path.name}, line {number}: {name} lies outside {root}")
        meanings |= {said} if (said := words.meaning(row["label"])) else set()
        if name in found:
            skipped["listed twice"] += 1
            if found[name].positive != positive:
                clashing.add(name)
        elif not file_path.is_file():
            skipped["listed, file missing"] += 1
        else:
            patient = (row.get("patient") or "").strip()
            regions = tuple(words.region(r) for r in (row.get("region") or "").split("+") if r.strip())
            found[name] = Example(
                name,
                file_path,
                regions,
                positive,
                (row.get("group") or "").strip() or patient,
                "",
                traits={"views": row["view"]} if row.get("view") else {},
                patient=patient,
                study=(row.get("study") or "").strip(),
                part=(row.get("split") or "").strip(),
            )
    if clashing:
        skipped["listed with both labels"] = len(clashing)
    examples = tuple(example for name, example in found.items() if name not in clashing)
    if not examples:
        raise DatasetError(f"{path} names no usable image: {dict(skipped)}")
    return Dataset(path.stem, examples, dict(skipped), chosen_meaning(label_meaning, meanings))

"""Reads the requester's manifest, a CSV: of each path its accession, study, view, side and priority."""

from __future__ import annotations

import csv
import io
from typing import IO

from store.base.tables import Priority
from store.intake.batches import ManifestRow
from web.base.errors import ManifestInvalid
from web.intake.archives import printable

COLUMNS = ("path", "accession", "study", "view", "laterality", "priority")
MAX_BYTES = 64 << 20
MAX_ERRORS = 20
MAX_VALUE = 128

_SIDES = {"": "", "l": "L", "left": "L", "r": "R", "right": "R", "b": "B", "both": "B"}


def _row(values: dict[str, str]) -> ManifestRow:
    """Return one checked row. Raises `ValueError` with a sentence."""
    path = values["path"].replace("\\", "/").removeprefix("./")
    if not path:
        raise ValueError("the path is empty")
    path = printable(path)  # as the name of a file that is sent
    for column in ("accession", "study", "view"):
        if len(values[column]) > MAX_VALUE:
            raise ValueError(f"{column} is longer than {MAX_VALUE} characters")
    if any(ord(c) < 32 for value in values.values() for c in value):
        raise ValueError("a value holds control characters")
    if values["laterality"].lower() not in _SIDES:
        raise ValueError("laterality must be L, R, B or empty")
    priority = values["priority"].lower()
    if priority and priority not in set(Priority):
        raise ValueError("priority must be urgent, normal, low or empty")
    return ManifestRow(
        path=path,
        accession=values["accession"],
        study=values["study"],
        view=values["view"],
        laterality=_SIDES[values["laterality"].lower()],
        priority=Priority(priority) if priority else None,
    )


def _header(line: list[str]) -> list[str]:
    names = [name.strip().lower() for name in line]
    unknown = [name for name in names if name not in COLUMNS]
    if "path" not in names:
        raise ManifestInvalid([(1, f"there is no column 'path'; the columns are {', '.join(COLUMNS)}")])
    if unknown or len(set(names)) < len(names):
        what = f"unknown column {unknown[0][:40]!r}" if unknown else "a column stands there twice"
        raise ManifestInvalid([(1, f"{what}; the columns are {', '.join(COLUMNS)}")])
    return names


def read_manifest(file: IO[bytes]) -> list[ManifestRow]:
    """Read a manifest in UTF-8, separated by commas or semicolons; the first line names the columns.

    Raises
    ------
    ManifestInvalid
        With the number of every bad line, the first twenty of them.
    """
    try:
        text = file.read(MAX_BYTES + 1).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ManifestInvalid([(line, "the text is not UTF-8")]) from None
    if len(text) > MAX_BYTES:
        raise ManifestInvalid([(1, f"the manifest is larger than {MAX_BYTES >> 20} MiB")])
    first = text.partition("\n")[0]
    lines = csv.reader(
        io.StringIO(text, newline=""), delimiter=";" if first.count(";") > first.count(",") else ","
    )
    rows: list[ManifestRow] = []
    errors: list[tuple[int, str]] = []
    seen: dict[str, int] = {}
    try:
        names = _header(next(lines, []))
        for values in lines:
            if not any(value.strip() for value in values):
                continue
            try:
                if len(values) != len(names):
                    raise ValueError(f"{len(values)} values stand under {len(names)} columns")
                row = _row(dict.fromkeys(COLUMNS, "") | dict(zip(names, map(str.strip, values), strict=True)))
                if row.path in seen:
                    raise ValueError(f"the path stands in line {seen[row.path]} already")
                seen[row.path] = lines.line_num
                rows.append(row)
            except ValueError as error:
                errors.append((lines.line_num, str(error)))
                if len(errors) >= MAX_ERRORS:
                    break
    except csv.Error as error:
        errors.append((lines.line_num, f"not CSV: {error}"))
    if errors:
        raise ManifestInvalid(errors)
    return rows

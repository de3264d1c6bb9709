"""Opening a data set of any format that we read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from training.datasets.example import Dataset, DatasetError
from training.datasets.folder import read_folder
from training.datasets.fracatlas import read_fracatlas
from training.datasets.mura import read_mura
from training.datasets.synthetic import read_phantoms
from training.datasets.table import read_table

AUTO = "auto"
_READERS: Mapping[str, Callable[[Path], Dataset]] = {
    "mura": read_mura,
    "fracatlas": read_fracatlas,
    "phantoms": read_phantoms,
    "table": read_table,
    "folder": read_folder,
}
FORMATS = tuple(_READERS)
#: What gives a format away: files that only it has. Checked in this order; a folder of pictures has none.
_MARKS = (
    ("mura", "train_image_paths.csv"),
    ("mura", "MURA-v1.1/train_image_paths.csv"),
    ("fracatlas", "manifest.csv"),
    ("fracatlas", "dataset.csv"),
    ("fracatlas", "FracAtlas/dataset.csv"),
    ("phantoms", "labels.csv"),
)


def detect_format(path: Path) -> str:
    """Tell a data set's format from its files.

    Raises
    ------
    DatasetError
        There is nothing at `path`.
    """
    if not path.exists():
        raise DatasetError(f"{path} is missing")
    if path.is_file():
        return "table"
    return next((name for name, mark in _MARKS if (path / mark).exists()), "folder")


def open_dataset(path: Path, format: str = AUTO, label_meaning: str = "") -> Dataset:
    """Read a data set.

    Parameters
    ----------
    path
        Its folder; a CSV file for ``table``.
    format
        One of `FORMATS`, or ``auto``.
    label_meaning
        What a positive means in a ``table`` or a ``folder``; the other formats know it.

    Raises
    ------
    DatasetError
        The format is unknown, or the data set cannot be used as it is.
    """
    name = detect_format(path) if format == AUTO else format
    if name not in _READERS:
        raise DatasetError(f"the format {name!r} is none of {', '.join(FORMATS)}")
    if label_meaning and name in {"table", "folder"}:
        reader = read_table if name == "table" else read_folder
        return reader(path, label_meaning)
    return _READERS[name](path)

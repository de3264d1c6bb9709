"""What lies below a data set's root: pictures, and what people's computers leave between them."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from training.datasets.example import DatasetError

PICTURES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".dcm"})


@dataclass(frozen=True)
class Listing:
    """Pictures below a root.

    Attributes
    ----------
    pictures
        Paths below the root with forward slashes, sorted.
    left
        What is no picture, counted by why: ``hidden or system file``, ``no picture``.
    """

    root: Path
    pictures: tuple[str, ...]
    left: Counter[str]

    def find(self, name: str) -> str | None:
        """Return the path of a picture as it is on disk, whatever the case of its letters."""
        return name if name in self._exact else self._folded.get(name.lower())

    @cached_property
    def _exact(self) -> frozenset[str]:
        return frozenset(self.pictures)

    @cached_property
    def _folded(self) -> dict[str, str]:
        return {name.lower(): name for name in self.pictures}


def list_pictures(root: Path, *below: str) -> Listing:
    """List the pictures below folders of a root (all of it by default).

    Left out and counted: `__MACOSX`, `._*`, `.DS_Store` and whatever else is hidden, and files that are no
    pictures by their name.
    """
    pictures, left = [], Counter[str]()
    for start in below or (".",):
        for folder, folders, files in os.walk(root / start):
            hidden = [name for name in folders if _is_hidden(name)]
            folders[:] = sorted(set(folders) - set(hidden))
            here = PurePosixPath(Path(folder).relative_to(root).as_posix())
            left["hidden or system file"] += sum(
                len(names) for name in hidden for *_, names in os.walk(Path(folder) / name)
            )
            for name in files:
                if _is_hidden(name):
                    left["hidden or system file"] += 1
                elif PurePosixPath(name).suffix.lower() in PICTURES:
                    pictures.append(str(here / name))
                else:
                    left["no picture"] += 1
    return Listing(root, tuple(sorted(pictures)), +left)


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name in {"__MACOSX", "Thumbs.db", "desktop.ini"}


def found_root(root: Path, marker: str, *inside: str) -> Path:
    """Return the folder that holds `marker`: the one given, or the one inside it that an archive makes.

    Raises
    ------
    DatasetError
        Neither does.
    """
    for folder in (root, *(root / name for name in inside)):
        if (folder / marker).exists():
            return folder
    raise DatasetError(f"{root / marker} is missing")

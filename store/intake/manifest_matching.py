"""Which row of a manifest speaks of which file, where both were not written down in the same way."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Callable, Collection


def _same(path: str) -> str:
    return path


def _normal(path: str) -> str:
    """Return the path composed: macOS writes letters and their accents apart (NFD), Excel together (NFC)."""
    return unicodedata.normalize("NFC", path)


def _caseless(path: str) -> str:
    return _normal(_normal(path).casefold())


def _base_name(path: str) -> str:
    return _caseless(path).rpartition("/")[2]


_MAX_FOLDERS = 8
#: From the strictest to what still leaves no doubt.
FORMS: tuple[Callable[[str], str], ...] = (_same, _normal, _caseless)


def _tails(files: Collection[str], rows: Collection[str]) -> list[Callable[[str], str]]:
    """Return forms of the last so many folders and the name, the longest first: the root may be another."""
    depth = min(max((path.count("/") for path in paths), default=0) for paths in (files, rows))

    def tail(folders: int) -> Callable[[str], str]:
        return lambda path: "/".join(_caseless(path).split("/")[-1 - folders :])

    return [tail(folders) for folders in range(min(depth, _MAX_FOLDERS), 0, -1)]


def match(files: Collection[str], rows: Collection[str]) -> dict[str, str]:
    """Return the row of each file that has one, both by path.

    As written, else in Unicode's composed form, else whatever the case, else below another root folder, else
    by the base name. Each time the form must be that of one row and of one file only, among all of them: a
    patient's accession number is never guessed between two.
    """
    found: dict[str, str] = {}
    taken: set[str] = set()
    for form in (*FORMS, *_tails(files, rows), _base_name):
        if len(taken) == len(rows):
            break
        files_of, rows_of = _by_form(files, form), _by_form(rows, form)
        for key, paths in files_of.items():
            named = rows_of.get(key, [])
            if len(paths) == len(named) == 1 and paths[0] not in found and named[0] not in taken:
                found[paths[0]] = named[0]
                taken.add(named[0])
    return found


def _by_form(paths: Collection[str], form: Callable[[str], str]) -> dict[str, list[str]]:
    grouped: defaultdict[str, list[str]] = defaultdict(list)
    for path in paths:
        grouped[form(path)].append(path)
    return grouped

"""Which files of a folder are sent, under which names, and in which groups."""

from __future__ import annotations

import os
import stat
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from cli.client import UsageProblem

CLUTTER = {"thumbs.db", "desktop.ini", "ehthumbs.db", "__macosx"}
GROUP_FILES = 32
GROUP_BYTES = 32 << 20


@dataclass(frozen=True)
class LocalFile:
    """A file to send: `name` is its path below the upload root, with forward slashes."""

    path: Path
    name: str
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class Found:
    """What a search gave; `left_out`: links out of their folder, devices, what cannot be read."""

    files: tuple[LocalFile, ...]
    left_out: tuple[Path, ...]


def is_clutter(name: str) -> bool:
    """Tell whether an operating system or a file manager left a file or a folder of this name."""
    return name.startswith(".") or name.casefold() in CLUTTER


def _walk(root: Path, left_out: list[Path], known: Container[str]) -> Iterator[Path]:
    inside = root.resolve()
    unreadable: list[Path] = []
    for folder, folders, files in os.walk(root, onerror=lambda e: unreadable.append(Path(e.filename))):
        links = [name for name in folders if Path(folder, name).is_symlink() and not is_clutter(name)]
        left_out.extend(Path(folder, name) for name in links)
        folders[:] = sorted(name for name in folders if not is_clutter(name) and name not in links)
        for name in sorted(files):
            if os.path.join(folder, name) in known:
                continue
            path = Path(folder, name)
            if is_clutter(name):
                continue
            if path.is_symlink() and not path.resolve().is_relative_to(inside):
                left_out.append(path)
            else:
                yield path
    left_out.extend(unreadable)


def as_text(path: PurePath) -> str:
    """Return a path with forward slashes, and with U+FFFD for what is no text in it.

    That is bytes which are not UTF-8 on Linux, and half characters on Windows.
    """
    name = path.as_posix()
    try:
        return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    except UnicodeEncodeError:
        return name.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def find_files(paths: Sequence[Path], *, known: Container[str] = frozenset()) -> Found:
    """Find the files below folders, recursively, and the files named themselves.

    Hidden files, ``__MACOSX`` and ``Thumbs.db`` are passed over, links out of a folder are not followed. One
    folder is the upload root; of several paths it is the deepest folder that holds them all.

    Parameters
    ----------
    known
        Absolute paths of files to pass over without a look at them.

    Raises
    ------
    UsageProblem
        A path is not there.
    """
    for path in paths:
        if not path.exists():
            raise UsageProblem(f"There is no {path}.")
    starts = [Path(os.path.abspath(path)) for path in paths]
    if len(starts) == 1 and starts[0].is_dir():
        root = starts[0]
    else:
        root = Path(os.path.commonpath([start.parent for start in starts])) if starts else Path()
    left_out: list[Path] = []
    files: dict[Path, LocalFile] = {}
    for start in starts:
        for path in _walk(start, left_out, known) if start.is_dir() else (start,):
            if path in files:
                continue
            try:
                about = path.stat()
            except OSError:  # deleted meanwhile, or a link to nothing
                left_out.append(path)
                continue
            if not stat.S_ISREG(about.st_mode):
                left_out.append(path)
                continue
            name = as_text(path.relative_to(root))
            files[path] = LocalFile(path, name, about.st_size, about.st_mtime_ns)
    return Found(tuple(files.values()), tuple(left_out))


def groups(
    files: Iterable[LocalFile], *, most_files: int = GROUP_FILES, most_bytes: int = GROUP_BYTES
) -> Iterator[list[LocalFile]]:
    """Cut files into requests of at most so many files and bytes; a larger file goes alone."""
    group: list[LocalFile] = []
    size = 0
    for file in files:
        if group and (len(group) == most_files or size + file.size > most_bytes):
            yield group
            group, size = [], 0
        group.append(file)
        size += file.size
    if group:
        yield group

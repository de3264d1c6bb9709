"""Tells which files changed below a folder without looking, where the kernel hears of all changes."""

from __future__ import annotations

import os
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

#: File systems whose every change passes through this machine's kernel. On a share those of others do not:
#: there, and on whatever is not named here, the folder is looked at.
LOCAL = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "bcachefs", "tmpfs", "overlay"})


def mount_of(path: Path) -> Path:
    """Return where the file system of a path is mounted; another place once its share is away."""
    while not os.path.ismount(path) and path != path.parent:
        path = path.parent
    return path


def tells_changes(folder: Path) -> bool:
    """Tell whether the kernel hears of every change below the folder, by its file system's name.

    It does not where nobody listens: the client alone comes without the packages for that.
    """
    if not (find_spec("psutil") and find_spec("watchdog")):
        return False
    import psutil

    mount = str(mount_of(folder))
    kinds = {part.mountpoint: part.fstype for part in psutil.disk_partitions(all=True)}
    return kinds.get(mount) in LOCAL


class Changes:
    """Notes what is made, written, renamed or moved below a folder.

    Raises
    ------
    OSError
        The kernel does not watch the folder: it is not there, or has too many folders for its limit.
    """

    def __init__(self, folder: Path) -> None:
        from watchdog.events import (
            DirCreatedEvent,
            DirMovedEvent,
            FileClosedEvent,
            FileCreatedEvent,
            FileModifiedEvent,
            FileMovedEvent,
            FileSystemEvent,
            FileSystemEventHandler,
        )
        from watchdog.observers import Observer

        changed: set[str] = set()

        class Note(FileSystemEventHandler):
            def on_any_event(self, event: FileSystemEvent) -> None:
                changed.update(os.fsdecode(path) for path in (event.src_path, event.dest_path) if path)

        self._changed = changed
        self._folder = folder
        self._is = _identity_of(folder)
        self._observer = Observer()
        self._observer.daemon = True
        self._observer.schedule(
            Note(),
            str(folder),
            recursive=True,
            event_filter=[
                *(DirCreatedEvent, DirMovedEvent, FileClosedEvent, FileCreatedEvent, FileModifiedEvent),
                FileMovedEvent,
            ],
        )
        self._observer.start()

    def taken(self) -> set[str]:
        """Return the paths that changed since the last call.

        Raises
        ------
        OSError
            The folder is gone or is another one: what happened in it is not known.
        """
        if not self._observer.is_alive() or _identity_of(self._folder) != self._is:
            raise FileNotFoundError(self._folder)
        taken: set[str] = set()
        with suppress(KeyError):  # others add meanwhile: each path is taken once
            while True:
                taken.add(self._changed.pop())
        return taken

    def stop(self) -> None:
        """Watch no longer."""
        self._observer.stop()


def _identity_of(folder: Path) -> tuple[int, int]:
    about = folder.stat()
    return about.st_dev, about.st_ino

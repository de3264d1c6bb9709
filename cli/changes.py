"""Which files changed below a folder, by the kernel's notifications, where those are complete."""

from __future__ import annotations

import os
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

#: File systems whose every change passes through this machine's kernel. Changes that other machines make on a
#: network share do not: there, and on any file system not listed here, the folder is polled.
LOCAL = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "bcachefs", "tmpfs", "overlay"})


def mount_of(path: Path) -> Path:
    """Return the mount point of a path's file system; a parent's once the share is unmounted."""
    while not os.path.ismount(path) and path != path.parent:
        path = path.parent
    return path


def notifies_of_all_changes(folder: Path) -> bool:
    """Return whether the kernel reports every change below the folder, judged by its file system's type.

    False where the packages that listen are missing: the client alone comes without them.
    """
    if not (find_spec("psutil") and find_spec("watchdog")):
        return False
    import psutil

    mount = str(mount_of(folder))
    kinds = {part.mountpoint: part.fstype for part in psutil.disk_partitions(all=True)}
    return kinds.get(mount) in LOCAL


class Changes:
    """Collects what is created, written, renamed or moved below a folder.

    Raises
    ------
    OSError
        The folder cannot be watched: it does not exist, or has more subfolders than the kernel's limit.
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
        self._inode = _identity_of(folder)
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

    def drain(self) -> set[str]:
        """Return the paths that changed since the last call.

        Raises
        ------
        OSError
            The folder is gone or was replaced: changes may have been missed.
        """
        if not self._observer.is_alive() or _identity_of(self._folder) != self._inode:
            raise FileNotFoundError(self._folder)
        drained: set[str] = set()
        with suppress(KeyError):  # the observer adds meanwhile: each path is returned once
            while True:
                drained.add(self._changed.pop())
        return drained

    def stop(self) -> None:
        """Stop watching."""
        self._observer.stop()


def _identity_of(folder: Path) -> tuple[int, int]:
    about = folder.stat()
    return about.st_dev, about.st_ino

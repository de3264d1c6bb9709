"""A lock on an open file, which ends with the process that holds it: by flock, or by msvcrt on Windows."""

from __future__ import annotations

import os
import sys

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl


def try_lock(descriptor: int) -> None:
    """Take the lock of an open file, without waiting.

    Raises
    ------
    BlockingIOError
        Somebody else has it.
    OSError
        The file system has no locks.
    """
    if sys.platform == "win32":
        os.lseek(descriptor, 0, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except PermissionError as error:
            raise BlockingIOError(*error.args) from None
    else:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

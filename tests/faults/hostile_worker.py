"""A worker whose decoder does what hostile bytes ask for, as a broken C library might; the rest is real.

Used as ``celery -A tests.faults.hostile_worker``. Which bytes do what is appended to a picture's end, where
the real decoder passes over it.
"""

from __future__ import annotations

import ctypes
import os
import time
from typing import Any

from tests.faults.hostile import ABORT, HUNGRY, LOOP, SLOW, STUCK
from worker import stages
from worker.app import app

__all__ = ["app"]

_decode = stages.decode


def decode(data: bytes, **options: Any) -> Any:
    if data.endswith(ABORT):
        os.abort()
    while data.endswith(LOOP):
        pass
    if data.endswith(STUCK):  # in C, where Python's signal handlers never run
        ctypes.PyDLL(None).sleep(3600)
    if data.endswith(HUNGRY):
        hoard = [bytes(64 * 1024**2) for _ in range(1000)]
        for piece in hoard:
            len(piece)
    if data.endswith(SLOW):
        time.sleep(8)
    return _decode(data, **options)


stages.decode = decode

"""A worker whose decoder does what hostile bytes ask for, as a broken C library might; the rest is real.

Used as ``celery -A tests.faults.hostile_worker``. Which bytes do what is appended to a picture's end, where
the real decoder passes over it.
"""

from __future__ import annotations

import ctypes
import logging
import os
import time
from typing import Any

from tests.faults.hostile import ABORT, ASLEEP, HUNGRY, LOOP, PAUSE, SLOW, SLOW_SCORING, STUCK
from worker.app import app
from worker.stages import detect, prepare

__all__ = ["app"]

#: Seconds that nobody waits for: what is interrupted there is interrupted, or its test fails.
LONG = 3600

_decode, _new_scores = prepare.decode, detect._new_scores
log = logging.getLogger("fractureai.hostile")


def sleep(seconds: float) -> None:
    log.warning(ASLEEP)
    time.sleep(seconds)


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
        sleep(LONG)
    if data.endswith(PAUSE):
        sleep(10)
    return _decode(data, **options)


def score_slowly(*arguments: Any) -> Any:
    sleep(LONG)
    return _new_scores(*arguments)


prepare.decode = decode
if os.environ.get(SLOW_SCORING):
    detect._new_scores = score_slowly

"""Rate-limited logging: one line a minute of each kind, so that a lasting fault does not fill the log."""

from __future__ import annotations

import logging
import math
import threading
import time

SECONDS = 60.0
_lock = threading.Lock()
_told: dict[str, float] = {}
_left_out: dict[str, int] = {}


def log_throttled(
    log: logging.Logger, level: int, kind: str, message: str, *values: object, traceback: bool = False
) -> None:
    """Log a message unless one of its kind was logged within the last minute."""
    with _lock:
        now = time.monotonic()
        if now - _told.get(kind, -math.inf) < SECONDS:
            _left_out[kind] = _left_out.get(kind, 0) + 1
            return
        _told[kind] = now
        left_out = _left_out.pop(kind, 0)
    more = f" ({left_out} like it in the last minutes)" if left_out else ""
    log.log(level, message + more, *values, exc_info=traceback)

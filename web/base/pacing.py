"""How soon whoever watches may ask again: by turns, so that many watchers cost no more than a few.

Every answer to a watcher says in how many seconds it should come back (`X-Poll-Interval`). A few may come as
often as they like; hundreds are told to come one after the other, each the more seldom.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from flask import Flask, Response, current_app, request

HEADER = "X-Poll-Interval"
#: Of one web process. An answer takes about 5 ms of a processor, so all of them together 2-3% of one.
TURNS_A_SECOND = 5.0
#: Seconds to a turn. The longest is what somebody who watches still takes for live.
SOONEST, LATEST = 0.25, 30.0
#: What a page costs beside an answer of the API.
PAGE = 5

View = TypeVar("View", bound=Callable[..., object])


class Turns:
    """A queue of turns, so many a second; it is shared by a process's threads."""

    def __init__(self, a_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._each = 1 / a_second
        self._clock = clock
        self._free = float("-inf")  # from when on turns are not taken
        self._lock = threading.Lock()

    def take(self, turns: int = 1) -> float:
        """Take the next turns; return the seconds until they come, from `SOONEST` to `LATEST`."""
        with self._lock:
            now = self._clock()
            begin = min(max(self._free, now + SOONEST), now + LATEST)
            self._free = begin + turns * self._each
            return begin - now


def is_watched(turns: int) -> Callable[[View], View]:
    """Mark a view that is asked again and again, with what an answer costs."""

    def mark(view: View) -> View:
        view.turns = turns  # type: ignore[attr-defined]
        return view

    return mark


def register(app: Flask) -> None:
    """Tell everybody who watches when to come back."""
    queue = Turns(TURNS_A_SECOND)

    @app.after_request
    def tell(response: Response) -> Response:
        view = current_app.view_functions.get(request.endpoint or "")
        turns = getattr(view, "turns", 0)
        if turns and response.status_code in {200, 304}:
            response.headers[HEADER] = f"{queue.take(turns):.2f}"
        return response

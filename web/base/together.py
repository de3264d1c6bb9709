"""What requests of the same time share: an answer, worked out after each of them asked, or a write."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

Answer = TypeVar("Answer")
Item = TypeVar("Item")

#: How long to gather those who ask before an answer is worked out again, in times of what the last one took,
#: and at most, in seconds.
GATHER, LONGEST = 2.0, 0.1


class Together(Generic[Answer]):
    """Answers that threads share while they are being worked out; nothing is kept of them.

    Whoever asks while an answer is being worked out waits for the next one, and shares it: nobody gets what
    was looked up before they asked. The next one is begun a little later, so that more of them share it: else
    one after the other would be worked out for as long as anybody asks, for two or three each.

    Parameters
    ----------
    sleep, clock
        For tests.
    """

    def __init__(
        self,
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sleep, self._clock = sleep, clock
        self._lock = threading.Lock()
        self._again: dict[Hashable, float] = {}  # when the next answer may be begun
        self._next: dict[Hashable, Future[Answer]] = {}
        self._now: dict[Hashable, Future[Answer]] = {}

    def answer(self, key: Hashable, work: Callable[[], Answer]) -> Answer:
        """Return what `work` returns, called by this thread or another that asked for the same.

        Raises
        ------
        Exception
            What `work` raised, for all who shared it.
        """
        with self._lock:
            mine = self._next.get(key)
            if mine is not None:
                before, leads = None, False
            else:
                mine = self._next[key] = Future()
                before, leads = self._now.get(key), True
        if not leads:
            return mine.result()
        if before is not None:
            before.exception()  # waits, whatever came of it
        self._gather(key)
        with self._lock:
            self._now[key] = self._next.pop(key)
        began = self._clock()
        try:
            mine.set_result(work())
        except BaseException as error:
            mine.set_exception(error)
        finally:
            with self._lock:
                now = self._clock()
                self._again = {other: due for other, due in self._again.items() if due > now}
                self._again[key] = now + min(GATHER * (now - began), LONGEST)
                if self._now.get(key) is mine:
                    del self._now[key]
        return mine.result()

    def _gather(self, key: Hashable) -> None:
        """Wait until the next answer may be begun."""
        with self._lock:
            wait = self._again.get(key, 0.0) - self._clock()
        if wait > 0:
            self._sleep(wait)


class Gathered(Generic[Item]):
    """Writes what threads want written at once: what comes while one write is under way goes with the next.

    Parameters
    ----------
    write
        Called by one thread at a time.
    """

    def __init__(self, write: Callable[[Sequence[Item]], None]) -> None:
        self._write = write
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._items: list[Item] = []
        self._done: Future[None] | None = None  # of what waits in `_items`

    def write(self, items: Sequence[Item]) -> None:
        """Return when these are written, by this thread or another.

        Raises
        ------
        Exception
            What the write raised, for all whose items it held.
        """
        with self._lock:
            leads = self._done is None
            done = self._done = self._done or Future()
            self._items.extend(items)
        if not leads:
            return done.result()
        with self._writing:
            with self._lock:
                mine, self._items, self._done = self._items, [], None
            try:
                self._write(mine)
            except BaseException as error:
                done.set_exception(error)
            else:
                done.set_result(None)
        return done.result()

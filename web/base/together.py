"""One answer for all who ask for the same at the same time, worked out after each of them asked."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Generic, TypeVar

Answer = TypeVar("Answer")


class Together(Generic[Answer]):
    """Answers that threads share while they are being worked out; nothing is kept of them.

    Whoever asks while an answer is being worked out waits for the next one, and shares it: nobody gets what
    was looked up before they asked.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
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
        with self._lock:
            self._now[key] = self._next.pop(key)
        try:
            mine.set_result(work())
        except BaseException as error:
            mine.set_exception(error)
        finally:
            with self._lock:
                if self._now.get(key) is mine:
                    del self._now[key]
        return mine.result()

"""One deadline for a whole exchange over the network, however slowly the other side goes on."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType


class Deadline:
    """Bounds a whole exchange: a peer that sends a byte now and then does not hold it open.

    A socket's own time-out counts from one byte to the next. Inside the block the watched socket is shut down
    when the time is over, whatever it waits for (TLS, a write, the answer's lines); leaving the block then
    raises `TimeoutError` in place of what that looked like.
    """

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds
        self._socket: Callable[[], socket.socket | None] = lambda: None
        self._lock = threading.Lock()
        self._timer = threading.Timer(seconds, self._cut)
        self._timer.daemon = True
        self.over = False

    def __enter__(self) -> Deadline:
        self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        if self.over and error is not None and not isinstance(error, TimeoutError):
            raise TimeoutError("the exchange took too long") from error

    @property
    def left(self) -> float:
        """Seconds that are left. Raises `TimeoutError` when none are."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError("the exchange took too long")
        return left

    def watch(self, sock: socket.socket | Callable[[], socket.socket | None]) -> None:
        """Shut this socket down when the time is over.

        Parameters
        ----------
        sock
            The socket; or what returns it, where somebody else may put another in its place, as TLS does.
        """
        with self._lock:
            self._socket = sock if callable(sock) else lambda: sock
            if self.over:
                self._shut(self._socket())

    def _cut(self) -> None:
        with self._lock:
            self.over = True
            self._shut(self._socket())

    @staticmethod
    def _shut(sock: socket.socket | None) -> None:
        if sock is None:
            return
        with suppress(OSError):  # closed meanwhile
            # of a TLS socket too: its own shutdown() would first forget the TLS layer under the reader
            socket.socket.shutdown(sock, socket.SHUT_RDWR)

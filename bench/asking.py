"""Many clients on one thread that does next to nothing: for measuring how long a server lets them wait.

A thread of Python for each would take the processor, and its lock, from what is measured on the same machine.
"""

from __future__ import annotations

import heapq
import selectors
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit


@dataclass
class Answer:
    """What came back: the status, the head in lower case, the body, and when all was there (`time.time`)."""

    status: int
    head: bytes
    body: bytes
    seconds: float
    at: float

    def header(self, name: str) -> str:
        """Return a header in lower case, empty where there is none."""
        return self.head.partition(f"\r\n{name.lower()}:".encode())[2].partition(b"\r\n")[0].decode().strip()

    @property
    def told(self) -> float:
        """After how many seconds the server wants to be asked again."""
        return float(self.header("x-poll-interval") or 0)


class Client:
    """A connection of its own, kept from one request to the next.

    Parameters
    ----------
    address
        The server's, without a path.
    path
        What is asked for; it may change between requests, as may `headers`.
    """

    def __init__(self, address: str, path: str, **headers: str) -> None:
        url = urlsplit(address)
        self._where = (url.hostname or "", url.port or 80)
        self.path = path
        self.headers = {"Host": url.netloc, **headers}
        self._sock: socket.socket | None = None
        self._since = 0.0
        self._arrived = bytearray()

    def ask(self, due: float) -> socket.socket:
        """Send a request; return the connection on which the answer comes.

        Parameters
        ----------
        due
            When it was to be sent (`time.perf_counter`): the wait counts from then.
        """
        if self._sock is None:
            self._sock = socket.create_connection(self._where)
            self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sock.setblocking(False)
        self._since = due
        self._arrived.clear()
        lines = "".join(f"{name}: {value}\r\n" for name, value in self.headers.items())
        self._sock.sendall(f"GET {self.path} HTTP/1.1\r\n{lines}\r\n".encode())
        return self._sock

    def read(self) -> Answer | None:
        """Read what is there; return the answer when it is complete."""
        assert self._sock is not None
        piece = self._sock.recv(1 << 18)
        if not piece:
            raise RuntimeError("the server closed the connection")
        self._arrived += piece
        head, end, body = self._arrived.partition(b"\r\n\r\n")
        if not end:
            return None
        seconds = time.perf_counter() - self._since
        answer = Answer(int(head[9:12]), bytes(head).lower(), bytes(body), seconds, time.time())
        empty = answer.status in {HTTPStatus.NOT_MODIFIED, HTTPStatus.NO_CONTENT}
        return answer if empty or len(body) >= int(answer.header("content-length")) else None

    def then(self, answer: Answer) -> float | None:
        """Return after how many seconds to ask again; None: it has done."""
        return None

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._sock is not None:
            self._sock.close()


class Poller(Client):
    """Asks for the same once a second, or as seldom as the server wants."""

    def then(self, answer: Answer) -> float | None:
        """Return after how many seconds to ask again."""
        if answer.status != HTTPStatus.OK:
            raise RuntimeError(f"the server answered {answer.status}")
        return max(1.0, answer.told)


def ask_all(
    clients: Sequence[Client], due: Sequence[float], is_over: Callable[[], bool] = lambda: False
) -> list[Answer]:
    """Have each client ask, first after so many seconds, until it has done or all is over.

    Of what was asked when all was over the answers are waited for, and returned with the others.
    """
    began = time.perf_counter()
    turns = [(began + seconds, number) for number, seconds in enumerate(due)]
    heapq.heapify(turns)
    selector = selectors.DefaultSelector()
    answers: list[Answer] = []
    asking, over = 0, False
    try:
        while asking or (turns and not over):
            over = over or is_over()
            now = time.perf_counter()
            while turns and turns[0][0] <= now and not over:
                moment, number = heapq.heappop(turns)
                selector.register(clients[number].ask(moment), selectors.EVENT_READ, clients[number])
                asking += 1
            pause = min(0.2, max(0.0, turns[0][0] - now)) if turns and not over else 0.2
            for ready, _ in selector.select(pause):
                client: Client = ready.data
                answer = client.read()
                if answer is None:
                    continue
                selector.unregister(ready.fileobj)
                asking -= 1
                answers.append(answer)
                again = client.then(answer)
                if again is not None:
                    heapq.heappush(turns, (time.perf_counter() + again, clients.index(client)))
    finally:
        for client in clients:
            client.close()
    return answers


def poll(address: str, key: str, path: str, first: Sequence[float], ended: Any, said: Any) -> None:
    """Have as many watchers as there are moments in `first` poll until all is over; put what they saw.

    For a process of its own.

    Parameters
    ----------
    ended
        A `multiprocessing.Event`.
    said
        A `multiprocessing.Queue`: takes a list of when (`time.time`) and seconds of each answer.
    """
    pollers = [Poller(address, path, Authorization=f"Bearer {key}") for _ in first]
    answers = ask_all(pollers, first, ended.is_set)
    said.put([(answer.at, answer.seconds) for answer in answers])

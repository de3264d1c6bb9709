"""HTTP requests with a limit on their total time and on the response's size, however the server behaves."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from typing import Any

import httpx

from store.base.deadline import Deadline

#: Bytes a second; a slower transfer is given up.
SLOWEST = 64 << 10


class TooLong(Exception):
    """The response is larger than allowed."""


def ask(
    client: httpx.Client, method: str, address: str, *, seconds: float, most: int, **more: Any
) -> httpx.Response:
    """Send one request and return the whole response.

    Parameters
    ----------
    client
        Without keep-alive, so that each connection is watched from its start (see `new_client`).
    seconds
        For the whole exchange, plus the time that its bytes take at `SLOWEST`.
    most
        Bytes of the response.

    Raises
    ------
    httpx.HTTPError, OSError
        No response, or none in time.
    TooLong
    """
    began, sent, body = time.monotonic(), len(more.get("content", b"")), bytearray()
    with ExitStack() as at_end:
        deadline = Deadline(seconds + sent / SLOWEST)

        def watch(name: str, info: dict[str, Any]) -> None:
            if name == "connection.connect_tcp.complete":
                # a duplicate of the descriptor: TLS detaches the first one from its socket
                line = info["return_value"].get_extra_info("socket").dup()
                at_end.callback(line.close)
                deadline.watch(lambda: line)

        request = client.build_request(method, address, extensions={"trace": watch}, **more)
        with deadline:
            answer = client.send(request, stream=True)
        at_end.callback(answer.close)
        if deadline.over:
            raise TimeoutError("the exchange took too long")
        for piece in answer.iter_bytes():  # total silence meets the client's own timeout
            body += piece
            if len(body) > most:
                raise TooLong
            if time.monotonic() - began > seconds + (sent + len(body)) / SLOWEST:
                raise TimeoutError("the exchange took too long")
    kind = answer.headers.get("Content-Type", "")
    return httpx.Response(answer.status_code, content=bytes(body), headers={"Content-Type": kind})


def parsed(answer: httpx.Response) -> Any:
    """Return what an answer says in JSON. Raises `ValueError`, also where it is nested too deeply."""
    try:
        return json.loads(answer.content)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def new_client(seconds: float, **more: Any) -> httpx.Client:
    """Return a client for `ask`."""
    return httpx.Client(timeout=seconds, limits=httpx.Limits(max_keepalive_connections=0), **more)

"""Questions by HTTP that end in time, and answers that are bounded, whatever the other side does."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from typing import Any

import httpx

from store.base.deadline import Deadline

#: Bytes a second below which nothing is sent or fetched to its end.
SLOWEST = 64 << 10


class TooLong(Exception):
    """The answer is longer than anything that was asked for."""


def ask(
    client: httpx.Client, method: str, address: str, *, seconds: float, most: int, **more: Any
) -> httpx.Response:
    """Return the whole answer to one question.

    Parameters
    ----------
    client
        One that keeps no connection, so that each can be watched from its beginning.
    seconds
        For all of it, and as much again as what is sent and fetched takes at `SLOWEST`.
    most
        Bytes of the answer.

    Raises
    ------
    httpx.HTTPError, OSError
        It does not answer, or not in time.
    TooLong
    """
    began, sent, body = time.monotonic(), len(more.get("content", b"")), bytearray()
    with ExitStack() as at_end:
        deadline = Deadline(seconds + sent / SLOWEST)

        def watch(name: str, info: dict[str, Any]) -> None:
            if name == "connection.connect_tcp.complete":
                # another handle of the connection: TLS takes the first one out of its socket
                line = info["return_value"].get_extra_info("socket").dup()
                at_end.callback(line.close)
                deadline.watch(lambda: line)

        request = client.build_request(method, address, extensions={"trace": watch}, **more)
        with deadline:
            answer = client.send(request, stream=True)
        at_end.callback(answer.close)
        if deadline.over:
            raise TimeoutError("the exchange took too long")
        for piece in answer.iter_bytes():  # what does not come at all meets the client's own time-out
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

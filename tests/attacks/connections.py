"""Many slow clients: connections that send or take so little that they would hold a server up."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

from tests.attacks.target import API, Target, attack

FORM = "Content-Type: application/x-www-form-urlencoded\r\n"


def head(target: Target, line: str, more: str = "") -> bytes:
    """Return a request's head, whole."""
    return f"{line} HTTP/1.1\r\nHost: {target.host}\r\n{more}\r\n".encode()


@contextmanager
def slow_clients(target: Target, sent: bytes, *, receive_buffer: int = 0) -> Iterator[None]:
    """Hold many connections open that sent so much and then nothing."""
    with ExitStack() as stack:
        for _ in range(target.clients):
            connection = stack.enter_context(closing(target.connect(receive_buffer=receive_buffer)))
            connection.sendall(sent)
        yield


def held_against(target: Target, sent: bytes, *, receive_buffer: int = 0) -> str:
    """Assert that a client beside the slow ones is served."""
    with slow_clients(target, sent, receive_buffer=receive_buffer):
        return f"{target.clients} slow clients, {target.assert_serving()}"


@attack("connections that send nothing")
def idle(target: Target) -> str:
    """Connect, and say nothing."""
    return held_against(target, b"")


@attack("heads that do not end")
def endless_head(target: Target) -> str:
    """Send a request line and half a header: 130 bytes a connection stopped a server."""
    return held_against(target, head(target, "GET /sign-in").removesuffix(b"\r\n") + b"X-Pad: " + b"a" * 64)


@attack("half a form to sign in")
def half_a_form(target: Target) -> str:
    """Announce a kilobyte and send three bytes."""
    return held_against(target, head(target, "POST /sign-in", f"{FORM}Content-Length: 1000\r\n") + b"a=1")


@attack("half a body without a key")
def half_a_body(target: Target) -> str:
    """Announce 100 MB to an address that answers 401, and send one byte."""
    more = "Content-Type: application/json\r\nContent-Length: 100000000\r\n"
    return held_against(target, head(target, f"POST {API}/batches", more) + b"{")


@attack("half a body of unknown length to sign in")
def half_a_chunk(target: Target) -> str:
    """Send a chunked body that does not end."""
    return held_against(
        target, head(target, "POST /sign-in", f"{FORM}Transfer-Encoding: chunked\r\n") + b"5\r\na=1"
    )


@attack("a body that waits to be asked for")
def expects(target: Target) -> str:
    """Ask for 100 Continue, and do not continue."""
    more = f"{FORM}Expect: 100-continue\r\nContent-Length: 1000\r\n"
    return held_against(target, head(target, "POST /sign-in", more))


@attack("answers that nobody reads")
def unread(target: Target) -> str:
    """Ask for a page again and again, with a tiny window, and read nothing."""
    return held_against(target, head(target, "GET /static/upload.js") * 40, receive_buffer=1024)


@attack("connections that are not closed after the answer")
def not_closed(target: Target) -> str:
    """Ask the server to close, and do not close."""
    return held_against(target, head(target, "GET /healthz", "Connection: close\r\n"))


@attack("requests that break off in the middle")
def broken_off(target: Target) -> str:
    """Close while the body is expected."""
    sent = head(target, "POST /sign-in", f"{FORM}Content-Length: 1000\r\n") + b"a=1"
    for _ in range(target.clients):
        with closing(target.connect()) as connection:
            connection.sendall(sent)
    return target.assert_serving()


@attack("a head of megabytes")
def huge_head(target: Target) -> str:
    """Send headers without end."""
    sent = head(target, "GET /sign-in").removesuffix(b"\r\n") + b"".join(
        b"X-%d: %s\r\n" % (number, b"a" * 8000) for number in range(300)
    )
    with closing(target.connect()) as connection:
        try:
            connection.sendall(sent)
            status = connection.recv(64)
        except ConnectionError:
            status = b"closed"
    assert status == b"" or status.startswith((b"closed", b"HTTP/1.1 431", b"HTTP/1.1 400")), status
    return status.partition(b"\r\n")[0].decode() or "closed"

"""HTTP/1.1 on the wire, against the server as it is deployed: what RFC 9112 and 9110 say of odd requests.

The kinds of h1spec and of the request-smuggling literature: request lines, fields, framing, chunks. What must
be refused is refused, and no byte that follows an ambiguous request is taken for another one.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

import pytest

from tests.web.conftest import Process

REFUSED = frozenset({400})
#: What hides behind an ambiguous request: as a request of its own it would be answered.
HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: h\r\n\r\n"
JSON = b'{"label": "wire"}'


def get(line: bytes = b"GET /sign-in HTTP/1.1", *fields: bytes, host: bytes = b"Host: h") -> bytes:
    """Return a request without a body."""
    return b"\r\n".join([line, *([host] if host else []), *fields, b"", b""])


def post(*fields: bytes, body: bytes = JSON) -> bytes:
    """Return a request that makes a batch; KEY stands for the key's field."""
    first = (b"POST /api/v1/batches HTTP/1.1", b"Host: h", b"KEY", b"Content-Type: application/json")
    return b"\r\n".join([*first, *fields, b"", body])


def chunked(body: bytes) -> bytes:
    return post(b"Transfer-Encoding: chunked", body=body)


WHOLE = b"%X\r\n%s\r\n0\r\n\r\n" % (len(JSON), JSON)
LENGTH = b"Content-Length: %d" % len(JSON)

#: What is sent, and the statuses of which one must come first. RFC 9112 by section.
TABLE: dict[str, tuple[bytes, Iterable[int]]] = {
    # 3: request line
    "plain": (get(), {200}),
    "an empty line before it (2.2)": (b"\r\n" + get(), {200, 400}),
    "HTTP/1.0 without Host": (get(b"GET /sign-in HTTP/1.0", host=b""), {200}),
    "absolute form (3.2.2)": (get(b"GET http://h/sign-in HTTP/1.1"), {200}),
    "HTTP/0.9": (b"GET /sign-in\r\n\r\n", REFUSED),
    "a version of the future": (get(b"GET /sign-in HTTP/2.0"), {400, 505}),
    "no version": (get(b"GET /sign-in HTTP/"), REFUSED),
    "a version in small letters": (get(b"GET /sign-in http/1.1"), REFUSED),
    "two spaces": (get(b"GET  /sign-in HTTP/1.1"), REFUSED),
    "a space in the target": (get(b"GET /sign in HTTP/1.1"), REFUSED),
    "a tab for a space": (get(b"GET\t/sign-in HTTP/1.1"), REFUSED),
    "a method of odd letters": (get(b"G(T /sign-in HTTP/1.1"), {400, 501}),
    "a method in small letters": (get(b"get /sign-in HTTP/1.1"), {400, 405, 501}),
    "an unknown method": (get(b"BREW /sign-in HTTP/1.1"), {405, 501}),
    "OPTIONS *": (get(b"OPTIONS * HTTP/1.1"), {200, 204, 400, 404, 405}),
    "CONNECT": (get(b"CONNECT h:443 HTTP/1.1"), {400, 404, 405, 501}),
    "TRACE": (get(b"TRACE /sign-in HTTP/1.1"), {405, 501}),
    "a line of 100 KB": (get(b"GET /" + b"a" * 100_000 + b" HTTP/1.1"), {400, 414, 431}),
    "a NUL in the target": (get(b"GET /sign\0in HTTP/1.1"), {400, 404}),
    # 3.2 and 7.2: Host
    "no Host": (get(host=b""), REFUSED),
    "two Hosts": (get(b"GET /sign-in HTTP/1.1", b"Host: other"), REFUSED),
    "a Host that is none": (get(host=b"Host: a b/c?"), REFUSED),
    # 5: fields
    "a space before the colon": (get(b"GET /sign-in HTTP/1.1", b"X-A : b"), REFUSED),
    "a folded line": (get(b"GET /sign-in HTTP/1.1", b"X-A: b", b" folded"), REFUSED),
    "a folded first line": (get(b"GET /sign-in HTTP/1.1", host=b" Host: h"), REFUSED),
    "no colon": (get(b"GET /sign-in HTTP/1.1", b"no colon"), REFUSED),
    "an empty name": (get(b"GET /sign-in HTTP/1.1", b": b"), REFUSED),
    "a name that is no token": (get(b"GET /sign-in HTTP/1.1", b"X(A): b"), REFUSED),
    "a NUL in a value": (get(b"GET /sign-in HTTP/1.1", b"X-A: b\0c"), REFUSED),
    "a lone CR in a value": (get(b"GET /sign-in HTTP/1.1", b"X-A: b\rc"), REFUSED),
    "lines that end in LF alone": (b"GET /sign-in HTTP/1.1\nHost: h\n\n", {200, 400}),
    "an LF that ends a field": (b"GET /sign-in HTTP/1.1\r\nHost: h\nX-A: b\r\n\r\n", {200, 400}),
    "a field of 100 KB": (get(b"GET /sign-in HTTP/1.1", b"X-A: " + b"b" * 100_000), {400, 431}),
    "a thousand fields": (get(b"GET /sign-in HTTP/1.1", *[b"X-%d: b" % n for n in range(1000)]), {400, 431}),
    "an expectation that nobody knows": (get(b"GET /sign-in HTTP/1.1", b"Expect: tea"), {200, 417}),
    # 6.2: Content-Length
    "a length": (post(LENGTH), {201}),
    "a length twice": (post(LENGTH, LENGTH), {201, 400}),
    "two lengths": (post(LENGTH, b"Content-Length: 3"), REFUSED),
    "two lengths in a list": (post(b"Content-Length: 17, 3"), REFUSED),
    "a length below zero": (post(b"Content-Length: -17"), REFUSED),
    "a length with a sign": (post(b"Content-Length: +17"), REFUSED),
    "a length in hexadecimal": (post(b"Content-Length: 0x11"), REFUSED),
    "a length with an underscore": (post(b"Content-Length: 1_7"), REFUSED),
    "a length in Arabic digits": (post("Content-Length: ١٧".encode()), REFUSED),
    "no length in the field": (post(b"Content-Length:"), REFUSED),
    "a length beyond all bounds": (post(b"Content-Length: " + b"9" * 40), {400, 413}),
    # 6.1: Transfer-Encoding
    "a length and chunks": (post(LENGTH, b"Transfer-Encoding: chunked", body=WHOLE), REFUSED),
    "chunks of HTTP/1.0": (chunked(WHOLE).replace(b"HTTP/1.1", b"HTTP/1.0"), {400, 411}),
    "chunked twice": (
        post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked", body=WHOLE),
        REFUSED,
    ),
    "chunked, not last": (post(b"Transfer-Encoding: chunked, gzip", body=WHOLE), {400, 501}),
    "nearly chunked": (post(b"Transfer-Encoding: xchunked", body=WHOLE), {400, 501}),
    "chunked with a vertical tab": (post(b"Transfer-Encoding: \x0bchunked", body=WHOLE), {400, 501}),
    "no coding at all": (post(b"Transfer-Encoding:", body=WHOLE), {400, 501}),
    # 7.1: chunks
    "chunks": (chunked(WHOLE), {201}),
    "chunks with an extension": (chunked(WHOLE.replace(b"\r\n", b";a=b\r\n", 1)), {201, 400}),
    "chunks with a trailer": (chunked(WHOLE[:-2] + b"X-A: b\r\n\r\n"), {201}),
    "a size with a sign": (chunked(b"+" + WHOLE), REFUSED),
    "a size below zero": (chunked(b"-" + WHOLE), REFUSED),
    "a size with 0x": (chunked(b"0x" + WHOLE), REFUSED),
    "a size with an underscore": (chunked(b"1_1" + WHOLE[2:]), REFUSED),
    "no size": (chunked(WHOLE[2:]), REFUSED),
    "a size beyond all bounds": (chunked(b"F" * 40 + WHOLE[2:]), {400, 413}),
    "data longer than its size": (chunked(b"5" + WHOLE[2:]), REFUSED),
    "a size that ends in LF alone": (chunked(WHOLE.replace(b"\r\n", b"\n", 1)), REFUSED),
    "an extension of 100 KB": (chunked(b"11;" + b"a" * 100_000 + WHOLE[2:]), {400, 413, 431}),
    "a trailer of 100 KB": (chunked(WHOLE[:-2] + b"X-A: " + b"b" * 100_000 + b"\r\n\r\n"), {400, 413, 431}),
}
#: Of requests with these answers it is clear where they end: another one may follow.
CLEAR = {200, 201, 404, 405, 501}


@dataclass(frozen=True)
class Wire:
    """Where the server listens, and a key's field."""

    host: str
    port: int
    key: bytes

    def send(self, data: bytes) -> bytes:
        """Send bytes, end this side, and return all that comes back."""
        with closing(socket.create_connection((self.host, self.port), timeout=30)) as line:
            line.sendall(data.replace(b"KEY", self.key))
            line.shutdown(socket.SHUT_WR)
            got = b""
            try:
                while piece := line.recv(1 << 16):
                    got += piece
            except ConnectionResetError:
                pass  # it had enough
            return got


@pytest.fixture
def wire(process: Process) -> Wire:
    at = urlsplit(str(process.client.base_url))
    return Wire(
        at.hostname or "", at.port or 0, f"Authorization: {process.client.headers['authorization']}".encode()
    )


def statuses(answer: bytes) -> list[int]:
    return [int(found) for found in re.findall(rb"(?:\A|(?<=[\n}>]))HTTP/1\.[01] (\d{3}) ", answer)]


def test_what_is_odd_is_answered_as_it_should_be(wire: Wire) -> None:
    wrong = {}
    for name, (request, right) in TABLE.items():
        said = statuses(wire.send(request))
        if said[:1] and said[0] in right and len(said) == 1:
            continue
        wrong[name] = said
    assert not wrong


def test_nothing_behind_an_ambiguous_request_is_taken_for_another(wire: Wire) -> None:
    taken = {}
    for name, (request, right) in TABLE.items():
        said = statuses(wire.send(request + HIDDEN))
        assert said[:1], name
        assert said[0] in right, (name, said)
        if len(said) > 1 and said[0] not in CLEAR:
            taken[name] = said
    assert not taken


def test_requests_in_a_row_are_answered_in_a_row(wire: Wire) -> None:
    answers = wire.send(get() + post(LENGTH) + get(b"GET /hidden HTTP/1.1") + chunked(WHOLE) + get())
    assert statuses(answers) == [200, 201, 404, 201, 200]


def test_a_connection_ends_where_it_is_said_to(wire: Wire) -> None:
    for close in (b"Connection: close", b"Connection: keep-alive, close", b"connection: Close"):
        assert statuses(wire.send(get(b"GET /sign-in HTTP/1.1", close) + get())) == [200], close
    old = get(b"GET /sign-in HTTP/1.0")
    assert statuses(wire.send(old + old)) == [200]


def test_a_body_that_is_announced_is_waited_for_and_continued(wire: Wire) -> None:
    with closing(socket.create_connection((wire.host, wire.port), timeout=30)) as line:
        line.sendall(post(LENGTH, b"Expect: 100-continue", body=b"").replace(b"KEY", wire.key))
        assert line.recv(100).startswith(b"HTTP/1.1 100 ")
        line.sendall(JSON)
        assert line.recv(100).startswith(b"HTTP/1.1 201 ")


def test_answers_carry_what_they_must(wire: Wire) -> None:
    whole, head = wire.send(get()), wire.send(get(b"HEAD /sign-in HTTP/1.1"))
    fields, _, body = whole.partition(b"\r\n\r\n")
    sent = dict(line.split(b": ", 1) for line in fields.split(b"\r\n")[1:])
    assert int(sent[b"Content-Length"]) == len(body) > 0
    assert parsedate_to_datetime(sent[b"Date"].decode()).tzinfo is not None
    assert head.endswith(b"\r\n\r\n")
    assert statuses(head) == [200]
    assert b"Allow:" in wire.send(get(b"DELETE /sign-in HTTP/1.1"))

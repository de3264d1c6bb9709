"""The web server's worker class: gunicorn's threads, kept free of slow clients.

gunicorn's threaded worker gives a connection a thread as soon as its first byte is there, and reads and
writes without a time limit, so that a few dozen idle connections stop a server. Here the event loop does the
waiting: it reads the head of a request and a small body, writes what is left of an answer, and lingers after
a refusal. A thread is taken when a request can run, and waits itself only for large bodies and long answers,
which only known users have; there the client has to keep to a minimum rate. See docs/adr/011.
"""

from __future__ import annotations

import errno
import gc
import re
import resource
import select
import selectors
import socket
import time
from collections.abc import Callable, Iterable
from concurrent import futures
from contextlib import suppress
from enum import Enum
from functools import partial
from typing import Any

from gunicorn.http.body import ChunkedReader, LengthReader
from gunicorn.http.errors import ParseException
from gunicorn.workers import gthread
from werkzeug.exceptions import BadRequest

from settings import get_settings
from web.auth.identity import STRANGERS_BODY
from web.operations.health import create_health_app

#: Largest body that is read before its request gets a thread.
BUFFERED_BODY = STRANGERS_BODY
#: The head of a request, all lines of it.
MAX_HEAD = 64 << 10
#: How much of an answer may wait for its client without a thread.
BUFFERED_ANSWER = 1 << 20
#: What all waiting connections of one process may hold in memory; then the oldest are closed.
MAX_HELD = 128 << 20
#: Discarding what a refused client still sends, so that it can read why: no longer, and no more.
LINGER_SECONDS, LINGER_BYTES = 5.0, 64 << 20
ACCEPTED_AT_ONCE = 64
REPORT_SECONDS = 60.0
#: Files and sockets of the application itself.
OTHER_FILES = 256
PIECE = 1 << 16

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,18})[ \t]*\r\n", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding[ \t]*:", re.IGNORECASE)
_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[\w.~!$&'()*+,;=%-]*)(:\d*)?", re.ASCII)
_EXPECT = re.compile(rb"\r\nexpect:[ \t]*100-continue[ \t]*(?=\r\n)", re.IGNORECASE)


class PacedSocket(socket.socket):
    """A non-blocking socket for code that expects a blocking one; a client that is too slow is cut off.

    Waiting for the client uses up credit, every byte that moves earns some back. Whoever falls short of the
    minimum rate for longer than the full credit gets `ConnectionResetError`, as if it had gone away.
    """

    def __init__(self, accepted: socket.socket, *, seconds: float, rate: float) -> None:
        super().__init__(fileno=accepted.detach())
        super().setblocking(False)
        self._full = seconds
        self._rate = rate
        self._credit = seconds
        self._ended = False
        self.unsent = bytearray()

    def setblocking(self, flag: bool) -> None:
        """Stay non-blocking: this class does the waiting."""

    def settimeout(self, value: float | None) -> None:
        """Ignore a time limit: the credit is the limit."""

    def renew(self) -> None:
        """Give the full credit, for a new request."""
        self._credit = self._full

    def _moved(self, size: int) -> None:
        self._credit = min(self._full, self._credit + size / self._rate)

    def _wait(self, event: int) -> None:
        began = time.monotonic()
        poll = select.poll()
        poll.register(self, event)
        ready = poll.poll(max(0.0, self._credit) * 1000)
        self._credit -= time.monotonic() - began
        if not ready:
            raise ConnectionResetError(errno.ECONNRESET, "the client is too slow")

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        """Return what is there, or wait for it; nothing at the end, or when this side has ended."""
        while True:
            try:
                piece = super().recv(bufsize, flags)
            except BlockingIOError:
                if self._ended:
                    return b""
                self._wait(select.POLLIN)
            else:
                self._moved(len(piece))
                return piece

    def flush(self) -> int:
        """Send what the client takes now, without waiting; return how much that was."""
        sent = 0
        with suppress(BlockingIOError):
            while self.unsent:
                with memoryview(self.unsent) as view:
                    n = self.send(view[: PIECE * 4])
                del self.unsent[:n]
                sent += n
        self._moved(sent)
        return sent

    def sendall(self, data: Any, flags: int = 0, /) -> None:
        """Send or keep the data; wait for the client only while it is far behind."""
        self.unsent += data
        self.flush()
        while len(self.unsent) > BUFFERED_ANSWER:
            self._wait(select.POLLOUT)
            self.flush()

    def shutdown(self, how: int, /) -> None:
        """End this side; nothing is waited for any more."""
        self._ended = True
        super().shutdown(how)


class Waiting(Enum):
    """What the event loop waits for on a connection."""

    REQUEST = "request"  # the rest of a head or of a small body
    NEXT = "next"  # the first byte of another request
    ANSWER = "answer"  # the client to take the rest of an answer
    END = "end"  # the client to close, after this side did


class Connection(gthread.TConn):
    """A connection, and what has arrived of its next request."""

    sock: PacedSocket

    def __init__(self, cfg: Any, sock: PacedSocket, client: Any, server: Any, *, is_health: bool) -> None:
        super().__init__(cfg, sock, client, server)
        self.is_health = is_health
        self.arrived = bytearray()
        self.wanted = 0  # bytes until the request can run; 0: not known yet
        self.searched = 0
        self.deadline = 0.0
        self.held = 0
        self.waiting: Waiting | None = None
        self.keep = False

    def is_ready(self) -> bool:
        """Whether the request that has arrived can run: its head is here, and its body unless it is large."""
        if not self.wanted:
            end = self.arrived.find(b"\r\n\r\n", max(0, self.searched - 3))
            if end < 0:
                # a line without CR never ends a head: the parser refuses it, and needs no more for that
                broken = self.arrived.count(b"\n") != self.arrived.count(b"\r\n")
                self.searched = len(self.arrived)
                return broken
            head = bytes(self.arrived[: end + 2])
            self.wanted = end + 4
            length = _LENGTH.search(head)
            if length and int(length[1]) <= BUFFERED_BODY and not _CHUNKED.search(head):
                if _EXPECT.search(head):
                    shorter = _EXPECT.sub(b"", head)
                    self.arrived[: len(head)] = shorter
                    self.wanted -= len(head) - len(shorter)
                    with suppress(OSError):
                        self.sock.send(b"HTTP/1.1 100 Continue\r\n\r\n")
                self.wanted += int(length[1])
        return len(self.arrived) >= self.wanted

    def hand_over(self) -> None:
        """Give what has arrived to the parser, which reads on from the socket only in a large body."""
        self.init()
        self.sock.renew()
        self.parser.unreader.unread(bytes(self.arrived))
        self.arrived.clear()
        self.wanted = self.searched = 0

    def body_is_complete(self) -> bool:
        """Whether nothing of the request's body is left with the client."""
        request = self.parser.mesg
        if request is None or request.body.failed:
            return False
        reader = request.body.reader
        if isinstance(reader, LengthReader):
            return bool(reader.length <= self.parser.unreader.buf.getbuffer().nbytes)
        return isinstance(reader, ChunkedReader) and reader.parser is None


class Body:
    """A request's body; chunks that are none are the client's mistake, and not an error of ours."""

    def __init__(self, body: Any) -> None:
        self._body = body

    def __getattr__(self, name: str) -> Any:
        return getattr(self._body, name)

    def read(self, size: int | None = None) -> bytes:
        """Read as files do.

        Raises
        ------
        BadRequest
            What was sent are no chunks.
        """
        try:
            data: bytes = self._body.read(size)
        except ParseException as error:
            raise BadRequest("The body is not sent in chunks as HTTP has them.") from error
        return data


def _says_close(request: Any) -> bool:
    """Tell whether a list in Connection holds ``close``; gunicorn knows it alone."""
    named = (value for name, value in request.headers if name == "CONNECTION")
    return any(word.strip().lower() == "close" for value in named for word in value.split(","))


def _names_host(request: Any) -> bool:
    """Tell whether the request has the Host that HTTP/1.1 wants (RFC 9112, 3.2)."""
    named = [value for name, value in request.headers if name == "HOST"]
    return all(map(_HOST.fullmatch, named)) and (bool(named) or request.version < (1, 1))


class Worker(gthread.ThreadWorker):
    """gunicorn's threaded worker with all waiting for clients in its event loop."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._settings = get_settings()
        self._waiting: dict[Connection, None] = {}  # the longest waiting first
        self._held = 0
        self._swept = self._reported = time.monotonic()
        self._slow = self._shed = 0
        self.cfg.set("sendfile", False)  # it would wait for the client by itself

    def init_process(self) -> None:
        """Make room for many connections before the first one is taken."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = self.worker_connections + OTHER_FILES
        if soft < wanted and soft != resource.RLIM_INFINITY:
            soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            self.worker_connections = min(self.worker_connections, max(64, soft - OTHER_FILES))
        self._health_pool = futures.ThreadPoolExecutor(2, "health")
        super().init_process()

    def load_wsgi(self) -> None:
        """Load the application; the health listener gets one of its own."""
        super().load_wsgi()
        application, health = self.wsgi, create_health_app(self._settings)

        def run(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
            connection: Connection = environ["gunicorn.socket"].connection
            request = connection.parser.mesg
            if _says_close(request) or not _names_host(request):
                request.force_close()
            if not _names_host(request):
                start_response("400 Bad Request", [("Content-Length", "0")])
                return []
            environ["wsgi.input"] = Body(environ["wsgi.input"])

            def start(*args: Any) -> Any:
                if not connection.body_is_complete():
                    connection.parser.mesg.force_close()
                return start_response(*args)

            answer: Iterable[bytes] = (health if connection.is_health else application)(environ, start)
            return answer

        self.wsgi = run
        # what is loaded now stays: looking through it took every answer that met it a tenth of a second
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000)

    # connections come

    def accept(self, listener: Any) -> None:
        """Take new connections; the longest waiting make room for them."""
        address = listener.getsockname()
        is_health = isinstance(address, tuple) and address[1] == self._settings.health_port
        for _ in range(ACCEPTED_AT_ONCE):
            if self.nr_conns >= self.worker_connections:
                return  # all are at work; `run` listens again when one ends
            if self.nr_conns == self.worker_connections - 1:
                self._shed_one()
            try:
                accepted, client = listener.accept()
            except OSError as error:
                if error.errno in {errno.EMFILE, errno.ENFILE}:
                    if not self._shed_one():
                        time.sleep(0.1)
                elif error.errno not in {errno.EAGAIN, errno.ECONNABORTED}:
                    raise
                return
            paced = PacedSocket(
                accepted,
                seconds=self._settings.client_stall_seconds,
                rate=self._settings.client_bytes_per_second,
            )
            connection = Connection(self.cfg, paced, client, address, is_health=is_health)
            paced.connection = connection  # type: ignore[attr-defined]
            self.nr_conns += 1
            self._wait_for(connection, Waiting.REQUEST, self._settings.request_head_seconds)

    def _shed_one(self) -> bool:
        """Close the connection that has waited longest; False if every one is at work."""
        connection = next(iter(self._waiting), None)
        if connection is None:
            return False
        self._shed += 1
        self._drop(connection)
        return True

    # connections wait

    def _wait_for(self, connection: Connection, what: Waiting, seconds: float) -> None:
        connection.waiting = what
        connection.deadline = time.monotonic() + seconds
        if not self.alive:
            connection.deadline = min(connection.deadline, time.monotonic() + gthread.STOP_KEEPALIVE_LINGER)
        self._waiting[connection] = None
        self._hold(connection)
        event = selectors.EVENT_WRITE if what is Waiting.ANSWER else selectors.EVENT_READ
        self.poller.register(connection.sock, event, partial(self._on_event, connection))

    def _hold(self, connection: Connection) -> None:
        """Count what a waiting connection keeps in memory."""
        held = len(connection.arrived) + len(connection.sock.unsent) if connection.waiting else 0
        self._held += held - connection.held
        connection.held = held

    def _stop_waiting(self, connection: Connection) -> None:
        self._waiting.pop(connection, None)
        connection.waiting = None
        self._hold(connection)
        with suppress(OSError, KeyError, ValueError):
            self.poller.unregister(connection.sock)

    def _drop(self, connection: Connection) -> None:
        self._stop_waiting(connection)
        self.nr_conns -= 1
        connection.close()

    def _on_event(self, connection: Connection, _socket: Any) -> None:
        if connection not in self._waiting:
            return  # closed to make room, a moment ago
        try:
            if connection.waiting is Waiting.ANSWER:
                self._send_on(connection)
            elif connection.waiting is Waiting.END:
                self._discard(connection)
            else:
                self._read_on(connection)
        except OSError:
            self._drop(connection)
        while self._held > MAX_HELD and self._shed_one():
            pass

    def _read_on(self, connection: Connection) -> None:
        try:
            piece = socket.socket.recv(connection.sock, PIECE)
        except BlockingIOError:
            return
        if not piece:
            self._drop(connection)
            return
        connection.arrived += piece
        self._hold(connection)
        if connection.waiting is Waiting.NEXT:
            self._stop_waiting(connection)
            self._wait_for(connection, Waiting.REQUEST, self._settings.request_head_seconds)
        self._look(connection)

    def _look(self, connection: Connection) -> None:
        """Let the request run if it can."""
        had_head = bool(connection.wanted)
        if connection.is_ready():
            self._stop_waiting(connection)
            connection.hand_over()
            self.enqueue_req(connection)
        elif connection.wanted and not had_head:
            missing = connection.wanted - len(connection.arrived)
            connection.deadline += missing / self._settings.client_bytes_per_second
        elif not connection.wanted and len(connection.arrived) > MAX_HEAD:
            self._refuse(connection, b"431 Request Header Fields Too Large")

    def _send_on(self, connection: Connection) -> None:
        connection.sock.flush()
        self._hold(connection)
        if not connection.sock.unsent:
            self._stop_waiting(connection)
            self._after_answer(connection)

    def _discard(self, connection: Connection) -> None:
        try:
            piece = socket.socket.recv(connection.sock, PIECE)
        except BlockingIOError:
            return
        connection.wanted += len(piece)
        if not piece or connection.wanted > LINGER_BYTES:
            self._drop(connection)

    def _refuse(self, connection: Connection, status: bytes) -> None:
        """Answer without a thread, as far as the client takes it at once, and close."""
        with suppress(OSError):
            connection.sock.send(
                b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            )
        self._stop_waiting(connection)
        self._end(connection)

    # requests run

    def enqueue_req(self, conn: Connection) -> None:
        """Give the request a thread; health has its own."""
        pool = self._health_pool if conn.is_health else self.tpool
        run = pool.submit(self.handle, conn)
        run.add_done_callback(lambda done: self.method_queue.defer(self.finish_request, conn, done))

    def _keepalive_after(self, conn: Connection, keepalive: bool) -> bool:
        """Never wait for the rest of a body that nobody read: the connection ends."""
        return bool(keepalive) and conn.body_is_complete() and super()._keepalive_after(conn, keepalive)

    def finish_request(self, conn: Connection, fs: futures.Future[Any]) -> None:
        """Go on with a connection that a thread has given back."""
        conn.keep = not fs.cancelled() and fs.exception() is None and bool(fs.result())
        if conn.sock.fileno() < 0:
            self.nr_conns -= 1
        elif conn.sock.unsent:
            seconds = self._settings.request_head_seconds
            seconds += len(conn.sock.unsent) / self._settings.client_bytes_per_second
            self._wait_for(conn, Waiting.ANSWER, seconds)
        else:
            self._after_answer(conn)

    def _after_answer(self, connection: Connection) -> None:
        if not connection.keep:
            self._end(connection)
            return
        connection.arrived = bytearray(connection.parser.unreader.take_buffered())
        if connection.arrived:  # the client did not wait for the answer
            self._wait_for(connection, Waiting.REQUEST, self._settings.request_head_seconds)
            self._look(connection)
        else:
            self._wait_for(connection, Waiting.NEXT, self.cfg.keepalive)

    def _end(self, connection: Connection) -> None:
        """Close this side, then wait for the client's: closing with bytes unread would destroy the answer."""
        connection.arrived.clear()
        connection.wanted = 0
        try:
            connection.sock.shutdown(socket.SHUT_WR)
            self._wait_for(connection, Waiting.END, LINGER_SECONDS)
        except OSError:
            self._drop(connection)

    # connections end

    def murder_pending(self) -> None:
        """Close connections whose time is up; say once a minute how many."""
        now = time.monotonic()
        if now - self._swept < 1.0 and self.alive:
            return
        self._swept = now
        for connection in [each for each in self._waiting if each.deadline <= now]:
            if connection.waiting is Waiting.REQUEST and connection.arrived:
                self._slow += 1
                self._refuse(connection, b"408 Request Timeout")
            else:
                self._slow += connection.waiting is Waiting.ANSWER
                self._drop(connection)
        if now - self._reported > REPORT_SECONDS and (self._slow or self._shed):
            self.log.warning(
                "closed %d connections of slow clients, and %d to make room", self._slow, self._shed
            )
            self._reported, self._slow, self._shed = now, 0, 0

    def murder_keepalived(self, force: bool = False) -> None:
        """Close every waiting connection when the process ends."""
        if force:
            for connection in list(self._waiting):
                self._drop(connection)
            self._health_pool.shutdown(wait=False)

    def _cap_keepalive(self, deadline: float) -> None:
        """Close idle connections when the process ends."""
        for connection in self._waiting:
            connection.deadline = min(connection.deadline, deadline)

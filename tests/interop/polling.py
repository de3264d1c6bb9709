"""Rounds of the poller, and web servers of few lines that stand for an archive which it asks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from sqlalchemy import func, select, update

from interop import poller
from store.base.session import session_scope
from store.intake.poll_sources import PollSource


def poll() -> str | None:
    """A round, whenever it is due; return what went wrong."""
    with session_scope() as session:
        session.execute(update(PollSource).values(due_at=func.clock_timestamp()))
    assert poller.poll_once()
    with session_scope() as session:
        return session.scalars(select(PollSource.error)).one()


@contextmanager
def serving(answer: Callable[[str], tuple[int, str, bytes]]) -> Iterator[int]:
    """Serve what `answer` makes of a path and its query: status, type, body. Yields the port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, kind, body = answer(self.path)
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()

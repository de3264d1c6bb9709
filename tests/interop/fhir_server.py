"""A small FHIR server of the tests: it takes transactions with If-None-Exist, and answers how many it has."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit


class Server:
    """What it holds, and what was asked of it."""

    def __init__(self) -> None:
        self.resources: list[dict[str, Any]] = []
        self.authorization = ""
        self.refuse: int | None = None
        self.address = ""

    def having(self, kind: str, identifier: str) -> list[dict[str, Any]]:
        """Return resources of a kind with an identifier (system|value)."""
        return [
            each
            for each in self.resources
            if each["resourceType"] == kind
            and identifier in {f"{i.get('system', '')}|{i['value']}" for i in each["identifier"]}
        ]

    def take(self, bundle: dict[str, Any]) -> None:
        """Make what is not there yet; its references are those of the transaction."""
        for entry in bundle["entry"]:
            name, _, value = entry["request"]["ifNoneExist"].partition("=")
            assert name == "identifier"
            if not self.having(entry["request"]["url"], value):
                self.resources.append(entry["resource"])


@contextmanager
def running_fhir() -> Iterator[Server]:
    """Run one while the block runs."""
    held = Server()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Say nothing."""

        def _answer(self, status: int, said: dict[str, Any]) -> None:
            data = json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/fhir+json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            if parts.path.endswith("/metadata"):
                return self._answer(200, {"resourceType": "CapabilityStatement"})
            (wanted,) = parse_qs(parts.query)["identifier"]
            n = len(held.having(parts.path.rpartition("/")[2], wanted))
            return self._answer(200, {"resourceType": "Bundle", "type": "searchset", "total": n})

        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers["Content-Length"]))
            held.authorization = self.headers.get("Authorization", "")
            if held.refuse is not None:
                return self._answer(held.refuse, {"resourceType": "OperationOutcome"})
            held.take(json.loads(data))
            return self._answer(200, {"resourceType": "Bundle", "type": "transaction-response"})

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    held.address = f"http://127.0.0.1:{server.server_address[1]}/fhir"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield held
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

"""The server of the tests itself."""

from __future__ import annotations

import socket
import threading
from typing import Any

import pytest

from tests.web.serving import Server


@pytest.mark.usefixtures("site_key")
def test_no_request_outlives_its_server(settings_env: Any) -> None:
    """One that did kept its connection open until the database had gone."""
    server = Server()
    with socket.create_connection(("127.0.0.1", server.server.server_port)) as line:
        line.sendall(b"GET /healthz HTTP/1.1\r\n")  # the rest does not come
        while not any("process_request_thread" in thread.name for thread in threading.enumerate()):
            pass
        threading.Timer(0.5, line.shutdown, [socket.SHUT_RDWR]).start()
        server.stop()
    assert not [thread for thread in threading.enumerate() if "process_request_thread" in thread.name]

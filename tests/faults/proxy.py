"""A TCP proxy that breaks: it refuses, hangs, dawdles, or resets connections in the middle of an answer."""

from __future__ import annotations

import select
import socket
import struct
import threading
import time
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType


class Fault(StrEnum):
    """What the line does now."""

    NONE = "none"
    DOWN = "down"  # connections are reset as soon as they are made
    HUNG = "hung"  # connections are taken, and nothing is ever said
    SLOW = "slow"  # 16 KiB a tenth of a second, each way
    RESETS = "resets"  # every connection is reset after a little of the answer


@dataclass(eq=False)
class Connection:
    """A client's connection and the one made for it, with the bytes that went each way."""

    client: socket.socket
    server: socket.socket
    asked: int = 0
    answered: int = 0

    def reset(self) -> None:
        """Have the client's end reset, not closed in order, when it is closed."""
        self.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class FaultyLine:
    """Carries connections to an address; what breaks can be changed at any time, for open ones too."""

    PIECE = 16 * 1024
    RESET_AFTER = 600  # bytes of an answer: its head and the first of its body

    def __init__(self, host: str, port: int) -> None:
        self.to = (host, port)
        self.fault = Fault.NONE
        self.broken = 0  # connections that met a fault
        self.ended = threading.Event()
        self.door = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.address = f"127.0.0.1:{self.door.getsockname()[1]}"
        self.thread = threading.Thread(target=self._accept, name="faulty line", daemon=True)

    def __enter__(self) -> FaultyLine:
        self.thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.ended.set()
        self.thread.join()
        self.door.close()

    def _accept(self) -> None:
        self.door.settimeout(0.1)
        while not self.ended.is_set():
            try:
                client, _ = self.door.accept()
            except TimeoutError:
                continue
            threading.Thread(target=self._carry, args=(client,), daemon=True).start()

    def passed(self, connection: Connection, piece: bytes, *, answer: bool) -> bool:
        """Hear of a piece that was carried on; False ends the connection.

        For lines that break at a place of their own.
        """
        return True

    def _carry(self, client: socket.socket) -> None:
        try:
            with client, socket.create_connection(self.to) as server:
                self._exchange(Connection(client, server))
        except OSError:
            return  # one of the two is gone, and so is the other now

    def _exchange(self, connection: Connection) -> None:
        client, server, met = connection.client, connection.server, False
        while not self.ended.is_set():
            fault = self.fault
            if fault is not Fault.NONE and not met:
                met = True
                self.broken += 1
            if fault is Fault.DOWN or (fault is Fault.RESETS and connection.answered > self.RESET_AFTER):
                return connection.reset()
            if fault is Fault.HUNG:
                time.sleep(0.1)
                continue
            ready, _, _ = select.select([client, server], [], [], 0.1)
            for source, sink in ((client, server), (server, client)):
                if source not in ready:
                    continue
                piece = source.recv(self.RESET_AFTER if fault is Fault.RESETS else self.PIECE)
                if not piece:
                    return None
                sink.sendall(piece)
                if source is server:
                    connection.answered += len(piece)
                else:
                    connection.asked += len(piece)
                if not self.passed(connection, piece, answer=source is server):
                    return None
                if fault is Fault.SLOW:
                    time.sleep(0.1)
        return None

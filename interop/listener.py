"""The sockets of the receiver: bounded connections and PDUs, TLS in the connection's own thread.

pynetdicom reads as much as a PDU's head claims, and shakes hands in the thread that accepts everybody's
connections; both are put right here.
"""

from __future__ import annotations

import logging
import socket
import ssl
import threading
from typing import Any, cast

from pynetdicom import evt
from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext
from pynetdicom.transport import AssociationSocket, RequestHandler, ThreadedAssociationServer

from store.base.seldom import log_seldom

log = logging.getLogger("fractureai.gateway")

#: Of a PDU: what announces an association may be longer than what carries its data.
SHORTEST_BOUND = 1 << 16


class Handler(RequestHandler):
    """Makes an association of a connection; it reads no PDU that is longer than was agreed on."""

    def _create_association(self) -> Association:
        association = super()._create_association()
        line = cast(AssociationSocket, association.dul.socket)
        read, most = line.recv, max(self.server.ae.maximum_pdu_size, SHORTEST_BOUND) + 64

        def read_bounded(nr_bytes: int) -> bytearray:
            if nr_bytes > most:
                raise OSError("a PDU that is too long")
            return read(nr_bytes)

        line.recv = read_bounded  # type: ignore[method-assign]
        return association


class GatewayServer(ThreadedAssociationServer):
    """Accepts connections, some of one process at a time; several processes may share the port.

    Parameters
    ----------
    tls
        What secures them; None: nothing does.
    most
        Connections at one time, those included that have not yet said who they are.
    handshake_seconds
        That a connection may take for the handshake.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self,
        entity: ApplicationEntity,
        address: tuple[str, int],
        contexts: list[PresentationContext],
        evt_handlers: list[evt.EventHandlerType],
        *,
        tls: ssl.SSLContext | None,
        most: int,
        handshake_seconds: float,
    ) -> None:
        self._tls = tls
        self._most = most
        self._handshakes = 0
        self._counting = threading.Lock()
        self._handshake_seconds = handshake_seconds
        super().__init__(
            entity, address, entity.ae_title, contexts, evt_handlers=evt_handlers, request_handler=Handler
        )

    def server_bind(self) -> None:
        """Bind the socket so that other processes of ours may bind theirs to the same port."""
        cast(socket.socket, self.socket).setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        super().server_bind()

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection, and leave the handshake to its own thread."""
        return cast(socket.socket, self.socket).accept()

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Refuse what is too much."""
        with self._counting:
            if len(self.active_associations) + self._handshakes < self._most:
                self._handshakes += 1
                return True
        log_seldom(log, logging.WARNING, "connections", "too many connections: some are closed")
        return False

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Shake hands, then let the association begin."""
        try:
            if self._tls is not None:
                request.settimeout(self._handshake_seconds)
                request = self._tls.wrap_socket(request, server_side=True)
                request.settimeout(self.ae.network_timeout)
            self.finish_request(request, client_address)
        except (OSError, RuntimeError) as error:
            log.warning("a connection from %s ended early: %s", client_address[0], type(error).__name__)
            self.shutdown_request(request)
        finally:
            with self._counting:
                self._handshakes -= 1

"""The sockets of the receiver: bounded connections and PDUs, TLS in the connection's own thread.

pynetdicom reads as much as a PDU's head claims, and shakes hands in the thread that accepts everybody's
connections; both are put right here.
"""

from __future__ import annotations

import logging
import socket
import ssl
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast
from weakref import WeakKeyDictionary, WeakSet

from pynetdicom import evt
from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext
from pynetdicom.transport import AssociationSocket, RequestHandler, ThreadedAssociationServer

from store.base.deadline import Deadline
from store.base.throttled_log import log_throttled

log = logging.getLogger("fractureai.gateway")

#: Of a PDU: what announces an association may be longer than what carries its data.
SHORTEST_BOUND = 1 << 16


def bound_pdus(line: AssociationSocket, most: int, seconds: float) -> None:
    """Have a connection end when a PDU claims to be too long, or takes too long to come.

    Parameters
    ----------
    most
        Bytes of a PDU that carries data.
    seconds
        For one PDU, from its first byte to its last; a socket's own time-out begins anew with each byte.
    """
    bound = max(most, SHORTEST_BOUND) + 64

    def read_bounded(nr_bytes: int) -> bytearray:
        if nr_bytes > bound:
            raise OSError("a PDU that is too long")
        sock = line.socket
        if sock is None:
            raise OSError("the connection is closed")
        data, until = bytearray(), time.monotonic() + seconds
        try:
            while len(data) < nr_bytes:
                left = until - time.monotonic()
                if left <= 0:
                    raise TimeoutError("a PDU that takes too long")
                sock.settimeout(left)
                piece = sock.recv(min(nr_bytes - len(data), 1 << 16))
                if not piece:
                    break
                data += piece
        finally:
            sock.settimeout(seconds)  # for what is sent
        return data

    line.recv = read_bounded  # type: ignore[method-assign]


def force_close_socket(line: AssociationSocket) -> None:
    """Have a connection's socket closed at its end, also where the peer or a deadline shut it down before.

    pynetdicom closes only what it could shut down itself; the association, which refers to itself, then holds
    the descriptor until it is collected.
    """

    def shut() -> None:
        if (sock := line.socket) is not None:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    line._shutdown_socket = shut  # type: ignore[method-assign]


def end_on_error(association: Association) -> None:
    """Have an association end when something is sent that cannot be understood, such as half a command.

    pynetdicom lets its thread die of that, and Python prints why: with what was sent, perhaps.
    """
    machine = association.dul.state_machine
    act = machine.do_action

    def guarded(event: str) -> None:
        try:
            act(event)
        except Exception as error:  # whatever a peer can think of
            kind = type(error).__name__
            log_throttled(log, logging.WARNING, kind, "an association that is not understood ends: %s", kind)
            association.is_aborted, association.is_established = True, False
            association._kill = association.dul._kill_thread = True
            cast(AssociationSocket, association.dul.socket).close()

    machine.do_action = guarded  # type: ignore[method-assign]


class Handler(RequestHandler):
    """Makes an association of a connection; it reads no PDU that is longer than was agreed on."""

    def _create_association(self) -> Association:
        association = super()._create_association()
        line = cast(AssociationSocket, association.dul.socket)
        bound_pdus(line, self.server.ae.maximum_pdu_size, self.server.ae.network_timeout or 60.0)
        force_close_socket(line)
        end_on_error(association)
        cast(GatewayServer, self.server).began(association, self.client_address)
        return association


@dataclass
class _Stranger:
    """A connection that has not yet said who it is."""

    line: socket.socket  # a handle of its own: TLS takes the first one out of its socket
    deadline: Deadline

    @classmethod
    def of(cls, sock: socket.socket, seconds: float) -> _Stranger:
        line, deadline = sock.dup(), Deadline(seconds)
        deadline.__enter__()
        deadline.watch(lambda: line)
        return cls(line, deadline)

    def unwatch(self, *, close: bool = False) -> None:
        """Stop watching it."""
        self.deadline.__exit__(None, None, None)
        with suppress(OSError):
            if close:
                self.line.shutdown(socket.SHUT_RDWR)
        self.line.close()


class GatewayServer(ThreadedAssociationServer):
    """Accepts connections, some of one process at a time; several processes may share the port.

    Who has not said in time who it is, is cut off; where there is no room, the oldest of those is. So
    strangers keep nobody out.

    Parameters
    ----------
    tls
        What secures them; None: nothing does.
    most
        Connections at one time, those included that have not yet said who they are.
    handshake_seconds
        That a connection may take for the handshake of TLS and the request for an association together.
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
        self._counting = threading.Lock()
        self._strangers: dict[Any, _Stranger] = {}  # by address and port, the oldest first
        self._associations: WeakKeyDictionary[Association, Any] = WeakKeyDictionary()  # of strangers
        self._known: WeakSet[Association] = WeakSet()
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
        """Make room for a connection; refuse it where all are of those whom we know."""
        with self._counting:
            for address in [who for who, stranger in self._strangers.items() if stranger.deadline.over]:
                self._strangers.pop(address).unwatch()
            if sum(each.is_alive() for each in self._known) + len(self._strangers) >= self._most:
                log_throttled(log, logging.WARNING, "connections", "too many connections: some are closed")
                if not self._strangers:
                    return False
                self._strangers.pop(next(iter(self._strangers))).unwatch(close=True)
            self._strangers[client_address] = _Stranger.of(request, self._handshake_seconds)
        return True

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Shake hands, then let the association begin."""
        try:
            if self._tls is not None:
                request.settimeout(self._handshake_seconds)
                request = self._tls.wrap_socket(request, server_side=True)
            self.finish_request(request, client_address)
        except (OSError, RuntimeError) as error:
            log.warning("a connection from %s ended early: %s", client_address[0], type(error).__name__)
            self._let_go(client_address)
            self.shutdown_request(request)

    def began(self, association: Association, client_address: Any) -> None:
        """Remember whose association it is that begins."""
        with self._counting:
            self._associations[association] = client_address

    def is_known(self, association: Association) -> None:
        """Hear that an association was let in: its connection is watched no more."""
        with self._counting:
            self._known.add(association)
            client_address = self._associations.pop(association, None)
        self._let_go(client_address)

    def has_ended(self, association: Association) -> None:
        """Hear that a connection was closed, or refused.

        Until its request has come, pynetdicom's thread waits on for its whole time-out, and each wait is a
        thread: whoever connects and leaves a few hundred times a minute would take them all.
        """
        with self._counting:
            self._known.discard(association)
            client_address = self._associations.pop(association, None)
        self._let_go(client_address)
        if association.requestor.primitive is None:
            association.dul.to_user_queue.put(None)

    def _let_go(self, client_address: Any) -> None:
        with self._counting:
            stranger = self._strangers.pop(client_address, None)
        if stranger is not None:
            stranger.unwatch()

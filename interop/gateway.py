"""The DICOM receiver: verification and storage (C-ECHO, C-STORE) for the sites that have an AE title.

Run as ``python -m interop.gateway``. A data set is never decoded here: its bytes go to the store as they
came, and only then, with the row committed, is the object acknowledged.
"""

from __future__ import annotations

import logging
import signal
import ssl
import sys
import threading
import uuid
from dataclasses import dataclass, field
from typing import Any, cast
from weakref import WeakKeyDictionary

from pynetdicom import evt
from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.pdu import P_DATA_TF
from sqlalchemy.exc import SQLAlchemyError

from interop.listener import GatewayServer
from interop.peers import committed_of
from interop.quiet import quieten
from interop.sop_classes import receiver_contexts
from settings import Settings, SettingsError, get_settings, start_log
from store.base.errors import BlobFull, QuotaExceeded, ServiceError
from store.base.session import session_scope
from store.base.throttled_log import log_throttled
from store.intake import received
from store.intake.gateway_peers import CalledUnknown, Caller, CallingUnknown, admit
from store.intake.received import ObjectRefused, Source
from store.outgoing import deliveries
from vocabulary.dicom import IMPLEMENTATION_UID

log = logging.getLogger("fractureai.gateway")

SUCCESS, OUT_OF_RESOURCES, PROCESSING_FAILURE = 0x0000, 0xA700, 0x0110
IMPLEMENTATION_VERSION = "FRACTUREAI"
#: A-ASSOCIATE-RJ: result, source, reason (PS3.8, 9.3.4).
CALLED_UNKNOWN, CALLING_UNKNOWN, NOT_NOW, TOO_MANY = (1, 1, 7), (1, 1, 3), (2, 3, 1), (2, 3, 2)
ANYWHERE = "0.0.0.0"  # noqa: S104 - callers are known by AE title, address and certificate
#: That a connection may take until it has said who it is, the handshake of TLS included.
HANDSHAKE_SECONDS = 10.0
#: The status of a command that was not meant so, as those of `fractureai` have it.
CANNOT_START = 2


@dataclass
class _Sending:
    """What is known of an association: for whom it sends, what it has sent, how much of the next object."""

    source: Source
    studies: set[uuid.UUID] = field(default_factory=set)
    pending: int = 0


def tls_context(settings: Settings) -> ssl.SSLContext | None:
    """Return what secures connections, with client certificates; None where none is set.

    Raises
    ------
    SettingsError
        Only some of the three files are named, or one cannot be used.
    """
    files = (settings.gateway_tls_cert, settings.gateway_tls_key, settings.gateway_tls_ca)
    if not any(files):
        return None
    if not all(files):
        raise SettingsError(
            "FRACTUREAI_GATEWAY_TLS_CERT, _KEY and _CA go together: clients are known by their certificates"
        )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_cert_chain(settings.gateway_tls_cert, settings.gateway_tls_key)
        context.load_verify_locations(settings.gateway_tls_ca)
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(f"the gateway's certificates cannot be used: {error}") from error
    return context


def _tell(error: Exception, source: Source) -> None:
    """Log why an object could not be kept, once a minute, by kind: an error's text may quote the object."""
    kind = error.code if isinstance(error, ServiceError) else type(error).__name__
    log_throttled(log, logging.ERROR, kind, "objects from %s are not kept: %s", source.name, kind)


class Gateway:
    """One process of the receiver.

    Parameters
    ----------
    settings
        Where it listens, and its bounds.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._sendings: WeakKeyDictionary[Association, _Sending] = WeakKeyDictionary()
        self._letting_in = threading.Lock()
        quieten()
        entity = ApplicationEntity("FRACTUREAI")
        # pynetdicom's own bound counts those, too, whom nobody knows yet: ours is in `_admit`
        entity.maximum_associations = 4 * settings.gateway_associations
        entity.maximum_pdu_size = settings.gateway_pdu_bytes
        entity.network_timeout = settings.gateway_idle_seconds
        entity.acse_timeout = entity.dimse_timeout = settings.gateway_idle_seconds
        entity.implementation_class_uid = IMPLEMENTATION_UID
        entity.implementation_version_name = IMPLEMENTATION_VERSION
        self._server = GatewayServer(
            entity,
            (settings.gateway_host or ANYWHERE, settings.gateway_port),
            receiver_contexts(),
            [
                (evt.EVT_REQUESTED, self._asked),
                (evt.EVT_PDU_RECV, self._arriving),
                (evt.EVT_C_STORE, self._store),
                (evt.EVT_N_EVENT_REPORT, self._committed),
                (evt.EVT_RELEASED, self._ended),
                (evt.EVT_ABORTED, self._ended),
                (evt.EVT_CONN_CLOSE, self._ended),
            ],
            tls=tls_context(settings),
            most=2 * settings.gateway_associations,
            handshake_seconds=HANDSHAKE_SECONDS,
        )
        entity._servers.append(self._server)

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        host, port = self._server.server_address[:2]
        return str(host), int(port)

    def serve(self) -> None:
        """Take associations until `stop`."""
        self._server.serve_forever(poll_interval=0.2)

    def stop(self) -> None:
        """Take no more; what is not acknowledged yet, its sender sends again."""
        self._server.shutdown()
        for association in self._server.active_associations:
            association.abort()

    # what pynetdicom tells

    def _asked(self, event: evt.Event) -> None:
        """Let a caller in whom its site knows, from where it may come; refuse everybody else."""
        association = event.assoc
        request = cast(Any, association.requestor.primitive)
        caller = Caller(
            called=str(request.called_ae_title),
            calling=str(request.calling_ae_title),
            address=cast(Any, association.requestor.address_info).address,
        )
        refused: tuple[int, int, int] | None = None
        try:
            with session_scope() as session:
                sending = _Sending(admit(session, caller))
            if not self._admit(association, sending):
                refused = TOO_MANY
        except CalledUnknown:
            refused = CALLED_UNKNOWN
        except CallingUnknown:
            refused = CALLING_UNKNOWN
        except SQLAlchemyError as error:
            log.warning("an association is refused for now: %s", type(error).__name__)
            refused = NOT_NOW
        if refused is not None:
            log_throttled(
                log,
                logging.WARNING,
                f"refused {refused} {caller.address}",
                "an association from %s is refused: result %d, source %d, reason %d",
                caller.address,
                *refused,
            )
            association.requestor.ae_title = caller.calling
            association.acse.send_reject(*refused)
            association.is_rejected = True
            association.kill()
            self._server.has_ended(association)
            return
        association.acceptor.ae_title = caller.called
        self._server.is_known(association)

    def _admit(self, association: Association, sending: _Sending) -> bool:
        """Admit an association if the limits on open ones allow."""
        with self._letting_in:
            is_open = sum(each.is_alive() for each in list(self._sendings))
            if is_open >= self._settings.gateway_associations:
                return False
            self._sendings[association] = sending
        return True

    def _arriving(self, event: evt.Event) -> None:
        """End an association that sends more than an object may have, before memory holds it."""
        sending = self._sendings.get(event.assoc)
        if sending is None or not isinstance(event.pdu, P_DATA_TF):
            return
        sending.pending += event.pdu.pdu_length
        most = self._settings.max_file_bytes + (1 << 20)
        if sending.pending > most:
            log.warning("an association from %s is ended: its object is too large", sending.source.name)
            event.assoc.abort(block=False)
            return
        held = {each: one.pending for each, one in list(self._sendings.items()) if each.is_alive()}
        if sum(held.values()) > most:  # together they may have what one may have: its sender sends it again
            largest = max(held, key=lambda each: held[each])
            self._sendings[largest].pending = 0
            log.warning("objects that arrive together are too large: the largest is put off")
            largest.abort(block=False)

    def _store(self, event: evt.Event) -> int:
        """Keep an object, and say so."""
        sending = self._sendings[event.assoc]
        sending.pending = 0
        request = cast(C_STORE, event.request)
        dataset = request.DataSet.getvalue() if request.DataSet is not None else b""
        source = sending.source
        try:
            arrival = received.keep(
                source,
                dataset,
                str(event.context.transfer_syntax),
                sop_class=str(request.AffectedSOPClassUID),
                sop_uid=str(request.AffectedSOPInstanceUID),
            )
        except ObjectRefused as refused:
            log.warning("an object from %s is refused: %s", source.name, refused.refusal.value)
            return refused.refusal.status
        except Exception as error:  # whatever it is, the sender sends it again
            _tell(error, source)
            return OUT_OF_RESOURCES if isinstance(error, BlobFull | QuotaExceeded) else PROCESSING_FAILURE
        if arrival.study is not None:
            sending.studies.add(arrival.study)
        return SUCCESS

    def _committed(self, event: evt.Event) -> tuple[int, None]:
        """Hear which of our results an archive commits itself to keep."""
        sending = self._sendings[event.assoc]
        try:
            told = event.event_information
            with session_scope() as session:
                deliveries.record_commitment(
                    session, sending.source.site_id, str(told.get("TransactionUID", "")), *committed_of(told)
                )
        except Exception as error:  # its text may quote what was sent
            _tell(error, sending.source)
            return PROCESSING_FAILURE, None
        return SUCCESS, None

    def _ended(self, event: evt.Event) -> None:
        """Tell the store that nothing more comes on an association."""
        self._server.has_ended(event.assoc)
        sending = self._sendings.get(event.assoc)
        if sending is None or not sending.studies:
            return
        studies, sending.studies = sending.studies, set()
        try:
            received.sending_ended(sending.source.site_id, studies)
        except SQLAlchemyError as error:  # they are complete after a while without news, too
            log.warning("the end of an association was not noted: %s", type(error).__name__)


def _prepared() -> Gateway:
    """Return a receiver, or exit with a message and the status of a configuration error."""
    try:
        settings = get_settings().require("database_url", "broker_url", "blob_url", "secret_key")
        start_log(settings)
        return Gateway(settings)
    except SettingsError as error:
        told = str(error)
    except OSError as error:
        host, port = settings.gateway_host or ANYWHERE, settings.gateway_port
        told = f"Cannot listen on {host}:{port}: {error.strerror or error}."
    print(f"Error: {told}", file=sys.stderr)
    raise SystemExit(CANNOT_START)


def main() -> None:
    """Receive until SIGTERM or SIGINT."""
    gateway = _prepared()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    thread = threading.Thread(target=gateway.serve, name="gateway")
    thread.start()
    log.info("receiving DICOM at %s:%d", *gateway.address)
    stop.wait()
    gateway.stop()
    thread.join(timeout=5)


if __name__ == "__main__":
    main()

"""Client of an archive: query a study's patient, store an object, verify that it is kept."""

from __future__ import annotations

import io
import ssl
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any

import httpx
from pydicom.dataset import Dataset, FileDataset
from pydicom.filereader import dcmread
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import evt
from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association
from pynetdicom.pdu import A_ABORT_RQ
from pynetdicom.transport import AddressInformation, AssociationSocket

from interop.asking import SLOWEST, TooLong, ask, new_client, parsed
from interop.listener import bound_pdus, force_close_socket
from interop.quiet import quieten
from settings import Settings
from store.base.deadline import Deadline
from store.outgoing.deliveries import Protocol, authorization_of
from store.outgoing.delivery_tables import Destination
from vocabulary.dicom import IMPLEMENTATION_UID

STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
VERIFICATION = "1.2.840.10008.1.1"
COMMITMENT, COMMITMENT_INSTANCE = "1.2.840.10008.1.20.1", "1.2.840.10008.1.20.1.1"
#: That one waits for the answer on the same association.
COMMITMENT_SECONDS = 1.0
_PENDING = (0xFF00, 0xFF01)
#: What an archive may answer to a question for one study or one object: identifiers, and bytes by HTTP.
MAX_FOUND, MAX_ANSWERED = 1000, 4 << 20


def committed_of(information: Dataset) -> tuple[set[str], set[str]]:
    """Return which objects an archive commits itself to keep, and which it does not (PS3.4, J.3.3)."""

    def uids(word: str) -> set[str]:
        return {str(item.get("ReferencedSOPInstanceUID", "")) for item in information.get(word) or []}

    return uids("ReferencedSOPSequence"), uids("FailedSOPSequence")


class Trouble(Exception):
    """Something stands in the way now; it is tried again. The message says nothing of the object."""


class Refused(Exception):
    """The archive does not take the object, and would not if it were sent again."""


class Stopped(Exception):
    """The archive does not let us in: nothing more is sent there until a person has looked."""


class Answer(Enum):
    """What an archive says when it is asked; UNKNOWN where it cannot be asked, LATER where it will tell."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"
    LATER = "later"


@dataclass(frozen=True)
class Sought:
    """An object, and the patient under whose study it belongs."""

    study_uid: str
    series_uid: str
    sop_uid: str
    patient_id: str


class Peer(ABC):
    """An archive, for one exchange."""

    @abstractmethod
    def patients(self, sought: Sought) -> set[str] | None:
        """Return the patient ids that the archive has for the study; None where it answers no questions.

        Raises `Trouble`, `Stopped`.
        """

    @abstractmethod
    def send(self, data: bytes) -> None:
        """Send an object. Raises `Trouble`, `Refused`, `Stopped`."""

    @abstractmethod
    def has(self, sought: Sought) -> Answer:
        """Ask whether it has an object. Raises `Trouble`, `Stopped`."""

    def commit(self, sop_class: str, sop_uid: str, transaction_uid: str) -> Answer:
        """Ask the archive to commit itself to keep an object (PS3.4, J)."""
        return Answer.UNKNOWN

    def takes(self, sop_class: str) -> bool:
        """Tell whether the archive says that it takes a class. Raises `Trouble`, `Stopped`."""
        return False

    @abstractmethod
    def echo(self) -> None:
        """Ask whether it hears us. Raises `Trouble`, `Stopped`."""


def _is_passing(status: int) -> bool:
    """Tell whether a status says that the same may go well another time."""
    return status & 0xFF00 == 0xA700 or status == 0x0110


def peer_of(destination: Destination, settings: Settings) -> Peer:
    """Return the archive behind a destination."""
    if destination.protocol == Protocol.STOW:
        return DicomWebPeer(destination, settings)
    if destination.protocol == Protocol.FHIR:
        return FhirPeer(destination, settings)
    return DimsePeer(destination, settings)


# DIMSE


class _Caller(ApplicationEntity):
    """Asks for associations whose sockets a deadline shuts down: some waits of pynetdicom have no end."""

    def __init__(self, title: str, deadline: Deadline) -> None:
        super().__init__(title)
        self._deadline = deadline

    def _create_socket(
        self, assoc: Association, address: AddressInformation, tls_args: tuple[ssl.SSLContext, str] | None
    ) -> AssociationSocket:
        line = super()._create_socket(assoc, address, tls_args)
        bound_pdus(line, self.maximum_pdu_size, self.network_timeout or 60.0)
        force_close_socket(line)
        self._deadline.watch(lambda: line.socket)
        return line


class DimsePeer(Peer):
    """An archive that speaks the DICOM message service."""

    def __init__(self, destination: Destination, settings: Settings) -> None:
        self._destination = destination
        self._settings = settings
        quieten()

    @contextmanager
    def _association(
        self, *contexts: str, size: int = 0, handlers: Sequence[evt.EventHandlerType] = ()
    ) -> Iterator[Association]:
        """Give an association for one exchange, which ends in time however slowly the archive goes on.

        Parameters
        ----------
        size
            Bytes that are sent.

        Raises
        ------
        Trouble, Refused, Stopped
        """
        deadline = Deadline(self._settings.delivery_timeout_seconds + size / SLOWEST)
        try:
            with deadline:
                association = self._associate(deadline, contexts, handlers)
                try:
                    yield association
                finally:
                    association.release()
        except TimeoutError:
            raise Trouble("no answer in time") from None
        if deadline.over:
            raise Trouble("no answer in time")

    def _associate(
        self, deadline: Deadline, contexts: Sequence[str], handlers: Sequence[evt.EventHandlerType]
    ) -> Association:
        entity = _Caller(self._destination.calling, deadline)
        entity.implementation_class_uid = IMPLEMENTATION_UID
        timeout = self._settings.delivery_timeout_seconds
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = timeout
        entity.connection_timeout = min(10.0, timeout)
        for context in contexts:
            entity.add_requested_context(context, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
        host, _, port = self._destination.address.rpartition(":")
        tls = (self._tls(), host) if self._destination.tls else None
        association = entity.associate(
            host,
            int(port),
            ae_title=self._destination.called,
            tls_args=tls,
            evt_handlers=list(handlers),
        )
        if association.is_established:
            return association
        if association.is_rejected:
            answer: Any = association.acceptor.primitive
            if answer is not None and answer.result == 0x01:
                raise Stopped(f"the association is rejected for good: reason {answer.diagnostic}")
            raise Trouble("the association is rejected for now")
        if association.rejected_contexts:
            raise Refused("the archive does not take this class")
        raise Trouble("no association")

    def takes(self, sop_class: str) -> bool:
        """See `Peer.takes`: by what it accepts of an association."""
        try:
            with self._association(sop_class):
                pass
        except Refused:
            return False
        return True

    def _tls(self) -> ssl.SSLContext:
        settings = self._settings
        context = ssl.create_default_context(cafile=settings.gateway_tls_ca or None)
        if settings.gateway_tls_cert:
            context.load_cert_chain(settings.gateway_tls_cert, settings.gateway_tls_key)
        return context

    def echo(self) -> None:
        """See `Peer.echo`."""
        with self._association(VERIFICATION) as association:
            status = association.send_c_echo()
        if status.get("Status") != 0x0000:
            raise Trouble("no answer to C-ECHO")

    def send(self, data: bytes) -> None:
        """See `Peer.send`."""
        dataset: FileDataset = dcmread(io.BytesIO(data))
        with self._association(str(dataset.SOPClassUID), size=len(data)) as association:
            try:
                status = association.send_c_store(dataset).get("Status")
            except ValueError:  # no accepted context
                raise Refused("the archive does not take this class") from None
        if status is None:
            raise Trouble("no answer to C-STORE")
        if status == 0x0000 or status & 0xF000 == 0xB000:
            return
        if _is_passing(status):
            raise Trouble(f"status 0x{status:04X}")
        raise Refused(f"status 0x{status:04X}")

    def _find(self, wanted: Dataset) -> list[Dataset] | None:
        """Return what an archive finds; None where it answers no questions. Raises `Trouble`, `Stopped`."""
        found: list[Dataset] = []
        aborted = threading.Event()

        def hear(event: evt.Event) -> None:
            if isinstance(event.pdu, A_ABORT_RQ):
                aborted.set()

        try:
            with self._association(STUDY_ROOT_FIND, handlers=[(evt.EVT_PDU_RECV, hear)]) as association:
                for status, identifier in association.send_c_find(wanted, STUDY_ROOT_FIND):
                    code = status.get("Status") if status else None
                    if code is None:
                        if aborted.is_set():  # so archives answer whom they do not let ask
                            return None
                        raise Trouble("no answer to C-FIND")
                    if code in _PENDING:
                        if len(found) == MAX_FOUND:
                            raise Trouble("the archive finds more than was asked for")
                        if identifier is not None:
                            found.append(identifier)
                    elif _is_passing(code):
                        raise Trouble(f"status 0x{code:04X}")
                    elif code != 0x0000:
                        return None
        except (Refused, ValueError):  # it does not take questions
            return None
        return found

    def commit(self, sop_class: str, sop_uid: str, transaction_uid: str) -> Answer:
        """See `Peer.commit`: N-ACTION; the answer comes on this association, or on one of the peer's."""
        heard: list[Answer] = []
        told = threading.Event()

        def hear(event: evt.Event) -> tuple[int, None]:
            done, _ = committed_of(event.event_information)
            heard.append(Answer.YES if sop_uid in done else Answer.NO)
            told.set()
            return 0x0000, None

        wanted, reference = Dataset(), Dataset()
        reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = UID(sop_class), UID(sop_uid)
        wanted.TransactionUID = UID(transaction_uid)
        wanted.ReferencedSOPSequence = DicomSequence([reference])
        try:
            with self._association(COMMITMENT, handlers=[(evt.EVT_N_EVENT_REPORT, hear)]) as association:
                status, _ = association.send_n_action(wanted, 1, COMMITMENT, COMMITMENT_INSTANCE)
                if status.get("Status") != 0x0000:
                    return Answer.UNKNOWN
                told.wait(COMMITMENT_SECONDS)
        except (Trouble, Refused, ValueError):
            return heard[0] if heard else Answer.UNKNOWN
        return heard[0] if heard else Answer.LATER

    def patients(self, sought: Sought) -> set[str] | None:
        """See `Peer.patients`: C-FIND at study level."""
        wanted = Dataset()
        wanted.QueryRetrieveLevel, wanted.StudyInstanceUID, wanted.PatientID = "STUDY", sought.study_uid, ""
        found = self._find(wanted)
        return None if found is None else {str(each.get("PatientID", "")).strip() for each in found}

    def has(self, sought: Sought) -> Answer:
        """See `Peer.has`: C-FIND at instance level."""
        wanted = Dataset()
        wanted.QueryRetrieveLevel = "IMAGE"
        wanted.StudyInstanceUID, wanted.SeriesInstanceUID = sought.study_uid, sought.series_uid
        wanted.SOPInstanceUID = sought.sop_uid
        found = self._find(wanted)
        if found is None:
            return Answer.UNKNOWN
        uids = {str(each.get("SOPInstanceUID", "")) for each in found}
        return Answer.YES if sought.sop_uid in uids else Answer.NO


# DICOMweb


class HttpPeer(Peer):
    """Whoever is spoken to by HTTP."""

    def __init__(self, destination: Destination, settings: Settings) -> None:
        self._address = destination.address
        self._timeout = settings.delivery_timeout_seconds
        self._headers = {}
        if authorization := authorization_of(destination):
            self._headers["Authorization"] = authorization

    def _ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        headers = {**self._headers, **more.pop("headers", {})}
        try:
            with new_client(self._timeout) as client:
                answer = ask(
                    client,
                    method,
                    self._address + path,
                    seconds=self._timeout,
                    most=MAX_ANSWERED,
                    headers=headers,
                    **more,
                )
        except TooLong:
            raise Trouble("the answer is too long") from None
        except (httpx.HTTPError, OSError) as error:
            raise Trouble(f"no answer: {type(error).__name__}") from None
        if answer.status_code in {401, 403}:
            raise Stopped(f"the archive answers {answer.status_code}")
        if answer.status_code == 429 or answer.status_code >= 500:
            raise Trouble(f"the archive answers {answer.status_code}")
        return answer


class DicomWebPeer(HttpPeer):
    """An archive that speaks DICOMweb: STOW-RS to send, QIDO-RS to ask."""

    _BOUNDARY = "fractureai-5f0c4a1b9e7d"

    def _query(self, path: str, **parameters: str) -> list[dict[str, Any]] | None:
        """Return what an archive finds; None where it answers no questions. Raises `Trouble`, `Stopped`."""
        answer = self._ask("GET", path, params=parameters, headers={"Accept": "application/dicom+json"})
        if answer.status_code in {204, 404}:
            return []
        if answer.status_code != 200:
            return None
        try:
            found = parsed(answer)
        except ValueError:
            return None
        return found if isinstance(found, list) else None

    def echo(self) -> None:
        """See `Peer.echo`: a query for nothing."""
        if self._query("/studies", limit="1") is None:
            raise Trouble("no answer to a query")

    def send(self, data: bytes) -> None:
        """See `Peer.send`."""
        mark = b"--" + self._BOUNDARY.encode()
        body = mark + b"\r\nContent-Type: application/dicom\r\n\r\n" + data + b"\r\n" + mark + b"--\r\n"
        kind = f'multipart/related; type="application/dicom"; boundary={self._BOUNDARY}'
        answer = self._ask(
            "POST",
            "/studies",
            content=body,
            headers={"Content-Type": kind, "Accept": "application/dicom+json"},
        )
        try:
            told = parsed(answer)
        except ValueError:
            told = {}
        failed = told.get("00081198", {}).get("Value", []) if isinstance(told, dict) else []
        if answer.status_code in {200, 202} and not failed:
            return
        reasons = [int(code) for item in failed for code in item.get("00081197", {}).get("Value", [])]
        said = ", ".join(f"0x{reason:04X}" for reason in reasons) or f"HTTP {answer.status_code}"
        if any(map(_is_passing, reasons)):
            raise Trouble(said)
        raise Refused(said)

    def patients(self, sought: Sought) -> set[str] | None:
        """See `Peer.patients`: QIDO-RS for the study."""
        found = self._query("/studies", StudyInstanceUID=sought.study_uid, includefield="00100020")
        if found is None:
            return None
        return {str((each.get("00100020", {}).get("Value") or [""])[0]).strip() for each in found}

    def has(self, sought: Sought) -> Answer:
        """See `Peer.has`: QIDO-RS for the instance."""
        path = f"/studies/{sought.study_uid}/series/{sought.series_uid}/instances"
        found = self._query(path, SOPInstanceUID=sought.sop_uid)
        if found is None:
            return Answer.UNKNOWN
        uids = {str((each.get("00080018", {}).get("Value") or [""])[0]) for each in found}
        return Answer.YES if sought.sop_uid in uids else Answer.NO


# FHIR


class FhirPeer(HttpPeer):
    """A FHIR R4 server: a transaction to send, a search to ask."""

    _TYPE = "application/fhir+json"

    def echo(self) -> None:
        """See `Peer.echo`: its capabilities."""
        if self._ask("GET", "/metadata", headers={"Accept": self._TYPE}).status_code != 200:
            raise Trouble("no answer to a question for its capabilities")

    def send(self, data: bytes) -> None:
        """See `Peer.send`: what is there already is not made again."""
        answer = self._ask(
            "POST", "", content=data, headers={"Content-Type": self._TYPE, "Accept": self._TYPE}
        )
        if answer.status_code not in {200, 201}:
            raise Refused(f"HTTP {answer.status_code}")

    def patients(self, sought: Sought) -> set[str] | None:
        """See `Peer.patients`: the resources name their patient themselves."""
        return None

    def has(self, sought: Sought) -> Answer:
        """See `Peer.has`: a search for the report by its identifier."""
        wanted = {"identifier": f"urn:dicom:uid|urn:oid:{sought.sop_uid}", "_summary": "count"}
        try:
            answer = self._ask("GET", "/DiagnosticReport", params=wanted, headers={"Accept": self._TYPE})
            found = parsed(answer)
        except ValueError:
            return Answer.UNKNOWN
        total = found.get("total") if isinstance(found, dict) and answer.status_code == 200 else None
        if not isinstance(total, int):
            return Answer.UNKNOWN
        return Answer.YES if total else Answer.NO

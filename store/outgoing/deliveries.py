"""What goes back to archives: destinations of a site, and each object on its way to one."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable, Sequence
from datetime import timedelta
from enum import StrEnum
from urllib.parse import urlsplit

from sqlalchemy import Select, delete, func, literal, or_, select, union_all, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session, aliased

from settings import get_settings
from store.accounts.accounts import write_audit
from store.base.blobs import get_blobs
from store.base.errors import NotFound, ServiceError
from store.base.paging import Keyset, Page, moment
from store.base.sealing import sealer
from store.base.session import session_scope
from store.base.tables import (
    Batch,
    Bundle,
    Image,
    Study,
    StudyFinding,
    Work,
    WorkKind,
    WorkState,
    work_is_open,
)
from store.outgoing.delivery_tables import Delivery, Destination
from store.queue import backoff, work
from vocabulary.dicom import derived_uid
from vocabulary.states import Triage


class Protocol(StrEnum):
    """How a destination is spoken to."""

    DIMSE = "dimse"
    STOW = "stow"
    FHIR = "fhir"


class ObjectKind(StrEnum):
    """What goes back: a Secondary Capture an image; of a study a page that sums it up, reports and a PDF."""

    SC = "sc"
    SUMMARY = "summary"
    SR = "sr"
    SIGNED = "signed"  # what a reader signed, as a structured report
    PDF = "pdf"
    FHIR = "fhir"  # of a study, as resources; it goes to FHIR servers alone

    @property
    def is_report(self) -> bool:
        """Whether it is a structured report, which exists in two classes."""
        return self in {ObjectKind.SR, ObjectKind.SIGNED}

    @property
    def is_of_version(self) -> bool:
        """Whether a version of the finding that stands on the same basis has another one."""
        return self in {ObjectKind.PDF, ObjectKind.SIGNED, ObjectKind.FHIR}


#: What goes to archives.
DICOM_KINDS = tuple(kind for kind in ObjectKind if kind is not ObjectKind.FHIR)


class DeliveryState(StrEnum):
    """What became of an object.

    `sent`: the archive said that it took it. `committed`: it said so when asked anew.
    """

    WAITING = "waiting"
    SENT = "sent"
    COMMITTED = "committed"
    FAILED = "failed"
    IDENTITY_CONFLICT = "identity_conflict"
    SUPPRESSED = "suppressed"


#: What became of an object, for a person.
STATE_WORDS = {
    DeliveryState.WAITING: "waiting",
    DeliveryState.SENT: "taken, not confirmed",
    DeliveryState.COMMITTED: "in the archive",
    DeliveryState.FAILED: "failed",
    DeliveryState.IDENTITY_CONFLICT: "held: another patient",
    DeliveryState.SUPPRESSED: "not sent",
}


#: Objects of a state are counted no further: a page must not count a million rows.
MAX_COUNTED = 10_000

#: In these nothing more is done by itself.
ENDED = frozenset(
    {
        DeliveryState.COMMITTED,
        DeliveryState.FAILED,
        DeliveryState.IDENTITY_CONFLICT,
        DeliveryState.SUPPRESSED,
    }
)


class InvalidDestination(ServiceError):
    """A destination is described wrongly."""

    code, status = "invalid_destination", 422
    title = "That does not describe a destination."
    advice = "DICOM: host:port and both AE titles. DICOMweb: the address of the service, https://..."


class DeliveryBusy(ServiceError):
    """The object is being sent at this moment."""

    code, status = "delivery_busy", 409
    title = "The object is on its way at this moment."
    advice = "Look again in a minute."


# destinations


def add_destination(
    session: Session,
    site_id: uuid.UUID,
    name: str,
    protocol: Protocol,
    address: str,
    *,
    called: str = "",
    calling: str = "",
    tls: bool = False,
    authorization: str = "",
    kinds: Sequence[ObjectKind] = (),
    triage: Sequence[Triage] = (),
    bundle: str | None = None,
    check_patient: bool = True,
    by: uuid.UUID | None = None,
) -> Destination:
    """Send a site's results to an archive from now on; what was found before does not go there.

    Parameters
    ----------
    authorization
        Of DICOMweb and FHIR: the value of the header of that name; it is kept sealed.
    kinds
        None: all that such a destination takes.
    triage, bundle
        Only studies that came out so, only what this bundle says.
    check_patient
        Ask the archive first whether its study is the same patient's.

    Raises
    ------
    InvalidDestination
    """
    if protocol is Protocol.DIMSE:
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 65536:
            raise InvalidDestination("the address is written host:port")
        if not (0 < len(called) <= 16 and 0 < len(calling) <= 16):
            raise InvalidDestination("both AE titles have 1 to 16 letters")
    elif not address.startswith(("https://", "http://")):
        raise InvalidDestination("the address begins with https://")
    elif "@" in urlsplit(address).netloc:  # it would be shown and written down with every address
        raise InvalidDestination("the address holds no password; --authorization-file does")
    takes = (ObjectKind.FHIR,) if protocol is Protocol.FHIR else DICOM_KINDS
    if not set(kinds) <= set(takes):
        raise InvalidDestination("an archive takes no resources, and a FHIR server nothing else")
    destination = Destination(
        site_id=site_id,
        name=name,
        protocol=protocol.value,
        address=address.rstrip("/"),
        called=called,
        calling=calling,
        tls=tls,
        secret=sealer(b"destinations").encrypt(authorization.encode()).decode() if authorization else None,
        kinds=[kind.value for kind in kinds or takes],
        triage=[each.value for each in triage],
        bundle=bundle,
        check_patient=check_patient,
    )
    session.add(destination)
    session.flush()
    write_audit(session, site_id, by, "destination_added", destination.id, address=address)
    return destination


def authorization_of(destination: Destination) -> str:
    """Return the header by which a DICOMweb service knows us; empty where it asks for none."""
    if destination.secret is None:
        return ""
    return sealer(b"destinations").decrypt(destination.secret.encode()).decode()


def list_destinations(session: Session, site_id: uuid.UUID) -> list[Destination]:
    """Return where a site's results go."""
    query = select(Destination).where(Destination.site_id == site_id, Destination.removed_at.is_(None))
    return list(session.scalars(query.order_by(Destination.created_at, Destination.id)))


def get_destination(session: Session, site_id: uuid.UUID, name: str) -> Destination:
    """Return a destination by its name. Raises `NotFound`."""
    found = [each for each in list_destinations(session, site_id) if name in {each.name, str(each.id)}]
    if not found:
        raise NotFound
    return found[0]


def remove_destination(session: Session, destination: Destination, *, by: uuid.UUID | None = None) -> None:
    """Send nothing more there; what has not been sent is suppressed."""
    destination.removed_at, destination.secret = func.now(), None
    waiting = select(Delivery).where(
        Delivery.destination_id == destination.id, Delivery.state == DeliveryState.WAITING
    )
    for each in session.scalars(waiting):
        end(session, each, DeliveryState.SUPPRESSED, "the destination was removed")
        work.cancel_units(session, each.id)
    write_audit(session, destination.site_id, by, "destination_removed", destination.id)


def resume(session: Session, destination: Destination) -> None:
    """Resume a stopped destination: what waits for it is due now."""
    destination.stopped = destination.rest_until = destination.last_error = None
    destination.failures = 0
    session.flush()
    backoff.make_due(session, _waiting_units(destination), func.clock_timestamp())


def _waiting_units(destination: Destination) -> Select[uuid.UUID]:
    """Return what nobody has taken of what goes there, in the order in which it is tried."""
    return (
        select(Work.id)
        .join(Delivery, Delivery.id == Work.subject_id)
        .where(
            Delivery.destination_id == destination.id,
            Delivery.state.not_in(ENDED),
            Work.kind == WorkKind.DELIVER,
            Work.state == WorkState.DUE,
        )
        .order_by(Delivery.tried_at.asc().nulls_first(), Delivery.created_at)
    )


def back_off(session: Session, destination: Destination, error: str, pause: float, most: float) -> None:
    """Record that an archive did not answer; the longest-waiting delivery tries it next."""
    backoff.back_off(session, destination, _waiting_units(destination), error, pause, most)


def wake(session: Session, destination: Destination) -> None:
    """Record that an archive answered: deliveries not tried yet are due now."""
    backoff.wake(session, destination, _waiting_units(destination).where(Delivery.attempts == 0))


# deliveries


def object_uid(
    study_uid: str, bundle_hash: str, kind: ObjectKind, source_uid: str, basis: str, version: int
) -> str:
    """Return the SOP Instance UID of an object: the same reading has the same, a new version another.

    A signed report stands on the same basis as the unsigned one and is another document.
    """
    said = f"{basis}|{version}" if kind.is_of_version else basis
    return derived_uid("object", study_uid, bundle_hash, kind.value, source_uid, said)


def queue(session: Session, batch: Batch, findings: Iterable[StudyFinding]) -> int:
    """Queue the objects of study findings to the site's destinations; in the transaction that finds them.

    Nothing that a bundle says which the site has not promoted ever leaves, and nothing of images that did not
    come as DICOM: their patient is not known. Returns how many were queued.
    """
    if batch.run_id is not None or not batch.promoted:
        return 0
    destinations = list_destinations(session, batch.site_id)
    if not destinations:
        return 0
    bundle_hash = session.get_one(Bundle, batch.bundle).sha256
    n = 0
    for finding in findings:
        study_uid = session.get_one(Study, finding.study_id).study_uid
        images = _returnable(session, finding)
        if not study_uid or not images:
            continue
        for destination in destinations:
            if destination.triage and finding.triage not in destination.triage:
                continue
            if destination.bundle not in {None, batch.bundle}:
                continue
            for kind in map(ObjectKind, destination.kinds):
                if kind is ObjectKind.PDF and finding.report_key is None:
                    continue
                if kind is ObjectKind.SIGNED and finding.review_id is None:
                    continue
                for image in images if kind is ObjectKind.SC else images[:1]:
                    uid = object_uid(
                        study_uid, bundle_hash, kind, image.sop_uid, finding.basis, finding.version
                    )
                    n += _add(session, destination, finding, image, kind, uid)
    return n


def _returnable(session: Session, finding: StudyFinding) -> list[Image]:
    """Return the images of a finding whose patient is sealed beside them, in the order of their numbers."""
    query = select(Image).where(
        Image.study_id == finding.study_id,
        Image.finding_id.is_not(None),
        Image.envelope_key.is_not(None),
        Image.sop_uid != "",
    )
    of_number: dict[int, Image] = {}
    for image in session.scalars(query.order_by(Image.seq)):
        of_number[image.number or 0] = image  # the newest copy of the same bytes
    return [of_number[number] for number in sorted(of_number)]


def _add(
    session: Session,
    destination: Destination,
    finding: StudyFinding,
    image: Image,
    kind: ObjectKind,
    uid: str,
) -> int:
    row = insert(Delivery).values(
        id=uuid.uuid4(),
        site_id=finding.site_id,
        destination_id=destination.id,
        study_id=finding.study_id,
        study_finding_id=finding.id,
        image_id=image.id,
        kind=kind.value,
        sop_uid=uid,
    )
    made = session.scalar(
        row.on_conflict_do_nothing(index_elements=["destination_id", "sop_uid"]).returning(Delivery.id)
    )
    if made is None:
        return 0
    work.add_unit(session, WorkKind.DELIVER, site_id=finding.site_id, subject_id=made)
    return 1


def earlier_report(session: Session, delivery: Delivery) -> Delivery | None:
    """Return the last report of the same kind that the archive has of the study, by the same bundle."""
    this, other = aliased(StudyFinding), aliased(StudyFinding)
    query = (
        select(Delivery)
        .join(other, other.id == Delivery.study_finding_id)
        .join(this, this.id == delivery.study_finding_id)
        .where(
            Delivery.destination_id == delivery.destination_id,
            Delivery.study_id == delivery.study_id,
            Delivery.kind == delivery.kind,
            Delivery.sha256.is_not(None),
            other.bundle == this.bundle,
            other.version < this.version,
        )
        .order_by(other.version.desc())
    )
    return session.scalars(query.limit(1)).first()


def end(session: Session, delivery: Delivery, state: DeliveryState, detail: str = "") -> None:
    """Record an object's outcome."""
    delivery.state, delivery.detail = state.value, detail
    if state is DeliveryState.COMMITTED:
        delivery.committed_at = func.clock_timestamp()


def record_commitment(
    session: Session, site_id: uuid.UUID, transaction_uid: str, done: Collection[str], failed: Collection[str]
) -> int:
    """Apply a storage commitment result; an object that failed in it is sent again.

    An answer to an earlier request says nothing of what was sent since. Returns how many were named.
    """
    query = select(Delivery).where(
        Delivery.site_id == site_id,
        Delivery.transaction_uid == transaction_uid,
        Delivery.state == DeliveryState.SENT,
    )
    n = 0
    for delivery in session.scalars(query.with_for_update()):
        if delivery.instance_uid in done:
            end(session, delivery, DeliveryState.COMMITTED, "by storage commitment")
        elif delivery.instance_uid in failed:
            end(session, delivery, DeliveryState.WAITING, "the archive does not commit itself to keep it")
        else:
            continue
        n += 1
        unit = select(Work).where(Work.subject_id == delivery.id, Work.state == WorkState.DUE)
        for each in session.scalars(unit.with_for_update(skip_locked=True)):
            each.due_at = func.clock_timestamp()
    return n


def fail_abandoned() -> None:
    """Fail what waits although its work has failed: tries that lost their worker, something away for days."""
    with session_scope() as session:
        session.execute(
            update(Delivery)
            .where(
                Delivery.state.not_in(ENDED),
                work.is_abandoned(WorkKind.DELIVER, Delivery.id),
            )
            .values(state=DeliveryState.FAILED.value, detail="it was tried in vain")
            .execution_options(synchronize_session=False)
        )


_BY_CREATION = Keyset((Delivery.created_at, Delivery.id), (moment, uuid.UUID), descending=True)


def list_deliveries(
    session: Session,
    site_id: uuid.UUID,
    *,
    state: str | None = None,
    cursor: str | None = None,
    limit: int = 50,
) -> Page[tuple[Delivery, Destination]]:
    """Return a site's objects on their way and where to, the newest first. Raises `InvalidCursor`."""
    query = (
        select(Delivery, Destination)
        .join(Destination, Destination.id == Delivery.destination_id)
        .where(Delivery.site_id == site_id)
    )
    if state:
        query = query.where(Delivery.state == state)
    rows: list[tuple[Delivery, Destination]] = [
        (row, to) for row, to in session.execute(_BY_CREATION.after(query, cursor).limit(limit + 1))
    ]
    return _BY_CREATION.page(rows, limit, lambda row: row[0])


def count(session: Session, site_id: uuid.UUID) -> dict[str, int]:
    """Return how many objects of a site are in each state, counted up to `MAX_COUNTED`; none of it is 0."""
    parts = [
        select(literal(state.value), func.count()).select_from(
            select(Delivery.id)
            .where(Delivery.site_id == site_id, Delivery.state == state.value)
            .limit(MAX_COUNTED)
            .subquery()
        )
        for state in DeliveryState
    ]
    return {state: int(n) for state, n in session.execute(union_all(*parts)) if n}


def get_delivery(session: Session, site_id: uuid.UUID, delivery_id: uuid.UUID) -> Delivery:
    """Return one object of the site, locked. Raises `NotFound`."""
    query = select(Delivery).where(Delivery.id == delivery_id, Delivery.site_id == site_id)
    found = session.scalar(query.with_for_update())
    if found is None:
        raise NotFound
    return found


def expire_envelopes(limit: int = 500) -> None:
    """Delete sealed identities whose study has had its last delivery long ago, and of which nothing waits.

    What failed or is held for a person still waits; what an archive took and cannot be asked for does not.
    """
    days = get_settings().envelope_keep_days
    if not days:
        return
    of_study = select(Delivery.id).where(Delivery.study_id == Image.study_id)
    waits = [DeliveryState.WAITING, DeliveryState.FAILED, DeliveryState.IDENTITY_CONFLICT]
    last = func.greatest(Delivery.created_at, Delivery.sent_at, Delivery.committed_at)
    recent = last > func.clock_timestamp() - timedelta(days=days)
    unsettled = (Delivery.state == DeliveryState.SENT) & Delivery.id.in_(
        select(Work.subject_id).where(Work.kind == WorkKind.DELIVER, work_is_open())
    )
    with session_scope() as session:
        images = session.scalars(
            select(Image)
            .where(
                Image.envelope_key.is_not(None),
                of_study.exists(),
                ~of_study.where(or_(Delivery.state.in_(waits), recent, unsettled)).exists(),
            )
            .order_by(Image.id)
            .limit(limit)
            .with_for_update(skip_locked=True)
        ).all()
        keys = [image.envelope_key for image in images if image.envelope_key]
        for image in images:
            image.envelope_key = None
    for key in keys:
        get_blobs().delete(key)


def retry(session: Session, delivery: Delivery, *, by: uuid.UUID | None = None) -> None:
    """Send an object again that failed, was held or suppressed. Raises `DeliveryBusy`."""
    if delivery.state not in ENDED:
        raise DeliveryBusy
    session.execute(delete(Work).where(Work.subject_id == delivery.id, Work.kind == WorkKind.DELIVER))
    end(session, delivery, DeliveryState.WAITING)
    delivery.sent_at = delivery.committed_at = None
    delivery.attempts = 0
    work.add_unit(session, WorkKind.DELIVER, site_id=delivery.site_id, subject_id=delivery.id)
    write_audit(session, delivery.site_id, by, "delivery_retried", delivery.id)


def suppress(session: Session, delivery: Delivery, *, by: uuid.UUID | None = None) -> None:
    """Never send an object that has not been sent yet. Raises `DeliveryBusy`."""
    if delivery.state in {DeliveryState.SENT, DeliveryState.COMMITTED}:
        raise DeliveryBusy
    end(session, delivery, DeliveryState.SUPPRESSED, "by a person")
    work.cancel_units(session, delivery.id)
    write_audit(session, delivery.site_id, by, "delivery_suppressed", delivery.id)

"""Delivers one object: builds it, checks the archive's patient, sends it, and asks for its commitment."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC
from urllib.parse import quote

from billiard.exceptions import SoftTimeLimitExceeded  # type: ignore[import-untyped]
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from interop import objects
from interop.peers import Answer, Peer, Refused, Sought, Stopped, Trouble, peer_of
from interop.private_keys import KeyMissing, KeyRing
from interop.reading import ReadImage, Reading, Signature
from pipeline.types import AttentionRegion
from settings import get_settings
from store.base.blobs import get_blobs
from store.base.errors import BlobMissing, ServiceError
from store.base.session import session_scope
from store.base.tables import Bundle, Finding, Image, Site, Study, StudyFinding
from store.intake import received
from store.intake.envelopes import Binding, EnvelopeUnreadable
from store.outgoing import deliveries, notices
from store.outgoing.deliveries import ENDED, DeliveryState, ObjectKind
from store.outgoing.delivery_tables import Delivery, Destination
from store.queue import backoff, work
from store.queue.work import Lease
from store.reading import studies
from store.reading.review_tables import Review
from store.results import fhir_resources
from vocabulary.dicom import COMPREHENSIVE_3D_SR, derived_uid
from vocabulary.states import Answer as ReadersAnswer
from vocabulary.states import Triage

log = logging.getLogger("fractureai.deliver")

LONGEST_PAUSE = 3600.0
#: Kinds of objects that hold the report.
_WITH_PDF = frozenset({ObjectKind.PDF, ObjectKind.FHIR})
#: Kinds of objects that show pictures.
_PICTURES = frozenset({ObjectKind.SC, ObjectKind.SUMMARY})
#: After so long an object that cannot be sent fails; a person may try it again.
GIVE_UP_SECONDS = 3 * 86_400.0
#: Seconds until an archive is asked whether it has what it took, when it does not show it at once.
ASK_AGAIN = 10.0
COMMITMENT_ASKED = "the archive is asked to commit itself to keep it"
#: Times that one asks before the object is sent again.
ASKED_OFTEN = 6


@dataclass(frozen=True)
class _Made:
    """An object as it goes out, and what an archive is asked of it."""

    data: bytes
    sought: Sought

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()


class _Outdated(Exception):
    """What the object says is not the newest that is known of the study."""


def deliver(lease: Lease) -> bool:
    """Take one object a step further: waiting, sent, committed; or write down why not."""
    with session_scope() as session:
        unit = work.hold(session, lease)
        found = _open(session, lease)
        if found is None:
            work.pass_stage(session, unit, None)
            return False
        delivery, destination = found
        wait = (
            LONGEST_PAUSE
            if destination.stopped
            else backoff.seconds_to_wait(session, destination, _step_seconds())
        )
        if wait:
            work.postpone(session, lease, wait)
            return False
        delivery.attempts += 1
        delivery.tried_at = func.clock_timestamp()
    state = DeliveryState(delivery.state)
    try:
        outcome = _step(delivery, destination)
    except Trouble as error:
        outcome = _Outcome(state, str(error), again=_pause(delivery.attempts), heard=False)
    except SoftTimeLimitExceeded:
        outcome = _Outcome(state, "no answer in time", again=_pause(delivery.attempts), heard=False)
    except (KeyMissing, BlobMissing) as error:
        outcome = _Outcome(state, str(error), again=_pause(delivery.attempts), heard=None)
    except Stopped as error:
        outcome = _Outcome(state, str(error), again=LONGEST_PAUSE, stop=True)
    except (Refused, ValueError) as error:
        why = str(error) if isinstance(error, Refused) else "it cannot be made of this reading"
        outcome = _Outcome(DeliveryState.FAILED, why)
    except EnvelopeUnreadable:
        why = "the sealed identity does not open: it was altered or moved"
        outcome = _Outcome(DeliveryState.FAILED, why, heard=None)
    except (SQLAlchemyError, ServiceError, work.StaleLease):
        raise
    except _Outdated:
        why = "a newer version of the reading has replaced it"
        outcome = _Outcome(DeliveryState.SUPPRESSED, why, heard=None)
    except Exception as error:  # its text may quote the patient: it reaches no log
        log.error("delivery %s: %s", lease.subject_id, type(error).__name__)  # noqa: TRY400
        why = f"an error of ours: {type(error).__name__}"
        outcome = _Outcome(DeliveryState.FAILED, why, heard=None)
    _write_down(lease, outcome)
    return False


@dataclass(frozen=True)
class _Outcome:
    """What came of a step.

    Attributes
    ----------
    again
        Seconds until the next one; None: there is none.
    stop
        Nothing more goes to the destination until a person has looked.
    heard
        Whether the archive answered: one that did not rests. None: it was not asked.
    """

    state: DeliveryState
    detail: str = ""
    again: float | None = None
    stop: bool = False
    heard: bool | None = True
    sha256: str | None = None


def _pause(attempts: int) -> float:
    return float(min(LONGEST_PAUSE, get_settings().delivery_retry_seconds * 2.0 ** min(attempts - 1, 20)))


def _step_seconds() -> float:
    """Return for how many seconds one step may last: a few exchanges, and then a word in the database."""
    return 6 * get_settings().delivery_timeout_seconds


def _open(session: Session, lease: Lease) -> tuple[Delivery, Destination] | None:
    """Return the object and where it goes, both locked, unless there is nothing more to do."""
    found = _locked(session, lease)
    if found is None:
        return None
    delivery, destination = found
    if destination.removed_at is not None:
        deliveries.end(session, delivery, DeliveryState.SUPPRESSED, "the destination was removed")
        return None
    return found


def _locked(session: Session, lease: Lease) -> tuple[Delivery, Destination] | None:
    """Lock the destination, then the object; None when there is nothing more to do with it."""
    destination_id = session.scalar(select(Delivery.destination_id).where(Delivery.id == lease.subject_id))
    if destination_id is None:
        return None
    destination = session.get_one(
        Destination, destination_id, with_for_update={"key_share": True}, populate_existing=True
    )
    delivery = session.scalar(
        select(Delivery)
        .where(Delivery.id == lease.subject_id)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    if delivery is None or delivery.state in ENDED:
        return None
    return delivery, destination


def _step(delivery: Delivery, destination: Destination) -> _Outcome:
    peer = peer_of(destination, get_settings())
    if ObjectKind(delivery.kind).is_report and delivery.sha256 is None:
        delivery = _decided(delivery, peer)
    made = _make(delivery)
    if delivery.state == DeliveryState.SENT:
        answer = peer.has(made.sought)
        if answer is Answer.YES:
            return _Outcome(DeliveryState.COMMITTED, "found by a query")
        if answer is Answer.UNKNOWN or delivery.attempts % ASKED_OFTEN:
            return _Outcome(DeliveryState.SENT, delivery.detail, again=_pause(delivery.attempts))
    if delivery.sha256 not in {None, made.sha256}:
        raise Refused("it is no longer made of the same bytes: this version of the software differs")
    if destination.check_patient:
        theirs = peer.patients(made.sought)
        if theirs and theirs != {made.sought.patient_id}:
            return _Outcome(
                DeliveryState.IDENTITY_CONFLICT, "the archive has the study under another patient"
            )
    if delivery.kind != ObjectKind.FHIR:  # known as ours before it leaves
        with session_scope() as session:
            received.register_own_object(
                session, delivery.site_id, delivery.instance_uid, _class_of(delivery)
            )
    peer.send(made.data)
    promised = _ask_commitment(peer, delivery)
    if promised is Answer.YES:
        return _Outcome(DeliveryState.COMMITTED, "by storage commitment", sha256=made.sha256)
    if promised is Answer.NO:
        raise Trouble("the archive does not commit itself to keep it")
    try:
        answer = peer.has(made.sought)
    except Trouble as error:  # it was taken: it is asked for later, not sent again
        told = f"the archive took it; {error}"
        return _Outcome(DeliveryState.SENT, told, again=ASK_AGAIN, heard=False, sha256=made.sha256)
    if answer is Answer.YES:
        return _Outcome(DeliveryState.COMMITTED, "found by a query", sha256=made.sha256)
    if promised is Answer.LATER:
        return _Outcome(DeliveryState.SENT, COMMITMENT_ASKED, again=ASK_AGAIN, sha256=made.sha256)
    if answer is Answer.UNKNOWN:
        told = "the archive took it and cannot be asked whether it has it"
        return _Outcome(DeliveryState.SENT, told, sha256=made.sha256)
    return _Outcome(DeliveryState.SENT, "not shown yet", again=ASK_AGAIN, sha256=made.sha256)


def _ask_commitment(peer: Peer, delivery: Delivery) -> Answer:
    """Ask for commitment, by a transaction of its own each time; whoever receives the answer knows it."""
    transaction = derived_uid("commitment", str(delivery.id), str(delivery.attempts))
    with session_scope() as session:
        kept = session.get(Delivery, delivery.id)
        if kept is not None:
            # `sent` before it is asked: the answer may come on another association at once
            kept.transaction_uid, kept.state = transaction, DeliveryState.SENT.value
    return peer.commit(_class_of(delivery), delivery.instance_uid, transaction)


def _class_of(delivery: Delivery) -> str:
    return delivery.sop_class or objects.CLASSES.get(delivery.kind, "")


def _decided(delivery: Delivery, peer: Peer) -> Delivery:
    """Choose a report's class, as its archive takes it, and what it replaces there; both stay so.

    Raises
    ------
    Trouble, Stopped
    """
    if delivery.sop_class is not None:
        return delivery
    sop_class = COMPREHENSIVE_3D_SR if peer.takes(COMPREHENSIVE_3D_SR) else _class_of(delivery)
    with session_scope() as session:
        kept = session.get_one(Delivery, delivery.id)
        earlier = deliveries.earlier_report(session, kept)
        kept.sop_class, kept.predecessor_id = sop_class, earlier.id if earlier else None
        return kept


def _write_down(lease: Lease, outcome: _Outcome) -> None:
    with session_scope() as session:
        unit = work.hold(session, lease)
        found = _locked(session, lease)
        if found is None:  # suppressed, or erased, meanwhile
            work.pass_stage(session, unit, None)
            return
        delivery, destination = found
        age = session.scalar(select(func.extract("epoch", func.clock_timestamp() - delivery.created_at)))
        state, again = outcome.state, outcome.again
        if again is not None and float(age or 0) > GIVE_UP_SECONDS:
            again = None
            state = DeliveryState.FAILED if state is DeliveryState.WAITING else state
        if outcome.sha256 is not None:
            delivery.sha256, delivery.sent_at = outcome.sha256, func.clock_timestamp()
        deliveries.end(session, delivery, state, outcome.detail)
        if outcome.stop:
            destination.stopped = outcome.detail
            notices.destination_stopped(session, destination.site_id, destination.name, outcome.detail)
            log.error("destination %s is stopped: %s", destination.id, outcome.detail)
        if again is None:
            work.pass_stage(session, unit, None)
        if outcome.heard:
            deliveries.wake(session, destination)
        elif outcome.heard is False:
            rest = _pause(destination.failures + 1)
            deliveries.back_off(session, destination, outcome.detail, rest, _step_seconds())
            again = None if again is None else max(again, rest)
        if again is not None:
            work.postpone(session, lease, again)
    log.info("delivery %s: %s %s", lease.subject_id, outcome.state.value, outcome.detail)


# making the object


def _make(delivery: Delivery) -> _Made:
    """Make an object of its study. Raises `_Outdated`, `KeyMissing`, `EnvelopeUnreadable`."""
    ring = KeyRing(get_settings().gateway_keys, get_settings().gateway_key_command)
    blobs = get_blobs()
    with session_scope() as session:
        finding = session.get_one(StudyFinding, delivery.study_finding_id)
        study = session.get_one(Study, delivery.study_id)
        bundle = session.get_one(Bundle, finding.bundle)
        state = studies.study_state(session, study.id, finding.bundle)
        latest = studies.latest_finding(session, study.id, finding.bundle)
        if state.basis != finding.basis or latest is None or latest.basis != finding.basis:
            raise _Outdated
        if ObjectKind(delivery.kind).is_of_version and latest.id != finding.id:
            raise _Outdated
        signature = _signature(session, finding, state.images)
        earlier = session.get(Delivery, delivery.predecessor_id) if delivery.predecessor_id else None
        images = [i for i in state.images if i.finding_id is not None and i.sop_uid]
        ids = [image.finding_id for image in images]
        said = {f.id: f for f in session.scalars(select(Finding).where(Finding.id.in_(ids)))}
    read = []
    for image in images:
        if image.envelope_key is None:
            continue
        binding = Binding(image.site_id, image.study_uid, image.id)
        identity = ring.open(blobs.get(image.envelope_key), binding)
        key = image.overlay_key or image.display_key
        picture = blobs.get(key) if key and delivery.kind in _PICTURES else b""
        read.append(_read_image(image, said[image.finding_id], bundle, identity, picture))  # type: ignore[index]
    own = [each for each in read if each.sop_uid == _source_uid(delivery)] or read[:1]
    if not own:
        raise Refused("the sealed identity was deleted: nothing can go back for this study any more")
    source = own[0].source()
    patient, issuer = (str(source.get(name, "") or "").strip() for name in ("PatientID", "IssuerOfPatientID"))
    reading = Reading(
        id=finding.id,
        study_uid=study.study_uid,
        accession=study.accession,
        patient=patient,
        patient_system=f"{fhir_resources.SYSTEM}:patient-id"
        + (f":{quote(issuer, safe='')}" if issuer else ""),
        bundle=bundle.name,
        bundle_hash=bundle.sha256,
        label_meaning=str(bundle.manifest.get("label_meaning", "abnormal")),
        version=finding.version,
        triage=Triage(finding.triage),
        made_at=finding.created_at.astimezone(UTC),
        images=tuple(read),
        pdf=blobs.get(finding.report_key) if finding.report_key and delivery.kind in _WITH_PDF else None,
        signed_by=finding.signed_by or "",
        signed_at=finding.signed_at.astimezone(UTC) if finding.signed_at else None,
        signature=signature,
        earlier=(_class_of(earlier), earlier.instance_uid) if earlier else None,
    )
    if delivery.kind == ObjectKind.FHIR:
        data = json.dumps(fhir_resources.transaction(reading), sort_keys=True).encode()
        return _Made(data, Sought(study.study_uid, "", reading.uid, patient))
    data = objects.make(reading, delivery.kind, _class_of(delivery), delivery.instance_uid, own)
    sought = Sought(study.study_uid, reading.series_uid(delivery.kind), delivery.instance_uid, patient)
    return _Made(data, sought)


def _signature(session: Session, finding: StudyFinding, images: Sequence[Image]) -> Signature | None:
    """Return what a reader signed of this version of the finding."""
    if finding.review_id is None or finding.signed_at is None:
        return None
    review = session.get_one(Review, finding.review_id)
    place, number = None, studies.numbers(images).get(review.image_id) if review.image_id else None
    if number is not None and review.x is not None and review.y is not None:
        place = number, review.x, review.y, review.width or 0, review.height or 0
    return Signature(
        reader=review.reader,
        organization=session.get_one(Site, finding.site_id).name,
        signed_at=finding.signed_at.astimezone(UTC),
        answer=ReadersAnswer(review.answer),
        comment=review.comment,
        place=place,
    )


def _source_uid(delivery: Delivery) -> str:
    with session_scope() as session:
        return session.get_one(Image, delivery.image_id).sop_uid


def _read_image(image: Image, finding: Finding, bundle: Bundle, identity: bytes, picture: bytes) -> ReadImage:
    model = bundle.manifest.get("models", {}).get(finding.region, {})
    thresholds = model.get("thresholds", {}) if image.probability is not None else {}
    return ReadImage(
        number=image.number or 0,
        identity=identity,
        picture=picture,
        sop_uid=image.sop_uid,
        region=finding.region,
        laterality=image.laterality,
        triage=Triage(image.triage) if image.triage else None,
        probability=image.probability,
        low=thresholds.get("low"),
        high=thresholds.get("high"),
        attention=tuple(AttentionRegion(**region) for region in image.attention_regions),
    )

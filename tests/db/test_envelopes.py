"""Sealed identities end some days after the last delivery of their study; keys rotate and are destroyed."""

from __future__ import annotations

import stat
import uuid
from pathlib import Path

import pytest
from sqlalchemy import func, select, text, update

from interop.private_keys import KeyMissing, KeyRing, make_key_pair
from settings import get_settings
from store.base.blobs import BlobStore
from store.base.session import session_scope
from store.base.tables import Image, StudyFinding, Work, WorkKind
from store.intake import batches, envelopes
from store.intake.envelopes import Binding, EnvelopeUnreadable
from store.outgoing import deliveries
from store.outgoing.deliveries import DeliveryState, Protocol
from store.outgoing.delivery_tables import Delivery
from store.queue import work
from tests.db.conftest import new_files
from tests.reading import read_batch

STATES = ("committed", "sent", "waiting", "failed", "identity_conflict", "suppressed")


@pytest.fixture
def images(site: uuid.UUID, blobs: BlobStore) -> dict[str, uuid.UUID]:
    """A study for each state of its one delivery, each with a sealed identity."""
    with session_scope() as session:
        batch, _ = batches.create_batch(session, site_id=site, user_id=None)
        batches.add_files(session, batch.id, site, new_files(len(STATES)))
        batches.submit(session, batch.id, site)
        destination = deliveries.add_destination(
            session, site, "archive", Protocol.STOW, "https://pacs.example"
        )
    read_batch(batch.id)
    found = {}
    with session_scope() as session:
        findings = session.scalars(select(StudyFinding).order_by(StudyFinding.id)).all()
        for n, (state, finding) in enumerate(zip(STATES, findings, strict=True)):
            image = session.scalars(select(Image).where(Image.study_id == finding.study_id)).one()
            image.envelope_key = f"images/{image.id}/envelope"
            blobs.put(image.envelope_key, b"sealed")
            session.add(
                Delivery(
                    site_id=site,
                    destination_id=destination.id,
                    study_id=finding.study_id,
                    study_finding_id=finding.id,
                    image_id=image.id,
                    kind="sr",
                    sop_uid=f"1.2.{n}",
                    state=state,
                )
            )
            found[state] = image.id
    return found


def sealed(images: dict[str, uuid.UUID], blobs: BlobStore) -> set[str]:
    with session_scope() as session:
        kept = {state for state, id_ in images.items() if session.get_one(Image, id_).envelope_key}
    assert kept == {state for state, id_ in images.items() if blobs.exists(f"images/{id_}/envelope")}
    return kept


def test_an_identity_ends_after_its_days_unless_something_waits_for_it(
    images: dict[str, uuid.UUID], blobs: BlobStore, settings_env: pytest.MonkeyPatch
) -> None:
    deliveries.expire_envelopes()
    assert sealed(images, blobs) == set(STATES), "it is too early"
    with session_scope() as session:
        session.execute(
            update(Delivery).values(created_at=func.clock_timestamp() - text("interval '40 days'"))
        )
        one = session.scalars(select(Delivery).where(Delivery.state == "committed")).one()
        one.committed_at = func.clock_timestamp() - text("interval '29 days'")
        asked = session.scalars(select(Delivery).where(Delivery.state == "sent")).one()
        unit = work.add_unit(session, WorkKind.DELIVER, site_id=asked.site_id, subject_id=asked.id)
    deliveries.expire_envelopes()
    assert sealed(images, blobs) == set(STATES) - {"suppressed"}
    with session_scope() as session:
        session.execute(
            update(Delivery)
            .where(Delivery.state == DeliveryState.COMMITTED)
            .values(committed_at=func.clock_timestamp() - text("interval '31 days'"))
        )
        session.execute(update(Work).where(Work.id == unit.id).values(state="done"))
    settings_env.setenv("FRACTUREAI_ENVELOPE_KEEP_DAYS", "0")
    get_settings.cache_clear()
    deliveries.expire_envelopes()
    assert "committed" in sealed(images, blobs), "for ever"
    settings_env.delenv("FRACTUREAI_ENVELOPE_KEEP_DAYS")
    get_settings.cache_clear()
    deliveries.expire_envelopes()
    assert sealed(images, blobs) == {"waiting", "failed", "identity_conflict"}


BINDING = Binding(uuid.UUID(int=1), "1.2.3", uuid.UUID(int=2))


def test_a_key_management_service_gives_the_private_key_out(tmp_path: Path) -> None:
    public = make_key_pair(tmp_path / "vault")
    sealed = envelopes.seal(public, b"who", BINDING)
    script = tmp_path / "kms"
    script.write_text(f'#!/bin/sh\necho asked >> {tmp_path}/log\ncat "{tmp_path}/vault/$1.key"\n')
    script.chmod(0o700)
    ring = KeyRing("", f"{script}")
    assert ring.open(sealed, BINDING) == b"who"
    assert KeyRing("", f"{script}").open(sealed, BINDING) == b"who"
    assert (tmp_path / "log").read_text() == "asked\n", "once a process"
    other = envelopes.seal(make_key_pair(tmp_path / "elsewhere"), b"who", BINDING)
    with pytest.raises(KeyMissing, match="gives no private key"):
        ring.open(other, BINDING)
    with pytest.raises(KeyMissing):
        KeyRing("", str(tmp_path / "nothing")).open(other, BINDING)
    short = tmp_path / "short"
    short.write_text("#!/bin/sh\necho abcd\n")
    short.chmod(0o700)
    with pytest.raises(EnvelopeUnreadable):
        KeyRing("", str(short)).open(other, BINDING)


def test_rotation_keeps_what_was_sealed_and_a_destroyed_key_erases_it(
    database: object, site: uuid.UUID, tmp_path: Path
) -> None:
    ring = KeyRing(str(tmp_path / "keys"))
    sealed = []
    for n in range(3):
        public = make_key_pair(tmp_path / "keys")
        with session_scope() as session:
            envelopes.add_key(session, site, public)
            assert envelopes.current_key(session, site) == public
        sealed.append(envelopes.seal(public, b"%d" % n, BINDING))
    assert [ring.open(each, BINDING) for each in sealed] == [b"0", b"1", b"2"]
    destroyed = tmp_path / "keys" / f"{envelopes.sealed_to(sealed[1])}.key"
    assert stat.S_IMODE(destroyed.stat().st_mode) == 0o400
    destroyed.unlink()
    assert [ring.has(envelopes.sealed_to(each)) for each in sealed] == [True, False, True]
    with pytest.raises(KeyMissing):
        ring.open(sealed[1], BINDING)

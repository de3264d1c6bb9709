"""A reading on its way to a FHIR server: once, under the patient's own id, tried again, stopped."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
from sqlalchemy import select

from interop.peers import peer_of
from interop.private_keys import make_key_pair
from settings import get_settings
from store.base.session import session_scope
from store.intake import envelopes
from store.outgoing import deliveries
from store.outgoing.deliveries import InvalidDestination, ObjectKind, Protocol
from store.outgoing.delivery_tables import Delivery, Destination
from tests.interop.conftest import film
from tests.interop.fhir_server import running_fhir
from tests.interop.test_delivery import run_due, states
from tests.worker.conftest import cache_folder, kept_folder, service_settings, site_id, untrained_bundle
from tests.worker.test_reading import read

__all__ = ["cache_folder", "kept_folder", "service_settings", "site_id", "untrained_bundle"]


def test_a_reading_reaches_a_fhir_server_once(
    site_id: uuid.UUID, tmp_path: Path, service_settings: pytest.MonkeyPatch
):
    service_settings.setenv("FRACTUREAI_GATEWAY_KEYS", str(tmp_path / "keys"))
    get_settings.cache_clear()
    with running_fhir() as server:
        with session_scope() as session:
            envelopes.add_key(session, site_id, make_key_pair(tmp_path / "keys"))
            with pytest.raises(InvalidDestination):
                deliveries.add_destination(
                    session, site_id, "x", Protocol.FHIR, server.address, kinds=[ObjectKind.PDF]
                )
            to = deliveries.add_destination(
                session, site_id, "emr", Protocol.FHIR, server.address, authorization="Bearer of ours"
            )
            peer_of(to, get_settings()).echo()
        read(site_id, {"a.dcm": film("a study", longest=160, PatientID="ZZYZX-4711")})
        assert states() == {"fhir": ("waiting", "")}
        server.refuse = 503
        run_due()
        assert states()["fhir"][0] == "waiting"
        server.refuse = None
        run_due()
        assert states() == {"fhir": ("committed", "found by a query")}
        assert server.authorization == "Bearer of ours"
        kinds = sorted(each["resourceType"] for each in server.resources)
        assert kinds == ["Device", "DiagnosticReport", "Observation"]
        (report,) = [each for each in server.resources if each["resourceType"] == "DiagnosticReport"]
        assert report["subject"]["identifier"]["value"] == "ZZYZX-4711"
        assert report["status"] == "preliminary"
        assert report["presentedForm"][0]["contentType"] == "application/pdf"
        with session_scope() as session:
            deliveries.retry(session, session.scalars(select(Delivery)).one())
        run_due()
        assert states()["fhir"][0] == "committed"
        assert sorted(each["resourceType"] for each in server.resources) == kinds, "each once"
        server.refuse = 401
        with session_scope() as session:
            deliveries.retry(session, session.scalars(select(Delivery)).one())
        run_due()
        with session_scope() as session:
            assert "401" in (session.scalars(select(Destination.stopped)).one() or "")

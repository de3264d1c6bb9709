"""The page of deliveries: what became of each object, sending again, never sending."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select

from store.accounts.accounts import Role
from store.base.session import session_scope
from store.base.tables import Audit, Work, WorkKind
from store.outgoing import deliveries
from store.outgoing.deliveries import DeliveryState
from store.outgoing.delivery_tables import Delivery
from tests.web.world import make_world


def test_an_object_is_shown_suppressed_and_sent_again(app: Any) -> None:
    world = make_world(app, Role.ADMIN)
    browser = world.browser(app.test_client())
    page = browser.client.get("/admin/deliveries").text
    assert "structured report" in page
    assert "https://archive.example/dicom-web" in page
    assert "AI output, to be verified by a clinician" in page
    place = f"/admin/deliveries/{world.ids['delivery_id']}"
    assert browser.post(f"{place}/retry").status_code == 409  # it is on its way
    assert browser.post(f"{place}/suppress").status_code == 303
    assert "not sent" in browser.client.get("/admin/deliveries").text
    assert browser.post(f"{place}/retry").status_code == 303
    with session_scope() as session:
        assert session.get_one(Delivery, world.ids["delivery_id"]).state == DeliveryState.WAITING
        unit = session.scalars(select(Work).where(Work.kind == WorkKind.DELIVER)).one()
        assert unit.subject_id == world.ids["delivery_id"]
        said = session.scalars(select(Audit.action).where(Audit.action.like("delivery_%"))).all()
        assert sorted(said) == ["delivery_retried", "delivery_suppressed"]


def test_what_was_sent_cannot_be_suppressed_and_a_stopped_destination_is_shown(app: Any) -> None:
    world = make_world(app, Role.ADMIN)
    with session_scope() as session:
        row = session.get_one(Delivery, world.ids["delivery_id"])
        row.state = DeliveryState.COMMITTED.value
        to = deliveries.list_destinations(session, row.site_id)[0]
        to.stopped = "the archive answers 403"
        with pytest.raises(deliveries.DeliveryBusy):
            deliveries.suppress(session, row)
    page = world.browser(app.test_client()).client.get("/admin/deliveries").text
    assert "the archive answers 403" in page
    assert "in the archive" in page

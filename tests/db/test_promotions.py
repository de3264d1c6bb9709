"""Rolling back walks back through what served, and never to a bundle that was left by rolling back."""

from __future__ import annotations

import uuid

import pytest

from store.base.session import session_scope
from store.base.tables import Bundle
from store.bundles import promotions
from store.bundles.promotions import NothingToRollBack, RollbackChanged


@pytest.fixture
def bundles_b_c_d(site: uuid.UUID) -> None:
    with session_scope() as session:
        for name in ("b2", "b3", "b4"):
            session.add(Bundle(name=name, sha256="0" * 64, manifest={"name": name}, files={}))


def promote(site: uuid.UUID, name: str) -> None:
    with session_scope() as session:
        promotions.promote(session, site, None, name)


def roll_back(site: uuid.UUID, expected: str | None = None) -> str:
    with session_scope() as session:
        shown = promotions.rollback_target(session, site)
    with session_scope() as session:
        landed = promotions.roll_back(session, site, None, expected)
        assert landed == shown  # where the page said that it leads
        assert promotions.serving(session, site).default_bundle == landed
    return landed


def test_two_rollbacks_walk_back_two_promotions(site: uuid.UUID, bundles_b_c_d: None) -> None:
    promote(site, "b2")
    promote(site, "b3")
    assert [roll_back(site), roll_back(site)] == ["b2", "b1"]
    with session_scope() as session:
        assert promotions.rollback_target(session, site) is None
    with pytest.raises(NothingToRollBack):
        roll_back(site)


def test_what_was_rolled_back_is_passed_over_later(site: uuid.UUID, bundles_b_c_d: None) -> None:
    promote(site, "b2")
    promote(site, "b3")
    assert roll_back(site) == "b2"
    promote(site, "b4")
    assert [roll_back(site), roll_back(site)] == ["b2", "b1"]


def test_a_second_press_of_the_same_button_is_refused(site: uuid.UUID, bundles_b_c_d: None) -> None:
    promote(site, "b2")
    promote(site, "b3")
    assert roll_back(site, "b2") == "b2"
    with pytest.raises(RollbackChanged):
        roll_back(site, "b2")
    with session_scope() as session:
        assert promotions.serving(session, site).default_bundle == "b2"

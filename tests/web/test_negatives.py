"""A site lets a bundle call a body part negative on its own figures, and takes that back."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select

from store.base.session import session_scope
from store.base.tables import Audit
from tests.web.asking import Asker, Browser
from tests.web.test_admin_api import code, fits

FIGURES = {
    "sha256": "0" * 64,
    "dataset": "our hands, 2026",
    "positives": 40,
    "found": 39,
    "negatives": 60,
    "cleared": 30,
}
HAND = "/bundles/b1/negatives/hand"


def hand_of(answer: Any) -> Any:
    (hand,) = [part for part in fits("Negatives", answer)["items"] if part["region"] == "hand"]
    return hand


def test_a_part_is_unlocked_for_one_site_shown_audited_and_locked_again(
    ask: Asker, stranger: Asker, browser: Browser
) -> None:
    assert not hand_of(ask.get("/bundles/b1/negatives"))["may_say_negative"], "the bundle carries no figures"
    assert "no, in doubt instead" in browser.client.get("/bundles/b1").text

    hand = hand_of(ask("PUT", HAND, json=FIGURES))
    assert (hand["may_say_negative"], hand["by_bundle"]) == (True, False)
    said = hand["validation"]
    assert (said["positives"], said["found"], said["dataset"]) == (40, 39, "our hands, 2026")
    assert said["interval"] == pytest.approx([0.8712, 0.9956], abs=1e-4)
    assert "39 of 40 found (our hands, 2026" in browser.client.get("/bundles/b1").text
    assert not hand_of(stranger.get("/bundles/b1/negatives"))["may_say_negative"]
    assert stranger("DELETE", HAND).status_code == 204
    assert hand_of(ask.get("/bundles/b1/negatives"))["may_say_negative"], "that was the other site's"

    assert browser.post("/bundles/b1/negatives/hand/lock").status_code == 303
    assert not hand_of(ask.get("/bundles/b1/negatives"))["may_say_negative"]
    with session_scope() as session:
        lines = session.scalars(select(Audit).where(Audit.action.like("negative_%")).order_by(Audit.id))
        kept = [(line.action, line.object_id, line.detail["region"]) for line in lines]
    assert kept == [("negative_unlocked", "b1", "hand"), ("negative_locked", "b1", "hand")]


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        ({"positives": 29, "found": 29}, "negative_not_earned"),
        ({"found": 36}, "negative_not_earned"),
        ({"sha256": "1" * 64}, "another_bundle"),
        ({"found": 41}, "invalid_request"),
        ({"positives": 40.5}, "invalid_request"),
        ({"found": True}, "invalid_request"),
        ({"cleared": -1}, "invalid_request"),
        ({"dataset": " "}, "invalid_request"),
    ],
)
def test_figures_that_do_not_show_it_are_refused(ask: Asker, change: dict[str, Any], refusal: str) -> None:
    assert code(ask("PUT", HAND, json=FIGURES | change)) == refusal
    assert not hand_of(ask.get("/bundles/b1/negatives"))["may_say_negative"]


def test_a_part_that_the_bundle_does_not_read_is_not_found(ask: Asker) -> None:
    assert ask("PUT", "/bundles/b1/negatives/skull", json=FIGURES).status_code == 404
    assert ask("PUT", "/bundles/none/negatives/hand", json=FIGURES).status_code == 404

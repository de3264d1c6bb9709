"""The JSON API: drafts, what is asked wrongly, pages of lists, ETags, states, and other sites' ids."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from sqlalchemy import select

from store.base.blobs import get_blobs
from store.base.session import session_scope
from store.base.tables import Image
from tests.reading import read_batch
from tests.web.asking import Asker, png
from web.base import pacing

PROBLEM = "application/problem+json"


def problem(answer: Any, status: int, code: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.content_type == PROBLEM
    body: dict[str, Any] = answer.json
    assert body["status"] == status
    assert body["code"] == code
    assert set(body) >= {"type", "title", "detail", "advice"}
    assert all(body[name] for name in ("type", "title", "detail", "advice"))
    return body


def test_a_draft_has_what_was_asked(ask: Asker) -> None:
    answer = ask.post("/batches", json={"label": " Night ", "priority": "urgent", "report": False})
    assert answer.status_code == 201
    batch = answer.json
    assert answer.headers["Location"] == batch["links"]["self"]
    assert (batch["label"], batch["priority"], batch["status"], batch["bundle"]) == (
        "Night",
        "urgent",
        "draft",
        "b1",
    )
    assert batch["options"] == {"report": False, "heatmap": True}
    assert set(batch["counts"].values()) == {0}
    assert ask.get(batch["links"]["self"]).json == batch


def test_a_draft_without_a_body(ask: Asker) -> None:
    assert ask.post("/batches").status_code == 201


@pytest.mark.parametrize(
    "body",
    [
        {"lable": "x"},
        {"label": 7},
        {"label": "x" * 201},
        {"label": "a\nb"},
        {"priority": "now"},
        {"priority": 1},
        {"priority": []},
        {"report": "yes"},
        {"bundle": 5},
        [],
        "text",
    ],
)
def test_a_wrong_body_is_told(ask: Asker, body: object) -> None:
    problem(ask.post("/batches", json=body), 422, "invalid_request")


def test_what_is_not_json(ask: Asker) -> None:
    problem(ask.post("/batches", data="{", content_type="application/json"), 422, "invalid_request")
    problem(ask.post("/batches", data="label=x", content_type="text/plain"), 415, "unsupported_media_type")
    problem(ask.post("/batches", json={"bundle": "none"}), 422, "unknown_bundle")


def test_one_idempotency_key_makes_one_batch(ask: Asker) -> None:
    first = ask.post("/batches", json={"label": "x"}, headers={"Idempotency-Key": "k1"})
    again = ask.post("/batches", json={"label": "x"}, headers={"Idempotency-Key": "k1"})
    assert first.status_code == again.status_code == 201
    assert first.json["id"] == again.json["id"]
    assert "Idempotent-Replayed" not in first.headers
    assert again.headers["Idempotent-Replayed"] == "true"
    other = ask.post("/batches", json={"label": "y"}, headers={"Idempotency-Key": "k1"})
    problem(other, 422, "idempotency_key_reused")
    problem(ask.post("/batches", headers={"Idempotency-Key": "x" * 201}), 422, "invalid_request")
    assert len(ask.get("/batches").json["items"]) == 1


def test_the_same_key_of_another_site_is_another_batch(ask: Asker, stranger: Asker) -> None:
    mine = ask.post("/batches", headers={"Idempotency-Key": "k"}).json["id"]
    theirs = stranger.post("/batches", headers={"Idempotency-Key": "k"}).json["id"]
    assert mine != theirs


def test_batches_are_listed_by_pages(ask: Asker) -> None:
    ids = [ask.draft(label=str(i)) for i in range(5)]
    seen: list[str] = []
    path = "/batches?limit=2"
    while path:
        page = ask.get(path).json
        assert len(page["items"]) <= 2
        seen += [batch["id"] for batch in page["items"]]
        path = page["next"]
    assert seen == ids[::-1]


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("limit=0", "invalid_query"),
        ("limit=1001", "invalid_query"),
        ("limit=ten", "invalid_query"),
        ("page=2", "invalid_query"),
        ("cursor=nonsense", "invalid_cursor"),
        ("cursor=", "invalid_query"),
    ],
)
def test_a_wrong_query_is_told(ask: Asker, query: str, code: str) -> None:
    problem(ask.get(f"/batches?{query}"), 422, code)


def test_images_are_filtered_and_paged(ask: Asker) -> None:
    batch = ask.draft()
    ask.send(batch, *((f"{i}.png", png(str(i))) for i in range(5)), ("note.txt", b"text"))
    ask.post(f"/batches/{batch}/submit")
    read_batch(batch)
    everything = ask.get(f"/batches/{batch}/images?limit=4").json
    assert [image["filename"] for image in everything["items"]] == ["0.png", "1.png", "2.png", "3.png"]
    rest = ask.get(everything["next"]).json
    assert [image["filename"] for image in rest["items"]] == ["4.png", "note.txt"]
    assert rest["next"] is None
    rejected = ask.get(f"/batches/{batch}/images?status=rejected").json["items"]
    assert [image["reason"]["code"] for image in rejected] == ["not_an_image"]
    for name in ("positive", "doubt", "negative"):
        found = ask.get(f"/batches/{batch}/images?triage={name}&region=hand").json["items"]
        assert len(found) == ask.get(f"/batches/{batch}").json["triage"][name]
        assert {image["triage"] for image in found} <= {name}
    assert ask.get(f"/batches/{batch}/images?region=elbow").json["items"] == []
    for query in ("status=ready", "triage=bad", "region=Hand%00", "sort=name"):
        problem(ask.get(f"/batches/{batch}/images?{query}"), 422, "invalid_query")


def test_an_image_says_what_was_found(ask: Asker) -> None:
    batch = ask.draft()
    ask.send(batch, ("a/hand.png", png("1")))
    ask.post(f"/batches/{batch}/submit")
    read_batch(batch)
    listed = ask.get(f"/batches/{batch}/images").json["items"][0]
    image = ask.get(listed["links"]["self"]).json
    assert image == listed
    assert (image["filename"], image["status"], image["region"], image["bundle"]) == (
        "a/hand.png",
        "done",
        "hand",
        "b1",
    )
    assert image["thresholds"] == {"low": 0.2, "high": 0.7}
    assert image["region_probabilities"] == {"hand": 0.9}
    assert image["study_triage"] == "doubt"
    original = ask.get(image["links"]["original"])
    assert original.data == b"a/hand.png"
    assert original.headers["Content-Disposition"].startswith("attachment")
    assert original.content_type == "application/octet-stream"
    overlay = ask.get(image["links"]["overlay"])
    assert (overlay.data, overlay.content_type) == (b"a heat map", "image/jpeg")
    assert overlay.headers["Content-Disposition"] == f'inline; filename="{image["id"]}-overlay.jpg"'
    assert (
        ask.get(image["links"]["overlay"], headers={"If-None-Match": overlay.headers["ETag"]}).status_code
        == 304
    )
    report = ask.get(image["links"]["report"])
    assert report.content_type == "application/pdf"
    assert report.data.startswith(b"%PDF")
    assert image["links"]["display"] is None
    problem(ask.get(f"/images/{image['id']}/display"), 404, "not_found")
    for answer in (original, overlay, report):
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "hand.png" not in str(answer.headers)


def test_a_poll_costs_nothing_until_something_changes(ask: Asker) -> None:
    batch = ask.draft()
    first = ask.get(f"/batches/{batch}")
    same = ask.get(f"/batches/{batch}", headers={"If-None-Match": first.headers["ETag"]})
    assert (same.status_code, same.data) == (304, b"")
    assert same.headers["ETag"] == first.headers["ETag"]
    ask.send(batch, ("a.png", png("1")))
    changed = ask.get(f"/batches/{batch}", headers={"If-None-Match": first.headers["ETag"]})
    assert changed.status_code == 200
    assert changed.json["counts"]["uploaded"] == 1


def test_many_who_poll_are_told_to_come_back_later(ask: Asker) -> None:
    batch = ask.draft()
    etag = ask.get(f"/batches/{batch}").headers["ETag"]
    told = [
        float(ask.get(f"/batches/{batch}", headers={"If-None-Match": etag}).headers[pacing.HEADER])
        for _ in range(40)
    ]
    assert told[0] < 2
    assert told[-1] > 3
    assert pacing.HEADER not in ask.get("/batches").headers


def test_a_batch_goes_through_its_states(ask: Asker) -> None:
    batch = ask.draft()
    problem(ask.post(f"/batches/{batch}/submit"), 409, "batch_empty")
    ask.send(batch, ("a.png", png("1")), ("b.png", png("2")))
    answer = ask.post(f"/batches/{batch}/submit", json={})
    assert (answer.status_code, answer.json["status"]) == (202, "queued")
    assert ask.post(f"/batches/{batch}/submit").json["counts"]["queued"] == 2
    problem(ask.send(batch, ("c.png", png("3"))), 409, "batch_not_draft")
    assert ask.post(f"/batches/{batch}/pause").json["status"] == "paused"
    assert ask.post(f"/batches/{batch}/resume").json["status"] == "queued"
    problem(ask.post(f"/batches/{batch}/retry"), 409, "wrong_state")
    problem(ask.post(f"/batches/{batch}/submit", json={"x": 1}), 422, "invalid_request")
    answer = ask.post(f"/batches/{batch}/cancel")
    assert answer.status_code == 202
    assert answer.json["counts"]["cancelled"] == 2
    assert answer.json["reasons"] == {"upload_deleted": 2}
    assert not list(get_blobs().keys("incoming/"))
    read_batch(batch)  # ends it
    answer = ask.post(f"/batches/{batch}/retry")
    problem(answer, 409, "uploads_deleted")
    assert "2 files ('a.png', 'b.png')" in answer.json["detail"]


def test_failed_images_can_be_read_again(ask: Asker) -> None:
    batch = ask.draft()
    ask.send(batch, ("a.png", png("1")), ("b.png", png("2")))
    ask.post(f"/batches/{batch}/submit")
    read_batch(batch, fail=frozenset({"b.png"}))
    assert ask.get(f"/batches/{batch}").json["counts"]["failed"] == 1
    with session_scope() as session:
        image = session.scalars(
            select(Image).where(Image.batch_id == uuid.UUID(batch), Image.status == "failed")
        ).one()
        upload, image.incoming_key = image.incoming_key, None
    problem(ask.post(f"/batches/{batch}/retry"), 409, "uploads_deleted")
    assert "Retry" not in ask.client.get(f"/batches/{batch}", headers=ask.headers).text
    with session_scope() as session:
        session.get_one(Image, image.id).incoming_key = upload
    again = ask.post(f"/batches/{batch}/retry").json
    assert (again["status"], again["counts"]["done"], again["counts"]["queued"]) == ("queued", 1, 1)


def test_another_sites_ids_are_not_there(ask: Asker, stranger: Asker) -> None:
    batch = ask.draft()
    ask.send(batch, ("a.png", png("1")))
    ask.post(f"/batches/{batch}/submit")
    read_batch(batch)
    image = ask.get(f"/batches/{batch}/images").json["items"][0]["id"]
    here = [
        *(f"/batches/{batch}{rest}" for rest in ("", "/images", "/results.csv", "/results.zip")),
        *(f"/images/{image}{rest}" for rest in ("", "/original", "/display", "/overlay", "/report")),
    ]
    for path in here:
        problem(stranger.get(path), 404, "not_found")
    for action in ("submit", "cancel", "pause", "resume", "retry"):
        problem(stranger.post(f"/batches/{batch}/{action}"), 404, "not_found")
    problem(stranger.send(batch, ("b.png", png("2"))), 404, "not_found")
    assert stranger.get("/batches").json["items"] == []


def test_wrong_addresses_and_methods(ask: Asker) -> None:
    problem(ask.get("/nothing"), 404, "not_found")
    problem(ask.get(f"/batches/{uuid.uuid4()}"), 404, "not_found")
    problem(ask.get("/batches/not-an-id"), 404, "not_found")
    answer = ask("DELETE", "/batches")
    problem(answer, 405, "method_not_allowed")
    assert "GET" in answer.headers["Allow"]
    problem(
        ask.post("/batches", data=b" " * (2 << 20), content_type="application/json"),
        413,
        "request_entity_too_large",
    )


def test_bundles_are_listed(ask: Asker) -> None:
    bundle = ask.get("/bundles").json["items"][0]
    assert (bundle["name"], bundle["default"], bundle["regions"]) == ("b1", True, ["hand"])
    assert bundle["thresholds"] == {"hand": {"low": 0.2, "high": 0.7}}

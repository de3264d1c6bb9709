"""What a bundle says that the site had not promoted is seen by researchers and administrators alone."""

from __future__ import annotations

import io
import uuid
import zipfile
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import select

from store.accounts import accounts
from store.accounts.accounts import Role
from store.base.session import session_scope
from store.base.tables import Bundle, Image, Notice, Site, User, Work
from store.outgoing import notices
from store.outgoing.notices import Channel, Event
from tests.reading import read_batch
from tests.web.asking import Asker, Browser, png
from worker import flow
from worker.results import exports as worker_exports

MARK = "trial-image"
CLINICAL = [Role.SUBMITTER, Role.STAFF, Role.CLINICIAN]
RESEARCH = [Role.RESEARCHER, Role.ADMIN]


@pytest.fixture
def people(app: Any, site_key: str) -> Callable[[Role], tuple[Asker, Browser]]:
    """A program and a browser of somebody at the site, by role."""

    def person(role: Role) -> tuple[Asker, Browser]:
        with session_scope() as session:
            site = session.scalars(select(Site.id).where(Site.name == "General Hospital")).one()
            email = f"{uuid.uuid4().hex}@localhost"
            user = accounts.create_user(session, site, email, role=role)
            key = accounts.create_api_key(session, user, "k")[1]
            token = accounts.create_sign_in_token(session, user)
        browser = Browser(app.test_client())
        browser.sign_in(token=token)
        return Asker(app.test_client(use_cookies=False), key), browser

    return person


def of_bundle(ask: Asker, bundle: str, *names: str, **how: Any) -> str:
    batch: str = ask.draft(bundle=bundle, label=f"by {bundle}")
    ask.send(batch, *((name, png(name)) for name in names))
    ask.post(f"/batches/{batch}/submit")
    read_batch(batch, **how)
    return batch


@pytest.fixture
def trial(ask: Asker) -> str:
    """A batch of a bundle on trial: two images read, one that failed."""
    with session_scope() as session:
        manifest = {"name": "trial", "label_meaning": "abnormal", "models": {}}
        session.add(Bundle(name="trial", sha256="1" * 64, manifest=manifest, files={}))
    names = [f"{MARK}-{n}.png" for n in range(3)]
    return of_bundle(ask, "trial", *names, fail=frozenset({names[2]}))


def said(trial: str) -> dict[str, Any]:
    """Return what the trial's first image was said to be."""
    with session_scope() as session:
        image = session.scalars(
            select(Image).where(Image.batch_id == uuid.UUID(trial)).order_by(Image.seq)
        ).first()
        assert image is not None
        return {"id": image.id, "study": image.study_id, "probability": image.probability}


def export(ask: Asker, **wish: Any) -> Any:
    """Have a file made, as a worker does; return its document."""
    answer = ask.post("/exports", json=wish)
    if answer.status_code != 202:
        return answer
    with session_scope() as session:
        unit = session.scalars(select(Work.id).where(Work.subject_id == uuid.UUID(answer.json["id"]))).one()
    flow.run(unit, None, worker_exports.run)
    return ask.get(f"/exports/{answer.json['id']}")


@pytest.mark.parametrize("role", CLINICAL)
def test_who_compares_no_bundles_sees_that_it_was_read_and_not_what_was_found(
    people: Any, trial: str, role: Role
) -> None:
    ask, browser = people(role)
    first = said(trial)
    batch = ask.get(f"/batches/{trial}").json
    assert (batch["findings_withheld"], batch["triage"]) == (True, None)
    assert batch["counts"]["done"] == 2
    assert batch["reasons"] == {"worker_lost": 1}
    assert {b["id"]: b["triage"] for b in ask.get("/batches").json["items"]}[trial] is None
    images = ask.get(f"/batches/{trial}/images").json["items"]
    assert [image["status"] for image in images] == ["done", "done", "failed"]
    for image in images:
        found = ("region", "region_probability", "probability", "triage", "thresholds", "study_triage")
        assert [image[name] for name in found] == [None] * 6
        assert (image["flags"], image["attention_regions"], image["region_probabilities"]) == ([], [], {})
        assert set(image["links"].values()) == {None, f"/api/v1/batches/{trial}"}
    assert images[2]["reason"]["code"] == "worker_lost"  # that is no finding: it can be retried
    for query in ("triage=positive", "region=hand"):
        assert ask.get(f"/batches/{trial}/images?{query}").json["code"] == "findings_withheld"
        assert browser.client.get(f"/batches/{trial}?{query}").status_code == 403
    here = f"/images/{first['id']}"
    for path in (here, f"{here}/display", f"{here}/overlay", f"{here}/heat", f"{here}/pixels",
                 f"{here}/original", f"{here}/report",
                 f"/studies/{first['study']}", f"/studies/{first['study']}/report",
                 f"/studies/{first['study']}/reviews"):  # fmt: skip
        assert ask.get(path).status_code == 404, path
    for path in (here, f"/studies/{first['study']}"):
        assert browser.client.get(path).status_code == 404
    page = browser.client.get(f"/batches/{trial}").text
    assert "shown to researchers and administrators only" in page
    assert f"{first['probability']:.0%}" not in page
    assert "results.zip" not in page
    assert "tone-alarm" not in page
    listed = browser.client.get("/batches").text
    assert "on trial" in listed
    if role is not Role.SUBMITTER:
        assert ask.get("/worklist?reviewed=all").json["items"] == []
        assert MARK not in browser.client.get("/worklist?reviewed=all").text


@pytest.mark.parametrize("role", CLINICAL)
def test_nothing_of_it_is_taken_away(people: Any, ask: Asker, trial: str, role: Role) -> None:
    of_bundle(ask, "b1", "clinical.png")
    one, browser = people(role)
    for path in (f"/batches/{trial}/results.csv", f"/batches/{trial}/results.zip",
                 f"/results?format=csv&batch={trial}", f"/results?format=zip&batch={trial}"):  # fmt: skip
        answer = one.get(path)
        assert (answer.status_code, answer.json["code"]) == (403, "findings_withheld")
    for kind in ("csv", "jsonl", "parquet", "zip", "pdf"):
        assert export(one, format=kind, batch=trial).json["code"] == "findings_withheld"
    assert browser.post("/downloads", format="csv", batch=trial).status_code == 403
    assert browser.client.get(f"/downloads?batch={trial}").status_code == 403
    assert trial not in browser.client.get("/downloads").text
    assert "clinical.png" in one.get("/results?format=csv").text
    assert MARK not in one.get("/results?format=jsonl").text
    with zipfile.ZipFile(io.BytesIO(one.get("/results?format=zip").data)) as archive:
        assert not [name for name in archive.namelist() if MARK in name]
        assert MARK not in archive.read("results.csv").decode()
    for kind in ("csv", "parquet"):
        made = export(one, format=kind).json
        assert made["total"] == 1
        assert MARK.encode() not in one.get(made["links"]["file"]).data


@pytest.mark.parametrize("role", CLINICAL)
def test_files_that_others_had_made_are_not_there(people: Any, ask: Asker, trial: str, role: Role) -> None:
    clinical = of_bundle(ask, "b1", "clinical.png")
    hidden = [export(ask, format="csv", batch=trial).json, export(ask, format="jsonl").json]
    shared = export(ask, format="csv", batch=clinical).json
    one, browser = people(role)
    assert [row["id"] for row in one.get("/exports").json["items"]] == [shared["id"]]
    page = browser.client.get("/downloads").text
    for made in hidden:
        assert one.get(made["links"]["self"]).status_code == 404
        assert one.get(made["links"]["file"]).status_code == 404
        assert one.post(made["links"]["cancel"]).status_code == 404
        assert browser.post(f"/downloads/{made['id']}/cancel").status_code == 404
        assert made["id"] not in page
    assert one.get(shared["links"]["file"]).status_code == 200


@pytest.mark.parametrize("role", RESEARCH)
def test_who_compares_bundles_sees_all_of_it(people: Any, ask: Asker, trial: str, role: Role) -> None:
    one, browser = people(role)
    first = said(trial)
    batch = one.get(f"/batches/{trial}").json
    assert batch["findings_withheld"] is False
    assert sum(batch["triage"].values()) == 2
    image = one.get(f"/batches/{trial}/images").json["items"][0]
    assert image["probability"] == pytest.approx(first["probability"])
    assert one.get(image["links"]["self"]).status_code == 200
    assert browser.client.get(f"/studies/{first['study']}").status_code == 200
    assert trial in browser.client.get("/downloads").text
    assert MARK in one.get(f"/batches/{trial}/results.csv").text
    assert MARK in one.get("/results?format=csv").text
    made = export(one, format="jsonl").json
    assert MARK.encode() in one.get(made["links"]["file"]).data


def test_a_narrow_key_of_an_administrator_sees_what_a_clinician_sees(
    app: Any, ask: Asker, trial: str
) -> None:
    with session_scope() as session:
        user = session.scalars(select(User).where(User.email == "admin@localhost")).one()
        key = accounts.create_api_key(session, user, "r", scope={accounts.Permission.READ})[1]
    narrow = Asker(app.test_client(use_cookies=False), key)
    assert narrow.get(f"/batches/{trial}").json["triage"] is None
    assert narrow.get(f"/batches/{trial}/results.csv").status_code == 403


def test_promoting_a_bundle_shows_its_later_batches_alone(people: Any, ask: Asker, trial: str) -> None:
    ask.post("/bundles/promote", json={"bundle": "trial"})
    later = of_bundle(ask, "trial", "later.png")
    one, _ = people(Role.CLINICIAN)
    assert one.get(f"/batches/{later}").json["triage"] is not None
    assert one.get(f"/batches/{trial}").json["triage"] is None
    assert MARK not in one.get("/results?format=csv").text


def test_a_trial_is_no_news(ask: Asker, trial: str) -> None:
    with session_scope() as session:
        site = session.scalars(select(Site.id).where(Site.name == "General Hospital")).one()
        events = [Event.POSITIVE_STUDY, Event.FINISHED_BATCH]
        notices.add_target(session, site, Channel.WEBHOOK, "https://there.example/", events)
    names = [f"{n}.png" for n in range(12)]  # among so many some are positive
    later = of_bundle(ask, "trial", *names)
    assert ask.get(f"/batches/{later}").json["triage"]["positive"] > 0
    with session_scope() as session:
        assert session.scalars(select(Notice.event)).all() == []
    of_bundle(ask, "b1", *names)
    with session_scope() as session:
        assert set(session.scalars(select(Notice.event))) == {Event.POSITIVE_STUDY}

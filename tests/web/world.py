"""One site with something of every kind in it, for tests that ask every route about it."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import Any

from flask.testing import FlaskClient
from sqlalchemy import select

from store.accounts import accounts
from store.accounts.accounts import Permission, Role
from store.base.blobs import get_blobs
from store.base.session import session_scope
from store.base.tables import Image, Site, StudyFinding, User, UserSession
from store.outgoing import deliveries, notices
from store.outgoing.deliveries import Protocol
from store.outgoing.delivery_tables import Delivery
from store.outgoing.notices import Channel, Event
from store.reading import worklist
from store.reading.review_tables import Review
from store.research import datasets, runs
from store.research.research_tables import Comparison, RunFile, RunPicture
from tests.reading import read_batch
from tests.web.asking import Asker, Browser, png


@dataclass
class World:
    """A site, a person of a role, and the id of one object for every name that a route's address has.

    `marker` stands in every label and file name: whoever sees it in an answer saw this site.
    """

    marker: str
    email: str
    key: str
    ids: dict[str, Any] = field(default_factory=dict)

    def browser(self, client: FlaskClient) -> Browser:
        """Return a browser in which the site's person is signed in."""
        with session_scope() as session:
            user = session.scalars(select(User).where(User.email == self.email)).one()
            token = accounts.create_sign_in_token(session, user)
        browser = Browser(client)
        assert browser.sign_in(token=token).status_code == 303
        return browser


def make_world(app: Any, role: Role, *, sign: str = "") -> World:
    """Make a site with one object of every kind. What a new route names in its address is made here.

    Parameters
    ----------
    sign
        Stands behind the marker in every name that somebody may choose.
    """
    marker = f"marker-{uuid.uuid4().hex[:12]}"
    said = marker + sign
    with session_scope() as session:
        site = Site(name=said, default_bundle="b1")
        session.add(site)
        session.flush()
        user = accounts.create_user(session, site.id, f"{marker}@localhost", role=role)
        admin = accounts.create_user(session, site.id, f"admin-{marker}@localhost", role=Role.ADMIN)
        user.name = said
        key = accounts.create_api_key(session, user, said)[1]
        row = accounts.create_api_key(session, user, f"{said} of old")[0]
        world = World(marker, user.email, key, {"name": "b1", "key_id": row.id})
        address = f"https://{marker}.example/"
        target, _ = notices.add_target(session, site.id, Channel.WEBHOOK, address, [Event.FINISHED_BATCH])
        world.ids["target_id"] = target.id
        target, _ = notices.add_target(session, site.id, Channel.WEBHOOK, address, [Event.FINISHED_BATCH])
        world.ids["notice_target_id"] = target.id
        world.ids["user_id"] = accounts.create_user(session, site.id, f"x-{marker}@localhost", role=role).id
        accounts.open_session(session, user, hours=1, how="link")
        world.ids["session_id"] = session.scalars(
            select(UserSession.id).where(UserSession.user_id == user.id)
        ).one()
        maker = accounts.create_api_key(session, admin, "maker", scope=set(Permission))[1]
    ask = Asker(app.test_client(use_cookies=False), maker)
    batch = ask.draft(label=said)
    ask.send(batch, (f"{said}.png", png(marker)))
    ask.post(f"/batches/{batch}/submit")
    read_batch(batch, facts=lambda _: {"accession": said, "study_uid": f"1.2.{uuid.uuid4().int}"})
    tus = {"Tus-Resumable": "1.0.0", "Upload-Length": "9"}
    upload = ask.post(f"/batches/{ask.draft(label=said)}/uploads", headers=tus)
    world.ids["upload_id"] = upload.headers["Location"].rsplit("/", 1)[1]
    world.ids["export_id"] = ask.post("/exports", json={"format": "csv", "batch": batch}).json["id"]
    with session_scope() as session:
        image = session.scalars(select(Image).where(Image.batch_id == uuid.UUID(batch))).one()
        image.pixels_key = f"pixels-{marker}"
        get_blobs().put(image.pixels_key, b"x")
        user_id = session.scalars(select(User.id).where(User.email == world.email)).one()
        view_id = worklist.keep_view(session, user_id, said, "class=urgent").id
        kept_view_id = worklist.keep_view(session, user_id, f"{said} 2", "class=urgent").id
        review = Review(
            site_id=image.site_id,
            study_id=image.study_id,
            batch_id=image.batch_id,
            user_id=user_id,
            reader=said,
            comment=said,
            bundle="b1",
            answer="absent",
        )
        session.add(review)
        session.flush()
        world.ids |= {"view_id": view_id, "kept_view_id": kept_view_id, "review_id": review.id}
        world.ids |= {"batch_id": image.batch_id, "image_id": image.id, "study_id": image.study_id}
    make_delivery(world, said)
    make_research(world, said)
    return world


def make_delivery(world: World, said: str) -> None:
    """Add an object that waits for an archive; and name a study as a DICOMweb client does."""
    with session_scope() as session:
        finding = session.scalars(
            select(StudyFinding).where(StudyFinding.study_id == world.ids["study_id"])
        ).first()
        assert finding is not None
        to = deliveries.add_destination(
            session, finding.site_id, said, Protocol.STOW, "https://archive.example/dicom-web"
        )
        row = Delivery(
            site_id=finding.site_id,
            destination_id=to.id,
            study_id=finding.study_id,
            study_finding_id=finding.id,
            image_id=world.ids["image_id"],
            kind="sr",
            sop_uid="1.2.3",
        )
        session.add(row)
        session.flush()
        world.ids |= {"delivery_id": row.id, "study_uid": "1.2.3", "finding_id": finding.id}


def make_research(world: World, said: str) -> None:
    """Add a data set of one image, a run over it with a table, and a comparison."""
    with session_scope() as session:
        site = session.scalars(select(Site).where(Site.name == said)).one()
        new = datasets.NewImage(f"{said}.png", said, said, "hand", "", True)
        found = datasets.add_dataset(
            session,
            site.id,
            name=said,
            root="file:///nowhere",
            format="table",
            label_meaning="abnormal",
            images=[new],
            left_out={},
        )
        image = datasets.waiting(session, found.id, 1)[0]
        datasets.save_scan_results(session, found.id, [datasets.ScanResult(image.id, "e" * 64, 1, None)])
        datasets.end_scan(session, found.id)
        run = runs.start_run(session, site.id, None, found, ["b1"])
        picture = session.scalars(select(Image).where(Image.batch_id == run.batch_id)).one()
        picture.display_key = f"images/{world.marker}"
        session.add(RunFile(run_id=run.id, name="b1.csv", key=picture.display_key, sha256="0" * 64, size=1))
        session.add(
            RunPicture(image_id=picture.id, bundle="b1", key=picture.display_key, sha256="0" * 64, size=1)
        )
        compared = Comparison(
            site_id=site.id, run_a=run.id, bundle_a="b1", run_b=run.id, bundle_b="b1", margin=0.02
        )
        session.add(compared)
        session.flush()
        world.ids |= {"dataset_id": found.id, "run_id": run.id, "number": 1, "file": "b1.csv"}
        world.ids |= {"bundle": "b1", "region": "hand"}
        world.ids["comparison_id"] = compared.id
    get_blobs().put(picture.display_key, b"x")

"""Deletion is real: after it no blob, no row and no download knows what was erased; the rest stays whole."""

from __future__ import annotations

import hashlib
import uuid
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Text, cast, func, select, text, update

from phantoms.files import encode_phantom
from phantoms.film import make_phantom
from pipeline.dicom.elements import split_file
from settings import get_settings
from store.accounts import accounts
from store.base.blobs import BlobStore, FolderStore, get_blobs
from store.base.session import get_engine, session_scope
from store.base.tables import (
    Audit,
    Base,
    Batch,
    Bundle,
    Export,
    Finding,
    Image,
    Site,
    Study,
    StudyFinding,
    Upload,
    User,
    Work,
    WorkKind,
)
from store.intake import gateway_peers, received
from store.intake.gateway_tables import ReceivedStudy
from store.operations import fsck, retention
from store.outgoing import notices
from store.outgoing.notices import Channel, Event
from store.queue import work
from store.reading import reviews, studies, study_view, worklist
from store.research import datasets, runs
from tests.reading import read_batch
from tests.web.asking import Asker, Browser, png
from vocabulary.states import Answer, ImageStatus, Triage

pytestmark = pytest.mark.usefixtures("kept_for_a_retry")  # there is more to erase
WHO = {"a.png": "ACC-1", "b.png": "ACC-1", "c.png": "ACC-2", "d.png": "ACC-3"}


def read(ask: Asker, *names: str, reads: bool = True) -> uuid.UUID:
    """Send files and have them read; two files of one accession are one study."""
    batch = ask.draft(label="night shift")
    lines = "".join(f"{name},{WHO[name]}\n" for name in names)
    ask.send(batch, *((name, png(name)) for name in names), manifest=f"path,accession\n{lines}".encode())
    ask.post(f"/batches/{batch}/submit")
    if reads:
        read_batch(batch, facts=lambda path: {"study_uid": f"1.2.{WHO[path][-1]}"})
    return uuid.UUID(batch)


def study(accession: str) -> uuid.UUID:
    with session_scope() as session:
        return session.scalars(select(Study.id).where(Study.accession == accession)).one()


def traces(blobs: BlobStore, *words: str) -> list[str]:
    """Return where one of the words stands still: keys and bytes of all blobs, rows of all tables but one.

    Small letters and capitals are one: what a study is searched by is kept in small ones.
    """
    found = []
    words = tuple(word.lower() for word in words)
    for key in blobs.keys(""):
        whole = (key.encode() + blobs.get(key)).lower()
        found += [f"blob {key}" for word in words if word.encode() in whole]
    with get_engine().connect() as connection:
        for table in Base.metadata.sorted_tables:
            if table.name != "audit":
                rows = connection.execute(text(f"SELECT lower(t::text) FROM {table.name} t")).scalars()
                found += [f"{table.name}: {row[:80]}" for row in rows for word in words if word in row]
    return found


def ended(batch_id: uuid.UUID, days: int) -> None:
    with session_scope() as session:
        ago = func.now() - timedelta(days=days)
        session.execute(update(Batch).where(Batch.id == batch_id).values(finished_at=ago))


def sweep() -> int:
    n = 0
    while done := retention.step():
        n += done
    return n


def keep(**days: int | None) -> None:
    with session_scope() as session:
        session.execute(update(Site).where(Site.name == "General Hospital").values(**days))


def is_clean() -> None:
    assert fsck.check(orphan_age=0.0).problems == ()


def test_an_erased_study_is_nowhere(browser: Browser, ask: Asker, blobs: BlobStore) -> None:
    batch = read(ask, "a.png", "b.png", "c.png")
    gone = study("ACC-1")
    with session_scope() as session:
        ids = [str(i) for i in session.scalars(select(Image.id).where(Image.study_id == gone))]
        shas = list(session.scalars(select(Image.sha256).where(Image.study_id == gone)))
        batch_row = session.get_one(Batch, batch)
        hook = "https://ris.hospital.example/"
        notices.add_target(session, batch_row.site_id, Channel.WEBHOOK, hook, [Event.POSITIVE_STUDY])
        notices.positive_studies(session, batch_row, [gone])
        key = f"exports/{batch_row.site_id}/x/y"
        sha256, size = blobs.put(key, f"a ZIP with {gone}".encode())
        export = Export(
            site_id=batch_row.site_id, request={"batch": str(batch), "format": "zip"}, name="x.zip",
            media_type="application/zip",
            key=key, sha256=sha256, size=size, expires_at=func.now() + timedelta(days=1),
        )  # fmt: skip
        session.add(export)
        session.flush()
        unit = work.add_unit(session, WorkKind.EXPORT, site_id=batch_row.site_id, subject_id=export.id)
        unit.state = "done"
    words = [str(gone), "ACC-1", "a.png", "b.png", *ids, *shas]
    assert {place.split(":")[0].split(" ")[0] for place in traces(blobs, *words)} >= {
        "blob", "images", "studies", "study_findings", "findings", "manifest_lines", "notices",
    }  # fmt: skip
    page = browser.client.get("/admin/retention?find=ACC-1")
    assert str(gone) in page.text
    assert browser.post("/admin/retention/erase", study=str(gone)).status_code == 422  # not sure
    assert browser.post("/admin/retention/erase", study=str(gone), sure="yes").status_code == 303
    assert traces(blobs, *words) == []
    assert "No study of the site has it" in browser.client.get("/admin/retention?find=ACC-1").text
    is_clean()
    shown = ask.get(f"/batches/{batch}").json
    assert shown["counts"]["total"] == shown["counts"]["done"] == 1
    assert [row["filename"] for row in ask.get(f"/batches/{batch}/images").json["items"]] == ["c.png"]
    with session_scope() as session:
        line = session.scalars(select(Audit).where(Audit.action == "study_erased")).one()
        assert (line.object_id, line.detail) == (str(gone), {"images": 2})
        assert "ACC-1" not in str(session.scalars(select(Audit.detail)).all())


def cancel(ask: Asker, batch_id: str) -> None:
    """Cancel a batch, and end it as its last unit of work does."""
    ask.post(f"/batches/{batch_id}/cancel")
    with session_scope() as session:
        session.execute(update(Work).where(Work.batch_id == uuid.UUID(batch_id)).values(state="done"))
        over = {"status": "cancelled", "finished_at": func.clock_timestamp()}
        session.execute(update(Batch).where(Batch.id == uuid.UUID(batch_id)).values(**over))


def promoted_beside(second: str, batch_id: uuid.UUID) -> None:
    """Let a second bundle read the batch in the background, and keep what its stages would."""
    with session_scope() as session:
        batch = session.get_one(Batch, batch_id)
        site = session.get_one(Site, batch.site_id)
        first = session.get_one(Bundle, batch.bundle)
        values = {column.name: getattr(first, column.name) for column in Bundle.__table__.columns}
        session.add(Bundle(**values | {"name": second}))
        session.flush()
        site.shadow_bundle = second
        session.flush()
        quiet = runs.shadow_batch(session, batch)
        assert quiet is not None
        quiet_id = quiet.id
    with session_scope() as session:
        clinical = {
            i.original_key: i for i in session.scalars(select(Image).where(Image.batch_id == batch_id))
        }
        for image in session.scalars(select(Image).where(Image.batch_id == quiet_id)):
            source = clinical[image.source_key]
            known = session.get_one(Finding, source.finding_id)
            values = {
                c.name: getattr(known, c.name) for c in Finding.__table__.columns if c.name != "created_at"
            }
            finding = Finding(**values | {"id": uuid.uuid4(), "bundle": second})
            session.add(finding)
            session.flush()
            for name in (
                "accession",
                "study_uid",
                "sop_uid",
                "patient_hash",
                "age_years",
                "study_date",
                "triage",
            ):
                setattr(image, name, getattr(source, name))
            image.status, image.finding_id, image.passed = "done", finding.id, "report"
        retention._recount(session, [quiet_id])
        work_done = update(Work).where(Work.batch_id == quiet_id).values(state="done")
        session.execute(work_done)
        session.execute(
            update(Batch)
            .where(Batch.id == quiet_id)
            .values(status="done", finished_at=func.clock_timestamp())
        )


def test_a_patient_is_nowhere_whatever_became_of_the_images(
    browser: Browser, ask: Asker, blobs: BlobStore
) -> None:
    """Read, read again by a second bundle, cancelled before a study, refused, in drafts, on the way."""
    WHO.update({"mine.png": "ACC-9", "c.png": "ACC-2"})
    batch = read(ask, "mine.png", "c.png")
    promoted_beside("second-1", batch)
    gone = study("ACC-9")
    line = b"path,accession\n%s,ACC-9\nalien.png,ACC-2\n"
    cancelled = ask.draft()
    ask.send(
        cancelled, ("marker-1.png", png("x1")), ("alien.png", png("x2")), manifest=line % b"marker-1.png"
    )
    ask.post(f"/batches/{cancelled}/submit")
    cancel(ask, cancelled)
    again = ask.draft()  # the same bytes, and nobody said whose
    ask.send(again, ("marker-2.png", png("mine.png")))
    ask.post(f"/batches/{again}/submit")
    cancel(ask, again)
    refused = ask.draft()
    ask.send(refused, ("marker-3.png", b"not an image"), manifest=line % b"marker-3.png")
    thrown = ask.draft()
    ask.send(thrown, ("marker-4.png", png("x4")), manifest=line % b"marker-4.png")
    ask.post(f"/batches/{thrown}/cancel")
    draft = ask.draft()
    ask.send(draft, ("marker-5.png", png("x5")), ("stays.png", png("x6")), manifest=line % b"marker-5.png")
    awaited = ask.draft()
    ask.send(awaited, ("stays too.png", png("x7")), manifest=line % b"marker-6.png")
    with session_scope() as session:
        owner = session.get_one(Batch, uuid.UUID(awaited)).site_id
        piece = f"uploads/{uuid.uuid4()}/0"
        blobs.put(piece, b"marker-6")
        session.add(
            Upload(
                site_id=owner, batch_id=uuid.UUID(awaited), path="marker-6.png", length=100, pieces=[piece],
                expires_at=func.now() + timedelta(days=1),
            )
        )  # fmt: skip
        shas = [hashlib.sha256(png(name)).hexdigest() for name in ("mine.png", "x1", "x4", "x5")]
        rows = session.scalars(select(Image).where(Image.sha256.in_(shas))).all()
        ids = [str(image.id) for image in rows]
        # a worker was stopped by the cancel after it had written, and before it named, what it wrote
        stopped = next(image for image in rows if image.path == "marker-1.png")
        for folder in (
            f"images/{stopped.site_id}/{stopped.id}/",
            stopped.pictures,
        ):  # an earlier one
            blobs.put(f"{folder}original", b"ACC-9")
    words = ["ACC-9", "mine.png", "marker-", str(gone), *ids, *shas]
    before = {place.split(":")[0] for place in traces(blobs, *words) if not place.startswith("blob")}
    assert before >= {"images", "studies", "findings", "manifest_lines", "uploads"}
    with session_scope() as session:
        assert len(session.scalars(select(Finding).where(Finding.sha256 == shas[0])).all()) == 2
    page = browser.client.get("/admin/retention?find=ACC-9")
    assert "belong to no study" in page.text
    answer = browser.post("/admin/retention/erase", study=str(gone), named="ACC-9", sure="yes")
    assert answer.status_code == 303, answer.text
    assert traces(blobs, *words) == []
    is_clean()
    for kept, names in ((batch, {"c.png"}), (cancelled, {"alien.png"}), (draft, {"stays.png"})):
        assert {row["filename"] for row in ask.get(f"/batches/{kept}/images").json["items"]} == names
    ask.post(f"/batches/{draft}/submit")  # a draft that lost a file goes on
    assert "No study of the site has it" in browser.client.get("/admin/retention?find=ACC-9").text
    assert browser.post("/admin/retention/erase", named="ACC-9", sure="yes").status_code == 404
    with session_scope() as session:
        assert "ACC-9" not in str(session.scalars(select(Audit.detail)).all())
        assert len(session.scalars(select(Image).where(Image.source_key.is_not(None))).all()) == 1  # c.png's


def uid_of(path: str) -> dict[str, str]:
    return {"study_uid": "1.2.9" if path.startswith("quillfeather") else "1.2.2"}


def in_state(ask: Asker, status: ImageStatus, *, prepared: bool) -> uuid.UUID:
    """Send a marked file and another patient's, and bring the marked one into a state; return its batch.

    `prepared` says whether a worker has opened it: then it has an original, and a study where it may.
    """
    name = f"quillfeather-{status.value}-{prepared:d}.png"
    other = name.replace("quillfeather", "bystander")
    manifest = f"path,accession\n{name},QUILLFEATHER-9\n{other},ACC-2\n".encode()
    batch = ask.draft()
    data = b"not an image" if (status, prepared) == (ImageStatus.REJECTED, False) else png(name)
    ask.send(batch, (name, data), (other, png(other)), manifest=manifest)
    if status is ImageStatus.UPLOADED:
        return uuid.UUID(batch)
    ask.post(f"/batches/{batch}/submit")
    mine = Image.batch_id == uuid.UUID(batch), Image.path == name
    if status in {ImageStatus.DONE, ImageStatus.REJECTED, ImageStatus.FAILED}:
        rejected = frozenset({name}) if prepared and status is ImageStatus.REJECTED else frozenset()
        failed = frozenset({name}) if status is ImageStatus.FAILED else frozenset()
        read_batch(batch, reject=rejected, fail=failed, facts=uid_of)
    elif prepared:  # its study is known, and its original is kept
        with session_scope() as session:
            image = session.scalars(select(Image).where(*mine)).one()
            image.study_uid = uid_of(name)["study_uid"]
            studies.assign(session, [image])
            image.original_key = f"images/{image.site_id}/{image.id}/original"
            get_blobs().put(image.original_key, b"quillfeather")
    if status is ImageStatus.RUNNING:
        with session_scope() as session:
            session.execute(update(Image).where(*mine).values(status=status.value))
            counted = {"n_queued": Batch.n_queued - 1, "n_running": Batch.n_running + 1}
            here = Batch.id == uuid.UUID(batch)
            session.execute(update(Batch).where(here).values(status="running", **counted))
    if status is ImageStatus.CANCELLED:
        cancel(ask, batch)
    return uuid.UUID(batch)


def test_a_marker_in_every_state_and_place_goes(
    browser: Browser, ask: Asker, blobs: BlobStore, caplog: pytest.LogCaptureFixture
) -> None:
    """Every state that an image can have, before and after a worker opened it, and what hangs on it."""
    made = {
        (status, prepared): in_state(ask, status, prepared=prepared)
        for status in ImageStatus
        for prepared in ((False,) if status is ImageStatus.UPLOADED else (False, True))
    }
    done = made[ImageStatus.DONE, True]
    with session_scope() as session:
        theirs = session.scalars(select(Study.id).where(Study.accession == "QUILLFEATHER-9")).all()
        gone = session.scalars(
            select(Image.study_id).where(Image.batch_id == done, Image.study_id.in_(theirs))
        ).one()
        assert gone is not None
        batch = session.get_one(Batch, done)
        hook = "https://ris.hospital.example/"
        notices.add_target(session, batch.site_id, Channel.WEBHOOK, hook, notices.EVENTS)
        notices.positive_studies(session, batch, [gone])
        notices.amended_study(session, batch, gone, Triage.POSITIVE, 1)
        admin = session.scalars(select(User)).first()
        assert admin is not None
        found = study_view.get_study(session, batch.site_id, gone, trials=False)
        reviews.record(session, found, admin.id, Answer.ABSENT, comment="Quillfeather has a scar")
        worklist.keep_view(session, admin.id, "all of it", "q=quillfeather-9+hand&sort=name")
        worklist.keep_view(session, admin.id, "QUILLFEATHER-9", "class=urgent")
        worklist.keep_view(session, admin.id, "urgent ones", "class=urgent")
        images = session.scalars(select(Image).where(Image.path.like("quillfeather%"))).all()
        assert {image.status for image in images} == {status.value for status in ImageStatus}
        ids = [str(image.id) for image in images]
        shas = [image.sha256 for image in images]
        data = datasets.add_dataset(
            session, batch.site_id, name="ours", root="file:///nowhere", format="table",
            label_meaning="abnormal", images=[datasets.NewImage("1.png", "p", "s", "hand", "", True)],
            left_out={},
        )  # fmt: skip
        listed = datasets.waiting(session, data.id, 1)[0]
        same = next(image.sha256 for image in images if image.finding_id)
        datasets.save_scan_results(session, data.id, [datasets.ScanResult(listed.id, same, 1, None)])
        datasets.end_scan(session, data.id)
        run = runs.start_run(session, batch.site_id, admin.id, data, ["b1"])
        research = session.scalars(select(Image.id).where(Image.batch_id == run.batch_id)).one()
    export = ask.post("/exports", json={"format": "csv", "batch": str(done)}).json["id"]
    with session_scope() as session:
        row = session.get_one(Export, uuid.UUID(export))
        row.key = f"exports/{row.site_id}/{row.id}/quillfeather.csv"
        row.sha256, row.size = blobs.put(row.key, b"quillfeather,positive")
        row.expires_at = func.now() + timedelta(days=1)
    promoted_beside("second-3", done)
    words = ["quillfeather", *map(str, theirs), *ids, *shas]

    sure: dict[str, Any] = {"study": [*map(str, theirs)], "named": "QUILLFEATHER-9", "sure": "yes"}
    assert browser.post("/admin/retention/erase", **sure).status_code == 409
    with session_scope() as session:
        assert len(session.scalars(select(Image.id).where(Image.path.like("quillfeather%"))).all()) >= len(
            ids
        )
        session.execute(update(Work).where(Work.kind == WorkKind.EXPORT).values(state="done"))
        session.execute(update(Work).where(Work.batch_id == run.batch_id).values(state="done"))
        session.execute(
            update(Batch).where(Batch.id == run.batch_id).values(status="done", finished_at=func.now())
        )
    for status in (ImageStatus.QUEUED, ImageStatus.RUNNING):
        for prepared in (False, True):
            cancel(ask, str(made[status, prepared]))
    answer = browser.post("/admin/retention/erase", **sure)
    assert answer.status_code == 303, answer.text

    with session_scope() as session:
        assert [view.name for view in worklist.views(session, admin.id)] == ["urgent ones"]
    # a data set is the researchers' own: it goes by itself
    assert {place.split(":")[0] for place in traces(blobs, *words)} <= {"dataset_images"}
    with session_scope() as session:
        assert session.get(Image, research) is None
        audit = " ".join(session.scalars(select(func.concat(cast(Audit.detail, Text), Audit.object_id))))
    assert not [word for word in ("QUILLFEATHER", "quillfeather", *shas) if word in audit]
    assert "quillfeather" not in caplog.text.lower()
    assert ask.get(f"/exports/{export}/file").status_code in {404, 409, 410}
    is_clean()
    for batch_id in made.values():
        names = {row["filename"] for row in ask.get(f"/batches/{batch_id}/images").json["items"]}
        assert len(names) == 1
        assert all(name.startswith("bystander") for name in names)


@pytest.mark.parametrize("named", ["study", "object"])
@pytest.mark.parametrize("state", ["arriving", "queued", "cancelled", "read"])
def test_what_came_by_dicom_goes_in_every_state(
    browser: Browser, ask: Asker, blobs: BlobStore, state: str, named: str
) -> None:
    """Before a worker has read it, its UIDs stand in the receiver's tables alone."""
    with session_scope() as session:
        site = session.scalars(select(Site.id).where(Site.name == "General Hospital")).one()
        gateway_peers.set_site(session, site, ae_title="FRACTURES", release=0)
    uids = []
    for study in ("theirs", "a bystander's"):
        data = encode_phantom(make_phantom(1, "hand", longest=64), "dicom", study=study, number=1)
        found = split_file(data)
        arrival = received.keep(received.Source(site, "MODALITY"), found.dataset, found.syntax)
        assert arrival.study is not None
        with session_scope() as session:
            uids.append((session.get_one(ReceivedStudy, arrival.study).study_uid, found.sop_uid))
    if state != "arriving":
        with session_scope() as session:
            session.execute(update(ReceivedStudy).values(due_at=func.now()))
        assert received.complete_due() == 2
    with session_scope() as session:
        came = session.scalars(select(ReceivedStudy).where(ReceivedStudy.study_uid == uids[0][0])).one()
    if state == "read":
        read_batch(str(came.batch_id), facts=lambda _: {"study_uid": uids[0][0], "sop_uid": uids[0][1]})
    if state == "cancelled":
        cancel(ask, str(came.batch_id))
    with session_scope() as session:
        studies_of = session.scalars(select(Image.study_id).where(Image.batch_id == came.batch_id)).all()
    ids = [str(each) for each in studies_of if each]
    wish: dict[str, Any] = {"named": uids[0][0] if named == "study" else uids[0][1], "sure": "yes"}
    answer = browser.post("/admin/retention/erase", **wish, **({"study": ids} if ids else {}))
    if state == "queued":
        assert answer.status_code == 409, "a worker may have it in its hands"
        return
    assert answer.status_code == 303, answer.text
    assert traces(blobs, *uids[0], *ids) == []
    assert traces(blobs, *uids[1])
    is_clean()
    data = encode_phantom(make_phantom(1, "hand", longest=64), "dicom", study="theirs", number=1)
    found = split_file(data)  # and should it be sent again, it is taken
    kept = received.keep(received.Source(site, "MODALITY"), found.dataset, found.syntax).kept
    assert kept is received.Kept.NEW


def test_a_patient_without_a_study_is_erased_by_name(ask: Asker, stranger: Asker, blobs: BlobStore) -> None:
    with session_scope() as session:
        for user in session.scalars(select(User)):
            accounts.set_password(session, user, "a sentence is easy")
    sure = {"named": "ACC-9", "password": "a sentence is easy"}
    for sender in (ask, stranger):
        batch = sender.draft()
        sender.send(batch, ("marker.png", png("x")), manifest=b"path,accession\nmarker.png,ACC-9\n")
        sender.post(f"/batches/{batch}/submit")
        if sender is ask:
            assert sender.post("/erasures", json=sure).json["code"] == "study_in_use"
        cancel(sender, batch)
    assert ask.post("/erasures", json=sure).json == {"studies": 0, "images": 1}
    with session_scope() as session:
        (theirs,) = session.scalars(select(Image)).all()
    assert blobs.exists(theirs.incoming_key or "")
    assert ask.post("/erasures", json=sure).status_code == 404
    for wrong in ({"named": 7}, {"named": "x" * 101}, {"named": "a\u0000b"}, {"studies": [], "named": ""}):
        assert ask.post("/erasures", json=wrong).status_code == 422


def test_what_a_trial_copied_goes_with_the_sites_time(ask: Asker, blobs: BlobStore) -> None:
    batch = read(ask, "a.png")
    promoted_beside("second-2", batch)
    ended(batch, days=31)
    keep(keep_results_days=30)
    assert sweep() > 0
    assert traces(blobs, "ACC-1", hashlib.sha256(png("a.png")).hexdigest()) == []
    is_clean()


def test_a_finding_that_another_study_needs_stays(ask: Asker, browser: Browser) -> None:
    read(ask, "c.png")
    batch = ask.draft()
    ask.send(batch, ("other name.png", png("c.png")))  # the same bytes in another study
    ask.post(f"/batches/{batch}/submit")
    with session_scope() as session:
        session.execute(update(Finding).values(precision="shared"))  # so that reading again adds one
    read_batch(batch)
    with session_scope() as session:
        n = session.scalar(select(func.count()).select_from(Finding))
    assert browser.post("/admin/retention/erase", study=str(study("ACC-2")), sure="yes").status_code == 303
    sha = hashlib.sha256(png("c.png")).hexdigest()
    with session_scope() as session:
        assert len(session.scalars(select(Finding).where(Finding.sha256 == sha)).all()) == n
    is_clean()


def test_what_is_held_in_use_or_of_another_site_is_not_erased(
    ask: Asker, browser: Browser, stranger: Asker, blobs: BlobStore
) -> None:
    read(ask, "a.png")
    held = study("ACC-1")
    with session_scope() as session:
        session.execute(update(StudyFinding).values(legal_hold=True))
    assert browser.post("/admin/retention/erase", study=str(held), sure="yes").status_code == 409
    assert "legal hold" in browser.client.get("/admin/retention?find=ACC-1").text
    running = read(ask, "c.png")
    with session_scope() as session:
        session.execute(update(Batch).where(Batch.id == running).values(status="running", finished_at=None))
    assert browser.post("/admin/retention/erase", study=str(study("ACC-2")), sure="yes").status_code == 409
    read(stranger, "d.png")
    theirs = study("ACC-3")
    answer = browser.post("/admin/retention/erase", study=[str(theirs), str(held)], sure="yes")
    assert answer.status_code == 404
    assert "No study of the site" in browser.client.get("/admin/retention?find=ACC-3").text
    assert browser.post("/admin/retention/erase", study="x", sure="yes").status_code == 422
    assert len(traces(blobs, str(theirs))) > 0
    with session_scope() as session:
        assert session.scalar(select(func.count()).select_from(Study)) == 3


def test_originals_go_after_the_sites_time(ask: Asker, stranger: Asker, blobs: BlobStore) -> None:
    old, young, theirs = read(ask, "a.png"), read(ask, "c.png"), read(stranger, "d.png")
    ended(old, days=31)
    ended(theirs, days=31)
    assert sweep() == 0  # for ever, as long as nobody says otherwise
    keep(keep_originals_days=30)
    assert sweep() == 1
    with session_scope() as session:
        kept = dict(session.execute(select(Image.batch_id, Image.original_key)).all())
    assert kept[old] is None
    assert kept[young] is not None
    assert kept[theirs] is not None
    assert len(ask.get(f"/batches/{old}/images").json["items"]) == 1
    image = ask.get(f"/batches/{old}/images").json["items"][0]
    assert image["links"]["original"] is None
    assert ask.get(f"/images/{image['id']}/original").status_code == 404
    assert ask.get(f"/images/{image['id']}/report").status_code == 200
    is_clean()
    with session_scope() as session:
        line = session.scalars(select(Audit).where(Audit.action == "originals_deleted")).one()
        assert (line.object_id, line.detail["images"], line.user_id) == (str(old), 1, None)


def test_results_go_after_the_sites_time_but_not_what_is_signed_or_held(ask: Asker, blobs: BlobStore) -> None:
    old, signed = read(ask, "a.png", "b.png", "c.png"), read(ask, "d.png")
    ended(old, days=400)
    ended(signed, days=400)
    draft = ask.draft()
    keep(keep_results_days=365)
    with session_scope() as session:
        mine = update(StudyFinding).where(StudyFinding.study_id == study("ACC-3"))
        session.execute(mine.values(signed_at=func.now()))
    gone = [str(old), str(study("ACC-1")), str(study("ACC-2")), "ACC-1", "ACC-2", "a.png"]
    assert sweep() == 3
    assert traces(blobs, *gone) == []
    assert ask.get(f"/batches/{old}").status_code == 404
    assert ask.get(f"/batches/{signed}").json["counts"]["done"] == 1
    assert ask.get(f"/batches/{draft}").status_code == 200
    is_clean()


def test_a_study_that_a_younger_batch_shows_stays(ask: Asker) -> None:
    old, young = read(ask, "a.png"), read(ask, "b.png")  # of one study
    ended(old, days=400)
    keep(keep_results_days=365)
    assert sweep() == 0
    ended(young, days=400)
    assert sweep() == 2


def test_a_full_disk_takes_the_oldest_originals_and_nothing_in_use(
    ask: Asker, settings_env: pytest.MonkeyPatch, monkeypatch: pytest.MonkeyPatch, blobs: BlobStore
) -> None:
    held, oldest, newer, running = (read(ask, name) for name in ("a.png", "c.png", "d.png", "b.png"))
    for days, batch in ((50, held), (40, oldest), (30, newer)):
        ended(batch, days)
    with session_scope() as session:
        session.execute(update(StudyFinding).where(StudyFinding.batch_id == held).values(legal_hold=True))
        session.execute(update(Batch).where(Batch.id == running).values(status="running", finished_at=None))
    full = [0.95]
    monkeypatch.setattr(FolderStore, "fullness", lambda self: full[0])
    monkeypatch.setattr(retention, "MAX_IMAGES", 1)
    assert retention.step() == 0  # no mark is set
    settings_env.setenv("FRACTUREAI_DISK_WATERMARK", "0.9")
    get_settings.cache_clear()

    def left() -> set[Any]:
        with session_scope() as session:
            return set(session.scalars(select(Image.batch_id).where(Image.original_key.is_not(None))))

    with session_scope() as session:
        site = session.scalars(select(Batch.site_id).where(Batch.id == newer)).one()
        unit = work.add_unit(session, WorkKind.EXPORT, site_id=site, subject_id=uuid.uuid4())
    assert retention.step() == 0  # a download is being prepared of them
    with session_scope() as session:
        session.merge(unit).state = "done"
    assert retention.step() == 1
    assert left() == {held, newer, running}
    full[0] = 0.85
    assert retention.step() == 0  # enough
    full[0] = 0.95
    assert sweep() == 1
    assert left() == {held, running}


def test_the_form_takes_days_or_nothing(browser: Browser) -> None:
    fields = {"keep_originals_days": "30", "keep_results_days": ""}
    assert browser.post("/admin/retention", **fields).status_code == 303
    with session_scope() as session:
        site = session.scalars(select(Site)).one()
        assert (site.keep_originals_days, site.keep_results_days) == (30, None)
        line = session.scalars(select(Audit).where(Audit.action == "retention_changed")).one()
        assert line.detail == {"keep_originals_days": 30, "keep_results_days": None}
    assert 'value="30"' in browser.client.get("/admin/retention").text
    for wrong in ("0", "-1", "x", "99999", "1.5"):
        assert browser.post("/admin/retention", keep_originals_days=wrong).status_code == 422


def test_the_quota_is_set_in_gigabytes_and_counts(browser: Browser, ask: Asker) -> None:
    assert browser.post("/admin/retention/quota", gigabytes="0.001").status_code == 303
    with session_scope() as session:
        assert session.scalars(select(Site.quota_bytes)).one() == 10**6
        line = session.scalars(select(Audit).where(Audit.action == "quota_changed")).one()
        assert line.detail == {"bytes": 10**6}
    batch = ask.draft()
    ask.send(batch, ("a.png", png("a") + bytes(900_000)))
    page = browser.client.get("/admin/retention").text
    assert 'value="0.001"' in page
    assert "900.0 kB of 1.0 MB" in page
    assert ask.send(batch, ("b.png", png("b") + bytes(200_000))).json["code"] == "quota_exceeded"
    for wrong in ("0", "-1", "x", "1,5", "1.2345"):
        assert browser.post("/admin/retention/quota", gigabytes=wrong).status_code == 422, wrong
    assert browser.post("/admin/retention/quota", gigabytes="").status_code == 303
    assert ask.send(batch, ("b.png", png("b") + bytes(200_000))).status_code == 200

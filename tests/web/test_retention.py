"""Deletion is real: after it no blob, no row and no download knows what was erased; the rest stays whole."""

from __future__ import annotations

import hashlib
import uuid
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, select, text, update

from settings import get_settings
from store import fsck, notices, retention, work
from store.blobs import BlobStore, FolderStore
from store.notices import Channel, Event
from store.session import get_engine, session_scope
from store.tables import (
    Audit,
    Base,
    Batch,
    Export,
    Finding,
    Image,
    Site,
    Study,
    StudyFinding,
    WorkKind,
)
from tests.reading import read_batch
from tests.web.asking import Asker, Browser, png

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
    """Return where one of the words stands still: keys and bytes of all blobs, rows of all tables but one."""
    found = []
    for key in blobs.keys(""):
        whole = key.encode() + blobs.get(key)
        found += [f"blob {key}" for word in words if word.encode() in whole]
    with get_engine().connect() as connection:
        for table in Base.metadata.sorted_tables:
            if table.name != "audit":
                rows = connection.execute(text(f"SELECT t::text FROM {table.name} t")).scalars()
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
        notices.positive_study(session, batch_row, gone)
        key = f"exports/{batch_row.site_id}/x/y"
        sha256, size = blobs.put(key, f"a ZIP with {gone}".encode())
        export = Export(
            site_id=batch_row.site_id, wish={"batch": str(batch), "format": "zip"}, name="x.zip",
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
    monkeypatch.setattr(retention, "MOST_IMAGES", 1)
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

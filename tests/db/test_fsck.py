"""A clean server is called clean, and each thing that can be wrong is found and named."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from click.testing import CliRunner
from sqlalchemy import update
from sqlalchemy.orm import Session

from cli.main import main
from store.base.blobs import BlobStore
from store.base.sealed_blobs import put_sealed
from store.base.session import session_scope
from store.base.tables import Batch, BatchReason, Image, StudyFinding, Work
from store.intake import batches
from store.intake.batches import NewFile
from store.operations.fsck import Problem, ProblemKind, check
from tests.reading import read_batch


@pytest.fixture
def batch(site: uuid.UUID, blobs: BlobStore) -> Batch:
    """A batch that was read: five images done, one rejected, one failed with its upload kept."""
    with session_scope() as session:
        made, _ = batches.create_batch(session, site_id=site, user_id=None)
        files = []
        for n in range(7):
            key = batches.new_incoming_key(made.id)
            data = b"upload %d" % n
            size = put_sealed(key, site, data)
            files.append(NewFile(f"{n}.png", hashlib.sha256(data).hexdigest(), size, key))
        batches.add_files(session, made.id, site, files)
        batches.submit(session, made.id, site)
    read_batch(made.id, reject=frozenset({"5.png"}), fail=frozenset({"6.png"}))
    with session_scope() as session:
        return session.get_one(Batch, made.id)


def kinds(problems: tuple[Problem, ...]) -> set[tuple[ProblemKind, str]]:
    return {(problem.kind, problem.code) for problem in problems}


def test_a_read_batch_is_clean(batch: Batch) -> None:
    seen: list[str] = []
    found = check(on_progress=lambda phase, done, total: seen.append(phase))
    assert found.problems == ()
    assert (found.references, found.blobs) == (16, 16)  # five originals, overlays, reports; an upload
    assert found.hashed_bytes > 0
    assert list(dict.fromkeys(seen)) == ["rows", "list", "hash"]


def test_a_batch_on_its_way_is_clean(site: uuid.UUID, blobs: BlobStore) -> None:
    with session_scope() as session:
        made, _ = batches.create_batch(session, site_id=site, user_id=None)
        key = batches.new_incoming_key(made.id)
        batches.add_files(session, made.id, site, [NewFile("a.png", *blobs.put(key, b"a"), key)])
        batches.submit(session, made.id, site)
    assert check().clean


def first(session: Session, table: type[Image] | type[StudyFinding], batch: Batch) -> Image | StudyFinding:
    return session.query(table).filter_by(batch_id=batch.id).order_by(table.id).first()


def done(session: Session, batch: Batch) -> Image:
    return session.query(Image).filter_by(batch_id=batch.id, status="done").order_by(Image.seq).first()


ROWS: dict[str, Callable[[Session, Batch], object]] = {
    "image_not_ended": lambda s, b: s.execute(
        update(Image).where(Image.path == "0.png").values(status="running")
    ),
    "image_lost": lambda s, b: s.execute(update(Image).where(Image.path == "0.png").values(status="queued")),
    "image_without_finding": lambda s, b: setattr(done(s, b), "finding_id", None),
    "image_without_report": lambda s, b: s.query(StudyFinding).limit(1).one().__setattr__("report_key", None),
    "image_without_overlay": lambda s, b: setattr(done(s, b), "overlay_key", None),
    "upload_kept": lambda s, b: setattr(done(s, b), "incoming_key", "incoming/x"),
    "lease_expired": lambda s, b: s.execute(
        update(Work).values(lease_until=datetime(2000, 1, 1, tzinfo=UTC))
    ),
    "work_after_end": lambda s, b: s.execute(update(Work).values(state="due")),
    "batch_stuck": lambda s, b: s.execute(update(Batch).values(status="running")),
    "counters": lambda s, b: s.execute(update(Batch).values(n_done=Batch.n_done + 1)),
    "reasons": lambda s, b: s.execute(update(BatchReason).values(n=9)),
}


@pytest.mark.parametrize("code", ROWS)
def test_rows_that_contradict_each_other_are_named(batch: Batch, code: str) -> None:
    if code == "batch_stuck":
        with session_scope() as session:
            session.execute(update(Work).values(state="done"))
    with session_scope() as session:
        ROWS[code](session, batch)
    found = check(quick=True)
    assert (ProblemKind.INCONSISTENT, code) in kinds(found.problems)


def test_missing_and_altered_bytes_are_named(batch: Batch, blobs: BlobStore) -> None:
    with session_scope() as session:
        one, two = session.query(Image).filter_by(status="done").order_by(Image.seq).limit(2)
        report = session.query(StudyFinding).first()
    blobs.delete(one.original_key)
    blobs.put(two.overlay_key, b"not what it was")
    blobs.put(report.report_key, b"a forged report")
    assert {(p.kind, p.code, p.subject) for p in check().problems} == {
        (ProblemKind.MISSING, "original", one.original_key),
        (ProblemKind.ALTERED, "overlay", two.overlay_key),
        (ProblemKind.ALTERED, "report", report.report_key),
    }
    assert kinds(check(quick=True).problems) == {(ProblemKind.MISSING, "original")}


def test_orphans_are_named_when_they_are_old_and_deleted_when_asked(batch: Batch, blobs: BlobStore) -> None:
    blobs.put("images/nobody/original", b"orphan")
    young = check()
    assert (young.clean, young.young) == (True, 1)
    assert kinds(check(orphan_age=0.0).problems) == {(ProblemKind.ORPHANED, "orphan")}
    assert check(repair_orphans=True).deleted == 0
    assert check(repair_orphans=True, orphan_age=0.0).deleted == 1
    assert not blobs.exists("images/nobody/original")
    assert check(orphan_age=0.0).blobs == 16


def test_scratch_of_an_ended_batch_is_named(batch: Batch, blobs: BlobStore) -> None:
    blobs.put(f"scratch/{batch.id}/{uuid.uuid4()}/{uuid.uuid4()}.npz", b"a stack")
    assert kinds(check().problems) == {(ProblemKind.INCONSISTENT, "scratch_left")}


def test_the_command_tells_by_its_exit_code(batch: Batch, blobs: BlobStore) -> None:
    assert CliRunner().invoke(main, ["fsck"]).exit_code == 0
    with session_scope() as session:
        blobs.delete(done(session, batch).overlay_key)
    result = CliRunner().invoke(main, ["fsck", "--json"])
    assert result.exit_code == 1
    document = json.loads(result.stdout)
    assert not document["clean"]
    assert [(p["kind"], p["code"]) for p in document["problems"]] == [("missing", "overlay")]


def test_a_server_that_is_not_there_is_told(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FRACTUREAI_DATABASE_URL", raising=False)
    monkeypatch.setenv("FRACTUREAI_HOME", f"{tmp_path}/nothing")
    result = CliRunner().invoke(main, ["fsck"])
    assert result.exit_code == 2
    assert "no server" in result.output

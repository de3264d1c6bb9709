"""A batch's way through the tables, without pictures and networks: `bench.growth` reads it so."""

from __future__ import annotations

import uuid
from typing import Any

from sqlalchemy import select, update

from store.base.session import session_scope
from store.base.tables import Batch, Finding, Image, Work, WorkKind, WorkState
from store.intake import batches
from store.intake.batches import NewFile
from store.queue import work
from store.reading import studies
from vocabulary.states import STAGES, ImageStatus, Stage
from worker.stages import finish
from worker.stages.chunk import Chunk
from worker.stages.classify import Classify
from worker.stages.prepare import Prepare
from worker.stages.report import Report
from worker.stages.runner import ChunkStage, Saving, run_stage


def _draft(site: uuid.UUID, files: int) -> Batch:
    with session_scope() as session:
        batch, _ = batches.create_batch(
            session, site_id=site, user_id=None, with_report=False, with_heatmap=False
        )
        new = [
            NewFile(f"study{n // 4}/{n}.dcm", uuid.uuid4().hex * 2, 300_000, f"incoming/{batch.id}/{n}")
            for n in range(files)
        ]
        batches.add_files(session, batch.id, site, new)
    with session_scope() as session:
        return batches.submit(session, batch.id, site)


def submit_batch(site: uuid.UUID, files: int) -> None:
    """Add files to a draft, submit it, and cancel it: the rows alone."""
    batch = _draft(site, files)
    with session_scope() as session:
        batches.cancel(session, batch.id, site)


class _Prepared(Prepare):
    """Prepare without decoding: every image is what its row says."""

    def compute(self, chunk: Chunk) -> Any:
        return None

    def narrow(self, session: Any, unit: Work, images: list[Image], result: Any) -> list[Image]:
        return images

    def save(self, saving: Saving, result: Any) -> bool:
        for image in saving.images:
            image.incoming_key = None
        studies.assign(saving.session, saving.images)
        saving.session.flush()
        studies.first_copies(saving.session, saving.images)
        studies.flag_corrections(saving.session, saving.images)
        return True

    def after(self, chunk: Chunk, result: Any, outcome: Any, *, goes_on: bool) -> None:
        pass


class _Classified(Classify):
    """Classify without a network: every image is a hand."""

    def compute(self, chunk: Chunk) -> list[dict[str, Any]]:
        with session_scope() as session:
            known = chunk.findings(session, chunk.bundle)
        return [
            {
                **{"id": uuid.uuid4(), "site_id": chunk.lease.site_id, "sha256": image.sha256},
                **{"bundle": chunk.bundle.name, "precision": chunk.purpose.precision, "region": "hand"},
                **{"region_probability": 0.9, "region_probabilities": {"hand": 0.9}, "flags": []},
            }
            for image in chunk.images
            if image.sha256 not in known
        ]


class _Detected(ChunkStage[None]):
    """Detect without a network: every image is negative."""

    name = Stage.DETECT

    def compute(self, chunk: Chunk) -> None:
        return None

    def save(self, saving: Saving, result: None) -> bool:
        findings = saving.chunk.findings(saving.session, saving.chunk.bundle)
        said = {"logit": -2.0, "probability": 0.1, "triage": "negative"}
        ids = [finding.id for finding in findings.values()]
        saving.session.execute(update(Finding).where(Finding.id.in_(ids)).values(said))
        for image in saving.images:
            image.region, image.region_probability = "hand", 0.9
            image.probability, image.triage = 0.1, "negative"
        return True


class _Explained(ChunkStage[None]):
    """Explain without a picture."""

    name = Stage.EXPLAIN

    def compute(self, chunk: Chunk) -> None:
        return None

    def save(self, saving: Saving, result: None) -> bool:
        return True


_STAGES: dict[Stage, ChunkStage[Any]] = {
    Stage.PREPARE: _Prepared(),
    Stage.CLASSIFY: _Classified(),
    Stage.DETECT: _Detected(),
    Stage.EXPLAIN: _Explained(),
    Stage.REPORT: Report(),
}


def _take(work_id: uuid.UUID, stage: Stage | None) -> work.Lease:
    with session_scope() as session:
        lease = work.take(session, work_id, stage)
    if not isinstance(lease, work.Lease):
        raise TypeError(f"the unit was not taken: {lease}")
    return lease


def read_batch(site: uuid.UUID, images: int) -> None:
    """Submit a batch, take its chunks through every stage, and end it."""
    batch = _draft(site, images)
    mine = (Work.batch_id == batch.id, Work.state != WorkState.DONE)
    with session_scope() as session:
        chunks = session.scalars(select(Work.id).where(*mine, Work.kind == WorkKind.CHUNK)).all()
    for chunk in chunks:
        for stage in STAGES:
            run_stage(_STAGES[stage], _take(chunk, stage))
    with session_scope() as session:
        end = session.scalars(select(Work.id).where(*mine, Work.kind == WorkKind.FINISH)).one()
    finish.run(_take(end, None))
    with session_scope() as session:
        ended = session.get_one(Batch, batch.id)
        if ended.n_done != images or ended.status != ImageStatus.DONE:
            raise RuntimeError(f"the batch is {ended.status} with {ended.n_done} images done")

"""How a stage runs: load, compute with no transaction open, then save and hand on under the lease.

The save is one transaction that first locks the unit under the lease. Whatever is written twice comes out the
same.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar, Generic, TypeVar

from sqlalchemy.orm import Session

from store.base.session import session_scope
from store.base.tables import Image, Work
from store.queue import counters, work
from store.queue.work import Lease
from vocabulary.states import STAGES, Stage, stages_until
from worker.stages.chunk import Chunk, load_chunk

R = TypeVar("R")


class Outcome(Enum):
    """What became of a stage's run."""

    SAVED = "saved"
    CANCELLED = "cancelled"
    LEASE_LOST = "lease lost"


@dataclass(frozen=True)
class Saving:
    """The transaction in which a stage saves.

    Attributes
    ----------
    unit
        The chunk's row, locked.
    images
        Those that have not ended; the batch's counters follow what is done to them.
    counts
        Takes what is to be added to the counters beside that.
    """

    session: Session
    unit: Work
    chunk: Chunk
    images: list[Image]
    counts: Counter[str]


class ChunkStage(Generic[R]):
    """One of the five stages of a chunk.

    `compute` and `save` are what a stage is; the other methods are for stages that need more.
    """

    name: ClassVar[Stage]

    def begin(self, lease: Lease) -> list[Image] | None:
        """Do what has to be done before the chunk is loaded; return its images if they were looked up."""
        return None

    def compute(self, chunk: Chunk) -> R:
        """Do the stage's work; no transaction is open."""
        raise NotImplementedError

    def scratch(self, unit: Work, result: R) -> str | None:
        """Return the key of the input stack for the next stage."""
        return unit.scratch

    def narrow(self, session: Session, unit: Work, images: list[Image], result: R) -> list[Image]:
        """Return the images that were worked on, after the others have been let go."""
        return images

    def save(self, saving: Saving, result: R) -> bool:
        """Change the rows of the images; return whether the next stage is wanted."""
        raise NotImplementedError

    def after(self, chunk: Chunk, result: R, outcome: Outcome, *, goes_on: bool) -> None:
        """Clean up once the transaction is over."""


@contextmanager
def held(lease: Lease) -> Iterator[tuple[Session, Work]]:
    """Open the transaction of a stage's end: the unit locked under the lease.

    Raises
    ------
    StaleLease
    """
    with session_scope() as session:
        yield session, work.hold(session, lease)


def run_stage(stage: ChunkStage[R], lease: Lease) -> bool:
    """Run a stage of the unit that is held under `lease`; return whether the chain goes on.

    Raises
    ------
    StaleLease
        The unit is another worker's, or its batch has ended: nothing was written.
    """
    began = time.monotonic()
    chunk = load_chunk(lease, stage.begin(lease))
    result = stage.compute(chunk)
    outcome, goes_on = Outcome.SAVED, False
    try:
        with held(lease) as (session, unit):
            if work.cancelled_meanwhile(session, unit):
                outcome = Outcome.CANCELLED
            else:
                goes_on = _save(stage, chunk, session, unit, result, began)
    except work.StaleLease:
        stage.after(chunk, result, Outcome.LEASE_LOST, goes_on=False)
        raise
    stage.after(chunk, result, outcome, goes_on=goes_on)
    return goes_on


def _save(stage: ChunkStage[R], chunk: Chunk, session: Session, unit: Work, result: R, began: float) -> bool:
    images = stage.narrow(session, unit, work.still_open(session, unit.id, chunk.images), result)
    with counters.counted(session, chunk.batch.id, images) as counts:
        goes_on = stage.save(Saving(session, unit, chunk, images, counts), result)
        for image in images:
            if stage.name not in stages_until(image.passed):
                image.passed = stage.name.value
        counts[f"ms_{stage.name}"] += round(1000 * (time.monotonic() - began))
    following = STAGES[STAGES.index(stage.name) + 1 :]
    goes_on = goes_on and bool(following)
    unit.scratch = stage.scratch(unit, result) if goes_on else None
    work.pass_stage(session, unit, following[0] if goes_on else None)
    return goes_on

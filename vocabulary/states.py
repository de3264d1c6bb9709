"""The states of batches and images, a chunk's stages, and the answers to a study, in order of urgency."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class Stage(StrEnum):
    """The five steps of a chunk, in the order in which they run."""

    PREPARE = "prepare"
    CLASSIFY = "classify"
    DETECT = "detect"
    EXPLAIN = "explain"
    REPORT = "report"

    @property
    def queue(self) -> str:
        """Return the queue of the workers that do it."""
        return _STAGE_QUEUES[self]


_STAGE_QUEUES = {
    Stage.PREPARE: "cpu",
    Stage.CLASSIFY: "gpu",
    Stage.DETECT: "gpu",
    Stage.EXPLAIN: "cpu",
    Stage.REPORT: "report",
}
STAGES: tuple[Stage, ...] = tuple(Stage)


def stages_until(last: str | None) -> tuple[Stage, ...]:
    """Return the stages passed by an image whose last one was `last`; none of them where that is None."""
    return () if last is None else STAGES[: STAGES.index(Stage(last)) + 1]


class BatchStatus(StrEnum):
    """State of a batch; the last four are terminal."""

    DRAFT = "draft"
    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    DONE = "done"
    PARTIAL = "partial"
    FAILED = "failed"
    CANCELLED = "cancelled"


class ImageStatus(StrEnum):
    """State of an image; `rejected` is the input's fault, `failed` is ours and can be retried."""

    UPLOADED = "uploaded"
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    REJECTED = "rejected"
    FAILED = "failed"
    CANCELLED = "cancelled"


TERMINAL_IMAGE_STATUSES = frozenset(
    {ImageStatus.DONE, ImageStatus.REJECTED, ImageStatus.FAILED, ImageStatus.CANCELLED}
)


TERMINAL_BATCH_STATUSES = frozenset(
    {BatchStatus.DONE, BatchStatus.PARTIAL, BatchStatus.FAILED, BatchStatus.CANCELLED}
)


class Triage(StrEnum):
    """What a person should do with the image, the most urgent first; no other place gives the order."""

    POSITIVE = "positive"
    DOUBT = "doubt"
    NOT_ASSESSABLE = "not_assessable"
    NEGATIVE = "negative"


class Answer(StrEnum):
    """What a reader says of a study."""

    PRESENT = "present"
    ABSENT = "absent"
    UNCERTAIN = "uncertain"
    UNREADABLE = "unreadable"


#: A study is as bad as its worst image: the larger number wins.
TRIAGE_SEVERITY: Mapping[Triage, int] = {triage: n for n, triage in enumerate(reversed(Triage))}

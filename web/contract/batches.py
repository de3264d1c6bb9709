"""The documents about batches: making one, steering it, sending its files, and how far it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Self
from uuid import UUID

from pydantic import Field, StringConstraints, create_model, field_validator

from store.base import tables
from store.base.blobs import storage_problem
from store.base.errors import BatchGivenUp, ServiceError
from store.base.tables import Priority
from store.intake import batches
from store.intake.uploads import KnownFile as Known
from vocabulary import times
from vocabulary.states import STAGES, BatchStatus, Triage
from web.contract.base import API, Body, Count, Document, Id, Links, Moment, Page, picked
from web.contract.images import NOT_ASSESSABLE
from web.contract.reasons import Reason, Trouble

#: Images that one request can choose, and files of which one can ask whether they are here.
MAX_CHOSEN, MAX_ASKED = 1000, 500
PRIORITIES = {priority.rank: priority for priority in Priority}
_MOVING = frozenset({BatchStatus.QUEUED, BatchStatus.RUNNING})


class NewBatch(Body):
    """What a person wants of a new batch."""

    label: Annotated[str, StringConstraints(max_length=200, strip_whitespace=True)] = ""
    bundle: str | None = Field(None, description="A bundle's name; the site's default when absent.")
    priority: Priority = Priority.NORMAL
    report: bool = True
    heatmap: bool = True

    @field_validator("label")
    @classmethod
    def _one_line(cls, label: str) -> str:
        if any(ord(letter) < 32 for letter in label):
            raise ValueError("must be one line")
        return label


class Submission(Body):
    """How a draft is submitted."""

    strict: bool = Field(False, description="Only if the manifest and the files match.")


class Cancellation(Body):
    """How a batch is cancelled."""

    draft_only: bool = Field(False, description="Cancel a draft and nothing else.")


class Retry(Body):
    """What is read again."""

    images: Annotated[list[UUID], Field(min_length=1, max_length=MAX_CHOSEN)] = Field(
        None, description="Only these; all that failed or were cancelled when absent."
    )


class NewPriority(Body):
    """How soon a batch is read."""

    priority: Priority


class BatchOptions(Document):
    """What is made of each image beside its finding."""

    report: bool
    heatmap: bool


class BatchCounts(Document):
    """Images by status: `total` is the sum of the others but `skipped`, which stands beside it."""

    total: Count
    uploaded: Count
    queued: Count
    running: Count
    done: Count
    rejected: Count
    failed: Count
    cancelled: Count
    skipped: Count


TriageCounts = create_model(
    "TriageCounts",
    __base__=Document,
    __doc__="Images by triage.",
    **{triage.value: (Count, ...) for triage in Triage},
)
StageCounts = create_model(
    "StageCounts",
    __base__=Document,
    __doc__="Images that have passed the stage, or have ended.",
    **{stage.value: (Count, ...) for stage in STAGES},
)


class ManifestMatch(Document):
    """How many lines and files of a manifest met nothing."""

    rows: Count
    rows_without_file: Count
    files_without_row: Count


class BatchProgress(Document):
    """How far a batch is."""

    id: Id
    label: str
    status: BatchStatus
    waits_for: Trouble | None = Field(
        description="Why nothing goes on at this moment: the storage is full or does not answer."
    )
    end_failure: Trouble | None = Field(
        description="Why an ended batch could not be completed: reports may be missing."
        " A retry tries its end again."
    )
    priority: Priority
    bundle: str
    options: BatchOptions
    created_at: Moment
    submitted_at: Moment | None
    finished_at: Moment | None
    cancelled_at: Moment | None = Field(
        description="When it was cancelled; what a worker holds ends soon after."
    )
    counts: BatchCounts
    findings_withheld: bool = Field(
        description="The site had not promoted the bundle: what it found is for researchers."
    )
    triage: TriageCounts | None = Field(description="null where findings are withheld.")
    stages: StageCounts
    reasons: dict[str, Count]
    manifest: ManifestMatch | None = Field(description="Of a submitted batch with a manifest.")
    rate: float = Field(description="Images a second, lately.")
    eta_seconds: int | None = Field(
        description="Until all is read; null before a tenth of the work is done, while it is not known what a"
        " stage costs, and in lists."
    )
    time_left: str | None = Field(description="The same in words, no more exactly than it is known.")

    @classmethod
    def of(
        cls,
        batch: tables.Batch,
        reasons: Mapping[str, int],
        *,
        findings: bool,
        left: float | None = None,
        **more: Links,
    ) -> Self:
        """Return a batch; every figure comes from its own row and its counted reasons.

        Parameters
        ----------
        findings
            Without it the batch does not say what the bundle found.
        left
            Seconds that the rest will take, where they were estimated.
        """
        waits, moving = waits_for(batch), batch.status in _MOVING
        left = left if moving and waits is None and batch.cancelled_at is None else None
        counts = {
            name: getattr(batch, f"n_{name}") for name in BatchCounts.model_fields if name != "uploaded"
        }
        in_others = sum(counts.values()) - counts["total"] - counts["skipped"]
        same = (
            "id",
            "label",
            "status",
            "bundle",
            "created_at",
            "submitted_at",
            "finished_at",
            "cancelled_at",
        )
        return cls(
            **picked(batch, *same),
            waits_for=waits and Trouble.of(waits, advice=waits.waiting),
            end_failure=Trouble.of(BatchGivenUp, detail=batch.end_failure) if batch.end_failure else None,
            priority=PRIORITIES[batch.priority],
            options=BatchOptions(report=batch.with_report, heatmap=batch.with_heatmap),
            counts=BatchCounts(uploaded=counts["total"] - in_others, **counts),
            findings_withheld=not findings,
            triage={triage: getattr(batch, f"t_{triage}") for triage in Triage} if findings else None,
            stages={stage: getattr(batch, f"s_{stage}") for stage in STAGES},
            reasons={
                code: n for code, n in sorted(reasons.items()) if findings or code not in NOT_ASSESSABLE
            },
            manifest=ManifestMatch(
                rows=batch.manifest_rows,
                rows_without_file=batch.manifest_rows_unmatched,
                files_without_row=batch.manifest_files_unmatched,
            )
            if batch.manifest_rows
            else None,
            rate=round(batch.rate, 3) if moving else 0.0,
            eta_seconds=None if left is None else round(left),
            time_left=None if left is None else times.time_left(left),
            **more,
        )


class Batch(BatchProgress):
    """A batch: how far it is, and what can be done with it."""

    links: Links

    @classmethod
    def of(
        cls, batch: tables.Batch, reasons: Mapping[str, int], *, findings: bool, left: float | None = None
    ) -> Self:
        """Return a batch."""
        here = f"{API}/batches/{batch.id}"
        actions = ("images", "files", "submit", "cancel", "retry", "pause", "resume")
        links = {
            "self": here,
            "page": f"/batches/{batch.id}",
            **{action: f"{here}/{action}" for action in actions},
            "unmatched": f"{here}/unmatched.csv",
            "csv": f"{here}/results.csv",
            "zip": f"{here}/results.zip",
        }
        return super().of(batch, reasons, findings=findings, left=left, links=links)


class Batches(Page[Batch]):
    """A site's batches."""


def waits_for(batch: tables.Batch) -> ServiceError | None:
    """Return why a batch that is read makes no progress: the blob store takes nothing."""
    return storage_problem(wait=False) if batch.status in _MOVING else None


def batch_etag(batch: tables.Batch) -> str:
    """Return a batch's entity tag: its version rises with every change of its row; what it waits for."""
    waits = waits_for(batch)
    return f"{batch.id.hex[:12]}-{batch.version}" + (f"-{waits.code}" if waits else "")


# files


class FileAnswer(Document):
    """What became of a file."""

    filename: str
    status: Literal["accepted", "rejected", "skipped", "duplicate"]
    image_id: Id | None
    sha256: str | None
    size: Count
    reason: Reason | None

    @classmethod
    def of(cls, answer: batches.FileAnswer) -> FileAnswer:
        """Return what became of one file."""
        return cls(
            **picked(answer, "status", "image_id", "size"),
            filename=answer.path,
            sha256=answer.sha256 or None,
            reason=Reason.of(answer.reason),
        )


class FileCounts(Document):
    """How many files had which end."""

    accepted: Count
    rejected: Count
    skipped: Count
    duplicate: Count
    total: Count


class FileAnswers(Document):
    """What became of each file of a request, in their order; streamed, since they may be many."""

    files: list[FileAnswer]
    counts: FileCounts


class AskedFile(Body):
    """A file that a client could send."""

    filename: str
    sha256: Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]


class AskedFiles(Body):
    """What a client is about to send."""

    files: list[AskedFile] = Field([], max_length=MAX_ASKED)
    bytes: int = Field(0, ge=0, description="To come in all; refused when the site's quota is less.")


class KnownFile(Document):
    """A file that a draft has already."""

    filename: str
    sha256: str
    status: Literal["accepted", "rejected"]
    reason: Reason | None

    @classmethod
    def of(cls, file: Known) -> KnownFile:
        """Return a file of the draft that was asked about."""
        status = "rejected" if file.status == "rejected" else "accepted"
        return cls(filename=file.path, sha256=file.sha256, status=status, reason=Reason.of(file.reason))


class KnownFiles(Document):
    """Those of the files asked for that a draft has."""

    files: list[KnownFile]

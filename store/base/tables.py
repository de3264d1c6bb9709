"""The tables. Every row that belongs to a site carries its `site_id`, and every query names it."""

from __future__ import annotations

import uuid
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    ColumnElement,
    DateTime,
    Float,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Text,
    UniqueConstraint,
    bindparam,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB, UUID
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from pipeline.types import RenderingStep, StudyFacts
from vocabulary.reasons import REASONS, Reason
from vocabulary.rendering import RenderingCode
from vocabulary.states import (
    STAGES,
    TERMINAL_BATCH_STATUSES,
    TERMINAL_IMAGE_STATUSES,
    Answer,
    BatchStatus,
    ImageStatus,
    Stage,
    Triage,
)

__all__ = [
    "ENDED_WORK",
    "OPEN_BATCHES",
    "OPEN_WORK",
    "REASONS",
    "STAGES",
    "TERMINAL_BATCH_STATUSES",
    "TERMINAL_IMAGE_STATUSES",
    "AccountMail",
    "Answer",
    "ApiKey",
    "Audit",
    "AuditLink",
    "Base",
    "Batch",
    "BatchMark",
    "BatchReason",
    "BatchStatus",
    "BatchTotal",
    "Bundle",
    "EventCount",
    "Export",
    "Finding",
    "Image",
    "ImageStatus",
    "KnownPlace",
    "Maintenance",
    "ManifestLine",
    "Notice",
    "NoticeTarget",
    "Priority",
    "Reason",
    "RenderingCode",
    "RenderingStep",
    "SignInAttempt",
    "SignInToken",
    "Site",
    "Stage",
    "Study",
    "StudyFacts",
    "StudyFinding",
    "Triage",
    "Upload",
    "User",
    "UserSession",
    "Work",
    "WorkKind",
    "WorkState",
    "Worker",
    "batch_is_open",
    "work_is_open",
]

NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
}


class Priority(StrEnum):
    """The requester's priority; `RANK` orders them, the smaller first."""

    URGENT = "urgent"
    NORMAL = "normal"
    LOW = "low"

    @property
    def rank(self) -> int:
        """Return the number that the database sorts by."""
        return {"urgent": 0, "normal": 1, "low": 2}[self.value]


class WorkKind(StrEnum):
    """What a unit of work is."""

    CHUNK = "chunk"
    FINISH = "finish"
    EXPORT = "export"
    NOTICE = "notice"
    PASSWORD = "password"  # noqa: S105 - a mail with a link for one
    ACCOUNT_MAIL = "account_mail"
    EVALUATE = "evaluate"
    SIGN = "sign"
    PIXELS = "pixels"  # a picture at full depth, for somebody who looks at it
    DELIVER = "deliver"


class WorkState(StrEnum):
    """`due` waits for dispatch, `published` lies in the broker, `running` was taken at least once.

    A chunk never is `failed`: its images are.
    """

    DUE = "due"
    PUBLISHED = "published"
    RUNNING = "running"
    DONE = "done"
    CANCELLED = "cancelled"
    FAILED = "failed"


#: In these nothing will be done any more.
ENDED_WORK = frozenset({WorkState.DONE, WorkState.CANCELLED, WorkState.FAILED})
#: In these something will, in the words of the partial indexes: see `work_is_open`.
OPEN_WORK = (WorkState.DUE.value, WorkState.PUBLISHED.value, WorkState.RUNNING.value)


class Base(DeclarativeBase):
    """Base of all tables."""

    metadata = MetaData(naming_convention=NAMES)
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy's own protocol
        uuid.UUID: UUID(as_uuid=True),
        datetime: DateTime(timezone=True),
        dict[str, Any]: JSONB,
        list[Any]: JSONB,
        str: Text,
    }


def id_column() -> Mapped[uuid.UUID]:
    """Return the column of a row's own id."""
    return mapped_column(primary_key=True, default=uuid.uuid4)


def site_column() -> Mapped[uuid.UUID]:
    """Return the column of the site to which a row belongs."""
    return mapped_column(ForeignKey("sites.id"), nullable=False)


def now_column() -> Mapped[datetime]:
    """Return a column that holds when the row was made."""
    return mapped_column(server_default=func.now())


def zero_column() -> Mapped[int]:
    """Return the column of a count."""
    return mapped_column(Integer, nullable=False, server_default=text("0"), default=0)


class Site(Base):
    """A tenant: a hospital or a department."""

    __tablename__ = "sites"
    id: Mapped[uuid.UUID] = id_column()
    name: Mapped[str] = mapped_column(unique=True)
    default_bundle: Mapped[str | None] = mapped_column(ForeignKey("bundles.name"))
    keep_originals_days: Mapped[int | None]  # after the batch ended; NULL: for ever
    keep_results_days: Mapped[int | None]
    quota_bytes: Mapped[int | None] = mapped_column(BigInteger)  # of uploads; NULL: the setting's
    second_factor_roles: Mapped[list[Any]] = mapped_column(server_default=text("'[]'::jsonb"), default=list)
    shadow_bundle: Mapped[str | None] = mapped_column(ForeignKey("bundles.name"))
    starts_with_map: Mapped[bool] = mapped_column(Boolean, server_default=text("true"), default=True)
    time_zone: Mapped[str | None]  # of pages, reports and days; NULL: UTC, and on pages the browser's own
    decode_rests_until: Mapped[datetime | None]  # until then other sites' work goes first
    created_at: Mapped[datetime] = now_column()


class User(Base):
    """A person who signs in to the pages."""

    __tablename__ = "users"
    __table_args__ = (UniqueConstraint("site_id", "email"),)
    id: Mapped[uuid.UUID] = id_column()
    site_id: Mapped[uuid.UUID] = site_column()
    email: Mapped[str]
    name: Mapped[str] = mapped_column(server_default="", default="")
    password_hash: Mapped[str | None]
    provider_subject: Mapped[str | None] = mapped_column(unique=True)  # at an identity provider
    vouched_at: Mapped[datetime | None]  # when the identity provider last vouched for the person
    role: Mapped[str]  # a store.accounts.accounts.Role
    role_from_provider: Mapped[bool] = mapped_column(Boolean, server_default=text("false"), default=False)
    totp_secret: Mapped[str | None]  # of the second factor, sealed; NULL: none
    totp_step: Mapped[int | None] = mapped_column(BigInteger)  # of the last code used: none counts twice
    recovery_codes: Mapped[list[Any]] = mapped_column(server_default=text("'[]'::jsonb"), default=list)
    viewer: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"), default=dict)
    created_at: Mapped[datetime] = now_column()
    disabled_at: Mapped[datetime | None]


class ApiKey(Base):
    """A key for programs; only its hash is kept."""

    __tablename__ = "api_keys"
    id: Mapped[uuid.UUID] = id_column()
    site_id: Mapped[uuid.UUID] = site_column()
    user_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("users.id"))
    name: Mapped[str]
    key_hash: Mapped[str] = mapped_column(String(64), unique=True)
    scope: Mapped[list[Any]]  # of store.accounts.accounts.Permission
    created_at: Mapped[datetime] = now_column()
    last_used_at: Mapped[datetime | None]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class SignInToken(Base):
    """A one-time link that signs a person in or sets their password; only its hash is kept."""

    __tablename__ = "sign_in_tokens"
    id: Mapped[uuid.UUID] = id_column()
    user_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("users.id"))
    token_hash: Mapped[str] = mapped_column(String(64), unique=True)
    sets_password: Mapped[bool] = mapped_column(Boolean, server_default=text("false"), default=False)
    expires_at: Mapped[datetime]
    used_at: Mapped[datetime | None]


class SignInAttempt(Base):
    """A sign-in that failed or is being tried, by a hash of the address or the person it names."""

    __tablename__ = "sign_in_attempts"
    __table_args__ = (Index("ix_sign_in_attempts_key_at", "key_hash", "at"),)
    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    key_hash: Mapped[str] = mapped_column(String(64))
    at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())


class KnownPlace(Base):
    """A network from which a person has signed in, by its hash."""

    __tablename__ = "known_places"
    user_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("users.id"), primary_key=True)
    place_hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    seen_at: Mapped[datetime] = now_column()


class AccountMail(Base):
    """What is mailed to a person about their own account."""

    __tablename__ = "account_mails"
    id: Mapped[uuid.UUID] = id_column()
    user_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("users.id"), index=True)
    event: Mapped[str]
    said: Mapped[str] = mapped_column(server_default="", default="")
    at: Mapped[datetime] = now_column()


class UserSession(Base):
    """A signed-in browser; only the hash of its cookie is kept."""

    __tablename__ = "user_sessions"
    id: Mapped[uuid.UUID] = id_column()
    user_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("users.id"), index=True)
    token_hash: Mapped[str] = mapped_column(String(64), unique=True)
    csrf_token: Mapped[str]
    agent: Mapped[str] = mapped_column(server_default="", default="")
    how: Mapped[str] = mapped_column(server_default="", default="")  # password, link or provider
    second_factor: Mapped[bool] = mapped_column(Boolean, server_default=text("false"), default=False)
    created_at: Mapped[datetime] = now_column()
    last_seen_at: Mapped[datetime] = now_column()
    confirmed_at: Mapped[datetime | None]  # when the identity provider last confirmed the person anew
    proved_at: Mapped[datetime] = now_column()  # when the person last signed in or gave their password here
    expires_at: Mapped[datetime]
    # what was last done on the worklist, until the next page has offered to undo it
    last_done: Mapped[dict[str, Any] | None]


class Audit(Base):
    """Who did what; append-only by a trigger. `AuditLink` makes a chain of the rows."""

    __tablename__ = "audit"
    __table_args__ = tuple(
        Index("_".join(("ix_audit_site", *by, "at")), "site_id", *by, "at", "id")
        for by in ((), ("user_id",), ("action",), ("object_id",))
    )
    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    site_id: Mapped[uuid.UUID] = site_column()
    user_id: Mapped[uuid.UUID | None]
    action: Mapped[str]
    object_id: Mapped[str | None]
    detail: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))
    at: Mapped[datetime] = now_column()
    address: Mapped[str | None]  # from where
    key_id: Mapped[uuid.UUID | None]  # the API key by which
    operator: Mapped[str | None]  # the account of the server's machine that ran a command


class AuditLink(Base):
    """An audit row's place in the chain: each hash covers the row and the hash before.

    A deferred trigger of the database writes it when the transaction that wrote the row commits.
    """

    __tablename__ = "audit_chain"
    seq: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    audit_id: Mapped[int] = mapped_column(BigInteger, unique=True)
    hash: Mapped[str] = mapped_column(String(64))


class Bundle(Base):
    """A model version: its manifest here, its files in the blob store under ``bundles/<name>/``."""

    __tablename__ = "bundles"
    name: Mapped[str] = mapped_column(primary_key=True)
    sha256: Mapped[str] = mapped_column(String(64))
    manifest: Mapped[dict[str, Any]]
    card: Mapped[str] = mapped_column(server_default="")
    files: Mapped[dict[str, Any]]  # file name -> sha256
    created_at: Mapped[datetime] = now_column()


_HOLDS_ORIGINALS = "finished_at is not null and run_id is null and originals_gone is distinct from round"
#: Batches of which something may still come, in the words of their partial index: see `batch_is_open`.
OPEN_BATCHES = tuple(status.value for status in BatchStatus if status not in TERMINAL_BATCH_STATUSES)


class Batch(Base):
    """A submission. Its counters make a poll one row's read; they change in the images' transactions.

    `promoted` says that its bundle was the site's own when it was submitted: clinical work, no trial.

    ``t_<triage>`` counts the images that are done by what was said of them, ``s_<stage>`` those that passed
    the stage or are terminal, and ``ms_<stage>`` is how long workers were at it: a column each, added below.
    """

    __tablename__ = "batches"
    __table_args__ = (
        UniqueConstraint("site_id", "idempotency_key"),
        Index("ix_batches_site_created", "site_id", "created_at", "id"),
        Index(
            "ix_batches_active",
            "status",
            postgresql_where=text("status in ('queued','running','paused')"),
        ),
        Index("ix_batches_run", "run_id", postgresql_where=text("run_id is not null")),
        # `store.operations.retention`: where an original may be left, and where results may go
        *(
            Index(f"ix_batches_{name}", *columns, postgresql_where=text(_HOLDS_ORIGINALS))
            for name, columns in (
                ("originals", ("site_id", "finished_at", "id")),
                ("oldest_originals", ("finished_at", "id")),
            )
        ),
        Index(
            "ix_batches_kept",
            *("site_id", "kept_until", "finished_at", "id"),
            postgresql_where=text("finished_at is not null and run_id is null"),
        ),
        Index(
            "ix_batches_open",
            *("site_id", "created_at"),
            postgresql_where=text("status in ('draft','queued','running','paused')"),
        ),
    )
    id: Mapped[uuid.UUID] = id_column()
    site_id: Mapped[uuid.UUID] = site_column()
    user_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("users.id"))
    label: Mapped[str] = mapped_column(server_default="")
    status: Mapped[str] = mapped_column(server_default="draft", default=BatchStatus.DRAFT.value)
    priority: Mapped[int] = mapped_column(SmallInteger, server_default="1", default=1)
    bundle: Mapped[str] = mapped_column(ForeignKey("bundles.name"))
    promoted: Mapped[bool] = mapped_column(Boolean, server_default=text("true"), default=True)
    run_id: Mapped[uuid.UUID | None]  # of research; NULL is clinical work, which alone is shown as batches
    with_report: Mapped[bool] = mapped_column(Boolean, server_default=text("true"), default=True)
    with_heatmap: Mapped[bool] = mapped_column(Boolean, server_default=text("true"), default=True)
    idempotency_key: Mapped[str | None]
    request_hash: Mapped[str | None] = mapped_column(String(64))
    round: Mapped[int] = mapped_column(Integer, server_default=text("1"), default=1)
    version: Mapped[int] = mapped_column(BigInteger, server_default=text("1"), default=1)
    created_at: Mapped[datetime] = now_column()
    submitted_at: Mapped[datetime | None]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    cancelled_at: Mapped[datetime | None]
    paused_at: Mapped[datetime | None]
    n_total: Mapped[int] = zero_column()
    n_queued: Mapped[int] = zero_column()
    n_running: Mapped[int] = zero_column()
    n_done: Mapped[int] = zero_column()
    n_rejected: Mapped[int] = zero_column()
    n_failed: Mapped[int] = zero_column()
    n_cancelled: Mapped[int] = zero_column()
    n_skipped: Mapped[int] = zero_column()
    # of the requester's manifest, counted at submit
    manifest_rows: Mapped[int] = zero_column()
    manifest_rows_unmatched: Mapped[int] = zero_column()
    manifest_files_unmatched: Mapped[int] = zero_column()
    n_bytes: Mapped[int] = mapped_column(BigInteger, server_default=text("0"), default=0)
    rate: Mapped[float] = mapped_column(Float, server_default=text("0"), default=0.0)
    rate_at: Mapped[datetime | None]
    end_failure: Mapped[str | None]  # a Reason: its images have ended, and what follows that failed for good
    originals_gone: Mapped[int | None]  # the round after which no original of it was left
    kept_until: Mapped[datetime | None]  # what it holds may not go, and is not looked at again before

    @property
    def is_clinical(self) -> bool:
        """Tell whether it is read for patients, and not for research."""
        return self.run_id is None


for _counter in (*(f"t_{triage}" for triage in Triage), *(f"s_{stage}" for stage in Stage)):
    setattr(Batch, _counter, zero_column())
for _stage in Stage:
    setattr(
        Batch, f"ms_{_stage}", mapped_column(BigInteger, nullable=False, server_default=text("0"), default=0)
    )


class BatchTotal(Base):
    """Images and bytes of ended batches by site: rows that add up, so that nobody reads every batch.

    A trigger adds a row for each batch that ends, changes after its end, or goes, whichever version of the
    service does it; `store.base.batch_totals` makes one row a site of them now and then.
    """

    __tablename__ = "batch_totals"
    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    site_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("sites.id", ondelete="CASCADE"), index=True)
    n_done: Mapped[int] = mapped_column(BigInteger)
    n_rejected: Mapped[int] = mapped_column(BigInteger)
    n_failed: Mapped[int] = mapped_column(BigInteger)
    n_cancelled: Mapped[int] = mapped_column(BigInteger)
    #: Of clinical batches, but of drafts that were cancelled: what a quota counts.
    n_bytes: Mapped[int] = mapped_column(BigInteger)


class BatchReason(Base):
    """How many images of a batch carry a reason; kept so that a poll need not count."""

    __tablename__ = "batch_reasons"
    batch_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("batches.id", ondelete="CASCADE"), primary_key=True
    )
    reason: Mapped[str] = mapped_column(primary_key=True)
    n: Mapped[int] = zero_column()


class BatchMark(Base):
    """How many images of a batch had passed each stage at a moment: a mark each 64th of its way, no more."""

    __tablename__ = "batch_marks"
    batch_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("batches.id", ondelete="CASCADE"), primary_key=True
    )
    number: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)
    at: Mapped[datetime] = now_column()
    passed: Mapped[list[Any]]  # of each stage, in their order
    worked: Mapped[list[Any]] = mapped_column(
        server_default=text("'[]'")
    )  # ms of each stage's workers till then


class BatchSummary(Base):
    """What a batch amounted to when it was of this version; see `store.intake.summary`."""

    __tablename__ = "batch_summaries"
    batch_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("batches.id", ondelete="CASCADE"), primary_key=True
    )
    version: Mapped[int] = mapped_column(BigInteger)
    figures: Mapped[dict[str, Any]]


class Study(Base):
    """Images that belong together. `key` says by what: ``uid:``, ``manifest:``, ``path:`` or ``image:``.

    `uid_shared` says that images of another patient or accession number came with the same identifier.
    """

    __tablename__ = "studies"
    __table_args__ = (
        UniqueConstraint("site_id", "key"),
        Index("ix_studies_site_accession", "site_id", "accession"),
        Index(
            "ix_studies_site_uid",
            *("site_id", "study_uid", "uid_shared"),
            postgresql_where=text("study_uid <> ''"),
        ),
    )
    id: Mapped[uuid.UUID] = id_column()
    site_id: Mapped[uuid.UUID] = site_column()
    key: Mapped[str]
    study_uid: Mapped[str] = mapped_column(server_default="", default="")
    accession: Mapped[str] = mapped_column(server_default="", default="")
    study_date: Mapped[str] = mapped_column(server_default="", default="")
    patient_hash: Mapped[str] = mapped_column(server_default="", default="")
    uid_shared: Mapped[bool] = mapped_column(Boolean, server_default=text("false"), default=False)
    created_at: Mapped[datetime] = now_column()


class StudyFinding(Base):
    """One version of what one bundle says of a study, with its report. `basis` is a hash of what went in."""

    __tablename__ = "study_findings"
    __table_args__ = (
        UniqueConstraint("study_id", "bundle", "version"),
        Index("ix_study_findings_batch", "batch_id"),
    )
    id: Mapped[uuid.UUID] = id_column()
    site_id: Mapped[uuid.UUID] = site_column()
    study_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("studies.id"))
    batch_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("batches.id"))
    bundle: Mapped[str] = mapped_column(ForeignKey("bundles.name"))
    version: Mapped[int]
    basis: Mapped[str] = mapped_column(String(64))
    triage: Mapped[str]
    reasons: Mapped[list[Any]] = mapped_column(server_default=text("'[]'::jsonb"))
    n_images: Mapped[int]
    report_key: Mapped[str | None]
    report_sha256: Mapped[str | None] = mapped_column(String(64))
    report_size: Mapped[int | None]
    review_id: Mapped[uuid.UUID | None]  # of the signed report: a reviews.id
    signed_by: Mapped[str | None]
    signed_at: Mapped[datetime | None]
    legal_hold: Mapped[bool] = mapped_column(Boolean, server_default=text("false"), default=False)
    created_at: Mapped[datetime] = now_column()


class Finding(Base):
    """What a bundle says of some bytes; shared by every image of the site that has them.

    `cam` is the float16 class-activation map of `cam_height` x `cam_width`, C order, or NULL.
    """

    __tablename__ = "findings"
    __table_args__ = (UniqueConstraint("site_id", "sha256", "bundle", "precision"),)
    id: Mapped[uuid.UUID] = id_column()
    site_id: Mapped[uuid.UUID] = site_column()
    sha256: Mapped[str] = mapped_column(String(64))
    bundle: Mapped[str] = mapped_column(ForeignKey("bundles.name"))
    precision: Mapped[str]
    region: Mapped[str]
    region_probability: Mapped[float]
    region_probabilities: Mapped[dict[str, Any]]
    distance: Mapped[float | None]
    not_assessable: Mapped[str | None]
    flags: Mapped[list[Any]] = mapped_column(server_default=text("'[]'::jsonb"))
    network: Mapped[str | None]
    logit: Mapped[float | None]
    probability: Mapped[float | None]
    triage: Mapped[str | None]
    cam: Mapped[bytes | None] = mapped_column(LargeBinary)
    cam_height: Mapped[int | None] = mapped_column(SmallInteger)
    cam_width: Mapped[int | None] = mapped_column(SmallInteger)
    #: `pipeline.types.SuspectedBox`, of a bundle that draws them; NULL where none was asked.
    suspected_places: Mapped[list[Any] | None]
    created_at: Mapped[datetime] = now_column()


class Work(Base):
    """One unit of work: the only thing that recovers. See ``store.queue.work``.

    Chunks and finishes belong to a batch; the other kinds name the row that they are about as `subject_id`.
    """

    __tablename__ = "work"
    __table_args__ = (
        Index(
            "uq_work_finish",
            "batch_id",
            "round",
            unique=True,
            postgresql_where=text("kind = 'finish'"),
        ),
        Index(
            "ix_work_due",
            "site_id",
            "priority",
            "due_at",
            postgresql_where=text("state = 'due'"),
        ),
        Index(
            "ix_work_in_flight",
            "state",
            "published_at",
            postgresql_where=text("state in ('published','running')"),
        ),
        Index("ix_work_batch", "batch_id", "state"),
        Index(
            "ix_work_open", "site_id", "kind", postgresql_where=text("state in ('due','published','running')")
        ),
        Index("ix_work_subject", "subject_id", postgresql_where=text("subject_id is not null")),
        CheckConstraint(
            "CASE WHEN kind IN ('chunk', 'finish') THEN batch_id IS NOT NULL"
            " ELSE batch_id IS NULL AND subject_id IS NOT NULL END",
            name="ck_work_subject",
        ),
        Index("ix_work_scratch", "id", postgresql_where=text("scratch is not null")),
        Index("ix_work_failed", "kind", "subject_id", postgresql_where=text("state = 'failed'")),
        Index("ix_work_read", "finished_at", postgresql_where=text("kind = 'chunk' and state = 'done'")),
        Index(
            "ix_work_unavailable",
            "unavailable_since",
            postgresql_where=text("unavailable_since is not null"),
        ),
    )
    id: Mapped[uuid.UUID] = id_column()
    site_id: Mapped[uuid.UUID] = site_column()
    batch_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("batches.id", ondelete="CASCADE"))
    subject_id: Mapped[uuid.UUID | None]
    kind: Mapped[str]
    round: Mapped[int] = mapped_column(Integer, server_default=text("1"), default=1)
    stage: Mapped[str | None]  # the next stage of a chunk; NULL for other kinds
    state: Mapped[str] = mapped_column(server_default="due", default=WorkState.DUE.value)
    priority: Mapped[int] = mapped_column(SmallInteger)
    n_images: Mapped[int] = zero_column()
    attempt: Mapped[int] = zero_column()
    taken: Mapped[int] = zero_column()
    due_at: Mapped[datetime] = now_column()
    published_at: Mapped[datetime | None]
    lease_until: Mapped[datetime | None]
    lease_token: Mapped[uuid.UUID | None]
    scratch: Mapped[str | None]  # blob key of the chunk's input stack
    error: Mapped[str | None]
    error_code: Mapped[str | None]
    unavailable_since: Mapped[datetime | None]  # given back without an attempt since then
    unavailable_reason: Mapped[str | None]
    created_at: Mapped[datetime] = now_column()
    finished_at: Mapped[datetime | None]


def _one_of(column: Any, values: tuple[str, ...]) -> ColumnElement[bool]:
    """Return ``column IN (...)`` with the values in the statement: a partial index is known by its words.

    ``NOT IN`` the other states, or a list of parameters in a prepared statement, is answered by a walk
    through every row that ever was.
    """
    said: ColumnElement[bool] = column.in_(bindparam(None, values, expanding=True, literal_execute=True))
    return said


def work_is_open() -> ColumnElement[bool]:
    """Return the condition that a unit of work has not ended; the indexes of open work answer it."""
    return _one_of(Work.state, OPEN_WORK)


def batch_is_open() -> ColumnElement[bool]:
    """Return the condition that a batch has not ended; the index of open batches answers it."""
    return _one_of(Batch.status, OPEN_BATCHES)


#: Images of a batch whose pictures share a folder.
IMAGES_A_FOLDER = 64


class Image(Base):
    """One path in one batch. `path` may hold names: it is shown to its owner alone and never logged."""

    __tablename__ = "images"
    __table_args__ = (
        UniqueConstraint("batch_id", "path", "sha256"),
        Index("ix_images_batch_seq", "batch_id", "seq"),
        Index("ix_images_batch_status_seq", "batch_id", "status", "seq"),
        Index("ix_images_batch_triage_seq", "batch_id", "triage", "seq"),
        Index("ix_images_batch_region_seq", "batch_id", "region", "seq"),
        Index("ix_images_original", "batch_id", "seq", postgresql_where=text("original_key is not null")),
        Index("ix_images_work", "work_id"),
        Index("ix_images_study", "study_id"),
        Index("ix_images_finding", "finding_id"),
        Index("ix_images_site_sha", "site_id", "sha256"),
        Index("ix_images_site_created", "site_id", "created_at"),
        Index("ix_images_pixels_at", "pixels_at", postgresql_where=text("pixels_key is not null")),
        Index("ix_images_finished", "finished_at", postgresql_where=text("finished_at is not null")),
        Index("ix_images_envelope", "id", postgresql_where=text("envelope_key is not null")),
        Index("ix_images_incoming", "batch_id", postgresql_where=text("incoming_key is not null")),
        Index(
            "ix_images_apart",
            "site_id",
            postgresql_where=text("study_id is null or source_key is not null"),
        ),
        Index("ix_images_site_sop", "site_id", "sop_uid", postgresql_where=text("sop_uid <> ''")),
    )
    id: Mapped[uuid.UUID] = id_column()
    seq: Mapped[int] = mapped_column(BigInteger, Identity(), unique=True)
    site_id: Mapped[uuid.UUID] = site_column()
    batch_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("batches.id", ondelete="CASCADE"))
    study_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("studies.id"))
    work_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("work.id", ondelete="SET NULL"))
    finding_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("findings.id"))
    number: Mapped[int | None]  # in its study, from 1; it never changes, and copies share it
    path: Mapped[str]
    sha256: Mapped[str] = mapped_column(String(64))
    size: Mapped[int] = mapped_column(BigInteger)
    status: Mapped[str] = mapped_column(server_default="uploaded", default=ImageStatus.UPLOADED.value)
    passed: Mapped[str | None]  # the last Stage that it passed; the last of all once it has ended
    #: `passed` as a number, which workers of the version before write: a trigger keeps the two the same.
    stage_number: Mapped[int] = mapped_column("stage", SmallInteger, server_default=text("0"), deferred=True)
    reason: Mapped[str | None]
    error: Mapped[str | None]
    flags: Mapped[list[Any]] = mapped_column(server_default=text("'[]'::jsonb"), default=list)
    region: Mapped[str | None]
    region_probability: Mapped[float | None]
    probability: Mapped[float | None]
    triage: Mapped[str | None]
    attention_regions: Mapped[list[Any]] = mapped_column(server_default=text("'[]'::jsonb"), default=list)
    suspected_places: Mapped[list[Any]] = mapped_column(server_default=text("'[]'::jsonb"), default=list)
    #: How the grey values came about: `pipeline.types.RenderingStep`, in order.
    rendering: Mapped[list[Any]] = mapped_column(server_default=text("'[]'::jsonb"), default=list)
    # what a manifest row says, before the header is known
    manifest_study: Mapped[str] = mapped_column(server_default="", default="")
    priority: Mapped[int | None] = mapped_column(SmallInteger)
    manifest_path: Mapped[str | None]  # of the manifest's line that speaks of it
    # what is kept of the header or the manifest (StudyFacts)
    accession: Mapped[str] = mapped_column(server_default="", default="")
    study_uid: Mapped[str] = mapped_column(server_default="", default="")
    series_uid: Mapped[str] = mapped_column(server_default="", default="")
    sop_uid: Mapped[str] = mapped_column(server_default="", default="")
    study_date: Mapped[str] = mapped_column(server_default="", default="")
    study_time: Mapped[str] = mapped_column(server_default="", default="")
    body_part: Mapped[str] = mapped_column(server_default="", default="")
    laterality: Mapped[str] = mapped_column(server_default="", default="")
    view: Mapped[str] = mapped_column(server_default="", default="")
    age_years: Mapped[int | None] = mapped_column(SmallInteger)
    patient_hash: Mapped[str] = mapped_column(server_default="", default="")
    modality: Mapped[str] = mapped_column(server_default="", default="")
    # bytes
    incoming_key: Mapped[str | None]
    dataset_image_id: Mapped[uuid.UUID | None]  # its bytes lie in a dataset
    source_key: Mapped[str | None]  # its bytes are another image's, which a shadow bundle reads too
    original_key: Mapped[str | None]
    original_sha256: Mapped[str | None] = mapped_column(String(64))
    media_type: Mapped[str | None]
    display_key: Mapped[str | None]
    display_sha256: Mapped[str | None] = mapped_column(String(64))
    overlay_key: Mapped[str | None]
    overlay_sha256: Mapped[str | None] = mapped_column(String(64))
    overlay_size: Mapped[int | None]
    heat_key: Mapped[str | None]  # the attention map by itself, transparent
    heat_sha256: Mapped[str | None] = mapped_column(String(64))
    pixels_key: Mapped[str | None]  # at full depth: made when somebody looks, deleted some time later
    pixels_sha256: Mapped[str | None] = mapped_column(String(64))
    pixels_at: Mapped[datetime | None]
    device_id: Mapped[uuid.UUID | None]  # of what made it: `store.operations.drift_tables`
    envelope_key: Mapped[str | None]  # of the sealed identity: `store.intake.envelopes`
    width: Mapped[int | None]
    height: Mapped[int | None]
    created_at: Mapped[datetime] = now_column()
    finished_at: Mapped[datetime | None]

    @property
    def pictures(self) -> str:
        """What the keys of its pictures begin with.

        Images that came together share a folder: one for each would cost as much as two of its pictures.
        """
        return f"images/{self.site_id}/{self.batch_id}/{self.seq // IMAGES_A_FOLDER}/{self.id}-"


class Upload(Base):
    """A large file on its way into a draft, in pieces; gone once it was taken in."""

    __tablename__ = "uploads"
    id: Mapped[uuid.UUID] = id_column()
    site_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("sites.id"), nullable=False, index=True)
    user_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("users.id"))
    batch_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("batches.id", ondelete="CASCADE"))
    path: Mapped[str]
    length: Mapped[int] = mapped_column(BigInteger)
    offset: Mapped[int] = mapped_column("received", BigInteger, server_default=text("0"), default=0)
    pieces: Mapped[list[Any]] = mapped_column(server_default=text("'[]'::jsonb"))  # blob keys, in order
    created_at: Mapped[datetime] = now_column()
    expires_at: Mapped[datetime]


class Export(Base):
    """A file that is prepared in the background for taking away. Whether it is ready, its work row says.

    `trials` says that it may hold what bundles said which the site had not promoted.
    """

    __tablename__ = "exports"
    __table_args__ = (Index("ix_exports_site_created", "site_id", "created_at"),)
    id: Mapped[uuid.UUID] = id_column()
    site_id: Mapped[uuid.UUID] = site_column()
    user_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("users.id"))
    request: Mapped[dict[str, Any]] = mapped_column("wish")  # so processes of the version before know it
    name: Mapped[str]
    media_type: Mapped[str]
    trials: Mapped[bool] = mapped_column(Boolean, server_default=text("false"), default=False)
    n_done: Mapped[int] = zero_column()
    n_total: Mapped[int] = zero_column()
    n_missing: Mapped[int] = zero_column()
    key: Mapped[str | None]
    sha256: Mapped[str | None] = mapped_column(String(64))
    size: Mapped[int | None] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = now_column()
    expires_at: Mapped[datetime | None]


class ManifestLine(Base):
    """What the requester's CSV says of one path; applied to the image whenever it comes."""

    __tablename__ = "manifest_lines"
    __table_args__ = (
        Index("ix_manifest_lines_accession", "accession", postgresql_where=text("accession <> ''")),
    )
    batch_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("batches.id", ondelete="CASCADE"), primary_key=True
    )
    path: Mapped[str] = mapped_column(primary_key=True)
    accession: Mapped[str] = mapped_column(server_default="", default="")
    study: Mapped[str] = mapped_column(server_default="", default="")
    view: Mapped[str] = mapped_column(server_default="", default="")
    laterality: Mapped[str] = mapped_column(server_default="", default="")
    priority: Mapped[int | None] = mapped_column(SmallInteger)


class NoticeTarget(Base):
    """Where a site's notices go; the secret that signs webhooks is encrypted."""

    __tablename__ = "notice_targets"
    id: Mapped[uuid.UUID] = id_column()
    site_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("sites.id"), index=True)
    channel: Mapped[str]
    address: Mapped[str]
    events: Mapped[list[Any]]
    secret: Mapped[str | None]
    failures: Mapped[int] = zero_column()  # tries in a row that failed
    rest_until: Mapped[datetime | None]  # nothing is sent there before
    last_error: Mapped[str | None]
    created_at: Mapped[datetime] = now_column()
    removed_at: Mapped[datetime | None]


class Notice(Base):
    """One notice to one target, and what became of it. Its id is the `subject_id` of its unit of work."""

    __tablename__ = "notices"
    __table_args__ = (
        Index("ix_notices_site_created", "site_id", "created_at", "id"),
        Index("ix_notices_created", "created_at"),
    )
    id: Mapped[uuid.UUID] = id_column()
    site_id: Mapped[uuid.UUID] = site_column()
    target_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("notice_targets.id"), index=True)
    event: Mapped[str]
    batch_id: Mapped[uuid.UUID | None] = mapped_column(index=True)
    study_id: Mapped[uuid.UUID | None] = mapped_column(index=True)
    payload: Mapped[dict[str, Any]]
    state: Mapped[str] = mapped_column(server_default="waiting", default="waiting")
    attempts: Mapped[int] = zero_column()
    status: Mapped[int | None]
    error: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    tried_at: Mapped[datetime | None]


class Worker(Base):
    """A worker process that was alive lately; dispatch sizes its window by their slots."""

    __tablename__ = "workers"
    name: Mapped[str] = mapped_column(primary_key=True)
    queues: Mapped[list[Any]]
    slots: Mapped[int]
    version: Mapped[str]
    seen_at: Mapped[datetime] = now_column()


class Maintenance(Base):
    """When a step of `worker.reconcile` last went through, and how it last failed: for health and alarms.

    A step stands here since the loop that knows it began.
    """

    __tablename__ = "maintenance"
    step: Mapped[str] = mapped_column(primary_key=True)
    known_since: Mapped[datetime] = now_column()
    succeeded_at: Mapped[datetime | None]
    failed_at: Mapped[datetime | None]
    error: Mapped[str | None]


class EventCount(Base):
    """How often something happened that must not go unnoticed; see `store.base.event_counts`."""

    __tablename__ = "event_counts"
    name: Mapped[str] = mapped_column(primary_key=True)
    n: Mapped[int] = mapped_column(BigInteger, server_default=text("0"), default=0)
    last_at: Mapped[datetime] = now_column()

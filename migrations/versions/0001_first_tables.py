"""First tables; audit rows are append-only by triggers."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


_APPEND_ONLY = """
    CREATE FUNCTION audit_is_append_only() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'audit rows are append-only'; END $$;
    CREATE TRIGGER audit_append_only BEFORE UPDATE OR DELETE ON audit
    FOR EACH ROW EXECUTE FUNCTION audit_is_append_only();
    CREATE TRIGGER audit_no_truncate BEFORE TRUNCATE ON audit
    FOR EACH STATEMENT EXECUTE FUNCTION audit_is_append_only();
"""


def upgrade() -> None:
    """Go up."""
    op.create_table(
        "bundles",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("manifest", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("card", sa.Text(), server_default="", nullable=False),
        sa.Column("files", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_bundles")),
    )
    op.create_table(
        "workers",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("queues", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("slots", sa.Integer(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_workers")),
    )
    op.create_table(
        "sites",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("default_bundle", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["default_bundle"], ["bundles.name"], name=op.f("fk_sites_default_bundle")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sites")),
        sa.UniqueConstraint("name", name=op.f("uq_sites_name")),
    )
    op.create_table(
        "audit",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("site_id", sa.UUID(), nullable=False),
        sa.Column("user_id", sa.UUID(), nullable=True),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("object_id", sa.Text(), nullable=True),
        sa.Column(
            "detail",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["site_id"], ["sites.id"], name=op.f("fk_audit_site_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit")),
    )
    op.create_table(
        "findings",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("site_id", sa.UUID(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("bundle", sa.Text(), nullable=False),
        sa.Column("precision", sa.Text(), nullable=False),
        sa.Column("region", sa.Text(), nullable=False),
        sa.Column("region_probability", sa.Double(), nullable=False),
        sa.Column("region_probabilities", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("distance", sa.Double(), nullable=True),
        sa.Column("not_assessable", sa.Text(), nullable=True),
        sa.Column(
            "flags",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'[]'::jsonb"),
            nullable=False,
        ),
        sa.Column("network", sa.Text(), nullable=True),
        sa.Column("logit", sa.Double(), nullable=True),
        sa.Column("probability", sa.Double(), nullable=True),
        sa.Column("triage", sa.Text(), nullable=True),
        sa.Column("cam", sa.LargeBinary(), nullable=True),
        sa.Column("cam_height", sa.SmallInteger(), nullable=True),
        sa.Column("cam_width", sa.SmallInteger(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["bundle"], ["bundles.name"], name=op.f("fk_findings_bundle")),
        sa.ForeignKeyConstraint(["site_id"], ["sites.id"], name=op.f("fk_findings_site_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_findings")),
        sa.UniqueConstraint(
            "site_id",
            "sha256",
            "bundle",
            "precision",
            name=op.f("uq_findings_site_id_sha256_bundle_precision"),
        ),
    )
    op.create_table(
        "studies",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("site_id", sa.UUID(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("study_uid", sa.Text(), server_default="", nullable=False),
        sa.Column("accession", sa.Text(), server_default="", nullable=False),
        sa.Column("study_date", sa.Text(), server_default="", nullable=False),
        sa.Column("patient_hash", sa.Text(), server_default="", nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["site_id"], ["sites.id"], name=op.f("fk_studies_site_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_studies")),
        sa.UniqueConstraint("site_id", "key", name=op.f("uq_studies_site_id_key")),
    )
    op.create_index("ix_studies_site_accession", "studies", ["site_id", "accession"], unique=False)
    op.create_table(
        "users",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("site_id", sa.UUID(), nullable=False),
        sa.Column("email", sa.Text(), nullable=False),
        sa.Column("password_hash", sa.Text(), nullable=True),
        sa.Column("role", sa.Text(), server_default="admin", nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("disabled_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["site_id"], ["sites.id"], name=op.f("fk_users_site_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_users")),
        sa.UniqueConstraint("site_id", "email", name=op.f("uq_users_site_id_email")),
    )
    op.create_table(
        "api_keys",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("site_id", sa.UUID(), nullable=False),
        sa.Column("user_id", sa.UUID(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("key_hash", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["site_id"], ["sites.id"], name=op.f("fk_api_keys_site_id")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_api_keys_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_keys")),
        sa.UniqueConstraint("key_hash", name=op.f("uq_api_keys_key_hash")),
    )
    op.create_table(
        "batches",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("site_id", sa.UUID(), nullable=False),
        sa.Column("user_id", sa.UUID(), nullable=True),
        sa.Column("label", sa.Text(), server_default="", nullable=False),
        sa.Column("status", sa.Text(), server_default="draft", nullable=False),
        sa.Column("priority", sa.SmallInteger(), server_default="1", nullable=False),
        sa.Column("bundle", sa.Text(), nullable=False),
        sa.Column("with_report", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("with_heatmap", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("idempotency_key", sa.Text(), nullable=True),
        sa.Column("request_hash", sa.String(length=64), nullable=True),
        sa.Column("round", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("version", sa.BigInteger(), server_default=sa.text("1"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("submitted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("cancelled_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("paused_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("n_total", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("n_queued", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("n_running", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("n_done", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("n_rejected", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("n_failed", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("n_cancelled", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("n_skipped", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("n_bytes", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("t_positive", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("t_doubt", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("t_not_assessable", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("t_negative", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("s_prepare", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("s_classify", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("s_detect", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("s_explain", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("s_report", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("rate", sa.Float(), server_default=sa.text("0"), nullable=False),
        sa.Column("rate_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["bundle"], ["bundles.name"], name=op.f("fk_batches_bundle")),
        sa.ForeignKeyConstraint(["site_id"], ["sites.id"], name=op.f("fk_batches_site_id")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_batches_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_batches")),
        sa.UniqueConstraint("site_id", "idempotency_key", name=op.f("uq_batches_site_id_idempotency_key")),
    )
    op.create_index(
        "ix_batches_active",
        "batches",
        ["status"],
        unique=False,
        postgresql_where=sa.text("status in ('queued','running','paused')"),
    )
    op.create_index("ix_batches_site_created", "batches", ["site_id", "created_at", "id"], unique=False)
    op.create_table(
        "sign_in_tokens",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("user_id", sa.UUID(), nullable=False),
        sa.Column("token_hash", sa.String(length=64), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("used_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_sign_in_tokens_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sign_in_tokens")),
        sa.UniqueConstraint("token_hash", name=op.f("uq_sign_in_tokens_token_hash")),
    )
    op.create_table(
        "user_sessions",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("user_id", sa.UUID(), nullable=False),
        sa.Column("token_hash", sa.String(length=64), nullable=False),
        sa.Column("csrf_token", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_user_sessions_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_user_sessions")),
        sa.UniqueConstraint("token_hash", name=op.f("uq_user_sessions_token_hash")),
    )
    op.create_index(op.f("ix_user_sessions_user_id"), "user_sessions", ["user_id"], unique=False)
    op.create_table(
        "batch_reasons",
        sa.Column("batch_id", sa.UUID(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("n", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.ForeignKeyConstraint(
            ["batch_id"], ["batches.id"], name=op.f("fk_batch_reasons_batch_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("batch_id", "reason", name=op.f("pk_batch_reasons")),
    )
    op.create_table(
        "manifest_lines",
        sa.Column("batch_id", sa.UUID(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("accession", sa.Text(), server_default="", nullable=False),
        sa.Column("study", sa.Text(), server_default="", nullable=False),
        sa.Column("view", sa.Text(), server_default="", nullable=False),
        sa.Column("laterality", sa.Text(), server_default="", nullable=False),
        sa.Column("priority", sa.SmallInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["batch_id"], ["batches.id"], name=op.f("fk_manifest_lines_batch_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("batch_id", "path", name=op.f("pk_manifest_lines")),
    )
    op.create_table(
        "study_findings",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("site_id", sa.UUID(), nullable=False),
        sa.Column("study_id", sa.UUID(), nullable=False),
        sa.Column("batch_id", sa.UUID(), nullable=False),
        sa.Column("bundle", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("basis", sa.String(length=64), nullable=False),
        sa.Column("triage", sa.Text(), nullable=False),
        sa.Column(
            "reasons",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'[]'::jsonb"),
            nullable=False,
        ),
        sa.Column("n_images", sa.Integer(), nullable=False),
        sa.Column("report_key", sa.Text(), nullable=True),
        sa.Column("report_sha256", sa.String(length=64), nullable=True),
        sa.Column("report_size", sa.Integer(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], name=op.f("fk_study_findings_batch_id")),
        sa.ForeignKeyConstraint(["bundle"], ["bundles.name"], name=op.f("fk_study_findings_bundle")),
        sa.ForeignKeyConstraint(["site_id"], ["sites.id"], name=op.f("fk_study_findings_site_id")),
        sa.ForeignKeyConstraint(["study_id"], ["studies.id"], name=op.f("fk_study_findings_study_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_study_findings")),
        sa.UniqueConstraint(
            "study_id", "bundle", "version", name=op.f("uq_study_findings_study_id_bundle_version")
        ),
    )
    op.create_index("ix_study_findings_batch", "study_findings", ["batch_id"], unique=False)
    op.create_table(
        "work",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("site_id", sa.UUID(), nullable=False),
        sa.Column("batch_id", sa.UUID(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("stage", sa.Text(), nullable=True),
        sa.Column("state", sa.Text(), server_default="due", nullable=False),
        sa.Column("priority", sa.SmallInteger(), nullable=False),
        sa.Column("n_images", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("attempt", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("taken", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("published_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("lease_token", sa.UUID(), nullable=True),
        sa.Column("scratch", sa.Text(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("error_code", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["batch_id"], ["batches.id"], name=op.f("fk_work_batch_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["site_id"], ["sites.id"], name=op.f("fk_work_site_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_work")),
    )
    op.create_index("ix_work_batch", "work", ["batch_id", "state"], unique=False)
    op.create_index(
        "ix_work_due",
        "work",
        ["site_id", "priority", "due_at"],
        unique=False,
        postgresql_where=sa.text("state = 'due'"),
    )
    op.create_index(
        "ix_work_in_flight",
        "work",
        ["state", "published_at"],
        unique=False,
        postgresql_where=sa.text("state in ('published','running')"),
    )
    op.create_index(
        "ix_work_scratch", "work", ["id"], unique=False, postgresql_where=sa.text("scratch is not null")
    )
    op.create_index(
        "uq_work_finish",
        "work",
        ["batch_id", "round"],
        unique=True,
        postgresql_where=sa.text("kind = 'finish'"),
    )
    op.create_table(
        "images",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("seq", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("site_id", sa.UUID(), nullable=False),
        sa.Column("batch_id", sa.UUID(), nullable=False),
        sa.Column("study_id", sa.UUID(), nullable=True),
        sa.Column("work_id", sa.UUID(), nullable=True),
        sa.Column("finding_id", sa.UUID(), nullable=True),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.Text(), server_default="uploaded", nullable=False),
        sa.Column("stage", sa.SmallInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column(
            "flags",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'[]'::jsonb"),
            nullable=False,
        ),
        sa.Column("region", sa.Text(), nullable=True),
        sa.Column("region_probability", sa.Double(), nullable=True),
        sa.Column("probability", sa.Double(), nullable=True),
        sa.Column("triage", sa.Text(), nullable=True),
        sa.Column(
            "attention_regions",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'[]'::jsonb"),
            nullable=False,
        ),
        sa.Column("manifest_study", sa.Text(), server_default="", nullable=False),
        sa.Column("priority", sa.SmallInteger(), nullable=True),
        sa.Column("accession", sa.Text(), server_default="", nullable=False),
        sa.Column("study_uid", sa.Text(), server_default="", nullable=False),
        sa.Column("series_uid", sa.Text(), server_default="", nullable=False),
        sa.Column("sop_uid", sa.Text(), server_default="", nullable=False),
        sa.Column("study_date", sa.Text(), server_default="", nullable=False),
        sa.Column("study_time", sa.Text(), server_default="", nullable=False),
        sa.Column("body_part", sa.Text(), server_default="", nullable=False),
        sa.Column("laterality", sa.Text(), server_default="", nullable=False),
        sa.Column("view", sa.Text(), server_default="", nullable=False),
        sa.Column("age_years", sa.SmallInteger(), nullable=True),
        sa.Column("patient_hash", sa.Text(), server_default="", nullable=False),
        sa.Column("incoming_key", sa.Text(), nullable=True),
        sa.Column("original_key", sa.Text(), nullable=True),
        sa.Column("original_sha256", sa.String(length=64), nullable=True),
        sa.Column("media_type", sa.Text(), nullable=True),
        sa.Column("display_key", sa.Text(), nullable=True),
        sa.Column("display_sha256", sa.String(length=64), nullable=True),
        sa.Column("overlay_key", sa.Text(), nullable=True),
        sa.Column("overlay_sha256", sa.String(length=64), nullable=True),
        sa.Column("overlay_size", sa.Integer(), nullable=True),
        sa.Column("width", sa.Integer(), nullable=True),
        sa.Column("height", sa.Integer(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["batch_id"], ["batches.id"], name=op.f("fk_images_batch_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["finding_id"], ["findings.id"], name=op.f("fk_images_finding_id")),
        sa.ForeignKeyConstraint(["site_id"], ["sites.id"], name=op.f("fk_images_site_id")),
        sa.ForeignKeyConstraint(["study_id"], ["studies.id"], name=op.f("fk_images_study_id")),
        sa.ForeignKeyConstraint(
            ["work_id"], ["work.id"], name=op.f("fk_images_work_id"), ondelete="SET NULL"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_images")),
        sa.UniqueConstraint("batch_id", "path", "sha256", name=op.f("uq_images_batch_id_path_sha256")),
        sa.UniqueConstraint("seq", name=op.f("uq_images_seq")),
    )
    op.create_index("ix_images_batch_region_seq", "images", ["batch_id", "region", "seq"], unique=False)
    op.create_index("ix_images_batch_seq", "images", ["batch_id", "seq"], unique=False)
    op.create_index("ix_images_batch_status_seq", "images", ["batch_id", "status", "seq"], unique=False)
    op.create_index("ix_images_batch_triage_seq", "images", ["batch_id", "triage", "seq"], unique=False)
    op.create_index("ix_images_site_sha", "images", ["site_id", "sha256"], unique=False)
    op.create_index(
        "ix_images_site_sop",
        "images",
        ["site_id", "sop_uid"],
        unique=False,
        postgresql_where=sa.text("sop_uid <> ''"),
    )
    op.create_index("ix_images_study", "images", ["study_id"], unique=False)
    op.create_index("ix_images_work", "images", ["work_id"], unique=False)
    op.execute(_APPEND_ONLY)


def downgrade() -> None:
    """Go down."""
    op.drop_index("ix_images_work", table_name="images")
    op.drop_index("ix_images_study", table_name="images")
    op.drop_index("ix_images_site_sop", table_name="images", postgresql_where=sa.text("sop_uid <> ''"))
    op.drop_index("ix_images_site_sha", table_name="images")
    op.drop_index("ix_images_batch_triage_seq", table_name="images")
    op.drop_index("ix_images_batch_status_seq", table_name="images")
    op.drop_index("ix_images_batch_seq", table_name="images")
    op.drop_index("ix_images_batch_region_seq", table_name="images")
    op.drop_table("images")
    op.drop_index("uq_work_finish", table_name="work", postgresql_where=sa.text("kind = 'finish'"))
    op.drop_index("ix_work_scratch", table_name="work", postgresql_where=sa.text("scratch is not null"))
    op.drop_index(
        "ix_work_in_flight", table_name="work", postgresql_where=sa.text("state in ('published','running')")
    )
    op.drop_index("ix_work_due", table_name="work", postgresql_where=sa.text("state = 'due'"))
    op.drop_index("ix_work_batch", table_name="work")
    op.drop_table("work")
    op.drop_index("ix_study_findings_batch", table_name="study_findings")
    op.drop_table("study_findings")
    op.drop_table("manifest_lines")
    op.drop_table("batch_reasons")
    op.drop_index(op.f("ix_user_sessions_user_id"), table_name="user_sessions")
    op.drop_table("user_sessions")
    op.drop_table("sign_in_tokens")
    op.drop_index("ix_batches_site_created", table_name="batches")
    op.drop_index(
        "ix_batches_active",
        table_name="batches",
        postgresql_where=sa.text("status in ('queued','running','paused')"),
    )
    op.drop_table("batches")
    op.drop_table("api_keys")
    op.drop_table("users")
    op.drop_index("ix_studies_site_accession", table_name="studies")
    op.drop_table("studies")
    op.drop_table("findings")
    op.drop_table("audit")
    op.drop_table("sites")
    op.drop_table("workers")
    op.drop_table("bundles")
    op.execute("DROP FUNCTION audit_is_append_only()")

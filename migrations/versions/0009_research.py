"""Research: data sets, runs, comparisons, promotions; shadow bundles."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go up."""
    op.create_table(
        "datasets",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("site_id", sa.UUID(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("root", sa.Text(), nullable=False),
        sa.Column("format", sa.Text(), nullable=False),
        sa.Column("label_meaning", sa.Text(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=True),
        sa.Column("n_images", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("n_seen", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column(
            "left_out",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("scanned_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["site_id"], ["sites.id"], name=op.f("fk_datasets_site_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_datasets")),
        sa.UniqueConstraint("site_id", "name", name=op.f("uq_datasets_site_id_name")),
    )
    op.create_table(
        "dataset_images",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("dataset_id", sa.UUID(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("study", sa.Text(), nullable=False),
        sa.Column("patient", sa.Text(), nullable=False),
        sa.Column("region", sa.Text(), nullable=False),
        sa.Column("part", sa.Text(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=True),
        sa.Column("size", sa.BigInteger(), nullable=True),
        sa.Column("problem", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["dataset_id"], ["datasets.id"], name=op.f("fk_dataset_images_dataset_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_dataset_images")),
        sa.UniqueConstraint("dataset_id", "number", name=op.f("uq_dataset_images_dataset_id_number")),
        sa.UniqueConstraint("dataset_id", "path", name=op.f("uq_dataset_images_dataset_id_path")),
    )
    op.create_index(
        "ix_dataset_images_waiting",
        "dataset_images",
        ["dataset_id", "number"],
        unique=False,
        postgresql_where=sa.text("sha256 IS NULL AND problem IS NULL"),
    )
    op.create_table(
        "finding_scores",
        sa.Column("finding_id", sa.UUID(), nullable=False),
        sa.Column("network", sa.Text(), nullable=False),
        sa.Column("logit", sa.Double(), nullable=False),
        sa.Column("cam", sa.LargeBinary(), nullable=False),
        sa.Column("cam_height", sa.SmallInteger(), nullable=False),
        sa.Column("cam_width", sa.SmallInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["finding_id"], ["findings.id"], name=op.f("fk_finding_scores_finding_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("finding_id", "network", name=op.f("pk_finding_scores")),
    )
    op.create_table(
        "promotions",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("site_id", sa.UUID(), nullable=False),
        sa.Column("user_id", sa.UUID(), nullable=True),
        sa.Column("bundle", sa.Text(), nullable=False),
        sa.Column("before", sa.Text(), nullable=True),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["before"], ["bundles.name"], name=op.f("fk_promotions_before")),
        sa.ForeignKeyConstraint(["bundle"], ["bundles.name"], name=op.f("fk_promotions_bundle")),
        sa.ForeignKeyConstraint(["site_id"], ["sites.id"], name=op.f("fk_promotions_site_id")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_promotions_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_promotions")),
    )
    op.create_index("ix_promotions_site", "promotions", ["site_id", "id"], unique=False)
    op.create_table(
        "runs",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("site_id", sa.UUID(), nullable=False),
        sa.Column("user_id", sa.UUID(), nullable=True),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("dataset_id", sa.UUID(), nullable=True),
        sa.Column("part", sa.Text(), server_default="", nullable=False),
        sa.Column("label", sa.Text(), server_default="", nullable=False),
        sa.Column("bundles", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("batch_id", sa.UUID(), nullable=True),
        sa.Column("with_routing", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("made_with", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("classified", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("detected", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("figures", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("evaluated_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["dataset_id"], ["datasets.id"], name=op.f("fk_runs_dataset_id")),
        sa.ForeignKeyConstraint(["site_id"], ["sites.id"], name=op.f("fk_runs_site_id")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_runs_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_runs")),
    )
    op.create_index("ix_runs_site_created", "runs", ["site_id", "created_at"], unique=False)
    op.create_table(
        "comparisons",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("site_id", sa.UUID(), nullable=False),
        sa.Column("user_id", sa.UUID(), nullable=True),
        sa.Column("run_a", sa.UUID(), nullable=False),
        sa.Column("bundle_a", sa.Text(), nullable=False),
        sa.Column("run_b", sa.UUID(), nullable=False),
        sa.Column("bundle_b", sa.Text(), nullable=False),
        sa.Column("margin", sa.Float(), nullable=False),
        sa.Column("figures", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("evaluated_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["bundle_a"], ["bundles.name"], name=op.f("fk_comparisons_bundle_a")),
        sa.ForeignKeyConstraint(["bundle_b"], ["bundles.name"], name=op.f("fk_comparisons_bundle_b")),
        sa.ForeignKeyConstraint(
            ["run_a"], ["runs.id"], name=op.f("fk_comparisons_run_a"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["run_b"], ["runs.id"], name=op.f("fk_comparisons_run_b"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["site_id"], ["sites.id"], name=op.f("fk_comparisons_site_id")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_comparisons_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_comparisons")),
    )
    op.create_index("ix_comparisons_site_created", "comparisons", ["site_id", "created_at"], unique=False)
    op.create_table(
        "dataset_labels",
        sa.Column("image_id", sa.UUID(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(
            ["image_id"], ["dataset_images.id"], name=op.f("fk_dataset_labels_image_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("image_id", "name", name=op.f("pk_dataset_labels")),
    )
    op.create_table(
        "run_files",
        sa.Column("run_id", sa.UUID(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["run_id"], ["runs.id"], name=op.f("fk_run_files_run_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("run_id", "name", name=op.f("pk_run_files")),
    )
    op.add_column("batches", sa.Column("run_id", sa.UUID(), nullable=True))
    op.create_index(
        "ix_batches_run", "batches", ["run_id"], unique=False, postgresql_where=sa.text("run_id is not null")
    )
    op.add_column("images", sa.Column("dataset_image_id", sa.UUID(), nullable=True))
    op.add_column("images", sa.Column("source_key", sa.Text(), nullable=True))
    op.add_column("sites", sa.Column("shadow_bundle", sa.Text(), nullable=True))
    op.create_foreign_key(op.f("fk_sites_shadow_bundle"), "sites", "bundles", ["shadow_bundle"], ["name"])


def downgrade() -> None:
    """Go down."""
    op.drop_constraint(op.f("fk_sites_shadow_bundle"), "sites", type_="foreignkey")
    op.drop_column("sites", "shadow_bundle")
    op.drop_column("images", "source_key")
    op.drop_column("images", "dataset_image_id")
    op.drop_index("ix_batches_run", table_name="batches", postgresql_where=sa.text("run_id is not null"))
    op.drop_column("batches", "run_id")
    op.drop_table("run_files")
    op.drop_table("dataset_labels")
    op.drop_index("ix_comparisons_site_created", table_name="comparisons")
    op.drop_table("comparisons")
    op.drop_index("ix_runs_site_created", table_name="runs")
    op.drop_table("runs")
    op.drop_index("ix_promotions_site", table_name="promotions")
    op.drop_table("promotions")
    op.drop_table("finding_scores")
    op.drop_index(
        "ix_dataset_images_waiting",
        table_name="dataset_images",
        postgresql_where=sa.text("sha256 IS NULL AND problem IS NULL"),
    )
    op.drop_table("dataset_images")
    op.drop_table("datasets")

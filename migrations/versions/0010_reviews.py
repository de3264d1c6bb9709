"""What readers say of studies, append-only; reports that are signed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

# Erasing a study on request takes its reviews along; that transaction says so.
_APPEND_ONLY = """
    CREATE FUNCTION reviews_are_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF TG_OP = 'DELETE' AND current_setting('fractureai.erasing', true) = 'on' THEN
            RETURN OLD;
        END IF;
        RAISE EXCEPTION 'reviews are append-only';
    END $$;
    CREATE TRIGGER reviews_append_only BEFORE UPDATE OR DELETE ON reviews
    FOR EACH ROW EXECUTE FUNCTION reviews_are_append_only();
    CREATE TRIGGER reviews_no_truncate BEFORE TRUNCATE ON reviews
    FOR EACH STATEMENT EXECUTE FUNCTION reviews_are_append_only();
"""


def upgrade() -> None:
    """Go up."""
    moment = sa.DateTime(timezone=True)
    op.create_table(
        "reviews",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("site_id", sa.UUID(), nullable=False),
        sa.Column("study_id", sa.UUID(), nullable=False),
        sa.Column("batch_id", sa.UUID(), nullable=False),
        sa.Column("user_id", sa.UUID(), nullable=False),
        sa.Column("reader", sa.Text(), nullable=False),
        sa.Column("bundle", sa.Text(), nullable=False),
        sa.Column("basis", sa.Text(), server_default="", nullable=False),
        sa.Column("version", sa.Integer()),
        sa.Column("triage", sa.Text()),
        sa.Column("answer", sa.Text(), nullable=False),
        sa.Column("comment", sa.Text(), server_default="", nullable=False),
        sa.Column("image_id", sa.UUID()),
        sa.Column("x", sa.Integer()),
        sa.Column("y", sa.Integer()),
        sa.Column("width", sa.Integer()),
        sa.Column("height", sa.Integer()),
        sa.Column("created_at", moment, server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_reviews")),
        sa.ForeignKeyConstraint(["site_id"], ["sites.id"], name=op.f("fk_reviews_site_id")),
        sa.ForeignKeyConstraint(
            ["study_id"], ["studies.id"], name=op.f("fk_reviews_study_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_reviews_user_id")),
        sa.ForeignKeyConstraint(["bundle"], ["bundles.name"], name=op.f("fk_reviews_bundle")),
    )
    op.create_index("ix_reviews_study", "reviews", ["study_id", "created_at"])
    op.create_index("ix_reviews_site_bundle", "reviews", ["site_id", "bundle", "study_id", "created_at"])
    op.execute(_APPEND_ONLY)
    op.add_column("study_findings", sa.Column("review_id", sa.UUID()))
    op.add_column("study_findings", sa.Column("signed_by", sa.Text()))
    op.add_column("study_findings", sa.Column("signed_at", moment))
    no = sa.text("false")
    op.add_column("study_findings", sa.Column("legal_hold", sa.Boolean(), server_default=no, nullable=False))


def downgrade() -> None:
    """Go down."""
    for column in ("legal_hold", "signed_at", "signed_by", "review_id"):
        op.drop_column("study_findings", column)
    op.drop_table("reviews")
    op.execute("DROP FUNCTION reviews_are_append_only()")

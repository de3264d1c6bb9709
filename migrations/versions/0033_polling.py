"""Archives that are asked for new studies, and how much of each study was fetched."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB, UUID

revision = "0033"
down_revision = "0032"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Ask nobody yet."""
    op.create_table(
        "poll_sources",
        sa.Column("id", UUID(as_uuid=True), primary_key=True),
        sa.Column("site_id", UUID(as_uuid=True), sa.ForeignKey("sites.id"), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("secret", sa.Text()),
        sa.Column("filters", JSONB, server_default=sa.text("'[]'::jsonb"), nullable=False),
        sa.Column("seconds", sa.Float(), server_default=sa.text("60"), nullable=False),
        sa.Column("overlap_days", sa.Integer(), server_default=sa.text("2"), nullable=False),
        sa.Column("cursor_day", sa.Date(), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("done_at", sa.DateTime(timezone=True)),
        sa.Column("error", sa.Text()),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("removed_at", sa.DateTime(timezone=True)),
    )
    op.create_index("ix_poll_sources_site", "poll_sources", ["site_id"])
    op.create_table(
        "polled_studies",
        sa.Column(
            "source_id", UUID(as_uuid=True), sa.ForeignKey("poll_sources.id", ondelete="CASCADE"),
            primary_key=True,
        ),
        sa.Column("study_uid", sa.String(64), primary_key=True),
        sa.Column("study_date", sa.Date()),
        sa.Column("n_instances", sa.Integer(), nullable=False),
    )  # fmt: skip


def downgrade() -> None:
    """Forget them."""
    op.drop_table("polled_studies")
    op.drop_table("poll_sources")

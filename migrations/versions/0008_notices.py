"""Where notices go, and what became of each."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def _moment(name: str, default: str | None = None) -> sa.Column[object]:
    return sa.Column(
        name,
        sa.DateTime(timezone=True),
        server_default=sa.text(default) if default else None,
        nullable=default is None,
    )


def upgrade() -> None:
    """Go up."""
    op.create_table(
        "notice_targets",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("site_id", sa.UUID(), nullable=False),
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("events", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("secret", sa.Text()),
        _moment("created_at", "now()"),
        _moment("removed_at"),
        sa.ForeignKeyConstraint(["site_id"], ["sites.id"], name=op.f("fk_notice_targets_site_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_notice_targets")),
    )
    op.create_index(op.f("ix_notice_targets_site_id"), "notice_targets", ["site_id"])
    op.create_table(
        "notices",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("site_id", sa.UUID(), nullable=False),
        sa.Column("target_id", sa.UUID(), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("batch_id", sa.UUID()),
        sa.Column("study_id", sa.UUID()),
        sa.Column("payload", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("state", sa.Text(), server_default="waiting", nullable=False),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("status", sa.Integer()),
        sa.Column("error", sa.Text()),
        _moment("created_at", "clock_timestamp()"),
        _moment("tried_at"),
        sa.ForeignKeyConstraint(["site_id"], ["sites.id"], name=op.f("fk_notices_site_id")),
        sa.ForeignKeyConstraint(["target_id"], ["notice_targets.id"], name=op.f("fk_notices_target_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_notices")),
    )
    op.create_index("ix_notices_site_created", "notices", ["site_id", "created_at", "id"])
    for column in ("target_id", "batch_id", "study_id"):
        op.create_index(op.f(f"ix_notices_{column}"), "notices", [column])


def downgrade() -> None:
    """Go down; notices that wait are dropped."""
    op.execute("DELETE FROM work WHERE kind = 'notice'")
    op.drop_table("notices")
    op.drop_table("notice_targets")

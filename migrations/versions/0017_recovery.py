"""How long work waits for what is away, resting targets of notices, when recovery last went through."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go up."""
    op.add_column("work", sa.Column("unavailable_since", sa.DateTime(timezone=True)))
    op.add_column("work", sa.Column("unavailable_reason", sa.Text()))
    op.create_index(
        "ix_work_unavailable",
        "work",
        ["unavailable_since"],
        postgresql_where=sa.text("unavailable_since is not null"),
    )
    op.add_column("notice_targets", sa.Column("failures", sa.Integer(), server_default="0", nullable=False))
    op.add_column("notice_targets", sa.Column("rest_until", sa.DateTime(timezone=True)))
    op.add_column("notice_targets", sa.Column("last_error", sa.Text()))
    op.create_table(
        "maintenance",
        sa.Column("step", sa.Text(), nullable=False),
        sa.Column("succeeded_at", sa.DateTime(timezone=True)),
        sa.Column("failed_at", sa.DateTime(timezone=True)),
        sa.Column("error", sa.Text()),
        sa.PrimaryKeyConstraint("step", name=op.f("pk_maintenance")),
    )
    op.create_table(
        "event_counts",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("n", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("last_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_event_counts")),
    )


def downgrade() -> None:
    """Go down."""
    op.drop_table("event_counts")
    op.drop_table("maintenance")
    op.drop_column("notice_targets", "last_error")
    op.drop_column("notice_targets", "rest_until")
    op.drop_column("notice_targets", "failures")
    op.drop_index("ix_work_unavailable", table_name="work")
    op.drop_column("work", "unavailable_reason")
    op.drop_column("work", "unavailable_since")

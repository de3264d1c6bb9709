"""Marks that a batch leaves on its way, from which the time that is left is estimated."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0038"
down_revision = "0037"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Batches that run now leave marks from here on; until there are two, their rate says it."""
    op.create_table(
        "batch_marks",
        sa.Column("batch_id", sa.Uuid(), sa.ForeignKey("batches.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("number", sa.SmallInteger(), primary_key=True, autoincrement=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("passed", postgresql.JSONB(), nullable=False),
    )


def downgrade() -> None:
    """Forget them."""
    op.drop_table("batch_marks")

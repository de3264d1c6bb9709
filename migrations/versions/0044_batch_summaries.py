"""What a batch that has ended amounts to, counted once."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0044"
down_revision = "0043"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Batches that ended before are counted when their page is first asked for."""
    op.create_table(
        "batch_summaries",
        sa.Column("batch_id", sa.Uuid(), sa.ForeignKey("batches.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("figures", postgresql.JSONB(), nullable=False),
    )


def downgrade() -> None:
    """Forget them."""
    op.drop_table("batch_summaries")

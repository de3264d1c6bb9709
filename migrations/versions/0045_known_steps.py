"""Since when the loop that mends and cleans up knows a step of its own."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0045"
down_revision = "0044"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Count steps from before as known from now on."""
    op.add_column(
        "maintenance",
        sa.Column("known_since", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
    )


def downgrade() -> None:
    """Forget it."""
    op.drop_column("maintenance", "known_since")

"""How the grey values of each image came about."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Images that were read before have no steps."""
    op.add_column(
        "images",
        sa.Column("rendering", postgresql.JSONB(), server_default=sa.text("'[]'::jsonb"), nullable=False),
    )


def downgrade() -> None:
    """Forget the steps."""
    op.drop_column("images", "rendering")

"""Suspected places of a bundle that draws them, and the modality that a header states."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """No bundle has drawn any yet; of images that were read before, the modality is not known."""
    op.add_column("findings", sa.Column("suspected_places", JSONB()))
    op.add_column(
        "images",
        sa.Column("suspected_places", JSONB(), server_default=sa.text("'[]'::jsonb"), nullable=False),
    )
    op.add_column("images", sa.Column("modality", sa.Text(), server_default="", nullable=False))


def downgrade() -> None:
    """Forget both."""
    op.drop_column("images", "modality")
    op.drop_column("images", "suspected_places")
    op.drop_column("findings", "suspected_places")

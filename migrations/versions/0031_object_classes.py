"""The class that a report was made in for its archive, and the one that it replaces there."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import UUID

revision = "0031"
down_revision = "0030"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Leave what was sent before with the only class that there was."""
    op.add_column("deliveries", sa.Column("sop_class", sa.String(64)))
    op.add_column("deliveries", sa.Column("predecessor_id", UUID(as_uuid=True)))


def downgrade() -> None:
    """Forget them."""
    op.drop_column("deliveries", "predecessor_id")
    op.drop_column("deliveries", "sop_class")

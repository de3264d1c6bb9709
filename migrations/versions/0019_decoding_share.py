"""Until when a site whose files took long to decode lets others go first."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go up."""
    op.add_column("sites", sa.Column("decode_rests_until", sa.DateTime(timezone=True)))


def downgrade() -> None:
    """Go back."""
    op.drop_column("sites", "decode_rests_until")

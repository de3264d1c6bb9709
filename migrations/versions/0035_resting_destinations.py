"""An archive that does not answer rests, as receivers of notices do."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0035"
down_revision = "0034"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """None has failed yet."""
    op.add_column(
        "destinations", sa.Column("failures", sa.Integer, server_default=sa.text("0"), nullable=False)
    )
    op.add_column("destinations", sa.Column("rest_until", sa.DateTime(timezone=True)))
    op.add_column("destinations", sa.Column("last_error", sa.Text()))


def downgrade() -> None:
    """Forget who rests."""
    for column in ("last_error", "rest_until", "failures"):
        op.drop_column("destinations", column)

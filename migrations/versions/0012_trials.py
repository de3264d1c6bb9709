"""Prepared downloads say whether they may hold what bundles on trial said."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go up; of the files that are there already, those of sites with a trial count as holding it."""
    op.add_column(
        "exports", sa.Column("trials", sa.Boolean(), server_default=sa.text("false"), nullable=False)
    )
    op.execute(
        "UPDATE exports SET trials = true WHERE EXISTS (SELECT 1 FROM batches"
        " WHERE batches.site_id = exports.site_id AND run_id IS NULL AND NOT promoted)"
    )


def downgrade() -> None:
    """Go down."""
    op.drop_column("exports", "trials")

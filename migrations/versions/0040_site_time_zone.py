"""The time zone in which a site's pages, reports and days are written."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0040"
down_revision = "0039"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Leave sites of before without one: UTC, and on pages the browser's own."""
    op.add_column("sites", sa.Column("time_zone", sa.Text()))


def downgrade() -> None:
    """Forget them."""
    op.drop_column("sites", "time_zone")

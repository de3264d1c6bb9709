"""Why a batch could not be completed after its images had all ended."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """No batch was given up yet."""
    op.add_column("batches", sa.Column("end_failure", sa.Text()))


def downgrade() -> None:
    """Forget them; such a batch is partial or failed all the same."""
    op.drop_column("batches", "end_failure")

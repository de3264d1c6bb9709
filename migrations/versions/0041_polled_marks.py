"""Studies that were fetched from an archive stand by keyed hashes: their UIDs would outlive an erasure."""

from __future__ import annotations

from alembic import op

revision = "0041"
down_revision = "0040"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Forget which studies were fetched: what is here is not fetched again, and noted anew."""
    op.execute("DELETE FROM polled_studies")


def downgrade() -> None:
    """Forget the hashes, which an earlier version takes for UIDs."""
    op.execute("DELETE FROM polled_studies")

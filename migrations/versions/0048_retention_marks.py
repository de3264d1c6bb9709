"""Marks by which retention passes over the batches of which nothing may go, or nothing is left."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0048"
down_revision = "0047"
branch_labels = None
depends_on = None

_HOLDS = "finished_at IS NOT NULL AND run_id IS NULL AND originals_gone IS DISTINCT FROM round"
_INDEXES = {
    "ix_batches_originals": f"(site_id, finished_at, id) WHERE {_HOLDS}",
    "ix_batches_oldest_originals": f"(finished_at, id) WHERE {_HOLDS}",
    "ix_batches_kept": "(site_id, kept_until, finished_at, id)"
    " WHERE finished_at IS NOT NULL AND run_id IS NULL",
}


def upgrade() -> None:
    """Mark none: each old batch is looked at once more."""
    op.add_column("batches", sa.Column("originals_gone", sa.Integer()))
    op.add_column("batches", sa.Column("kept_until", sa.DateTime(timezone=True)))
    for name, on in _INDEXES.items():
        op.execute(f"CREATE INDEX {name} ON batches {on}")


def downgrade() -> None:
    """Look at every old batch again and again."""
    for name in _INDEXES:
        op.execute(f"DROP INDEX {name}")
    op.drop_column("batches", "kept_until")
    op.drop_column("batches", "originals_gone")

"""Work rows without a batch: exports, notices and evaluations name the row that they are about."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go up."""
    op.alter_column("work", "batch_id", nullable=True)
    op.alter_column("work", "round", server_default="1")
    op.add_column("work", sa.Column("subject_id", sa.UUID()))
    op.create_index(
        "ix_work_subject", "work", ["subject_id"], postgresql_where=sa.text("subject_id is not null")
    )
    op.create_check_constraint(
        "ck_work_subject",
        "work",
        "CASE WHEN kind IN ('chunk', 'finish') THEN batch_id IS NOT NULL"
        " ELSE batch_id IS NULL AND subject_id IS NOT NULL END",
    )


def downgrade() -> None:
    """Go down; work without a batch is dropped."""
    op.execute("DELETE FROM work WHERE batch_id IS NULL")
    op.drop_constraint("ck_work_subject", "work")
    op.drop_index("ix_work_subject", "work")
    op.drop_column("work", "subject_id")
    op.alter_column("work", "round", server_default=None)
    op.alter_column("work", "batch_id", nullable=False)

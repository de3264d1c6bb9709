"""How long workers were at each stage of a batch, from which the time that is left is estimated."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0046"
down_revision = "0045"
branch_labels = None
depends_on = None

_STAGES = ("prepare", "classify", "detect", "explain", "report")


def upgrade() -> None:
    """Of batches from before nothing is known: their times stay zero."""
    for stage in _STAGES:
        column = sa.Column(f"ms_{stage}", sa.BigInteger(), server_default="0", nullable=False)
        op.add_column("batches", column)
    op.add_column("batch_marks", sa.Column("worked", postgresql.JSONB(), server_default="[]", nullable=False))


def downgrade() -> None:
    """Forget them."""
    op.drop_column("batch_marks", "worked")
    for stage in _STAGES:
        op.drop_column("batches", f"ms_{stage}")

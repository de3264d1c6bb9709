"""Runs can be deleted; attention maps of a run as pictures, one for each bundle."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go up."""
    op.add_column("runs", sa.Column("deleted_at", sa.DateTime(timezone=True)))
    op.create_table(
        "run_pictures",
        sa.Column("image_id", sa.UUID(), nullable=False),
        sa.Column("bundle", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["image_id"], ["images.id"], name=op.f("fk_run_pictures_image_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("image_id", "bundle", name=op.f("pk_run_pictures")),
    )


def downgrade() -> None:
    """Go down."""
    op.drop_table("run_pictures")
    op.drop_column("runs", "deleted_at")

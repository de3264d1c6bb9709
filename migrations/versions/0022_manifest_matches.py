"""Which row of the manifest an image took, and how many rows and files met nothing."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None

COUNTS = ("manifest_rows", "manifest_rows_unmatched", "manifest_files_unmatched")


def upgrade() -> None:
    """Go up."""
    op.add_column("images", sa.Column("manifest_path", sa.Text()))
    for name in COUNTS:
        op.add_column("batches", sa.Column(name, sa.Integer(), server_default="0", nullable=False))


def downgrade() -> None:
    """Go back."""
    op.drop_column("images", "manifest_path")
    for name in COUNTS:
        op.drop_column("batches", name)

"""What retention asks: which images of a batch have their original still, which sites have work open."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go up."""
    op.create_index(
        "ix_images_original",
        "images",
        ["batch_id", "seq"],
        postgresql_where=sa.text("original_key is not null"),
    )
    op.create_index(
        "ix_work_open",
        "work",
        ["site_id", "kind"],
        postgresql_where=sa.text("state in ('due','published','running')"),
    )


def downgrade() -> None:
    """Go down."""
    op.drop_index("ix_work_open", "work")
    op.drop_index("ix_images_original", "images")

"""How long a site keeps originals and results; findings are erased by their images."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go up."""
    op.add_column("sites", sa.Column("keep_originals_days", sa.Integer()))
    op.add_column("sites", sa.Column("keep_results_days", sa.Integer()))
    op.create_index("ix_images_finding", "images", ["finding_id"])


def downgrade() -> None:
    """Go down."""
    op.drop_index("ix_images_finding", "images")
    op.drop_column("sites", "keep_results_days")
    op.drop_column("sites", "keep_originals_days")

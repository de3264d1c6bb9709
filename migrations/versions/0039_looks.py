"""What each image of a data set looks like: by it copies of training images are found."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0039"
down_revision = "0038"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Give data sets of before none: they get theirs when they are added again."""
    op.add_column("dataset_images", sa.Column("look", sa.LargeBinary()))
    _index("look IS NULL AND problem IS NULL")


def downgrade() -> None:
    """Forget the looks."""
    _index("sha256 IS NULL AND problem IS NULL")
    op.drop_column("dataset_images", "look")


def _index(waiting: str) -> None:
    op.drop_index("ix_dataset_images_waiting", "dataset_images")
    op.create_index(
        "ix_dataset_images_waiting",
        "dataset_images",
        ["dataset_id", "number"],
        postgresql_where=sa.text(waiting),
    )

"""What monitoring and the end of sealed identities look for among images, by indexes of their own."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0036"
down_revision = "0035"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make them: recovery asks for both every ten minutes."""
    op.create_index(
        "ix_images_finished", "images", ["finished_at"], postgresql_where=sa.text("finished_at is not null")
    )
    op.create_index(
        "ix_images_envelope", "images", ["id"], postgresql_where=sa.text("envelope_key is not null")
    )


def downgrade() -> None:
    """Drop them."""
    op.drop_index("ix_images_envelope", "images")
    op.drop_index("ix_images_finished", "images")

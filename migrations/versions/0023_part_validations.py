"""Which body parts a site has validated on its own images, for a bundle to say negative there."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """No site has validated anything yet."""
    op.create_table(
        "part_validations",
        sa.Column("site_id", sa.Uuid(), sa.ForeignKey("sites.id"), primary_key=True),
        sa.Column("bundle", sa.Text(), sa.ForeignKey("bundles.name"), primary_key=True),
        sa.Column("region", sa.Text(), primary_key=True),
        sa.Column("positives", sa.Integer(), nullable=False),
        sa.Column("found", sa.Integer(), nullable=False),
        sa.Column("negatives", sa.Integer(), nullable=False),
        sa.Column("cleared", sa.Integer(), nullable=False),
        sa.Column("dataset", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Uuid(), sa.ForeignKey("users.id")),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
    )


def downgrade() -> None:
    """Forget them: those parts are in doubt again."""
    op.drop_table("part_validations")

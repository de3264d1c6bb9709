"""Files prepared in the background for taking away; images by site and day of arrival."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go up."""
    op.create_table(
        "exports",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("site_id", sa.UUID(), nullable=False),
        sa.Column("user_id", sa.UUID()),
        sa.Column("wish", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("media_type", sa.Text(), nullable=False),
        sa.Column("n_done", sa.Integer(), server_default="0", nullable=False),
        sa.Column("n_total", sa.Integer(), server_default="0", nullable=False),
        sa.Column("n_missing", sa.Integer(), server_default="0", nullable=False),
        sa.Column("key", sa.Text()),
        sa.Column("sha256", sa.String(length=64)),
        sa.Column("size", sa.BigInteger()),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True)),
        sa.ForeignKeyConstraint(["site_id"], ["sites.id"], name=op.f("fk_exports_site_id")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_exports_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_exports")),
    )
    op.create_index("ix_exports_site_created", "exports", ["site_id", "created_at"])
    op.create_index("ix_images_site_created", "images", ["site_id", "created_at"])


def downgrade() -> None:
    """Go down."""
    op.drop_index("ix_images_site_created", "images")
    op.drop_table("exports")

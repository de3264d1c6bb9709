"""What the viewer shows: the attention map by itself, the picture at full depth, what a person last chose."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0028"
down_revision = "0027"
branch_labels = None
depends_on = None

_PICTURES = ("heat_key", "pixels_key")
_HASHES = ("heat_sha256", "pixels_sha256")


def upgrade() -> None:
    """Nothing was drawn by itself yet; every site starts with the map."""
    for name in _PICTURES:
        op.add_column("images", sa.Column(name, sa.Text()))
    for name in _HASHES:
        op.add_column("images", sa.Column(name, sa.String(64)))
    op.add_column("images", sa.Column("pixels_at", sa.DateTime(timezone=True)))
    op.create_index(
        "ix_images_pixels_at", "images", ["pixels_at"], postgresql_where=sa.text("pixels_key is not null")
    )
    op.add_column(
        "users",
        sa.Column("viewer", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
    )
    op.add_column(
        "sites", sa.Column("starts_with_map", sa.Boolean(), server_default=sa.text("true"), nullable=False)
    )
    op.add_column("worklist", sa.Column("age_years", sa.SmallInteger()))


def downgrade() -> None:
    """Forget them; the pictures are left to `fractureai fsck`."""
    op.drop_column("worklist", "age_years")
    op.drop_column("sites", "starts_with_map")
    op.drop_column("users", "viewer")
    op.drop_index("ix_images_pixels_at", "images")
    for name in ("pixels_at", *_HASHES, *_PICTURES):
        op.drop_column("images", name)

"""What arrives by DICOM: who may send, which studies and objects have come, which objects are our own."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB, UUID

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None


def _id(name: str, *more: object, **options: object) -> sa.Column[object]:
    return sa.Column(name, UUID(as_uuid=True), *more, **options)  # type: ignore[arg-type]


def _site(**options: object) -> sa.Column[object]:
    return _id("site_id", sa.ForeignKey("sites.id"), nullable=False, **options)


def _moment(name: str) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False)


def _rules(name: str, **options: object) -> sa.Column[object]:
    return sa.Column(name, JSONB, nullable=False, **options)  # type: ignore[arg-type]


def upgrade() -> None:
    """Nothing has come yet."""
    op.create_table(
        "gateway_sites",
        _site(primary_key=True),
        sa.Column("ae_title", sa.String(16), nullable=False, unique=True),
        sa.Column("quiet_seconds", sa.Float, server_default=sa.text("60"), nullable=False),
        sa.Column("release_seconds", sa.Float, server_default=sa.text("10"), nullable=False),
        sa.Column("longest_seconds", sa.Float, server_default=sa.text("900"), nullable=False),
        _rules("urgent_rules", server_default=sa.text("'[]'::jsonb")),
        _moment("created_at"),
    )
    op.create_table(
        "gateway_peers",
        _id("id", primary_key=True),
        _site(),
        sa.Column("ae_title", sa.String(16), nullable=False),
        _rules("networks"),
        sa.Column("urgent", sa.Boolean, server_default=sa.text("false"), nullable=False),
        _moment("created_at"),
        sa.UniqueConstraint("site_id", "ae_title"),
    )
    op.create_table(
        "received_studies",
        _id("id", primary_key=True),
        _site(),
        sa.Column("study_uid", sa.String(64), nullable=False),
        _id("batch_id", sa.ForeignKey("batches.id", ondelete="CASCADE")),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("n_objects", sa.Integer, server_default=sa.text("0"), nullable=False),
        _moment("first_at"),
        _moment("due_at"),
        sa.Column("completed_at", sa.DateTime(timezone=True)),
    )
    still_open = sa.text("completed_at is null")
    op.create_index(
        "uq_received_studies_open",
        "received_studies",
        ["site_id", "study_uid"],
        unique=True,
        postgresql_where=still_open,
    )
    op.create_index("ix_received_studies_due", "received_studies", ["due_at"], postgresql_where=still_open)
    op.create_index("ix_received_studies_batch", "received_studies", ["batch_id"])
    op.create_table(
        "received_objects",
        _site(primary_key=True),
        sa.Column("sop_uid", sa.String(64), primary_key=True),
        sa.Column("sha256", sa.String(64), primary_key=True),
        _id("image_id", sa.ForeignKey("images.id", ondelete="CASCADE"), nullable=False),
        _moment("received_at"),
    )
    op.create_index("ix_received_objects_image", "received_objects", ["image_id"])
    op.create_table(
        "made_objects",
        _site(primary_key=True),
        sa.Column("sop_uid", sa.String(64), primary_key=True),
        sa.Column("sop_class", sa.String(64), nullable=False),
        _moment("made_at"),
    )


def downgrade() -> None:
    """Forget them; images that came stay."""
    for table in ("made_objects", "received_objects", "received_studies", "gateway_peers", "gateway_sites"):
        op.drop_table(table)

"""Sealed identities, destinations of results, and what became of each object that is sent."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB, UUID

revision = "0030"
down_revision = "0029"
branch_labels = None
depends_on = None


def _id(name: str, *more: object, **options: object) -> sa.Column[object]:
    return sa.Column(name, UUID(as_uuid=True), *more, **{"nullable": False, **options})  # type: ignore[arg-type]


def _text(name: str, default: str | None = None, *, size: int | None = None) -> sa.Column[object]:
    kind = sa.String(size) if size else sa.Text()
    return sa.Column(name, kind, server_default=default, nullable=False)  # type: ignore[return-value]


def _moment(name: str, default: object = None) -> sa.Column[object]:
    return sa.Column(
        name,
        sa.DateTime(timezone=True),
        server_default=default,  # type: ignore[arg-type]
        nullable=default is None,
    )


def _flag(name: str, default: str) -> sa.Column[object]:
    return sa.Column(name, sa.Boolean, server_default=sa.text(default), nullable=False)  # type: ignore[return-value]


def upgrade() -> None:
    """Nothing is sealed and nothing was sent yet."""
    op.add_column("images", sa.Column("envelope_key", sa.Text()))
    op.create_table(
        "envelope_keys",
        sa.Column("key_id", sa.String(16), primary_key=True),
        _id("site_id", sa.ForeignKey("sites.id")),
        _text("public_key"),
        _moment("created_at", sa.func.now()),
    )
    op.create_index("ix_envelope_keys_site", "envelope_keys", ["site_id"])
    op.create_table(
        "destinations",
        _id("id", primary_key=True),
        _id("site_id", sa.ForeignKey("sites.id")),
        _text("name"),
        _text("protocol"),
        _text("address"),
        _text("called", "", size=16),
        _text("calling", "", size=16),
        _flag("tls", "false"),
        sa.Column("secret", sa.Text()),
        sa.Column("kinds", JSONB, nullable=False),
        sa.Column("triage", JSONB, server_default=sa.text("'[]'::jsonb"), nullable=False),
        sa.Column("bundle", sa.Text()),
        _flag("check_patient", "true"),
        sa.Column("stopped", sa.Text()),
        _moment("created_at", sa.func.now()),
        _moment("removed_at"),
    )
    op.create_index("ix_destinations_site", "destinations", ["site_id"])
    op.create_table(
        "deliveries",
        _id("id", primary_key=True),
        _id("site_id", sa.ForeignKey("sites.id")),
        _id("destination_id", sa.ForeignKey("destinations.id")),
        _id("study_id", sa.ForeignKey("studies.id", ondelete="CASCADE")),
        _id("study_finding_id", sa.ForeignKey("study_findings.id", ondelete="CASCADE")),
        _id("image_id", sa.ForeignKey("images.id", ondelete="CASCADE")),
        _text("kind"),
        _text("sop_uid", size=64),
        _text("state", "waiting"),
        sa.Column("attempts", sa.Integer, server_default=sa.text("0"), nullable=False),
        _text("detail", ""),
        sa.Column("sha256", sa.String(64)),
        sa.Column("transaction_uid", sa.String(64)),
        _moment("created_at", sa.func.clock_timestamp()),
        _moment("tried_at"),
        _moment("sent_at"),
        _moment("committed_at"),
        sa.UniqueConstraint("destination_id", "sop_uid"),
    )
    op.create_index("ix_deliveries_site_created", "deliveries", ["site_id", "created_at", "id"])
    op.create_index(
        "ix_deliveries_transaction",
        "deliveries",
        ["transaction_uid"],
        postgresql_where=sa.text("transaction_uid is not null"),
    )
    op.create_index("ix_deliveries_study", "deliveries", ["study_id"])
    op.create_index("ix_deliveries_finding", "deliveries", ["study_finding_id"])
    op.create_index("ix_deliveries_image", "deliveries", ["image_id"])


def downgrade() -> None:
    """Forget them."""
    for table in ("deliveries", "destinations", "envelope_keys"):
        op.drop_table(table)
    op.drop_column("images", "envelope_key")

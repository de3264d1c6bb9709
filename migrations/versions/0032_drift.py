"""Monitoring: devices, what came of each day, acceptance windows, alarms."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB, UUID

revision = "0032"
down_revision = "0031"
branch_labels = None
depends_on = None


def _id(name: str, *more: object, **options: object) -> sa.Column[object]:
    return sa.Column(name, UUID(as_uuid=True), *more, **{"nullable": False, **options})  # type: ignore[arg-type]


def _now() -> sa.Column[object]:
    return sa.Column(  # type: ignore[return-value]
        "created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False
    )


def _text(name: str, size: int | None = None, **options: object) -> sa.Column[object]:
    kind = sa.String(size) if size else sa.Text()
    return sa.Column(name, kind, nullable=False, **options)  # type: ignore[arg-type, return-value]


def upgrade() -> None:
    """Begin with nothing: a window opens with the images that come."""
    op.create_table(
        "devices",
        _id("id", primary_key=True),
        _id("site_id", sa.ForeignKey("sites.id")),
        _text("manufacturer", 32),
        _text("model", 32),
        _text("station", 16),
        _now(),
        sa.UniqueConstraint("site_id", "manufacturer", "model", "station"),
    )
    op.add_column("images", sa.Column("device_id", UUID(as_uuid=True)))
    op.create_table(
        "drift_days",
        _id("site_id", sa.ForeignKey("sites.id"), primary_key=True),
        _text("bundle", primary_key=True),
        sa.Column("day", sa.Date, primary_key=True),
        _text("region", primary_key=True),
        _text("device", 36, primary_key=True),
        *(
            sa.Column(name, sa.Integer, server_default=sa.text("0"), nullable=False)
            for name in ("n", "positive", "doubt", "not_assessable", "rejected")
        ),
        sa.Column("logits", JSONB, nullable=False),
    )
    op.create_table(
        "drift_baselines",
        _id("id", primary_key=True),
        _id("site_id", sa.ForeignKey("sites.id")),
        _text("bundle"),
        sa.Column("started_on", sa.Date, nullable=False),
        sa.Column("frozen_on", sa.Date),
        *(sa.Column(name, JSONB, nullable=False) for name in ("counts", "sums", "rests")),
        sa.Column("watched_to", sa.Date),
        _now(),
    )
    op.create_index("ix_drift_baselines_site", "drift_baselines", ["site_id", "created_at"])
    op.create_table(
        "drift_alarms",
        _id("id", primary_key=True),
        _id("site_id", sa.ForeignKey("sites.id")),
        _id("baseline_id", sa.ForeignKey("drift_baselines.id")),
        _text("bundle"),
        sa.Column("day", sa.Date, nullable=False),
        _text("signal"),
        sa.Column("value", sa.Float, nullable=False),
        sa.Column("limit_value", sa.Float, nullable=False),
        _now(),
        sa.UniqueConstraint("baseline_id", "day", "signal"),
    )
    op.create_index("ix_drift_alarms_site", "drift_alarms", ["site_id", "day"])


def downgrade() -> None:
    """Forget them."""
    op.drop_column("images", "device_id")
    for table in ("drift_alarms", "drift_baselines", "drift_days", "devices"):
        op.drop_table(table)

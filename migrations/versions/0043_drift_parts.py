"""Monitoring of each region and device by itself, and of distances to the training data."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0043"
down_revision = "0042"
branch_labels = None
depends_on = None

_OLD, _NEW = ("baseline_id", "day", "signal"), ("baseline_id", "day", "signal", "part")
_NAME = "uq_drift_alarms_baseline_id_day_signal"


def upgrade() -> None:
    """Their windows open with the next day that is watched; earlier versions count without them."""
    op.add_column(
        "drift_days", sa.Column("distances", JSONB, server_default=sa.text("'[]'::jsonb"), nullable=False)
    )
    op.add_column(
        "drift_baselines", sa.Column("parts", JSONB, server_default=sa.text("'{}'::jsonb"), nullable=False)
    )
    op.add_column("drift_alarms", sa.Column("part", sa.Text(), server_default=sa.text("''"), nullable=False))
    op.drop_constraint(_NAME, "drift_alarms")
    op.create_unique_constraint(f"{_NAME}_part", "drift_alarms", _NEW)


def downgrade() -> None:
    """Forget them."""
    op.execute("DELETE FROM drift_alarms WHERE part <> ''")
    op.drop_constraint(f"{_NAME}_part", "drift_alarms")
    op.create_unique_constraint(_NAME, "drift_alarms", _OLD)
    op.drop_column("drift_alarms", "part")
    op.drop_column("drift_baselines", "parts")
    op.drop_column("drift_days", "distances")

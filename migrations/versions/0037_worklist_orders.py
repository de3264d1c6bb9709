"""The worklist by name, probability, arrival and reader; views that a person keeps; answers taken back."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0037"
down_revision = "0036"
branch_labels = None
depends_on = None

#: The places of the orders: see `store.reading.worklist_tables`.
_PLACES = {
    "name": "left(lower(coalesce(nullif(accession, ''), path)), 40) COLLATE \"C\"",
    "share": "coalesce(probability, -1)",
    "arrived": "arrived_at",
    "touched": "coalesce(reviewed_at, opened_at, '1970-01-01 00:00:00+00'::timestamptz)",
}
_BEHIND = "study_id, rank, triage, region, status, day"


def upgrade() -> None:
    """Nothing was kept or taken back yet."""
    for name, place in _PLACES.items():
        op.execute(f"CREATE INDEX ix_worklist_{name} ON worklist (site_id, (rank / 9), ({place}), {_BEHIND})")
    op.add_column("worklist", sa.Column("before_rank", sa.SmallInteger()))
    op.add_column("worklist", sa.Column("before_since", sa.DateTime(timezone=True)))
    op.add_column("user_sessions", sa.Column("last_done", postgresql.JSONB()))
    op.create_table(
        "review_withdrawals",
        sa.Column("review_id", sa.Uuid(), sa.ForeignKey("reviews.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.func.clock_timestamp(), nullable=False),
    )
    op.create_table(
        "worklist_views",
        sa.Column("id", sa.Uuid(), primary_key=True),
        sa.Column("user_id", sa.Uuid(), sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("query", sa.Text(), nullable=False),
        sa.UniqueConstraint("user_id", "name", name="uq_worklist_views_user_id_name"),
    )


def downgrade() -> None:
    """Forget the views; what is read stays read."""
    op.drop_table("worklist_views")
    op.drop_table("review_withdrawals")
    op.drop_column("user_sessions", "last_done")
    op.drop_column("worklist", "before_since")
    op.drop_column("worklist", "before_rank")
    for name in _PLACES:
        op.drop_index(f"ix_worklist_{name}", "worklist")

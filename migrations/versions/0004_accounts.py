"""Names of people, their provider's subject, idle sessions, links that set passwords, shared throttling."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_AUDIT = ((), ("user_id",), ("action",), ("object_id",))


def upgrade() -> None:
    """Go up."""
    op.add_column("users", sa.Column("name", sa.Text(), server_default="", nullable=False))
    op.add_column("users", sa.Column("provider_subject", sa.Text()))
    op.create_unique_constraint(op.f("uq_users_provider_subject"), "users", ["provider_subject"])
    op.add_column(
        "sign_in_tokens",
        sa.Column("sets_password", sa.Boolean(), server_default=sa.text("false"), nullable=False),
    )
    op.add_column("user_sessions", sa.Column("agent", sa.Text(), server_default="", nullable=False))
    op.add_column(
        "user_sessions",
        sa.Column(
            "last_seen_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
    )
    op.create_table(
        "sign_in_attempts",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("key_hash", sa.String(length=64), nullable=False),
        sa.Column(
            "at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sign_in_attempts")),
    )
    op.create_index("ix_sign_in_attempts_key_at", "sign_in_attempts", ["key_hash", "at"])
    for by in _AUDIT:
        op.create_index("_".join(("ix_audit_site", *by, "at")), "audit", ["site_id", *by, "at", "id"])


def downgrade() -> None:
    """Go down."""
    for by in _AUDIT:
        op.drop_index("_".join(("ix_audit_site", *by, "at")), "audit")
    op.drop_table("sign_in_attempts")
    op.drop_column("user_sessions", "last_seen_at")
    op.drop_column("user_sessions", "agent")
    op.drop_column("sign_in_tokens", "sets_password")
    op.drop_constraint(op.f("uq_users_provider_subject"), "users")
    op.drop_column("users", "provider_subject")
    op.drop_column("users", "name")

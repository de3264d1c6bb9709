"""Roles are one of five words; API keys carry a scope: those made before keep all that they could do."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_ROLES = "role IN ('submitter', 'staff', 'clinician', 'researcher', 'admin')"
_ALL = '["administer", "read", "research", "review", "submit", "work"]'


def upgrade() -> None:
    """Go up."""
    op.alter_column("users", "role", server_default=None)
    op.create_check_constraint(op.f("ck_users_role"), "users", _ROLES)
    op.add_column(
        "api_keys",
        sa.Column("scope", postgresql.JSONB(astext_type=sa.Text()), server_default=_ALL, nullable=False),
    )
    op.alter_column("api_keys", "scope", server_default=None)


def downgrade() -> None:
    """Go down."""
    op.drop_column("api_keys", "scope")
    op.drop_constraint(op.f("ck_users_role"), "users")
    op.alter_column("users", "role", server_default="admin")

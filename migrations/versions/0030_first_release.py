"""All tables of version 0.1.0.

The numbers begin here: databases of checkouts from before the release have these tables under this number.
"""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import op

revision = "0030"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make tables, views, functions and triggers."""
    statements = Path(__file__).with_suffix(".sql").read_text()
    op.execute(sa.text(statements.replace(":", r"\:")))  # a colon would begin a parameter


def downgrade() -> None:
    """Drop everything but the table that alembic keeps its number in."""
    op.execute(
        """
        DO $$ DECLARE made record; BEGIN
            DROP VIEW queue_depth;
            FOR made IN SELECT tablename FROM pg_tables
                WHERE schemaname = 'public' AND tablename <> 'alembic_version'
            LOOP EXECUTE format('DROP TABLE %I CASCADE', made.tablename); END LOOP;
            FOR made IN SELECT oid FROM pg_proc WHERE pronamespace = 'public'::regnamespace
            LOOP EXECUTE format('DROP FUNCTION %s', made.oid::regprocedure); END LOOP;
        END $$
        """
    )

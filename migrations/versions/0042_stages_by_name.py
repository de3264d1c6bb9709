"""The stage that an image has passed, by its name; the number stays for workers of the version before."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0042"
down_revision = "0041"
branch_labels = None
depends_on = None

#: What the numbers from 1 on mean.
_NAMES = "ARRAY['prepare', 'classify', 'detect', 'explain', 'report']"
#: Whoever writes one of the two columns is understood by whoever reads the other.
_SAME = f"""
    CREATE FUNCTION keep_stage_number() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE
        names CONSTANT text[] := {_NAMES};
    BEGIN
        IF NEW.passed IS DISTINCT FROM OLD.passed THEN -- OLD is NULL in an INSERT
            NEW.stage := coalesce(array_position(names, NEW.passed), 0);
        ELSE
            NEW.passed := names[NEW.stage];
        END IF;
        RETURN NEW;
    END $$"""


def upgrade() -> None:
    """Most images have ended: their value stands in the column's default, and no row of theirs is written."""
    op.add_column("images", sa.Column("passed", sa.Text(), server_default="report"))
    op.alter_column("images", "passed", server_default=None)
    op.execute(f"UPDATE images SET passed = ({_NAMES})[stage] WHERE stage < 5")  # noqa: S608 - names of ours
    op.execute(_SAME)
    op.execute(
        "CREATE TRIGGER keep_stage_number BEFORE INSERT OR UPDATE OF stage, passed ON images"
        " FOR EACH ROW EXECUTE FUNCTION keep_stage_number()"
    )


def downgrade() -> None:
    """Go back to the numbers, which were kept."""
    op.execute("DROP TRIGGER keep_stage_number ON images")
    op.execute("DROP FUNCTION keep_stage_number()")
    op.drop_column("images", "passed")

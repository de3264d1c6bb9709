"""The table of search terms goes: words took its place, and no released version writes terms."""

from __future__ import annotations

import re
from pathlib import Path

import sqlalchemy as sa
from alembic import op

revision = "0034"
down_revision = "0033"
branch_labels = None
depends_on = None

#: What made table, function and trigger.
_MADE = ("TABLE worklist_terms", "INDEX ix_worklist_terms_site_term", "FUNCTION worklist_terms_are_words")


def upgrade() -> None:
    """Drop the table, and the trigger that made words of its rows."""
    op.drop_table("worklist_terms")
    op.execute("DROP FUNCTION worklist_terms_are_words()")


def downgrade() -> None:
    """Make them anew, empty, by the statements of the first release."""
    made = Path(__file__).with_name("0030_first_release.sql").read_text()
    for begin in (*_MADE, "TRIGGER worklist_terms_are_words"):
        end = r"END \$\$;" if begin.startswith("FUNCTION") else ";"
        found = re.search(rf"CREATE {begin}.*?{end}", made, re.DOTALL)
        assert found is not None
        op.execute(sa.text(found[0].replace(":", r"\:")))

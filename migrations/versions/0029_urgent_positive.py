"""The urgent positive before the other urgent; numbers are found without their leading zeros."""

from __future__ import annotations

from alembic import op

revision = "0029"
down_revision = "0028"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Order what waits, and give what can be searched its short words."""
    op.execute("UPDATE worklist SET rank = -2 WHERE rank = -1")
    op.execute("UPDATE worklist SET rank = -1 WHERE rank = 0 AND triage = 'positive'")
    op.execute(
        """
        UPDATE worklist_words AS w SET words = w.words || array_to_tsvector(short.words)
        FROM (SELECT study_id, array_agg(DISTINCT left(word, 8) || ltrim(substr(word, 9), '0')) AS words
              FROM worklist_words CROSS JOIN LATERAL unnest(tsvector_to_array(words)) AS word
              WHERE substr(word, 9) ~ '^0+[1-9]' GROUP BY study_id) AS short
        WHERE short.study_id = w.study_id AND length(w.words) < 2000
        """
    )


def downgrade() -> None:
    """Put the urgent together again; more words do no harm."""
    op.execute("UPDATE worklist SET rank = 0 WHERE rank = -1")
    op.execute("UPDATE worklist SET rank = -1 WHERE rank = -2")

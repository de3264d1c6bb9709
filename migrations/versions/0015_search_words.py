"""The worklist's studies are found by every word of a path, accession or study UID, not by beginnings alone.

The words go into a table of their own; `worklist` itself is not rewritten. Pages can be read until the old
terms are dropped, an instant at the end. Who writes to the worklist waits for the whole migration, so that no
study is missed: a minute or two for a million studies. The new table takes half the room of the old one.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

_SAID = "normalize(lower(said COLLATE pg_c_utf8), NFC) COLLATE pg_c_utf8"
_FILL = rf"""
    INSERT INTO worklist_words (study_id, words)
    SELECT study_id, array_to_tsvector((array_agg(DISTINCT left(site_id::text, 8) || left(word, 60)))[1:2000])
    FROM (
        SELECT i.study_id, i.site_id, told.said
        FROM images i JOIN worklist USING (study_id)
            CROSS JOIN LATERAL (VALUES (i.accession), (i.study_uid), (i.path)) AS told (said)
    ) AS told CROSS JOIN LATERAL unnest(
        string_to_array(regexp_replace({_SAID}, '[^[\:alnum\:]]+', ' ', 'g'), ' ')
        || string_to_array(regexp_replace({_SAID}, '[^[\:alnum\:].]+|\.(?!\d)|(?<!\d)\.', ' ', 'g'), ' ')
    ) AS word
    WHERE word <> ''
    GROUP BY study_id
"""  # noqa: S608 - made of the constant above
_TERMS = r"""
    INSERT INTO worklist_terms (study_id, term, site_id)
    SELECT DISTINCT i.study_id, lower(said.term) COLLATE "C", i.site_id
    FROM images i JOIN worklist USING (study_id)
        CROSS JOIN LATERAL (VALUES (i.accession), (i.study_uid), (left(i.path, 300)),
            (left(regexp_replace(i.path, '^.*[/\\]', ''), 300))) AS said (term)
    WHERE said.term <> ''
"""


def upgrade() -> None:
    """Go up."""
    op.execute("LOCK worklist IN SHARE MODE")
    op.execute("SET LOCAL work_mem = '64MB'")
    op.execute("SET LOCAL maintenance_work_mem = '256MB'")
    op.create_table(
        "worklist_words",
        sa.Column("study_id", sa.UUID(), nullable=False),
        sa.Column("words", postgresql.TSVECTOR(), nullable=False),
    )
    op.execute(_FILL)
    op.create_primary_key(op.f("pk_worklist_words"), "worklist_words", ["study_id"])
    op.create_index("ix_worklist_words_words", "worklist_words", ["words"], postgresql_using="gin")
    op.create_foreign_key(
        op.f("fk_worklist_words_study_id"), "worklist_words", "worklist", ["study_id"], ["study_id"],
        ondelete="CASCADE",
    )  # fmt: skip
    op.drop_table("worklist_terms")


def downgrade() -> None:
    """Go down."""
    op.execute("LOCK worklist IN SHARE MODE")
    op.drop_table("worklist_words")
    op.create_table(
        "worklist_terms",
        sa.Column("study_id", sa.UUID(), nullable=False),
        sa.Column("term", sa.Text(collation="C"), nullable=False),
        sa.Column("site_id", sa.UUID(), nullable=False),
    )
    op.execute(_TERMS)
    op.create_primary_key(op.f("pk_worklist_terms"), "worklist_terms", ["study_id", "term"])
    op.create_foreign_key(
        op.f("fk_worklist_terms_study_id"), "worklist_terms", "worklist", ["study_id"], ["study_id"],
        ondelete="CASCADE",
    )  # fmt: skip
    op.create_foreign_key(op.f("fk_worklist_terms_site_id"), "worklist_terms", "sites", ["site_id"], ["id"])
    op.create_index("ix_worklist_terms_site_term", "worklist_terms", ["site_id", "term", "study_id"])

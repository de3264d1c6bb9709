"""The worklist's studies are found by every word of a path, accession or study UID, not by beginnings alone.

The words go into a table of their own; `worklist` itself is not rewritten. Pages can be read until the old
terms are emptied, an instant at the end. Who writes to the worklist waits for the whole migration, so that no
study is missed, a minute or two for a million studies; work that waits too long for it is tried again. The
new table takes half the room that the old one gives back.

Workers of an earlier version go on writing terms until they are replaced: a trigger makes words of them.
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
_VECTOR = "array_to_tsvector((array_agg(DISTINCT left(site_id::text, 8) || left(word, 60)))[1:2000])"
_WORDS = rf"""
    CROSS JOIN LATERAL unnest(
        string_to_array(regexp_replace({_SAID}, '[^[\:alnum\:]]+', ' ', 'g'), ' ')
        || string_to_array(regexp_replace({_SAID}, '[^[\:alnum\:].]+|\.(?!\d)|(?<!\d)\.', ' ', 'g'), ' ')
    ) AS word
    WHERE word <> ''
    GROUP BY study_id
"""
_FILL = f"""
    INSERT INTO worklist_words (study_id, words)
    SELECT study_id, {_VECTOR} FROM (
        SELECT i.study_id, i.site_id, told.said
        FROM images i JOIN worklist USING (study_id)
            CROSS JOIN LATERAL (VALUES (i.accession), (i.study_uid), (i.path)) AS told (said)
    ) AS told {_WORDS}
"""  # noqa: S608 - made of the constants above
_TRIGGER = f"""
    CREATE FUNCTION worklist_terms_are_words() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO worklist_words AS known (study_id, words)
        SELECT study_id, {_VECTOR} FROM (SELECT study_id, site_id, term AS said FROM fresh) AS told {_WORDS}
        ORDER BY study_id
        ON CONFLICT (study_id) DO UPDATE SET words = known.words || excluded.words
        WHERE length(known.words) < 2000;
        RETURN NULL;
    END $$;
    CREATE TRIGGER worklist_terms_are_words AFTER INSERT ON worklist_terms
        REFERENCING NEW TABLE AS fresh FOR EACH STATEMENT EXECUTE FUNCTION worklist_terms_are_words()
"""  # noqa: S608
_TERMS = r"""
    INSERT INTO worklist_terms (study_id, term, site_id)
    SELECT DISTINCT i.study_id, lower(said.term) COLLATE "C", i.site_id
    FROM images i JOIN worklist USING (study_id)
        CROSS JOIN LATERAL (VALUES (i.accession), (i.study_uid), (left(i.path, 300)),
            (left(regexp_replace(i.path, '^.*[/\\]', ''), 300))) AS said (term)
    WHERE said.term <> ''
    ON CONFLICT DO NOTHING
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
    op.execute("TRUNCATE worklist_terms")
    op.execute(_TRIGGER)


def downgrade() -> None:
    """Go down."""
    op.execute("LOCK worklist IN SHARE MODE")
    op.execute("DROP TRIGGER worklist_terms_are_words ON worklist_terms")
    op.execute("DROP FUNCTION worklist_terms_are_words()")
    op.drop_table("worklist_words")
    op.execute(_TERMS)

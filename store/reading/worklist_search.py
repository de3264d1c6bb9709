"""The words by which the worklist's studies are found: accession, study UID, and every word of a path."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from sqlalchemy import ColumnElement, bindparam, select, text
from sqlalchemy.dialects.postgresql import TSQUERY
from sqlalchemy.orm import InstrumentedAttribute, Session
from sqlalchemy.sql.elements import TextClause

from store.reading.worklist_tables import WorklistWords

#: Up to this many studies that hold the words are looked up one by one; of more, the list itself is walked.
MAX_LOOKED_UP = 2000
#: Words of one study in one batch: a vector of Postgres ends at 1 MB.
_MAX_WORDS = 2000

# A word is a run of letters and digits. In what is searched a dot between two digits does not end it, so that
# the beginning of a UID is one word; such words are kept as well as their parts. The collation is named so
# that every server knows the same letters. Nothing but such words gets into the syntax of a tsquery.
_SAID = "normalize(lower({said} COLLATE pg_c_utf8), NFC) COLLATE pg_c_utf8"
_WORDS = f"string_to_array(regexp_replace({_SAID}, '[^[:alnum:]]+', ' ', 'g'), ' ')"
#: Without the zeros at its beginning: who looks for accession 1238 means 0001238.
_SHORT = "ARRAY(SELECT ltrim(word, '0') FROM unnest({words}) AS word WHERE word ~ '^0+[1-9]')"
_DOTTED = rf"string_to_array(regexp_replace({_SAID}, '[^[:alnum:].]+|\.(?!\d)|(?<!\d)\.', ' ', 'g'), ' ')"


def _sql(statement: str) -> TextClause:
    return text(statement.replace(":alnum:", r"\:alnum\:"))


# Every word begins with its site's id: another site's words are neither found nor read.
# IS TRUE: see `worklist._REFRESH`.
_NOTE = _sql(
    f"""
    INSERT INTO worklist_words AS old (study_id, words)
    SELECT study_id, array_to_tsvector((array_agg(DISTINCT left(site_id::text, 8) || left(word, 60)))
        [1:{_MAX_WORDS}])
    FROM (
        SELECT DISTINCT i.study_id, i.site_id, said
        FROM images i CROSS JOIN LATERAL (VALUES (i.accession), (i.study_uid), (i.path)) AS told (said)
        WHERE (i.batch_id = :batch) IS TRUE AND i.study_id = ANY(:studies)
          AND EXISTS (SELECT 1 FROM worklist WHERE worklist.study_id = i.study_id)
    ) AS told CROSS JOIN LATERAL unnest(
        {_WORDS.format(said="said")} || {_DOTTED.format(said="said")}
        || {_SHORT.format(words=_WORDS.format(said="said"))}) AS word
    WHERE word <> ''
    GROUP BY study_id
    ORDER BY study_id
    ON CONFLICT (study_id) DO UPDATE SET words = old.words || excluded.words
    WHERE old.words || excluded.words <> old.words AND length(old.words) < {_MAX_WORDS}
    """  # noqa: S608 - made of the constants above
)
_ASK = _sql(
    f"""
    SELECT string_agg('''' || left(CAST(:site AS text), 8) || left(word, 60) || ''':*', ' & ')
    FROM unnest({_DOTTED.format(said="CAST(:search AS text)")}) AS word WHERE word <> ''
    """  # noqa: S608
)


def index_words(session: Session, batch_id: uuid.UUID, study_ids: Sequence[uuid.UUID]) -> None:
    """Keep the words of the studies' images in a batch, beside those they had."""
    session.execute(_NOTE, {"batch": batch_id, "studies": list(study_ids)})


def query_of(session: Session, site_id: uuid.UUID, search: str) -> str | None:
    """Return a search as tsquery: beginnings of words, all to be held; None where there is no word."""
    query: str | None = session.scalar(_ASK, {"site": str(site_id), "search": search})
    return query


def holds(query: str, study_id: InstrumentedAttribute[uuid.UUID]) -> ColumnElement[bool]:
    """Return the condition that a study holds the words, asked study by study."""
    wanted = bindparam("words", query, TSQUERY, unique=True)
    words = select(WorklistWords.words.bool_op("@@")(wanted)).where(WorklistWords.study_id == study_id)
    return words.scalar_subquery()


def studies_with(session: Session, query: str) -> list[uuid.UUID] | None:
    """Return the studies that hold the words; None when they are more than `MAX_LOOKED_UP`."""
    wanted = bindparam("words", query, TSQUERY, unique=True)
    found = (
        select(WorklistWords.study_id)
        .where(WorklistWords.words.bool_op("@@")(wanted))
        .limit(MAX_LOOKED_UP + 1)
    )
    # a word of every third study looks to the planner as if the table's first rows must do
    session.execute(text("SET LOCAL enable_seqscan = off"))
    ids = list(session.scalars(found))
    session.execute(text("SET LOCAL enable_seqscan = on"))
    return ids if len(ids) <= MAX_LOOKED_UP else None

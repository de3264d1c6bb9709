"""Studies of one patient each, one number an image, what is to be read again, and who confirmed a signature.

Studies in which two patients or two accession numbers met before are marked; nothing can take them apart any
more. Images get their numbers in the order in which reports have numbered them so far.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

_MARK = """
    UPDATE studies SET uid_shared = true WHERE study_uid <> '' AND id IN (
        SELECT study_id FROM images WHERE study_uid <> '' AND study_id IS NOT NULL GROUP BY study_id
        HAVING count(DISTINCT patient_hash) > 1 OR count(DISTINCT nullif(accession, '')) > 1)
"""
_NUMBER = """
    UPDATE images SET number = placed.place FROM (
        SELECT id, dense_rank() OVER (PARTITION BY study_id ORDER BY first_path, sha256) AS place FROM (
            SELECT id, study_id, sha256, min(path) OVER (PARTITION BY study_id, sha256) AS first_path
            FROM images WHERE study_id IS NOT NULL) AS grouped) AS placed
    WHERE placed.id = images.id
"""
_REREAD = """
    UPDATE worklist SET reread = true WHERE reviewed_at IS NULL
        AND EXISTS (SELECT 1 FROM reviews WHERE reviews.study_id = worklist.study_id)
"""


def _flag(name: str) -> sa.Column[bool]:
    return sa.Column(name, sa.Boolean(), server_default=sa.text("false"), nullable=False)


def upgrade() -> None:
    """Go up."""
    op.add_column("studies", _flag("uid_shared"))
    op.add_column("images", sa.Column("number", sa.Integer()))
    op.add_column("worklist", _flag("reread"))
    op.add_column(
        "worklist",
        sa.Column("flags", postgresql.JSONB(), server_default=sa.text("'[]'::jsonb"), nullable=False),
    )
    op.add_column("promotions", _flag("rolled_back"))
    op.add_column("reviews", sa.Column("account", sa.Text(), server_default="", nullable=False))
    op.add_column("user_sessions", sa.Column("confirmed_at", sa.DateTime(timezone=True)))
    op.execute(_MARK)
    op.execute(_NUMBER)
    op.execute(_REREAD)
    op.create_index(
        "ix_studies_site_uid",
        "studies",
        ["site_id", "study_uid", "uid_shared"],
        postgresql_where=sa.text("study_uid <> ''"),
    )


def downgrade() -> None:
    """Go down."""
    op.drop_index("ix_studies_site_uid", "studies")
    op.drop_column("user_sessions", "confirmed_at")
    op.drop_column("reviews", "account")
    op.drop_column("promotions", "rolled_back")
    op.drop_column("worklist", "flags")
    op.drop_column("worklist", "reread")
    op.drop_column("images", "number")
    op.drop_column("studies", "uid_shared")

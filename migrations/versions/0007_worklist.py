"""The worklist: a row a study, the terms by which it is found, and whether a batch is clinical work."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_BY = ("rank", "since", "study_id")


def upgrade() -> None:
    """Go up; batches that ended before are not listed until they are read again."""
    op.add_column(
        "batches", sa.Column("promoted", sa.Boolean(), server_default=sa.text("true"), nullable=False)
    )
    moment = sa.DateTime(timezone=True)
    op.create_table(
        "worklist",
        sa.Column("study_id", sa.UUID(), nullable=False),
        sa.Column("site_id", sa.UUID(), nullable=False),
        sa.Column("batch_id", sa.UUID(), nullable=False),
        sa.Column("image_id", sa.UUID(), nullable=False),
        sa.Column("bundle", sa.Text(), nullable=False),
        sa.Column("basis", sa.Text(), server_default="", nullable=False),
        sa.Column("rank", sa.SmallInteger(), nullable=False),
        sa.Column("since", moment, nullable=False),
        sa.Column("arrived_at", moment, nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("priority", sa.SmallInteger(), nullable=False),
        sa.Column("risen", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("triage", sa.Text()),
        sa.Column("reason", sa.Text()),
        sa.Column("probability", sa.Float()),
        sa.Column("region", sa.Text(), server_default="", nullable=False),
        sa.Column("n_images", sa.Integer(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("accession", sa.Text(), server_default="", nullable=False),
        sa.Column("study_date", sa.Text(), server_default="", nullable=False),
        sa.Column("opened_by", sa.UUID()),
        sa.Column("opened_at", moment),
        sa.Column("reviewed_at", moment),
        sa.Column("answer", sa.Text()),
        sa.Column("signed_at", moment),
        sa.PrimaryKeyConstraint("study_id", name=op.f("pk_worklist")),
        sa.ForeignKeyConstraint(
            ["study_id"], ["studies.id"], name=op.f("fk_worklist_study_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["batch_id"], ["batches.id"], name=op.f("fk_worklist_batch_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["site_id"], ["sites.id"], name=op.f("fk_worklist_site_id")),
        sa.ForeignKeyConstraint(
            ["opened_by"], ["users.id"], name=op.f("fk_worklist_opened_by"), ondelete="SET NULL"
        ),
    )
    rest = ("triage", "region", "status", "bundle", "day", "batch_id")
    for name, columns, where in (
        ("order", ("site_id", *_BY, *rest), None),
        ("batch", ("batch_id", *_BY, "triage", "region", "status"), None),
        ("triage", ("site_id", "triage", *_BY, "region", "status", "bundle", "day"), None),
        ("region", ("site_id", "region", *_BY, "triage", "status", "bundle", "day"), None),
        ("not_done", ("site_id", "status", *_BY, "region", "bundle", "day"), "status <> 'done'"),
        ("waiting", ("arrived_at",), "rank > 0 and rank < 9"),
    ):
        condition = sa.text(where) if where else None
        op.create_index(f"ix_worklist_{name}", "worklist", list(columns), postgresql_where=condition)
    op.create_table(
        "worklist_terms",
        sa.Column("study_id", sa.UUID(), nullable=False),
        sa.Column("term", sa.Text(collation="C"), nullable=False),
        sa.Column("site_id", sa.UUID(), nullable=False),
        sa.PrimaryKeyConstraint("study_id", "term", name=op.f("pk_worklist_terms")),
        sa.ForeignKeyConstraint(
            ["study_id"], ["worklist.study_id"], name=op.f("fk_worklist_terms_study_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["site_id"], ["sites.id"], name=op.f("fk_worklist_terms_site_id")),
    )
    op.create_index("ix_worklist_terms_site_term", "worklist_terms", ["site_id", "term", "study_id"])


def downgrade() -> None:
    """Go down."""
    op.drop_table("worklist_terms")
    op.drop_table("worklist")
    op.drop_column("batches", "promoted")

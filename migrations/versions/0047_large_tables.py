"""What keeps questions fast as tables grow: partial indexes, sums of ended batches, more vacuuming."""

from __future__ import annotations

import re
from pathlib import Path

import sqlalchemy as sa
from alembic import op

revision = "0047"
down_revision = "0046"
branch_labels = None
depends_on = None

#: Each holds few rows, however many the table has. A site with very large tables makes them beforehand,
#: CONCURRENTLY and under these names: see docs/operations.md.
INDEXES = {
    "ix_batches_open": "batches (site_id, created_at) WHERE status IN ('draft','queued','running','paused')",
    "ix_deliveries_site_state": "deliveries (site_id, state)",
    "ix_images_incoming": "images (batch_id) WHERE incoming_key IS NOT NULL",
    "ix_images_apart": "images (site_id) WHERE study_id IS NULL OR source_key IS NOT NULL",
    "ix_manifest_lines_accession": "manifest_lines (accession) WHERE accession <> ''",
    "ix_notices_created": "notices (created_at)",
    "ix_work_failed": "work (kind, subject_id) WHERE state = 'failed'",
}
#: A tenth of twenty million rows comes in months: so long would new rows be unknown to the planner.
_GROWING = (
    *("images", "findings", "studies", "study_findings", "worklist", "worklist_words", "reviews", "work"),
    *("batches", "audit", "audit_chain", "deliveries", "received_objects"),
)
_VACUUM = {
    "autovacuum_vacuum_scale_factor": "0.02",
    "autovacuum_vacuum_insert_scale_factor": "0.02",
    "autovacuum_analyze_scale_factor": "0.01",
}
_ENDED = "('done', 'partial', 'failed', 'cancelled')"
_SUMS = ("n_done", "n_rejected", "n_failed", "n_cancelled", "n_bytes")
_BYTES = (
    "CASE WHEN {row}run_id IS NULL AND ({row}status <> 'cancelled' OR {row}submitted_at IS NOT NULL)"
    " THEN {row}n_bytes ELSE 0 END"
)


#: Until when the view looks back. The clock may go on within a statement, so that no index is asked by it.
_CLOCK = "finished_at > {clock}_timestamp() - interval '300 s'"


def _view(clock: str) -> str:
    made = Path(__file__).with_name("0030_first_release.sql").read_text()
    found = re.search(r"CREATE (VIEW queue_depth.*?);", made, re.DOTALL)
    assert found is not None
    said = found[1].replace(_CLOCK.format(clock="clock"), _CLOCK.format(clock=clock))
    assert clock + "_timestamp() - interval '300 s'" in said
    return f"CREATE OR REPLACE {said}".replace(":", r"\:")


def _values(row: str, sign: str = "") -> str:
    counts = [f"{sign}{row}{name}" for name in _SUMS[:-1]]
    return ", ".join([f"{row}site_id", *counts, f"{sign}({_BYTES.format(row=row)})"])


_KEEP = f"""
    CREATE FUNCTION keep_batch_totals() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF TG_OP <> 'INSERT' AND OLD.status IN {_ENDED} THEN
            INSERT INTO batch_totals (site_id, {", ".join(_SUMS)}) VALUES ({_values("OLD.", "-")});
        END IF;
        IF TG_OP <> 'DELETE' AND NEW.status IN {_ENDED} THEN
            INSERT INTO batch_totals (site_id, {", ".join(_SUMS)}) VALUES ({_values("NEW.")});
        END IF;
        RETURN NULL;
    END $$
"""  # noqa: S608 - names of ours
_CHANGED = " OR ".join(
    f"OLD.{name} IS DISTINCT FROM NEW.{name}" for name in ("status", "submitted_at", "run_id", *_SUMS)
)
_TRIGGERS = {
    "keep_totals_made": f"AFTER INSERT ON batches FOR EACH ROW WHEN (NEW.status IN {_ENDED})",
    "keep_totals_gone": f"AFTER DELETE ON batches FOR EACH ROW WHEN (OLD.status IN {_ENDED})",
    "keep_totals_changed": f"AFTER UPDATE ON batches FOR EACH ROW WHEN ((OLD.status IN {_ENDED}"
    f" OR NEW.status IN {_ENDED}) AND ({_CHANGED}))",
}


def upgrade() -> None:
    """Make the indexes, and add up the batches that have ended."""
    op.create_table(
        "batch_totals",
        sa.Column("id", sa.BigInteger(), sa.Identity(), primary_key=True),
        sa.Column("site_id", sa.Uuid(), sa.ForeignKey("sites.id", ondelete="CASCADE"), nullable=False),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in _SUMS),
    )
    op.create_index("ix_batch_totals_site_id", "batch_totals", ["site_id"])
    op.execute(_KEEP)
    for name, when in _TRIGGERS.items():
        op.execute(f"CREATE TRIGGER {name} {when} EXECUTE FUNCTION keep_batch_totals()")
    # the triggers hold writers back until the end of this transaction: none is missed or counted twice
    sums = ", ".join([*(f"sum({name})" for name in _SUMS[:-1]), f"sum({_BYTES.format(row='')})"])
    op.execute(
        f"INSERT INTO batch_totals (site_id, {', '.join(_SUMS)})"  # noqa: S608
        f" SELECT site_id, {sums} FROM batches WHERE status IN {_ENDED} GROUP BY site_id"
    )
    op.execute(sa.text(_view("statement")))
    for name, on in INDEXES.items():
        op.execute(f"CREATE INDEX IF NOT EXISTS {name} ON {on}")
    settings = ", ".join(f"{name} = {value}" for name, value in _VACUUM.items())
    for table in _GROWING:
        op.execute(f"ALTER TABLE {table} SET ({settings})")


def downgrade() -> None:
    """Count every batch again."""
    op.execute(sa.text(_view("clock")))
    for table in _GROWING:
        op.execute(f"ALTER TABLE {table} RESET ({', '.join(_VACUUM)})")
    for name in INDEXES:
        op.execute(f"DROP INDEX {name}")
    for name in _TRIGGERS:
        op.execute(f"DROP TRIGGER {name} ON batches")
    op.execute("DROP FUNCTION keep_batch_totals()")
    op.drop_table("batch_totals")

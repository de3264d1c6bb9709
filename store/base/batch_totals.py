"""How many images and bytes all batches hold: of those that have ended a sum that is kept, of others counted.

A batch that ends is added to `BatchTotal` by a trigger, in its own transaction, as a row: nobody waits for
another's. Each answer is one statement, so that a batch that ends meanwhile is counted once.
"""

from __future__ import annotations

import uuid
from typing import Any

from sqlalchemy import func, literal, select, text, true
from sqlalchemy.orm import Session

from store.base.tables import Batch, BatchTotal, batch_is_open

_NAMES = ("queued", "running", "done", "rejected", "failed", "cancelled")
_COMPACT = text(
    """
    WITH gone AS (
        DELETE FROM batch_totals WHERE site_id IN (
            SELECT site_id FROM batch_totals GROUP BY site_id HAVING count(*) > 1)
        RETURNING *)
    INSERT INTO batch_totals (site_id, n_done, n_rejected, n_failed, n_cancelled, n_bytes)
    SELECT site_id, sum(n_done), sum(n_rejected), sum(n_failed), sum(n_cancelled), sum(n_bytes)
    FROM gone GROUP BY site_id
    """
)


def count_images(session: Session) -> dict[str, int]:
    """Return how many images of all batches, those of research too, are in each state."""

    def total(table: type[Batch] | type[BatchTotal], name: str) -> Any:
        column = getattr(table, f"n_{name}", None)  # of an ended batch nothing is queued or running
        return literal(0) if column is None else func.coalesce(func.sum(column), 0)

    now = select(*(total(Batch, name).label(name) for name in _NAMES)).where(batch_is_open()).subquery()
    before = select(*(total(BatchTotal, name).label(name) for name in _NAMES)).subquery()
    both = select(*(now.c[name] + before.c[name] for name in _NAMES)).select_from(now.join(before, true()))
    row = session.execute(both).one()
    return dict(zip(_NAMES, map(int, row), strict=True))


def count_bytes(session: Session, site_id: uuid.UUID) -> int:
    """Return how many bytes a site's clinical batches hold; of drafts that were cancelled none."""
    open_ = select(func.coalesce(func.sum(Batch.n_bytes), 0)).where(
        Batch.site_id == site_id,
        Batch.run_id.is_(None),  # a data set's images are not kept here
        batch_is_open(),
    )
    ended = select(func.coalesce(func.sum(BatchTotal.n_bytes), 0)).where(BatchTotal.site_id == site_id)
    return int(session.scalar(select(open_.scalar_subquery() + ended.scalar_subquery())) or 0)


def compact(session: Session) -> None:
    """Make one row a site of those that have gathered."""
    session.execute(_COMPACT)

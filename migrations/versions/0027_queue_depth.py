"""What waits on each queue, as a view from which workers are scaled."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None

# The queues are those of store.queue.dispatch; a test compares them. A unit waits while it is due, lies in
# the broker, or is between two stages without a lease.
_VIEW = """
CREATE VIEW queue_depth AS
WITH queues (queue) AS (VALUES ('cpu'), ('gpu'), ('report'), ('notices'), ('deliveries'), ('exports')),
open_units AS (
    SELECT
        CASE
            WHEN w.kind IN ('notice', 'password', 'account_mail') THEN 'notices'
            WHEN w.kind = 'deliver' THEN 'deliveries'
            WHEN w.kind IN ('export', 'evaluate') THEN 'exports'
            WHEN w.kind = 'pixels' OR w.stage IN ('prepare', 'explain') THEN 'cpu'
            WHEN w.stage IN ('classify', 'detect') THEN 'gpu'
            ELSE 'report'
        END AS queue,
        GREATEST(w.n_images, 1) AS images,
        COALESCE(w.lease_until > clock_timestamp(), false) AS held,
        w.due_at
    FROM work w LEFT JOIN batches b ON b.id = w.batch_id
    WHERE w.state IN ('due', 'published', 'running')
        AND (w.state <> 'due' OR w.due_at <= clock_timestamp())
        AND COALESCE(b.status, '') <> 'paused'
),
read_lately AS (
    SELECT COALESCE(sum(n_images), 0) / 300.0 AS images_per_second
    FROM work
    WHERE kind = 'chunk' AND state = 'done' AND finished_at > clock_timestamp() - interval '300 s'
)
SELECT
    q.queue,
    COALESCE(sum(u.images) FILTER (WHERE NOT u.held), 0)::bigint AS waiting,
    COALESCE(sum(u.images) FILTER (WHERE u.held), 0)::bigint AS running,
    COALESCE(
        EXTRACT(epoch FROM clock_timestamp() - min(u.due_at) FILTER (WHERE NOT u.held)), 0
    )::double precision AS oldest_seconds,
    (SELECT images_per_second FROM read_lately)::double precision AS images_per_second
FROM queues q LEFT JOIN open_units u ON u.queue = q.queue
GROUP BY q.queue
"""


def upgrade() -> None:
    """Add the view, and the index by which it finds what was read lately."""
    op.create_index(
        "ix_work_read", "work", ["finished_at"], postgresql_where=sa.text("kind = 'chunk' and state = 'done'")
    )
    op.execute(_VIEW)


def downgrade() -> None:
    """Nothing but scaling reads it."""
    op.execute("DROP VIEW queue_depth")
    op.drop_index("ix_work_read", table_name="work")

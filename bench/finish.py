"""The end of a large batch of studies of several images, and fsck of it: ``python -m bench.finish``.

The rows are made directly: what is measured is the walk from study to study, not the reading.
"""

from __future__ import annotations

import argparse
import tempfile
import uuid
from pathlib import Path
from typing import Any

from sqlalchemy import delete, text

from bench.measure import machine, publish, timed
from cli.embedded import embedded, set_defaults
from cli.prepare import prepare

ROWS = (
    """INSERT INTO studies (id, site_id, key)
       SELECT gen_random_uuid(), :site, 'bench:' || n FROM generate_series(1, :studies) n""",
    """INSERT INTO findings (id, site_id, sha256, bundle, precision, region, region_probability,
                             region_probabilities, logit, probability, triage)
       SELECT gen_random_uuid(), :site, lpad(to_hex(n), 64, '0'), :bundle, 'float32', 'hand', 0.9,
              '{"hand": 0.9}', 0, 0.1, 'negative' FROM generate_series(1, :images) n""",
    """INSERT INTO images (id, site_id, batch_id, study_id, finding_id, path, sha256, size, status, stage,
                           region, region_probability, probability, triage)
       SELECT gen_random_uuid(), :site, :batch, s.id, f.id, f.sha256, f.sha256, 1, 'done', 5,
              'hand', 0.9, 0.1, 'negative'
       FROM (SELECT id, sha256, row_number() OVER () AS n FROM findings) f
       JOIN (SELECT id, row_number() OVER () AS n FROM studies WHERE key LIKE 'bench:%') s
         ON s.n = (f.n - 1) / :each + 1""",
    "ANALYZE",
)


def _batch(site: uuid.UUID, bundle: str, images: int, each: int) -> uuid.UUID:
    """Write a batch whose images have all ended and whose studies have no finding yet."""
    from store.base.session import session_scope
    from store.intake import batches

    with session_scope() as session:
        batch, _ = batches.create_batch(
            session, site_id=site, user_id=None, with_report=False, with_heatmap=False
        )
        values = {"site": site, "bundle": bundle, "batch": batch.id, "images": images, "each": each}
        for statement in ROWS:
            session.execute(text(statement), {**values, "studies": -(-images // each)})
        session.execute(
            text(
                "UPDATE batches SET status = 'running', submitted_at = now(), n_total = :n, n_done = :n"
                " WHERE id = :id"
            ),
            {"n": images, "id": batch.id},
        )
    return batch.id


def _finish(site: uuid.UUID, batch_id: uuid.UUID) -> None:
    from store.base.session import session_scope
    from store.base.tables import Priority, Work, WorkKind
    from store.queue import work
    from worker import stages

    with session_scope() as session:
        session.execute(delete(Work).where(Work.batch_id == batch_id))  # one finish a round
        unit = Work(
            id=uuid.uuid4(),
            site_id=site,
            batch_id=batch_id,
            kind=WorkKind.FINISH.value,
            round=1,
            priority=Priority.NORMAL.rank,
        )
        session.add(unit)
        session.flush()
        lease = work.take(session, unit.id, None)
    if not isinstance(lease, work.Lease):
        raise TypeError(f"the unit was not taken: {lease}")
    stages.finish.run(lease)


def main() -> None:
    """Print the times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--each", type=int, default=3, help="images a study")
    arguments = parser.parse_args()
    before = machine()
    with tempfile.TemporaryDirectory(prefix="fractureai-bench-") as name:
        home = Path(name) / "home"
        Path(name).chmod(0o711)
        with embedded(home) as (servers, _):
            set_defaults(home, servers)
            prepare()
            rows = _measure(arguments.images, arguments.each)
    title = f"The end of a batch of {arguments.images:,} images, {arguments.each} a study"
    publish("finish", title, rows, before)


def _measure(images: int, each: int) -> dict[str, Any]:
    from sqlalchemy import select

    from store.base.session import session_scope
    from store.base.tables import Site
    from store.operations import fsck

    with session_scope() as session:
        site = session.scalars(select(Site)).one()
    batch_id = _batch(site.id, str(site.default_bundle), images, each)
    return {
        "finish that writes every study's finding": {"s": timed(lambda: _finish(site.id, batch_id))},
        "finish of a batch whose findings are there": {"s": timed(lambda: _finish(site.id, batch_id))},
        "fsck": {"s": timed(fsck.check)},
    }


if __name__ == "__main__":
    main()

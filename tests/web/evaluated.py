"""A researcher's site with an evaluated run of two bundles and their comparison."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from sqlalchemy import func

from pipeline import comparison, evaluation
from pipeline.evaluation import Record, Score
from store.accounts.accounts import Role
from store.base.session import session_scope
from store.base.tables import Batch, Bundle
from store.research.research_tables import Comparison, Run
from tests.web.serving import MANIFEST
from tests.web.world import World, make_world

REGIONS = ("elbow", "hand", "wrist")


def records(strength: float, seed: int, n: int = 240) -> list[Record]:
    """Images of three regions whose scores follow their labels more or less."""
    rng = np.random.default_rng(seed)
    found = []
    for i in range(n):
        label, region = bool(i % 5 < 2), REGIONS[i // 2 % 3]
        p = float(1 / (1 + np.exp(-rng.normal(strength * (label - 0.5), 1))))
        score = Score(region, p, 0.3, 0.6, i % 7 != 0)
        others = dict.fromkeys(evaluation.ROUTES, score)
        seen = region if i % 11 else "hand"
        found.append(
            Record(
                f"valid/{i}.png",
                f"{i:012x}".ljust(64, "0"),
                f"s{i // 2}",
                f"p{i // 4}",
                region,
                label,
                seen,
                score,
                others,
            )
        )
    return found


def make_evaluated_world(
    app: Any,
    *,
    fitted_on: Mapping[int, str] = MappingProxyType({}),
    overlap: int = 0,
    data_says: str = "fractured",
) -> tuple[World, dict[str, Any]]:
    """Return the site and the figures of the comparison.

    Parameters
    ----------
    fitted_on
        Images, by number, that the first bundle was trained on, and how the comparison found them.
    overlap
        How many the run says that were.
    data_says
        What the data set's label means; both bundles say *fractured*.
    """
    world = make_world(app, Role.RESEARCHER)
    a, b = records(1.0, 1), records(2.0, 2)
    with session_scope() as session:
        session.add(Bundle(name="b2", sha256="1" * 64, manifest={**MANIFEST, "name": "b2"}, files={}))
        session.flush()
        run = session.get_one(Run, world.ids["run_id"])
        batch = session.get_one(Batch, run.batch_id)
        batch.status, batch.finished_at, batch.n_queued, batch.n_done = "done", func.now(), 0, 1
        run.bundles, run.evaluated_at = ["b1", "b2"], func.now()
        run.figures = {
            name: {
                "label_meaning": "fractured",
                "fitted_on_overlap": overlap,
                "fitted_on": {
                    "by_file": 0,
                    "by_look": overlap,
                    "without_look": 0,
                    "images": 24,
                    "looks": 24,
                },
                **evaluation.evaluate(said, rounds=20),
            }
            for name, said in (("b1", a), ("b2", b))
        }
        compared = session.get_one(Comparison, world.ids["comparison_id"])
        compared.bundle_b, compared.evaluated_at = "b2", func.now()
        found = {a[number].name: how for number, how in fitted_on.items()}
        figures = comparison.compare(a, b, margin=0.02, fitted_on=found, rounds=50)
        figures["overlap"]["bundles_without_looks"] = []
        for changed in figures["changed_images"]:
            changed["number"] = 1
        meanings = {"a": "fractured", "b": "fractured", "dataset": data_says}
        compared.figures = {**figures, "label_meanings": meanings}
    return world, figures

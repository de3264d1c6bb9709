"""What a batch amounts to: its worst images, its scores between the cuts, its parts, and how fast it went."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import extract, func, literal_column, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from store.base.tables import Batch, BatchSummary, Image
from vocabulary.states import ImageStatus, Triage
from vocabulary.words import scale_place

#: Pictures of the worst images, bars of scores (a third of them between the cuts), and steps of time.
WORST, BARS, STEPS = 12, 30, 40
#: Steps to which probabilities are rounded before they are counted.
GRAIN = 1000
#: Batches above this have no summary: it reads every row.
MAX_IMAGES = 200_000


@dataclass(frozen=True)
class Summary:
    """A batch in figures.

    Attributes
    ----------
    worst
        Images with a picture, by triage and then by probability.
    scores
        How many images stand where on a scale whose cuts stand at a third and two thirds.
    parts
        How many images of each body part have each triage; the most frequent part first.
    pace
        How many images ended in each of `STEPS` even steps of time; empty for a batch that ended at once.
    seconds
        From the first image's end to the last one's.
    """

    worst: Sequence[Image]
    scores: Sequence[int]
    parts: Mapping[str, Mapping[str, int]]
    pace: Sequence[int]
    seconds: float


def summary(session: Session, batch: Batch, cuts: Mapping[str, Mapping[str, float]]) -> Summary | None:
    """Return a batch's summary; None where nothing was read yet, or the batch is too large.

    Counting reads every row: what was counted is kept until the batch changes.

    Parameters
    ----------
    cuts
        The bundle's thresholds by region: ``low`` and ``high``.
    """
    if batch.n_done == 0 or batch.n_total > MAX_IMAGES:
        return None
    kept = session.get(BatchSummary, batch.id)
    if kept is not None and kept.version == batch.version:
        figures = kept.figures
    else:
        figures = _count(session, batch.id, cuts)
        row = insert(BatchSummary).values(batch_id=batch.id, version=batch.version, figures=figures)
        changed = {"version": row.excluded.version, "figures": row.excluded.figures}
        session.execute(row.on_conflict_do_update(index_elements=["batch_id"], set_=changed))
    worst = [uuid.UUID(id_) for id_ in figures["worst"]]
    found = session.scalars(select(Image).where(Image.id.in_(worst), Image.display_key.is_not(None)))
    return Summary(
        worst=sorted(found, key=lambda image: worst.index(image.id)),
        scores=figures["scores"],
        parts=dict(sorted(figures["parts"].items(), key=lambda part: -sum(part[1].values()))),
        pace=figures["pace"],
        seconds=figures["seconds"],
    )


def _count(session: Session, batch_id: uuid.UUID, cuts: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """Count every image of a batch; as JSON."""
    share = func.round(Image.probability * literal_column(str(GRAIN))).label("share")
    counted = session.execute(
        select(Image.region, Image.triage, share, func.count())
        .where(Image.batch_id == batch_id, Image.status == ImageStatus.DONE, Image.triage.is_not(None))
        .group_by(Image.region, Image.triage, share)
    ).all()
    pace, seconds = _pace(session, batch_id)
    scores, parts = [0] * BARS, dict[str, Counter[str]]()
    for region, triage, place, n in counted:
        parts.setdefault(region or "", Counter())[triage] += n
        if place is not None and region in cuts:
            at = scale_place(float(place) / GRAIN, cuts[region]["low"], cuts[region]["high"])
            scores[min(BARS - 1, int(at * BARS))] += n
    return {
        "worst": [str(id_) for id_ in _worst(session, batch_id)],
        "scores": scores,
        "parts": parts,
        "pace": pace,
        "seconds": seconds,
    }


def _worst(session: Session, batch_id: uuid.UUID) -> list[uuid.UUID]:
    found: list[uuid.UUID] = []
    for triage in (Triage.POSITIVE, Triage.DOUBT):
        if len(found) < WORST:
            found += session.scalars(
                select(Image.id)
                .where(Image.batch_id == batch_id, Image.triage == triage, Image.display_key.is_not(None))
                .order_by(Image.probability.desc().nulls_last(), Image.seq)
                .limit(WORST - len(found))
            )
    return found


def _pace(session: Session, batch_id: uuid.UUID) -> tuple[Sequence[int], float]:
    """Return how many images ended in each step of time, and how long all of it took in seconds."""
    here = (Image.batch_id == batch_id, Image.finished_at.is_not(None))
    first, last = session.execute(
        select(func.min(Image.finished_at), func.max(Image.finished_at)).where(*here)
    ).one()
    seconds = (last - first).total_seconds() if first and last else 0.0
    if seconds < 1:
        return (), seconds
    since = extract("epoch", Image.finished_at - first)
    step = func.least(func.floor(since / (seconds / STEPS)), STEPS - 1)
    found = {int(at): n for at, n in session.execute(select(step, func.count()).where(*here).group_by(step))}
    return [found.get(n, 0) for n in range(STEPS)], seconds

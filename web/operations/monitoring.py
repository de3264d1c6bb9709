"""Monitoring for administrators: rates, sums and scores of the bundle that serves, drawn on the server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from flask import Blueprint, redirect, render_template, url_for
from werkzeug.wrappers import Response

from store.accounts.accounts import Permission
from store.base.session import session_scope
from store.operations import drift, drift_statistics
from store.operations.drift_statistics import LIMIT, PSI_LIMIT, RATES, expected, median_distance
from vocabulary.words import TRIAGE_WORDS
from web.auth.identity import identity, needs
from web.base.forms import form_on

monitoring_pages = Blueprint("monitoring", __name__, url_prefix="/admin/monitoring")

RATE_WORDS = {rate: {**TRIAGE_WORDS, "rejected": "Rejected"}[rate] for rate in RATES}
SIGNAL_WORDS = {
    **{f"{rate} up": f"{word}: more than before" for rate, word in RATE_WORDS.items()},
    **{f"{rate} down": f"{word}: fewer than before" for rate, word in RATE_WORDS.items()},
    "distance up": "Farther from the training data than before",
    "score": "The scores have shifted",
    "device": "A device that was not there before",
}
WIDTH, HEIGHT, EDGE = 640, 120, 4
DEVICE_DAYS = 30


@dataclass(frozen=True)
class Plot:
    """A line over days, as points of a picture `WIDTH` x `HEIGHT`.

    Attributes
    ----------
    lines
        Points of each unbroken stretch, as SVG has them.
    marks
        Heights of dashed lines, each with what it means.
    top
        The value at the upper edge.
    """

    title: str
    said: str
    lines: list[str]
    marks: list[tuple[float, str]]
    top: str


def _plot(
    title: str, values: Sequence[float | None], marks: Sequence[tuple[float, str]], *, share: bool
) -> Plot | None:
    """Return the plot of a value a day; None where no day has one."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    top = max([*known, *(mark for mark, _ in marks), 1e-9]) * 1.1
    form = "{:.0%}" if share else "{:.2g}"

    def height(value: float) -> float:
        return round(HEIGHT - EDGE - value / top * (HEIGHT - 2 * EDGE), 1)

    lines: list[list[tuple[float, float]]] = [[]]
    for n, value in enumerate(values):
        if value is None:
            lines.append([])
        else:
            place = n / (len(values) - 1) if len(values) > 1 else 0.5
            lines[-1].append((round(EDGE + place * (WIDTH - 2 * EDGE), 1), height(value)))
    drawn = [" ".join(f"{x},{y}" for x, y in _stroke(points)) for points in lines if points]
    said = f"{title}: {form.format(known[-1])} on the last day"
    return Plot(title, said, drawn, [(height(mark), words) for mark, words in marks], form.format(top))


def _stroke(points: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    """Return the points of a line; a day by itself is a short one, that it be seen."""
    if len(points) > 1:
        return points
    [(x, y)] = points
    return [(x - 4, y), (x + 4, y)]


def _plots(days: Sequence[drift.Watched], baseline: drift_statistics.Counts | None) -> list[Plot]:
    plots = []
    for rate in RATES:
        shares = [k / n if n else None for k, n in (day.counts.of(rate) for day in days)]
        marks = [(expected(baseline, rate), "acceptance window")] if baseline else []
        plots.append(_plot(f"{RATE_WORDS[rate]}, share a day", shares, marks, share=True))
    distances = [median_distance(day.counts.distances) for day in days]
    usual = median_distance(baseline.distances) if baseline else None
    marks = [(usual, "acceptance window")] if usual is not None else []
    plots.append(_plot("Distance to the training data, median a day", distances, marks, share=False))
    if baseline:
        worst = [max(day.sums.values()) if day.sums else None for day in days]
        plots.append(_plot("Cumulative sum, the largest", worst, [(LIMIT, "alarm")], share=False))
        shifts = [day.shift for day in days]
        plots.append(_plot("Shift of the scores (PSI)", shifts, [(PSI_LIMIT, "alarm")], share=False))
    return [plot for plot in plots if plot is not None]


@monitoring_pages.get("")
@needs(Permission.ADMINISTER)
def show() -> str:
    """Show whether what the bundle says of the site's images is still as it was accepted."""
    site_id = identity().site_id
    since = datetime.now(UTC).date() - timedelta(days=DEVICE_DAYS)
    with session_scope() as session:
        baseline = drift.latest_baseline(session, site_id)
        if baseline is None:
            return render_template("operations/monitoring.html", baseline=None)
        days = drift.watched_days(session, baseline)
        frozen = drift_statistics.Counts(**baseline.counts) if baseline.frozen_on else None
        taken = drift_statistics.total(day.counts for day in days)
        return render_template(
            "operations/monitoring.html",
            baseline=baseline,
            frozen=frozen,
            taken=taken,
            needed=(drift_statistics.WINDOW_IMAGES, drift_statistics.WINDOW_DAYS),
            plots=_plots(days, frozen),
            days=days[-14:],
            rates=RATE_WORDS,
            devices=drift.by_device(session, baseline, since),
            regions=drift.by_region(session, baseline, since),
            part_limit=drift_statistics.part_limit(drift.parts_of(baseline)),
            part_needed=(drift_statistics.PART_IMAGES, drift_statistics.WINDOW_DAYS),
            part_words=drift.part_words(session, site_id),
            median_distance=median_distance,
            weeks=drift.weeks(session, site_id, baseline.bundle),
            alarms=drift.alarms(session, site_id),
            signals=SIGNAL_WORDS,
            size=(WIDTH, HEIGHT),
        )


@monitoring_pages.post("/restart")
@needs(Permission.ADMINISTER)
@form_on("monitoring.show")
def restart() -> Response:
    """Take what comes from tomorrow on as the acceptance window."""
    with session_scope() as session:
        drift.restart(session, identity().site_id, by=identity().user_id)
    return redirect(url_for("monitoring.show"), 303)

"""The evaluation report: every figure and plot of a bundle on a dataset, in one HTML file."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from io import BytesIO
from typing import Any

import cv2
import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from pipeline.explain import overlay_jpeg
from pipeline.metrics import BoolArray, FloatArray
from pipeline.preprocess import display_pixels
from pipeline.types import UInt8Array
from training.evaluate import Reading

mpl.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
_INK = "#17456b"
_WORST = 12
_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:1100px;margin:2rem auto;padding:0 1rem;color:#1a2530}
div.wide{overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:13px}
th,td{padding:.3rem .6rem;border-bottom:1px solid #d5dde5;text-align:left}
.plots,.worst{display:flex;flex-wrap:wrap;gap:1rem}.plots img{max-width:320px}
figure{margin:0;width:200px}figure img{width:200px}figcaption{font-size:12px}
"""
_COLUMNS = (
    "auc", "average_precision", "loss", "ece", "accuracy", "precision", "recall", "f1", "kappa",
    "sensitivity_at_low", "specificity_at_low", "sensitivity_at_high", "specificity_at_high",
)  # fmt: skip


def report_page(
    figures: Mapping[str, Any], readings: Sequence[Reading], pixels: Mapping[str, UInt8Array]
) -> str:
    """Return the report as HTML that needs no other file.

    Parameters
    ----------
    figures
        Of `training.evaluate.evaluate`.
    pixels
        Example name to picture, for the page of the worst errors.
    """
    read = [r for r in readings if r.probability is not None]
    p = np.array([r.probability for r in read], np.float64)
    y = np.array([r.example.positive for r in read])
    bundle, attention = figures["bundle"], figures["attention"]
    name = escape(bundle["name"])
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{name}: evaluation</title>",
        f"<style>{_STYLE}</style><h1>{name}</h1>",
        f"<p>Bundle {bundle['sha256'][:16]}; {figures['images']} images, {figures['fitted_on_overlap']} of "
        "them used in fitting. Intervals: 95%, bootstrap over groups. Probabilities are calibrated; "
        "accuracy, precision, recall, F1 and kappa are cut at 0.5.</p>",
        _table({"routing": figures["routing"]}, tuple(figures["routing"])),
        "<h2>Fractures</h2>",
        _table(
            {"overall": figures["overall"], **figures["regions"], **figures["subgroups"]},
            ("images", "positives", *_COLUMNS),
        ),
        f"<h2>Attention</h2><p>Pointing game on {attention['images']:.0f} fractured images: the map's peak "
        f"lies in the outline in {attention['peak_in_fracture']:.1%} (chance {attention['chance']:.1%}), in "
        f"its box in {attention['peak_in_box']:.1%} (chance {attention['chance_box']:.1%}). Best attention "
        f"region against box: mean IoU {attention['iou']:.2f}.</p>",
    ]
    if y.any() and not y.all():
        plots = (_roc(p, y), _precision_recall(p, y), _reliability(p, y), _confusion(p, y), _histogram(p, y))
        parts += [
            "<h2>Plots</h2><div class=plots>",
            *map(_image, plots),
            "</div>",
            _worst(read, p, y, pixels),
        ]
    return "\n".join(parts)


def _table(rows: Mapping[str, Mapping[str, Any]], columns: Sequence[str]) -> str:
    head = "".join(f"<th>{escape(c.replace('_', ' '))}</th>" for c in columns)
    body = "".join(
        f"<tr><th>{escape(name)}</th>" + "".join(f"<td>{_cell(row.get(c))}</td>" for c in columns) + "</tr>"
        for name, row in rows.items()
    )
    return f"<div class=wide><table><tr><th></th>{head}</tr>{body}</table></div>"


def _cell(figure: Any) -> str:
    if not isinstance(figure, Mapping):
        return "" if figure is None else str(figure)
    if figure["value"] is None:
        return "none"
    if float(figure["value"]).is_integer() and figure["value"] > 1:
        return f"{figure['value']:.0f}"
    interval = figure["interval"]
    shown = f"<br>{interval[0]:.3f}&ndash;{interval[1]:.3f}" if interval else ""
    return f"{figure['value']:.3f}<small>{shown}</small>"


def _axes(title: str, x: str, y: str) -> tuple[Figure, Any]:
    figure = Figure(figsize=(3.4, 3.2), layout="constrained")
    axes = figure.add_subplot()
    axes.set(title=title, xlabel=x, ylabel=y)
    return figure, axes


def _ranked(p: FloatArray, y: BoolArray) -> tuple[FloatArray, FloatArray]:
    """Return true and false positives above each distinct probability."""
    order = np.argsort(-p, kind="stable")
    last = np.append(np.diff(p[order]) != 0, True)
    return np.cumsum(y[order])[last].astype(float), np.cumsum(~y[order])[last].astype(float)


def _roc(p: FloatArray, y: BoolArray) -> Figure:
    figure, axes = _axes("ROC", "1 - specificity", "sensitivity")
    tp, fp = _ranked(p, y)
    axes.plot(np.append(0, fp / fp[-1]), np.append(0, tp / tp[-1]), color=_INK)
    axes.plot([0, 1], [0, 1], ":", color="grey")
    return figure


def _precision_recall(p: FloatArray, y: BoolArray) -> Figure:
    figure, axes = _axes("Precision and recall", "recall", "precision")
    tp, fp = _ranked(p, y)
    axes.step(tp / tp[-1], tp / (tp + fp), where="pre", color=_INK)
    axes.axhline(y.mean(), linestyle=":", color="grey")
    axes.set_ylim(0, 1.02)
    return figure


def _reliability(p: FloatArray, y: BoolArray) -> Figure:
    figure, axes = _axes("Reliability", "stated probability", "share fractured")
    place = np.minimum((p * 10).astype(int), 9)
    bins = np.unique(place)
    axes.plot([0, 1], [0, 1], ":", color="grey")
    axes.plot([p[place == b].mean() for b in bins], [y[place == b].mean() for b in bins], "o-", color=_INK)
    return figure


def _confusion(p: FloatArray, y: BoolArray) -> Figure:
    figure, axes = _axes("Confusion at 0.5", "said", "is")
    said = p >= 0.5
    counts = np.array([[(~said & ~y).sum(), (said & ~y).sum()], [(~said & y).sum(), (said & y).sum()]])
    axes.imshow(counts, cmap="Blues", norm="log", vmin=1)
    words = ("normal", "fractured")
    axes.set_xticks([0, 1], words)
    axes.set_yticks([0, 1], words)
    for (i, j), count in np.ndenumerate(counts):
        axes.text(j, i, str(count), ha="center", va="center", color="#c0392b", fontweight="bold")
    return figure


def _histogram(p: FloatArray, y: BoolArray) -> Figure:
    figure, axes = _axes("Probabilities", "calibrated probability", "images")
    colours, words = ["#9fb8cc", _INK], ["normal", "fractured"]
    axes.hist([p[~y], p[y]], bins=20, range=(0, 1), stacked=True, color=colours, label=words)
    axes.set_yscale("log")
    axes.legend(frameon=False)
    return figure


def _image(figure: Figure) -> str:
    buffer = BytesIO()
    figure.savefig(buffer, format="svg")
    return f'<img alt="" src="data:image/svg+xml;base64,{base64.b64encode(buffer.getvalue()).decode()}">'


def _worst(readings: Sequence[Reading], p: FloatArray, y: BoolArray, pixels: Mapping[str, UInt8Array]) -> str:
    """Show the fractures that were believed least and the normal images believed most."""
    sections = []
    for title, wanted, order in (("Missed fractures", y, p), ("False alarms", ~y, -p)):
        cards = []
        for i in [i for i in np.argsort(order, kind="stable") if wanted[i]][:_WORST]:
            reading = readings[i]
            shown = display_pixels(pixels[reading.example.name], 240)
            jpeg = (
                overlay_jpeg(shown, reading.cam)
                if reading.cam is not None
                else cv2.imencode(".jpg", shown)[1].tobytes()
            )
            caption = f"{reading.example.name}, {reading.route.region}: {p[i]:.3f}"
            data = base64.b64encode(jpeg).decode()
            cards.append(
                f'<figure><img alt="" src="data:image/jpeg;base64,{data}">'
                f"<figcaption>{escape(caption)}</figcaption></figure>"
            )
        sections.append(f"<h2>{title}</h2><div class=worst>{''.join(cards)}</div>")
    return "".join(sections)

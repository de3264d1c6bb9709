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
from training.attention import BY_CHANCE
from training.readings import Reading

mpl.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
_INK = "#17456b"
_WORST = 12
_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:1500px;margin:2rem auto;padding:0 1rem;color:#1a2530}
div.wide{overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:13px}
th,td{padding:.3rem .6rem;border-bottom:1px solid #d5dde5;text-align:left}
small{white-space:nowrap}
.plots,.worst{display:flex;flex-wrap:wrap;gap:1rem}.plots img{max-width:320px}
figure{margin:0;width:200px}figure img{width:200px}figcaption{font-size:12px}
"""
_COLUMNS = (
    "auc", "average_precision", "loss", "ece", "accuracy", "precision", "recall", "f1", "kappa",
    "sensitivity_at_low", "specificity_at_low", "ppv_at_low", "npv_at_low",
    "sensitivity_at_high", "specificity_at_high", "ppv_at_high", "npv_at_high",
)  # fmt: skip
_ATTENTION = {
    "peak_in_fracture": "the map's peak lies in a fracture's outline",
    "peak_in_box": "it lies in its box",
    "iou": "overlap (IoU) of the best attention region with a box",
}


def report_page(
    figures: Mapping[str, Any],
    readings: Sequence[Reading],
    pixels: Mapping[str, UInt8Array],
    curves: Mapping[str, Mapping[str, Sequence[float]]] | None = None,
) -> str:
    """Return the report as HTML that needs no other file.

    Parameters
    ----------
    figures
        Of `training.figures.figures_of`.
    pixels
        Example name to picture, for the page of the worst errors.
    curves
        Network to loss by epoch, as a bundle's manifest keeps them.
    """
    read = [r for r in readings if r.probability is not None]
    p = np.array([r.probability for r in read], np.float64)
    y = np.array([r.example.positive for r in read], bool)
    bundle, word = figures["bundle"], figures["label_meaning"]
    name = escape(bundle["name"])
    rows = {"overall": figures["overall"], **figures["regions"], **figures["subgroups"]}
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{name}: evaluation</title>",
        f"<style>{_STYLE}</style><h1>{name}</h1>",
        f"<p>Bundle {bundle['sha256'][:16]}; {figures['images']} images, {figures['fitted_on_overlap']} of "
        f"them used in fitting, {figures['fitted_on_alike']} more look like one of those. "
        "Intervals: 95%, bootstrap over "
        f"{'patients' if figures['patients_known'] else 'groups of near-duplicates'}. Probabilities are "
        "calibrated; accuracy, precision, recall, F1 and kappa are cut at 0.5; PPV and NPV are those of a "
        f"site where {figures['prevalence']:.1%} are {escape(word)}.</p>",
        *_other_meaning(bundle["label_meaning"], word),
        "<h2>Routing</h2>",
        _table({"all images": figures["routing"]}, tuple(figures["routing"])),
        "<h2>By image</h2>",
        _table(rows, ("images", "positives", *_COLUMNS)),
        *_studies(figures["studies"]),
        *_attention(figures["attention"]),
    ]
    if y.any() and not y.all():
        plots = (_roc(p, y), _precision_recall(p, y), _reliability(p, y), _confusion(p, y), _histogram(p, y))
        parts += [
            "<h2>Plots</h2><div class=plots>",
            *map(_image, plots),
            "</div>",
            _worst(read, p, y, pixels),
        ]
    if curves:
        parts += [
            "<h2>Training</h2><div class=plots>",
            *(_image(_curve(*item)) for item in curves.items()),
            "</div>",
        ]
    return "\n".join(parts)


def _other_meaning(bundles: str, datas: str) -> list[str]:
    if bundles == datas:
        return []
    return [
        f"<p><strong>The bundle's positive means {escape(bundles)}, the data set's {escape(datas)}</strong>: "
        "the figures say how well the one stands for the other.</p>"
    ]


def _studies(studies: Mapping[str, Any] | None) -> list[str]:
    if not studies:
        return []
    rows = {rule: part for rule, part in studies.items() if rule != "studies"}
    return [
        f"<h2>By study</h2><p>{studies['studies']} studies, read by their worst image (the clinical rule) "
        "and by the mean of their images (the rule of MURA).</p>",
        _table(rows, ("images", "positives", *_COLUMNS)),
    ]


def _attention(attention: Mapping[str, Any]) -> list[str]:
    if not attention["images"]:
        return []
    rows = "".join(
        f"<tr><th>{words}</th><td>{_cell(attention[key])}</td><td>{attention[BY_CHANCE[key]]['value']:.3f}</td></tr>"
        for key, words in _ATTENTION.items()
    )
    return [
        f"<h2>Attention</h2><p>On {attention['images']} images with outlined fractures (pointing game).</p>",
        f"<table><tr><th></th><th>measured</th><th>by chance</th></tr>{rows}</table>",
    ]


def _curve(name: str, losses: Mapping[str, Sequence[float]]) -> Figure:
    figure, axes = _axes(f"{name}: loss", "epoch", "loss")
    for word, values in losses.items():
        axes.plot(range(1, len(values) + 1), values, "o-", markersize=3, label=word)
    axes.legend(frameon=False)
    return figure


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
    figure, axes = _axes("Reliability", "stated probability", "share positive")
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
    words = ("negative", "positive")
    axes.set_xticks([0, 1], words)
    axes.set_yticks([0, 1], words)
    for (i, j), count in np.ndenumerate(counts):
        axes.text(j, i, str(count), ha="center", va="center", color="#c0392b", fontweight="bold")
    return figure


def _histogram(p: FloatArray, y: BoolArray) -> Figure:
    figure, axes = _axes("Probabilities", "calibrated probability", "images")
    colours, words = ["#9fb8cc", _INK], ["negative", "positive"]
    axes.hist([p[~y], p[y]], bins=20, range=(0, 1), stacked=True, color=colours, label=words)
    axes.set_yscale("log")
    axes.legend(frameon=False)
    return figure


def _image(figure: Figure) -> str:
    buffer = BytesIO()
    figure.savefig(buffer, format="svg")
    return f'<img alt="" src="data:image/svg+xml;base64,{base64.b64encode(buffer.getvalue()).decode()}">'


def _worst(readings: Sequence[Reading], p: FloatArray, y: BoolArray, pixels: Mapping[str, UInt8Array]) -> str:
    """Show the positives that were believed least and the negatives believed most."""
    sections = []
    for title, wanted, order in (("Missed", y, p), ("False alarms", ~y, -p)):
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

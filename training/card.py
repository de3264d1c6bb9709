"""The model card and the sentences of a bundle's limits, written from measured figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from models.bundle import Bundle
from pipeline.earned import OWN_FRACTURES, OWN_LOWER, wilson
from pipeline.types import RegionModel
from training.attention import BY_CHANCE
from training.datasets import CACHE_SIDE, Dataset, Example
from training.experiment import Experiment


def limits(
    experiment: Experiment, dataset: Dataset, fractures: Mapping[str, int], images: int
) -> tuple[str, ...]:
    """Return the sentences that every report prints.

    Parameters
    ----------
    fractures
        Validation positives of each region.
    images
        Trained on.
    """
    few = [region for region, count in fractures.items() if count < 50]
    shared = [r for r, n in experiment.readers.items() if list(experiment.readers.values()).count(n) > 1]
    sentences = [
        "Not a medical device; research use. Not validated in children.",
        f"Trained on {images:,} images of one collection ({dataset.name}).",
        *dataset.cautions,
        "A body part that it does not know can be mistaken for one that it does.",
    ]
    if few:
        sentences.append(
            f"Fewer than 50 positives to set thresholds by for {_listed(few)}: thresholds of all regions "
            f"together."
        )
    if shared:
        sentences.append(f"One network reads {_listed(shared)}.")
    return tuple(sentences)


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def card(
    experiment: Experiment,
    dataset: Dataset,
    parts: Mapping[str, Sequence[Example]],
    bundle: Bundle,
    fractures: Mapping[str, int],
    figures: Mapping[str, Any],
    command: str,
) -> str:
    """Return the model card as Markdown."""
    phantoms, word = figures["phantoms"], bundle.label_meaning
    lines = [
        f"# Model card: {bundle.name}",
        "",
        "## Intended use",
        "To sort radiographs of the " + _listed(sorted(experiment.readers)) + " for a clinician's reading. A "
        f"positive means **{bundle.label_meaning}**. Not a medical device; every output is to be verified.",
        "",
        "## Networks",
        "| network | architecture | input | reads |",
        "|---|---|---|---|",
    ]
    for name, network in bundle.networks.items():
        reads = [r for r, m in bundle.models.items() if m.network == name]
        role = _listed(reads) if reads else "tells the region"
        lines.append(f"| {name} | {network.architecture} | {network.input_size} px | {role} |")
    lines += [
        "",
        f"{_starts(experiment)} {_targets(parts)} The attention map is HiResCAM (gradient "
        "times activation) on "
        "the joined map at stride 16.",
        "",
        "## Data",
        f"{dataset.name}{f' ({dataset.source})' if dataset.source else ''}, "
        f"long side at most {CACHE_SIDE} px: {len(dataset.examples)} images; left out: "
        + (", ".join(f"{count} {why}" for why, count in dataset.skipped.items()) or "none")
        + ". "
        + (
            "Images of one patient and look-alikes (perceptual hash) stay on one side of the split."
            if any(e.patient for e in dataset.examples)
            else "No patient numbers are published: groups of near-duplicates (perceptual hash) stay "
            "on one side "
            "of the split, but two dissimilar images of one patient may not."
        ),
        "",
        f"| part | images | {word} | " + " | ".join(sorted(experiment.readers)) + " |",
        "|---|---|---|" + "---|" * len(experiment.readers),
    ]
    for name, part in parts.items():
        of = Counter(region for e in part for region in e.regions)
        broken = Counter(region for e in part if e.positive for region in e.regions)
        cells = " | ".join(f"{of[r]} ({broken[r]} {word})" for r in sorted(experiment.readers))
        lines.append(f"| {name} | {len(part)} | {sum(e.positive for e in part)} | {cells} |")
    lines += [
        "",
        *_phantoms(experiment),
        "## Figures on the test part (never trained or calibrated on)",
        f"`{command}`; intervals: 95%, bootstrap over groups.",
        "",
        *_table(figures, word),
        "",
        f"Region accuracy {_shown(figures['routing']['region_accuracy'])}, on images of one region "
        f"{_shown(figures['routing']['region_accuracy_one_region'])}; not assessable "
        f"{_shown(figures['routing']['not_assessable'])}.",
        "",
        *_attention(figures["attention"]),
        "Held-out phantoms not assessable: "
        + ", ".join(f"{region} {part['not_assessable']:.0%}" for region, part in phantoms.items())
        + ".",
        "",
        "## Calibration and thresholds",
        "Platt scaling and both operating points (sensitivity 0.95, specificity 0.90) are fitted on "
        "validation. "
        f"Validation images that are {word}: "
        + ", ".join(f"{region} {count}" for region, count in fractures.items())
        + ". Below 50, the thresholds are those of all regions together.",
        "",
        "| region | low | high | prevalence at fitting |",
        "|---|---|---|---|",
        *(
            f"| {r} | {m.thresholds.low:.3f} | {m.thresholds.high:.3f} | {m.calibration.prevalence:.3f} |"
            for r, m in bundle.models.items()
        ),
        "",
        "## Which region may say negative",
        f"Below the low threshold a region says negative only where at least {OWN_FRACTURES} test images "
        f"that are {word} show it: the 95% interval of sensitivity begins at {OWN_LOWER:.2f} or more. "
        "Elsewhere such an image is in doubt, until a site has validated the region on its own images.",
        "",
        f"| region | test images {word} | found at low | sensitivity | may say negative |",
        "|---|---|---|---|---|",
        *(_may_be_negative(m) for m in bundle.models.values()),
        "",
        "## Shortcuts and limits",
        *([dataset.shortcuts, ""] if dataset.shortcuts else []),
        *(f"- {sentence}" for sentence in limits(experiment, dataset, fractures, len(parts["train"]))),
    ]
    if experiment.tried:
        lines += ["", "## Tried", *(f"- {sentence}" for sentence in experiment.tried)]
    return "\n".join(lines) + "\n"


def _may_be_negative(model: RegionModel) -> str:
    said = "yes" if model.may_say_negative else "no"
    if (e := model.evidence) is None or not e.fractures:
        return f"| {model.region} | 0 | 0 | unknown | {said} |"
    low, high = wilson(e.found, e.fractures)
    share = e.found / e.fractures
    return f"| {model.region} | {e.fractures} | {e.found} | {share:.3f} ({low:.3f}-{high:.3f}) | {said} |"


def _starts(experiment: Experiment) -> str:
    plans = [plan for plan in (experiment.region, *experiment.fracture) if not plan.start_from]
    pretrained = [plan.name for plan in plans if plan.weights]
    if len(pretrained) == len(plans):
        return "Each started from ImageNet weights."
    if not pretrained:
        return "Each started from random weights."
    return f"{_listed(pretrained)} started from ImageNet weights, the others from random ones."


def _targets(parts: Mapping[str, Sequence[Example]]) -> str:
    if any(e.polygons for e in parts["train"]):
        return "The outlines of fractures were a second target, cell by cell."
    return "Trained on labels alone: the data have no outlines."


def _phantoms(experiment: Experiment) -> list[str]:
    if not experiment.phantoms:
        return []
    share = experiment.fracture[0].phantom_share
    lines = [
        f"Synthetic phantoms ({experiment.phantoms} a region, `phantoms/`) are "
        f"{share:.0%} of what the "
        f"fracture networks and {experiment.region.phantom_share:.0%} of what the region "
        "network was shown, so "
        "that the sample images of the demonstration are read. No such phantom is in any "
        "figure of merit below."
    ]
    if experiment.unknown:
        lines[0] += (
            f" Phantoms of the {_listed(list(experiment.unknown))} taught the region network its "
            "answer *other*: "
            "nothing shows that real images of it are turned away."
        )
    return [*lines, ""]


def _attention(attention: Mapping[str, Any]) -> list[str]:
    if not attention["images"]:
        return []
    return [
        f"Attention: on {attention['images']} images with outlined fractures the map peaks "
        "inside an outline in "
        f"{_against(attention, 'peak_in_fracture')}, inside its box in {_against(attention, 'peak_in_box')}; "
        f"mean overlap (IoU) of the best attention region with a box {_against(attention, 'iou')}.",
        "",
    ]


def _against(attention: Mapping[str, Any], key: str) -> str:
    return f"{_shown(attention[key])}, by chance {attention[BY_CHANCE[key]]['value']:.3f}"


_COLUMNS = {
    "auc": "AUC",
    "average_precision": "AP",
    "accuracy": "accuracy",
    "f1": "F1",
    "ece": "ECE",
    "sensitivity_at_low": "sensitivity at low",
    "specificity_at_high": "specificity at high",
}


def _table(figures: Mapping[str, Any], word: str) -> list[str]:
    rows = {"all": figures["overall"], **figures["regions"], **figures["subgroups"]}
    lines = [
        f"| images of | n ({word}) | " + " | ".join(_COLUMNS.values()) + " |",
        "|---|---|" + "---|" * len(_COLUMNS),
    ]
    for name, part in rows.items():
        if "auc" not in part:
            lines.append(f"| {name} | {part['images']} ({part['positives']}) |" + " |" * len(_COLUMNS))
            continue
        count = f"{part['images']['value']:.0f} ({part['positives']['value']:.0f})"
        lines.append(f"| {name} | {count} | " + " | ".join(_shown(part[key]) for key in _COLUMNS) + " |")
    return lines


def _shown(figure: Mapping[str, Any]) -> str:
    if figure["value"] is None:
        return "none"
    interval = figure["interval"]
    return f"{figure['value']:.3f}" + (f" ({interval[0]:.3f}-{interval[1]:.3f})" if interval else "")

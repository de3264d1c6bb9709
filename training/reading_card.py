"""The card of a bundle around a reading network, and the sentences that its reports print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from models.bundle import Network
from pipeline.types import RegionModel
from training.export import TrainedNetwork

_COLUMNS = (
    ("auc", "AUC"),
    ("sensitivity_at_low", "sensitivity at low"),
    ("specificity_at_low", "specificity at low"),
    ("sensitivity_at_high", "sensitivity at high"),
    ("specificity_at_high", "specificity at high"),
    ("between_the_thresholds", "between"),
)


def limits(models: Mapping[str, RegionModel], alone: Sequence[str]) -> tuple[str, ...]:
    """Return the sentences that every report prints."""
    silent = sorted(part.replace("_", " ") for part, m in models.items() if not m.may_say_negative)
    sentences = [
        "Not a medical device; research use. Not validated in children.",
        "Trained on one public collection (FracAtlas) without patient numbers, ages or acquisition data.",
        "Implants, casts and large scans make a positive likelier, whether or not there is a fracture.",
    ]
    if silent:
        sentences.append(
            f"Too few fractures to say negative of: {', '.join(silent)}. These answer positive or doubt."
        )
    return tuple(sentences)


def card(
    name: str,
    networks: Mapping[str, TrainedNetwork | Network],
    models: Mapping[str, RegionModel],
    facts: Mapping[str, Any],
    command: str,
) -> str:
    """Return the model card as Markdown."""
    figures = facts["figures"]
    lines = [
        f"# Model card: {name}",
        "",
        "## Intended use",
        "To sort radiographs of arm and leg, hip and shoulder for a clinician's reading. A positive means "
        "**fractured**. Not a medical device; every output is to be verified.",
        "",
        "## Networks",
        "| network | architecture | input | reads |",
        "|---|---|---|---|",
    ]
    for title, network in networks.items():
        if isinstance(network, Network) and network.head is not None:
            continue
        names = {title, *_heads(network, networks)}
        reads = ", ".join(part for part, m in models.items() if m.network in names) or "no fracture"
        also = "the part, anything else; " if title == next(iter(networks)) else ""
        lines.append(f"| {title} | {network.architecture} | {network.input_size} px | {also}{reads} |")
    if facts["joined"]:
        pairs = ", ".join(f"{network} with {partner}" for network, partner in facts["joined"].items())
        lines += [
            "",
            f"Two networks read each fracture, and a weighted mean of their logits counts, each scaled to "
            f"deviate equally over validation: {pairs}.",
        ]
    lines += [
        "",
        *(
            [
                "`efficientnet_b1_relu6` is EfficientNetB1 with ReLU6 in place of swish, BatchNorm folded, "
                "started from EfficientNet-Lite1's ImageNet weights (Apache-2.0)."
            ]
            if any(_heads(n, networks) for n in networks.values())
            else [
                "The network that tells the part is the region network of an older bundle with a new head, "
                "fitted to its features (`training.part_probe`): its trunk has not seen the pictures to "
                "refuse. The fracture networks are that bundle's."
            ]
        ),
        "",
        "## Data",
        "FracAtlas (Abedeen et al. 2023, doi 10.1038/s41597-023-02432-4, CC BY 4.0), long side at most 448 "
        "px: "
        + ", ".join(f"{part} {count}" for part, count in facts["split"].items())
        + " films. Groups of near-duplicates stay on one side of the split; no patient numbers are "
        "published. Which parts a film shows was read twice by eye from thumbnails, by no radiologist.",
        "",
        "## Figures",
        f"`{command}`",
        "",
        "Weights were fitted on the training part alone. Calibration and thresholds are fitted on validation "
        "and test; each figure below is cross-fitted: what stands for the test part rests on validation; of "
        "both together each tenth rests on the other nine. Intervals: 95%, bootstrap over groups.",
        "",
    ]
    for which in ("test", "validation and test, cross-fitted"):
        lines += [f"### Fractures: {which}", "", *figures_table(figures[which]), ""]
    overall = figures["test"]["overall"]
    lines += [
        f"Within parts (pairs of films of the same part), test: AUC {shown(overall['auc_within'])}. "
        f"Expected calibration error {shown(overall['ece'])}.",
        "",
        "### Which part may say negative",
        "",
        "*In doubt* counts films below low of a part that may not say negative, too. All parts: "
        f"{figures['doubt']['all']:.2f}.",
        "",
        "| part | held-out fractures | found at low | lower bound | family's | may say negative | in doubt |",
        "|---|---|---|---|---|---|---|",
    ]
    for part, model in models.items():
        if (e := model.evidence) is not None:
            family = "none" if e.family_lower is None else f"{e.family_lower:.2f}"
            yes = "yes" if model.may_say_negative else "no"
            lines.append(
                f"| {part} | {e.fractures} | {e.found} | {e.lower:.2f} | {family} | {yes} | "
                f"{figures['doubt'].get(part, 0):.2f} |"
            )
    parts = figures["parts"]
    lines += [
        "",
        "### Parts and refusals, test",
        "",
        f"Part right {parts['part_right']:.3f} of {parts['films_agreed']} films on which both readers agree; "
        f"family right {parts['family_right']:.3f}; limbs refused {parts['limbs_refused']:.3f} of "
        f"{parts['limbs']}.",
        "",
        "Pictures that must be refused (held out by patient or picture, of the same sources as in training; "
        "other sources may fare worse):",
        "",
        "| kind | pictures | refused |",
        "|---|---|---|",
        *(
            f"| {kind} | {row['pictures']} | {row['refused']:.3f} |"
            for kind, row in figures["refused"].items()
        ),
        "",
        "Validation pictures, changed:",
        "",
        "| style | part right | family right | limbs refused | others refused |",
        "|---|---|---|---|---|",
        *(
            f"| {style} | {row['part_right']:.3f} | {row['family_right']:.3f} | {row['limbs_refused']:.3f} | "
            f"{row['refused']:.3f} |"
            for style, row in figures["styles"].items()
        ),
        "",
        "### Suspected places, test",
        "",
        *(f"- {key}: {_number(value)}" for key, value in figures["places"].items()),
        "",
        "### Held-out phantoms",
        "",
        *(
            f"- {kind}: {', '.join(f'{count} {state}' for state, count in row.items())}"
            for kind, row in figures["phantoms"].items()
        ),
        "",
    ]
    return "\n".join(lines)


def _heads(
    network: TrainedNetwork | Network, networks: Mapping[str, TrainedNetwork | Network]
) -> tuple[str, ...]:
    """Return the names of the fracture heads that share a network's file."""
    if isinstance(network, TrainedNetwork):
        return network.heads
    others = [n for n in networks.values() if isinstance(n, Network)]
    return tuple(n.name for n in others if n.head is not None and n.sha256 == network.sha256)


def figures_table(figures: Mapping[str, Any]) -> list[str]:
    """Return figures by part as the lines of a Markdown table."""
    lines = [
        "| part | films | fractured | " + " | ".join(title for _, title in _COLUMNS) + " |",
        "|---|---|---|" + "---|" * len(_COLUMNS),
    ]
    for part, row in figures.items():
        cells = " | ".join(shown(row[key]) if key in row else "" for key, _ in _COLUMNS)
        lines.append(f"| {part} | {row['images']} | {row['fractured']} | {cells} |")
    return lines


def _number(figure: Any) -> str:
    return shown(figure) if isinstance(figure, Mapping) else f"{figure:.3g}"


def shown(figure: Mapping[str, Any]) -> str:
    """Return a figure with its interval."""
    if figure["value"] is None:
        return "none"
    interval = figure["interval"]
    return f"{figure['value']:.3f}" + (f" ({interval[0]:.3f}-{interval[1]:.3f})" if interval else "")

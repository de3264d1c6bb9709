"""Measure a bundle on labelled radiographs, image by image, as the service would read them.

python -m training.evaluate models/bundles/NAME ../shared/data/fracatlas --split training/splits/fracatlas.csv
"""  # fmt: skip

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from models.bundle import load_bundle
from models.scorer import open_scorer
from pipeline import evaluation
from training.datasets import (
    AUTO,
    FORMATS,
    Dataset,
    DatasetError,
    Example,
    hashed,
    load_pixels,
    open_dataset,
    read_split,
)
from training.figures import by_part, figures_of, summary
from training.readings import read_all
from training.rescore import records
from training.rescore import summary as studies_summary


def chosen_part(dataset: Dataset, split: Path | None, part: str | None) -> tuple[Example, ...]:
    """Return the examples to measure: a part of a split file, a part as published, or all.

    Raises
    ------
    DatasetError
        There is no such part.
    """
    if split is None and part is None:
        return dataset.examples
    parts = read_split(split, dataset.examples) if split else {}
    if not parts:
        for name in sorted({e.part for e in dataset.examples}):
            parts[name] = tuple(e for e in dataset.examples if e.part == name)
    found = parts.get(part or "test")
    if not found:
        there = ", ".join(filter(None, parts)) or "none"
        raise DatasetError(f"there is no part {part or 'test'!r}; name one with --part (there are: {there})")
    return found


def _measure_studies(args: argparse.Namespace) -> None:
    figures = evaluation.evaluate(
        records(
            open_scorer(load_bundle(args.bundle), backend=args.backend),
            open_dataset(args.dataset, args.format),
            args.part or "",
        )
    )
    print(studies_summary(figures))
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="fractureai evaluate", description="Measure a bundle on labelled radiographs."
    )
    parser.add_argument("bundle", type=Path, help="folder of the bundle")
    parser.add_argument("dataset", type=Path, help="folder of a data set, or a table of images")
    parser.add_argument("--format", default=AUTO, choices=(AUTO, *FORMATS), help="default: by its files")
    parser.add_argument("--split", type=Path, help="split file")
    parser.add_argument(
        "--part", help="part to measure: of the split (default: test), else as published (default: all)"
    )
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"), help="default: runs/cache")
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--markdown", type=Path, help="write the table of body parts here")
    parser.add_argument("--html", type=Path, help="write a page with all figures and plots here")
    parser.add_argument(
        "--prevalence",
        type=float,
        help="share of positives at the site that predictive values are stated for "
        "(default: that of the images measured)",
    )
    parser.add_argument(
        "--mirror", action="store_true", help="read every image mirrored too: the mean of both"
    )
    parser.add_argument("--backend", default="auto", choices=("auto", "tensorflow", "openvino"))
    parser.add_argument(
        "--studies",
        action="store_true",
        help="the figures of the server's runs: full-size decode, forced scores, MURA's rule by study; "
        "DATASET is of any format that is read, --part one of its own parts",
    )
    args = parser.parse_args(arguments)
    if args.studies:
        _measure_studies(args)
        return
    if args.prevalence is not None and not 0 < args.prevalence < 1:
        parser.error("--prevalence is a share between 0 and 1, such as 0.05")
    bundle, dataset = load_bundle(args.bundle), open_dataset(args.dataset, args.format)
    examples = hashed(chosen_part(dataset, args.split, args.part))
    if args.mirror:
        mirrored = {name: replace(n, mirrored=True) for name, n in bundle.networks.items()}
        bundle = replace(bundle, networks=mirrored)
    pixels = load_pixels(examples, args.cache)
    readings = read_all(open_scorer(bundle, backend=args.backend), examples, pixels)
    figures = figures_of(
        bundle, readings, pixels, prevalence=args.prevalence, label_meaning=dataset.label_meaning
    )
    print(summary(figures))
    if args.markdown:
        args.markdown.write_text(by_part(figures, bundle.label_meaning))
    if args.html:
        from training.report_page import report_page  # matplotlib is for this page alone

        by_name = {e.name: p for e, p in zip(examples, pixels, strict=True)}
        args.html.write_text(report_page(figures, readings, by_name, bundle.manifest.get("curves")))
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()

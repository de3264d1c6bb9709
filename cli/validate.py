"""`fractureai validate`: a bundle's sensitivity and specificity on a site's own images; unlock a negative."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.client import UsageProblem, client_command, open_client
from cli.output import open_console, print_rows

if TYPE_CHECKING:
    from training.validate import PartCounts, Validation

_FOLDER = click.Path(exists=True, path_type=Path)


def _share(of: int, total: int, interval: tuple[float, float] | None) -> str:
    if interval is None:
        return "-"
    return f"{of / total:.3f} ({interval[0]:.3f} to {interval[1]:.3f})"


def _verdict(part: PartCounts) -> str:
    if part.may_say_negative:
        return "yes, by the bundle"
    return "no; --unlock allows it" if part.earned else "no"


@click.command()
@click.argument("bundle", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("dataset", type=_FOLDER)
@click.option("--format", "dataset_format", default="auto", help="Of the data set.  [default: by its files]")
@click.option("--split", type=_FOLDER, help="Split file.")
@click.option("--part", help="Part to measure.  [default: test of a split, else all]")
@click.option("--cache", type=click.Path(path_type=Path), default=Path("runs/cache"), show_default=True)
@click.option("--unlock", multiple=True, metavar="REGION", help="Let it say negative here; may be repeated.")
@client_command
def validate(
    bundle: Path,
    dataset: Path,
    dataset_format: str,
    split: Path | None,
    part: str | None,
    cache: Path,
    unlock: tuple[str, ...],
) -> None:
    """Measure the bundle in folder BUNDLE on the labelled images of DATASET, body part by body part.

    A body part says negative only where enough known cases have shown that the bundle finds them: at least 30
    positive images, and a 95% interval of sensitivity that begins at 0.80 or more. With --unlock an
    administrator's key tells the server these figures, and the part says negative at that site from then on;
    the server checks them and keeps who did so.

    Images that the bundle was fitted on prove nothing: with any of them among DATASET, --unlock is refused.
    Images that look like one of those, saved again or in another size, are counted and left out.

    \b
    Examples:
      fractureai validate models/bundles/NAME our-hips.csv
      fractureai validate models/bundles/NAME our-hips.csv --unlock hip
    """  # noqa: D301 - \b is click's mark for "do not rewrap"
    from models.bundle import BundleError
    from models.scorer import ScorerError
    from training.datasets import DatasetError
    from training.validate import validate as measure

    try:
        found = measure(bundle, dataset, format=dataset_format, split=split, part=part, cache=cache)
    except (BundleError, DatasetError, ScorerError) as error:
        raise UsageProblem(str(error)) from error
    _print(found)
    if unlock:
        _unlock(found, dataset.name, unlock)


def _print(found: Validation) -> None:
    console = open_console()
    print_rows(
        console,
        ("part", "positive", "sensitivity at low", "negative", "specificity at low", "may say negative"),
        [
            (
                part.region,
                str(part.positives),
                _share(part.found, part.positives, part.sensitivity),
                str(part.negatives),
                _share(part.cleared, part.negatives, part.specificity),
                _verdict(part),
            )
            for part in found.parts.values()
        ],
    )
    console.print(
        f"{found.images} images; not assessed: {found.not_assessed}; the bundle was fitted on {found.seen}"
        f"; left out, as they look like one that it was fitted on: {found.alike}.",
        soft_wrap=True,
    )


def _unlock(found: Validation, dataset: str, regions: tuple[str, ...]) -> None:
    if unknown := sorted(set(regions) - set(found.parts)):
        raise UsageProblem(f"The bundle does not read {', '.join(unknown)}.")
    if found.seen:
        raise UsageProblem("The bundle was fitted on some of these images; validate it on others.")
    with open_client(patience=10.0) as client:
        for region in regions:
            part = found.parts[region]
            client.document(
                f"/bundles/{found.bundle.name}/negatives/{region}",
                method="PUT",
                body={
                    "sha256": found.bundle.sha256,
                    "dataset": dataset,
                    "positives": part.positives,
                    "found": part.found,
                    "negatives": part.negatives,
                    "cleared": part.cleared,
                },
            )
            click.echo(f"{region}: may say negative at this site from now on.")

"""`fractureai datasets scan` and `split`: look at a data set before training; split it so that none leaks."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.client import UsageProblem, client_command
from cli.output import count_bar, open_console, print_rows, shown

if TYPE_CHECKING:
    from training.datasets import Scan

_SHOWN = 5  # examples of each kind of finding; --json has them all


_PATH = click.argument("path", type=click.Path(exists=True, path_type=Path))
_FILE = click.Path(dir_okay=False, path_type=Path)
_FORMAT = click.option(
    "--format", "format_", default="auto", show_default=True, help="mura, fracatlas, phantoms, table, folder."
)
_MEANING = click.option("--meaning", default="", help="What a positive means, in a table or class folders.")
_JOBS = click.option("--jobs", type=int, help="Processes (default: one a processor).")


@contextmanager
def _dataset_errors() -> Iterator[None]:
    from training.datasets import DatasetError

    try:
        yield
    except DatasetError as error:
        raise UsageProblem(f"{error}.") from error


def _scanned(path: Path, format_: str, meaning: str, jobs: int | None) -> Scan:
    from training.datasets import open_dataset, scan

    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    cache = Path(os.environ.get("FRACTUREAI_CACHE_DIR") or Path(home) / "fractureai") / "scans"
    dataset = open_dataset(path, format_, meaning)
    with count_bar(open_console(as_json=True), "scan", len(dataset.examples)) as progress:
        return scan(dataset, jobs=jobs, cache=cache, on_progress=progress)


@click.command("scan")
@_PATH
@_FORMAT
@_MEANING
@_JOBS
@click.option(
    "--json", "out", type=click.Path(dir_okay=False, path_type=Path), help="Write all findings here."
)
@client_command
def scan_command(path: Path, format_: str, meaning: str, jobs: int | None, out: Path | None) -> None:
    """Look at every file of the data set at PATH, on this machine, before any training.

    Formats, told apart by their files: MURA v1.1 and FracAtlas as published, folders of phantoms, a table
    (CSV: path,label[,region,patient,study,group,split,view]), class folders such as hand/fractured/1.png.

    Reports files that the service would refuse (cut off, broken, too small), duplicates by their bytes,
    look-alikes by a perceptual hash, duplicates with both labels, what crosses a published split, and counts
    by region and label. A file that has not changed since the last scan is not read again.

    \b
    Examples:
      fractureai datasets scan MURA-v1.1
      fractureai datasets scan FracAtlas --json findings.json

    Ends with 0 also when something was found: what to leave out is the split's business.
    """  # noqa: D301 - \b is click's mark for "do not rewrap"
    with _dataset_errors():
        report = _scanned(path, format_, meaning, jobs).report()
    _print(report)
    if out:
        out.write_text(json.dumps(report, indent=1) + "\n")
        click.echo(f"All findings: {out}")


def _print(report: Mapping[str, Any]) -> None:
    click.echo(
        f"{report['dataset']}: {report['images']} images"
        + "".join(f", {report[what]} {what}" for what in ("studies", "patients") if report[what])
        + f"; positive means {report['label_meaning']}"
    )
    print_rows(
        open_console(),
        ("region", "positive", "negative"),
        [(region or "(none named)", str(of.get("positive", 0)), str(of.get("negative", 0)))
         for region, of in report["regions"].items()],
    )  # fmt: skip
    _counts("left out while reading", report["left_out_while_reading"])
    _counts("the service would refuse", Counter(report["broken"].values()))
    _counts("noted", report["flags"])
    if side := report["shorter_side"]:
        click.echo(f"shorter side: {side['least']} pixels at least, {side['median']} in the middle")
    for missing in report["empty_classes"]:
        click.echo(f"empty class: {missing}")
    for what, key in (
        ("groups of duplicates (same bytes)", "duplicates"),
        ("of them with both labels", "conflicts"),
        ("groups of look-alikes", "near_duplicates"),
        ("of them with both labels", "near_conflicts"),
        ("of them in several published parts", "near_duplicates_across_parts"),
        ("patients in several published parts", "patients_across_parts"),
    ):
        _groups(what, report[key])
    if agreement := report["published_groups"]:
        click.echo(
            f"against the data set's own groups: {agreement['in_both']} of its {agreement['pairs']} pairs "
            f"found, {agreement['ours'] - agreement['in_both']} further ones"
        )


def _counts(what: str, counts: Mapping[str, int]) -> None:
    if counts:
        click.echo(f"{what}: " + ", ".join(f"{n} {why}" for why, n in sorted(counts.items())))


def _groups(what: str, groups: Sequence[Sequence[str] | str]) -> None:
    if not groups:
        return
    click.echo(f"{len(groups)} {what}")
    for group in groups[:_SHOWN]:
        click.echo("  " + shown(group if isinstance(group, str) else " ".join(group[:4])))


@click.command("split")
@_PATH
@_FORMAT
@_MEANING
@_JOBS
@click.option("--out", type=_FILE, required=True, help="The split file.")
@click.option(
    "--shares", type=float, nargs=3, default=(0.7, 0.15, 0.15), show_default=True, help="Of train, val, test."
)
@click.option("--seed", type=int, default=1, show_default=True)
@click.option("--ignore-published", is_flag=True, help="Make a new split where the data set has one.")
@click.option(
    "--leave-out-crossing",
    is_flag=True,
    help="Leave out of train what shares a patient or its looks with the published test part.",
)
@client_command
def split_command(
    path: Path,
    format_: str,
    meaning: str,
    jobs: int | None,
    out: Path,
    shares: tuple[float, float, float],
    seed: int,
    ignore_published: bool,
    leave_out_crossing: bool,
) -> None:
    """Split the data set at PATH, on this machine, into train, val and test, as a file.

    Whole groups: images of one patient, of one group of the data set, and look-alikes stay together; regions
    and labels come in like shares. Files that the service would refuse are left out, and so are duplicates
    with both labels. A published split is kept: MURA's valid is the test part, and val is cut from train.

    \b
    Example:
      fractureai datasets split MURA-v1.1 --out mura.csv --leave-out-crossing
    """  # noqa: D301 - \b is click's mark for "do not rewrap"
    from training.datasets import SplitPlan, make_split, write_split

    of_parts = dict(zip(("train", "val", "test"), shares, strict=True))
    plan = SplitPlan(of_parts, seed, not ignore_published, leave_out_crossing)
    with _dataset_errors():
        split = make_split(_scanned(path, format_, meaning, jobs), plan)
    write_split(out, split, command=f"fractureai {shlex.join(sys.argv[1:])}")
    for line in split.header:
        click.echo(line)
    counts = Counter(split.sides.values())
    click.echo(f"{out}: " + ", ".join(f"{part} {counts[part]}" for part in plan.shares))

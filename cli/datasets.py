"""`fractureai datasets`: register published data sets with a server, without copying an image."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli import dataset_files
from cli.client import UsageProblem, client_command
from cli.operate import home_option, server_parts
from cli.output import open_console, print_json, print_rows

if TYPE_CHECKING:
    import uuid

    from sqlalchemy.orm import Session

    from store.research.datasets import NewImage, ScanResult
    from store.research.research_tables import Dataset

FORMATS = {"auto": "auto", "mura": "mura", "fracatlas": "fracatlas", "folder": "folder", "csv": "table"}
PAGE = 256
#: What tells a reader about pictures; everything else below an S3 prefix is looked at by name alone.
LISTS = (".csv", ".json")


@click.group()
def datasets() -> None:
    """Look at data sets before training; register them with a server, to score them with its bundles.

    `scan` and `split` need no server. The others are the operator's, on the server's machine: the images are
    read where they lie, by the workers too.

    \b
    Examples:
      fractureai datasets add mura /data/MURA-v1.1 --format mura
      fractureai datasets add ours s3://bucket/prefix --format folder
      fractureai datasets show mura
      fractureai datasets scan /data/MURA-v1.1
      fractureai datasets split /data/MURA-v1.1 --out mura.csv
    """  # noqa: D301 - \b is click's mark for "do not rewrap"


datasets.add_command(dataset_files.scan_command)
datasets.add_command(dataset_files.split_command)

site_option = click.option("--site", "site_name", help="The site; needed where there are several.")


def _site(session: Session, name: str | None) -> uuid.UUID:
    from sqlalchemy import select

    from store.base.tables import Site

    found = session.scalars(select(Site).where(Site.name == name) if name else select(Site).limit(2)).all()
    if len(found) != 1:
        raise UsageProblem("Name the site with --site." if found else "There is no such site.")
    return found[0].id


@contextmanager
def _readable(address: str) -> Iterator[tuple[Path, str]]:
    """Yield a local path for the readers of data sets, and the root's address.

    Of an S3 prefix the readers see its lists, and its pictures as empty files: they look at names only.
    """
    if not address.startswith("s3://"):
        path = Path(address).expanduser().resolve()
        if not path.exists():
            raise UsageProblem(f"{path} is missing.")
        yield path, (path.parent if path.is_file() else path).as_uri()
        return
    from store.base.blobs import open_blobs

    root, _, table = address.rpartition("/") if address.lower().endswith(".csv") else (address, "", "")
    source = open_blobs(root)
    with tempfile.TemporaryDirectory() as folder:
        for key in source.keys(""):
            path = (Path(folder) / key).resolve()
            if not path.is_relative_to(folder):
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(source.get(key) if key.lower().endswith(LISTS) else b"")
        yield Path(folder) / table, root


def _images(path: Path, format: str, meaning: str) -> tuple[str, str, list[NewImage], dict[str, int]]:
    """Read a data set; return its format, what its label means, its images, and what was left out."""
    from pipeline.evaluation import study_name
    from store.research.datasets import NewImage
    from training.datasets import DatasetError
    from training.datasets.formats import AUTO, detect_format, open_dataset

    try:
        kind = detect_format(path) if FORMATS[format] == AUTO else FORMATS[format]
        read = open_dataset(path, kind, meaning)
    except DatasetError as error:
        raise UsageProblem(str(error)) from error
    root = path.parent if path.is_file() else path
    images = [
        NewImage(
            example.path.resolve().relative_to(root.resolve()).as_posix(),
            study_name(example.name, example.study, mura=kind == "mura"),
            example.patient or example.group or example.name,
            "+".join(example.regions),
            example.part,
            example.positive,
        )
        for example in read.examples
    ]
    return kind, read.label_meaning, images, dict(read.skipped)


def look(root: str, image_id: uuid.UUID, path: str, registered: str | None = None) -> ScanResult:
    """Hash one image and try to decode it; a file that is no longer the `registered` one is missing."""
    import hashlib

    from pipeline.decode import decode
    from pipeline.lookalikes import look_of
    from pipeline.types import Rejected, Skipped
    from settings import get_settings
    from store.base.errors import BlobMissing
    from store.research.datasets import MISSING, ScanResult, open_root

    try:
        data = open_root(root).get(path)
    except BlobMissing:
        return ScanResult(image_id, registered, None, MISSING)
    sha256, problem, looks = hashlib.sha256(data).hexdigest(), None, None
    if registered not in (None, sha256):
        return ScanResult(image_id, registered, len(data), MISSING)
    try:
        looks = look_of(decode(data, max_pixels=get_settings().max_pixels, pseudonymise=lambda _: "").pixels)
    except (Rejected, Skipped) as error:
        problem = error.reason.value
    return ScanResult(image_id, sha256, len(data), problem, looks)


def _scan(dataset: Dataset) -> Dataset:
    """Look at every image that was not looked at yet, some at a time, so that a scan can be broken off."""
    from store.base.session import session_scope
    from store.research import datasets as stored

    with session_scope() as session:
        ahead = stored.count_waiting(session, dataset.id)
    with (
        click.progressbar(length=ahead, label="Looking at images", show_pos=True) as bar,
        ThreadPoolExecutor() as pool,
    ):
        while True:
            with session_scope() as session:
                page = stored.waiting(session, dataset.id, PAGE)
            if not page:
                break
            seen = list(pool.map(lambda image: look(dataset.root, image.id, image.path, image.sha256), page))
            with session_scope() as session:
                stored.save_scan_results(session, dataset.id, seen)
            bar.update(len(page))
    with session_scope() as session:
        return stored.end_scan(session, dataset.id)


@datasets.command()
@click.argument("name")
@click.argument("address", metavar="PATH_OR_S3_PREFIX")
@click.option("--format", type=click.Choice(list(FORMATS)), default="auto", show_default=True)
@click.option("--label-meaning", default="", help="What a positive means, of a folder or a CSV.")
@site_option
@home_option
@client_command
def add(
    name: str, address: str, format: str, label_meaning: str, site_name: str | None, home: Path | None
) -> None:
    """Register a data set and look at each of its images; again after an interruption, it goes on."""
    from store.base.session import session_scope
    from store.research import datasets as stored

    if not 1 <= len(name) <= 100 or not name.isprintable() or "/" in name:
        raise UsageProblem("A data set's name has 1 to 100 printable characters and no slash.")
    with server_parts(home):
        with _readable(address) as (path, root):
            kind, meaning, images, left_out = _images(path, format, label_meaning)
        with session_scope() as session:
            dataset = stored.add_dataset(
                session,
                _site(session, site_name),
                name=name,
                root=root,
                format=kind,
                label_meaning=meaning,
                images=images,
                left_out=left_out,
            )
        _print_dataset(_scan(dataset))


def _print_dataset(dataset: Dataset) -> None:
    from store.base.session import session_scope
    from store.research import datasets as stored

    with session_scope() as session:
        inside = stored.contents(session, dataset)
        wrong = stored.with_problems(session, dataset)
    click.echo(
        f"{dataset.name}: {dataset.n_images} images, {inside.studies} studies, {inside.patients} patients"
    )
    click.echo(f"  at {dataset.root} ({dataset.format}); a positive means {dataset.label_meaning}")
    click.echo(f"  sha256 {dataset.sha256 or 'not known yet: add it again to go on'}")
    for word, counts in (("part", inside.parts), ("region", inside.regions)):
        click.echo(f"  by {word}: " + ", ".join(f"{key or 'whole'} {n}" for key, n in counts.items()))
    for reason, n in dataset.left_out.items():
        click.echo(f"  left out: {n} {reason}")
    for problem, n in inside.problems.items():
        click.echo(f"  unusable: {n} {problem}")
    if inside.without_look:
        click.echo(
            f"  registered before looks were kept: {inside.without_look}; add it again to judge them so"
        )
    for image in wrong[:20]:
        click.echo(f"    {image.problem}: {image.path}")


@datasets.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@site_option
@home_option
@client_command
def list_(as_json: bool, site_name: str | None, home: Path | None) -> None:
    """List the data sets of a site."""
    from store.base.session import session_scope
    from store.research import datasets as stored

    with server_parts(home), session_scope() as session:
        found = stored.list_datasets(session, _site(session, site_name))
    rows = [(d.name, d.format, d.n_images, d.n_seen, d.label_meaning, (d.sha256 or "")[:12]) for d in found]
    heads = ("name", "format", "images", "looked at", "label", "sha256")
    if as_json:
        print_json([dict(zip(heads, row, strict=True)) for row in rows])
    else:
        print_rows(open_console(), heads, [tuple(map(str, row)) for row in rows])


@datasets.command()
@click.argument("name")
@site_option
@home_option
@client_command
def show(name: str, site_name: str | None, home: Path | None) -> None:
    """Show what lies in a data set, and what is wrong with it."""
    from store.base.session import session_scope
    from store.research import datasets as stored

    with server_parts(home):
        with session_scope() as session:
            dataset = stored.get_dataset(session, _site(session, site_name), name)
        _print_dataset(dataset)


@datasets.command()
@click.argument("name")
@site_option
@home_option
@client_command
def remove(name: str, site_name: str | None, home: Path | None) -> None:
    """Forget a data set; its files stay as they are."""
    from store.accounts.accounts import write_audit
    from store.base.session import session_scope
    from store.research import datasets as stored

    with server_parts(home), session_scope() as session:
        dataset = stored.get_dataset(session, _site(session, site_name), name)
        stored.remove_dataset(session, dataset)
        write_audit(session, dataset.site_id, None, "dataset_deleted", dataset.id)
    click.echo(f"Removed {name}; its files were not touched.")

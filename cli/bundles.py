"""`fractureai bundles`: list a server's model bundles; bring one into a server, or verify one."""

from __future__ import annotations

from pathlib import Path

import click

from cli.client import UsageProblem, client_command, open_client
from cli.operate import home_option, server_parts
from cli.output import open_console, print_json, print_rows


@click.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print the server's JSON.")
@click.pass_context
def bundles(ctx: click.Context, as_json: bool) -> None:
    """List the model bundles that the server reads with.

    `bundles add` and `bundles verify` are the operator's, and work on this machine.

    \b
    Examples:
      fractureai bundles
      fractureai bundles verify models/bundles/NAME
      fractureai bundles add models/bundles/NAME

    \b
    Exit codes: 0 done; 1 a bundle is damaged; 2 usage;
    3 no answer from the server; 4 refused by the server; 5 interrupted.
    """  # noqa: D301 - \b is click's mark for "do not rewrap"
    if ctx.invoked_subcommand is None:
        client_command(_list)(as_json)


def _list(as_json: bool) -> None:
    with open_client(patience=10.0) as client:
        found = client.bundles()
    if as_json:
        print_json(found)
        return
    print_rows(
        open_console(),
        ("name", "sha256", "label", "regions"),
        [
            (b["name"], b["sha256"][:12], b.get("label_meaning") or "", ", ".join(b.get("regions") or []))
            for b in found
        ],
    )


def _load(folder: Path) -> str:
    """Verify every hash of a bundle folder; return what it is in one line."""
    from models.bundle import BundleError, load_bundle

    try:
        bundle = load_bundle(folder)
    except BundleError as error:
        raise UsageProblem(f"Not a sound bundle: {error}") from error
    return f"{bundle.name}: {', '.join(bundle.regions)}; {bundle.label_meaning} ({bundle.sha256[:12]})"


FOLDER = click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))


@bundles.command()
@FOLDER
@client_command
def verify(folder: Path) -> None:
    """Check the manifest and every hash of the bundle in FOLDER."""
    click.echo(f"Sound. {_load(folder)}")


@bundles.command()
@FOLDER
@home_option
@client_command
def add(folder: Path, home: Path | None) -> None:
    """Verify the bundle in FOLDER, then bring it into the server.

    Works on the servers that FRACTUREAI_DATABASE_URL and FRACTUREAI_BLOB_URL name, else on the one in the
    home folder, whether it runs or not. A bundle never changes: adding it again does nothing, and the same
    name with other contents is refused.
    """
    what = _load(folder)
    with server_parts(home):
        from store.bundles.bundles import add_bundle

        add_bundle(folder)
    click.echo(f"Added. {what}")


@bundles.command()
@FOLDER
@click.option("--to", type=click.Choice(["tflite", "onnx"]), required=True, help="The format.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="A folder.")
@click.option(
    "--images",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Radiographs on which the files are compared with the networks.",
)
@client_command
def export(*, folder: Path, to: str, out: Path, images: Path | None) -> None:
    """Write the networks of the bundle in FOLDER for devices at the edge, each compared with its origin.

    A file takes uint8 (1, size, size), one image a call. `edge.json` beside them says what each is.
    """
    from models.bundle import BundleError, load_bundle
    from models.edge import EdgeError, export_bundle
    from pipeline.decode import decode
    from pipeline.types import Rejected, Skipped

    pictures = []
    for path in sorted(images.iterdir()) if images else ():
        try:
            radiograph = decode(path.read_bytes(), max_pixels=100_000_000, pseudonymise=lambda _: "")
        except (Rejected, Skipped):
            continue
        pictures.append(radiograph.pixels)
    try:
        found = export_bundle(load_bundle(folder), out, pictures, to)
    except (BundleError, EdgeError) as error:
        raise UsageProblem(f"Not exported to {to}: {error}") from error
    rows = [
        (
            e.network,
            e.file,
            f"{e.bytes / 1e6:.1f} MB",
            f"{e.milliseconds:.0f} ms",
            f"{e.difference:.1e}",
            e.images,
        )
        for e in found
    ]
    print_rows(open_console(), ("network", "file", "size", "an image", "differs by", "over images"), rows)


def _operate(action: str, body: dict[str, str]) -> None:
    with open_client(patience=10.0) as client:
        now = client.document(f"/bundles/{action}", body=body)
    back = now.get("rollback_to") or "none"
    click.echo(
        f"Serving: {now['default']}; in the shadow: {now['shadow'] or 'none'}; a rollback leads to: {back}"
    )


@bundles.command()
@click.argument("name")
@client_command
def promote(name: str) -> None:
    """Let the bundle NAME serve the site by default; batches that were submitted keep theirs."""
    _operate("promote", {"bundle": name})


@bundles.command()
@click.argument("name", default="")
@client_command
def rollback(name: str) -> None:
    """Let the bundle serve again that did before the last promotion that was not rolled back.

    With NAME, only if it leads to that bundle.
    """
    _operate("rollback", {"bundle": name} if name else {})


@bundles.command()
@click.argument("name", default="")
@client_command
def shadow(name: str) -> None:
    """Let the bundle NAME score the site's traffic quietly beside the one that serves; without NAME, none."""
    _operate("shadow", {"bundle": name})

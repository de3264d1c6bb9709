"""`fractureai download`: save a batch's results, and verify sizes and hashes."""

from __future__ import annotations

import hashlib
import json
import zipfile
from contextlib import suppress
from pathlib import Path

import click
from rich.console import Console

from cli.client import (
    Client,
    ClientError,
    Damaged,
    Interrupted,
    Json,
    Refused,
    client_command,
    open_client,
)
from cli.output import byte_bar, open_console, shown

#: Images of a batch whose ZIP is streamed at once; a break starts it again from the beginning.
MAX_STREAMED = 500
#: Images whose Excel table a server makes while somebody waits for it.
MAX_STREAMED_ROWS = 2000


def verify_zip(path: Path) -> None:
    """Check a ZIP of results against the hashes in its own ``manifest.json``.

    Raises
    ------
    Damaged
        Something is damaged, missing, or there without being named.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            promised: dict[str, str] = json.loads(archive.read("manifest.json"))["members"]
            names = archive.namelist()
            if sorted(names) != sorted([*promised, "manifest.json"]):
                raise Damaged("The ZIP does not hold exactly the members that its manifest names.")
            for name, sha256 in promised.items():
                digest = hashlib.sha256()
                with archive.open(name) as member:
                    while piece := member.read(1 << 20):
                        digest.update(piece)
                if digest.hexdigest() != sha256:
                    raise Damaged(
                        f"In the ZIP, {shown(name)} does not have the hash that its manifest names."
                    )
    except (zipfile.BadZipFile, KeyError, ValueError, EOFError) as error:
        raise Damaged(f"The ZIP is damaged ({error}); download it again.") from error


def save_zip(client: Client, batch: Json, out: Path, console: Console) -> Path:
    """Save a batch's ZIP, which appears whole and verified or not at all; return its path.

    A large one is prepared by the server first: only a file that is there can be gone on with after a break.
    """
    received = 0
    large = batch["counts"]["total"] > MAX_STREAMED
    export = _prepared(client, batch, console, "zip") if large else None
    address = (
        export["links"]["file"].removeprefix("/api/v1") if export else f"/batches/{batch['id']}/results.zip"
    )
    with byte_bar(console, "Receiving", 0, int(export["size"] or 0) if export else 0) as add:

        def on_bytes(total: int) -> None:
            nonlocal received
            add(0, total - received)
            received = total

        client.download(address, out, on_bytes=on_bytes, verify=verify_zip)
    if export:
        _let_go(client, export)
    console.print(
        f"Saved {out} ({out.stat().st_size / 1e6:.1f} MB, every member's hash checked)", soft_wrap=True
    )
    return out


def save_workbook(client: Client, batch: Json, out: Path, console: Console) -> None:
    """Save a batch's Excel table; a large one is prepared by the server first."""
    export = None
    if batch["counts"]["total"] > MAX_STREAMED_ROWS:
        export = _prepared(client, batch, console, "xlsx")
    if export is None:
        client.download(f"/results?format=xlsx&batch={batch['id']}", out)
        return
    client.download(export["links"]["file"].removeprefix("/api/v1"), out)
    _let_go(client, export)


def _let_go(client: Client, export: Json) -> None:
    with suppress(ClientError):  # it ends by itself; ended now, it makes room for the next
        client.document(f"/exports/{export['id']}/cancel", body={})


def _prepared(client: Client, batch: Json, console: Console, kind: str) -> Json | None:
    """Have the server prepare a file and wait for it; None where it has too many to prepare already."""
    try:
        export = client.document("/exports", body={"format": kind, "batch": batch["id"]})
    except Refused:
        return None
    console.print(f"The server prepares the {'ZIP' if kind == 'zip' else 'table'}.")
    pause = 0.25
    while export["state"] not in {"ready", "failed", "cancelled", "expired"}:
        if client.stopped.wait(pause):
            raise Interrupted("Interrupted.")
        pause = min(pause * 1.5, 5.0)
        export = client.document(f"/exports/{export['id']}")
    return export if export["state"] == "ready" else None


@click.command()
@click.argument("batch")
@click.option("--out", type=click.Path(path_type=Path), help="File to write, or a folder to write it in.")
@click.option("--csv", "as_csv", is_flag=True, help="Save the table alone, as CSV.")
@click.option("--xlsx", "as_xlsx", is_flag=True, help="Save the table alone, for Excel: ids keep zeros.")
@click.option("--bom", is_flag=True, help="Begin the CSV with a byte order mark, by which Excel knows UTF-8.")
@client_command
def download(batch: str, out: Path | None, as_csv: bool, as_xlsx: bool, bom: bool) -> None:
    """Save the results of BATCH (an id, a unique beginning of one, or `latest`) as a ZIP.

    The file appears once it is complete; every member is checked against the hash in the ZIP's manifest.

    \b
    Examples:
      fractureai download latest
      fractureai download 3f2a --out results.zip
      fractureai download latest --csv --out table.csv
      fractureai download latest --xlsx

    \b
    Exit codes: 0 saved; 2 usage, or it cannot be written; 3 no answer from the server,
    or a damaged one; 4 refused by the server; 5 interrupted.
    """  # noqa: D301
    if as_csv and as_xlsx:
        raise click.UsageError("--csv and --xlsx exclude each other.")
    if bom and not as_csv:
        raise click.UsageError("--bom goes with --csv.")
    console = open_console()
    with open_client() as client:
        found = client.batch(client.resolve(batch))
        target = out or Path()
        if target.is_dir():
            suffix = "csv" if as_csv else "xlsx" if as_xlsx else "zip"
            target /= f"fractureai-{found['id'][:8]}.{suffix}"
        target.parent.mkdir(parents=True, exist_ok=True)
        if as_csv:
            client.download(f"/batches/{found['id']}/results.csv{'?bom=true' if bom else ''}", target)
            console.print(f"Saved {target}", soft_wrap=True)
        elif as_xlsx:
            save_workbook(client, found, target, console)
            console.print(f"Saved {target}", soft_wrap=True)
        else:
            save_zip(client, found, target, console)

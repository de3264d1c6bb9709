"""`fractureai status`: one batch in detail, or the latest ones; once, or live."""

from __future__ import annotations

import itertools

import click

from cli.client import Interrupted, client_command, open_client
from cli.output import batch_bar, moment, open_console, print_json, print_rows, summary


@click.command()
@click.argument("batch", required=False)
@click.option("--watch", is_flag=True, help="Follow BATCH (default: the latest) until it has ended.")
@click.option("--limit", default=20, type=click.IntRange(min=1), help="How many batches to list.")
@click.option("--json", "as_json", is_flag=True, help="Print the server's JSON.")
@client_command
def status(batch: str | None, watch: bool, limit: int, as_json: bool) -> None:
    """Show BATCH (an id, a unique beginning of one, or `latest`), or list the newest batches.

    \b
    Examples:
      fractureai status
      fractureai status latest --watch
      fractureai status 3f2a --json

    \b
    Exit codes: 0 shown; 2 usage; 3 no answer from the server; 4 refused by the server; 5 interrupted.
    """  # noqa: D301
    console = open_console(as_json=as_json)
    with open_client(patience=10.0) as client:
        if batch is None and not watch:
            batches = list(itertools.islice(client.batches(), limit))
            if as_json:
                print_json(batches)
                return
            print_rows(
                console,
                ("batch", "created", "status", "images", "label"),
                (
                    [b["id"], moment(b["created_at"]), b["status"], summary(b), b.get("label") or ""]
                    for b in batches
                ),
            )
            return
        found = client.batch(client.resolve(batch or "latest"))
        if watch:
            try:
                with batch_bar(console) as update:
                    found = client.wait_for(found["id"], update)
            except KeyboardInterrupt:
                raise Interrupted("Interrupted; the server goes on with the batch.") from None
        page = client.page(found)
    if as_json:
        print_json(found)
        return
    lines = {
        "batch": found["id"],
        "label": found.get("label"),
        "status": found["status"],
        "priority": found["priority"],
        "bundle": found["bundle"],
        "images": summary(found),
        "stages": ", ".join(f"{stage} {n}" for stage, n in found["stages"].items()),
        "reasons": ", ".join(f"{n} {code}" for code, n in found["reasons"].items()),
        "created": moment(found["created_at"]),
        "finished": moment(found["finished_at"]),
        "page": page,
    }
    print_rows(console, ("", ""), [(name, str(value)) for name, value in lines.items() if value])

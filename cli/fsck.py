"""`fractureai fsck`: find what is missing, altered, orphaned, or contradicts itself in a server's keeping."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cli.client import OK, SOME_FAILED, client_command
from cli.operate import home_option, server_parts
from cli.output import open_console, print_json, print_rows

PHASES = {
    "rows": "Checking rows",
    "list": "Listing bytes",
    "hash": "Hashing bytes",
    "look": "Looking for bytes",
}


@click.command()
@click.option("--quick", is_flag=True, help="Look whether bytes are there, but do not read them.")
@click.option("--repair-orphans", is_flag=True, help="Delete bytes that no row names, older than a day.")
@click.option(
    "--audit-since",
    metavar="HEAD",
    help="Check only the audit, and of it what came after this head, as an earlier check printed it.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@home_option
@click.pass_context
@client_command
def fsck(
    ctx: click.Context,
    *,
    quick: bool,
    repair_orphans: bool,
    audit_since: str | None,
    as_json: bool,
    home: Path | None,
) -> None:
    """Check a server's rows and bytes against each other.

    Reads every stored file and compares its hash with what the database says; checks that every image of
    an ended batch has ended, that counters equal rows, that findings and reports are there, that no lease
    ran out, that no work waits for an ended batch, that no line
    of the audit was altered or deleted. Changes nothing, unless told to. The server may run.

    Works on the servers that FRACTUREAI_DATABASE_URL and FRACTUREAI_BLOB_URL name, else on the one in the
    home folder, whether it runs or not.

    \b
    Examples:
      fractureai fsck
      fractureai fsck --quick --json
      fractureai fsck --repair-orphans --home demo/home
      fractureai fsck --audit-since "5120 9f86d081..."

    \b
    Exit codes: 0 clean; 1 problems were found; 2 usage; 3 the database or the storage does not answer.
    """  # noqa: D301 - \b is click's mark for "do not rewrap"
    console = open_console(as_json=as_json)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with server_parts(home):
        from store.operations.fsck import check, check_audit

        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
            tasks = {phase: bars.add_task(text, visible=False) for phase, text in PHASES.items()}

            def show(phase: str, done: int, total: int | None) -> None:
                bars.update(tasks[phase], completed=done, total=total, visible=True)

            if audit_since is None:
                found = check(quick=quick, repair_orphans=repair_orphans, on_progress=show)
            else:
                try:
                    found = check_audit(audit_since)
                except ValueError:
                    raise click.BadParameter("a number and a hash", param_hint="--audit-since") from None
    if as_json:
        print_json(
            {
                "clean": found.clean,
                "quick": quick,
                "problems": [{**vars(problem), "kind": problem.kind.value} for problem in found.problems],
                "references": found.references,
                "blobs": found.blobs,
                "hashed_bytes": found.hashed_bytes,
                "unreferenced_young": found.young,
                "orphans_deleted": found.deleted,
                "audit_head": found.audit_head,
            }
        )
    else:
        rows = [(p.kind.value, p.code, p.subject, p.detail) for p in found.problems]
        if rows:
            print_rows(console, ("problem", "what", "where", "detail"), rows)
        read = "not read" if quick else f"{found.hashed_bytes / 1e6:.1f} MB read"
        console.print(f"{found.references} references, {found.blobs} stored files, {read}")
        console.print(f"The audit's chain ends at {found.audit_head}", soft_wrap=True)
        if found.young:
            console.print(f"{found.young} files that no row names are younger than a day: left alone")
        if found.deleted:
            console.print(f"{found.deleted} orphaned files deleted")
        kinds = Counter(problem.kind.value for problem in found.problems)
        console.print(", ".join(f"{n} {kind}" for kind, n in kinds.items()) if kinds else "Clean.")
    ctx.exit(OK if found.clean else SOME_FAILED)

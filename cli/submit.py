"""`fractureai submit`: send files, folders and ZIPs as one batch, and wait for the results if asked."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from cli.client import (
    OK,
    SOME_FAILED,
    Client,
    ClientError,
    Interrupted,
    Json,
    Refused,
    UsageProblem,
    client_command,
    open_client,
    require_plain,
)
from cli.download import save_zip
from cli.drafts import (
    DraftEntry,
    DraftNote,
    Hashes,
    fingerprint,
    hash_files,
    not_in_batch,
    skip_known,
)
from cli.local_files import LocalFile, find_files
from cli.output import (
    batch_bar,
    byte_bar,
    open_console,
    print_images,
    print_json,
    shown,
    summary,
    worst_images,
)
from cli.upload import DraftTaken, FileProblem, upload

SHOWN_PROBLEMS = 20


@dataclass(frozen=True)
class SubmitOptions:
    """How a batch is read, and whether its results are waited for.

    Attributes
    ----------
    out
        Where the ZIP of the results goes; implies `wait`.
    timeout
        Seconds to wait at most; None waits as long as it takes.
    """

    label: str = ""
    manifest: Path | None = None
    strict: bool = False
    report: bool = True
    heatmap: bool = True
    bundle: str | None = None
    priority: str = "normal"
    wait: bool = False
    out: Path | None = None
    timeout: float | None = None

    def as_request(self) -> Json:
        """Return the body of ``POST /batches``."""
        body: Json = {"priority": self.priority, "report": self.report, "heatmap": self.heatmap}
        if self.label:
            body["label"] = self.label
        if self.bundle:
            body["bundle"] = self.bundle
        return body


@dataclass(frozen=True)
class SubmitResult:
    """What came of it.

    Attributes
    ----------
    batch
        The batch's last known state, as the server's JSON.
    problems
        The files that were refused on upload.
    images
        The images' JSON, those to look at first coming first; empty unless waited for.
    zip
        The saved results, or None.
    """

    batch: Json
    counts: Json
    problems: tuple[FileProblem, ...]
    images: tuple[Json, ...] = ()
    zip: Path | None = None

    @property
    def exit_code(self) -> int:
        """Return 0, or 1 when a file was rejected, failed or cancelled; a copy within a study is none."""
        if any(problem.code != "duplicate_in_study" for problem in self.problems):
            return SOME_FAILED
        return batch_exit_code(self.batch)


def batch_exit_code(batch: Json) -> int:
    """Return 1 when an image of the batch, or the batch, was rejected, failed or cancelled, else 0."""
    if batch["status"] == "cancelled":
        return SOME_FAILED
    counts = batch["counts"]
    bad = counts["rejected"] + counts["failed"] + counts["cancelled"]
    return SOME_FAILED if bad > batch["reasons"].get("duplicate_in_study", 0) else OK


def _print_problems(console: Console, problems: Sequence[FileProblem]) -> None:
    listed = problems[:SHOWN_PROBLEMS] if console.is_terminal else problems
    for problem in listed:
        console.print(
            f"Rejected: {shown(problem.name)}: {problem.sentence} {problem.advice}".rstrip(), soft_wrap=True
        )
    if len(problems) > len(listed):
        console.print(f"... and {len(problems) - len(listed)} more rejected files.")


def _send(
    client: Client,
    paths: Sequence[Path],
    files: Sequence[LocalFile],
    options: SubmitOptions,
    console: Console,
) -> tuple[Json, Json, tuple[FileProblem, ...]]:
    """Send the files and submit the batch; return it, the counts, and the files that were refused.

    While another run of the same command is sending, it is waited for, and its batch taken for ours when it
    was made of the same files.
    """

    def on_wait(other: DraftEntry | None) -> None:
        which = f" (batch {other.batch})" if other else ""
        console.print(f"The same command is already sending{which}: waiting for it.", soft_wrap=True)

    with DraftNote(client, paths, options.as_request()) as note:
        other = note.hold(on_wait=on_wait, timeout=options.timeout)
        hashes = hash_files(files)
        contents = fingerprint(files, hashes, options.manifest)
        if other is not None and other.contents == contents:
            batch = client.batch(other.batch)
            if batch["submitted_at"]:
                console.print(f"Batch {batch['id']} has these files: following it.")
                rejected = batch["counts"]["rejected"]
                counts = {"accepted": batch["counts"]["total"] - rejected, "rejected": rejected, "skipped": 0}
                return batch, counts, ()
        batch = _resumable_draft(client, note, contents, console)
        return _send_to_draft(client, note, batch, files, hashes, contents, options, console)


def _resumable_draft(client: Client, note: DraftNote, contents: str, console: Console) -> Json | None:
    """Return the draft that an interrupted run left, if the server has it and the files are the same."""
    entry = note.read()
    if entry is None:
        return None
    batch: Json | None = None
    with suppress(Refused):
        batch = client.batch(entry.batch)
    if batch is not None and batch["status"] == "draft":
        if entry.contents == contents:
            console.print(f"Going on with batch {batch['id']}, which was interrupted.")
            return batch
        console.print(
            f"An interrupted run left {batch['counts']['total']} files in draft {batch['id']}. The files are "
            f"others now, so this is a new batch. Submit or cancel the draft at {client.page(batch)}; left "
            "alone, it is deleted after a week.",
            soft_wrap=True,
        )
    elif batch is not None and batch["submitted_at"]:
        console.print(
            f"Batch {batch['id']}, which an interrupted run left, was submitted meanwhile; this is a new one."
        )
    note.forget()
    return None


def _send_to_draft(
    client: Client,
    note: DraftNote,
    draft: Json | None,
    files: Sequence[LocalFile],
    hashes: Hashes,
    contents: str,
    options: SubmitOptions,
    console: Console,
) -> tuple[Json, Json, tuple[FileProblem, ...]]:
    made: str | None = None  # the draft of this run's own
    batch, accepted = draft, 0
    problems: list[FileProblem] = []
    try:
        if batch is None:
            batch = client.create_batch(options.as_request(), str(uuid.uuid4()))
            made = batch["id"]
            note.keep(DraftEntry(batch["id"], contents))
        else:
            files, accepted, problems = skip_known(client, batch["id"], files, hashes)
        try:
            with byte_bar(console, "Sending", len(files), sum(file.size for file in files)) as add:
                sent = upload(client, batch["id"], files, manifest=options.manifest, on_progress=add)
            batch = client.act(batch["id"], "submit", **({"strict": True} if options.strict else {}))
        except DraftTaken as taken:
            sent = taken.sent
            batch = client.batch(batch["id"])
            verb = "submitted" if batch["submitted_at"] else "cancelled"
            console.print(f"Batch {batch['id']} was {verb} by somebody else while it was being sent.")
            missing = not_in_batch(client, batch["id"], taken.unanswered, hashes)
            problems += [
                FileProblem(
                    file.name,
                    "not_sent",
                    f"The batch was {verb} before this file was sent.",
                    "Send it again, in a new batch.",
                )
                for file in missing
            ]
            accepted += len(taken.unanswered) - len(missing)
    except Refused:
        if made is not None and client.discard(made):
            note.forget()
        raise
    except (ClientError, KeyboardInterrupt) as error:
        if batch is not None:
            console.print("What arrived is kept for a week: the same command goes on with it.")
        raise error if isinstance(error, ClientError) else Interrupted("Interrupted.") from None
    note.forget()
    counts = {
        **sent.counts,
        "accepted": sent.counts["accepted"] + accepted,
        "rejected": sent.counts["rejected"] + len(problems),
    }
    return batch, counts, tuple(sorted([*problems, *sent.problems], key=lambda problem: problem.name))


def _print_unmatched(client: Client, console: Console, batch: Json) -> None:
    said = batch.get("manifest")
    if said and (said["rows_without_file"] or said["files_without_row"]):
        rows, files = said["rows_without_file"], said["files_without_row"]
        link = f"{client.url}{batch['links']['unmatched']}"
        console.print(
            f"The manifest does not match: {rows} of its {said['rows']} lines met no file, "
            f"{files} files met no line. The list: {link}",
            soft_wrap=True,
        )


def run_submit(
    client: Client,
    paths: Sequence[Path],
    options: SubmitOptions,
    console: Console,
    *,
    keep_images: bool = False,
    rows: int = 20,
) -> SubmitResult:
    """Send the files as a new batch, submit it, and wait for its results if the options say so.

    Parameters
    ----------
    keep_images
        Put every image of a finished batch into the result instead of printing a table of the worst ones.
    rows
        How many the table has on a terminal.

    Raises
    ------
    UsageProblem
        A path is not there, or there is nothing to send.
    ServerUnreachable, Refused, Interrupted
        Before the batch was submitted, its draft is kept for the next run (and cancelled when it was
        refused, if this run made it); afterwards the server goes on with it.
    """
    if options.out is not None:
        require_plain(options.out)  # now, and not after an hour's reading
        options.out.parent.mkdir(parents=True, exist_ok=True)
    found = find_files(paths)
    for path in found.left_out:
        console.print(f"Left out (a link, a device, or not readable): {shown(path)}", soft_wrap=True)
    if not found.files:
        raise UsageProblem("There are no files to send.")
    batch, counts, refused = _send(client, paths, found.files, options, console)
    try:
        _print_problems(console, refused)
        console.print(
            f"Batch {batch['id']}: {counts['accepted']} accepted, {counts['rejected']} rejected"
            + (f", {counts['skipped']} skipped" if counts["skipped"] else "")
        )
        _print_unmatched(client, console, batch)
        console.print(client.page(batch), soft_wrap=True)
        if not (options.wait or options.out):
            return SubmitResult(batch, counts, refused)
        with batch_bar(console) as update:
            batch = client.wait_for(batch["id"], update, timeout=options.timeout)
    except KeyboardInterrupt:
        raise Interrupted(
            f"Interrupted; the server goes on. `fractureai status {batch['id'][:8]} --watch` follows it."
        ) from None
    images: tuple[Json, ...] = ()
    if keep_images:
        images = tuple(image for _, image in worst_images(client, batch["id"], None))
    else:
        print_images(client, console, batch, limit=rows)
    console.print(f"{batch['status']}: {summary(batch)}", soft_wrap=True)
    saved = save_zip(client, batch, options.out, console) if options.out else None
    return SubmitResult(batch, counts, refused, images, saved)


def reading_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say how images are read; `submit` and `watch` share them."""
    for option in reversed(
        [
            click.option("--label", default="", help="A name for the batch, shown on its page."),
            click.option(
                "--manifest",
                type=click.Path(exists=True, dir_okay=False, path_type=Path),
                help="CSV with the columns path, accession, study, view, laterality, priority; "
                "path as in the results: relative to the folder that is sent.",
            ),
            click.option("--no-report", is_flag=True, help="Make no PDF reports."),
            click.option("--no-heatmap", is_flag=True, help="Make no attention-map pictures."),
            click.option("--bundle", help="Model bundle to read with; see `fractureai bundles`."),
            click.option("--priority", type=click.Choice(["urgent", "normal", "low"]), default="normal"),
        ]
    ):
        command = option(command)
    return command


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@reading_options
@click.option(
    "--strict",
    is_flag=True,
    help="Read nothing unless each line of the manifest met a file, and each file a line.",
)
@click.option("--wait", is_flag=True, help="Wait until every image is read, then print a table.")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Save the results as this ZIP; implies --wait.",
)
@click.option("--timeout", type=click.FloatRange(min=0), help="Wait at most so many seconds (exit code 5).")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on standard output.")
@click.pass_context
@client_command
def submit(
    ctx: click.Context,
    *,
    paths: tuple[Path, ...],
    label: str,
    manifest: Path | None,
    strict: bool,
    no_report: bool,
    no_heatmap: bool,
    bundle: str | None,
    priority: str,
    wait: bool,
    out: Path | None,
    timeout: float | None,
    as_json: bool,
) -> None:
    """Send files, folders and ZIPs to the server as one batch.

    Folders are searched for all files; hidden ones, __MACOSX and Thumbs.db are passed over. Several PATHs are
    named relative to the deepest folder that holds them all.

    \b
    Examples:
      fractureai submit scan.dcm
      fractureai submit night-shift/ --label "night shift" --priority urgent --wait
      fractureai submit MURA/valid --no-report --out results.zip
      fractureai submit images.zip --manifest accessions.csv --json --wait

    \b
    Exit codes: 0 all well; 1 some images were rejected, failed or cancelled;
    2 usage; 3 no answer from the server; 4 refused by the server; 5 interrupted.
    """  # noqa: D301 - \b is click's mark for "do not rewrap"
    options = SubmitOptions(
        label=label,
        manifest=manifest,
        strict=strict,
        report=not no_report,
        heatmap=not no_heatmap,
        bundle=bundle,
        priority=priority,
        wait=wait,
        out=out,
        timeout=timeout,
    )
    with open_client() as client:
        result = run_submit(client, paths, options, open_console(as_json=as_json), keep_images=as_json)
    if as_json:
        print_json(
            {
                "batch": result.batch,
                "upload": result.counts,
                "problems": [vars(problem) for problem in result.problems],
                "images": list(result.images),
                "zip": str(result.zip) if result.zip else None,
            }
        )
    ctx.exit(result.exit_code)

"""What the client commands print: live bars and tables on a terminal, plain lines anywhere else."""

from __future__ import annotations

import heapq
import json
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table
from rich.text import Text

from cli.client import Client, Json
from vocabulary import times
from vocabulary.states import Triage
from vocabulary.words import TONES, Tone, hundredths, odds_sentence

_COLOURS = {Tone.ALARM: "bold red", Tone.CAUTION: "yellow", Tone.UNREAD: "magenta", Tone.CALM: "green"}
_TONES = {**TONES, "failed": Tone.ALARM, "partial": Tone.CAUTION, "rejected": Tone.UNREAD, "done": Tone.CALM}
STYLES = {str(word): _COLOURS[tone] for word, tone in _TONES.items()}


def _worst_first() -> Iterator[tuple[dict[str, str], str]]:
    before = {Triage.NOT_ASSESSABLE: ["failed"], Triage.NEGATIVE: ["rejected", "cancelled"]}
    for triage in Triage:
        yield from (({"status": status}, status) for status in before.get(triage, ()))
        yield {"status": "done", "triage": triage.value}, triage.value


#: What a person should look at first: (images' filter, the word for it).
WORST_FIRST = tuple(_worst_first())
LINE_SECONDS = 15.0  # between two lines of progress in a log


def shown(text: object) -> str:
    """Return text that a terminal cannot mistake for commands; file names may hold any byte."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in str(text))


def open_console(*, as_json: bool = False) -> Console:
    """Return the console for people: standard output, or standard error when that carries JSON."""
    return Console(stderr=as_json, highlight=False, markup=False, soft_wrap=not sys.stdout.isatty())


def print_json(document: Any) -> None:
    """Print one JSON document on standard output, in ASCII where that does not take UTF-8."""
    is_utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=not is_utf8) + "\n")


def _size(n: float) -> str:
    for unit in ("B", "kB", "MB"):
        if n < 1000:
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1000
    return f"{n:.1f} GB"


@contextmanager
def byte_bar(console: Console, what: str, files: int, size: int) -> Iterator[Callable[[int, int], None]]:
    """Show how many files and bytes were moved; yields a function that takes what was added."""
    done_files = done_bytes = 0
    lock = threading.Lock()
    last = time.monotonic()
    with _bars(console, TextColumn("{task.fields[files]}"), DownloadColumn(), TransferSpeedColumn()) as bars:
        bar = bars.add_task(what, total=size or None, files="")

        def add(n_files: int, n_bytes: int) -> None:
            nonlocal done_files, done_bytes, last
            with lock:
                done_files += n_files
                done_bytes += n_bytes
                bars.update(bar, completed=done_bytes, files=f"{done_files}/{files} files" if files else "")
                if not console.is_terminal and time.monotonic() - last > LINE_SECONDS:
                    last = time.monotonic()
                    console.print(f"{what}: {done_files}/{files} files, {_size(done_bytes)} of {_size(size)}")

        yield add


@contextmanager
def count_bar(console: Console, what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show how many of `total` are done; yields a function that takes the number."""
    last = time.monotonic()
    with _bars(console, MofNCompleteColumn(), TimeRemainingColumn()) as bars:
        bar = bars.add_task(what, total=total)

        def update(done: int) -> None:
            nonlocal last
            bars.update(bar, completed=done)
            if not console.is_terminal and time.monotonic() - last > LINE_SECONDS:
                last = time.monotonic()
                console.print(f"{what}: {done}/{total}")

        yield update


@contextmanager
def batch_bar(console: Console) -> Iterator[Callable[[Json], None]]:
    """Show a batch's progress; yields a function that takes its newest state."""
    last = 0.0
    task: TaskID | None = None
    with _bars(console, TextColumn("{task.fields[note]}")) as bars:

        def update(batch: Json) -> None:
            nonlocal last, task
            counts = batch["counts"]
            ended = sum(counts[word] for word in ("done", "rejected", "failed", "cancelled"))
            if console.is_terminal:
                if task is None:
                    task = bars.add_task("", note="")
                bars.update(
                    task,
                    description=batch["status"],
                    # an image moves the bar a little with each of its stages
                    completed=sum(batch["stages"].values()) / max(1, len(batch["stages"])),
                    total=counts["total"],
                    note=f"{ended}/{counts['total']} images {_batch_note(batch)}",
                )
            elif time.monotonic() - last > LINE_SECONDS:
                last = time.monotonic()
                console.print(
                    f"{batch['status']}: {ended}/{counts['total']} images {_batch_note(batch)}".rstrip()
                )

        yield update


def _bars(console: Console, *columns: ProgressColumn) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        *columns,
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def _batch_note(batch: Json) -> str:
    words = []
    if batch["status"] == "running" and batch.get("cancelled_at"):
        words.append("being cancelled")
    elif batch["status"] == "running" and batch.get("rate"):
        words.append(f"{batch['rate']:.1f} images/s")
        words.append(batch.get("time_left") or "estimating the time left")
    return ", ".join(words)


def moment(when: str | None) -> str:
    """Return a time of the server's to the minute, in UTC as on its pages; nothing for none."""
    return times.moment(when) if when else ""


def print_rows(console: Console, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table on a terminal, and lines of tab-separated fields elsewhere."""
    if not console.is_terminal:
        for row in rows:
            print("\t".join(shown(cell) for cell in row), file=console.file)  # rich would expand the tabs
        return
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for heading in headings:
        justify: Literal["left", "right"] = "right" if heading == "probability" else "left"
        table.add_column(heading, overflow="fold", justify=justify, no_wrap=heading in {"batch", "triage"})
    for row in rows:
        table.add_row(*(Text(shown(cell), style=STYLES.get(cell, "")) for cell in row))
    console.print(table)


def worst_images(client: Client, batch_id: str, limit: int | None) -> Iterator[tuple[str, Json]]:
    """Yield a batch's images with the word for their outcome, those to look at first coming first.

    At most `limit` images are kept in memory, however many the batch has; None keeps one outcome's.
    """
    left = limit
    for filters, word in WORST_FIRST:
        found = client.images(batch_id, **filters)
        ordered = (
            sorted(found, key=_probability, reverse=True)
            if left is None
            else heapq.nlargest(left, found, key=_probability)
        )
        yield from ((word, image) for image in ordered)
        if left is not None:
            left -= len(ordered)
            if left <= 0:
                return


def _label_meaning(client: Client, name: str) -> str:
    found = client.document("/bundles")["items"]
    return str(next((bundle["label_meaning"] for bundle in found if bundle["name"] == name), "finding"))


def _probability(image: Json) -> float:
    return float(image["probability"]) if image.get("probability") is not None else -1.0


def print_images(client: Client, console: Console, batch: Json, *, limit: int = 20) -> None:
    """Print what was found, worst first; a few on a terminal, all of it elsewhere."""

    def row(word: str, image: Json) -> tuple[str, ...]:
        p, reason, cuts = image["probability"], image["reason"], image["thresholds"]
        shown_p = "" if p is None else f"{p:.2f}"
        said = reason["sentence"] if reason else ""
        if console.is_terminal and p is not None and cuts:  # what it means, for a person
            shown_p = f"{hundredths(p)}%"
            said = odds_sentence(p, cuts["low"], cuts["high"], image["triage"], meaning)
        return image["filename"], image["region"] or "", shown_p, word, said

    if batch["findings_withheld"]:
        console.print("Read by a bundle on trial: its findings are for researchers and administrators.")
        return
    meaning = _label_meaning(client, batch["bundle"]) if console.is_terminal else ""
    rows = [row(*item) for item in worst_images(client, batch["id"], limit if console.is_terminal else None)]
    print_rows(
        console, ("file", "region", "probability", "triage", "what it means" if meaning else "reason"), rows
    )
    more = batch["counts"]["total"] - len(rows)
    if more > 0:
        console.print(f"... and {more} more: {client.page(batch)}", soft_wrap=True)


def summary(batch: Json) -> str:
    """Return a batch's counts in words, the zeros left out."""
    counts = batch["counts"]
    words = ("done", "rejected", "failed", "cancelled", "skipped", "running", "queued", "uploaded")
    parts = [f"{counts[word]} {word}" for word in words if counts.get(word)]
    triage = [f"{n} {word.replace('_', ' ')}" for word, n in (batch["triage"] or {}).items() if n]
    return ", ".join(parts or ["no files"]) + (f" ({', '.join(triage)})" if triage else "")

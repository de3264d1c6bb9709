"""`fractureai watch`: send what arrives in one folder, file what was found in another; unattended."""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import os
import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

import click

from cli.changes import Changes, mount_of, notifies_of_all_changes
from cli.client import (
    INTERRUPTED,
    OK,
    SOME_FAILED,
    TERMINAL,
    Client,
    ClientError,
    Interrupted,
    Json,
    Refused,
    ServerUnreachable,
    UsageProblem,
    client_command,
    find_server,
)
from cli.drafts import not_in_batch
from cli.local_files import LocalFile, find_files, groups
from cli.output import summary
from cli.submit import SubmitOptions, batch_exit_code, reading_options
from cli.upload import DraftTaken, upload
from cli.watch_journal import SENDING, SENT, SUBMITTED, Journal, JournalBatch
from vocabulary.times import moment

T = TypeVar("T")
UNFINISHED = (".part", ".partial", ".filepart", ".tmp", ".temp", ".crdownload", ".download")
MAX_FILES = 2000
MAX_BYTES = 4 << 30
HOLD_SECONDS = 60.0  # for so long a settled file waits for its folder's other files, to keep studies together
RETRIED_SECONDS = 60.0
SLOWEST = 30.0
LOOK_SHARE = 20.0  # looking takes at most a twentieth of the time (a wait of SLOWEST is enough),
THOROUGH_SHARE = 50.0  # and looking at every file's size and time a fiftieth,
THOROUGH_SECONDS = 60.0  # and is done no oftener;
TOLD_RARER = 10.0  # where the kernel tells of changes, so many times rarer
WINDOWS_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)


def safe_name(text: str) -> str:
    """Return a folder name for an accession: letters, digits, ``._-``; empty when nothing of it is left."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", text).strip("._ ")[:80].rstrip(".")
    return f"_{name}" if WINDOWS_DEVICES.match(name) else name


@dataclass
class Settling:
    """Tells which files have stopped changing."""

    seconds: float
    _seen: dict[Path, tuple[int, int, float, float]] = field(default_factory=dict)

    def settled(self, files: list[LocalFile], now: float) -> list[LocalFile]:
        """Return the files whose size and time stayed the same for the settling time, and their folder's too.

        Parameters
        ----------
        files
            What is there now.
        now
            Seconds of a monotonic clock.
        """
        seen = {}
        for file in files:
            size, mtime_ns, since, first = self._seen.get(file.path, (-1, 0, now, now))
            if (size, mtime_ns) != (file.size, file.mtime_ns):
                since = now
            seen[file.path] = (file.size, file.mtime_ns, since, first)
        self._seen = seen
        quiet = {path for path, (_, _, since, _) in seen.items() if now - since >= self.seconds}
        busy_folders = {path.parent for path in seen if path not in quiet}
        return [
            file
            for file in files
            if file.path in quiet
            and (
                file.path.parent not in busy_folders
                or now - seen[file.path][3] >= self.seconds + HOLD_SECONDS
            )
        ]


class Watcher:
    """Sends what settles in one folder and files the results in another; every step can be done again.

    Parameters
    ----------
    say
        Takes a line of the log; file names never stand in it.
    """

    def __init__(
        self,
        client: Client,
        journal: Journal,
        source: Path,
        out: Path,
        options: SubmitOptions,
        *,
        settle: float,
        say: Callable[[str], None],
    ) -> None:
        self.client, self.journal, self.source, self.out, self.options = client, journal, source, out, options
        self.say = say
        self.settling = Settling(settle)
        self.exit_code = OK
        self._etags: dict[str, str | None] = {}
        self._looked_again = time.monotonic()
        self._mount = mount_of(source)
        self.changes_are_told = notifies_of_all_changes(source)
        self._known: frozenset[str] = frozenset()
        self._thorough_at = 0.0
        #: The kernel's word of changes; None where it gives none, and before the first look.
        self._changes: Changes | None = None
        self._idle = False  # all that the last look saw was known
        #: What does not work now, by where: (the sentence that was logged, failures in a row).
        self._troubles: dict[str, tuple[str, int]] = {}
        self._unreachable = False  # in this look: the other batches need not find that out for themselves

    # what the loop does

    def run(self) -> None:
        """Work until interrupted: whatever does not work is waited for."""
        while True:
            pause = self.look()
            self.client.stopped.wait(pause)

    def look(self) -> float:
        """Send and file what there is; return the seconds after which to look again."""
        started = time.monotonic()
        self._unreachable = False
        arrived = self._waiting("folder", self._arrived)
        looked = time.monotonic() - started
        if arrived is not None:
            self._waiting("note", lambda: self.note(self.settling.settled(arrived, time.monotonic())))
        self._waiting("journal", lambda: self._exchange_each(self._waiting))
        usual = max(1.0, min(self.settling.seconds / 3, 5.0), min(looked * LOOK_SHARE, SLOWEST))
        failures = max((count for _, count in self._troubles.values()), default=0)
        return max(usual, min(2.0**failures, SLOWEST)) if failures else usual

    def _waiting(self, where: str, step: Callable[[], T]) -> T | None:
        """Do a step; when it fails, log why, once, and return None: the next look tries again."""
        try:
            result = step()
        except (ClientError, OSError, sqlite3.Error) as error:
            if isinstance(error, Interrupted):
                raise
            if isinstance(error, sqlite3.Error):
                with suppress(OSError, sqlite3.Error):
                    self.journal.reconnect()
            self._unreachable = self._unreachable or isinstance(error, ServerUnreachable)
            sentence = _sentence_of(error)
            before, count = self._troubles.get(where, ("", 0))
            if sentence not in {before, *(said for said, _ in self._troubles.values())}:
                self.say(f"{sentence} Trying again until it works.")
            self._troubles[where] = (sentence, count + 1)
            return None
        if self._troubles.pop(where, None) and not self._troubles:
            self.say("All works again.")
        return result

    def run_once(self) -> None:
        """Send what is there and settled, wait for everything in the server's hands, file it.

        Raises
        ------
        ServerUnreachable, Refused
        """
        self.settling.settled(self._arrived(thorough=True), time.monotonic())
        self.client.stopped.wait(self.settling.seconds)
        now = self._arrived(thorough=True)
        settled = self.settling.settled(now, time.monotonic() + HOLD_SECONDS)
        self.note(settled)
        pause = 0.25
        while self.exchange():
            self.client.stopped.wait(pause)
            pause = min(pause * 1.5, 5.0)
        if left := len(self._arrived(thorough=True)):
            self.exit_code = SOME_FAILED
            self.say(f"{left} files were not sent: they were still changing, or cannot be read.")

    # what arrives

    def _arrived(self, *, thorough: bool = False) -> list[LocalFile]:
        """Return the files that were not sent yet, settled or not.

        Names that are known are passed over, which makes a look at tens of thousands cheap; now and then
        a thorough look finds the files that got new contents under an old name.

        Raises
        ------
        OSError
            The folder is not there: it lies on a share that is away.
        """
        self._require_source()
        started = time.monotonic()
        told = self._told()
        thorough = thorough or started >= self._thorough_at
        if told is not None and not thorough:
            if not told and self._idle:
                return []
            self._known -= told
        found = find_files([self.source], known=frozenset() if thorough else self._known).files
        new, known = [], []
        for file in found:
            if self.journal.knows(file):
                known.append(str(file.path))
            elif not file.name.casefold().endswith(UNFINISHED):
                new.append(file)
        if thorough:
            took = time.monotonic() - started
            rarer = TOLD_RARER if self._changes else 1.0
            self._thorough_at = started + rarer * max(THOROUGH_SECONDS, took * THOROUGH_SHARE)
            self._known = frozenset(known)
        elif known:
            self._known |= frozenset(known)
        self._idle = not new
        return new

    def _told(self) -> set[str] | None:
        """Return the paths of which the kernel says that they changed; None when it says nothing reliable."""
        if self._changes is not None:
            try:
                return self._changes.drain()
            except OSError:  # IN was replaced by another folder
                self._changes.stop()
                self._changes, self._thorough_at = None, 0.0
        if self.changes_are_told:
            try:
                self._changes = Changes(self.source)
            except OSError:  # more folders than the kernel watches
                self.changes_are_told = False
        return None

    def _require_source(self) -> None:
        """Raise `OSError` when IN's share is away: its files are not gone, and must not be forgotten."""
        mount = mount_of(self.source)
        if self._mount in mount.parents:  # it was away when the watcher began, and is there now
            self._mount = mount
            self.changes_are_told = notifies_of_all_changes(self.source)
            self._thorough_at = 0.0
        if not self.source.is_dir() or mount != self._mount:
            raise OSError(errno.ENODEV, "The folder IN is not there: is its share away?")

    def note(self, files: list[LocalFile]) -> None:
        """Note settled files in the journal, cut into batches."""
        for group in _portions(files):
            hashed = [(file, sha256) for file in group if (sha256 := _sha256_of(file.path))]
            if self.journal.begin(hashed, self.options.as_request()):
                self.say(f"{len(hashed)} files have settled.")

    # with the server

    def exchange(self) -> bool:
        """Send what is noted, file what has ended; tell whether anything is left in the server's hands.

        Raises
        ------
        ServerUnreachable, Refused
        """
        return self._exchange_each(lambda _, step: step())

    def _exchange_each(self, attempt: Callable[[str, Callable[[], bool]], bool | None]) -> bool:
        """Take every batch one step further; one that fails does not hold up the others.

        Parameters
        ----------
        attempt
            Does a step, and returns None when it failed and is to be tried again.
        """
        for batch in self.journal.batches(SENDING, SENT):
            if self._unreachable:
                return True
            attempt(f"batch {batch.id}", partial(self._send, batch))
        if time.monotonic() - self._looked_again > RETRIED_SECONDS:
            self._looked_again = time.monotonic()
            attempt("retries", self._look_for_retries)
        waiting = False
        for batch in self.journal.batches(SUBMITTED):
            if self._unreachable:
                return True
            waiting = not attempt(f"batch {batch.id}", partial(self._follow, batch)) or waiting
        return waiting or bool(self.journal.batches(SENDING, SENT))

    def _send(self, batch: JournalBatch) -> bool:
        """Send a batch's files and submit it; tell whether it is submitted."""
        self._require_source()
        files = self.journal.files_of(batch)
        ready = [file for file in files if _is_unchanged(file)]
        changed = [file for file in files if file not in ready]
        if batch.remote is None:
            self.journal.drop_files(batch, changed)
            if not ready:
                self.journal.forget(batch)
                return False
        try:
            if batch.remote is None:
                remote = self.client.create_batch(batch.options, batch.key)
                self.journal.created(batch, remote["id"])
            else:
                remote = self.client.batch(batch.remote)
            missing: list[LocalFile] = []
            if remote["status"] == "draft":
                self._drop(batch, remote["id"], changed)
                remote, missing = self._send_to_draft(batch, remote["id"], ready)
            elif (
                remote["submitted_at"] and batch.state == SENDING
            ):  # by somebody else, before all had arrived
                missing = not_in_batch(self.client, remote["id"], files)
        except Refused as refused:
            if refused.status == 404:
                self.say(f"Batch {batch.remote} is not on the server any more: its files are sent again.")
                self.journal.restart(batch)
            elif refused.code == "batch_empty":  # everything in it was skipped, or too large to send
                self.journal.filed(batch, None, 0)
            else:
                raise
            return False
        if remote["submitted_at"] is None:  # a draft that somebody cancelled, or that lay too long
            self.say(
                f"Batch {remote['id']} was cancelled before it was complete: its files are sent in a new one."
            )
            self.journal.restart(batch)
            return False
        if missing:
            self.say(
                f"Batch {remote['id']} was submitted by somebody else before {len(missing)} files "
                "had arrived: they are sent in a new one."
            )
            self.journal.move(batch, missing)
        self.journal.set_state(batch, SUBMITTED)
        self.say(f"Batch {remote['id']}: {remote['counts']['total']} images submitted.")
        return True

    def _send_to_draft(
        self, batch: JournalBatch, remote_id: str, files: list[LocalFile]
    ) -> tuple[Json, list[LocalFile]]:
        """Send the files and submit; return the batch, and the files that it lacks.

        It lacks some when somebody else submitted it too early.
        """
        try:
            sent = upload(self.client, remote_id, files, manifest=self.options.manifest)
        except DraftTaken as taken:
            remote = self.client.batch(remote_id)
            if remote["submitted_at"] is None:
                return remote, []
            return remote, not_in_batch(self.client, remote_id, taken.unanswered)
        unreadable = {problem.name for problem in sent.unsent if problem.code == "unreadable"}
        self._drop(batch, remote_id, [file for file in files if file.name in unreadable])
        if too_large := len(sent.unsent) - len(unreadable):
            self.exit_code = SOME_FAILED
            self.say(f"{too_large} files are too large for this server and were not sent.")
        self.journal.set_state(batch, SENT)
        return self.client.act(remote_id, "submit"), []

    def _drop(self, batch: JournalBatch, remote_id: str, files: list[LocalFile]) -> None:
        """Forget files that changed or went before they were sent.

        What the draft has of them was sent, though its answer was lost: it must not come a second time.
        """
        if files:
            hashes = self.journal.hashes_of(batch)
            known = self.client.known_files(remote_id, {file.name: hashes[file.name] for file in files})
            there = {each["filename"] for each in known}
            self.journal.drop_files(batch, [file for file in files if file.name not in there])

    def _follow(self, batch: JournalBatch) -> bool:
        """Look at a submitted batch and file it if it has ended; tell whether it has."""
        assert batch.remote is not None
        try:
            remote, self._etags[batch.remote], _ = self.client.batch_if_changed(
                batch.remote, self._etags.get(batch.remote)
            )
        except Refused as refused:
            if refused.status != 404:
                raise
            self.say(f"Batch {batch.remote} is not on the server any more.")
            self.journal.filed(batch, None, 0)
            self.exit_code = SOME_FAILED
            return True
        if remote is None or remote["status"] not in TERMINAL:
            return False
        self._etags.pop(batch.remote)
        reports, filed = self._file_reports(batch.remote)
        self._append_rows(batch, reports)
        counts = remote["counts"]
        self.journal.filed(batch, remote["finished_at"], counts["failed"] + counts["cancelled"])
        self.exit_code = max(self.exit_code, batch_exit_code(remote))
        self.say(f"Batch {batch.remote} is {remote['status']}: {summary(remote)}; {filed} reports filed.")
        return True

    def _look_for_retries(self) -> bool:
        """Follow again the batches that somebody had retried; always true."""
        for batch in self.journal.retried_maybe():
            assert batch.remote is not None
            try:
                remote = self.client.batch(batch.remote)
            except Refused as refused:
                if refused.status != 404:
                    raise
                continue
            if remote["finished_at"] != batch.ended_at:
                self.journal.set_state(batch, SUBMITTED)
        return True

    # what is filed

    def _file_reports(self, remote: str) -> tuple[dict[str, str], int]:
        """File one PDF a study under its accession, later versions beside the first.

        Returns
        -------
        places, filed
            The place of each study's report below OUT, and how many of them are new.
        """
        places: dict[str, str] = {}
        filed = 0
        for image in self.client.images(remote):
            study = image["study_id"]
            if study and study not in places and image["links"]["report"]:
                place, is_new = self._file_report(image)
                places[study] = place.relative_to(self.out).as_posix()
                filed += is_new
        return places, filed

    def _file_report(self, image: Json) -> tuple[Path, bool]:
        study = image["study_id"]
        fresh = self.out / ".fractureai-watch" / "report.pdf"
        self.client.download(f"/images/{image['id']}/report", fresh)
        sha256 = _sha256_of(fresh)
        version, known = self.journal.report_version(study, sha256)
        folder = self.out / self.journal.folder_of(study, safe_name(image["accession"] or "") or study)
        if known:
            fresh.unlink()
            return _report_path(folder, version), False
        folder.mkdir(exist_ok=True)
        target = _report_path(folder, version)
        while target.exists() and _sha256_of(target) != sha256:  # never over what somebody else put there
            version += 1
            target = _report_path(folder, version)
        fresh.replace(target)
        self.journal.report_filed(study, version, sha256)
        return target, True

    def _append_rows(self, batch: JournalBatch, reports: dict[str, str]) -> None:
        """Append the batch's rows to OUT/results.csv; after a broken attempt only those not there."""
        table, fresh = self.out / "results.csv", self.out / ".fractureai-watch" / "results.csv"
        self.client.download(f"/batches/{batch.remote}/results.csv", fresh)
        with fresh.open(encoding="utf-8-sig", newline="") as file:
            header, *rows = csv.reader(file)
        report, study, heatmap = (header.index(name) for name in ("report", "study_id", "heatmap"))
        for row in rows:  # the server names members of its ZIP; here the reports lie elsewhere
            row[report], row[heatmap] = reports.get(row[study], ""), ""
        with _telling_of_table():
            if table.exists():
                with table.open(encoding="utf-8", newline="") as file:
                    lines = csv.reader(file)
                    if next(lines, None) != header:  # of another version: a new table beside the old one
                        ended = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
                        os.rename(table, self.out / f"results-until-{ended}.csv")
                    elif batch.csv_begun:
                        there = {tuple(line) for line in lines}
                        rows = [row for row in rows if tuple(row) not in there]
            self.journal.csv_begins(batch)
            _append(table, header, rows)
        fresh.unlink()


@contextmanager
def _telling_of_table() -> Iterator[None]:
    """Say of an error of the file system that it is results.csv that cannot be written."""
    try:
        yield
    except OSError as error:
        told = f"results.csv cannot be written ({error.strerror}): is it open in another program?"
        raise OSError(error.errno, told) from error


def _append(table: Path, header: list[str], rows: list[list[str]]) -> None:
    """Append rows to a table, all of them or none, with the header when it is new.

    Raises
    ------
    OSError
        The disk is full, or a program that has the table open keeps others out.
    """
    with table.open("a+b", buffering=0) as out:
        start = out.seek(0, os.SEEK_END)
        text = _csv_text(rows if start else [header, *rows])
        if start:
            out.seek(start - 1)
            if out.read(1) != b"\n":  # an editor, or a power cut, left the last line open
                text = "\r\n" + text
        left = memoryview(text.encode())
        try:
            while left:
                left = left[out.write(left) :]
            os.fsync(out.fileno())
        except OSError:
            out.truncate(start)  # no half rows
            raise


def _sentence_of(error: Exception) -> str:
    """Return what the log says of an error; it names no file."""
    if isinstance(error, ClientError):
        return error.message
    if isinstance(error, sqlite3.Error):
        return f"The watcher's journal in OUT cannot be used ({error})."
    if isinstance(error, OSError):
        return str(error.strerror or type(error).__name__).rstrip(".?") + (
            "." if error.filename is None else " (a file or folder)."
        )
    return type(error).__name__


def _csv_text(rows: list[list[str]]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue()


def _report_path(folder: Path, version: int) -> Path:
    return folder / ("report.pdf" if version == 1 else f"report-v{version}.pdf")


def _portions(files: list[LocalFile]) -> Iterator[list[LocalFile]]:
    return groups(files, most_files=MAX_FILES, most_bytes=MAX_BYTES)


def _sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, or nothing when it cannot be read (any more)."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def _is_unchanged(file: LocalFile) -> bool:
    try:
        about = file.path.stat()
    except OSError:
        return False
    return (about.st_size, about.st_mtime_ns) == (file.size, file.mtime_ns)


@click.command()
@click.argument("source", metavar="IN", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--out",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for reports and results.csv; also holds what the watcher remembers.",
)
@click.option(
    "--settle",
    default=5.0,
    show_default=True,
    type=click.FloatRange(min=0),
    help="Seconds for which a file's size and time must stay the same.",
)
@click.option("--once", is_flag=True, help="Send what is there, wait for it, file it, end.")
@reading_options
@click.pass_context
@client_command
def watch(
    ctx: click.Context,
    *,
    source: Path,
    out: Path,
    settle: float,
    once: bool,
    label: str,
    manifest: Path | None,
    no_report: bool,
    no_heatmap: bool,
    bundle: str | None,
    priority: str,
) -> None:
    """Send whatever arrives in the folder IN; file the results in OUT.

    A file is sent once it has settled; names ending in .part, .tmp, .crdownload and the like are left alone
    until they are renamed. OUT/<accession or study id>/report.pdf is a study's report, report-v2.pdf its
    next version; OUT/results.csv gets a row for every image. The same content at the same path is never sent
    twice, not after a restart or a power cut either. Whatever does not work (the server, a share, a full
    disk, results.csv open in Excel, a revoked key) is logged once and waited for.

    \b
    Examples:
      fractureai watch /srv/pacs-export --out /srv/fracture-reports
      fractureai watch inbox --out outbox --priority urgent --label "emergency room"
      fractureai watch inbox --out outbox --once

    \b
    Exit codes: 0 ended by Ctrl-C or SIGTERM, or --once is through; 1 --once: some images were
    rejected, failed or cancelled, or some files not sent; 2 usage, or another watcher works on
    OUT; 3 --once: no answer from the server; 4 --once: refused by the server; 5 --once was interrupted.
    """  # noqa: D301 - \b is click's mark for "do not rewrap"
    source, out = source.resolve(), out.resolve()
    if out.is_relative_to(source):
        raise UsageProblem("OUT must not lie in IN: the watcher would send its own reports.")
    out.mkdir(parents=True, exist_ok=True)
    options = SubmitOptions(
        label=label,
        manifest=manifest,
        report=not no_report,
        heatmap=not no_heatmap,
        bundle=bundle,
        priority=priority,
    )

    def say(sentence: str) -> None:
        click.echo(f"{moment(datetime.now(UTC), seconds=True)} {sentence}")

    journal = Journal(out / ".fractureai-watch")
    url, key = find_server()
    try:
        with Client(url, key, patience=60.0 if once else 2.0) as client:
            watcher = Watcher(client, journal, source, out, options, settle=settle, say=say)
            say(f"Watching {source} for {url}")
            if once:
                watcher.run_once()
            else:
                watcher.run()
    except KeyboardInterrupt:
        say("Stopped.")
        ctx.exit(INTERRUPTED if once else OK)
    finally:
        journal.close()
    ctx.exit(watcher.exit_code)

"""`fractureai watch`: send what arrives in one folder, file what was found in another; unattended."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import click

from cli.client import (
    INTERRUPTED,
    OK,
    SOME_FAILED,
    TERMINAL,
    Client,
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

UNFINISHED = (".part", ".partial", ".filepart", ".tmp", ".temp", ".crdownload", ".download")
MOST_FILES = 2000
MOST_BYTES = 4 << 30
HOLD_SECONDS = 60.0  # for so long a settled file waits for its folder's other files, to keep studies together
RETRIED_SECONDS = 60.0
SLOWEST = 30.0
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
        self._away = 0
        self._looked_again = time.monotonic()

    # what the loop does

    def run(self) -> None:
        """Work until interrupted."""
        while True:
            started = time.monotonic()
            try:
                self.note(self.settling.settled(self._arrived(), time.monotonic()))
                self.exchange()
                pause = max(1.0, min(self.settling.seconds / 3, 5.0), time.monotonic() - started)
                if self._away:
                    self.say("The server answers again.")
                self._away = 0
            except (ServerUnreachable, Refused) as error:
                pause = self._come_back_later(error)
            self.client.stopped.wait(pause)

    def run_once(self) -> None:
        """Send what is there and settled, wait for everything in the server's hands, file it.

        Raises
        ------
        ServerUnreachable, Refused
        """
        self.settling.settled(self._arrived(), time.monotonic())
        self.client.stopped.wait(self.settling.seconds)
        now = self._arrived()
        settled = self.settling.settled(now, time.monotonic() + HOLD_SECONDS)
        self.note(settled)
        pause = 0.25
        while self.exchange():
            self.client.stopped.wait(pause)
            pause = min(pause * 1.5, 5.0)
        if left := len(self._arrived()):
            self.exit_code = SOME_FAILED
            self.say(f"{left} files were not sent: they were still changing, or cannot be read.")

    def _come_back_later(self, error: ServerUnreachable | Refused) -> float:
        """Return after how many seconds to try again, or raise what time does not heal."""
        if isinstance(error, Refused) and error.status < 500 and error.status != 429:
            raise error
        if not self._away:
            self.say(f"{error.message} Trying again until it does.")
        self._away += 1
        return min(2.0**self._away, SLOWEST)

    # what arrives

    def _arrived(self) -> list[LocalFile]:
        """Return the files that were not sent yet, settled or not."""
        return [
            file
            for file in find_files([self.source]).files
            if not file.name.casefold().endswith(UNFINISHED) and not self.journal.knows(file)
        ]

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
        for batch in self.journal.batches(SENDING, SENT):
            self._send(batch)
        if time.monotonic() - self._looked_again > RETRIED_SECONDS:
            self._looked_again = time.monotonic()
            self._look_for_retries()
        waiting = False
        for batch in self.journal.batches(SUBMITTED):
            waiting = not self._follow(batch) or waiting
        return waiting or bool(self.journal.batches(SENDING, SENT))

    def _send(self, batch: JournalBatch) -> None:
        files = self.journal.files_of(batch)
        if changed := [file for file in files if not _is_unchanged(file)]:
            self.journal.drop_files(batch, changed)
            files = [file for file in files if file not in changed]
        if not files and batch.remote is None:
            self.journal.forget(batch)
            return
        try:
            if batch.remote is None:
                remote = self.client.create_batch(batch.options, batch.key)
                self.journal.created(batch, remote["id"])
            else:
                remote = self.client.batch(batch.remote)
            missing: list[LocalFile] = []
            if remote["status"] == "draft":
                remote, missing = self._send_to_draft(batch, remote["id"], files)
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
            return
        if remote["submitted_at"] is None:  # a draft that somebody cancelled, or that lay too long
            self.say(
                f"Batch {remote['id']} was cancelled before it was complete: its files are sent in a new one."
            )
            self.journal.restart(batch)
            return
        if missing:
            self.say(
                f"Batch {remote['id']} was submitted by somebody else before {len(missing)} files "
                "had arrived: they are sent in a new one."
            )
            self.journal.move(batch, missing)
        self.journal.set_state(batch, SUBMITTED)
        self.say(f"Batch {remote['id']}: {remote['counts']['total']} images submitted.")

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
        self.journal.drop_files(batch, [file for file in files if file.name in unreadable])
        if too_large := len(sent.unsent) - len(unreadable):
            self.exit_code = SOME_FAILED
            self.say(f"{too_large} files are too large for this server and were not sent.")
        self.journal.set_state(batch, SENT)
        return self.client.act(remote_id, "submit"), []

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

    def _look_for_retries(self) -> None:
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
        if table.exists():
            with table.open(encoding="utf-8", newline="") as file:
                lines = csv.reader(file)
                if next(lines, None) != header:  # another version's columns: a new table beside the old one
                    os.rename(table, self.out / f"results-until-{time.strftime('%Y%m%d-%H%M%S')}.csv")
                elif batch.csv_begun:
                    there = {tuple(line) for line in lines}
                    rows = [row for row in rows if tuple(row) not in there]
        self.journal.csv_begins(batch)
        with table.open("a+b") as out:
            start = out.seek(0, os.SEEK_END)
            text = _csv_text(rows if start else [header, *rows])
            if start:
                out.seek(start - 1)
                if out.read(1) != b"\n":  # an editor, or a power cut, left the last line open
                    text = "\r\n" + text
            out.write(text.encode())
            out.flush()
            os.fsync(out.fileno())
        fresh.unlink()


def _csv_text(rows: list[list[str]]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue()


def _report_path(folder: Path, version: int) -> Path:
    return folder / ("report.pdf" if version == 1 else f"report-v{version}.pdf")


def _portions(files: list[LocalFile]) -> Iterator[list[LocalFile]]:
    return groups(files, most_files=MOST_FILES, most_bytes=MOST_BYTES)


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
    twice, not after a restart or a power cut either. While the server is away the watcher keeps trying.

    \b
    Examples:
      fractureai watch /srv/pacs-export --out /srv/fracture-reports
      fractureai watch inbox --out outbox --priority urgent --label "emergency room"
      fractureai watch inbox --out outbox --once

    \b
    Exit codes: 0 ended by Ctrl-C or SIGTERM, or --once is through; 1 --once: some images were
    rejected, failed or cancelled; 2 usage, or another watcher works on OUT; 3 --once: no answer from
    the server; 4 refused by the server, in a way that waiting does not heal; 5 --once was interrupted.
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
        click.echo(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {sentence}")

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

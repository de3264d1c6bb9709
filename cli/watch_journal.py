"""What `fractureai watch` has done, in a small database of its own: a restart sends nothing twice."""

from __future__ import annotations

import json
import os
import sqlite3
import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cli.client import Json, UsageProblem
from cli.local_files import LocalFile
from cli.locks import try_lock

_TABLES = """
CREATE TABLE IF NOT EXISTS batches (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL, options TEXT NOT NULL, state TEXT NOT NULL,
    remote TEXT, ended_at TEXT, bad INTEGER NOT NULL DEFAULT 0, csv_begun INTEGER NOT NULL DEFAULT 0,
    filed_at REAL);
CREATE TABLE IF NOT EXISTS files (
    path BLOB NOT NULL, sha256 TEXT NOT NULL, name TEXT NOT NULL, size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL, batch INTEGER NOT NULL REFERENCES batches (id), PRIMARY KEY (path, sha256));
CREATE INDEX IF NOT EXISTS files_of_batch ON files (batch);
CREATE TABLE IF NOT EXISTS folders (name TEXT PRIMARY KEY, study TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS reports (
    study TEXT NOT NULL, version INTEGER NOT NULL, sha256 TEXT NOT NULL, PRIMARY KEY (study, sha256));
"""
# The states of a batch: being sent; sent whole, perhaps not submitted; in the server's hands; results filed.
SENDING, SENT, SUBMITTED, FILED = "sending", "sent", "submitted", "filed"
#: For so long a batch with failed or cancelled images is looked at again: somebody may have it retried.
RETRY_SECONDS = 7 * 86_400.0


@dataclass(frozen=True)
class JournalBatch:
    """A batch of the watcher's: `key` makes its creation repeatable, `remote` is the server's id."""

    id: int
    key: str
    options: Json
    state: str
    remote: str | None
    ended_at: str | None
    csv_begun: bool


class Journal:
    """The watcher's memory, held against a second watcher.

    Raises
    ------
    UsageProblem
        Another watcher has it.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            try_lock(self._lock)
        except OSError:
            os.close(self._lock)
            raise UsageProblem(f"Another watcher works on {folder.parent}.") from None
        self._path = folder / "journal.sqlite3"
        self._db = self._connect()

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, isolation_level=None)
        db.execute("PRAGMA synchronous = FULL")
        db.executescript(_TABLES)
        return db

    def reconnect(self) -> None:
        """Open the database anew: after its disk was full or away, the old connection may be of no use."""
        self._db.close()
        self._db = self._connect()

    def close(self) -> None:
        """Let go of it."""
        self._db.close()
        os.close(self._lock)

    # files

    def knows(self, file: LocalFile) -> bool:
        """Tell whether the file was sent, by its path, size and time."""
        row = self._db.execute(
            "SELECT 1 FROM files WHERE path = ? AND size = ? AND mtime_ns = ?",
            (os.fsencode(file.path), file.size, file.mtime_ns),
        )
        return row.fetchone() is not None

    def begin(self, files: Iterable[tuple[LocalFile, str]], options: Json) -> bool:
        """Note a batch of files with their SHA-256 before any of it is sent; tell whether any is new.

        A file whose content was sent from the same path before is only noted with its new time.
        """
        with self._transaction():
            new = []
            for file, sha256 in files:
                at = (file.size, file.mtime_ns, os.fsencode(file.path), sha256)
                update = "UPDATE files SET size = ?, mtime_ns = ? WHERE path = ? AND sha256 = ?"
                if not self._db.execute(update, at).rowcount:
                    new.append((os.fsencode(file.path), sha256, file.name, file.size, file.mtime_ns))
            if new:
                made = self._db.execute(
                    "INSERT INTO batches (key, options, state) VALUES (?, ?, ?)",
                    (str(uuid.uuid4()), json.dumps(options), SENDING),
                )
                rows = [(*row, made.lastrowid) for row in new]
                self._db.executemany("INSERT INTO files VALUES (?, ?, ?, ?, ?, ?)", rows)
        return bool(new)

    def files_of(self, batch: JournalBatch) -> list[LocalFile]:
        """Return the files of a batch as they were when it was noted."""
        rows = self._db.execute("SELECT path, name, size, mtime_ns FROM files WHERE batch = ?", (batch.id,))
        return [LocalFile(Path(os.fsdecode(path)), *rest) for path, *rest in rows]

    def hashes_of(self, batch: JournalBatch) -> dict[str, str]:
        """Return the SHA-256 of a batch's files as they were when it was noted, by name."""
        return dict(
            self._db.execute("SELECT name, sha256 FROM files WHERE batch = ?", (batch.id,)).fetchall()
        )

    def drop_files(self, batch: JournalBatch, files: Sequence[LocalFile]) -> None:
        """Forget files that changed or went before they were sent: they count as new when they come again."""
        with self._transaction():
            self._db.executemany(
                "DELETE FROM files WHERE batch = ? AND path = ?",
                [(batch.id, os.fsencode(f.path)) for f in files],
            )

    # batches

    def batches(self, *states: str) -> list[JournalBatch]:
        """Return the batches of some states, the oldest first."""
        return self._batches(f"state IN ({', '.join('?' * len(states))})", *states)

    def retried_maybe(self) -> list[JournalBatch]:
        """Return the filed batches that had failed or cancelled images, of the last days."""
        return self._batches("state = 'filed' AND bad > 0 AND filed_at > ?", time.time() - RETRY_SECONDS)

    def _batches(self, where: str, *values: object) -> list[JournalBatch]:
        columns = "id, key, options, state, remote, ended_at, csv_begun"
        query = f"SELECT {columns} FROM batches WHERE {where} ORDER BY id"  # noqa: S608 - our own words
        return [
            JournalBatch(id_, key, json.loads(options), state, remote, ended_at, bool(begun))
            for id_, key, options, state, remote, ended_at, begun in self._db.execute(query, values)
        ]

    def created(self, batch: JournalBatch, remote: str) -> None:
        """Note the server's id of a batch."""
        self._db.execute("UPDATE batches SET remote = ? WHERE id = ?", (remote, batch.id))

    def set_state(self, batch: JournalBatch, state: str) -> None:
        """Note that a batch was submitted, or is to be followed again."""
        self._db.execute("UPDATE batches SET state = ? WHERE id = ?", (state, batch.id))

    def csv_begins(self, batch: JournalBatch) -> None:
        """Note that rows of a batch may stand in the CSV from now on."""
        self._db.execute("UPDATE batches SET csv_begun = 1 WHERE id = ?", (batch.id,))

    def filed(self, batch: JournalBatch, ended_at: str | None, bad: int) -> None:
        """Note that a batch's results are filed."""
        self._db.execute(
            "UPDATE batches SET state = ?, ended_at = ?, bad = ?, filed_at = ? WHERE id = ?",
            (FILED, ended_at, bad, time.time(), batch.id),
        )

    def forget(self, batch: JournalBatch) -> None:
        """Forget a batch that has no files left."""
        self._db.execute("DELETE FROM batches WHERE id = ?", (batch.id,))

    def restart(self, batch: JournalBatch) -> None:
        """Have the files of a batch sent in a new one: the server lost it, or it was cancelled as a draft."""
        self._db.execute(
            "UPDATE batches SET key = ?, state = ?, remote = NULL WHERE id = ?",
            (str(uuid.uuid4()), SENDING, batch.id),
        )

    def move(self, batch: JournalBatch, files: Sequence[LocalFile]) -> None:
        """Have files that did not reach a batch in time sent in a new one."""
        with self._transaction():
            made = self._db.execute(
                "INSERT INTO batches (key, options, state) VALUES (?, ?, ?)",
                (str(uuid.uuid4()), json.dumps(batch.options), SENDING),
            )
            self._db.executemany(
                "UPDATE files SET batch = ? WHERE batch = ? AND path = ?",
                [(made.lastrowid, batch.id, os.fsencode(file.path)) for file in files],
            )

    # reports

    def folder_of(self, study: str, preferred: str) -> str:
        """Return the study's folder: the preferred name, or one with its id when another study has that."""
        known = self._db.execute("SELECT name FROM folders WHERE study = ?", (study,)).fetchone()
        if known:
            return str(known[0])
        for name in (preferred, f"{preferred}-{study[:8]}", f"{preferred}-{study}"):
            # Shares of Windows do not tell A from a.
            taken = self._db.execute(
                "SELECT 1 FROM folders WHERE name = ? COLLATE NOCASE", (name,)
            ).fetchone()
            if not taken:
                self._db.execute("INSERT INTO folders VALUES (?, ?)", (name, study))
                return name
        raise AssertionError(f"two studies with the id {study}")

    def report_version(self, study: str, sha256: str) -> tuple[int, bool]:
        """Return the version under which a report is filed, and whether it is filed already."""
        known = self._db.execute(
            "SELECT version FROM reports WHERE study = ? AND sha256 = ?", (study, sha256)
        ).fetchone()
        if known:
            return int(known[0]), True
        last = self._db.execute("SELECT max(version) FROM reports WHERE study = ?", (study,)).fetchone()[0]
        return int(last or 0) + 1, False

    def report_filed(self, study: str, version: int, sha256: str) -> None:
        """Note a report that lies in its place."""
        self._db.execute("INSERT OR IGNORE INTO reports VALUES (?, ?, ?)", (study, version, sha256))

    def _transaction(self) -> sqlite3.Connection:
        self._db.execute("BEGIN IMMEDIATE")
        return self._db  # as a context it commits, or rolls back

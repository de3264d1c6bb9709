"""What an interrupted `submit` left on the server, and the lock that keeps two runs of one command apart."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

from cli.client import Client, Interrupted, Json
from cli.local_files import LocalFile
from cli.locks import try_lock
from cli.upload import FileProblem

#: Files whose hashes are compared with the draft's in one request.
ASKED = 200
HASHING_THREADS = 4
LOCK_SECONDS = 0.5  # between two attempts at a lock that another run holds

#: The SHA-256 of each file by its name; None for one that cannot be read.
Hashes = Mapping[str, str | None]


def _folder() -> Path | None:
    """Return where drafts are noted; None for a user without a home."""
    state = os.environ.get("XDG_STATE_HOME")
    try:
        return (Path(state) if state else Path.home() / ".local" / "state") / "fractureai" / "drafts"
    except RuntimeError:
        return None


@dataclass(frozen=True)
class DraftEntry:
    """A noted draft: its id, and the fingerprint of the files that were to be sent to it."""

    batch: str
    contents: str


class DraftNote:
    """The note of one command: the same server, paths and options give the same one.

    As a context it holds a lock beside the note, so that a draft that is noted and not locked was
    interrupted. Only hashes are kept: names of files may be names of people. Where nothing can be written,
    nothing is noted and nothing is resumed.
    """

    def __init__(self, client: Client, paths: Sequence[Path], options: Json) -> None:
        said = json.dumps([client.url, sorted(str(p.resolve()) for p in paths), options], sort_keys=True)
        folder = _folder()
        self._file = folder / hashlib.sha256(said.encode()).hexdigest()[:32] if folder else None
        self._client = client
        self._lock: int | None = None

    def hold(
        self, *, on_wait: Callable[[DraftEntry | None], None], timeout: float | None = None
    ) -> DraftEntry | None:
        """Take the lock, waiting while another run of the same command has it.

        Parameters
        ----------
        on_wait
            Called once, with what the other run has noted, when there is something to wait for.
        timeout
            Seconds to wait at most; None waits as long as it takes.

        Returns
        -------
        DraftEntry or None
            The draft of a run that was waited for and that has ended well; its batch was submitted.

        Raises
        ------
        Interrupted
            The time is over.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        other: DraftEntry | None = None
        told = False
        while not self._try_lock():
            other = self.read() or other
            if not told:
                on_wait(other)
                told = True
            if deadline is not None and time.monotonic() > deadline:
                raise Interrupted("The same command is still running elsewhere.")
            if self._client.stopped.wait(LOCK_SECONDS):
                raise Interrupted("Interrupted.")
        return other if self.read() is None else None

    def _try_lock(self) -> bool:
        if self._file is None:
            return True
        path = self._file.with_suffix(".lock")
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError:
            self._file = None
            return True
        try:
            try_lock(lock)
            # Its last holder deletes it: what we locked must still be what the name leads to.
            is_current = os.fstat(lock).st_ino == path.stat().st_ino
        except (BlockingIOError, FileNotFoundError):
            is_current = False
        except OSError:  # a file system without locks
            os.close(lock)
            self._file = None
            return True
        if not is_current:
            os.close(lock)
            return False
        self._lock = lock
        return True

    def __enter__(self) -> DraftNote:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock is not None and self._file is not None:
            with suppress(OSError):
                self._file.with_suffix(".lock").unlink()
            os.close(self._lock)
            self._lock = None

    def read(self) -> DraftEntry | None:
        """Return what is noted, if anything."""
        if self._file is None:
            return None
        try:
            said = json.loads(self._file.read_text())
            return DraftEntry(str(said["batch"]), str(said["contents"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def keep(self, entry: DraftEntry) -> None:
        """Note a draft before anything is sent to it."""
        if self._file is not None:
            with suppress(OSError):
                self._file.write_text(json.dumps(asdict(entry)))

    def forget(self) -> None:
        """Forget it: it was submitted, or is gone."""
        if self._file is not None:
            with suppress(OSError):
                self._file.unlink()


def _sha256(path: Path) -> str | None:
    try:
        with path.open("rb") as source:
            return hashlib.file_digest(source, "sha256").hexdigest()
    except OSError:
        return None


def hash_files(files: Sequence[LocalFile]) -> dict[str, str | None]:
    """Return each file's SHA-256 by its name."""
    with ThreadPoolExecutor(HASHING_THREADS) as pool:
        return dict(
            zip((file.name for file in files), pool.map(lambda f: _sha256(f.path), files), strict=True)
        )


def fingerprint(files: Sequence[LocalFile], hashes: Hashes, manifest: Path | None) -> str:
    """Return one hash over every file's path, size and content, and the manifest's content."""
    about = sorted((file.name, file.size, hashes[file.name] or "") for file in files)
    return hashlib.sha256(json.dumps([about, manifest and _sha256(manifest)]).encode()).hexdigest()


def _groups(files: Sequence[LocalFile]) -> Iterator[Sequence[LocalFile]]:
    for start in range(0, len(files), ASKED):
        yield files[start : start + ASKED]


def skip_known(
    client: Client, batch_id: str, files: Sequence[LocalFile], hashes: Hashes
) -> tuple[list[LocalFile], int, list[FileProblem]]:
    """Return the files that the draft lacks, how many of the others it took, and those it refused."""
    missing: list[LocalFile] = []
    accepted = 0
    problems: list[FileProblem] = []
    for group in _groups(files):
        known = {
            f["filename"]: f
            for f in client.known_files(batch_id, {file.name: hashes[file.name] for file in group})
        }
        for file in group:
            answer = known.get(file.name)
            if answer is None:
                missing.append(file)
            elif reason := answer["reason"]:
                problems.append(FileProblem(file.name, reason["code"], reason["sentence"], reason["advice"]))
            else:
                accepted += 1
    return missing, accepted, problems


def not_in_batch(
    client: Client, batch_id: str, files: Sequence[LocalFile], hashes: Hashes | None = None
) -> list[LocalFile]:
    """Return the files that a batch does not hold, by their names or, where given, their hashes.

    An archive is never found: the batch holds its members under names of their own.
    """
    if not files:
        return []
    names: set[str] = set()
    there: set[str] = set()
    for image in client.images(batch_id):
        names.add(image["filename"])
        there.add(image["sha256"] or "")
    return [
        file
        for file in files
        if file.name not in names and not (hashes and (hashes[file.name] or "-") in there)
    ]

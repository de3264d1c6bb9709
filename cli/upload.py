"""Send a batch's files in parallel requests that may be sent again safely."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from cli.client import PIECE_BYTES, Client, Interrupted, Json, Refused
from cli.local_files import GROUP_BYTES, LocalFile, groups

PARALLEL = 4
#: The server's code for files that come to a batch which is no draft any more.
NOT_DRAFT = "batch_not_draft"


@dataclass(frozen=True)
class FileProblem:
    """A file that will not be read, and why; `code` is the server's, or ``unreadable`` for one of ours."""

    name: str
    code: str
    sentence: str
    advice: str = ""


@dataclass(frozen=True)
class Uploaded:
    """What became of the files: how many of each answer, the ones refused, the ones not even sent."""

    counts: Json
    problems: tuple[FileProblem, ...]
    unsent: tuple[FileProblem, ...]


class DraftTaken(Refused):
    """The batch stopped being a draft while files were sent to it: somebody submitted or cancelled it.

    Attributes
    ----------
    sent
        What became of the files that were answered.
    unanswered
        The files of the other requests; the server may have taken some of them.
    """

    def __init__(self, refused: Refused, sent: Uploaded, unanswered: Sequence[LocalFile]) -> None:
        super().__init__(refused.status, refused.code, refused.sentence, refused.advice)
        self.sent = sent
        self.unanswered = tuple(unanswered)


class _LocalFault(Exception):
    """A file cannot be read; its request has to go without it."""

    def __init__(self, file: LocalFile, sentence: str) -> None:
        super().__init__(sentence)
        self.file = file
        self.sentence = sentence


class _Reader:
    """A file of a request: counts what was read, never gives more than was announced, stops when told."""

    def __init__(
        self,
        file: LocalFile,
        source: IO[bytes],
        on_bytes: Callable[[int], None],
        client: Client,
        position: int = 0,
    ) -> None:
        self._file, self._source, self._on_bytes, self._client = file, source, on_bytes, client
        self._position = position

    def read(self, size: int = -1) -> bytes:
        if self._client.stopped.is_set():
            raise Interrupted("Interrupted.")
        left = self._file.size - self._position
        try:
            piece = self._source.read(left if size < 0 else min(size, left))
        except OSError as error:
            raise _LocalFault(self._file, error.strerror or "The file cannot be read.") from error
        if not piece and left:
            raise _LocalFault(self._file, "The file became shorter while it was read.")
        self._position += len(piece)
        self._on_bytes(len(piece))
        return piece

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = 0) -> int:
        # httpx asks for the end to learn the length, then goes back to the start.
        self._position = (self._file.size if whence == 2 else 0) + offset
        return self._source.seek(self._position)


class _Upload:
    """One upload: its threads add to what is known under one lock."""

    def __init__(self, client: Client, batch_id: str, on_progress: Callable[[int, int], None]) -> None:
        self.client = client
        self.batch_id = batch_id
        self.on_progress = on_progress
        self.lock = threading.Lock()
        self.counts: Json = dict.fromkeys(("accepted", "rejected", "skipped"), 0)
        self.problems: list[FileProblem] = []
        self.unsent: list[FileProblem] = []
        self.answered: set[str] = set()

    def result(self) -> Uploaded:
        """Return what became of the files so far."""
        with self.lock:
            problems = sorted([*self.problems, *self.unsent], key=lambda problem: problem.name)
            return Uploaded(dict(self.counts), tuple(problems), tuple(self.unsent))

    def send(self, group: list[LocalFile]) -> None:
        """Send one request; one that is too large is cut in two, an unreadable file is left out."""
        sent, passed = 0, 0

        def forget() -> None:
            nonlocal sent
            self.on_progress(0, -sent)
            sent = 0

        def count(n: int) -> None:
            nonlocal sent, passed
            sent += n
            passed += n
            self.on_progress(0, n)

        def parts(opened: ExitStack) -> Sequence[tuple[str, Any]]:
            forget()  # a try that broke off starts again
            fields = []
            for file in group:
                try:
                    source = opened.enter_context(file.path.open("rb"))
                except OSError as error:
                    raise _LocalFault(file, error.strerror or "The file cannot be read.") from error
                reader = _Reader(file, source, count, self.client)
                fields.append(("files", (file.name, reader, "application/octet-stream")))
            return fields

        try:
            if len(group) == 1 and group[0].size > GROUP_BYTES:
                answer = self._send_large(group[0], count)
            else:
                answer = self.client.send_files(self.batch_id, parts, lambda: passed)
        except _LocalFault as fault:
            forget()
            self._not_sent(FileProblem(fault.file.name, "unreadable", fault.sentence), fault.file.size)
            if others := [file for file in group if file is not fault.file]:
                self.send(others)
        except Refused as refused:
            if refused.status != 413:
                raise
            forget()
            if len(group) == 1:
                file = group[0]
                self._not_sent(
                    FileProblem(file.name, refused.code, refused.sentence, refused.advice), file.size
                )
            else:
                for half in (group[: len(group) // 2], group[len(group) // 2 :]):
                    self.send(half)
        else:
            self._take(group, answer["files"])
            self.on_progress(len(group), 0)

    def _send_large(self, file: LocalFile, count: Callable[[int], None]) -> Json:
        """Send a file that goes alone in pieces; a break costs the last piece, not all of it."""
        furthest = 0

        def read(offset: int) -> Iterator[bytes]:
            nonlocal furthest
            try:
                with file.path.open("rb") as source:
                    source.seek(offset)
                    reader = _Reader(file, source, lambda n: None, self.client, position=offset)
                    end = min(offset + PIECE_BYTES, file.size)
                    while offset < end:
                        piece = reader.read(min(1 << 16, end - offset))
                        offset += len(piece)
                        if offset > furthest:
                            count(offset - furthest)
                            furthest = offset
                        yield piece
            except OSError as error:
                raise _LocalFault(file, error.strerror or "The file cannot be read.") from error

        return self.client.send_large(self.batch_id, file.name, file.size, read)

    def _not_sent(self, problem: FileProblem, size: int) -> None:
        with self.lock:
            self.counts["rejected"] += 1
            self.unsent.append(problem)
            self.answered.add(problem.name)
        self.on_progress(1, size)

    def _take(self, group: Iterable[LocalFile], files: Iterable[Json]) -> None:
        with self.lock:
            self.answered.update(file.name for file in group)
            for file in files:
                reason = file.get("reason")
                if file["status"] == "skipped":
                    self.counts["skipped"] += 1
                elif not reason:  # accepted; or `duplicate`, when the first try's answer was lost
                    self.counts["accepted"] += 1
                else:
                    self.counts["rejected"] += 1
                    self.problems.append(
                        FileProblem(file["filename"], reason["code"], reason["sentence"], reason["advice"])
                    )


def upload(
    client: Client,
    batch_id: str,
    files: Sequence[LocalFile],
    *,
    manifest: Path | None = None,
    on_progress: Callable[[int, int], None] = lambda files, size: None,
) -> Uploaded:
    """Send the manifest first, then the files, a few requests at a time.

    Parameters
    ----------
    on_progress
        Called from several threads with the files and the bytes that were sent since the last call.

    Raises
    ------
    DraftTaken
        Somebody submitted or cancelled the batch meanwhile.
    ServerUnreachable, Refused, Interrupted
        Nothing more is sent; what was sent stays, and sending it again is safe.
    """
    work = _Upload(client, batch_id, on_progress)
    try:
        if manifest is not None:
            client.send_files(
                batch_id,
                lambda opened: [
                    ("manifest", ("manifest.csv", opened.enter_context(manifest.open("rb")), "text/csv"))
                ],
            )
        _send_all(work, groups(files))
    except Refused as refused:
        if refused.code != NOT_DRAFT:
            raise
        unanswered = [file for file in files if file.name not in work.answered]
        raise DraftTaken(refused, work.result(), unanswered) from refused
    return work.result()


def _send_all(work: _Upload, requests: Iterator[list[LocalFile]]) -> None:
    """Send requests from a few threads; the first failure, or an interruption, stops them all."""
    failures: list[BaseException] = []
    lock = threading.Lock()

    def send() -> None:
        while not failures:
            with lock:
                group = next(requests, None)
            if group is None:
                return
            try:
                work.send(group)
            except BaseException as error:
                failures.append(error)

    # Daemons: one that waits for a server that hangs must not keep an interrupted command from ending.
    threads = [threading.Thread(target=send, name=f"upload-{n}", daemon=True) for n in range(PARALLEL)]
    for thread in threads:
        thread.start()
    try:
        while not failures and any(thread.is_alive() for thread in threads):
            for thread in threads:
                thread.join(0.1)
    except BaseException:
        work.client.stopped.set()
        raise
    if failures:
        work.client.stopped.set()
        for thread in threads:
            thread.join(2.0)
        work.client.stopped.clear()
        raise failures[0]

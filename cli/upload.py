"""Send a batch's files in parallel requests that may be sent again safely."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from cli.client import Client, Interrupted, Json, Refused
from cli.local_files import LocalFile, groups

PARALLEL = 4


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


class _LocalFault(Exception):
    """A file cannot be read; its request has to go without it."""

    def __init__(self, file: LocalFile, sentence: str) -> None:
        super().__init__(sentence)
        self.file = file
        self.sentence = sentence


class _Reader:
    """A file of a request: counts what was read, never gives more than was announced, stops when told."""

    def __init__(
        self, file: LocalFile, source: IO[bytes], on_bytes: Callable[[int], None], client: Client
    ) -> None:
        self._file, self._source, self._on_bytes, self._client = file, source, on_bytes, client
        self._position = 0

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

    def send(self, group: list[LocalFile]) -> None:
        """Send one request; one that is too large is cut in two, an unreadable file is left out."""
        sent = 0

        def forget() -> None:
            nonlocal sent
            self.on_progress(0, -sent)
            sent = 0

        def count(n: int) -> None:
            nonlocal sent
            sent += n
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
            answer = self.client.send_files(self.batch_id, parts)
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
            self._take(answer["files"])
            self.on_progress(len(group), 0)

    def _not_sent(self, problem: FileProblem, size: int) -> None:
        with self.lock:
            self.counts["rejected"] += 1
            self.unsent.append(problem)
        self.on_progress(1, size)

    def _take(self, files: Iterable[Json]) -> None:
        with self.lock:
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
    ServerUnreachable, Refused, Interrupted
        Nothing more is sent; what was sent stays, and sending it again is safe.
    """
    if manifest is not None:
        client.send_files(
            batch_id,
            lambda opened: [
                ("manifest", ("manifest.csv", opened.enter_context(manifest.open("rb")), "text/csv"))
            ],
        )
    work = _Upload(client, batch_id, on_progress)
    _send_all(work, groups(files))
    problems = sorted([*work.problems, *work.unsent], key=lambda problem: problem.name)
    return Uploaded(work.counts, tuple(problems), tuple(work.unsent))


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

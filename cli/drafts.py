"""Which draft an interrupted `submit` left on the server, so that the same command goes on with it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from cli.client import Client, Json, Refused
from cli.local_files import LocalFile
from cli.upload import FileProblem

#: Files whose hashes are compared with the draft's in one request.
ASKED = 200


def _folder() -> Path:
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "fractureai" / "drafts"


class Draft:
    """The memory of one command: the same server, paths and options give the same one.

    Only the draft's id is kept, under a hash: names of files may be names of people.
    """

    def __init__(self, client: Client, paths: Sequence[Path], options: Json) -> None:
        said = json.dumps([client.url, sorted(str(p.resolve()) for p in paths), options], sort_keys=True)
        self._file = _folder() / hashlib.sha256(said.encode()).hexdigest()[:32]
        self._client = client

    def find(self) -> Json | None:
        """Return the draft that an earlier run left, if the server still has it as one."""
        with suppress(OSError, Refused):
            batch = self._client.batch(self._file.read_text().strip())
            if batch["status"] == "draft":
                return batch
        self.forget()
        return None

    def keep(self, batch_id: str) -> None:
        """Note the draft before anything is sent. Where that cannot be written, nothing is resumed later."""
        with suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._file.write_text(batch_id)

    def forget(self) -> None:
        """Forget it: it was submitted, or is gone."""
        with suppress(OSError):
            self._file.unlink()


def _sha256(file: LocalFile) -> str | None:
    try:
        with file.path.open("rb") as source:
            return hashlib.file_digest(source, "sha256").hexdigest()
    except OSError:
        return None


def _groups(files: Sequence[LocalFile]) -> Iterator[Sequence[LocalFile]]:
    for start in range(0, len(files), ASKED):
        yield files[start : start + ASKED]


def leave_out_known(
    client: Client, batch_id: str, files: Sequence[LocalFile]
) -> tuple[list[LocalFile], int, list[FileProblem]]:
    """Return the files that the draft lacks, how many of the others it took, and those it refused."""
    missing: list[LocalFile] = []
    accepted = 0
    problems: list[FileProblem] = []
    for group in _groups(files):
        hashes = {file.name: _sha256(file) for file in group}
        known = {f["filename"]: f for f in client.known_files(batch_id, hashes)}
        for file in group:
            answer = known.get(file.name)
            if answer is None:
                missing.append(file)
            elif reason := answer["reason"]:
                problems.append(FileProblem(file.name, reason["code"], reason["sentence"], reason["advice"]))
            else:
                accepted += 1
    return missing, accepted, problems

"""A rolling upgrade: workers of an earlier commit beside today's, on one broker and one migrated database."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tarfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path

import pytest
from sqlalchemy import func, select

from store.base.blobs import get_blobs
from store.base.session import session_scope
from store.base.tables import Batch, Image
from store.intake import uploads
from store.queue import dispatch
from store.reading import full_depth
from tests.conftest import ROOT
from tests.running import (
    PATIENCE,
    QUEUES,
    Service,
    assert_sound,
    images_of,
    read_batch,
    submit,
    wait_for,
    wait_until_ended,
)

#: The earlier version is the last commit before this migration: it brought a kind of work unknown till then.
#: It is number 0028 since another one came before it.
MIGRATION = "migrations/versions/0027_viewer.py"
#: What a batch passes; nothing here waits for the worker of notices and exports.
BATCH_QUEUES = ("cpu", "gpu", "report")
#: What the earlier version runs to take a batch in, as its web would.
SUBMIT = """
import sys, uuid
from pathlib import Path
from tests.running import submit
files = {path.name: path.read_bytes() for path in sorted(Path(sys.argv[2]).iterdir())}
print(submit(uuid.UUID(sys.argv[1]), files).id)
"""


def git(*arguments: str) -> bytes:
    """Return what git says, or nothing where it cannot."""
    found = shutil.which("git")
    command = [found or "git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, check=False).stdout if found else b""


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The earlier version's files, from this repository's own history."""
    added = git("log", "--diff-filter=A", "--format=%H", "--", MIGRATION).decode().split()
    packed = git("archive", f"{added[-1]}^") if added else b""
    if not packed:
        pytest.skip(f"no history that goes back to before {MIGRATION}: a shallow clone, or no repository")
    tree = tmp_path_factory.mktemp("earlier")
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(tree, filter="data")
    assert not (tree / MIGRATION).exists()
    return tree


class Upgrade:
    """Workers of both versions, and batches that keep them busy."""

    def __init__(self, earlier: Path, logs: Path, site_id: uuid.UUID, pictures: dict[str, bytes]) -> None:
        for name in ("old", "new"):
            (logs / name).mkdir()
        self.old, self.new = Service(logs / "old", tree=earlier), Service(logs / "new")
        self.site_id, self.pictures = site_id, pictures
        self.batches: list[Batch] = []

    def files(self) -> dict[str, bytes]:
        """Return pictures that were never sent before, so that each is read anew."""
        mark = len(self.batches).to_bytes(4, "big")
        return {path.rpartition("/")[2]: data + mark for path, data in self.pictures.items()}

    def taken_in_by_the_earlier(self, folder: Path) -> Batch:
        """Have the earlier version take a batch in."""
        folder.mkdir()
        for name, data in self.files().items():
            (folder / name).write_bytes(data)
        command = [sys.executable, "-c", SUBMIT, str(self.site_id), str(folder)]
        said = subprocess.run(command, cwd=self.old.tree, env=os.environ, check=True, stdout=subprocess.PIPE)
        with session_scope() as session:
            self.batches.append(session.get_one(Batch, uuid.UUID(said.stdout.decode().split()[-1])))
        return self.batches[-1]

    def work_until(self, ask: Callable[[], object], what: str) -> None:
        """Submit one batch after the other until the answer is true."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            # the earlier version opens no sealed uploads: its workers are replaced before the web is
            self.batches.append(submit(self.site_id, self.files(), sealed=False))
            while read_batch(self.batches[-1]).finished_at is None and time.monotonic() < end:
                if ask():
                    return
                time.sleep(0.02)
        raise AssertionError(f"waited {PATIENCE} s for {what}")

    def replace(self, queue: str) -> None:
        """Start a new worker, have both work for a while, end the old one in mid-work."""
        before = count(self.old, queue, "succeeded")

        def both() -> bool:
            return count(self.new, queue, "succeeded") > 0 and count(self.old, queue, "succeeded") > before

        def busy() -> bool:
            return count(self.old, queue, "received") > count(self.old, queue, "succeeded")

        self.new.start(queue)
        self.work_until(both, f"both to work on {queue}")
        self.work_until(busy, f"the earlier worker to be busy with {queue}")
        if queue == "gpu":
            self.old.kill(queue)  # as if its machine had been pulled out
        else:
            self.old.processes[queue].terminate()
            self.old.processes[queue].wait(PATIENCE)


def count(service: Service, queue: str, word: str) -> int:
    """Count the tasks that a worker has ``received``, or that have ``succeeded``."""
    return sum(f"] {word}" in line for line in service.log(queue).splitlines() if "Task fractureai." in line)


@pytest.fixture
def upgrade(
    earlier: Path, site_id: uuid.UUID, pictures: dict[str, bytes], tmp_path: Path
) -> Iterator[Upgrade]:
    made = Upgrade(earlier, tmp_path, site_id, pictures)
    with ExitStack() as stack:
        stack.callback(made.old.stop)
        stack.callback(made.new.stop)
        yield made


@pytest.mark.faults
def test_workers_are_replaced_one_by_one(upgrade: Upgrade, calm: dict[str, float], tmp_path: Path) -> None:
    old, new = upgrade.old, upgrade.new
    new.start("reconcile")
    for queue in QUEUES:
        old.start(queue)
    first = upgrade.taken_in_by_the_earlier(tmp_path / "pictures")
    wait_until_ended(first)
    assert_sound(first, calm)
    looked_at = look_at_full_depth(first)
    wait_for(lambda: "unregistered task" in old.log("cpu"), PATIENCE, "what the earlier does not know")

    for queue in BATCH_QUEUES:
        upgrade.replace(queue)
    with session_scope() as session:
        alone_since = session.execute(select(func.clock_timestamp())).scalar_one()
    upgrade.work_until(lambda: True, "a batch of today's alone")

    for batch in upgrade.batches:
        assert wait_until_ended(batch).n_done == len(upgrade.pictures)
    wait_for(lambda: at_full_depth(looked_at), PATIENCE, "the picture at full depth")
    sweep_what_the_earlier_left(alone_since, tmp_path / "blobs")
    for batch in upgrade.batches[1:]:
        assert_sound(batch, calm)
    for queue in BATCH_QUEUES:
        done = [count(version, queue, "succeeded") for version in (old, new)]
        print(f"{queue}: {done[0]} tasks by the earlier version, {done[1]} by today's")
        assert min(done) > 0


def sweep_what_the_earlier_left(alone_since: datetime, blobs: Path) -> None:
    """Let the hour pass after which reconcile deletes uploads of ended batches that no row names.

    The earlier version deletes an upload after its commit, and its end of a batch does not look for those of
    workers that died in between. Today's does: it leaves none.
    """
    left = {uuid.UUID(key.split("/")[1]) for key in get_blobs().keys("incoming/")}
    with session_scope() as session:
        ends = session.scalars(select(Batch.finished_at).where(Batch.id.in_(left))).all()
    print(f"{len(left)} batches left an upload that no row names")
    assert all(end is not None and end < alone_since for end in ends), "today's version left one"
    for path in (blobs / "incoming").rglob("*"):
        os.utime(path, (0, 0))
    uploads.delete_expired()


def look_at_full_depth(batch: Batch) -> uuid.UUID:
    """Have somebody look at an image closely: work of a kind that the earlier version does not know."""
    image_id = images_of(batch)[0].id
    with session_scope() as session:
        answer, _ = full_depth.ask(session, image_id)
    assert answer is full_depth.Answer.MAKING
    dispatch.dispatch()
    return image_id


def at_full_depth(image_id: uuid.UUID) -> bool:
    """Whether the image's picture has been made."""
    with session_scope() as session:
        return session.get_one(Image, image_id).pixels_key is not None

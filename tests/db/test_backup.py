"""A server that was backed up, lost and restored is whole again; a damaged archive changes nothing."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import threading
import time
import uuid
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import Engine, select, text

from cli import backup
from cli.main import main
from interop.private_keys import make_key_pair
from settings import get_settings
from store.base.blobs import BlobStore
from store.base.session import session_scope
from store.base.tables import Batch, Finding, Image, Site
from store.intake import batches, envelopes
from store.intake.batches import NewFile
from store.operations.fsck import check
from tests.reading import read_batch

SECRET = "a secret for tests alone"


@pytest.fixture
def batch(site: uuid.UUID, blobs: BlobStore) -> Batch:
    """Three images, read."""
    with session_scope() as session:
        made, _ = batches.create_batch(session, site_id=site, user_id=None)
        files = []
        for n in range(3):
            key = batches.new_incoming_key(made.id)
            files.append(NewFile(f"{n}.png", *blobs.put(key, b"upload %d" % n), key))
        batches.add_files(session, made.id, site, files)
        batches.submit(session, made.id, site)
    read_batch(made.id)
    return made


def results() -> list[tuple[str, float | None]]:
    """Return what was found, by path."""
    with session_scope() as session:
        rows = session.query(Image.path, Finding.probability).join(Finding, Finding.id == Image.finding_id)
        return sorted((path, probability) for path, probability in rows)


def lose_everything(database: Engine, blobs: BlobStore) -> None:
    with database.begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    for key in list(blobs.keys("")):
        blobs.delete(key)


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def archive(batch: Batch, tmp_path: Path) -> Path:
    saved = tmp_path / "saved.tar"
    done = run("backup", saved, "--home", tmp_path)
    assert done.exit_code == 0, done.output
    return saved


def test_restored_after_a_loss(archive: Path, database: Engine, blobs: BlobStore, tmp_path: Path) -> None:
    before, keys = results(), sorted(blobs.keys(""))
    assert len(before) == 3
    lose_everything(database, blobs)
    done = run("restore", archive, "--home", tmp_path / "home")
    assert done.exit_code == 0, done.output
    assert results() == before
    assert sorted(blobs.keys("")) == keys
    assert check().clean


def test_what_is_there_is_not_replaced_unless_forced(archive: Path, blobs: BlobStore, tmp_path: Path) -> None:
    blobs.put("scratch/later", b"made after the backup")
    refused = run("restore", archive, "--home", tmp_path / "home")
    assert refused.exit_code != 0
    assert "--force" in refused.output
    assert blobs.exists("scratch/later")
    forced = run("restore", archive, "--home", tmp_path / "home", "--force")
    assert forced.exit_code == 0, forced.output
    assert not blobs.exists("scratch/later")
    assert check().clean


def test_a_damaged_archive_changes_nothing(archive: Path, tmp_path: Path) -> None:
    before = results()
    with tarfile.open(archive) as tar:
        member = next(info for info in tar if info.name.startswith("blobs/"))
    data = bytearray(archive.read_bytes())
    data[member.offset_data] ^= 1
    archive.write_bytes(data)
    refused = run("restore", archive, "--home", tmp_path / "home", "--force")
    assert refused.exit_code != 0
    assert "damaged" in refused.output
    assert results() == before


def test_a_cut_archive_changes_nothing(archive: Path, tmp_path: Path) -> None:
    before = results()
    archive.write_bytes(archive.read_bytes()[:-20_000])
    refused = run("restore", archive, "--home", tmp_path / "home", "--force")
    assert refused.exit_code != 0
    assert "not a whole backup" in refused.output
    assert results() == before


def test_the_archive_is_private_and_names_its_members(archive: Path, tmp_path: Path) -> None:
    assert archive.stat().st_mode & 0o077 == 0
    with tarfile.open(archive) as tar:
        manifest = tar.extractfile("manifest.json")
        assert manifest is not None
        assert {*json.load(manifest)["members"], "manifest.json"} == set(tar.getnames())
    again = run("backup", archive, "--home", tmp_path)
    assert again.exit_code != 0
    assert "there already" in again.output


def test_the_secret_lies_apart_from_the_archive(archive: Path, tmp_path: Path) -> None:
    assert SECRET.encode() not in archive.read_bytes()
    other, file = tmp_path / "other.tar", tmp_path / "secret"
    done = run("backup", other, "--secret-file", file, "--home", tmp_path)
    assert done.exit_code == 0, done.output
    assert file.read_text() == SECRET
    assert file.stat().st_mode & 0o077 == 0
    assert SECRET.encode() not in other.read_bytes()
    again = run("backup", tmp_path / "third.tar", "--secret-file", file, "--home", tmp_path)
    assert again.exit_code != 0
    assert not (tmp_path / "third.tar").exists()


def test_without_the_right_secret_nothing_is_restored(
    archive: Path, tmp_path: Path, settings_env: pytest.MonkeyPatch
) -> None:
    before = results()
    settings_env.delenv("FRACTUREAI_SECRET_KEY")
    missing = run("restore", archive, "--home", tmp_path / "home", "--force")
    assert missing.exit_code != 0
    assert "--secret-file" in missing.output
    settings_env.setenv("FRACTUREAI_SECRET_KEY", "another")
    wrong = run("restore", archive, "--home", tmp_path / "home", "--force")
    assert wrong.exit_code != 0
    assert "not the secret" in wrong.output
    assert results() == before
    settings_env.delenv("FRACTUREAI_SECRET_KEY")
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    right = run(
        "restore", archive, "--home", tmp_path / "home", "--force", "--secret-file", tmp_path / "secret"
    )
    assert right.exit_code == 0, right.output
    assert (tmp_path / "home" / "secret_key").read_text() == SECRET
    assert "Results cannot go back" not in right.output


def test_a_restore_without_the_private_key_says_that_nothing_can_go_back(
    archive: Path, tmp_path: Path, settings_env: pytest.MonkeyPatch
) -> None:
    settings_env.setenv("FRACTUREAI_GATEWAY_KEYS", str(tmp_path / "keys"))
    get_settings.cache_clear()
    public = make_key_pair(tmp_path / "keys")
    with session_scope() as session:
        envelopes.add_key(session, session.scalars(select(Site.id)).first(), public)
    other = tmp_path / "other.tar"
    assert run("backup", other, "--home", tmp_path).exit_code == 0
    (key,) = (tmp_path / "keys").iterdir()
    assert key.read_text().strip().encode() not in other.read_bytes()
    with_it = run("restore", other, "--home", tmp_path / "home", "--force")
    assert with_it.exit_code == 0, with_it.output
    assert "Results cannot go back" not in with_it.output
    key.unlink()
    without = run("restore", other, "--home", tmp_path / "home", "--force")
    assert without.exit_code == 0, without.output
    assert "Results cannot go back" in without.output
    assert envelopes.key_id_of(public) in without.output


def test_an_archive_of_an_earlier_version_is_restored_with_the_secret_in_it(
    archive: Path, tmp_path: Path, settings_env: pytest.MonkeyPatch
) -> None:
    before, early = results(), tmp_path / "early.tar"
    with tarfile.open(archive) as tar, tarfile.open(early, "w") as out:
        for info in tar:
            member = tar.extractfile(info)
            assert member is not None
            if info.name != "manifest.json":
                out.addfile(info, member)
                continue
            manifest = json.load(member) | {"format": 1}
            del manifest["secret"]
            added = {"secret_key": SECRET.encode()}
            named = {"size": len(SECRET), "sha256": hashlib.sha256(SECRET.encode()).hexdigest()}
            manifest["members"]["secret_key"] = named
            for name, data in (added | {"manifest.json": json.dumps(manifest).encode()}).items():
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                out.addfile(entry, io.BytesIO(data))
    settings_env.setenv("FRACTUREAI_SECRET_KEY", "another")
    done = run("restore", early, "--home", tmp_path / "home", "--force")
    assert done.exit_code == 0, done.output
    assert "FRACTUREAI_SECRET_KEY" in done.output
    assert results() == before


def test_no_restore_while_a_worker_lives_anywhere(
    archive: Path, database: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = text(
        "INSERT INTO workers (name, queues, slots, version, seen_at)"
        " VALUES ('far:1', '[\"cpu\"]', 1, '0', clock_timestamp())"
        " ON CONFLICT (name) DO UPDATE SET seen_at = clock_timestamp()"
    )
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(0.2):
            with database.begin() as connection:
                connection.execute(add)

    worker = threading.Thread(target=beat)
    worker.start()
    try:
        time.sleep(0.5)
        refused = run("restore", archive, "--force", "--home", tmp_path)
        assert refused.exit_code == 2
        assert "worker far:1" in refused.output
    finally:
        ended.set()
        worker.join()
    assert results()
    monkeypatch.setattr(backup, "LOOK_SECONDS", 1.0)
    assert run("restore", archive, "--force", "--home", tmp_path).exit_code == 0, "it is dead now"

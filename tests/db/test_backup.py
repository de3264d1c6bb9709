"""A server that was backed up, lost and restored is whole again; a damaged archive changes nothing."""

from __future__ import annotations

import json
import tarfile
import uuid
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import Engine, text

from cli.main import main
from store import batches
from store.batches import NewFile
from store.blobs import BlobStore
from store.fsck import check
from store.session import session_scope
from store.tables import Batch, Finding, Image
from tests.reading import read_batch


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


def test_the_archive_is_private_names_its_members_and_carries_the_secret(
    archive: Path, tmp_path: Path
) -> None:
    assert archive.stat().st_mode & 0o077 == 0
    with tarfile.open(archive) as tar:
        manifest = tar.extractfile("manifest.json")
        secret = tar.extractfile("secret_key")
        assert manifest is not None
        assert secret is not None
        assert {*json.load(manifest)["members"], "manifest.json"} == set(tar.getnames())
        assert secret.read() == b"a secret for tests alone"
    again = run("backup", archive, "--home", tmp_path)
    assert again.exit_code != 0
    assert "there already" in again.output


def test_another_secret_is_said(archive: Path, tmp_path: Path, settings_env: pytest.MonkeyPatch) -> None:
    settings_env.setenv("FRACTUREAI_SECRET_KEY", "another")
    done = run("restore", archive, "--home", tmp_path / "home", "--force")
    assert done.exit_code == 0, done.output
    assert "FRACTUREAI_SECRET_KEY" in done.output

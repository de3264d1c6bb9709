"""The watcher against a real server: what it sends, files, and remembers."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner
from sqlalchemy import func, select

from cli.changes import notifies_of_all_changes
from cli.client import Client
from cli.local_files import find_files
from cli.main import main
from cli.submit import SubmitOptions
from cli.upload import upload
from cli.watch import Watcher, _append
from cli.watch_journal import FILED, SENDING, SUBMITTED, Journal
from settings import get_settings
from store.base.session import session_scope
from store.base.tables import Batch, Image
from store.intake import batches
from tests.conftest import ROOT
from tests.reading import read_batch
from tests.web.serving import Reader, Server, Serving

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    inbox, out = tmp_path / "in", tmp_path / "out"
    inbox.mkdir()
    out.mkdir()
    return inbox, out


def arrive(inbox: Path, name: str, content: bytes = b"") -> Path:
    path = inbox / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(PNG + (content or name.encode()))
    return path


@contextmanager
def watching(serving: Serving, inbox: Path, out: Path, *, told: bool = False) -> Iterator[Watcher]:
    """A watcher that is called step by step; leaving the block is its end, as a killed one's is.

    It looks for itself, as on a share, unless it is to be `told`: the kernel's word comes a little late.
    """
    journal = Journal(out / ".fractureai-watch")
    with Client(serving.url, serving.key, patience=1.0) as client:
        watcher = Watcher(client, journal, inbox, out, SubmitOptions(), settle=0.0, say=lambda line: None)
        watcher.changes_are_told &= told
        yield watcher
    journal.close()


def step(watcher: Watcher) -> None:
    watcher.note(watcher.settling.settled(watcher._arrived(), time.monotonic()))
    watcher.exchange()


def count(table: type[Batch] | type[Image]) -> int:
    with session_scope() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def read_all(**how: object) -> None:
    with session_scope() as session:
        waiting = list(session.scalars(select(Batch.id).where(Batch.status == "queued")))
    for batch_id in waiting:
        read_batch(batch_id, **how)


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def header(path: str) -> Mapping[str, str]:
    """What the header of a path's image would say: the folder is the study."""
    study = path.split("/", 1)[0]
    return {"study_uid": f"1.2.{study}", "accession": f"ACC/{study}"}


def test_once_files_a_report_a_study_under_its_accession(
    serving: Serving, folders: tuple[Path, Path]
) -> None:
    inbox, out = folders
    arrive(inbox, "7/a.png")
    arrive(inbox, "7/b.png")
    arrive(inbox, "8/a.png")
    (inbox / "8" / "half.dcm.part").write_bytes(b"still copied")
    with Reader(facts=header):
        done = CliRunner().invoke(main, ["watch", str(inbox), "--out", str(out), "--settle", "0.2", "--once"])
    assert done.exit_code == 0, done.output
    assert count(Image) == 3
    assert (out / "ACC_7" / "report.pdf").read_bytes().startswith(b"%PDF")
    assert (out / "ACC_8" / "report.pdf").is_file()
    table = rows(out)
    assert [(row["filename"], row["report"]) for row in table] == [
        ("7/a.png", "ACC_7/report.pdf"),
        ("7/b.png", "ACC_7/report.pdf"),
        ("8/a.png", "ACC_8/report.pdf"),
    ]
    assert "7/a.png" not in done.output  # a log is no place for file names
    again = CliRunner().invoke(main, ["watch", str(inbox), "--out", str(out), "--settle", "0", "--once"])
    assert again.exit_code == 0, again.output
    assert (count(Batch), len(rows(out))) == (1, 3)


def test_the_same_content_at_the_same_path_is_sent_once(serving: Serving, folders: tuple[Path, Path]) -> None:
    inbox, out = folders
    path = arrive(inbox, "a.png", b"one")
    with watching(serving, inbox, out) as watcher:
        step(watcher)
        os.utime(path, (1, 1))
        step(watcher)
        path.unlink()
        step(watcher)
        arrive(inbox, "a.png", b"one")
        step(watcher)
        assert (count(Batch), count(Image)) == (1, 1)
        arrive(inbox, "a.png", b"two")
        step(watcher)
        assert (count(Batch), count(Image)) == (2, 2)


def test_a_growing_file_waits(serving: Serving, folders: tuple[Path, Path]) -> None:
    inbox, out = folders
    with watching(serving, inbox, out) as watcher:
        watcher.settling.seconds = 0.5
        path = arrive(inbox, "a.png", b"1")
        for _ in range(4):
            step(watcher)
            time.sleep(0.2)
            path.write_bytes(path.read_bytes() + b"more")
        assert count(Batch) == 0
        step(watcher)
        time.sleep(0.6)
        step(watcher)
        assert count(Image) == 1


@pytest.mark.parametrize("known_to", ["nobody", "the server", "the journal"])
def test_killed_while_sending_it_goes_on_with_the_same_batch(
    serving: Serving, folders: tuple[Path, Path], known_to: str
) -> None:
    inbox, out = folders
    arrive(inbox, "a.png")
    arrive(inbox, "b.png")
    with watching(serving, inbox, out) as watcher:
        watcher.note(watcher.settling.settled(watcher._arrived(), time.monotonic()))
        (batch,) = watcher.journal.batches(SENDING)
        if known_to != "nobody":
            made = watcher.client.create_batch(batch.options, batch.key)
            if known_to == "the journal":
                watcher.journal.created(batch, made["id"])
    with watching(serving, inbox, out) as watcher:
        step(watcher)
        assert [b.state for b in watcher.journal.batches(SUBMITTED)] == [SUBMITTED]
    assert (count(Batch), count(Image)) == (1, 2)


@pytest.mark.parametrize("then", ["copied again", "gone for a while"])
def test_what_a_draft_has_is_not_sent_again_though_its_file_changes(
    serving: Serving, folders: tuple[Path, Path], then: str
) -> None:
    inbox, out = folders
    path, other = arrive(inbox, "a.png"), arrive(inbox, "b.png")
    with watching(serving, inbox, out) as watcher:
        watcher.note(watcher.settling.settled(watcher._arrived(), time.monotonic()))
        [noted] = watcher.journal.batches(SENDING)
        draft = watcher.client.create_batch(noted.options, noted.key)
        watcher.journal.created(noted, draft["id"])
        # the server took a.png, and its answer was lost
        upload(watcher.client, draft["id"], [f for f in watcher.journal.files_of(noted) if f.path == path])
        if then == "copied again":
            os.utime(path, (1, 1))
            os.utime(other, (1, 1))
            watcher.exchange()
        else:
            path.rename(out / "a")
            other.rename(out / "b")
            watcher.exchange()
            (out / "a").rename(path)
            (out / "b").rename(other)
        for _ in range(3):
            step(watcher)
    with session_scope() as session:
        assert sorted(session.scalars(select(Image.path))) == ["a.png", "b.png"]


def test_a_draft_that_was_cancelled_is_sent_anew(serving: Serving, folders: tuple[Path, Path]) -> None:
    inbox, out = folders
    arrive(inbox, "a.png")
    with watching(serving, inbox, out) as watcher:
        watcher.note(watcher.settling.settled(watcher._arrived(), time.monotonic()))
        [noted] = watcher.journal.batches(SENDING)
        draft = watcher.client.create_batch(noted.options, noted.key)
        watcher.journal.created(noted, draft["id"])
        watcher.client.act(draft["id"], "cancel")
    with Reader(facts=header):
        done = CliRunner().invoke(main, ["watch", str(inbox), "--out", str(out), "--settle", "0", "--once"])
    assert done.exit_code == 0, done.output
    assert "sent in a new one" in done.output
    with session_scope() as session:
        states = dict(session.execute(select(Batch.status, Batch.n_total)).all())
    assert states == {"cancelled": 0, "done": 1}


def test_what_a_batch_lacks_that_somebody_else_submitted_is_sent_in_another(
    serving: Serving, folders: tuple[Path, Path]
) -> None:
    inbox, out = folders
    for name in ("a.png", "b.png", "c.png"):
        arrive(inbox, name)
    with watching(serving, inbox, out) as watcher:
        watcher.note(watcher.settling.settled(watcher._arrived(), time.monotonic()))
        [noted] = watcher.journal.batches(SENDING)
        draft = watcher.client.create_batch(noted.options, noted.key)
        watcher.journal.created(noted, draft["id"])
        upload(watcher.client, draft["id"], watcher.journal.files_of(noted)[:1])
        watcher.client.act(draft["id"], "submit")
        watcher.exchange()
        watcher.exchange()
        assert len(watcher.journal.batches(SUBMITTED)) == 2
    with session_scope() as session:
        assert sorted(session.scalars(select(Image.path))) == ["a.png", "b.png", "c.png"]
        assert sorted(session.scalars(select(Batch.n_total))) == [1, 2]


def test_killed_after_submitting_or_filing_nothing_is_done_twice(
    serving: Serving, folders: tuple[Path, Path]
) -> None:
    inbox, out = folders
    arrive(inbox, "7/a.png")
    with watching(serving, inbox, out) as watcher:
        step(watcher)
        (batch,) = watcher.journal.batches(SUBMITTED)
        watcher.journal.set_state(batch, SENDING)  # what the kill left: it was submitted, and not noted
    with watching(serving, inbox, out) as watcher:
        step(watcher)
        read_all(facts=header)
        step(watcher)
        (batch,) = watcher.journal.batches(FILED)
        watcher.journal.set_state(batch, SUBMITTED)  # filed, and not noted
    with watching(serving, inbox, out) as watcher:
        step(watcher)
        assert len(watcher.journal.batches(FILED)) == 1
    assert count(Batch) == 1
    assert len(rows(out)) == 1
    assert [path.name for path in (out / "ACC_7").iterdir()] == ["report.pdf"]


def test_a_later_image_of_a_study_makes_a_second_version(
    serving: Serving, folders: tuple[Path, Path]
) -> None:
    inbox, out = folders
    with watching(serving, inbox, out) as watcher:
        for name in ("7/a.png", "7/b.png"):
            arrive(inbox, name)
            step(watcher)
            read_all(facts=header)
            step(watcher)
    first, second = out / "ACC_7" / "report.pdf", out / "ACC_7" / "report-v2.pdf"
    assert first.read_bytes().endswith(b"version 1")
    assert second.read_bytes().endswith(b"version 2")
    assert [row["report"] for row in rows(out)] == ["ACC_7/report.pdf", "ACC_7/report-v2.pdf"]


def test_two_studies_of_one_accession_do_not_share_a_folder(
    serving: Serving, folders: tuple[Path, Path]
) -> None:
    inbox, out = folders
    arrive(inbox, "7/a.png")
    arrive(inbox, "8/a.png")
    with watching(serving, inbox, out) as watcher:
        step(watcher)
        read_all(facts=lambda path: {**header(path), "accession": "ACC"})
        step(watcher)
    reports = {row["report"] for row in rows(out)}
    assert len(reports) == 2
    assert "ACC/report.pdf" in reports
    assert all((out / report).is_file() for report in reports)


def test_a_report_never_replaces_what_somebody_else_put_there(
    serving: Serving, folders: tuple[Path, Path]
) -> None:
    inbox, out = folders
    (out / "ACC_7").mkdir()
    (out / "ACC_7" / "report.pdf").write_bytes(b"signed by hand")
    arrive(inbox, "7/a.png")
    with watching(serving, inbox, out) as watcher:
        step(watcher)
        read_all(facts=header)
        step(watcher)
    assert (out / "ACC_7" / "report.pdf").read_bytes() == b"signed by hand"
    assert (out / "ACC_7" / "report-v2.pdf").read_bytes().startswith(b"%PDF")


def test_a_batch_that_is_retried_is_filed_again(serving: Serving, folders: tuple[Path, Path]) -> None:
    inbox, out = folders
    arrive(inbox, "7/a.png")
    arrive(inbox, "8/a.png")
    with watching(serving, inbox, out) as watcher:
        step(watcher)
        read_all(facts=header, fail=frozenset({"8/a.png"}))
        step(watcher)
        assert [row["status"] for row in rows(out)] == ["done", "failed"]
        with session_scope() as session:
            batch = session.scalars(select(Batch)).one()
            batches.retry(session, batch.id, batch.site_id)
        read_all(facts=header)
        watcher._looked_again -= 1000
        step(watcher)
    assert [(row["filename"], row["status"]) for row in rows(out)] == [
        ("7/a.png", "done"),
        ("8/a.png", "failed"),
        ("8/a.png", "done"),
    ]
    assert (out / "ACC_8" / "report.pdf").is_file()


def test_while_the_server_is_away_the_watcher_keeps_trying_and_a_signal_ends_it(
    site_key: str, folders: tuple[Path, Path]
) -> None:
    inbox, out = folders
    server = Server()
    port = server.server.server_port
    server.stop()
    environment = {**os.environ, "FRACTUREAI_URL": f"http://127.0.0.1:{port}", "FRACTUREAI_API_KEY": site_key}
    command = [sys.executable, "-m", "cli.main", "watch", str(inbox), "--out", str(out), "--settle", "0"]
    arrive(inbox, "a.png")
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        while "Trying again" not in process.stdout.readline():
            assert process.poll() is None
        server = Server(port)
        try:
            while "1 images submitted" not in process.stdout.readline():
                assert process.poll() is None
            second = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=False)
            assert second.returncode == 2
            assert b"Another watcher" in second.stderr
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        finally:
            server.stop()
    assert count(Image) == 1


def test_what_the_server_does_not_take_is_sent_once(
    settings_env: pytest.MonkeyPatch, site_key: str, folders: tuple[Path, Path]
) -> None:
    settings_env.setenv("FRACTUREAI_MAX_REQUEST_BYTES", "100000")
    get_settings.cache_clear()
    server = Server()
    inbox, out = folders
    arrive(inbox, "large.png", b"x" * 200_000)
    with watching(Serving(server.url, site_key), inbox, out) as watcher:
        step(watcher)
        assert watcher.exit_code == 1
        step(watcher)
        assert count(Batch) == 1
        arrive(inbox, "small.png")
        step(watcher)
        assert (count(Batch), count(Image)) == (2, 1)
    server.stop()


def test_once_ends_with_what_the_server_refuses(
    serving: Serving, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox, out = folders
    arrive(inbox, "a.png")
    start = ["watch", str(inbox), "--settle", "0", "--once", "--out"]
    assert CliRunner().invoke(main, [*start, str(inbox / "out")]).exit_code == 2
    assert CliRunner().invoke(main, [*start, str(out), "--bundle", "unknown"]).exit_code == 4
    monkeypatch.setenv("FRACTUREAI_API_KEY", "revoked")
    assert CliRunner().invoke(main, [*start, str(out / "other")]).exit_code == 4


def test_whatever_does_not_work_is_told_once_and_waited_for(
    serving: Serving, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox, out = folders
    log: list[str] = []
    journal = Journal(out / ".fractureai-watch")

    def look(client: Client) -> None:
        watcher.client = client
        watcher.look()
        watcher.look()

    with Client(serving.url, "revoked", patience=1.0) as denied, Client(serving.url, serving.key) as client:
        watcher = Watcher(client, journal, inbox, out, SubmitOptions(), settle=0.0, say=log.append)
        arrive(inbox, "a.png")
        look(denied)
        assert [line for line in log if "[unauthorized]" in line] == [log[-1]]
        look(client)
        # the share goes: what is noted is not forgotten, and what was sent not sent again
        arrive(inbox, "b.png")
        watcher.look()
        away = inbox.with_name("away")
        inbox.rename(away)
        look(client)
        assert sum("is its share away" in line for line in log) == 1
        away.rename(inbox)
        # a program keeps results.csv to itself
        (out / "results.csv").mkdir()
        read_all(facts=header)
        look(client)
        assert sum("results.csv cannot be written" in line for line in log) == 1
        (out / "results.csv").rmdir()
        # the disk of the journal is full
        pages = journal._db.execute("PRAGMA page_count").fetchone()[0]
        journal._db.execute(f"PRAGMA max_page_count = {pages}")
        for i in range(200):
            arrive(inbox, f"study/{i:03d}-{'x' * 100}.png")
        look(client)
        assert sum("journal in OUT cannot be used" in line for line in log) == 1
        for _ in range(3):
            watcher.look()
            read_all(facts=header)
        assert log.count("All works again.") >= 2
    assert len(rows(out)) == count(Image) == 202
    assert len({row["filename"] for row in rows(out)}) == 202
    journal.close()


def test_a_row_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    table = tmp_path / "results.csv"
    _append(table, ["a", "b"], [["1", "2"]])
    before = table.read_bytes()
    with table.open("r+b") as file, pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda fd: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(OSError, match="No space left"):
            _append(table, ["a", "b"], [["3", "4"]])
        assert file.read() == before
    _append(table, ["a", "b"], [["3", "4"]])
    assert table.read_bytes() == before + b"3,4\r\n"


def test_new_contents_under_a_known_name_are_found_by_a_thorough_look(
    serving: Serving, folders: tuple[Path, Path]
) -> None:
    inbox, out = folders
    arrive(inbox, "a.png", b"one")
    with watching(serving, inbox, out) as watcher:
        watcher.look()
        arrive(inbox, "b.png")
        assert [file.name for file in watcher._arrived()] == ["b.png"]
        watcher.look()
        watcher._arrived(thorough=True)
        arrive(inbox, "a.png", b"two")
        assert watcher._arrived() == []
        watcher._thorough_at = 0.0
        watcher.look()
        assert (count(Batch), count(Image)) == (3, 3)


@pytest.mark.skipif(
    not notifies_of_all_changes(Path(tempfile.gettempdir())), reason="a file system that tells no changes"
)
def test_where_the_kernel_tells_of_changes_nothing_is_looked_at_in_vain(
    serving: Serving, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox, out = folders
    looked: list[int] = []
    monkeypatch.setattr(
        "cli.watch.find_files", lambda *args, **more: looked.append(1) or find_files(*args, **more)
    )
    arrive(inbox, "a.png", b"one")

    def arrived(watcher: Watcher) -> list[str]:
        """What is new, once the kernel has said so."""
        end = time.monotonic() + 60
        while not (found := watcher._arrived()) and time.monotonic() < end:
            time.sleep(0.05)
        return [file.name for file in found]

    with watching(serving, inbox, out, told=True) as watcher:
        watcher._thorough_at = float("inf")
        watcher.look()
        watcher.look()
        while watcher._arrived():  # what the kernel had yet to say of a.png
            step(watcher)
        time.sleep(1.0)
        watcher._arrived()
        before = len(looked)
        for _ in range(5):
            watcher.look()
        assert len(looked) == before
        arrive(inbox, "new/folder/b.png")
        assert arrived(watcher) == ["new/folder/b.png"]
        step(watcher)
        arrive(inbox, "a.png", b"two")  # under a known name
        assert arrived(watcher) == ["a.png"]
        step(watcher)
        (inbox / "a.png").rename(inbox / "c.png")
        assert arrived(watcher) == ["c.png"]
        step(watcher)
        inbox.rename(inbox.parent / "old")  # another folder takes its place
        inbox.mkdir()
        arrive(inbox, "d.png")
        assert arrived(watcher) == ["d.png"]
        step(watcher)
        arrive(inbox, "e.png")
        assert arrived(watcher) == ["e.png"]
    assert watcher._changes is not None

"""The client's commands against a real server: what they send, print, save, and end with."""

from __future__ import annotations

import codecs
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import func, select

from cli.client import Client, Interrupted, Refused
from cli.main import main
from settings import get_settings
from store.base.session import session_scope
from store.base.tables import Batch, Image
from tests.conftest import ROOT
from tests.reading import read_batch
from tests.web.serving import Reader, Server, Serving

PNG = b"\x89PNG\r\n\x1a\n"


def fractureai(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def radiographs(folder: Path, n: int, size: int = 100) -> Path:
    """Write files that the web takes for images; nobody decodes them here."""
    for i in range(n):
        path = folder / f"patient{i % 3}" / f"{i:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(PNG + i.to_bytes(4, "big") + os.urandom(size))
    return folder


def only_batch() -> Batch:
    with session_scope() as session:
        return session.scalars(select(Batch)).one()


def paths() -> list[str]:
    with session_scope() as session:
        return sorted(session.scalars(select(Image.path)))


def test_submit_sends_waits_shows_the_worst_first_and_saves(serving: Serving, tmp_path: Path) -> None:
    folder = radiographs(tmp_path / "in", 36)
    (folder / "notes.txt").write_text("no image")
    (folder / "Thumbs.db").write_text("clutter")
    out = tmp_path / "saved" / "results.zip"
    with Reader(reject=frozenset({"patient0/000.png"})):
        done = fractureai("submit", folder, "--label", "night shift", "--out", out)
    assert done.exit_code == 1, done.output  # two rejected
    batch = only_batch()
    assert (batch.n_total, batch.n_done, batch.n_rejected, batch.label) == (37, 35, 2, "night shift")
    assert "Rejected: notes.txt: The file is not a PNG" in done.output
    assert f"{serving.url}/batches/{batch.id}" in done.output
    rows = [line.split("\t") for line in done.output.splitlines() if line.count("\t") == 4]
    assert len(rows) == 37
    order = ["positive", "doubt", "rejected", "negative"]
    outcomes = [row[3] for row in rows]
    assert outcomes == sorted(outcomes, key=order.index)
    assert [row[2] for row in rows[:3]] == sorted((row[2] for row in rows[:3]), reverse=True)
    with zipfile.ZipFile(out) as archive:
        assert "results.csv" in archive.namelist()
    assert [path.name for path in out.parent.iterdir()] == ["results.zip"]


def test_json_is_the_only_thing_on_standard_output(serving: Serving, tmp_path: Path) -> None:
    folder = radiographs(tmp_path / "in", 3)
    with Reader():
        done = fractureai("submit", folder, "--wait", "--json", "--priority", "urgent", "--no-report")
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["batch"]["counts"]["done"] == 3
    assert document["batch"]["priority"] == "urgent"
    assert document["batch"]["options"] == {"report": False, "heatmap": True}
    assert {image["filename"] for image in document["images"]} == set(paths())
    found = [image["probability"] for image in document["images"]]
    assert found == sorted(found, reverse=True)


def test_a_zip_and_a_manifest_arrive(serving: Serving, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "some.zip", "w") as archive:
        archive.writestr("in/a.png", PNG + b"a")
        archive.writestr("__MACOSX/in/a.png", b"clutter")
    (tmp_path / "list.csv").write_text("path,accession\nin/a.png,ACC7\n")
    done = fractureai("submit", tmp_path / "some.zip", "--manifest", tmp_path / "list.csv")
    assert done.exit_code == 0, done.output
    assert paths() == ["in/a.png"]
    with session_scope() as session:
        assert session.scalars(select(Image.accession)).all() == ["ACC7"]


def test_a_server_that_comes_late_or_loses_answers_gets_every_file_once(
    serving: Serving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = radiographs(tmp_path / "in", 40)
    with losing_answers(serving.url, of="/files", every=2) as (url, lost):
        monkeypatch.setenv("FRACTUREAI_URL", url)
        done = fractureai("submit", folder)
    assert done.exit_code == 0, done.output
    assert lost, "the test lost no answer"
    assert only_batch().n_total == len(paths()) == 40
    assert "40 accepted" in done.output


def test_a_server_that_is_not_there_yet_is_waited_for(
    site_key: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    started: list[Server] = []
    timer = threading.Timer(1.0, lambda: started.append(Server(port)))
    timer.start()
    with Client(f"http://127.0.0.1:{port}", site_key) as client:
        assert list(client.batches()) == []
    timer.join()
    started[0].stop()


@contextlib.contextmanager
def losing_answers(url: str, *, of: str, every: int) -> Iterator[tuple[str, list[str]]]:
    """A proxy that passes requests on, and of some drops the answer: the client cannot know what was done."""
    target = ("127.0.0.1", int(url.rsplit(":", 1)[1]))
    listener = socket.create_server(("127.0.0.1", 0))
    lost: list[str] = []
    asked: list[str] = []

    def serve(near: socket.socket) -> None:
        with near, socket.create_connection(target) as far, contextlib.suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head:
                head += near.recv(65536)
            line = head.split(b"\r\n", 1)[0].decode()
            far.sendall(head.replace(b"Connection: keep-alive", b"Connection: close", 1))
            pump = threading.Thread(target=copy, args=(near, far), daemon=True)
            pump.start()
            answer = b""
            while piece := far.recv(65536):
                answer += piece
            if of in line:
                asked.append(line)
                if len(asked) % every == 1:
                    lost.append(line)
                    answer = b""
            near.sendall(answer)
            near.shutdown(socket.SHUT_RDWR)

    def copy(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(65536):
                sink.sendall(piece)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", lost
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def test_a_request_that_is_too_large_is_cut_and_a_file_that_is_too_large_named(
    settings_env: pytest.MonkeyPatch,
    site_key: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    settings_env.setenv("FRACTUREAI_MAX_REQUEST_BYTES", "100000")
    get_settings.cache_clear()
    server = Server()
    monkeypatch.setenv("FRACTUREAI_URL", server.url)
    monkeypatch.setenv("FRACTUREAI_API_KEY", site_key)
    folder = radiographs(tmp_path / "in", 5, size=40_000)
    (folder / "large.png").write_bytes(PNG + os.urandom(200_000))
    done = fractureai("submit", folder)
    server.stop()
    assert done.exit_code == 1, done.output
    assert "Rejected: large.png: The request is larger" in done.output
    assert only_batch().n_total == 5


def test_exit_codes_of_what_goes_wrong(
    serving: Serving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = radiographs(tmp_path, 1) / "patient0" / "000.png"
    assert fractureai("submit", tmp_path / "nothing").exit_code == 2
    (tmp_path / "empty").mkdir()
    assert fractureai("submit", tmp_path / "empty").exit_code == 2
    refused = fractureai("submit", file, "--bundle", "unknown")
    assert refused.exit_code == 4
    assert "unknown_bundle" in refused.output
    assert fractureai("status", "latest").exit_code == 2
    assert fractureai("status", "00000000-0000-0000-0000-000000000000").exit_code == 4
    monkeypatch.setenv("FRACTUREAI_API_KEY", "wrong")
    denied = fractureai("status")
    assert denied.exit_code == 4
    assert "unauthorized" in denied.output
    monkeypatch.setenv("FRACTUREAI_API_KEY", serving.key)
    assert fractureai("submit", file, "--wait", "--timeout", "0.5").exit_code == 5


def test_no_server_is_told_after_the_patience(unused_tcp_port: int) -> None:
    with Client(f"http://127.0.0.1:{unused_tcp_port}", "k", patience=0.5) as client:
        started = time.monotonic()
        with pytest.raises(Exception, match="No answer") as caught:
            client.bundles()
        assert time.monotonic() - started < 3
        assert caught.value.exit_code == 3


@pytest.fixture
def unused_tcp_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@pytest.mark.usefixtures("kept_for_a_retry")
def test_a_batch_is_steered_by_the_beginning_of_its_id(serving: Serving, tmp_path: Path) -> None:
    fractureai("submit", radiographs(tmp_path, 4))
    batch = only_batch()
    word = str(batch.id)[:6]
    assert "paused" in fractureai("pause", word).output
    assert "queued" in fractureai("resume", "latest").output
    assert "4 cancelled" in fractureai("cancel", word).output
    assert fractureai("pause", word).exit_code == 4  # wrong_state
    read_batch(batch.id)
    assert "queued" in fractureai("retry", word).output
    read_batch(batch.id)
    assert json.loads(fractureai("status", word, "--json").stdout)["status"] == "done"
    assert "4 done" in fractureai("status", word, "--watch").output
    listed = fractureai("status")
    assert str(batch.id) in listed.output
    assert fractureai("status", "zz").exit_code == 2
    assert "b1" in fractureai("bundles").output


def test_an_ambiguous_beginning_is_refused(serving: Serving) -> None:
    with Client(serving.url, serving.key) as client:
        firsts: dict[str, int] = {}
        while max(firsts.values(), default=0) < 2:
            first = client.create_batch({}, os.urandom(8).hex())["id"][0]
            firsts[first] = firsts.get(first, 0) + 1
        word = max(firsts, key=lambda first: firsts[first])
    refused = fractureai("status", word)
    assert refused.exit_code == 2
    assert "2 batches begin with" in refused.output


def test_many_images_come_page_by_page(serving: Serving, tmp_path: Path) -> None:
    fractureai("submit", radiographs(tmp_path, 230, size=10))
    with Client(serving.url, serving.key) as client:
        seen = [image["filename"] for image in client.images(str(only_batch().id))]
    assert sorted(seen) == paths()
    assert len(set(seen)) == 230


def test_download_saves_a_whole_file_or_none(serving: Serving, tmp_path: Path) -> None:
    fractureai("submit", radiographs(tmp_path / "in", 2))
    batch = only_batch()
    read_batch(batch.id)
    done = fractureai("download", "latest", "--out", tmp_path)
    assert done.exit_code == 0, done.output
    assert (tmp_path / f"fractureai-{str(batch.id)[:8]}.zip").is_file()
    assert fractureai("download", "latest", "--csv", "--bom", "--out", tmp_path / "t.csv").exit_code == 0
    assert (tmp_path / "t.csv").read_bytes().startswith(codecs.BOM_UTF8)
    assert fractureai("download", "latest", "--xlsx", "--out", tmp_path).exit_code == 0
    assert zipfile.is_zipfile(next(tmp_path.glob("*.xlsx")))
    assert fractureai("download", "latest", "--xlsx", "--bom").exit_code == 2
    assert (tmp_path / "t.csv").read_text("utf-8-sig").startswith("filename,status,reason,region")

    half = tmp_path / "half.zip"
    with Client(serving.url, serving.key) as client:
        with pytest.raises(Refused):
            client.download("/batches/00000000-0000-0000-0000-000000000000/results.zip", half)
        client.stopped.set()
        with pytest.raises(Interrupted):
            client.download(f"/batches/{batch.id}/results.zip", half)
    assert not [path for path in tmp_path.iterdir() if "half" in path.name]


def test_interrupted_while_waiting_the_server_goes_on(serving: Serving, tmp_path: Path) -> None:
    radiographs(tmp_path, 2)
    command = [sys.executable, "-m", "cli.main", "submit", str(tmp_path), "--wait"]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        while "/batches/" not in process.stdout.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=20)
    assert process.returncode == 5
    assert "the server goes on" in told
    assert only_batch().status == "queued"


def test_interrupted_while_sending_the_same_command_goes_on(
    serving: Serving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    folder = radiographs(tmp_path / "in", 120, size=2_000_000)
    command = [sys.executable, "-m", "cli.main", "submit", str(folder)]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        while True:
            assert process.poll() is None, process.communicate()
            with session_scope() as session:
                if session.scalar(select(func.count()).select_from(Image)):
                    break
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 5
    assert "the same command goes on" in said
    left = only_batch()
    assert left.status == "draft"
    assert 0 < left.n_total < 120
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=240)
    assert f"Going on with batch {left.id}" in again.stdout
    assert "120 accepted" in again.stdout
    assert (only_batch().id, only_batch().status, only_batch().n_total) == (left.id, "queued", 120)
    assert not list((tmp_path / "state" / "fractureai" / "drafts").iterdir())


@contextlib.contextmanager
def slow_line(url: str, rate: float) -> Iterator[str]:
    """A proxy that passes at most so many bytes a second to the server."""
    target = ("127.0.0.1", int(url.rsplit(":", 1)[1]))
    listener = socket.create_server(("127.0.0.1", 0))

    def pump(source: socket.socket, sink: socket.socket, pause: float) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(1 << 14):
                sink.sendall(piece)
                time.sleep(len(piece) * pause)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def carry(near: socket.socket) -> None:
        with near, socket.create_connection(target) as far:
            back = threading.Thread(target=pump, args=(far, near, 0.0), daemon=True)
            back.start()
            pump(near, far, 1 / rate)
            back.join()

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=carry, args=[listener.accept()[0]], daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    with listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)


def submitting(folder: Path, url: str, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "cli.main", "submit", str(folder), *options],
        cwd=ROOT,
        env={**os.environ, "FRACTUREAI_URL": url},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def until_files_arrive() -> None:
    while True:
        with session_scope() as session:
            if session.scalar(select(func.count()).select_from(Image)):
                return
        time.sleep(0.05)


def test_two_runs_of_one_command_give_one_batch(
    serving: Serving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    folder = radiographs(tmp_path / "in", 300, size=20_000)
    with slow_line(serving.url, 400_000) as url:
        first = submitting(folder, url)
        until_files_arrive()
        second = submitting(folder, url)
        told = [process.communicate(timeout=300)[0] for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0), told
    batch = only_batch()
    assert (batch.status, batch.n_total, batch.n_rejected) == ("queued", 300, 0)
    assert "already sending" in told[1]
    assert f"Batch {batch.id} has these files" in told[1]
    assert not list((tmp_path / "state" / "fractureai" / "drafts").iterdir())


@pytest.mark.parametrize("action", ["submit", "cancel"])
def test_somebody_who_acts_on_the_draft_meanwhile_is_followed(
    serving: Serving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    folder = radiographs(tmp_path / "in", 300, size=20_000)
    with slow_line(serving.url, 400_000) as url, Client(serving.url, serving.key) as browser:
        process = submitting(folder, url)
        until_files_arrive()
        browser.act(str(only_batch().id), action)
        told, _ = process.communicate(timeout=300)
    batch = only_batch()
    assert process.returncode == 1, told
    assert "by somebody else while it was being sent" in told
    if action == "submit":
        assert batch.status == "queued"
        assert 0 < batch.n_total < 300
        assert f"{batch.n_total} accepted, {300 - batch.n_total} rejected" in told
    else:
        assert batch.status == "cancelled"


def test_a_clean_up_leaves_a_submitted_batch_alone(serving: Serving, tmp_path: Path) -> None:
    fractureai("submit", radiographs(tmp_path, 2))
    batch = only_batch()
    with Client(serving.url, serving.key) as client:
        assert not client.discard(str(batch.id))
        draft = client.create_batch({}, "another")
        assert client.discard(draft["id"])
        assert client.batch(draft["id"])["status"] == "cancelled"
        with pytest.raises(Refused):
            client.document(f"/batches/{draft['id']}/cancel", body={"draft_only": "yes"})
    assert only_batch_with(str(batch.id)).status == "queued"


def only_batch_with(batch_id: str) -> Batch:
    with session_scope() as session:
        return session.scalars(select(Batch).where(Batch.id == batch_id)).one()


def test_other_files_in_the_same_folder_are_a_new_batch(
    serving: Serving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    folder = radiographs(tmp_path / "in", 100, size=20_000)
    with slow_line(serving.url, 200_000) as url:
        process = submitting(folder, url)
        until_files_arrive()
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=120)
        left = only_batch()
        # the same names and sizes: only the contents are others
        radiographs(folder, 100, size=20_000)
        monkeypatch.setenv("FRACTUREAI_URL", url)
        done = fractureai("submit", folder)
    assert process.returncode == 5
    assert done.exit_code == 0, done.output
    assert f"left {left.n_total} files in draft {left.id}" in done.output.replace("\n", " ")
    assert "100 accepted" in done.output
    with session_scope() as session:
        batches = {batch.id: batch for batch in session.scalars(select(Batch))}
    assert batches.pop(left.id).status == "draft"
    assert [(batch.status, batch.n_total) for batch in batches.values()] == [("queued", 100)]


def test_a_server_that_hangs_can_be_left(tmp_path: Path) -> None:
    radiographs(tmp_path, 1)
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        url = f"http://127.0.0.1:{hanging.getsockname()[1]}"
        environment = {**os.environ, "FRACTUREAI_URL": url, "FRACTUREAI_API_KEY": "k"}
        command = [sys.executable, "-m", "cli.main", "submit", str(tmp_path)]
        with (
            subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE) as process,
            hanging.accept()[0],
        ):
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 5

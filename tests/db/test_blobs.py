"""Both blob stores do the same: a folder, and S3 (a stand-in, moto, and a real server, SeaweedFS)."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import BotoCoreError, ClientError
from moto.server import ThreadedMotoServer
from werkzeug.exceptions import ClientDisconnected

from cli.child import Child, stop_all
from cli.embedded import free_port
from settings import SettingsError
from store.base import blobs as blob_module
from store.base.blobs import BlobStore, FolderStore, S3Store, open_blobs
from store.base.errors import BlobFull, BlobMissing, BlobUnavailable
from tests.running import PATIENCE, wait_for


@pytest.fixture(scope="module")
def s3_endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="module")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    """A real S3 server: SeaweedFS' master, volume server, filer and S3 gateway in one process."""
    folder = tmp_path_factory.mktemp("seaweed")
    command = [str(Path(sys.executable).with_name("weed")), "server", "-ip=127.0.0.1", f"-dir={folder}"]
    command += [
        "-s3",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-master.telemetry=false",
        "-master.volumeSizeLimitMB=64",
    ]
    command += ["-volume.max=20"]
    for part in ("master", "volume", "filer", "s3"):
        command += [f"-{part}.port={free_port()}", f"-{part}.port.grpc={free_port()}"]
    # of itself it makes seven volumes for each bucket
    (folder / "master.toml").write_text("[master.volume_growth]\ncopy_1 = 1\n")
    server = Child("seaweedfs", command, folder / "log", cwd=folder)
    server.start()
    wait_for(lambda: answers(server), PATIENCE, "SeaweedFS")
    yield server
    stop_all([server], 0)  # it holds nothing that anybody needs


def seaweed_endpoint_of(server: Child) -> str:
    port = next(word for word in server.argv if word.startswith("-s3.port=")).partition("=")[2]
    return f"http://127.0.0.1:{port}"


def answers(server: Child) -> bool:
    """Return whether it takes an object: it answers for the list of buckets before it can store anything."""
    assert server.running, server.log.read_text(errors="replace")[-2000:]
    client = boto3.client(
        "s3",
        endpoint_url=seaweed_endpoint_of(server),
        region_name="us-east-1",
        aws_access_key_id="testing",
        aws_secret_access_key="testing",
    )
    try:
        with suppress(ClientError):  # it is there after the first time
            client.create_bucket(Bucket="first")
        client.put_object(Bucket="first", Key="k", Body=b"x")
    except (BotoCoreError, ClientError):
        return False
    return True


@pytest.fixture
def seaweed_endpoint(seaweed: Child) -> str:
    return seaweed_endpoint_of(seaweed)


@pytest.fixture(params=["folder", "s3", "seaweed"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BlobStore:
    if request.param == "folder":
        return open_blobs(f"file://{tmp_path}/with%20space")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    endpoint = request.getfixturevalue(f"{request.param}_endpoint")
    bucket = f"b{hashlib.sha256(str(tmp_path).encode()).hexdigest()[:20]}"
    boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1").create_bucket(Bucket=bucket)
    return open_blobs(f"s3://{bucket}/some/prefix?endpoint={endpoint}")


def test_bytes_come_back_with_their_hash(store: BlobStore) -> None:
    data = bytes(range(256)) * 5000
    assert store.put("a/b/c.bin", data) == (hashlib.sha256(data).hexdigest(), len(data))
    assert store.put("a/b/d.bin", io.BytesIO(b""))[1] == 0
    assert store.get("a/b/c.bin") == data
    assert b"".join(store.stream("a/b/c.bin", 1000)) == data
    assert (store.size("a/b/c.bin"), store.exists("a/b/c.bin"), store.exists("a/x")) == (
        len(data),
        True,
        False,
    )
    assert 0 <= store.age("a/b/c.bin") < 600
    store.put("a/b/c.bin", b"replaced")
    assert store.get("a/b/c.bin") == b"replaced"


def test_keys_are_listed_by_prefix_in_order(store: BlobStore) -> None:
    for key in ("x/2", "x/1", "x/y/3", "xx/1"):
        store.put(key, b"-")
    assert list(store.keys("x/")) == ["x/1", "x/2", "x/y/3"]
    assert list(store.keys()) == ["x/1", "x/2", "x/y/3", "xx/1"]
    store.delete("x/1")
    store.delete("x/1")
    assert list(store.keys("x/")) == ["x/2", "x/y/3"]
    assert list(store.keys("nothing/")) == []


def test_what_is_missing_says_so(store: BlobStore) -> None:
    for ask in (store.get, store.size, store.stream, store.age):
        with pytest.raises(BlobMissing):
            ask("no/such/key")


@pytest.mark.parametrize("key", ["../outside", "a/../../outside", "/etc/passwd", "a//b", "", "a/./b", "a\0b"])
def test_a_key_never_leads_outside_the_folder(tmp_path: Path, key: str) -> None:
    with pytest.raises(BlobMissing):
        FolderStore(tmp_path / "blobs").put(key, b"x")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["blobs"]


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(BlobFull):
            store.put("a/b", b"x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]
    store.put("a/b", b"x" * 5000)


@pytest.mark.parametrize("store", ["s3", "seaweed"], indirect=True)
def test_a_large_object_goes_in_parts(store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of real size a part is 64 MiB, and one request takes 5 GiB at most."""
    monkeypatch.setattr(blob_module, "PART", 5 << 20)  # the least that S3 takes
    data = bytes(range(256)) * (16 << 12) + b"end"
    assert store.put("large", io.BytesIO(data)) == (hashlib.sha256(data).hexdigest(), len(data))
    head = store.client.head_object(Bucket=store.bucket, Key=store.prefix + "large")
    assert head["ETag"].strip('"').endswith("-4"), "three parts of 5 MiB and the rest"
    assert store.get("large") == data
    assert b"".join(store.stream("large", start=len(data) - 3)) == b"end"

    class Breaks(io.BytesIO):
        def read(self, n: int | None = -1, /) -> bytes:
            if self.tell() > 12 << 20:
                raise ClientDisconnected
            return super().read(n)

    with pytest.raises(ClientDisconnected):
        store.put("broken", Breaks(data))
    assert not store.exists("broken")
    assert "Uploads" not in store.client.list_multipart_uploads(Bucket=store.bucket)


@pytest.mark.parametrize("store", ["s3", "seaweed"], indirect=True)
def test_parts_that_a_killed_process_left_are_swept(store: S3Store) -> None:
    store.client.create_multipart_upload(Bucket=store.bucket, Key=f"{store.prefix}k")
    store.client.create_multipart_upload(Bucket=store.bucket, Key="of somebody else")
    store.delete_unfinished(1e12)  # the stand-in says that all began in 2010
    assert len(store.client.list_multipart_uploads(Bucket=store.bucket)["Uploads"]) == 2
    store.delete_unfinished(-1)
    left = store.client.list_multipart_uploads(Bucket=store.bucket)["Uploads"]
    assert [upload["Key"] for upload in left] == ["of somebody else"]


@pytest.mark.parametrize("store", ["s3", "seaweed"], indirect=True)
def test_a_full_local_spool_is_told_as_full(store: S3Store) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(BlobFull):
            store.put("a/b", b"x" * (20 << 20))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert not store.exists("a/b")


@pytest.mark.parametrize("store", ["s3", "seaweed"], indirect=True)
def test_a_buckets_fullness_is_that_of_its_set_capacity(store: S3Store) -> None:
    store.put("a", b"x" * 300)
    assert store.fullness() is None, "nobody has set a bound"
    store.capacity = 1000
    end = time.monotonic() + 60
    while (fullness := store.fullness()) is None and time.monotonic() < end:
        time.sleep(0.05)
    assert fullness == 0.3
    store.freed(200)
    assert store.fullness() == 0.1


@pytest.mark.parametrize("store", ["seaweed"], indirect=True)
def test_what_a_real_server_took_outlives_its_death(store: S3Store, seaweed: Child) -> None:
    data = bytes(range(256)) * 5000
    store.put("kept", data)
    assert seaweed.process is not None
    seaweed.process.kill()
    seaweed.process.wait()
    with pytest.raises(BlobUnavailable):
        store.get("kept")
    seaweed.start()
    wait_for(lambda: answers(seaweed), PATIENCE, "SeaweedFS again")
    assert store.get("kept") == data


def test_a_name_outlasts_a_power_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder of a new name is synced after the rename, and so is each one that holds a new folder."""
    store, calls = FolderStore(tmp_path / "blobs"), []
    sync, rename = os.fsync, os.rename

    def noted(descriptor: int) -> None:
        calls.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")))
        sync(descriptor)

    def renamed(old: str, new: Path) -> None:
        calls.append(Path("renamed"))
        rename(old, new)

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(os, "rename", renamed)
    store.put("a/b/1", b"x")
    assert calls[1:] == [Path("renamed"), store.root / "a/b", store.root / "a", store.root], (
        "after the rename"
    )
    calls.clear()
    group, keys = store.group(), [f"a/{n}/x" for n in range(3)]
    for key in keys:
        group.put(key, b"x")
    assert not list(store.keys("a/0")), "its bytes are not synced"
    group.keep()
    assert all(call.name.startswith(".new-") for call in calls[:3]), "bytes first"
    assert calls[3:6] == [Path("renamed")] * 3
    assert sorted(calls[6:]) == [store.root, store.root / "a", *(store.root / "a" / str(n) for n in range(3))]
    assert calls[-2:] == [store.root / "a", store.root], "a folder before the one that names it"
    assert sorted(store.keys("a/")) == ["a/0/x", "a/1/x", "a/2/x", "a/b/1"]


def test_a_group_that_is_not_kept_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FolderStore(tmp_path / "blobs")
    store.put("a/old", b"as it was")
    with store.group() as group:
        group.put("a/old", b"half")
        group.put("b/new", b"half")

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "no room")

    with monkeypatch.context() as patched, store.group() as group:
        group.put("a/old", b"half")
        patched.setattr(os, "fsync", full)  # a file system may find out that late
        with pytest.raises(BlobFull):
            group.keep()
    assert [path.name for path in store.root.rglob("*")] == ["a", "old"]
    assert store.get("a/old") == b"as it was"


def test_a_folder_that_vanishes_before_the_file_is_in_it_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, make, left = FolderStore(tmp_path), os.makedirs, 3

    def vanishing(folder: str, **named: Any) -> None:
        nonlocal left
        make(folder, **named)
        if left:
            left -= 1
            Path(folder).rmdir()  # as another process does, which has just emptied it

    monkeypatch.setattr(os, "makedirs", vanishing)
    store.put("a/b/c", b"x")
    assert (store.get("a/b/c"), left) == (b"x", 0)


def test_folders_may_vanish_under_a_writer(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)

    def put_and_delete(name: str) -> None:
        for n in range(700):
            store.put(f"a/b/{name}-{n}", b"x")
            store.delete(f"a/b/{name}-{n}")

    with ThreadPoolExecutor() as pool:
        list(pool.map(put_and_delete, ("one", "two", "three")))


def test_folders_may_vanish_under_a_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FolderStore(tmp_path / "blobs")
    for name in "abc":
        store.put(f"{name}/1.png", b"bytes")
    listed = os.scandir

    def late(path: os.PathLike[str]) -> object:
        if Path(path).name == "b":
            store.delete("b/1.png")
        return listed(path)

    monkeypatch.setattr(os, "scandir", late)
    store.delete_unfinished(0)
    store.put("b/1.png", b"bytes")
    assert list(store.keys()) == ["a/1.png", "c/1.png"]


def test_a_folder_that_cannot_be_listed_is_no_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FolderStore(tmp_path / "blobs")
    store.put("a/1.png", b"bytes")

    def refused(path: os.PathLike[str]) -> object:
        raise PermissionError(errno.EACCES, "no", str(path))

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(BlobUnavailable):
        list(store.keys())
    with pytest.raises(BlobUnavailable):
        store.delete_unfinished(0)


def test_an_s3_store_that_is_away_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    with pytest.raises(BlobUnavailable):
        open_blobs("s3://bucket?endpoint=http://127.0.0.1:1").get("k")


@pytest.mark.parametrize("url", ["", "/folder", "ftp://x/y", "file://relative", "s3://"])
def test_an_address_of_neither_kind_is_refused(url: str) -> None:
    with pytest.raises(SettingsError):
        open_blobs(url)


def test_what_a_killed_write_left_is_swept(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    store.put("a/b", b"whole")
    (tmp_path / "a" / ".new-xyz").write_bytes(b"half")
    assert list(store.keys()) == ["a/b"]
    store.delete_unfinished(3600)
    assert (tmp_path / "a" / ".new-xyz").exists()
    store.delete_unfinished(-1)
    assert not (tmp_path / "a" / ".new-xyz").exists()
    assert store.get("a/b") == b"whole"

"""Both blob stores do the same: a local folder, and S3 spoken over HTTP to a local stand-in."""

from __future__ import annotations

import hashlib
import io
import resource
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from settings import SettingsError
from store.blobs import BlobStore, FolderStore, open_blobs
from store.errors import BlobFull, BlobMissing, BlobUnavailable


@pytest.fixture(scope="module")
def s3_endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BlobStore:
    if request.param == "folder":
        return open_blobs(f"file://{tmp_path}/with%20space")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    endpoint = request.getfixturevalue("s3_endpoint")
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
    import signal

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

"""Bytes by key, in a local folder or on S3.

Written to a temporary name, synced, then renamed, so that a key never holds half of its bytes.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import math
import os
import shutil
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from functools import cache
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol, Self
from urllib.parse import parse_qs, unquote, urlsplit

from settings import SettingsError, get_settings
from store.base.errors import BlobFull, BlobMissing, BlobUnavailable, ServiceError

log = logging.getLogger("fractureai.blobs")

CHUNK = 1 << 20


class BlobStore(Protocol):
    """What both stores do. Keys are relative POSIX paths made by the service itself.

    Every method raises `BlobUnavailable` when the store does not answer.
    """

    def put(self, key: str, data: bytes | IO[bytes]) -> tuple[str, int]:
        """Store bytes under `key`; return their hex SHA-256 and size. Raises `BlobFull`.

        Both outlast a power cut.
        """

    def group(self) -> BlobGroup:
        """Begin to store several blobs, which appear together."""

    def get(self, key: str) -> bytes:
        """Return the bytes of `key`. Raises `BlobMissing`."""

    def stream(self, key: str, chunk: int = CHUNK, start: int = 0) -> Iterator[bytes]:
        """Yield the bytes of `key` from `start` on in pieces. Raises `BlobMissing` before the first piece."""

    def size(self, key: str) -> int:
        """Return the size in bytes. Raises `BlobMissing`."""

    def exists(self, key: str) -> bool:
        """Tell whether `key` holds bytes."""

    def delete(self, key: str) -> None:
        """Delete `key`; a missing one is fine."""

    def keys(self, prefix: str = "") -> Iterator[str]:
        """Yield every key that starts with `prefix`, in order."""

    def age(self, key: str) -> float:
        """Return the seconds since `key` was written. Raises `BlobMissing`."""

    def delete_unfinished(self, older_than: float) -> None:
        """Delete what a killed process left of a write, if it is older than so many seconds."""

    def fullness(self) -> float | None:
        """Return which share of the room is taken (0-1), by whatever; None where there is no telling now."""

    def freed(self, n_bytes: int) -> None:
        """Take about so many deleted bytes off the last measured `fullness`."""

    def check(self) -> None:
        """Write a few bytes and delete them. Raises `BlobFull` when no image would find room."""


class BlobGroup(ABC):
    """Several blobs that are stored together, much faster than one by one.

    They lie under their keys, and outlast a power cut, once `keep` has returned: call it before a row names
    them. After that the group is empty and takes more. As a block it discards at its end what was not kept.
    Used by one thread at a time.
    """

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()

    @abstractmethod
    def put(self, key: str, data: bytes | IO[bytes]) -> tuple[str, int]:
        """Write bytes for `keep` to store under `key`; return hex SHA-256 and size. Raises `BlobFull`."""

    @abstractmethod
    def keep(self) -> None:
        """Store what was put. Raises `BlobFull`; then some of the keys may be there, and others not."""

    @abstractmethod
    def discard(self) -> None:
        """Delete what was put and not kept; what cannot be deleted now, `delete_unfinished` deletes."""


#: With less than this a folder's file system counts as full.
MIN_FREE = 16 << 20
#: What `check` writes: one key, so that what a killed process leaves of it is replaced.
PROBE = "ready/probe"
#: What an S3 store takes in one request, and holds of a larger object until the next part goes.
PART = 64 << 20
#: How often the objects of a store with a set capacity are added up.
MEASURE_SECONDS = 60.0


def _probe(store: BlobStore) -> None:
    store.put(PROBE, b"ready")
    store.delete(PROBE)


def _pieces(data: bytes | IO[bytes]) -> Iterator[bytes]:
    source: IO[bytes] = BytesIO(data) if isinstance(data, bytes) else data
    while piece := source.read(CHUNK):
        yield piece


def is_full(error: OSError) -> bool:
    """Tell whether an error of the file system says that no room is left."""
    return error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def _sync(path: str) -> None:
    """Make a file's bytes, or the names in a folder, outlast a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(path: str) -> None:
    """Sync a folder, if it is there: another process may have deleted what was in it, and then the folder."""
    with contextlib.suppress(FileNotFoundError):
        _sync(path)


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """Raise the errors of a file system as those of a store."""
    try:
        yield
    except OSError as error:
        if is_full(error):
            raise BlobFull from error
        raise BlobUnavailable(type(error).__name__) from error


#: What the names of temporary files begin with.
_NEW = ".new-"


class _FolderGroup(BlobGroup):
    """Files of a `FolderStore` that are written, and get their names together.

    To sync many files one after the other is cheaper than to sync each as it is written: the file system's
    journal is written for the first of them, and holds what the others need.
    """

    def __init__(self, store: FolderStore) -> None:
        self._store = store
        self._written: dict[str, str] = {}  # by temporary name, the lasting one

    def put(self, key: str, data: bytes | IO[bytes]) -> tuple[str, int]:
        """See `BlobGroup.put`."""
        path = self._store.path(key)
        with _translated():
            descriptor, temporary = self._store.new_file(path.rpartition("/")[0])
            try:
                written = _write(descriptor, data)  # what it reads may keep what was put before
            except BaseException:
                self._delete(temporary)
                raise
            finally:
                os.close(descriptor)
        self._written[temporary] = path
        return written

    def keep(self) -> None:
        """See `BlobGroup.keep`: bytes first, then names, then the folders, any of which may be new."""
        try:
            with _translated():
                for temporary in self._written:
                    _sync(temporary)
                named = list(self._written.values())
                for temporary, path in list(self._written.items()):
                    os.rename(temporary, path)
                    del self._written[temporary]
                for folder in self._store.folders_above(named):
                    _sync_folder(folder)
        finally:
            self.discard()

    def discard(self) -> None:
        """See `BlobGroup.discard`."""
        while self._written:
            self._delete(self._written.popitem()[0])

    def _delete(self, temporary: str) -> None:
        with contextlib.suppress(OSError, BlobUnavailable):
            os.unlink(temporary)
            self._store.remove_empty(temporary)


def _write(descriptor: int, data: bytes | IO[bytes]) -> tuple[str, int]:
    """Write bytes to a file; return their hex SHA-256 and size."""
    digest, size = hashlib.sha256(), 0
    for piece in (data,) if isinstance(data, bytes) else _pieces(data):
        digest.update(piece)
        size += len(piece)
        left = memoryview(piece)
        while left:
            left = left[os.write(descriptor, left) :]
    return digest.hexdigest(), size


class FolderStore:
    """Blobs as files below one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._root = str(root)
        root.mkdir(parents=True, exist_ok=True)

    def path(self, key: str) -> str:
        """Return where a key's file lies. Raises `BlobMissing` for what is no key."""
        parts = key.split("/")
        if "" in parts or "." in parts or ".." in parts or "\\" in key or "\0" in key:
            raise BlobMissing(f"not a key: {key!r}")
        return f"{self._root}/{key}"

    @staticmethod
    def new_file(folder: str) -> tuple[int, str]:
        """Open a temporary file; another process may remove the empty folder before the file is in it."""
        for left in reversed(range(10)):
            name = f"{folder}/{_NEW}{os.urandom(8).hex()}"
            try:
                return os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), name
            except FileNotFoundError:
                if not left:
                    raise
                with contextlib.suppress(FileNotFoundError, FileExistsError):
                    os.makedirs(folder, exist_ok=True)
        raise AssertionError

    def folders_above(self, paths: Iterable[str]) -> list[str]:
        """Return the folders that hold the files, and those that hold them, up to the root, deepest first."""
        folders: set[str] = set()
        for path in paths:
            folder = path.rpartition("/")[0]
            while folder not in folders and len(folder) >= len(self._root):
                folders.add(folder)
                folder = folder.rpartition("/")[0]
        return sorted(folders, key=lambda folder: -folder.count("/"))

    def group(self) -> BlobGroup:
        """See `BlobStore.group`."""
        return _FolderGroup(self)

    def put(self, key: str, data: bytes | IO[bytes]) -> tuple[str, int]:
        """See `BlobStore.put`."""
        group = _FolderGroup(self)
        written = group.put(key, data)
        group.keep()
        return written

    def get(self, key: str) -> bytes:
        """See `BlobStore.get`."""
        try:
            with open(self.path(key), "rb") as file:
                return file.read()
        except (FileNotFoundError, IsADirectoryError) as error:
            raise BlobMissing from error
        except OSError as error:
            raise BlobUnavailable(type(error).__name__) from error

    def stream(self, key: str, chunk: int = CHUNK, start: int = 0) -> Iterator[bytes]:
        """See `BlobStore.stream`."""
        try:
            file = open(self.path(key), "rb")  # noqa: SIM115 - closed when it was read
            file.seek(start)
        except (FileNotFoundError, IsADirectoryError) as error:
            raise BlobMissing from error
        except OSError as error:
            raise BlobUnavailable(type(error).__name__) from error

        def pieces() -> Iterator[bytes]:
            with file:
                while piece := file.read(chunk):
                    yield piece

        return pieces()

    def _stat(self, key: str) -> os.stat_result:
        try:
            return os.stat(self.path(key))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise BlobMissing from error
        except OSError as error:
            raise BlobUnavailable(type(error).__name__) from error

    def size(self, key: str) -> int:
        """See `BlobStore.size`."""
        return self._stat(key).st_size

    def exists(self, key: str) -> bool:
        """See `BlobStore.exists`."""
        return os.path.isfile(self.path(key))

    def delete(self, key: str) -> None:
        """See `BlobStore.delete`; empty folders above are removed too."""
        path = self.path(key)
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise BlobUnavailable(type(error).__name__) from error
        self.remove_empty(path)

    def remove_empty(self, path: str) -> None:
        """Remove the folders above a file as far as they are empty."""
        folder = path.rpartition("/")[0]
        try:
            while len(folder) > len(self._root):
                os.rmdir(folder)
                folder = folder.rpartition("/")[0]
        except OSError as error:
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT}:
                raise BlobUnavailable(type(error).__name__) from error

    def keys(self, prefix: str = "") -> Iterator[str]:
        """See `BlobStore.keys`."""
        start = self.root.joinpath(*prefix.split("/")[:-1]) if "/" in prefix else self.root
        for path in _files(start):
            key = path.relative_to(self.root).as_posix()
            if key.startswith(prefix) and not path.name.startswith(_NEW):
                yield key

    def age(self, key: str) -> float:
        """See `BlobStore.age`."""
        return time.time() - self._stat(key).st_mtime

    def delete_unfinished(self, older_than: float) -> None:
        """See `BlobStore.delete_unfinished`."""
        for path in _files(self.root):
            if path.name.startswith(_NEW):
                with contextlib.suppress(FileNotFoundError):
                    if time.time() - path.stat().st_mtime > older_than:
                        path.unlink()

    def fullness(self) -> float | None:
        """See `BlobStore.fullness`: of the file system."""
        usage = shutil.disk_usage(self.root)
        return usage.used / (usage.used + usage.free)

    def freed(self, n_bytes: int) -> None:
        """See `BlobStore.freed`: the file system knows."""

    def check(self) -> None:
        """See `BlobStore.check`."""
        try:
            free = shutil.disk_usage(self.root).free
        except OSError as error:
            raise BlobUnavailable(type(error).__name__) from error
        if free < MIN_FREE:
            raise BlobFull
        _probe(self)


def _files(start: Path) -> Iterator[Path]:
    """Yield the files below a folder in order; what is deleted meanwhile, folders too, is passed over.

    Raises
    ------
    BlobUnavailable
        A folder that is there cannot be listed: an empty answer would call its files missing.
    """

    def judge(error: OSError) -> None:
        if error.errno not in {errno.ENOENT, errno.ENOTDIR}:
            raise BlobUnavailable(type(error).__name__) from error

    for folder, folders, files in os.walk(start, onerror=judge):
        folders.sort()
        yield from (Path(folder, name) for name in sorted(files))


class S3Store:
    """Blobs as objects of an S3 bucket, below an optional prefix.

    Parameters
    ----------
    capacity
        How many bytes the bucket may hold; 0 where nobody has set a bound.
    """

    def __init__(
        self, bucket: str, prefix: str, *, timeout: float, capacity: int = 0, **client_settings: Any
    ) -> None:
        import boto3
        from botocore.config import Config

        self.bucket = bucket
        self.prefix = prefix.strip("/") + "/" if prefix.strip("/") else ""
        self.capacity = capacity
        self._measuring = threading.Lock()
        self._used: int | None = None
        self._measured_at = -math.inf
        self.client = boto3.client(
            "s3",
            config=Config(
                connect_timeout=min(3, timeout),
                read_timeout=timeout,
                retries={"max_attempts": 3, "mode": "standard"},
            ),
            **client_settings,
        )

    def _call(self, name: str, **arguments: Any) -> Any:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return getattr(self.client, name)(Bucket=self.bucket, **arguments)
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            if code in {"404", "NoSuchKey", "NotFound", "NoSuchUpload"}:
                raise BlobMissing from error
            if code in {"507", "InsufficientStorage", "XMinioStorageFull", "QuotaExceeded"}:
                raise BlobFull from error
            raise BlobUnavailable(code) from error
        except BotoCoreError as error:
            raise BlobUnavailable(type(error).__name__) from error

    def put(self, key: str, data: bytes | IO[bytes]) -> tuple[str, int]:
        """See `BlobStore.put`; an object appears whole or not at all.

        What is larger than `PART` goes in parts: one request takes no more than 5 GiB, and no more than a
        part has to lie on the local disk.
        """
        digest, size = hashlib.sha256(), 0
        parts = _Parts(self, self.prefix + key)
        try:
            for piece in _pieces(data):
                parts.write(piece)
                digest.update(piece)
                size += len(piece)
            parts.finish()
        except OSError as error:
            raise (BlobFull if is_full(error) else BlobUnavailable)(type(error).__name__) from error
        finally:
            parts.close()
        return digest.hexdigest(), size

    def group(self) -> BlobGroup:
        """See `BlobStore.group`."""
        return _ObjectGroup(self)

    def get(self, key: str) -> bytes:
        """See `BlobStore.get`."""
        return b"".join(self.stream(key))

    def stream(self, key: str, chunk: int = CHUNK, start: int = 0) -> Iterator[bytes]:
        """See `BlobStore.stream`."""
        from botocore.exceptions import BotoCoreError

        wanted = {"Range": f"bytes={start}-"} if start else {}
        body = self._call("get_object", Key=self.prefix + key, **wanted)["Body"]

        def pieces() -> Iterator[bytes]:
            try:
                yield from body.iter_chunks(chunk)
            except (BotoCoreError, OSError) as error:
                raise BlobUnavailable(type(error).__name__) from error
            finally:
                body.close()

        return pieces()

    def size(self, key: str) -> int:
        """See `BlobStore.size`."""
        return int(self._call("head_object", Key=self.prefix + key)["ContentLength"])

    def exists(self, key: str) -> bool:
        """See `BlobStore.exists`."""
        try:
            self.size(key)
        except BlobMissing:
            return False
        return True

    def delete(self, key: str) -> None:
        """See `BlobStore.delete`."""
        self._call("delete_object", Key=self.prefix + key)

    def keys(self, prefix: str = "") -> Iterator[str]:
        """See `BlobStore.keys`."""
        for item in self._objects(prefix):
            yield item["Key"].removeprefix(self.prefix)

    def _objects(self, prefix: str) -> Iterator[dict[str, Any]]:
        token: dict[str, str] = {}
        while True:
            page = self._call("list_objects_v2", Prefix=self.prefix + prefix, **token)
            yield from page.get("Contents", [])
            if not page.get("IsTruncated"):
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}

    def age(self, key: str) -> float:
        """See `BlobStore.age`."""
        written = self._call("head_object", Key=self.prefix + key)["LastModified"]
        return float((datetime.now(UTC) - written).total_seconds())

    def delete_unfinished(self, older_than: float) -> None:
        """See `BlobStore.delete_unfinished`: parts of an object that was never completed take room."""
        now = datetime.now(UTC)
        place: dict[str, str] = {}
        while True:
            page = self._call("list_multipart_uploads", Prefix=self.prefix, **place)
            for upload in page.get("Uploads", []):
                if (now - upload["Initiated"]).total_seconds() > older_than:
                    with contextlib.suppress(BlobMissing):
                        self._call("abort_multipart_upload", Key=upload["Key"], UploadId=upload["UploadId"])
            if not page.get("IsTruncated"):
                return
            place = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}

    def fullness(self) -> float | None:
        """See `BlobStore.fullness`: of the set capacity, or 1 when the store itself says that it is full.

        The objects are added up in the background, since that takes long where they are many.
        """
        try:
            self.check()
        except BlobFull:
            return 1.0
        except BlobUnavailable:
            return None
        if not self.capacity:
            return None
        due = time.monotonic() - self._measured_at > MEASURE_SECONDS
        if due and self._measuring.acquire(blocking=False):
            threading.Thread(target=self._measure, name="blob capacity", daemon=True).start()
        return None if self._used is None else self._used / self.capacity

    def _measure(self) -> None:
        try:
            self._used = sum(item["Size"] for item in self._objects(""))
        except ServiceError as error:
            log.warning("the bucket could not be measured: %s", error.code)
        finally:
            self._measured_at = time.monotonic()
            self._measuring.release()

    def freed(self, n_bytes: int) -> None:
        """See `BlobStore.freed`."""
        if self._used is not None:
            self._used -= n_bytes

    def check(self) -> None:
        """See `BlobStore.check`."""
        _probe(self)


class _ObjectGroup(BlobGroup):
    """Objects of an `S3Store`: each appears when it is put, and what was answered for is kept."""

    def __init__(self, store: S3Store) -> None:
        self._store = store
        self._put: list[str] = []

    def put(self, key: str, data: bytes | IO[bytes]) -> tuple[str, int]:
        """See `BlobGroup.put`."""
        written = self._store.put(key, data)
        self._put.append(key)
        return written

    def keep(self) -> None:
        """See `BlobGroup.keep`."""
        self._put.clear()

    def discard(self) -> None:
        """See `BlobGroup.discard`."""
        # they stay: another attempt writes the same keys, and a row may name them


class _Parts:
    """Writes one object: in one request when it is small, else in parts of `PART` bytes."""

    def __init__(self, store: S3Store, key: str) -> None:
        self._store = store
        self._key = key
        self._spool = tempfile.SpooledTemporaryFile(max_size=8 * CHUNK)  # noqa: SIM115 - see `close`
        self._held = 0
        self._upload: str | None = None
        self._etags: list[str] = []

    def write(self, piece: bytes) -> None:
        """Take bytes; send a part when one is full."""
        self._spool.write(piece)
        self._held += len(piece)
        if self._held >= PART:
            self._send()

    def _send(self) -> None:
        if self._upload is None:
            self._upload = self._store._call("create_multipart_upload", Key=self._key)["UploadId"]
        self._spool.seek(0)
        answer = self._store._call(
            "upload_part",
            Key=self._key,
            UploadId=self._upload,
            PartNumber=len(self._etags) + 1,
            Body=self._spool,
            ContentLength=self._held,
        )
        self._etags.append(answer["ETag"])
        self._spool.seek(0)
        self._spool.truncate()
        self._held = 0

    def finish(self) -> None:
        """Make the object appear."""
        if self._upload is None:
            self._spool.seek(0)
            self._store._call("put_object", Key=self._key, Body=self._spool, ContentLength=self._held)
            return
        if self._held:
            self._send()
        listed = [{"PartNumber": n, "ETag": etag} for n, etag in enumerate(self._etags, 1)]
        self._store._call(
            "complete_multipart_upload",
            Key=self._key,
            UploadId=self._upload,
            MultipartUpload={"Parts": listed},
        )
        self._upload = None

    def close(self) -> None:
        """Close the spool, and abort an unfinished upload."""
        self._spool.close()
        if self._upload is not None:
            with contextlib.suppress(ServiceError):  # `delete_unfinished` does it later
                self._store._call("abort_multipart_upload", Key=self._key, UploadId=self._upload)


def open_blobs(url: str) -> BlobStore:
    """Open the store that `url` names.

    Parameters
    ----------
    url
        ``file:///folder``, or ``s3://bucket/prefix`` with optional ``?endpoint=URL&region=NAME``.
        Credentials for S3 come from the usual ``AWS_*`` variables.

    Raises
    ------
    SettingsError
        The address is of neither kind.
    """
    parts = urlsplit(url)
    if parts.scheme == "file" and parts.path.startswith("/"):
        return FolderStore(Path(unquote(parts.path)))
    if parts.scheme == "s3" and parts.netloc:
        query = parse_qs(parts.query)
        extra: dict[str, Any] = {}
        if "endpoint" in query:
            extra["endpoint_url"] = query["endpoint"][0]
            # not Amazon's: without keys, boto3 would look for those of a virtual machine in Amazon's network
            os.environ.setdefault("AWS_EC2_METADATA_DISABLED", "true")
        extra["region_name"] = query.get("region", ["us-east-1"])[0]
        timeout, capacity = get_settings().blob_timeout_seconds, get_settings().blob_capacity_bytes
        return S3Store(parts.netloc, parts.path, timeout=timeout, capacity=capacity, **extra)
    raise SettingsError("FRACTUREAI_BLOB_URL must be file:///folder or s3://bucket/prefix")


@cache
def get_blobs() -> BlobStore:
    """Return this process's blob store."""
    return open_blobs(get_settings().require("blob_url").blob_url)


#: How long an answer of `storage_problem` counts.
CHECK_SECONDS = 10.0


class _Health:
    """Whether a store takes bytes, asked of it every `CHECK_SECONDS` by one thread at a time."""

    def __init__(self, store: BlobStore) -> None:
        self.store = store
        self.problem: ServiceError | None = None
        self._at = -math.inf
        self._asking = threading.Lock()

    def ask(self, *, wait: bool) -> None:
        if time.monotonic() - self._at < CHECK_SECONDS or not self._asking.acquire(blocking=False):
            return
        if wait:
            self._ask()
        else:
            threading.Thread(target=self._ask, name="blob check", daemon=True).start()

    def _ask(self) -> None:
        try:
            self.store.check()
            self.problem = None
        except (BlobFull, BlobUnavailable) as error:
            self.problem = error
        finally:
            self._at = time.monotonic()
            self._asking.release()


_health: _Health | None = None


def storage_problem(*, wait: bool) -> ServiceError | None:
    """Return why the blob store takes nothing, or None.

    Parameters
    ----------
    wait
        For an answer of the last seconds; else the last one counts, and a page is never late because of it.
    """
    global _health  # noqa: PLW0603 - one per process is the point
    store = get_blobs()
    health = _health
    if health is None or health.store is not store:
        health = _health = _Health(store)
    health.ask(wait=wait)
    return health.problem

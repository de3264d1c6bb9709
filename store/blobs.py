"""Bytes by key, in a local folder or on S3.

Written to a temporary name, synced, then renamed, so that a key never holds half of its bytes.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import IO, Any, Protocol
from urllib.parse import parse_qs, unquote, urlsplit

from settings import SettingsError, get_settings
from store.errors import BlobFull, BlobMissing, BlobUnavailable

CHUNK = 1 << 20


class BlobStore(Protocol):
    """What both stores do. Keys are relative POSIX paths made by the service itself.

    Every method raises `BlobUnavailable` when the store does not answer.
    """

    def put(self, key: str, data: bytes | IO[bytes]) -> tuple[str, int]:
        """Store bytes under `key`; return their hex SHA-256 and size. Raises `BlobFull`."""

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
        """Return which share of the room is taken (0-1), by whatever; None where there is no telling."""


def _pieces(data: bytes | IO[bytes]) -> Iterator[bytes]:
    source: IO[bytes] = BytesIO(data) if isinstance(data, bytes) else data
    while piece := source.read(CHUNK):
        yield piece


class FolderStore:
    """Blobs as files below one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)

    def _path(self, key: str) -> Path:
        parts = key.split("/")
        if not key or any(p in {"", ".", ".."} or "\\" in p or "\0" in p for p in parts):
            raise BlobMissing(f"not a key: {key!r}")
        return self.root.joinpath(*parts)

    def put(self, key: str, data: bytes | IO[bytes]) -> tuple[str, int]:
        """See `BlobStore.put`."""
        path = self._path(key)
        digest, size = hashlib.sha256(), 0
        temporary = ""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".new-", delete=False) as file:
                temporary = file.name
                for piece in _pieces(data):
                    file.write(piece)
                    digest.update(piece)
                    size += len(piece)
                file.flush()
                os.fsync(file.fileno())
            os.rename(temporary, path)
        except OSError as error:
            if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
                raise BlobFull from error
            raise BlobUnavailable(type(error).__name__) from error
        finally:
            if temporary and os.path.exists(temporary):
                os.unlink(temporary)
        return digest.hexdigest(), size

    def get(self, key: str) -> bytes:
        """See `BlobStore.get`."""
        try:
            return self._path(key).read_bytes()
        except (FileNotFoundError, IsADirectoryError) as error:
            raise BlobMissing from error
        except OSError as error:
            raise BlobUnavailable(type(error).__name__) from error

    def stream(self, key: str, chunk: int = CHUNK, start: int = 0) -> Iterator[bytes]:
        """See `BlobStore.stream`."""
        try:
            file = self._path(key).open("rb")
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
            return self._path(key).stat()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise BlobMissing from error
        except OSError as error:
            raise BlobUnavailable(type(error).__name__) from error

    def size(self, key: str) -> int:
        """See `BlobStore.size`."""
        return self._stat(key).st_size

    def exists(self, key: str) -> bool:
        """See `BlobStore.exists`."""
        return self._path(key).is_file()

    def delete(self, key: str) -> None:
        """See `BlobStore.delete`; empty folders above are removed too."""
        path = self._path(key)
        try:
            path.unlink(missing_ok=True)
            for parent in path.parents:
                if parent == self.root:
                    break
                parent.rmdir()
        except OSError as error:
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT}:
                raise BlobUnavailable(type(error).__name__) from error

    def keys(self, prefix: str = "") -> Iterator[str]:
        """See `BlobStore.keys`."""
        start = self.root.joinpath(*prefix.split("/")[:-1]) if "/" in prefix else self.root
        for folder, folders, files in os.walk(start):
            folders.sort()
            for name in sorted(files):
                key = Path(folder, name).relative_to(self.root).as_posix()
                if key.startswith(prefix) and not name.startswith(".new-"):
                    yield key

    def age(self, key: str) -> float:
        """See `BlobStore.age`."""
        return time.time() - self._stat(key).st_mtime

    def delete_unfinished(self, older_than: float) -> None:
        """See `BlobStore.delete_unfinished`."""
        for path in self.root.rglob(".new-*"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > older_than:
                    path.unlink()

    def fullness(self) -> float | None:
        """See `BlobStore.fullness`: of the file system."""
        usage = shutil.disk_usage(self.root)
        return usage.used / (usage.used + usage.free)


class S3Store:
    """Blobs as objects of an S3 bucket, below an optional prefix."""

    def __init__(self, bucket: str, prefix: str, *, timeout: float, **client_settings: Any) -> None:
        import boto3
        from botocore.config import Config

        self.bucket = bucket
        self.prefix = prefix.strip("/") + "/" if prefix.strip("/") else ""
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
            if code in {"404", "NoSuchKey", "NotFound"}:
                raise BlobMissing from error
            if code in {"507", "InsufficientStorage", "XMinioStorageFull", "QuotaExceeded"}:
                raise BlobFull from error
            raise BlobUnavailable(code) from error
        except BotoCoreError as error:
            raise BlobUnavailable(type(error).__name__) from error

    def put(self, key: str, data: bytes | IO[bytes]) -> tuple[str, int]:
        """See `BlobStore.put`; an object appears whole or not at all."""
        digest, size = hashlib.sha256(), 0
        with tempfile.SpooledTemporaryFile(max_size=8 * CHUNK) as spool:
            for piece in _pieces(data):
                spool.write(piece)
                digest.update(piece)
                size += len(piece)
            spool.seek(0)
            self._call("put_object", Key=self.prefix + key, Body=spool, ContentLength=size)
        return digest.hexdigest(), size

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
        token: dict[str, str] = {}
        while True:
            page = self._call("list_objects_v2", Prefix=self.prefix + prefix, **token)
            for item in page.get("Contents", []):
                yield item["Key"].removeprefix(self.prefix)
            if not page.get("IsTruncated"):
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}

    def age(self, key: str) -> float:
        """See `BlobStore.age`."""
        from datetime import UTC, datetime

        written = self._call("head_object", Key=self.prefix + key)["LastModified"]
        return float((datetime.now(UTC) - written).total_seconds())

    def delete_unfinished(self, older_than: float) -> None:
        """See `BlobStore.delete_unfinished`: an unfinished object does not exist."""

    def fullness(self) -> float | None:
        """See `BlobStore.fullness`: a bucket has no size."""
        return None


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
        timeout = get_settings().blob_timeout_seconds
        return S3Store(parts.netloc, parts.path, timeout=timeout, **extra)
    raise SettingsError("FRACTUREAI_BLOB_URL must be file:///folder or s3://bucket/prefix")


@cache
def get_blobs() -> BlobStore:
    """Return this process's blob store."""
    return open_blobs(get_settings().require("blob_url").blob_url)

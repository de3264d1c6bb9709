"""An S3 store behind a line that breaks in mid-batch: the work waits, and goes on by itself."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from settings import get_settings
from store.base import blobs as blob_module
from store.base.blobs import get_blobs
from store.base.errors import BlobUnavailable
from tests.faults.proxy import Fault, FaultyLine
from tests.faults.test_processes import leased
from tests.running import (
    ALL,
    PATIENCE,
    assert_sound,
    light_service,
    read_batch,
    submit,
    wait_for,
    wait_until_ended,
)

#: Short, so that a line that hangs is noticed three tries later.
TIMEOUT = "3"


@pytest.fixture
def line(service_settings: pytest.MonkeyPatch) -> Iterator[FaultyLine]:
    """The line to an S3 store of this test's own; `site_id` after it puts the bundle there."""
    s3 = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    s3.start()
    host, port = s3.get_host_and_port()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        service_settings.setenv(name, "testing")
    bucket = f"b{uuid.uuid4().hex[:20]}"
    client = boto3.client("s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1")
    client.create_bucket(Bucket=bucket)
    with FaultyLine(host, port) as line:
        service_settings.setenv("FRACTUREAI_BLOB_URL", f"s3://{bucket}?endpoint=http://{line.address}")
        service_settings.setenv("FRACTUREAI_BLOB_TIMEOUT_SECONDS", TIMEOUT)
        get_settings.cache_clear()
        blob_module.get_blobs.cache_clear()
        yield line
    s3.stop()


@pytest.mark.faults
@pytest.mark.parametrize("fault", [Fault.DOWN, Fault.HUNG, Fault.SLOW, Fault.RESETS])
def test_the_line_to_the_store_breaks_in_mid_batch(
    fault: Fault,
    line: FaultyLine,
    site_id: uuid.UUID,
    few: dict[str, bytes],
    calm: dict[str, float],
    tmp_path: Path,
) -> None:
    with light_service(tmp_path) as service:
        batch = submit(site_id, few)
        wait_for(leased, PATIENCE, "a lease")
        line.fault = fault
        wait_for(lambda: line.broken, PATIENCE, "a connection that meets it")
        if fault is Fault.SLOW:
            assert_sound(wait_until_ended(batch), calm)  # slow is no fault: it ends, later
        else:
            told = "is given back: BlobUnavailable"
            wait_for(lambda: told in service.log(ALL), PATIENCE, "a stage that cannot go on")
            assert read_batch(batch).n_failed == 0
            line.fault = Fault.NONE
            assert_sound(wait_until_ended(batch), calm)
        assert read_batch(batch).n_done == len(few)


def test_a_broken_line_is_told_as_storage_that_does_not_answer(line: FaultyLine) -> None:
    data = bytes(range(256)) * 100_000  # more than the line holds on its way
    store = get_blobs()
    store.put("some/key", data)
    pieces = store.stream("some/key", 1024)
    next(pieces)
    line.fault = Fault.RESETS
    with pytest.raises(BlobUnavailable):
        b"".join(pieces)
    line.fault = Fault.DOWN
    for ask in (
        lambda: store.get("some/key"),
        lambda: store.put("some/other", data),
        lambda: store.size("some/key"),
        lambda: store.delete("some/key"),
        lambda: list(store.keys("some/")),
    ):
        with pytest.raises(BlobUnavailable):
            ask()
    line.fault = Fault.NONE
    assert store.get("some/key") == data
    assert list(store.keys("some/")) == ["some/key"], "nothing half-written"

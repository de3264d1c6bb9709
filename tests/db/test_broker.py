"""A broker that holds anything: what is no message of ours is dropped and counted, the rest arrives."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
import redis
from kombu import Connection, Consumer, Queue

from settings import get_settings
from store.base.tables import WorkKind
from store.queue import dispatch
from store.queue.broker import Dropped, Transport, is_message
from vocabulary.states import Stage

GARBAGE = (
    *(b"garbage", b"\xff\xfe\x00", b"", b"7", b"null", b"[]", b"{}", b'"text"', b"{" * 50, b"[" * 100_000),
    *(b'{"properties": 5}', b'{"body": "e30=", "properties": {}}', b'{"properties": {"delivery_tag": "x"}}'),
)


def odd_messages(work_id: str) -> list[bytes]:
    """Return messages that are nearly ours: one part of each is of another type."""
    good: dict[str, Any] = {
        "body": base64.b64encode(json.dumps([[], {"work_id": work_id}, {"chain": None}]).encode()).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"lang": "py", "task": "fractureai.prepare", "id": work_id, "retries": 0},
        "properties": {
            "correlation_id": work_id,
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": "cpu"},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": work_id,
        },
    }
    odd = []
    for part in good:
        for value in (None, 5, "text", [], {}):
            odd.append(json.dumps({**good, part: value}).encode())
    for part in ("headers", "properties"):
        for name in good[part]:
            for value in (None, 5, [1], {"a": 1}):
                odd.append(json.dumps({**good, part: {**good[part], name: value}}).encode())
    for body in ("", "%", base64.b64encode(b"\xff").decode(), base64.b64encode(b"[1, 2, 3]").decode()):
        odd.append(json.dumps({**good, "body": body}).encode())
    for name, value in {"eta": "tomorrow", "expires": [], "timelimit": ["a"], "chain": 7}.items():
        odd.append(json.dumps({**good, "headers": {**good["headers"], name: value}}).encode())
    return odd


def send(stage: Stage = Stage.PREPARE, *, priority: int = 1) -> str:
    work_id = uuid.uuid4()
    dispatch._send(dispatch._publisher(), dispatch._Message(work_id, WorkKind.CHUNK, stage, priority))
    return str(work_id)


@contextmanager
def connected(**options: object) -> Iterator[Connection]:
    settings = get_settings()
    every = {**dispatch.broker_options(settings), "visibility_timeout": 1, **options}
    with Connection(settings.broker_url, transport=Transport, transport_options=every) as connection:
        yield connection


@pytest.fixture
def connection(broker: redis.Redis) -> Iterator[Connection]:
    with connected() as connection:
        Dropped.take()
        yield connection


def received(connection: Connection, wanted: set[str], queues: tuple[str, ...] = ("cpu", "gpu")) -> list[str]:
    """Take and acknowledge messages until all that are wanted have come; return their work."""
    got: list[str] = []

    def take(message: Any) -> None:
        with suppress(ValueError, LookupError, TypeError, AttributeError):
            got.append(json.loads(message.body)[1]["work_id"])
        message.ack()

    consumer = Consumer(connection, [Queue(name) for name in queues], on_message=take, prefetch_count=1)
    with consumer:
        for _ in range(2000):
            if wanted <= set(got):
                return got
            with suppress(TimeoutError):
                connection.drain_events(timeout=2)
    raise AssertionError(f"{len(wanted - set(got))} messages did not come")


def test_garbage_is_dropped_and_counted_and_what_follows_arrives(
    connection: Connection, broker: redis.Redis
) -> None:
    odd = odd_messages(str(uuid.uuid4()))
    broker.lpush("cpu", *GARBAGE, *odd)
    broker.lpush("gpu", *GARBAGE)
    wanted = {send(), send(Stage.DETECT)}
    assert wanted <= set(received(connection, wanted))
    assert Dropped.take() >= 2 * len(GARBAGE)
    assert not broker.hlen("unacked")


def test_keys_of_another_type_are_deleted(connection: Connection, broker: redis.Redis) -> None:
    for key in ("cpu", "gpu:6", "unacked", "unacked_index", "_kombu.binding.cpu"):
        broker.set(key, "not what lies here")
    first = {send()}
    assert first <= set(received(connection, first))
    assert Dropped.take() >= 4
    broker.set("gpu:3", "not a list")
    second = {send(), send(Stage.DETECT)}
    assert second <= set(received(connection, second))


def test_unacknowledged_garbage_is_forgotten(connection: Connection, broker: redis.Redis) -> None:
    for n, value in enumerate((b"garbage", b"[1, 2]", b"[1, 2, 3]", b"null", b"[null, null, null]")):
        broker.hset("unacked", str(n), value)
        broker.zadd("unacked_index", {str(n): n + 1})
    channel = connection.default_channel
    for _ in range(5):
        channel.qos.restore_visible(num=10, interval=1)
    assert not broker.hlen("unacked")
    assert not broker.zcard("unacked_index")


def test_a_binding_that_cannot_be_read_does_not_stop_sending(
    connection: Connection, broker: redis.Redis
) -> None:
    send()
    broker.sadd("_kombu.binding.cpu", "no binding", b"\xff")
    dispatch._publisher.cache_clear()
    wanted = {send()}
    assert wanted <= set(received(connection, wanted))


def test_a_message_that_breaks_whoever_takes_it_is_forgotten(
    connection: Connection, broker: redis.Redis
) -> None:
    """Celery reads more of a message than anybody could list."""
    send()
    got: list[str] = []

    def take(message: Any) -> None:
        if not got:
            got.append("broken")
            raise AttributeError("'int' object has no attribute 'lower'")
        got.append(json.loads(message.body)[1]["work_id"])
        message.ack()

    with Consumer(connection, [Queue("cpu")], on_message=take, prefetch_count=1):
        connection.drain_events(timeout=5)
        assert not broker.hlen("unacked")
        wanted = send()
        while wanted not in got:
            connection.drain_events(timeout=5)
    assert Dropped.take() == 1


def test_every_odd_type_is_told_from_a_message() -> None:
    for raw in odd_messages("x"):
        message = json.loads(raw)
        if is_message(message):
            assert message["headers"].get("task") is not None
            assert message["content-encoding"] in {"utf-8", "text", None}


def test_a_worker_for_urgent_work_takes_nothing_else(connection: Connection, broker: redis.Redis) -> None:
    waiting = {send(), send(priority=2)}
    urgent = {send(priority=0), send(Stage.DETECT, priority=0)}
    with connected(urgent_only=True) as free:
        assert set(received(free, urgent)) == urgent
        # what it sends again for others that were killed stays what it was
        broker.hset("unacked", "1", json.dumps([json.loads(broker.rpop("cpu:3")), "", "cpu"]))
        broker.zadd("unacked_index", {"1": 1})
        free.default_channel.qos.restore_visible(num=10, interval=1)
        assert broker.llen("cpu") == 0
    assert set(received(connection, waiting)) == waiting

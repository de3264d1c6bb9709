"""Kombu's Redis transport, for a broker that may hold anything: what is no message of ours is dropped.

Kombu reads whatever lies under its keys and raises in the worker's loop when it cannot: a worker would end at
each start, over one odd byte. The broker carries nothing that Postgres does not know: dropping loses nothing.
"""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from kombu.transport import redis as kombu_redis

T = TypeVar("T")
log = logging.getLogger("fractureai.broker")

#: As the settings of Celery name it.
TRANSPORT = "store.queue.broker:Transport"


class Dropped:
    """How many messages this process dropped since that was last written down."""

    n = 0

    @classmethod
    def take(cls) -> int:
        """Return the number and begin anew."""
        n, cls.n = cls.n, 0
        return n


def _drop(what: str) -> None:
    Dropped.n += 1
    log.error("dropped from the broker: %s", what)


#: What Celery and kombu read of a message, and of which type it is; what is not there, or null, is fine. Only
#: what the next version surely keeps: a rule too many here would stop all work.
_TOP: Mapping[str, tuple[type, ...]] = {"content-encoding": (str,)}
_HEADERS: Mapping[str, tuple[type, ...]] = {
    **dict.fromkeys(("group", "root_id", "parent_id", "argsrepr", "kwargsrepr", "origin", "shadow"), (str,)),
    **dict.fromkeys(("eta", "expires", "compression"), ()),  # we set none
    "retries": (int,),
    "timelimit": (list,),
}
_PROPERTIES: Mapping[str, tuple[type, ...]] = {
    **dict.fromkeys(("correlation_id", "reply_to", "body_encoding"), (str,)),
    "priority": (int,),
}


def _fits(part: Any, schema: Mapping[str, tuple[type, ...]]) -> bool:
    return all(part.get(name) is None or isinstance(part[name], types) for name, types in schema.items())


def is_message(raw: Any) -> bool:
    """Return whether `raw` is a task's message as our publishers write it, so that a worker can take it."""
    try:
        properties, headers, body = raw["properties"], raw["headers"], raw["body"]
        delivery = properties["delivery_info"]
        if properties.get("body_encoding") == "base64":
            body = base64.b64decode(body)
        arguments, named, embedded = json.loads(body)
        needed = (properties["delivery_tag"], headers["task"], headers["id"])
        return (
            all(isinstance(text, str) for text in (*needed, delivery["exchange"], delivery["routing_key"]))
            and raw["content-type"] == "application/json"
            and _fits(raw, _TOP)
            and _fits(headers, _HEADERS)
            and _fits(properties, _PROPERTIES)
            and _is_limits(headers.get("timelimit") or [None, None])
            and isinstance(arguments, list)
            and isinstance(named, dict)
            and isinstance(embedded, dict)
            and isinstance(embedded.get("chain") or [], list)
        )
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError):
        return False


def _is_limits(limits: Any) -> bool:
    hard, soft = limits
    return all(limit is None or isinstance(limit, int | float) for limit in (hard, soft))


class QoS(kombu_redis.QoS):
    """Messages that were taken and not acknowledged: one that cannot be read is forgotten."""

    def append(self, message: Any, delivery_tag: Any) -> None:
        """Record a message as unacknowledged."""
        self.channel.without_wrong_types(lambda: super(QoS, self).append(message, delivery_tag))  # type: ignore[no-untyped-call]

    def ack(self, delivery_tag: Any) -> None:
        """Remove an acknowledged message."""
        self.channel.without_wrong_types(lambda: super(QoS, self).ack(delivery_tag))  # type: ignore[no-untyped-call]

    def restore_by_tag(self, tag: Any, client: Any = None, leftmost: bool = False) -> None:
        """Send a message again, or forget it."""
        try:
            super().restore_by_tag(tag, client=client, leftmost=leftmost)  # type: ignore[no-untyped-call]
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            _drop("an unacknowledged message that cannot be read")
            self._remove_from_indices(tag).execute()  # type: ignore[no-untyped-call]

    def restore_visible(self, *arguments: Any, **named: Any) -> None:
        """Send again what was taken long ago."""
        self.channel.without_wrong_types(lambda: super(QoS, self).restore_visible(*arguments, **named))  # type: ignore[no-untyped-call]


class Channel(kombu_redis.Channel):
    """A channel whose queues may hold anything, and of which some workers take urgent messages alone."""

    QoS = QoS
    from_transport_options = (*kombu_redis.Channel.from_transport_options, "urgent_only")  # type: ignore[assignment]
    urgent_only = False

    def _brpop_start(self, timeout: float | None = None) -> None:
        every = self.priority_steps
        if self.urgent_only:  # what is sent or restored still finds the list of its own priority
            self.priority_steps = every[:1]
        try:
            super()._brpop_start(timeout)  # type: ignore[no-untyped-call]
        finally:
            self.priority_steps = every

    def _brpop_read(self, **options: Any) -> Any:
        transport = self.connection
        transport.delivering = False
        try:
            return super()._brpop_read(**options)  # type: ignore[no-untyped-call]
        except self.ResponseError as error:
            if transport.delivering:
                raise
            self._delete_wrong_types(error, *self.active_queues)
        except (ValueError, RecursionError):
            if transport.delivering:
                raise
            _drop("what is no JSON")
        return True

    def _size(self, queue: str) -> Any:
        return self.without_wrong_types(lambda: super(Channel, self)._size(queue), queue)  # type: ignore[no-untyped-call]

    def _put(self, queue: str, message: Any, **options: Any) -> None:
        self.without_wrong_types(lambda: super(Channel, self)._put(queue, message, **options), queue)  # type: ignore[no-untyped-call]

    def without_wrong_types(self, do: Callable[[], T], *queues: str) -> T:
        """Do something, again if a key held another type than kombu keeps there: that key is deleted."""
        try:
            return do()
        except self.ResponseError as error:
            self._delete_wrong_types(error, *queues)
            return do()

    def _delete_wrong_types(self, error: Exception, *queues: str) -> None:
        if "WRONGTYPE" not in str(error):
            raise error
        lists = [self._q_for_pri(queue, pri) for queue in queues for pri in self.priority_steps]  # type: ignore[no-untyped-call]
        kinds = {**dict.fromkeys(lists, "list"), self.unacked_key: "hash", self.unacked_index_key: "zset"}
        with self.conn_or_acquire() as client:
            for key, kind in kinds.items():
                found = client.type(key)
                found = found.decode() if isinstance(found, bytes) else found
                if found not in {"none", kind}:
                    _drop(f"{key}: a {found}, not a {kind}")
                    client.delete(key)

    def get_table(self, exchange: str) -> list[tuple[str, ...]]:
        """Return the bindings of an exchange; one that cannot be read counts as none."""
        try:
            return [binding for binding in super().get_table(exchange) if len(binding) == 3]  # type: ignore[no-untyped-call]
        except UnicodeDecodeError:
            return []
        except self.ResponseError as error:
            if "WRONGTYPE" not in str(error):
                raise
            with self.conn_or_acquire() as client:
                _drop(f"the bindings of {exchange}")
                client.delete(self.keyprefix_queue % exchange)
            return []


class Transport(kombu_redis.Transport):
    """Hands on messages that can be read; the others are dropped and counted."""

    Channel = Channel

    #: Whether what goes wrong now is a worker's doing, not the message's.
    delivering = False

    def _deliver(self, message: Any, queue: str) -> None:
        if not is_message(message):
            _drop("what is no message of a task")
            return
        self.delivering = True
        try:
            super()._deliver(message, queue)  # type: ignore[no-untyped-call]
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            # of a type that `is_message` does not know to be wrong: the worker lives, the message goes
            _drop(f"a message that the worker cannot read ({type(error).__name__})")
            for channel in self.channels:
                if message["properties"]["delivery_tag"] in channel.qos._delivered:
                    channel.basic_reject(message["properties"]["delivery_tag"], requeue=False)

"""Publishes due work to Celery by task name; the only place that does.

Only a little lies in Redis at a time, chosen late by priority, waiting time and site; so pausing, urgency and
fairness cost nothing, and a broker that loses everything loses nothing: what is not taken is sent again.
"""

from __future__ import annotations

import contextlib
import logging
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from celery import Celery, chain
from sqlalchemy import func, select, text, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from settings import Settings, get_settings
from store.base.session import session_scope
from store.base.tables import Work, Worker, WorkKind, WorkState
from store.queue.broker import TRANSPORT
from vocabulary.states import STAGES, Stage

log = logging.getLogger("fractureai.dispatch")

#: The queue of every kind of work that has no stages; its task is `task_name(kind)`. What waits for others
#: (`notices`) and what takes long (`exports`) have workers of their own: no reading waits behind it.
KIND_QUEUES: dict[WorkKind, str] = {
    WorkKind.FINISH: "report",
    WorkKind.SIGN: "report",
    WorkKind.PIXELS: "cpu",
    WorkKind.NOTICE: "notices",
    WorkKind.PASSWORD: "notices",
    WorkKind.ACCOUNT_MAIL: "notices",
    WorkKind.DELIVER: "deliveries",
    WorkKind.EXPORT: "exports",
    WorkKind.EVALUATE: "exports",
}
ALL_QUEUES = tuple(sorted({*(stage.queue for stage in Stage), *KIND_QUEUES.values()}))


@dataclass(frozen=True)
class Lane:
    """Kinds of work that share workers; each lane has a window of its own, so that none fills another's."""

    kinds: tuple[str, ...]
    queues: tuple[str, ...]


def _lanes() -> tuple[Lane, ...]:
    reading = frozenset({*(stage.queue for stage in Stage), "report"})
    apart = [queue for queue in dict.fromkeys(KIND_QUEUES.values()) if queue not in reading]
    kinds = [kind.value for kind in WorkKind if KIND_QUEUES.get(kind, "report") in reading]
    return (
        Lane(tuple(kinds), tuple(sorted(reading))),
        *(Lane(tuple(k.value for k, q in KIND_QUEUES.items() if q == queue), (queue,)) for queue in apart),
    )


LANES = _lanes()

#: Redis priorities, the smaller first; by `Priority.rank`.
MESSAGE_PRIORITY = (0, 3, 6)


def task_name(stage: Stage | WorkKind) -> str:
    """Return the name under which the workers know a task."""
    return f"fractureai.{stage.value}"


def broker_options(settings: Settings) -> dict[str, object]:
    """Return the transport's options; the same for the publisher and the workers."""
    return {
        "visibility_timeout": settings.visibility_timeout,
        "socket_connect_timeout": settings.dispatch_timeout_seconds,
        "socket_timeout": max(settings.dispatch_timeout_seconds, 10.0),
        "socket_keepalive": True,
        "unacked_restore_throttle": 1,
        "queue_order_strategy": "priority",
        "priority_steps": list(MESSAGE_PRIORITY),
        "urgent_only": settings.urgent_only,
        "sep": ":",
    }


@cache
def _publisher() -> Celery:
    settings = get_settings().require("broker_url")
    app = Celery("fractureai-dispatch", broker=settings.broker_url, set_as_current=False)
    app.conf.update(
        task_ignore_result=True,
        task_serializer="json",
        accept_content=["json"],
        broker_transport=TRANSPORT,
        broker_transport_options={
            **broker_options(settings),
            "socket_timeout": settings.dispatch_timeout_seconds,
            "max_retries": 0,
        },
        broker_connection_retry=False,
        task_publish_retry=False,
    )
    return app


#: Work of a newer version is left to it, and takes no room: its messages would be refused here.
_KNOWN = Work.kind.in_([kind.value for kind in WorkKind])


@dataclass(frozen=True)
class _Message:
    work_id: uuid.UUID
    kind: WorkKind
    stage: Stage | None
    priority: int


_CHOOSE = text(
    """
    WITH in_flight AS (
        SELECT site_id, count(*) AS units FROM work
        WHERE state IN ('published', 'running') AND kind = ANY(:kinds) GROUP BY site_id
    )
    SELECT id FROM (
        SELECT due.id, due.priority, due.due_at, due.rests,
               CASE WHEN NOT due.clinical THEN due.priority  -- it waits for clinical work, however long
                    ELSE greatest(due.priority
                        - least(floor(extract(epoch FROM clock_timestamp() - due.created_at) / :aging), 1), 0)
               END AS class,
               -- most often there is room for one: what a site has in flight are turns that it had
               coalesce(in_flight.units, 0)
                   + row_number() OVER (PARTITION BY due.site_id ORDER BY due.priority, due.due_at) AS turn
        FROM (
            SELECT id AS site_id, coalesce(decode_rests_until > clock_timestamp(), false) AS rests
            FROM sites WHERE id IN (SELECT site_id FROM work WHERE state = 'due')
        ) AS sites
        CROSS JOIN LATERAL (
            SELECT work.*, batches.run_id IS NULL AS clinical,
                   sites.rests AND work.kind = 'chunk' AS rests
            FROM work LEFT JOIN batches ON batches.id = work.batch_id
            WHERE work.site_id = sites.site_id AND work.state = 'due' AND work.due_at <= clock_timestamp()
              AND work.kind = ANY(:kinds)
              AND (batches.paused_at IS NULL OR work.kind <> 'chunk')
            ORDER BY work.priority, work.due_at LIMIT :room
        ) AS due
        LEFT JOIN in_flight ON in_flight.site_id = due.site_id
    ) AS chosen
    ORDER BY rests, class, turn, due_at LIMIT :room
    """
)


#: Of each kind, how many units are in flight, and whether some are due, urgent ones among them.
_OPEN = text(
    """
    SELECT kind, count(*) FILTER (WHERE state <> 'due') AS in_flight, bool_or(state = 'due') AS due,
           bool_or(state = 'due' AND priority = 0) AS urgent
    FROM work WHERE state IN ('due', 'published', 'running') GROUP BY kind
    """
)


def _choose(session: Session) -> list[_Message]:
    """Choose what is due, as far as there is room for it."""
    units = {kind: (in_flight, due, urgent) for kind, in_flight, due, urgent in session.execute(_OPEN)}
    waiting = [lane for lane in LANES if any(units[kind][1] for kind in lane.kinds if kind in units)]
    if not waiting:
        return []
    workers = _workers(session)
    messages = []
    for lane in waiting:
        mine = [units[kind] for kind in lane.kinds if kind in units]
        room = _window(workers, lane) - sum(in_flight for in_flight, _, _ in mine)
        if any(urgent for _, _, urgent in mine):
            room = max(room, 2)  # an urgent image does not wait for room
        messages += _choose_of(session, lane, room)
    return messages


def _workers(session: Session) -> list[tuple[frozenset[str], int]]:
    """Return the queues and the slots of each worker that was alive lately."""
    alive = func.clock_timestamp() - text(f"interval '{4 * get_settings().heartbeat_seconds} seconds'")
    rows = session.execute(select(Worker.queues, Worker.slots).where(Worker.seen_at > alive))
    return [(frozenset(queues), slots) for queues, slots in rows]


def _window(workers: Sequence[tuple[frozenset[str], int]], lane: Lane) -> int:
    """Return how many units of a lane may be in flight: some for each slot of it."""
    slots = sum(n for queues, n in workers if queues & set(lane.queues))
    return max(4, get_settings().in_flight_per_slot * slots)


def _choose_of(session: Session, lane: Lane, room: int) -> list[_Message]:
    if room <= 0:
        return []
    how = {"room": room, "aging": get_settings().aging_seconds, "kinds": list(lane.kinds)}
    ids = session.scalars(_CHOOSE, how).all()
    if not ids:
        return []
    rows = session.scalars(
        select(Work)
        .where(Work.id.in_(ids), Work.state == WorkState.DUE)
        .with_for_update(skip_locked=True)
        .execution_options(populate_existing=True)
    ).all()
    order = {id_: n for n, id_ in enumerate(ids)}
    return [_published(work) for work in sorted(rows, key=lambda w: order[w.id])]


def _overdue(session: Session) -> list[_Message]:
    """Choose what was published, or handed to its next stage, and not taken in time."""
    late = func.clock_timestamp() - text(f"interval '{get_settings().resend_seconds} seconds'")
    rows = session.scalars(
        select(Work)
        .where(
            _KNOWN,
            Work.state.in_([WorkState.PUBLISHED, WorkState.RUNNING]),
            Work.lease_token.is_(None),
            Work.published_at < late,
        )
        .limit(100)
        .with_for_update(skip_locked=True)
    ).all()
    return [_published(work) for work in rows]


def _published(work: Work) -> _Message:
    if work.state == WorkState.DUE:
        work.state = WorkState.PUBLISHED.value
    work.published_at = func.clock_timestamp()
    return _Message(work.id, WorkKind(work.kind), Stage(work.stage) if work.stage else None, work.priority)


def _send(app: Celery, message: _Message) -> None:
    options = {"priority": MESSAGE_PRIORITY[min(message.priority, 2)]}
    arguments = {"work_id": str(message.work_id)}
    if message.kind is WorkKind.CHUNK and message.stage is not None:
        steps = STAGES[STAGES.index(message.stage) :]
        chain(
            *(
                app.signature(
                    task_name(stage), kwargs=arguments, queue=stage.queue, immutable=True, **options
                )
                for stage in steps
            ),
            app=app,
        ).apply_async(**options)
    else:
        queue = KIND_QUEUES[message.kind]
        app.send_task(task_name(message.kind), kwargs=arguments, queue=queue, **options)


def _send_all(messages: Sequence[_Message]) -> int:
    sent = 0
    app = _publisher()
    for message in messages:
        try:
            _send(app, message)
        except Exception as error:
            log.warning("the broker took no message (%s); reconcile sends it again", type(error).__name__)
            _make_due_again(messages[sent:])
            break
        sent += 1
    return sent


def _make_due_again(messages: Sequence[_Message]) -> None:
    """Make unsent units due again at once, instead of waiting for them to count as overdue."""
    with contextlib.suppress(SQLAlchemyError), session_scope() as session:
        session.execute(
            update(Work)
            .where(
                Work.id.in_([m.work_id for m in messages]),
                Work.state == WorkState.PUBLISHED,
                Work.lease_token.is_(None),
            )
            .values(state=WorkState.DUE.value, published_at=None)
        )


def dispatch(*, resend: bool = False) -> int:
    """Publish due work as far as there is room; return how many messages were sent.

    Called after a commit by whoever made work, and all the time by reconcile (which alone sets `resend`).
    A database or broker that is away is not an error here: the rows stay due.
    """
    try:
        with session_scope() as session:
            messages = _choose(session)
            if resend:
                messages += _overdue(session)
    except SQLAlchemyError as error:
        log.warning("the database gave no work (%s)", type(error).__name__)
        return 0
    return _send_all(messages) if messages else 0

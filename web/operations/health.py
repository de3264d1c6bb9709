"""Is the service alive, is it ready, how busy is it: for orchestrators and Prometheus. No names, no ids.

The public listener says only that the process lives. Readiness and metrics, which tell how the service is
built and how busy a hospital is, are on the health listener (`settings.health_port`), which only the
operator's network reaches.
"""

from __future__ import annotations

from collections import Counter
from datetime import timedelta

import redis
from flask import Blueprint, Flask, Response, jsonify
from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from settings import Settings
from store.base import batch_totals, event_counts
from store.base.blobs import storage_problem
from store.base.session import session_scope
from store.base.tables import Batch, Work, Worker, WorkKind, WorkState, work_is_open
from store.operations import monitoring
from store.operations.overview import OutsideKind, list_unreached
from store.outgoing.delivery_tables import Destination
from store.queue.dispatch import ALL_QUEUES, KIND_QUEUES
from vocabulary.states import BatchStatus
from web.auth.identity import is_public
from web.base.config import current_settings

health = Blueprint("health", __name__)
private_health = Blueprint("private_health", __name__)

WORKER_SEEN = timedelta(seconds=30)


def _slots(session: Session) -> dict[str, int]:
    """Return how many slots each queue has in workers that were seen lately."""
    slots = dict.fromkeys(ALL_QUEUES, 0)
    for queues, n in session.execute(
        select(Worker.queues, Worker.slots).where(Worker.seen_at > func.now() - WORKER_SEEN)
    ):
        for queue in queues:
            slots[queue] = slots.get(queue, 0) + n
    return slots


def _needed(session: Session) -> set[str]:
    """Return the queues that somebody has to listen to: deliveries only where results go to an archive."""
    needed = set(ALL_QUEUES)
    if session.scalar(select(Destination.id).where(Destination.removed_at.is_(None)).limit(1)) is None:
        needed.discard(KIND_QUEUES[WorkKind.DELIVER])
    return needed


def missing_parts(settings: Settings) -> dict[str, str]:
    """Return what does not answer, and how: nothing when the service can do its work."""
    missing: dict[str, str] = {}
    try:
        with session_scope() as session:
            slots, needed = _slots(session), _needed(session)
            recovery = monitoring.recovery_problem(session)
        if recovery is not None:
            missing["recovery"] = recovery
        missing |= {f"worker-{queue}": "none seen in 30 s" for queue in sorted(needed) if not slots[queue]}
    except SQLAlchemyError as error:
        missing["database"] = type(getattr(error, "orig", None) or error).__name__
    try:
        with redis.Redis.from_url(settings.broker_url, socket_timeout=2, socket_connect_timeout=2) as broker:
            broker.ping()
    except redis.RedisError as error:
        missing["broker"] = type(error).__name__
    if (problem := storage_problem(wait=True)) is not None:
        missing["blobs"] = problem.code
    return missing


@health.get("/healthz")
@is_public
def healthz() -> Response:
    """Answer as long as this process lives."""
    return jsonify(status="ok")


@private_health.get("/readyz")
def readyz() -> Response:
    """Answer 200 when database, broker, blobs, recovery and every kind of worker are there, else 503."""
    missing = missing_parts(current_settings())
    response = jsonify(status="ready" if not missing else "not ready", missing=missing)
    response.status_code = 503 if missing else 200
    return response


@private_health.get("/readyz/web")
def web_readyz() -> Response:
    """Answer 200 when this process can answer requests: the database is there. For a balancer's probe.

    What waits for workers, the broker or room on a disk is accepted meanwhile, or refused with a reason: a
    balancer that took the pages away with them would make it worse.
    """
    try:
        with session_scope() as session:
            session.execute(select(1))
    except SQLAlchemyError as error:
        response = jsonify(status="not ready", missing={"database": type(error).__name__})
        response.status_code = 503
        return response
    return jsonify(status="ready")


@private_health.get("/metrics")
def metrics() -> Response:
    """Answer gauges read at this moment, so that it does not matter which web process is asked."""
    registry = CollectorRegistry()
    images = Gauge("fractureai_images", "Images of all batches by status.", ["status"], registry=registry)
    active = Gauge(
        "fractureai_batches_active", "Batches by status, unfinished.", ["status"], registry=registry
    )
    due = Gauge("fractureai_work_due", "Units of work that wait.", registry=registry)
    flight = Gauge("fractureai_work_in_flight", "Units of work published or running.", registry=registry)
    oldest = Gauge("fractureai_work_oldest_due_seconds", "How long the oldest one waits.", registry=registry)
    slots = Gauge("fractureai_worker_slots", "Slots of live workers by queue.", ["queue"], registry=registry)
    waiting = Gauge(
        "fractureai_queue_images", "Images by queue and state.", ["queue", "state"], registry=registry
    )
    longest = Gauge(
        "fractureai_queue_oldest_seconds",
        "How long the first image of a queue waits.",
        ["queue"],
        registry=registry,
    )
    with session_scope() as session:
        for queue, depth in monitoring.queue_depths(session).items():
            waiting.labels(queue, "waiting").set(depth.waiting)
            waiting.labels(queue, "running").set(depth.running)
            longest.labels(queue).set(depth.oldest_seconds)
        for name, n in batch_totals.count_images(session).items():
            images.labels(name).set(n)
        running = [BatchStatus.QUEUED.value, BatchStatus.RUNNING.value, BatchStatus.PAUSED.value]
        for status in running:
            active.labels(status).set(0)
        for status, n in session.execute(
            select(Batch.status, func.count()).where(Batch.status.in_(running)).group_by(Batch.status)
        ):
            active.labels(status).set(n)
        units, age = session.execute(
            select(func.count(), func.extract("epoch", func.now() - func.min(Work.due_at))).where(
                Work.state == WorkState.DUE, Work.due_at <= func.now()
            )
        ).one()
        due.set(units)
        oldest.set(age or 0)
        states = [WorkState.PUBLISHED.value, WorkState.RUNNING.value]
        flight.set(session.scalar(select(func.count()).where(Work.state.in_(states))) or 0)
        for queue, n in _slots(session).items():
            slots.labels(queue).set(n)
        _alarms(session, registry)
    return Response(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)


def _alarms(session: Session, registry: CollectorRegistry) -> None:
    """Add the gauges on which an alarm should be set; see docs/reliability.md."""
    success = Gauge(
        "fractureai_maintenance_age_seconds",
        "How long ago a step of recovery and cleaning up last went through.",
        ["step"],
        registry=registry,
    )
    for step, seconds in monitoring.seconds_since_success(session).items():
        success.labels(step).set(seconds)
    failing = Gauge(
        "fractureai_maintenance_failing",
        "1 for a step of recovery and cleaning up that failed when last done, or is overdue.",
        ["step"],
        registry=registry,
    )
    problems = monitoring.step_problems(session)
    for each in monitoring.Step:
        failing.labels(each).set(each in problems)
    unreached = Gauge(
        "fractureai_unreached",
        "Those whom results go to, notices go to or studies are asked from, and who fail or are stopped.",
        ["kind"],
        registry=registry,
    )
    kinds = Counter(each.kind for each in list_unreached(session))
    for kind in OutsideKind:
        unreached.labels(kind).set(kinds[kind])
    unavailable = Gauge(
        "fractureai_work_unavailable",
        "Units of work that wait for a dependency, without counting an attempt.",
        ["reason"],
        registry=registry,
    )
    longest = Gauge(
        "fractureai_work_unavailable_seconds",
        "How long the first of them has been waiting.",
        ["reason"],
        registry=registry,
    )
    for reason, (n, seconds) in monitoring.unavailable_work(session).items():
        unavailable.labels(reason).set(n)
        longest.labels(reason).set(seconds)
    retried = Gauge(
        "fractureai_work_retried", "Unfinished units of work that failed once or more.", registry=registry
    )
    tried = select(func.count()).where(Work.attempt > 0, work_is_open())
    retried.set(session.scalar(tried) or 0)
    events = Gauge("fractureai_events", "What happened that should not.", ["event"], registry=registry)
    for name in (event_counts.DROPPED_MESSAGES, event_counts.BATCHES_GIVEN_UP):
        events.labels(name).set(0)
    for name, n in event_counts.by_name(session).items():
        events.labels(name).set(n)


def create_health_app(settings: Settings) -> Flask:
    """Return the application of the health listener, which asks nobody who they are."""
    app = Flask("web.health", static_folder=None)
    app.extensions["settings"] = settings
    app.config["MAX_CONTENT_LENGTH"] = 0
    app.register_blueprint(health)
    app.register_blueprint(private_health)
    return app

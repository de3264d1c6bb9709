"""The Celery application of the workers: settings, start-up checks, heart-beat, and a clean end."""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import resource
import signal
import socket
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

# before numpy is: its small products gain nothing from threads, and OpenBLAS's were seen to spin for ever
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from celery import Celery, signals
from sqlalchemy import delete, func
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import SQLAlchemyError

from settings import VERSION, SettingsError, get_settings, start_log
from store.base import event_counts
from store.base.session import session_scope
from store.base.tables import Worker
from store.queue.broker import TRANSPORT, Dropped
from store.queue.dispatch import MESSAGE_PRIORITY, broker_options
from vocabulary.states import Stage

log = logging.getLogger("fractureai.worker")
#: What can wait leaves the processor to pages, the database, and urgent work.
NICENESS = 10
settings = get_settings().require("database_url", "broker_url", "blob_url", "secret_key")

app = Celery("fractureai", broker=settings.broker_url, include=["worker.tasks"])
app.conf.update(
    task_serializer="json",
    accept_content=["json"],
    task_ignore_result=True,
    task_acks_late=True,
    task_acks_on_failure_or_timeout=True,
    task_reject_on_worker_lost=False,  # the lease tells; two mechanisms would fight
    worker_prefetch_multiplier=1,
    worker_cancel_long_running_tasks_on_connection_loss=True,
    worker_soft_shutdown_timeout=settings.soft_shutdown_seconds,
    worker_enable_remote_control=False,
    worker_send_task_events=False,
    worker_hijack_root_logger=False,
    task_soft_time_limit=settings.soft_time_limit,
    task_time_limit=settings.hard_time_limit,
    task_queue_max_priority=max(MESSAGE_PRIORITY),
    task_default_queue="cpu",
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    broker_transport=TRANSPORT,
    broker_transport_options=broker_options(settings),
    task_store_errors_even_if_ignored=False,
)


def check_start(worker: Any) -> None:
    """Refuse to start with settings that would lose or stall work.

    Raises
    ------
    SettingsError
        Naming what is out of order.
    """
    conf = app.conf
    pool = getattr(worker.pool_cls, "__module__", "")
    rules = {
        "the pool must be prefork: time limits and recovery need processes": pool.endswith("prefork"),
        "late acknowledgement must be on": conf.task_acks_late is True,
        "worker_prefetch_multiplier must be 1": worker.prefetch_multiplier in {1, None}
        and conf.worker_prefetch_multiplier == 1,
        "the soft time limit must be at most 0.9 x the hard one": (worker.soft_time_limit or 0)
        <= 0.9 * (worker.time_limit or 0),
        "the visibility timeout must exceed the hard time limit": settings.visibility_timeout
        > (worker.time_limit or 0),
        "TensorFlow must not be imported in the parent process": "tensorflow" not in sys.modules,
    }
    for sentence, holds in rules.items():
        if not holds:
            raise SettingsError(sentence)


def touch_heartbeat() -> None:
    """Touch the file at which a container's health check looks, whether the database answers or not."""
    if settings.alive_file:
        with suppress(OSError):  # a full disk is told elsewhere
            Path(settings.alive_file).touch()


class HeartBeat(threading.Thread):
    """Says in the database that this worker lives, and how many slots it has on which queues."""

    def __init__(self, name: str, queues: list[str], slots: int) -> None:
        super().__init__(name="heart-beat", daemon=True)
        self.row = {"name": name, "queues": queues, "slots": slots, "version": VERSION}
        self.ended = threading.Event()

    def run(self) -> None:
        """Beat until told to end; a database that is away is waited for."""
        dropped = 0
        while True:
            touch_heartbeat()
            dropped += Dropped.take()
            try:
                with session_scope() as session:
                    row = insert(Worker).values(**self.row, seen_at=func.clock_timestamp())
                    session.execute(
                        row.on_conflict_do_update(
                            index_elements=["name"],
                            set_={c: row.excluded[c] for c in ("queues", "slots", "version", "seen_at")},
                        )
                    )
                    if dropped:
                        event_counts.count_event(session, event_counts.DROPPED_MESSAGES, dropped)
                dropped = 0
            except SQLAlchemyError as error:
                log.warning("no heart-beat: the database does not answer (%s)", type(error).__name__)
            if self.ended.wait(settings.heartbeat_seconds):
                return

    def end(self) -> None:
        """Stop beating and sign off."""
        self.ended.set()
        try:
            with session_scope() as session:
                session.execute(delete(Worker).where(Worker.name == self.row["name"]))
        except SQLAlchemyError:
            log.info("could not sign off; the row ages away")


_beats: list[HeartBeat] = []


@signals.worker_init.connect
def _on_init(sender: Any, **_: Any) -> None:
    try:
        check_start(sender)
    except SettingsError as error:
        log.critical("refusing to start: %s", error)
        raise SystemExit(f"refusing to start: {error}") from error


@signals.worker_ready.connect
def _on_ready(sender: Any, **_: Any) -> None:
    # SIGTERM gives running tasks the soft-shutdown time, then ends them, as Celery's SIGQUIT does. Its own
    # REMAP_SIGTERM is read before this file is, and has the children ignore what is to end them.
    signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGQUIT))
    controller = sender.controller
    queues = sorted(queue.name for queue in app.amqp.queues.consume_from.values())
    if settings.urgent_only:  # it stands in for nobody: those queues need workers that take everything
        queues = ["urgent"]
    beat = HeartBeat(f"{socket.gethostname()}:{os.getpid()}", queues, int(controller.concurrency or 1))
    beat.start()
    _beats.append(beat)


@signals.worker_shutting_down.connect
def _on_shutdown(**_: Any) -> None:
    while _beats:
        _beats.pop().end()


@signals.worker_process_init.connect
def _on_child(**_: Any) -> None:
    """End with the parent even when it is killed; on SIGTERM the pool's own handler gives leases back."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(1)
    if not settings.urgent_only:
        os.nice(NICENESS)
    queues = {queue.name for queue in app.amqp.queues.consume_from.values()}
    if settings.memory_limit_bytes and "gpu" not in queues:  # a GPU's memory counts, too
        # an image that wants more fails by itself, before the kernel chooses whom to kill
        resource.setrlimit(resource.RLIMIT_DATA, (settings.memory_limit_bytes,) * 2)
    threading.Thread(target=_warm_up, args=(queues,), name="warm-up", daemon=True).start()


def _warm_up(queues: set[str]) -> None:
    """Load what the first task would wait for, while there is none."""
    if queues & {stage.queue for stage in Stage}:  # who delivers notices needs no network and no fonts
        from worker import stages

        stages.warm_up(queues)
    # what is loaded now stays: looking through it again and again took a tenth of a report's time
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000)


@signals.setup_logging.connect
def _on_logging(**_: Any) -> None:
    start_log(settings)
    for chatty in ("weasyprint", "fontTools", "botocore"):
        logging.getLogger(chatty).setLevel(logging.WARNING)

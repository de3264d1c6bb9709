"""`python -m worker.alive [reconcile]`: a health check of a container that holds a worker, or reconcile."""

from __future__ import annotations

import socket
import sys
from datetime import timedelta

from sqlalchemy import func, select

from settings import get_settings
from store.base.session import session_scope
from store.base.tables import Worker
from store.operations.monitoring import recovery_problem


def alive() -> bool:
    """Return whether the database heard of a worker of this host within six heart-beats."""
    oldest = func.clock_timestamp() - timedelta(seconds=6 * get_settings().heartbeat_seconds)
    query = select(Worker.name).where(
        Worker.name.startswith(f"{socket.gethostname()}:", autoescape=True), Worker.seen_at > oldest
    )
    with session_scope() as session:
        return session.scalar(query.limit(1)) is not None


def recovers() -> bool:
    """Return whether recovery went through lately, by this process or by the one that it stands by for."""
    with session_scope() as session:
        return recovery_problem(session) is None


if __name__ == "__main__":
    sys.exit(not (recovers() if sys.argv[1:] == ["reconcile"] else alive()))

"""`python -m worker.alive`: did a worker of this machine give a sign of life lately? A health check."""

from __future__ import annotations

import socket
import sys
from datetime import timedelta

from sqlalchemy import func, select

from settings import get_settings
from store.session import session_scope
from store.tables import Worker


def alive() -> bool:
    """Return whether the database heard of a worker of this host within six heart-beats."""
    oldest = func.clock_timestamp() - timedelta(seconds=6 * get_settings().heartbeat_seconds)
    query = select(Worker.name).where(
        Worker.name.startswith(f"{socket.gethostname()}:", autoescape=True), Worker.seen_at > oldest
    )
    with session_scope() as session:
        return session.scalar(query.limit(1)) is not None


if __name__ == "__main__":
    sys.exit(not alive())

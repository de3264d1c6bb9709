"""Acknowledges messages so that a worker notices a broker that went away at that very moment."""

from __future__ import annotations

import logging

import celery.worker.request

log = logging.getLogger("fractureai.worker")


class Request(celery.worker.request.Request):
    """A message in a worker's hands.

    Celery logs a connection that is lost while it acknowledges, and goes on. With one message at a time it
    asks the broker for the next one only after that, on a connection that nobody looks at any more: the
    worker would live, and never take a message again. Raised in its loop, the loss is met as any other.
    """

    def acknowledge(self) -> None:
        """Acknowledge in the worker's loop; whoever takes the message again sees that its work is done."""
        if not self.acknowledged:
            self._on_ack(log, ())  # no error is to be swallowed
            self.acknowledged = True

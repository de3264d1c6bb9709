"""The Celery tasks: the work is in `worker.stages` and beside it, what follows what in `worker.flow`."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from types import ModuleType
from typing import Any

from celery import Task

from store.base.tables import WorkKind
from store.queue.dispatch import KIND_QUEUES, task_name
from store.queue.work import Lease
from vocabulary.states import STAGES, Stage
from worker import flow
from worker.app import app, settings

#: Kinds that grow with what was asked for; the others end within `hard_time_limit`.
LONG = frozenset({WorkKind.EXPORT})
LONGEST = settings.visibility_timeout


def unit_task(step: Stage | WorkKind) -> Callable[[Callable[[Lease], bool]], Task[Any, Any]]:
    """Make a task of a function that works on a lease; fixes name, queue, and that Celery never retries.

    The function returns whether the chain goes on; if not, what is left of the chain is dropped.
    """

    def decorate(execute: Callable[[Lease], bool]) -> Task[Any, Any]:
        stage = step if isinstance(step, Stage) else None

        # a newer version's messages may carry more: what counts is in the row
        def body(self: Task[Any, Any], *, work_id: str, **_: object) -> None:
            if not flow.run(uuid.UUID(work_id), stage, execute):
                self.request.chain = None

        body.__doc__ = execute.__doc__
        limits = {"soft_time_limit": 0.8 * LONGEST, "time_limit": 0.9 * LONGEST} if step in LONG else {}
        return app.task(
            body,
            bind=True,
            name=task_name(step),
            **limits,
            queue=step.queue if isinstance(step, Stage) else KIND_QUEUES[step],
            max_retries=0,
            Request="worker.acknowledging:Request",
        )

    return decorate


def _stages() -> ModuleType:
    """Import the stages, and what plugs into them: a worker's parent process loads neither."""
    from worker import stages
    from worker.research import rescoring  # noqa: F401 - plugs in

    return stages


def _run_stage(lease: Lease) -> bool:
    """Run the stage at which a chunk is. Before: due at it; after: at the next one, or done."""
    return _stages().run(lease)


for _stage in STAGES:
    unit_task(_stage)(_run_stage)


@unit_task(WorkKind.FINISH)
def finish(lease: Lease) -> bool:
    """End a round of a batch. Before: every image has ended; after: the batch is terminal."""
    return _stages().finish.run(lease)


@unit_task(WorkKind.SIGN)
def sign(lease: Lease) -> bool:
    """Write a study's report anew with its reader's answer. Before: due; after: a signed version is kept."""
    from worker.reading import signing

    return signing.sign(lease)


@unit_task(WorkKind.PIXELS)
def pixels(lease: Lease) -> bool:
    """Write an image at full depth. Before: due; after: it is kept, or cannot be had, and the unit done."""
    from worker.reading import full_depth

    return full_depth.write(lease)


@unit_task(WorkKind.EXPORT)
def export(lease: Lease) -> bool:
    """Prepare a file to take away. Before: due; after: the file is kept and the unit done."""
    from worker.results import exports

    return exports.run(lease)


@unit_task(WorkKind.DELIVER)
def deliver(lease: Lease) -> bool:
    """Send an object to an archive. Before: waiting; after: sent, committed, ended, or due again later."""
    from interop import deliver as delivering

    return delivering.deliver(lease)


@unit_task(WorkKind.NOTICE)
def notice(lease: Lease) -> bool:
    """Deliver a notice. Before: waiting; after: delivered, given up, or due again later."""
    from worker.operations import notices

    return notices.send(lease)


@unit_task(WorkKind.PASSWORD)
def password(lease: Lease) -> bool:
    """Mail a link for a new password. Before: due; after: the mail is sent, or was refused for good."""
    from worker.accounts import passwords

    return passwords.mail_link(lease)


@unit_task(WorkKind.ACCOUNT_MAIL)
def account_mail(lease: Lease) -> bool:
    """Mail a person what happened to their account. Before: due; after: sent, or refused for good."""
    from worker.accounts import account_mails

    return account_mails.send(lease)


@unit_task(WorkKind.EVALUATE)
def evaluate(lease: Lease) -> bool:
    """Turn a run's scores, or two bundles', into figures. Before: scoring has ended; after: it is there."""
    from worker.research import evaluations

    return evaluations.evaluate(lease)

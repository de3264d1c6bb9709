"""The administrators' page of health: workers, queues, failures, room, backup, deliveries, versions."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from flask import Blueprint, current_app, render_template

from settings import Settings
from store.accounts.accounts import Permission
from store.base.session import session_scope
from store.operations import overview as service
from store.operations.monitoring import Step
from store.operations.overview import OutsideKind
from store.outgoing import deliveries
from store.outgoing.deliveries import STATE_WORDS
from vocabulary.reasons import REASONS, Reason
from web.auth.identity import identity, needs
from web.base.pacing import PAGE, is_watched
from web.operations.health import missing_parts

overview = Blueprint("overview", __name__, url_prefix="/admin/health")

#: A backup that is older than this is pointed at.
BACKUP_OVERDUE = timedelta(days=2)
MISSING_WORDS = {
    "recovery": "Recovery does not go through: what goes wrong is not mended.",
    "database": "The database does not answer.",
    "broker": "The broker does not answer: nothing new is begun; nothing is lost.",
    "blobs": "The file store takes nothing: it is full, or does not answer.",
}


UNREACHED_WORDS = {
    OutsideKind.DESTINATION: "Results do not reach {}: see Deliveries.",
    OutsideKind.NOTICE_TARGET: "Notices do not reach {}: see Notices.",
    OutsideKind.ARCHIVE: "Studies cannot be asked from {}: see “fractureai gateway polls”.",
}


def trouble(settings: Settings, found: service.Overview) -> list[str]:
    """Return what is missing or fails, as sentences."""
    missing = missing_parts(settings)
    words = [
        MISSING_WORDS.get(part, f"No {part.removeprefix('worker-')} worker was seen in 30 seconds.")
        for part in missing
    ]
    steps: dict[str, list[str]] = {}
    for step, how in found.step_problems.items():
        if step != Step.RECOVER or "recovery" not in missing:
            steps.setdefault(how.words, []).append(f"“{step}”")
    for what, names in steps.items():
        words.append(f"Of recovery and cleaning up, {', '.join(names)} {what}: see the log of “reconcile”.")
    return words + [UNREACHED_WORDS[each.kind].format(each.name) for each in found.unreached]


@overview.get("")
@is_watched(PAGE)
@needs(Permission.ADMINISTER)
def show() -> str:
    """Show how the service is at this moment."""
    with session_scope() as session:
        found = service.overview(session, identity().site_id)
        sent = deliveries.count(session, identity().site_id)
        aimed = deliveries.list_destinations(session, identity().site_id)
        late = found.last_backup is None or datetime.now(UTC) - found.last_backup > BACKUP_OVERDUE
        return render_template(
            "operations/health.html",
            found=found,
            trouble=trouble(current_app.extensions["settings"], found),
            failures=[(REASONS[Reason(code)], code, n) for code, n in found.failures.items()],
            failure_days=service.FAILURE_DAYS,
            deliveries=[
                (STATE_WORDS[state] + (" or more" if n == deliveries.MAX_COUNTED else ""), n)
                for state, n in sent.items()
            ],
            destinations=aimed,
            backup_is_late=late,
            now=datetime.now(UTC),
        )

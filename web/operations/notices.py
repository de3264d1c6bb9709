"""Where a site's notices go, a button that tries one, and the log of what was delivered."""

from __future__ import annotations

import uuid

from flask import Blueprint, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from store.accounts.accounts import Permission
from store.base.session import session_scope
from store.outgoing import notices
from store.outgoing.notices import EVENTS, Event
from web.auth.identity import identity, needs
from web.base.binding import parse_form, read_query
from web.base.config import current_settings
from web.base.forms import form_on
from web.contract.base import Cursored
from web.contract.notices import NoticeTargetBody
from web.operations.actions import add_target, change_target

notice_pages = Blueprint("notices", __name__, url_prefix="/admin/notices")

EVENT_WORDS = {
    Event.POSITIVE_STUDY: "a positive study",
    Event.AMENDED_STUDY: "a signed study that has changed",
    Event.FINISHED_BATCH: "a batch that has ended",
    Event.STOPPED_DESTINATION: "an archive that takes no results any more",
    Event.MONITORING_ALARM: "findings that are not as they were",
    Event.TEST: "a test",
}


def _page(**more: object) -> str:
    args = read_query(Cursored)
    with session_scope() as session:
        page = notices.list_notices(session, identity().site_id, cursor=args.cursor)
        return render_template(
            "operations/notices.html",
            targets=notices.list_targets(session, identity().site_id),
            waiting=notices.count_waiting(session, identity().site_id),
            log=page.items,
            next=page.next_cursor,
            first=not args.cursor,
            events=EVENTS,
            words=EVENT_WORDS,
            mails=bool(current_settings().smtp_host),
            **more,
        )


@notice_pages.get("")
@needs(Permission.ADMINISTER)
def show() -> str:
    """Show the targets and the log."""
    return _page()


@notice_pages.post("")
@needs(Permission.ADMINISTER)
@form_on("notices.show", events="event")
def add() -> str:
    """Add a target; the secret that signs its webhooks is shown this once."""
    fields = {**request.form, "events": request.form.getlist("event")}
    target, secret = add_target(parse_form(NoticeTargetBody, fields))
    return _page(secret=secret, said=f"Notices go to {target.address} now.")


@notice_pages.post("/<uuid:target_id>/<any(test,remove):action>")
@needs(Permission.ADMINISTER)
@form_on("notices.show")
def change(target_id: uuid.UUID, action: str) -> Response:
    """Send a test notice, or send nothing more."""
    change_target(target_id, action)
    return redirect(url_for("notices.show"), 303)

"""Where a site's notices go, a button that tries one, and the log of what was delivered."""

from __future__ import annotations

import re
import uuid
from urllib.parse import urlsplit

from flask import Blueprint, current_app, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from settings import Settings
from store.accounts.accounts import Permission, write_audit
from store.base.session import session_scope
from store.base.tables import NoticeTarget
from store.operations import notices
from store.operations.notices import EVENTS, Channel, Event
from store.queue import dispatch
from web.auth.identity import identity, needs
from web.base.binding import parse_form, read_query
from web.base.errors import InvalidRequest
from web.contract.base import Cursored
from web.contract.notices import NoticeTargetBody

notice_pages = Blueprint("notices", __name__, url_prefix="/admin/notices")

EVENT_WORDS = {
    Event.POSITIVE_STUDY: "a positive study",
    Event.AMENDED_STUDY: "a signed study that has changed",
    Event.FINISHED_BATCH: "a batch that has ended",
    Event.TEST: "a test",
}
_EMAIL = re.compile(r"[^@\s<>\"',;]{1,64}@[^@\s<>\"',;]{1,190}")


def _settings() -> Settings:
    settings: Settings = current_app.extensions["settings"]
    return settings


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
            mails=bool(_settings().smtp_host),
            **more,
        )


@notice_pages.get("")
@needs(Permission.ADMINISTER)
def show() -> str:
    """Show the targets and the log."""
    return _page()


def _address(channel: Channel, text: str) -> str:
    """Check what a person typed; whether the address is a private one is looked at when it is used."""
    text = text.strip()
    if channel is Channel.EMAIL:
        if not _settings().smtp_host:
            raise InvalidRequest("this server has no mail server set")
        if not _EMAIL.fullmatch(text):
            raise InvalidRequest("this is not an e-mail address")
        return text
    schemes = {"https", "http"} if _settings().notice_private_addresses else {"https"}
    try:
        parts = urlsplit(text)
        usable = parts.scheme in schemes and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable or parts.username or parts.password or len(text) > 1000 or not text.isascii():
        raise InvalidRequest(
            f"the address must begin with {' or '.join(sorted(schemes))}:// and hold no password"
        )
    return text


def add_target(said: NoticeTargetBody) -> tuple[NoticeTarget, str]:
    """Add a target as a person or a program names it; return it and the secret that signs its webhooks.

    Raises
    ------
    InvalidRequest, TooManyTargets
    """
    address = _address(said.channel, said.address)
    with session_scope() as session:
        target, secret = notices.add_target(
            session, identity().site_id, said.channel, address, set(said.events)
        )
        write_audit(
            session,
            identity().site_id,
            identity().user_id,
            "notice_target_added",
            target.id,
            channel=said.channel.value,
            host=urlsplit(address).hostname or address,
        )
    return target, secret


@notice_pages.post("")
@needs(Permission.ADMINISTER)
def add() -> str:
    """Add a target; the secret that signs its webhooks is shown this once."""
    fields = {**request.form, "events": request.form.getlist("event")}
    target, secret = add_target(parse_form(NoticeTargetBody, fields))
    return _page(secret=secret, said=f"Notices go to {target.address} now.")


def change_target(target_id: uuid.UUID, action: str) -> None:
    """Send a target a ``test``, or ``remove`` it. Raises `NotFound`."""
    with session_scope() as session:
        target = notices.get_target(session, identity().site_id, target_id)
        if action == "remove":
            notices.remove_target(session, target)
        else:
            notices.add(session, target, Event.TEST, {"by": "the test button"})
        write_audit(session, identity().site_id, identity().user_id, f"notice_target_{action}", target.id)
    dispatch.dispatch()


@notice_pages.post("/<uuid:target_id>/<any(test,remove):action>")
@needs(Permission.ADMINISTER)
def change(target_id: uuid.UUID, action: str) -> Response:
    """Send a test notice, or send nothing more."""
    change_target(target_id, action)
    return redirect(url_for("notices.show"), 303)

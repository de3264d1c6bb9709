"""What goes back to the hospital's archives: each object and what became of it; retry, suppress."""

from __future__ import annotations

import uuid

from flask import Blueprint, redirect, render_template, url_for
from werkzeug.wrappers import Response

from store.accounts.accounts import Permission
from store.base.session import session_scope
from store.outgoing import deliveries
from store.outgoing.deliveries import STATE_WORDS
from store.queue import dispatch
from web.auth.identity import identity, needs
from web.base.binding import read_query
from web.base.forms import form_on
from web.contract.base import Cursored

delivery_pages = Blueprint("deliveries", __name__, url_prefix="/admin/deliveries")

KIND_WORDS = {
    "sc": "picture",
    "summary": "summary page",
    "sr": "structured report",
    "signed": "signed reading",
    "pdf": "PDF",
    "fhir": "FHIR resources",
}


@delivery_pages.get("")
@needs(Permission.ADMINISTER)
def show() -> str:
    """Show where results go, and what became of each object."""
    args = read_query(Cursored)
    site_id = identity().site_id
    with session_scope() as session:
        page = deliveries.list_deliveries(session, site_id, cursor=args.cursor)
        return render_template(
            "results/deliveries.html",
            destinations=deliveries.list_destinations(session, site_id),
            counts=deliveries.count(session, site_id),
            most_counted=deliveries.MAX_COUNTED,
            log=page.items,
            next=page.next_cursor,
            first=not args.cursor,
            kinds=KIND_WORDS,
            states=STATE_WORDS,
            ended=deliveries.ENDED,
        )


@delivery_pages.post("/<uuid:delivery_id>/<any(retry,suppress):action>")
@needs(Permission.ADMINISTER)
@form_on("deliveries.show")
def change(delivery_id: uuid.UUID, action: str) -> Response:
    """Send an object again, or never."""
    known = identity()
    with session_scope() as session:
        delivery = deliveries.get_delivery(session, known.site_id, delivery_id)
        if action == "retry":
            deliveries.retry(session, delivery, by=known.user_id)
        else:
            deliveries.suppress(session, delivery, by=known.user_id)
    dispatch.dispatch()
    return redirect(url_for("deliveries.show"), 303)

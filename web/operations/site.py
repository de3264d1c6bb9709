"""What an administrator sets for the whole site: its time zone, and how the viewer starts."""

from __future__ import annotations

from datetime import UTC, datetime

from flask import Blueprint, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from store.accounts.accounts import Permission
from store.base.session import session_scope
from store.base.tables import Site
from vocabulary.times import list_zones
from web.auth.identity import identity, needs
from web.base.binding import parse_form
from web.base.forms import form_on
from web.contract.site import NewSite
from web.operations.actions import set_site

site_pages = Blueprint("site", __name__, url_prefix="/admin/site")


@site_pages.get("")
@needs(Permission.ADMINISTER)
def show() -> str:
    """Show what is set."""
    with session_scope() as session:
        site = session.get_one(Site, identity().site_id)
        return render_template("operations/site.html", site=site, zones=list_zones(), now=datetime.now(UTC))


@site_pages.post("")
@needs(Permission.ADMINISTER)
@form_on("site.show")
def change() -> Response:
    """Set the zone in which times are written, and whether pictures open with the attention map."""
    fields = {
        "time_zone": request.form.get("time_zone", "").strip() or None,
        "starts_with_map": "starts_with_map" in request.form,
    }
    set_site(parse_form(NewSite, fields))
    return redirect(url_for("site.show"), 303)

"""What an administrator sets for the whole site: how the viewer starts."""

from __future__ import annotations

from flask import Blueprint, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from store.accounts.accounts import Permission, write_audit
from store.base.session import session_scope
from store.base.tables import Site
from web.auth.identity import identity, needs
from web.base.forms import form_on

site_pages = Blueprint("site", __name__, url_prefix="/admin/site")


@site_pages.get("")
@needs(Permission.ADMINISTER)
def show() -> str:
    """Show what is set."""
    with session_scope() as session:
        site = session.get_one(Site, identity().site_id)
        return render_template("operations/site.html", site=site)


@site_pages.post("")
@needs(Permission.ADMINISTER)
@form_on("site.show")
def change() -> Response:
    """Set with or without the attention map people start who have not chosen for themselves."""
    starts = "starts_with_map" in request.form
    with session_scope() as session:
        session.get_one(Site, identity().site_id).starts_with_map = starts
        write_audit(session, identity().site_id, identity().user_id, "viewer_start_changed", map=starts)
    return redirect(url_for("site.show"), 303)

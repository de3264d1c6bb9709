"""How long a site keeps what it has, and the erasure of studies on request."""

from __future__ import annotations

import re
import uuid
from typing import Any

from flask import Blueprint, current_app, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from settings import Settings
from store import retention
from store.accounts import Permission, write_audit
from store.blobs import get_blobs
from store.session import session_scope
from store.tables import Site
from web.api import read_query
from web.auth import identity, needs
from web.errors import InvalidRequest
from web.pages import without_empty_fields

retention_pages = Blueprint("retention", __name__, url_prefix="/admin/retention")

MOST_DAYS = 36_500


def _wanted(text: str) -> str:
    if len(text) > 100:
        raise ValueError("must be an accession number or an id")
    return text.strip()


@retention_pages.get("")
@needs(Permission.ADMINISTER)
def show() -> str:
    """Show the site's times, how full the disk is, and the studies that match what is looked for."""
    without_empty_fields()
    asked = read_query(find=_wanted, erased=int)
    settings: Settings = current_app.extensions["settings"]
    with session_scope() as session:
        site = session.get_one(Site, identity().site_id)
        found = retention.find(session, site.id, asked["find"]) if asked["find"] else None
        return render_template(
            "admin_retention.html",
            site=site,
            fullness=get_blobs().fullness(),
            mark=settings.disk_watermark,
            wanted=asked["find"],
            erased=asked["erased"],
            found=found,
        )


def _days(text: str) -> int | None:
    text = text.strip()
    if not text:
        return None
    if not re.fullmatch(r"\d{1,5}", text) or not 1 <= int(text) <= MOST_DAYS:
        raise InvalidRequest(f"a time is a number of days from 1 to {MOST_DAYS}, or nothing")
    return int(text)


@retention_pages.post("")
@needs(Permission.ADMINISTER)
def change() -> Response:
    """Set how long originals and results are kept."""
    times: dict[str, Any] = {
        name: _days(request.form.get(name, "")) for name in ("keep_originals_days", "keep_results_days")
    }
    with session_scope() as session:
        site = session.get_one(Site, identity().site_id)
        for name, days in times.items():
            setattr(site, name, days)
        write_audit(session, site.id, identity().user_id, "retention_changed", **times)
    return redirect(url_for("retention.show"), 303)


@retention_pages.post("/erase")
@needs(Permission.ADMINISTER)
def erase() -> Response:
    """Erase the studies chosen, everywhere."""
    try:
        study_ids = [uuid.UUID(text) for text in request.form.getlist("study")]
    except ValueError:
        raise InvalidRequest("a study is named by its id") from None
    if not study_ids:
        raise InvalidRequest("choose at least one study")
    if request.form.get("sure") != "yes":
        raise InvalidRequest("tick that you are sure")
    retention.erase_studies(identity().site_id, study_ids, by=identity().user_id)
    return redirect(url_for("retention.show", erased=len(study_ids)), 303)

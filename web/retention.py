"""How long a site keeps what it has, and the erasure of studies on request."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from flask import Blueprint, current_app, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from settings import Settings
from store.accounts.accounts import Permission, write_audit
from store.base.blobs import get_blobs
from store.base.session import session_scope
from store.base.tables import Site
from store.intake import quotas
from store.operations import retention
from web.auth import confirm_lately, identity, needs
from web.errors import InvalidRequest
from web.request_args import read_query, without_empty_fields

retention_pages = Blueprint("retention", __name__, url_prefix="/admin/retention")

MAX_DAYS = 36_500
MAX_ERASED = 100
TIMES = ("keep_originals_days", "keep_results_days")
GIGABYTE = 10**9
MAX_BYTES = 10**15


#: Of an accession number, UID or id that is looked for.
MAX_LETTERS = 100


def wanted(text: str) -> str:
    """Parse what a study is looked for by."""
    if len(text) > MAX_LETTERS:
        raise ValueError("must be an accession number or an id")
    return text.strip()


@retention_pages.get("")
@needs(Permission.ADMINISTER)
def show() -> str:
    """Show the site's times, how full the disk is, and the studies that match what is looked for."""
    without_empty_fields()
    args = read_query(find=wanted, erased=int, images=int)
    settings: Settings = current_app.extensions["settings"]
    with session_scope() as session:
        site = session.get_one(Site, identity().site_id)
        found = retention.find(session, site.id, args["find"]) if args["find"] else None
        strays = retention.count_strays(session, site.id, args["find"]) if args["find"] else 0
        return render_template(
            "admin_retention.html",
            site=site,
            quota=quotas.quota(session, site.id),
            gigabyte=GIGABYTE,
            server_quota=settings.site_quota_bytes,
            fullness=get_blobs().fullness(),
            mark=settings.disk_watermark,
            wanted=args["find"],
            strays=strays,
            erased=args["erased"],
            erased_images=args["images"],
            found=found,
        )


def _number(text: str, pattern: str) -> float | None:
    """Parse what a field says; nothing is None. Raises `InvalidRequest`."""
    text = text.strip()
    if text and not re.fullmatch(pattern, text):
        raise InvalidRequest("a field holds something else than the number that it asks for")
    return float(text) if text else None


def set_times(times: Mapping[str, Any]) -> None:
    """Set how many days originals and results are kept, by the names of `TIMES`; None is for ever.

    Raises
    ------
    InvalidRequest
    """
    for days in times.values():
        if days is not None and not (type(days) is int and 1 <= days <= MAX_DAYS):
            raise InvalidRequest(f"a time is a number of days from 1 to {MAX_DAYS}, or nothing")
    with session_scope() as session:
        site = session.get_one(Site, identity().site_id)
        for name, days in times.items():
            setattr(site, name, days)
        write_audit(session, site.id, identity().user_id, "retention_changed", **times)


@retention_pages.post("")
@needs(Permission.ADMINISTER)
def change() -> Response:
    """Set how long originals and results are kept."""
    said = {name: _number(request.form.get(name, ""), r"\d{1,6}") for name in TIMES}
    set_times({name: None if days is None else int(days) for name, days in said.items()})
    return redirect(url_for("retention.show"), 303)


def set_quota(n_bytes: Any) -> None:
    """Set how many bytes the site may hold in uploads; None leaves it to the server's setting.

    Raises
    ------
    InvalidRequest
    """
    if n_bytes is not None and not (type(n_bytes) is int and 1 <= n_bytes <= MAX_BYTES):
        raise InvalidRequest("a quota is a number of bytes from 1 on, or nothing")
    with session_scope() as session:
        session.get_one(Site, identity().site_id).quota_bytes = n_bytes
        write_audit(session, identity().site_id, identity().user_id, "quota_changed", bytes=n_bytes)


@retention_pages.post("/quota")
@needs(Permission.ADMINISTER)
def change_quota() -> Response:
    """Set how much may be uploaded."""
    gigabytes = _number(request.form.get("gigabytes", ""), r"\d{1,6}(\.\d{1,3})?")
    set_quota(None if gigabytes is None else round(gigabytes * GIGABYTE))
    return redirect(url_for("retention.show"), 303)


def erase_studies(chosen: Sequence[object], named: str = "", password: str = "") -> tuple[int, int]:
    """Erase studies everywhere, and images of no study that are `named` by accession number or UID.

    Returns
    -------
    tuple
        How many studies, and how many images, went.

    Raises
    ------
    InvalidRequest, ConfirmationNeeded, ConfirmationFailed, NotFound, StudyInUse, StudyOnHold
    """
    try:
        study_ids = {uuid.UUID(str(text)) for text in chosen}
    except ValueError:
        raise InvalidRequest("a study is named by its id") from None
    if len(study_ids) > MAX_ERASED or not (study_ids or named):
        raise InvalidRequest(f"choose 1 to {MAX_ERASED} studies, or name an accession number or UID")
    if len(named) > MAX_LETTERS or not named.isprintable():
        raise InvalidRequest("an accession number or UID is at most 100 letters and digits")
    confirm_lately(password)
    user = identity()
    n = retention.erase_studies(user.site_id, sorted(study_ids), by=user.user_id, named=named.strip())
    return len(study_ids), n


@retention_pages.post("/erase")
@needs(Permission.ADMINISTER)
def erase() -> Response:
    """Erase the studies chosen, everywhere."""
    if request.form.get("sure") != "yes":
        raise InvalidRequest("tick that you are sure")
    erased, images = erase_studies(request.form.getlist("study"), request.form.get("named", ""))
    return redirect(url_for("retention.show", erased=erased, images=images), 303)

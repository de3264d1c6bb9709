"""How long a site keeps what it has, and the erasure of studies on request."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated

from flask import Blueprint, redirect, render_template, request, url_for
from pydantic import Field
from werkzeug.wrappers import Response

from store.accounts.accounts import Permission
from store.base.blobs import get_blobs
from store.base.session import session_scope
from store.base.tables import Site
from store.intake import quotas
from store.operations import retention
from web.auth.identity import identity, needs
from web.base.binding import parse_form, read_query
from web.base.config import current_settings
from web.base.errors import InvalidRequest
from web.base.forms import form_on
from web.base.request_args import without_empty_fields
from web.contract.base import Body, Digits
from web.contract.retention import Erasure, Find, NewQuota, NewRetention
from web.operations.actions import erase_studies, set_quota, set_times

retention_pages = Blueprint("retention", __name__, url_prefix="/admin/retention")

GIGABYTE = 10**9


class _Shown(Find):
    """What studies are looked for by, and what has just been erased."""

    erased: Digits | None = None
    images: Digits | None = None


class _NewGigabytes(Body):
    """A quota as the form says it."""

    gigabytes: Annotated[Decimal, Field(gt=0, max_digits=9, decimal_places=3, allow_inf_nan=False)] | None


@retention_pages.get("")
@needs(Permission.ADMINISTER)
def show() -> str:
    """Show the site's times, how full the disk is, and the studies that match what is looked for."""
    without_empty_fields()
    args = read_query(_Shown)
    settings = current_settings()
    with session_scope() as session:
        site = session.get_one(Site, identity().site_id)
        found = retention.find(session, site.id, args.find) if args.find else None
        strays = retention.count_strays(session, site.id, args.find) if args.find else 0
        return render_template(
            "operations/retention.html",
            site=site,
            quota=quotas.quota(session, site.id),
            gigabyte=GIGABYTE,
            server_quota=settings.site_quota_bytes,
            fullness=get_blobs().fullness(),
            mark=settings.disk_watermark,
            wanted=args.find,
            strays=strays,
            erased=args.erased,
            erased_images=args.images,
            found=found,
        )


@retention_pages.post("")
@needs(Permission.ADMINISTER)
@form_on("retention.show")
def change() -> Response:
    """Set how long originals and results are kept."""
    fields = {name: request.form.get(name, "").strip() or None for name in NewRetention.model_fields}
    set_times(parse_form(NewRetention, fields))
    return redirect(url_for("retention.show"), 303)


@retention_pages.post("/quota")
@needs(Permission.ADMINISTER)
@form_on("retention.show")
def change_quota() -> Response:
    """Set how much may be uploaded."""
    text = request.form.get("gigabytes", "").strip() or None
    gigabytes = parse_form(_NewGigabytes, {"gigabytes": text}).gigabytes
    set_quota(NewQuota(own_bytes=None if gigabytes is None else round(gigabytes * GIGABYTE)))
    return redirect(url_for("retention.show"), 303)


@retention_pages.post("/erase")
@needs(Permission.ADMINISTER)
@form_on("retention.show")
def erase() -> Response:
    """Erase the studies chosen, everywhere."""
    if request.form.get("sure") != "yes":
        raise InvalidRequest([("sure", "tick that you are sure")])
    fields = {"studies": request.form.getlist("study"), "named": request.form.get("named", "")}
    erased, images = erase_studies(parse_form(Erasure, fields))
    return redirect(url_for("retention.show", erased=erased, images=images), 303)

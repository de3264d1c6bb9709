"""How long a site keeps what it has, and the erasure of studies on request."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated

from flask import Blueprint, current_app, redirect, render_template, request, url_for
from pydantic import Field
from werkzeug.wrappers import Response

from settings import Settings
from store.accounts.accounts import Permission, write_audit
from store.base.blobs import get_blobs
from store.base.session import session_scope
from store.base.tables import Site
from store.intake import quotas
from store.operations import retention
from web.auth.identity import confirm_lately, identity, needs
from web.base.binding import parse_form, read_query
from web.base.errors import InvalidRequest
from web.base.request_args import without_empty_fields
from web.contract.base import Body, Digits
from web.contract.retention import Erasure, Find, NewQuota, NewRetention

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
    settings: Settings = current_app.extensions["settings"]
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


def set_times(said: NewRetention) -> None:
    """Set how many days originals and results are kept; None is for ever."""
    times = said.model_dump()
    with session_scope() as session:
        site = session.get_one(Site, identity().site_id)
        for name, days in times.items():
            setattr(site, name, days)
        write_audit(session, site.id, identity().user_id, "retention_changed", **times)


@retention_pages.post("")
@needs(Permission.ADMINISTER)
def change() -> Response:
    """Set how long originals and results are kept."""
    fields = {name: request.form.get(name, "").strip() or None for name in NewRetention.model_fields}
    set_times(parse_form(NewRetention, fields))
    return redirect(url_for("retention.show"), 303)


def set_quota(said: NewQuota) -> None:
    """Set how many bytes the site may hold in uploads; None leaves it to the server's setting."""
    n_bytes = said.own_bytes
    with session_scope() as session:
        session.get_one(Site, identity().site_id).quota_bytes = n_bytes
        write_audit(session, identity().site_id, identity().user_id, "quota_changed", bytes=n_bytes)


@retention_pages.post("/quota")
@needs(Permission.ADMINISTER)
def change_quota() -> Response:
    """Set how much may be uploaded."""
    text = request.form.get("gigabytes", "").strip() or None
    gigabytes = parse_form(_NewGigabytes, {"gigabytes": text}).gigabytes
    set_quota(NewQuota(own_bytes=None if gigabytes is None else round(gigabytes * GIGABYTE)))
    return redirect(url_for("retention.show"), 303)


def erase_studies(said: Erasure) -> tuple[int, int]:
    """Erase studies everywhere, and images of no study that are named by accession number or UID.

    Returns
    -------
    tuple
        How many studies, and how many images, went.

    Raises
    ------
    ConfirmationNeeded, ConfirmationFailed, NotFound, StudyInUse, StudyOnHold
    """
    study_ids = sorted(set(said.studies))
    confirm_lately(said.password)
    user = identity()
    n = retention.erase_studies(user.site_id, study_ids, by=user.user_id, named=said.named)
    return len(study_ids), n


@retention_pages.post("/erase")
@needs(Permission.ADMINISTER)
def erase() -> Response:
    """Erase the studies chosen, everywhere."""
    if request.form.get("sure") != "yes":
        raise InvalidRequest("tick that you are sure")
    fields = {"studies": request.form.getlist("study"), "named": request.form.get("named", "")}
    erased, images = erase_studies(parse_form(Erasure, fields))
    return redirect(url_for("retention.show", erased=erased, images=images), 303)

"""The JSON API of notices, retention, erasure, the quota of uploads and the site's settings."""

from __future__ import annotations

import uuid

from flask import Blueprint

from store.accounts.accounts import Permission
from store.base.session import session_scope
from store.base.tables import Site
from store.intake import quotas
from store.operations import retention
from store.outgoing import notices
from web.auth.identity import identity, needs
from web.base.binding import DONE, Reply, operation, read_body
from web.contract.base import API, Paged, next_link, picked
from web.contract.notices import (
    NewNoticeTarget,
    Notice,
    Notices,
    NoticeTarget,
    NoticeTargetBody,
    NoticeTargets,
)
from web.contract.retention import (
    ErasableStudies,
    ErasableStudy,
    Erased,
    Erasure,
    Find,
    NewQuota,
    NewRetention,
    Quota,
    Retention,
)
from web.contract.site import NewSite
from web.contract.site import Site as SiteDocument
from web.operations.actions import (
    add_target,
    change_target,
    erase_studies,
    set_quota,
    set_site,
    set_times,
)

api = Blueprint("operations_api", __name__, url_prefix=API)

_NOTICES, _KEEPING, _SITE = "Notices", "Retention and erasure", "Site"


@api.get("/notice-targets")
@operation(_NOTICES, "listTargets", "List where notices go", {200: Reply("All.", NoticeTargets)})
@needs(Permission.ADMINISTER)
def list_targets() -> NoticeTargets:
    """List where the site's notices go, the oldest first."""
    with session_scope() as session:
        rows = notices.list_targets(session, identity().site_id)
        waiting = notices.count_waiting(session, identity().site_id)
    return NoticeTargets(items=[NoticeTarget.of(row, waiting.get(row.id, 0)) for row in rows])


@api.post("/notice-targets")
@operation(
    _NOTICES,
    "createTarget",
    "Add a target; the secret that signs its webhooks is in the answer alone",
    {201: Reply("The target, with the secret.", NewNoticeTarget)},
    body=NoticeTargetBody,
)
@needs(Permission.ADMINISTER)
def create_target() -> NoticeTarget:
    """Add a target; the answer alone holds the secret that signs its webhooks."""
    target, secret = add_target(read_body(NoticeTargetBody))
    with session_scope() as session:
        kept = notices.get_target(session, identity().site_id, target.id)
    return NewNoticeTarget.of(kept, secret=secret or None)


@api.post("/notice-targets/<uuid:notice_target_id>/<any(test,remove):action>")
@operation(_NOTICES, "{}Target", {"test": "Send a test", "remove": "Send nothing more"}, DONE)
@needs(Permission.ADMINISTER)
def act_on_target(notice_target_id: uuid.UUID, action: str) -> None:
    """Send a target a test notice, or nothing more."""
    change_target(notice_target_id, action)


@api.get("/notices")
@operation(
    _NOTICES,
    "listNotices",
    "List what was delivered and what was not, the newest first",
    {200: Reply("A page.", Notices)},
    query=Paged,
)
@needs(Permission.ADMINISTER)
def list_notices(query: Paged) -> Notices:
    """List what was delivered and what was not, the newest first."""
    with session_scope() as session:
        page = notices.list_notices(session, identity().site_id, cursor=query.cursor, limit=query.limit or 50)
    items = [Notice.of(*row) for row in page.items]
    return Notices(items=items, next=next_link(f"{API}/notices", page.next_cursor, query))


def _retention() -> Retention:
    with session_scope() as session:
        site = session.get_one(Site, identity().site_id)
        return Retention(**picked(site, *Retention.model_fields))


@api.get("/retention")
@operation(_KEEPING, "getRetention", "See how long things are kept", {200: Reply("Days.", Retention)})
@needs(Permission.ADMINISTER)
def get_retention() -> Retention:
    """Tell how many days originals and results are kept after a batch ended."""
    return _retention()


@api.put("/retention")
@operation(
    _KEEPING,
    "putRetention",
    "Set how long things are kept",
    {200: Reply("Days.", Retention)},
    body=NewRetention,
)
@needs(Permission.ADMINISTER)
def put_retention() -> Retention:
    """Set how many days originals and results are kept; null is for ever."""
    set_times(read_body(NewRetention))
    return _retention()


def _site() -> SiteDocument:
    with session_scope() as session:
        return SiteDocument.of(session.get_one(Site, identity().site_id))


@api.get("/site")
@operation(_SITE, "getSite", "See what is set for the whole site", {200: Reply("It.", SiteDocument)})
@needs(Permission.ADMINISTER)
def get_site() -> SiteDocument:
    """Tell the site's time zone, and how pictures open."""
    return _site()


@api.put("/site")
@operation(_SITE, "putSite", "Set it", {200: Reply("What is set now.", SiteDocument)}, body=NewSite)
@needs(Permission.ADMINISTER)
def put_site() -> SiteDocument:
    """Set the site's time zone, and how pictures open."""
    set_site(read_body(NewSite))
    return _site()


@api.get("/erasures/studies")
@operation(
    _KEEPING,
    "findStudies",
    "Find studies to erase",
    {200: Reply("Those that match.", ErasableStudies)},
    query=Find,
)
@needs(Permission.ADMINISTER)
def find_studies(query: Find) -> ErasableStudies:
    """Find the studies with an accession number, a Study Instance UID or an id."""
    with session_scope() as session:
        found = retention.find(session, identity().site_id, query.find) if query.find else []
    return ErasableStudies(items=[ErasableStudy.of(match) for match in found])


@api.post("/erasures")
@operation(
    _KEEPING,
    "erase",
    "Erase studies: images, findings, reviews, reports, prepared downloads that hold them",
    {200: Reply("What went.", Erased)},
    body=Erasure,
)
@needs(Permission.ADMINISTER)
def erase() -> Erased:
    """Erase studies everywhere: it is done when the answer comes, and cannot be undone."""
    studies, images = erase_studies(read_body(Erasure))
    return Erased(studies=studies, images=images)


def _quota() -> Quota:
    with session_scope() as session:
        own = session.get_one(Site, identity().site_id).quota_bytes
        known = quotas.quota(session, identity().site_id)
    return Quota(own_bytes=own, limit_bytes=known.limit, used_bytes=known.used)


@api.get("/quota")
@operation(_KEEPING, "getQuota", "See the quota of uploads", {200: Reply("Bytes.", Quota)})
@needs(Permission.ADMINISTER)
def get_quota() -> Quota:
    """Tell how much the site holds in uploads, and how much it may."""
    return _quota()


@api.put("/quota")
@operation(_KEEPING, "putQuota", "Set the quota of uploads", {200: Reply("Bytes.", Quota)}, body=NewQuota)
@needs(Permission.ADMINISTER)
def put_quota() -> Quota:
    """Set the site's quota of uploads; null leaves it to the server's setting."""
    set_quota(read_body(NewQuota))
    return _quota()

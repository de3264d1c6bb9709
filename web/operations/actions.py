"""What administrators do: where notices go, how long things are kept, what is erased."""

from __future__ import annotations

import uuid
from urllib.parse import urlsplit

from store.accounts import sites
from store.accounts.accounts import write_audit
from store.accounts.people import is_email
from store.base.session import session_scope
from store.base.tables import NoticeTarget, Site
from store.operations import retention
from store.outgoing import notices
from store.outgoing.notices import Channel, Event
from store.queue import dispatch
from web.auth.identity import confirm_lately, identity
from web.base.config import current_settings
from web.base.errors import InvalidRequest
from web.contract.notices import NoticeTargetBody
from web.contract.retention import Erasure, NewQuota, NewRetention
from web.contract.site import NewSite


def _address(channel: Channel, text: str) -> str:
    """Check what a person typed; whether the address is a private one is looked at when it is used."""
    text = text.strip()
    if channel is Channel.EMAIL:
        if not current_settings().smtp_host:
            raise InvalidRequest([("address", "this server has no mail server set")])
        if not is_email(text):
            raise InvalidRequest([("address", "this is not an e-mail address")])
        return text
    schemes = {"https", "http"} if current_settings().notice_private_addresses else {"https"}
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


def add_target(body: NoticeTargetBody) -> tuple[NoticeTarget, str]:
    """Add a target as a person or a program names it; return it and the secret that signs its webhooks.

    Raises
    ------
    InvalidRequest, TooManyTargets
    """
    address = _address(body.channel, body.address)
    with session_scope() as session:
        target, secret = notices.add_target(
            session, identity().site_id, body.channel, address, set(body.events)
        )
        write_audit(
            session,
            identity().site_id,
            identity().user_id,
            "notice_target_added",
            target.id,
            channel=body.channel.value,
            host=urlsplit(address).hostname or address,
        )
    return target, secret


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


def set_times(body: NewRetention) -> None:
    """Set how many days originals and results are kept; None is for ever."""
    times = body.model_dump()
    with session_scope() as session:
        site = session.get_one(Site, identity().site_id)
        for name, days in times.items():
            setattr(site, name, days)
        write_audit(session, site.id, identity().user_id, "retention_changed", **times)


def set_site(body: NewSite) -> None:
    """Set the site's time zone, and whether pictures open with the attention map; changes are audited."""
    with session_scope() as session:
        site, by = session.get_one(Site, identity().site_id), identity().user_id
        sites.set_viewer_start(session, site, body.starts_with_map, by=by)
        sites.set_time_zone(session, site, body.time_zone, by=by)


def set_quota(body: NewQuota) -> None:
    """Set how many bytes the site may hold in uploads; None leaves it to the server's setting."""
    n_bytes = body.own_bytes
    with session_scope() as session:
        session.get_one(Site, identity().site_id).quota_bytes = n_bytes
        write_audit(session, identity().site_id, identity().user_id, "quota_changed", bytes=n_bytes)


def erase_studies(body: Erasure) -> tuple[int, int]:
    """Erase studies everywhere, and images of no study that are named by accession number or UID.

    Returns
    -------
    tuple
        How many studies, and how many images, went.

    Raises
    ------
    ConfirmationNeeded, ConfirmationFailed, NotFound, StudyInUse, StudyOnHold
    """
    study_ids = sorted(set(body.studies))
    confirm_lately(body.password)
    user = identity()
    n = retention.erase_studies(user.site_id, study_ids, by=user.user_id, named=body.named)
    return len(study_ids), n

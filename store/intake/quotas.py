"""How many bytes a site has sent and may send: what has arrived counts, under a lock on the site's row."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from settings import get_settings
from store.accounts.sites import lock_site
from store.base import batch_totals
from store.base.errors import QuotaExceeded
from store.base.tables import Site, Upload


@dataclass(frozen=True)
class Quota:
    """How many bytes a site has sent and may send; `limit` is None where there is no bound."""

    used: int
    limit: int | None


def _limit(session: Session, site_id: uuid.UUID) -> int | None:
    own = session.scalar(select(Site.quota_bytes).where(Site.id == site_id))
    return own if own is not None else get_settings().site_quota_bytes or None


def room_left(session: Session, site_id: uuid.UUID) -> int | None:
    """Return how many bytes a site may still send; None where there is no bound."""
    limit = _limit(session, site_id)
    return None if limit is None else max(0, limit - quota(session, site_id).used)


def quota(session: Session, site_id: uuid.UUID) -> Quota:
    """Return a site's quota: its own, else the setting's. Drafts that were cancelled are not counted.

    Of a large file that comes in pieces what has arrived counts, not what was announced.
    """
    pending = select(func.coalesce(func.sum(Upload.offset), 0)).where(Upload.site_id == site_id)
    used = batch_totals.count_bytes(session, site_id) + int(session.scalar(pending) or 0)
    return Quota(used, _limit(session, site_id))


def require_room(session: Session, site_id: uuid.UUID, n_bytes: int, *, set_aside: int = 0) -> None:
    """Raise `QuotaExceeded` when so many bytes more are too many for the site.

    Where there is a bound the site stays locked until the transaction ends, so that two uploads at once do
    not both fit into what is left.

    Parameters
    ----------
    set_aside
        Bytes among those used that go when these are taken: of a large file in pieces.
    """
    limit = _limit(session, site_id)
    if limit is None:
        return
    lock_site(session, site_id)
    left = limit - quota(session, site_id).used + set_aside
    if n_bytes > left:
        raise QuotaExceeded(f"{n_bytes} bytes are to come and {max(0, left)} of {limit} are left")

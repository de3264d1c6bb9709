"""Which bundle serves a site by default, which did before, and which one reads along in the shadow."""

from __future__ import annotations

import uuid

from sqlalchemy import select
from sqlalchemy.orm import Session

from store import bundles
from store.errors import ServiceError
from store.research_tables import Promotion
from store.tables import Site


class NothingToRollBack(ServiceError):
    """No bundle served the site before this one."""

    code, status = "nothing_to_roll_back", 409
    title = "No other bundle served this site before."
    advice = "Promote the bundle that should serve."


def serving(session: Session, site_id: uuid.UUID) -> Site:
    """Return the site's row with its default and its shadow bundle."""
    return session.get_one(Site, site_id)


def promote(session: Session, site_id: uuid.UUID, user_id: uuid.UUID | None, name: str) -> None:
    """Let a bundle serve the site by default from now on; batches that were submitted keep theirs.

    Raises
    ------
    UnknownBundle
    """
    bundles.get_bundle(session, name)
    site = session.get_one(Site, site_id, with_for_update=True, populate_existing=True)
    if site.default_bundle == name:
        return
    session.add(Promotion(site_id=site_id, user_id=user_id, bundle=name, before=site.default_bundle))
    site.default_bundle = name
    if site.shadow_bundle == name:
        site.shadow_bundle = None


def roll_back(session: Session, site_id: uuid.UUID, user_id: uuid.UUID | None) -> str:
    """Let the bundle serve again that did before the last promotion; return its name.

    Raises
    ------
    NothingToRollBack
    """
    last = session.scalar(
        select(Promotion).where(Promotion.site_id == site_id).order_by(Promotion.id.desc()).limit(1)
    )
    if last is None or last.before is None:
        raise NothingToRollBack
    promote(session, site_id, user_id, last.before)
    return last.before


def set_shadow(session: Session, site_id: uuid.UUID, name: str | None) -> None:
    """Let a bundle read along with the site's traffic, or none. Raises `UnknownBundle`."""
    if name is not None:
        bundles.get_bundle(session, name)
    session.get_one(Site, site_id, with_for_update=True, populate_existing=True).shadow_bundle = name


def history(session: Session, site_id: uuid.UUID, limit: int = 20) -> list[Promotion]:
    """Return the site's latest promotions, the newest first."""
    query = select(Promotion).where(Promotion.site_id == site_id).order_by(Promotion.id.desc())
    return list(session.scalars(query.limit(limit)))

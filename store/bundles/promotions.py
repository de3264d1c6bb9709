"""Which bundle serves a site by default, which did before, and which one reads along in the shadow."""

from __future__ import annotations

import uuid

from sqlalchemy import select
from sqlalchemy.orm import Session

from store.base.errors import ServiceError
from store.base.tables import Site
from store.bundles import bundles
from store.bundles.bundle_tables import Promotion


class NothingToRollBack(ServiceError):
    """No bundle served the site before this one."""

    code, status = "nothing_to_roll_back", 409
    title = "No other bundle served this site before."
    advice = "Promote the bundle that should serve."


def serving(session: Session, site_id: uuid.UUID) -> Site:
    """Return the site's row with its default and its shadow bundle."""
    return session.get_one(Site, site_id)


class RollbackChanged(ServiceError):
    """Another bundle would serve than the one that the person was shown."""

    code, status = "rollback_changed", 409
    title = "Meanwhile another bundle was promoted or rolled back: this is not where a rollback lands now."
    advice = "Look at the list of bundles again, then roll back."


def promote(session: Session, site_id: uuid.UUID, user_id: uuid.UUID | None, name: str) -> None:
    """Make a bundle the site's default; submitted batches keep theirs.

    Raises
    ------
    UnknownBundle
    """
    bundles.get_bundle(session, name)
    site = _lock(session, site_id)
    if site.default_bundle != name:
        _serve(session, site, user_id, name)


def _lock(session: Session, site_id: uuid.UUID) -> Site:
    return session.get_one(Site, site_id, with_for_update=True, populate_existing=True)


def _serve(
    session: Session, site: Site, user_id: uuid.UUID | None, name: str, *, rolled_back: bool = False
) -> None:
    session.add(
        Promotion(
            site_id=site.id, user_id=user_id, bundle=name, before=site.default_bundle, rolled_back=rolled_back
        )
    )
    site.default_bundle = name
    if site.shadow_bundle == name:
        site.shadow_bundle = None


def rollback_target(session: Session, site_id: uuid.UUID) -> str | None:
    """Return the bundle that a rollback would let serve, or None where there is none.

    Every promotion adds a step and every rollback takes the last one back, so that rolling back twice walks
    back through what served and does not return to the bundle that was left.
    """
    steps = session.execute(
        select(Promotion.before, Promotion.rolled_back)
        .where(Promotion.site_id == site_id)
        .order_by(Promotion.id)
    )
    left: list[str | None] = []  # what each promotion that still counts has replaced
    for before, rolled_back in steps:
        if rolled_back:
            left = left[:-1]
        else:
            left.append(before)
    return left[-1] if left else None


def roll_back(
    session: Session, site_id: uuid.UUID, user_id: uuid.UUID | None, expected: str | None = None
) -> str:
    """Undo the last promotion not yet rolled back; return the name of the bundle that serves again.

    Parameters
    ----------
    expected
        Where the person was told that the rollback lands; None when they were not.

    Raises
    ------
    NothingToRollBack, RollbackChanged
    """
    site = _lock(session, site_id)
    target = rollback_target(session, site_id)
    if target is None:
        raise NothingToRollBack
    if expected is not None and expected != target:
        raise RollbackChanged
    _serve(session, site, user_id, target, rolled_back=True)
    return target


def set_shadow(session: Session, site_id: uuid.UUID, name: str | None) -> None:
    """Set or clear the site's shadow bundle, which reads its traffic too. Raises `UnknownBundle`."""
    if name is not None:
        bundles.get_bundle(session, name)
    _lock(session, site_id).shadow_bundle = name


def history(session: Session, site_id: uuid.UUID, limit: int = 20) -> list[Promotion]:
    """Return the site's latest promotions, the newest first."""
    query = select(Promotion).where(Promotion.site_id == site_id).order_by(Promotion.id.desc())
    return list(session.scalars(query.limit(limit)))

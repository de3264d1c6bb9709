"""Which body parts a bundle may call negative at a site: by its own evidence, or by the site's validation."""

from __future__ import annotations

import uuid
from dataclasses import asdict, dataclass

from sqlalchemy import delete, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from pipeline.earned import OWN_FRACTURES, OWN_LOWER, PartFigures, negative_of, wilson
from store.accounts.accounts import write_audit
from store.base.errors import NotFound, ServiceError
from store.base.tables import Bundle
from store.bundles import bundles
from store.bundles.bundle_tables import PartValidation


class NegativeNotEarned(ServiceError):
    """The site's images do not show that the bundle finds enough in this body part."""

    code, status = "negative_not_earned", 409
    title = "These figures do not allow negative results for this body part."
    advice = (
        f"Validate with at least {OWN_FRACTURES} positive images of the part; the 95% interval of "
        f"sensitivity must begin at {OWN_LOWER:.2f} or more."
    )


class AnotherBundle(ServiceError):
    """The figures were measured with another bundle than the server's of that name."""

    code, status = "another_bundle", 409
    title = (
        "These figures were measured with another bundle than the one that the server has under this name."
    )
    advice = "Validate the bundle that the server reads with; compare the sha256 of both."


@dataclass(frozen=True)
class PartNegative:
    """Whether a bundle may call a body part negative at a site, and by which evidence."""

    region: str
    by_bundle: bool
    validation: PartValidation | None

    @property
    def allowed(self) -> bool:
        """Whether it may."""
        return self.by_bundle or self.validation is not None

    @property
    def sensitivity(self) -> tuple[float, float, float] | None:
        """Sensitivity at the site with its 95% interval; None where the site has not validated the part."""
        if self.validation is None:
            return None
        kept = self.validation
        return (kept.found / kept.positives, *wilson(kept.found, kept.positives))


def by_bundle(bundle: Bundle) -> dict[str, bool]:
    """Return for each region that a bundle reads whether its own evidence allows *negative*."""
    return {region: negative_of(bundle.manifest, region)[0] for region in bundle.manifest.get("models", {})}


def negatives(session: Session, site_id: uuid.UUID, bundle: Bundle) -> list[PartNegative]:
    """Return, sorted by name, whether each region of a bundle may be called negative at a site."""
    query = select(PartValidation).where(
        PartValidation.site_id == site_id, PartValidation.bundle == bundle.name
    )
    kept = {row.region: row for row in session.scalars(query)}
    return [PartNegative(region, own, kept.get(region)) for region, own in sorted(by_bundle(bundle).items())]


def validated(session: Session, site_id: uuid.UUID, bundle: str) -> frozenset[str]:
    """Return the regions that a site has validated for a bundle."""
    query = select(PartValidation.region).where(
        PartValidation.site_id == site_id, PartValidation.bundle == bundle
    )
    return frozenset(session.scalars(query))


def _bundle_with(session: Session, name: str, region: str) -> Bundle:
    bundle = bundles.installed(session, name)
    if region not in bundle.manifest.get("models", {}):
        raise NotFound
    return bundle


def unlock(
    session: Session,
    site_id: uuid.UUID,
    by: uuid.UUID | None,
    name: str,
    region: str,
    figures: PartFigures,
    *,
    sha256: str,
    dataset: str,
) -> None:
    """Allow a bundle to call a region negative at a site; earlier readings stay.

    Parameters
    ----------
    sha256
        Of the bundle that the figures were measured with.
    dataset
        What the site calls the images.

    Raises
    ------
    NotFound, AnotherBundle, NegativeNotEarned
    """
    bundle = _bundle_with(session, name, region)
    if bundle.sha256 != sha256:
        raise AnotherBundle
    if not figures.earned:
        low, high = wilson(figures.found, figures.positives)
        raise NegativeNotEarned(
            f"{figures.found} of {figures.positives} positives of {region} found: {low:.3f} to {high:.3f}"
        )
    said = asdict(figures) | {"dataset": dataset}
    row = insert(PartValidation).values(site_id=site_id, bundle=name, region=region, user_id=by, **said)
    changed = {column: row.excluded[column] for column in (*said, "user_id", "at")}
    session.execute(row.on_conflict_do_update(index_elements=["site_id", "bundle", "region"], set_=changed))
    write_audit(session, site_id, by, "negative_unlocked", name, region=region, **said)


def lock(session: Session, site_id: uuid.UUID, by: uuid.UUID | None, name: str, region: str) -> None:
    """Withdraw a site's validation: the region is in doubt again unless the bundle's own evidence suffices.

    Raises
    ------
    NotFound
        There is no such bundle, or it does not read this region.
    """
    _bundle_with(session, name, region)
    gone = session.execute(
        delete(PartValidation).where(
            PartValidation.site_id == site_id,
            PartValidation.bundle == name,
            PartValidation.region == region,
        )
    )
    if gone.rowcount:  # type: ignore[attr-defined]
        write_audit(session, site_id, by, "negative_locked", name, region=region)

"""The first site, and what is derived for each site."""

from __future__ import annotations

import hashlib
import hmac
import re
import uuid
from collections.abc import Callable
from functools import lru_cache

from sqlalchemy import select
from sqlalchemy.orm import Session

from settings import get_settings
from store.accounts.accounts import Role, write_audit
from store.base.advisory_locks import AdvisoryLock, wait_for_lock
from store.base.tables import Bundle, Site, User


def bootstrap(session: Session, site_name: str, email: str) -> tuple[Site, User, bool]:
    """Find, or make at the first start, one site and its administrator.

    Returns
    -------
    site, admin, created
    """
    wait_for_lock(session, AdvisoryLock.FIRST_SITE)  # two starting at once make one site
    site = session.scalar(select(Site).order_by(Site.created_at).limit(1))
    created = site is None
    if site is None:
        site = Site(id=uuid.uuid4(), name=site_name)
        site.default_bundle = session.scalar(select(Bundle.name).order_by(Bundle.created_at.desc()).limit(1))
        session.add(site)
        session.flush()
    admin = session.scalar(
        select(User)
        .where(User.site_id == site.id, User.role == Role.ADMIN)
        .order_by(User.created_at)
        .limit(1)
    )
    if admin is None:
        admin = User(id=uuid.uuid4(), site_id=site.id, email=email, role=Role.ADMIN.value)
        session.add(admin)
        session.flush()
    return site, admin, created


def lock_site(session: Session, site_id: uuid.UUID) -> Site:
    """Lock a site's row until the transaction ends: whoever counts against a limit goes one after another.

    Rows that name the site can still be written meanwhile.
    """
    query = select(Site).where(Site.id == site_id).with_for_update(key_share=True)
    return session.scalars(query.execution_options(populate_existing=True)).one()


def set_time_zone(session: Session, site: Site, zone: str | None, *, by: uuid.UUID | None = None) -> None:
    """Set the zone of a site's times and days (None: UTC); a change is audited."""
    if site.time_zone != zone:
        before, site.time_zone = site.time_zone, zone
        write_audit(session, site.id, by, "time_zone_changed", before=before, zone=zone)


def set_viewer_start(session: Session, site: Site, with_map: bool, *, by: uuid.UUID | None = None) -> None:
    """Set whether pictures open with the attention map; a change is audited."""
    if site.starts_with_map is not with_map:
        site.starts_with_map = with_map
        write_audit(session, site.id, by, "viewer_start_changed", map=with_map)


_QUICK_HASH = re.compile("[0-9a-f]{64}")
#: Of scrypt (RFC 7914): 4 MiB, and about a hundredth of a second on one core.
_SLOW = {"n": 1 << 12, "r": 8, "p": 1, "maxmem": 1 << 24, "dklen": 32}
#: Patients of a site whose hash a process keeps: more than meet in one batch at one time.
_PATIENTS_KEPT = 10_000


def _site_key(site_id: uuid.UUID, purpose: bytes) -> bytes:
    secret = get_settings().require("secret_key").secret_key.encode()
    return hmac.new(secret, purpose + site_id.bytes, hashlib.sha256).digest()


def _strengthen(site_id: uuid.UUID) -> Callable[[bytes], str]:
    """Return the slow half of the site's keyed hash: scrypt of the quick half, its salt another key."""
    salt = _site_key(site_id, b"patient-pseudonym-scrypt:")

    @lru_cache(maxsize=_PATIENTS_KEPT)
    def slow(quick: bytes) -> str:
        return hashlib.scrypt(quick, salt=salt, **_SLOW).hex()

    return slow


def station_hash(site_id: uuid.UUID, name: str) -> str:
    """Return the site's keyed hash of a device's name or number; empty for none."""
    if not name:
        return ""
    return hmac.new(_site_key(site_id, b"station:"), name.encode(), hashlib.sha256).hexdigest()[:16]


def pseudonymiser(site_id: uuid.UUID) -> Callable[[str], str]:
    """Return the site's keyed hash for patient ids: scrypt (RFC 7914) of their HMAC-SHA256 (RFC 2104).

    The keys are derived from the secret key, which lies neither in the database beside the hashes nor in a
    backup. Should it get out, each guess at an id costs about a hundredth of a second; a patient costs that
    once, and nothing an image.

    What it is asked for is ``issuer|PatientID``; 64 hex digits without a bar are the hash of
    a copy that an earlier version made, which was the HMAC alone.
    """
    key, slow = _site_key(site_id, b"patient-pseudonym:"), _strengthen(site_id)

    def pseudonymise(identity: str) -> str:
        if _QUICK_HASH.fullmatch(identity):
            return slow(bytes.fromhex(identity))
        return slow(hmac.new(key, identity.encode(), hashlib.sha256).digest())

    return pseudonymise

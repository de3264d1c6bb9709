"""The first site, and what is derived for each site."""

from __future__ import annotations

import hashlib
import hmac
import uuid
from collections.abc import Callable

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from settings import get_settings
from store.accounts import Role
from store.tables import Bundle, Site, User


def bootstrap(session: Session, site_name: str, email: str) -> tuple[Site, User, bool]:
    """Find, or make at the first start, one site and its administrator.

    Returns
    -------
    site, admin, created
    """
    session.execute(text("SELECT pg_advisory_xact_lock(7212)"))  # two starting at once make one site
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


def pseudonymiser(site_id: uuid.UUID) -> Callable[[str], str]:
    """Return the site's keyed hash for patient ids (HMAC-SHA256, RFC 2104).

    The key is derived from the secret key, which never lies in the database beside the hashes.
    """
    secret = get_settings().require("secret_key").secret_key.encode()
    key = hmac.new(secret, b"patient-pseudonym:" + site_id.bytes, hashlib.sha256).digest()

    def pseudonymise(identity: str) -> str:
        return hmac.new(key, identity.encode(), hashlib.sha256).hexdigest()

    return pseudonymise

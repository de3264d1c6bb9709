"""Who may do what: people, passwords, API keys, one-time links, sessions, and the audit of what they did.

Keys, links and sessions are 256 random bits; only their SHA-256 is kept. Passwords are argon2id hashes.
"""

from __future__ import annotations

import hashlib
import secrets
import uuid
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerifyMismatchError
from sqlalchemy import delete, func, or_, select, update
from sqlalchemy.orm import Session

from store.errors import NotFound, ServiceError
from store.tables import ApiKey, Audit, SignInToken, User, UserSession

KEY_PREFIX = "fai_"
MIN_PASSWORD = 10
MAX_PASSWORD = 1000

_hasher = PasswordHasher()
#: Verified against when there is no such person, so that the answer takes as long.
_NOBODY = _hasher.hash(secrets.token_urlsafe(16))


class PasswordTooShort(ServiceError):
    """A new password has too few, or far too many, characters."""

    code, status = "password_too_short", 422
    title = f"A password has {MIN_PASSWORD} to {MAX_PASSWORD} characters."
    advice = "Choose a longer one; a sentence is easy to remember."


class Permission(StrEnum):
    """What a view needs and a role or an API key gives."""

    SUBMIT = "submit"  # make batches, send files, steer one's batches
    READ = "read"  # see batches, images, findings and reports; download them
    WORK = "work"  # see and work the list across batches
    REVIEW = "review"  # record a reading, sign it off
    RESEARCH = "research"  # data sets, re-scoring, findings of bundles that are not promoted
    ADMINISTER = "administer"  # people, keys, audit, notices, retention, bundles of the site


class Role(StrEnum):
    """What a person is at a site."""

    SUBMITTER = "submitter"
    STAFF = "staff"
    CLINICIAN = "clinician"
    RESEARCHER = "researcher"
    ADMIN = "admin"


PERMISSIONS = {
    Role.SUBMITTER: frozenset({Permission.SUBMIT, Permission.READ}),
    Role.STAFF: frozenset({Permission.SUBMIT, Permission.READ, Permission.WORK}),
    Role.CLINICIAN: frozenset({Permission.SUBMIT, Permission.READ, Permission.WORK, Permission.REVIEW}),
    Role.RESEARCHER: frozenset({Permission.SUBMIT, Permission.READ, Permission.RESEARCH}),
    Role.ADMIN: frozenset(Permission),
}


@dataclass(frozen=True)
class Identity:
    """Who asks, and how they proved it.

    Attributes
    ----------
    permissions
        What the role gives; of an API key, only what its scope has too.
    csrf_token
        Of the browser session; None for an API key.
    """

    site_id: uuid.UUID
    user_id: uuid.UUID
    role: Role
    email: str
    permissions: frozenset[Permission]
    csrf_token: str | None = None

    def may(self, permission: str) -> bool:
        """Tell whether this may be done."""
        return permission in self.permissions


def hash_token(token: str) -> str:
    """Return the hex SHA-256 under which a key, a link or a session is kept."""
    return hashlib.sha256(token.encode()).hexdigest()


def write_audit(
    session: Session,
    site_id: uuid.UUID,
    user_id: uuid.UUID | None,
    action: str,
    object_id: object = None,
    **detail: Any,
) -> None:
    """Append one line of who did what. `detail` never holds file names or patient data."""
    session.add(
        Audit(
            site_id=site_id,
            user_id=user_id,
            action=action,
            object_id=None if object_id is None else str(object_id),
            detail=detail,
        )
    )


# people and passwords


def find_user(session: Session, site_id: uuid.UUID, email: str) -> User | None:
    """Return the site's person with this address, in any case of its letters."""
    return session.scalar(
        select(User).where(User.site_id == site_id, func.lower(User.email) == email.strip().lower())
    )


def create_user(
    session: Session, site_id: uuid.UUID, email: str, *, role: Role, password: str | None = None
) -> User:
    """Make a person; without a password only a one-time link signs them in. Raises `PasswordTooShort`."""
    user = User(site_id=site_id, email=email.strip(), role=role.value)
    session.add(user)
    session.flush()
    if password is not None:
        set_password(session, user, password)
    return user


def set_password(session: Session, user: User, password: str, *, keep_session: str | None = None) -> None:
    """Set a password and end the person's other sessions. Raises `PasswordTooShort`."""
    if not MIN_PASSWORD <= len(password) <= MAX_PASSWORD:
        raise PasswordTooShort
    user.password_hash = _hasher.hash(password)
    ended = delete(UserSession).where(UserSession.user_id == user.id)
    if keep_session is not None:
        ended = ended.where(UserSession.token_hash != hash_token(keep_session))
    session.execute(ended)
    write_audit(session, user.site_id, user.id, "password_changed")


def _matches(password_hash: str, password: str) -> bool:
    try:
        return _hasher.verify(password_hash, password)
    except (VerifyMismatchError, InvalidHashError):
        return False


def is_password(user: User, password: str) -> bool:
    """Tell whether this is the person's password."""
    return (
        user.password_hash is not None
        and len(password) <= MAX_PASSWORD
        and _matches(user.password_hash, password)
    )


def check_password(session: Session, email: str, password: str) -> User | None:
    """Return the person whose address and password these are; as slow when there is no such person."""
    users = session.scalars(
        select(User).where(
            func.lower(User.email) == email.strip().lower(),
            User.disabled_at.is_(None),
            User.password_hash.is_not(None),
        )
    ).all()
    if len(password) > MAX_PASSWORD:
        return None
    for user in users:
        if user.password_hash and _matches(user.password_hash, password):
            if _hasher.check_needs_rehash(user.password_hash):
                user.password_hash = _hasher.hash(password)
            return user
    if users:
        for user in users:
            write_audit(session, user.site_id, user.id, "sign_in_failed")
    else:
        _matches(_NOBODY, password)
    return None


# API keys


def create_api_key(
    session: Session,
    user: User,
    name: str,
    *,
    scope: Collection[Permission] | None = None,
    expires_at: datetime | None = None,
) -> tuple[ApiKey, str]:
    """Make a key; return its row and the key itself, which cannot be shown again.

    Parameters
    ----------
    scope
        What the key may do, within what its owner may at the time of its use; everything when absent.
    """
    key = KEY_PREFIX + secrets.token_urlsafe(32)
    row = ApiKey(
        site_id=user.site_id,
        user_id=user.id,
        name=name,
        key_hash=hash_token(key),
        scope=sorted(Permission if scope is None else scope),
        expires_at=expires_at,
    )
    session.add(row)
    session.flush()
    write_audit(session, user.site_id, user.id, "api_key_created", row.id)
    return row, key


def list_api_keys(session: Session, identity: Identity) -> list[ApiKey]:
    """Return the person's keys that still work, the newest first."""
    return list(
        session.scalars(
            select(ApiKey)
            .where(
                ApiKey.site_id == identity.site_id,
                ApiKey.user_id == identity.user_id,
                ApiKey.revoked_at.is_(None),
                or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > func.now()),
            )
            .order_by(ApiKey.created_at.desc())
        )
    )


def revoke_api_key(session: Session, identity: Identity, key_id: uuid.UUID) -> None:
    """Make a key of this person useless. Raises `NotFound`."""
    found = session.scalar(
        update(ApiKey)
        .where(ApiKey.id == key_id, ApiKey.site_id == identity.site_id, ApiKey.user_id == identity.user_id)
        .values(revoked_at=func.coalesce(ApiKey.revoked_at, func.now()))
        .returning(ApiKey.id)
    )
    if found is None:
        raise NotFound
    write_audit(session, identity.site_id, identity.user_id, "api_key_revoked", key_id)


def identify_key(session: Session, key: str) -> Identity | None:
    """Return whose key this is, or None. Notes its use at most once a minute."""
    row = session.execute(
        select(ApiKey, User)
        .join(User, User.id == ApiKey.user_id)
        .where(
            ApiKey.key_hash == hash_token(key),
            ApiKey.revoked_at.is_(None),
            or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > func.now()),
            User.disabled_at.is_(None),
        )
    ).first()
    if row is None:
        return None
    api_key, user = row
    session.execute(
        update(ApiKey)
        .where(
            ApiKey.id == api_key.id,
            or_(ApiKey.last_used_at.is_(None), ApiKey.last_used_at < func.now() - timedelta(minutes=1)),
        )
        .values(last_used_at=func.now())
        .execution_options(synchronize_session=False)
    )
    role = Role(user.role)
    return Identity(
        user.site_id,
        user.id,
        role,
        user.email,
        PERMISSIONS[role].intersection(map(Permission, api_key.scope)),
    )


# one-time links and sessions


def create_sign_in_token(session: Session, user: User, *, minutes: float = 60.0) -> str:
    """Make the token of a one-time sign-in link."""
    token = secrets.token_urlsafe(32)
    session.add(
        SignInToken(
            user_id=user.id,
            token_hash=hash_token(token),
            expires_at=func.now() + timedelta(minutes=minutes),
        )
    )
    session.flush()
    return token


def use_sign_in_token(session: Session, token: str) -> User | None:
    """Use a one-time link up; return whose it was, or None when it is unknown, used or too old."""
    user_id = session.scalar(
        update(SignInToken)
        .where(
            SignInToken.token_hash == hash_token(token),
            SignInToken.used_at.is_(None),
            SignInToken.expires_at > func.now(),
        )
        .values(used_at=func.now())
        .returning(SignInToken.user_id)
    )
    if user_id is None:
        return None
    return session.scalar(select(User).where(User.id == user_id, User.disabled_at.is_(None)))


def open_session(session: Session, user: User, *, hours: float) -> str:
    """Sign a person in; return the token for their cookie. Sessions that ran out are deleted."""
    session.execute(delete(UserSession).where(UserSession.expires_at < func.now()))
    token = secrets.token_urlsafe(32)
    session.add(
        UserSession(
            user_id=user.id,
            token_hash=hash_token(token),
            csrf_token=secrets.token_urlsafe(32),
            expires_at=func.now() + timedelta(hours=hours),
        )
    )
    session.flush()
    write_audit(session, user.site_id, user.id, "signed_in")
    return token


def identify_session(session: Session, token: str) -> Identity | None:
    """Return whose browser this is, or None."""
    row = session.execute(
        select(UserSession, User)
        .join(User, User.id == UserSession.user_id)
        .where(
            UserSession.token_hash == hash_token(token),
            UserSession.expires_at > func.now(),
            User.disabled_at.is_(None),
        )
    ).first()
    if row is None:
        return None
    opened, user = row
    role = Role(user.role)
    return Identity(user.site_id, user.id, role, user.email, PERMISSIONS[role], opened.csrf_token)


def close_session(session: Session, token: str) -> None:
    """Sign a browser out."""
    session.execute(delete(UserSession).where(UserSession.token_hash == hash_token(token)))

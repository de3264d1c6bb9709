"""Who may do what: people, passwords, API keys, one-time links, sessions, and the audit of what they did.

Keys, links and sessions are 256 random bits; only their SHA-256 is kept. Passwords are argon2id hashes.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import uuid
from collections.abc import Collection, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from cryptography.fernet import InvalidToken
from sqlalchemy import ColumnElement, delete, func, or_, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import InstrumentedAttribute, Session

from settings import get_settings
from store.accounts.account_mails import AccountEvent, tell
from store.accounts.passwords import hash_password, is_common, is_outdated, matches
from store.base.errors import NotFound, ServiceError
from store.base.sealing import sealer
from store.base.tables import ApiKey, Audit, KnownPlace, SignInToken, Site, User, UserSession

KEY_PREFIX = "fai_"
MIN_PASSWORD = 10
MAX_PASSWORD = 1000
#: Within which a code follows the password.
CODE_MINUTES = 10.0


class PasswordTooShort(ServiceError):
    """A new password has too few, or far too many, characters."""

    code, status, about = "password_too_short", 422, "password"
    title = f"A password has {MIN_PASSWORD} to {MAX_PASSWORD} characters."
    advice = "Choose a longer one; a sentence is easy to remember."


class PasswordTooCommon(ServiceError):
    """A new password is one that guessers try early."""

    code, status, about = "password_too_common", 422, "password"
    title = "This password is too easy to guess: it is a common one, or made of few words or signs."
    advice = "Choose another; a sentence that nobody else would write is easy to remember."


#: What setting a password raises.
PASSWORD_REFUSED = (PasswordTooShort, PasswordTooCommon)
#: Words that are on everybody's mind here.
OUR_WORDS = ("fractureai", "fracture", "radiology", "x-ray", "xray")


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
    key_id
        Of the API key; None for a browser session.
    must_enrol
        The site demands a second factor, and this person has none yet.
    time_zone
        The site's; None where it has set none.
    """

    site_id: uuid.UUID
    user_id: uuid.UUID
    role: Role
    email: str
    permissions: frozenset[Permission]
    csrf_token: str | None = None
    name: str = ""
    key_id: uuid.UUID | None = None
    must_enrol: bool = False
    time_zone: str | None = None

    def may(self, permission: str) -> bool:
        """Tell whether this may be done."""
        return permission in self.permissions


def hash_token(token: str) -> str:
    """Return the hex SHA-256 under which a key, a link or a session is kept."""
    return hashlib.sha256(token.encode()).hexdigest()


@dataclass(frozen=True)
class Origin:
    """From where and by what somebody acts; each line of the audit carries it.

    Attributes
    ----------
    operator
        The account of the server's machine that runs a command.
    """

    address: str | None = None
    key_id: uuid.UUID | None = None
    operator: str | None = None


#: Of the request or the command that runs now; set where it begins.
origin: ContextVar[Origin] = ContextVar("origin", default=Origin())  # noqa: B039 - frozen


def write_audit(
    session: Session,
    site_id: uuid.UUID,
    user_id: uuid.UUID | None,
    action: str,
    object_id: object = None,
    **detail: Any,
) -> None:
    """Append one line of who did what. `detail` never holds file names or patient data."""
    now = origin.get()
    session.add(
        Audit(
            address=now.address,
            key_id=now.key_id,
            operator=now.operator,
            site_id=site_id,
            user_id=user_id,
            action=action,
            object_id=None if object_id is None else str(object_id),
            detail=detail,
        )
    )


@dataclass(frozen=True)
class View:
    """That somebody saw something, from where and by what."""

    site_id: uuid.UUID
    user_id: uuid.UUID
    action: str
    object_id: str
    origin: Origin


#: What was noted is asked of each view by itself, by the index on what was seen, never by a scan.
_WRITE_VIEWS = text(
    """
    INSERT INTO audit (site_id, user_id, action, object_id, address, key_id, operator)
    SELECT DISTINCT ON (site_id, user_id, action, object_id) *
    FROM unnest(
        CAST(:sites AS uuid[]), CAST(:users AS uuid[]), CAST(:actions AS text[]), CAST(:objects AS text[]),
        CAST(:addresses AS text[]), CAST(:keys AS uuid[]), CAST(:operators AS text[])
    ) AS seen (site_id, user_id, action, object_id, address, key_id, operator)
    WHERE (
        SELECT id FROM audit
        WHERE audit.site_id = seen.site_id AND audit.object_id = seen.object_id
            AND audit.at > now() - interval '10 minutes'
            AND audit.user_id = seen.user_id AND audit.action = seen.action
        LIMIT 1
    ) IS NULL
    """
)


def write_views(session: Session, views: Sequence[View]) -> None:
    """Audit views in one statement: one line for the same person and object within ten minutes."""
    session.execute(
        _WRITE_VIEWS,
        {
            "sites": [view.site_id for view in views],
            "users": [view.user_id for view in views],
            "actions": [view.action for view in views],
            "objects": [view.object_id for view in views],
            "addresses": [view.origin.address for view in views],
            "keys": [view.origin.key_id for view in views],
            "operators": [view.origin.operator for view in views],
        },
    )


# people and passwords


def find_user(session: Session, site_id: uuid.UUID, email: str) -> User | None:
    """Return the site's person with this address, in any case of its letters."""
    return session.scalar(
        select(User).where(User.site_id == site_id, func.lower(User.email) == email.strip().lower())
    )


def create_user(
    session: Session,
    site_id: uuid.UUID,
    email: str,
    *,
    role: Role,
    name: str = "",
    password: str | None = None,
) -> User:
    """Make a person; without a password only a one-time link signs them in. Raises `PASSWORD_REFUSED`."""
    user = User(site_id=site_id, email=email.strip(), name=name.strip(), role=role.value)
    session.add(user)
    session.flush()
    if password is not None:
        set_password(session, user, password)
    return user


def set_password(session: Session, user: User, password: str, *, keep_session: str | None = None) -> None:
    """Set a password; end the person's other sessions, and links that would set another.

    Raises
    ------
    PasswordTooShort, PasswordTooCommon
    """
    if not MIN_PASSWORD <= len(password) <= MAX_PASSWORD:
        raise PasswordTooShort
    site = session.get_one(Site, user.site_id)
    if is_common(password, (*OUR_WORDS, *re.findall(r"\w+", f"{user.email} {user.name} {site.name}"))):
        raise PasswordTooCommon
    user.password_hash = hash_password(password)
    ended = delete(UserSession).where(UserSession.user_id == user.id)
    if keep_session is not None:
        ended = ended.where(UserSession.token_hash != hash_token(keep_session))
    session.execute(ended)
    session.execute(delete(SignInToken).where(SignInToken.user_id == user.id, SignInToken.sets_password))
    write_audit(session, user.site_id, user.id, "password_changed")
    tell(session, user, AccountEvent.PASSWORD_CHANGED)


def is_password(user: User, password: str) -> bool:
    """Tell whether this is the person's password."""
    return (
        user.password_hash is not None
        and len(password) <= MAX_PASSWORD
        and matches(user.password_hash, password)
    )


def check_password(session: Session, email: str, password: str) -> User | None:
    """Return the person whose address and password these are; as slow when there is no such person.

    Whose role comes from an identity provider signs in there alone: their groups are looked at there.
    """
    users = session.scalars(
        select(User).where(
            func.lower(User.email) == email.strip().lower(),
            User.disabled_at.is_(None),
            User.role_from_provider.is_(False),
            User.password_hash.is_not(None),
        )
    ).all()
    if len(password) > MAX_PASSWORD:
        return None
    for user in users:
        if user.password_hash and matches(user.password_hash, password):
            if is_outdated(user.password_hash):
                user.password_hash = hash_password(password)
            return user
    if not users:
        matches(None, password)
    return None


def record_refused_sign_in(session: Session, email: str, action: str = "sign_in_failed") -> None:
    """Audit a refused sign-in: with the people of this address, else with a server's only site.

    What nobody's address is may be a password typed into the wrong field: it is not kept.
    """
    users = session.scalars(select(User).where(func.lower(User.email) == email.strip().lower())).all()
    for user in users:
        write_audit(session, user.site_id, user.id, action)
    if not users:
        sites = session.scalars(select(Site.id).limit(2)).all()
        if len(sites) == 1:
            write_audit(session, sites[0], None, action)


def record_throttled_sign_in(session: Session, email: str) -> None:
    """Audit that sign-in is throttled: once in ten minutes from one address."""
    lately = select(Audit.id).where(
        Audit.action == "sign_in_throttled",
        Audit.address == origin.get().address,
        Audit.at > func.now() - timedelta(minutes=10),
    )
    if session.scalar(lately.limit(1)) is None:
        record_refused_sign_in(session, email, "sign_in_throttled")


def knows_place(session: Session, email: str, place: str) -> bool:
    """Tell whether somebody with this address has signed in from there before."""
    query = select(KnownPlace.user_id).join(User, User.id == KnownPlace.user_id)
    mine = func.lower(User.email) == email.strip().lower(), KnownPlace.place_hash == hash_token(place)
    return session.scalar(query.where(*mine).limit(1)) is not None


def record_sign_in_place(session: Session, user: User, place: str) -> None:
    """Record from where a person signed in, and mail them when the place is new."""
    been = session.scalar(select(KnownPlace.user_id).where(KnownPlace.user_id == user.id).limit(1))
    row = {"user_id": user.id, "place_hash": hash_token(place)}
    seen = (
        insert(KnownPlace)
        .values(row)
        .on_conflict_do_update(index_elements=["user_id", "place_hash"], set_={"seen_at": func.now()})
    )
    is_new = session.get(KnownPlace, (user.id, row["place_hash"])) is None
    session.execute(seen)
    if is_new and been is not None:
        tell(session, user, AccountEvent.NEW_PLACE, place)


# API keys


def create_api_key(
    session: Session,
    user: User,
    name: str,
    *,
    scope: Collection[Permission] | None = None,
    expires_at: datetime | None = None,
    by_operator: bool = False,
) -> tuple[ApiKey, str]:
    """Make a key; return its row and the key itself, which cannot be shown again.

    Parameters
    ----------
    scope
        What the key may do, within what its owner may at the time of its use; everything when absent.
    by_operator
        Not its owner makes it, but a command on the server.
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
    by = None if by_operator else user.id
    write_audit(session, user.site_id, by, "api_key_created", row.id, owner=str(user.id))
    tell(session, user, AccountEvent.NEW_KEY, name)
    return row, key


def key_is_valid() -> tuple[ColumnElement[bool], ...]:
    """Return the conditions of a key that still works."""
    return ApiKey.revoked_at.is_(None), or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > func.now())


def list_api_keys(session: Session, identity: Identity) -> list[ApiKey]:
    """Return the person's keys that still work, the newest first."""
    return list(
        session.scalars(
            select(ApiKey)
            .where(
                ApiKey.site_id == identity.site_id,
                ApiKey.user_id == identity.user_id,
                *key_is_valid(),
            )
            .order_by(ApiKey.created_at.desc())
        )
    )


def revoke_api_key(session: Session, identity: Identity, key_id: uuid.UUID) -> None:
    """Make a key of this person useless. Raises `NotFound`."""
    mine = ApiKey.id == key_id, ApiKey.site_id == identity.site_id, ApiKey.user_id == identity.user_id
    revoke_keys(session, identity.site_id, *mine, by=identity.user_id)


def revoke_keys(
    session: Session, site_id: uuid.UUID, *which: ColumnElement[bool], by: uuid.UUID | None
) -> None:
    """Make the keys that match useless. Raises `NotFound` when there are none."""
    if session.scalar(select(ApiKey.id).where(*which).limit(1)) is None:
        raise NotFound
    _revoke(session, site_id, *which, by=by)


def _revoke(session: Session, site_id: uuid.UUID, *which: ColumnElement[bool], by: uuid.UUID | None) -> None:
    revoked = (
        update(ApiKey)
        .where(*which, ApiKey.revoked_at.is_(None))
        .values(revoked_at=func.now())
        .returning(ApiKey.id)
    )
    for key_id in session.scalars(revoked).all():
        write_audit(session, site_id, by, "api_key_revoked", key_id)


def end_access(session: Session, user: User, *, by: uuid.UUID | None) -> None:
    """End a person's sessions, keys and links for good: nothing of it comes back with the person."""
    session.execute(delete(UserSession).where(UserSession.user_id == user.id))
    session.execute(delete(SignInToken).where(SignInToken.user_id == user.id))
    _revoke(session, user.site_id, ApiKey.user_id == user.id, by=by)


def narrow_keys(session: Session, user: User, *, by: uuid.UUID | None) -> None:
    """Take from a person's keys what their role no longer gives: it does not come back with another role."""
    allowed = PERMISSIONS[Role(user.role)]
    keys = select(ApiKey).where(ApiKey.user_id == user.id, ApiKey.revoked_at.is_(None))
    for key in session.scalars(keys):
        kept = sorted(allowed.intersection(map(Permission, key.scope)))
        if not kept:
            _revoke(session, user.site_id, ApiKey.id == key.id, by=by)
        elif kept != sorted(key.scope):
            write_audit(session, user.site_id, by, "api_key_narrowed", key.id, before=key.scope, after=kept)
            key.scope = kept


def identify_key(session: Session, key: str) -> Identity | None:
    """Return whose key this is, or None. Notes its use at most once a minute."""
    unnoted = or_(ApiKey.last_used_at.is_(None), ApiKey.last_used_at < func.now() - timedelta(minutes=1))
    row = session.execute(
        select(ApiKey, User, unnoted, Site.time_zone)
        .join(User, User.id == ApiKey.user_id)
        .join(Site, Site.id == User.site_id)
        .where(
            ApiKey.key_hash == hash_token(key),
            *key_is_valid(),
            User.disabled_at.is_(None),
            or_(
                User.role_from_provider.is_(False),
                User.vouched_at > func.now() - timedelta(days=get_settings().oidc_vouch_days),
            ),
        )
    ).first()
    if row is None:
        return None
    api_key, user, is_unnoted, zone = row
    if is_unnoted:
        _note_now(session, ApiKey.last_used_at, ApiKey.id == api_key.id, unnoted)
    known = _identity_of(user)
    permissions = known.permissions.intersection(map(Permission, api_key.scope))
    return replace(known, permissions=permissions, key_id=api_key.id, time_zone=zone)


def _note_now(session: Session, column: InstrumentedAttribute[Any], *mine: ColumnElement[bool]) -> None:
    """Write the time into a row's column, unless somebody else does just now; a power cut may undo it.

    All who use one key ask at the same time whether the last minute is noted: none waits for another's disk.
    """
    table = column.class_
    unsynced = func.set_config("synchronous_commit", "off", True)
    free = select(table.id, unsynced).where(*mine).with_for_update(skip_locked=True).subquery()
    noted = update(table).where(table.id == free.c.id).values({column: func.now()})
    session.execute(noted.execution_options(synchronize_session=False))


def _identity_of(user: User) -> Identity:
    role = Role(user.role)
    return Identity(user.site_id, user.id, role, user.email, PERMISSIONS[role])


# one-time links and sessions


def create_sign_in_token(
    session: Session, user: User, *, minutes: float = 60.0, sets_password: bool = False
) -> str:
    """Make the token of a one-time link that signs in, or has a new password chosen if it `sets_password`."""
    token = secrets.token_urlsafe(32)
    session.add(
        SignInToken(
            user_id=user.id,
            token_hash=hash_token(token),
            sets_password=sets_password,
            expires_at=func.now() + timedelta(minutes=minutes),
        )
    )
    session.flush()
    return token


def _valid(token: str) -> tuple[ColumnElement[bool], ...]:
    return (
        SignInToken.token_hash == hash_token(token),
        SignInToken.used_at.is_(None),
        SignInToken.expires_at > func.now(),
    )


def is_new_server(session: Session) -> bool:
    """Tell whether this server is new: nobody has signed in by browser, or could without a one-time link."""
    could = select(User.id).where(User.password_hash.is_not(None) | User.provider_subject.is_not(None))
    return not any(session.scalar(query.limit(1)) for query in (could, select(UserSession.id)))


def sets_password(session: Session, token: str) -> bool:
    """Tell whether this link is valid and wants a new password; does not use it up."""
    return bool(session.scalar(select(SignInToken.sets_password).where(*_valid(token))))


def use_sign_in_token(session: Session, token: str, new_password: str = "") -> User | None:
    """Use a one-time link up; return whose it was, or None when it is unknown, used or too old.

    Raises
    ------
    PasswordTooShort, PasswordTooCommon
        The link sets a password, and `new_password` is none that will do; it is not used up when the caller
        rolls back.
    """
    wants_password = sets_password(session, token)
    user_id = session.scalar(
        update(SignInToken).where(*_valid(token)).values(used_at=func.now()).returning(SignInToken.user_id)
    )
    if user_id is None:
        return None
    user = session.scalar(
        select(User).where(User.id == user_id, User.disabled_at.is_(None), User.role_from_provider.is_(False))
    )
    if user is not None and wants_password:
        set_password(session, user, new_password)
    return user


def open_session(
    session: Session, user: User, *, hours: float, how: str, agent: str = "", replaces: str = ""
) -> str:
    """Sign a person in; return the token for their cookie.

    Parameters
    ----------
    how
        By what they proved who they are, for the audit: ``password``, ``link`` or ``provider``.
    replaces
        The token that the browser had before; it is worth nothing afterwards.
    """
    close_session(session, replaces)
    token = secrets.token_urlsafe(32)
    session.add(
        UserSession(
            user_id=user.id,
            token_hash=hash_token(token),
            csrf_token=sealer(b"form").encrypt(user.id.bytes).decode(),
            how=how,
            second_factor=how == "provider",  # which asks for its own
            agent=agent[:200],
            expires_at=func.now() + timedelta(hours=hours),
        )
    )
    session.flush()
    write_audit(session, user.site_id, user.id, "signed_in", how=how)
    return token


def form_owner(csrf_token: str) -> str:
    """Return the id of the person to whose session, over or not, a form's token belongs; empty for nobody."""
    try:
        return str(uuid.UUID(bytes=sealer(b"form").decrypt(csrf_token.encode())))
    except (InvalidToken, ValueError):
        return ""


def identify_session(session: Session, token: str, *, idle_hours: float) -> Identity | None:
    """Return whose browser this is, or None. Notes that it was seen at most once a minute."""
    unnoted = UserSession.last_seen_at < func.now() - timedelta(minutes=1)
    row = session.execute(
        select(UserSession, User, unnoted, Site.second_factor_roles, Site.time_zone)
        .join(User, User.id == UserSession.user_id)
        .join(Site, Site.id == User.site_id)
        .where(
            or_(User.totp_secret.is_(None), UserSession.second_factor),
            UserSession.token_hash == hash_token(token),
            UserSession.expires_at > func.now(),
            UserSession.last_seen_at > func.now() - timedelta(hours=idle_hours),
            User.disabled_at.is_(None),
        )
    ).first()
    if row is None:
        return None
    opened, user, is_unnoted, demanded, zone = row
    if is_unnoted:
        _note_now(session, UserSession.last_seen_at, UserSession.id == opened.id, unnoted)
    known = _identity_of(user)
    owes = known.role in demanded and not opened.second_factor and user.totp_secret is None
    return replace(
        known,
        csrf_token=opened.csrf_token,
        name=user.name,
        must_enrol=owes,
        time_zone=zone,
    )


def awaiting_code(session: Session, token: str) -> User | None:
    """Return whose browser gave the password, or used a link, a moment ago and now owes a code; or None."""
    return session.scalar(
        select(User)
        .join(UserSession, UserSession.user_id == User.id)
        .where(
            UserSession.token_hash == hash_token(token),
            UserSession.second_factor.is_(False),
            UserSession.proved_at > func.now() - timedelta(minutes=CODE_MINUTES),
            User.totp_secret.is_not(None),
            User.disabled_at.is_(None),
        )
    )


def pass_second_factor(session: Session, token: str) -> None:
    """Record that this session has passed the second factor."""
    mine = UserSession.token_hash == hash_token(token)
    session.execute(update(UserSession).where(mine).values(second_factor=True))


def record_confirmation(session: Session, token: str) -> None:
    """Record that this session was confirmed at the identity provider."""
    session.execute(
        update(UserSession)
        .where(UserSession.token_hash == hash_token(token))
        .values(confirmed_at=func.clock_timestamp(), proved_at=func.clock_timestamp())
    )


def record_password_check(session: Session, token: str) -> None:
    """Record that this session was confirmed by password."""
    mine = UserSession.token_hash == hash_token(token)
    session.execute(update(UserSession).where(mine).values(proved_at=func.clock_timestamp()))


def was_proved(session: Session, token: str, *, minutes: float) -> bool:
    """Tell whether the person of this browser signed in, or confirmed again, in the last `minutes`."""
    since = func.clock_timestamp() - timedelta(minutes=minutes)
    query = select(UserSession.id).where(
        UserSession.token_hash == hash_token(token), UserSession.proved_at > since
    )
    return session.scalar(query) is not None


def was_confirmed(session: Session, token: str, *, minutes: float) -> bool:
    """Tell whether the person of this browser did so within the last `minutes`."""
    since = func.clock_timestamp() - timedelta(minutes=minutes)
    query = select(UserSession.id).where(
        UserSession.token_hash == hash_token(token), UserSession.confirmed_at > since
    )
    return session.scalar(query) is not None


def list_sessions(session: Session, user_id: uuid.UUID, *, idle_hours: float) -> list[UserSession]:
    """Return the browsers in which the person is signed in, the one seen last first."""
    return list(
        session.scalars(
            select(UserSession)
            .where(
                UserSession.user_id == user_id,
                UserSession.expires_at > func.now(),
                UserSession.last_seen_at > func.now() - timedelta(hours=idle_hours),
            )
            .order_by(UserSession.last_seen_at.desc())
        )
    )


def close_session(session: Session, token: str) -> None:
    """Sign a browser out."""
    session.execute(delete(UserSession).where(UserSession.token_hash == hash_token(token)))


def end_session(session: Session, identity: Identity, session_id: uuid.UUID) -> None:
    """Sign one of the person's own browsers out. Raises `NotFound`."""
    mine = (UserSession.id == session_id, UserSession.user_id == identity.user_id)
    if session.scalar(delete(UserSession).where(*mine).returning(UserSession.id)) is None:
        raise NotFound
    write_audit(session, identity.site_id, identity.user_id, "session_ended", session_id)

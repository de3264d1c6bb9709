"""The people of a site, as its administrators see them: invite, change, disable; people of a provider."""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, func, or_, select
from sqlalchemy.orm import Session

from store.accounts import accounts
from store.accounts.account_mails import AccountEvent, tell
from store.accounts.accounts import Role, write_audit
from store.base.errors import NotFound, ServiceError
from store.base.tables import (
    ENDED_WORK,
    ApiKey,
    Audit,
    Bundle,
    Priority,
    Site,
    User,
    UserSession,
    Work,
    WorkKind,
)
from store.queue import work

INVITATION_MINUTES = 7 * 24 * 60.0
RESET_MINUTES = 24 * 60.0
FORGOTTEN_MINUTES = 60.0
_EMAIL = re.compile(r"[^@\s<>\"',;]{1,64}@[^@\s<>\"',;]{1,190}")


class EmailInvalid(ServiceError):
    """Somebody is invited under what is no e-mail address."""

    code, status, about = "email_invalid", 422, "email"
    title = "This is not an e-mail address."
    advice = "Write it as name@hospital.example."


class EmailTaken(ServiceError):
    """The site has a person with this address."""

    code, status, about = "email_taken", 409, "email"
    title = "There is a person with this address already."
    advice = "Change that person's role, or make a new sign-in link for them."


class SiteTaken(ServiceError):
    """There is a site of this name."""

    code, status = "site_taken", 409
    title = "There is a site of this name already, or the name is empty."
    advice = "Choose another name."


class OwnName(ServiceError):
    """Somebody would set the name under which they sign themselves."""

    code, status = "own_name", 409
    title = "Nobody sets their own name: it stands on signed reports."
    advice = "Ask another administrator, or the operator: fractureai people name."


class NameFromProvider(ServiceError):
    """The name is the identity provider's to state."""

    code, status = "name_from_provider", 409
    title = "This person's name comes from the identity provider at each sign-in."
    advice = "Change it there."


class SignsInElsewhere(ServiceError):
    """A person whose role an identity provider states would get a password here, and so around it."""

    code, status = "signs_in_elsewhere", 409
    title = "This person signs in at the identity provider, which states the role: no password counts here."
    advice = "Let them sign in there; or set their role here first, then it is this site's to state."


class LastAdministrator(ServiceError):
    """Nobody would be left who may administer the site."""

    code, status = "last_administrator", 409
    title = "The site needs at least one administrator."
    advice = "Make somebody else an administrator first."


class NotInvited(ServiceError):
    """The identity provider signed in somebody who has no account here."""

    code, status = "not_invited", 403
    title = "Your hospital account has no access here."
    advice = "Ask an administrator of your site to give you a role."


@dataclass(frozen=True)
class Person:
    """A person with what an administrator wants to know.

    Attributes
    ----------
    seen_at
        When a browser or a key of theirs was last seen; None for never, or long ago.
    """

    user: User
    sessions: int
    keys: int
    seen_at: datetime | None


def list_people(session: Session, site_id: uuid.UUID) -> list[Person]:
    """Return the site's people by address."""
    opened = (
        select(
            UserSession.user_id,
            func.count().filter(UserSession.expires_at > func.now()).label("n"),
            func.max(UserSession.last_seen_at).label("seen"),
        )
        .group_by(UserSession.user_id)
        .subquery()
    )
    keys = (
        select(
            ApiKey.user_id,
            func.count().filter(*accounts.key_is_valid()).label("n"),
            func.max(ApiKey.last_used_at).label("seen"),
        )
        .group_by(ApiKey.user_id)
        .subquery()
    )
    rows = session.execute(
        select(
            User,
            func.coalesce(opened.c.n, 0),
            func.coalesce(keys.c.n, 0),
            func.greatest(opened.c.seen, keys.c.seen),
        )
        .outerjoin(opened, opened.c.user_id == User.id)
        .outerjoin(keys, keys.c.user_id == User.id)
        .where(User.site_id == site_id)
        .order_by(func.lower(User.email))
    )
    return [Person(user, n_sessions, n_keys, seen) for user, n_sessions, n_keys, seen in rows]


def list_site_keys(session: Session, site_id: uuid.UUID) -> Sequence[tuple[ApiKey, User]]:
    """Return the site's keys that still work with their owners, the newest first."""
    return [
        (key, user)
        for key, user in session.execute(
            select(ApiKey, User)
            .join(User, User.id == ApiKey.user_id)
            .where(ApiKey.site_id == site_id, *accounts.key_is_valid())
            .order_by(ApiKey.created_at.desc())
        )
    ]


def owner_of_key(session: Session, site_id: uuid.UUID, key_id: uuid.UUID) -> User:
    """Return whose key of the site this is. Raises `NotFound`."""
    owner = session.scalar(
        select(User)
        .join(ApiKey, ApiKey.user_id == User.id)
        .where(ApiKey.id == key_id, ApiKey.site_id == site_id)
    )
    if owner is None:
        raise NotFound
    return owner


def revoke_key(session: Session, site_id: uuid.UUID, key_id: uuid.UUID, *, by: uuid.UUID | None) -> None:
    """Make anybody's key of the site useless. Raises `NotFound`."""
    accounts.revoke_keys(session, site_id, ApiKey.id == key_id, ApiKey.site_id == site_id, by=by)


def add_site(session: Session, name: str, email: str) -> str:
    """Make a site and its first administrator; return the token of the link for their password.

    Raises
    ------
    SiteTaken, EmailInvalid
    """
    name = " ".join(name.split())
    if not name or session.scalar(select(Site.id).where(Site.name == name)):
        raise SiteTaken
    newest = select(Bundle.name).order_by(Bundle.created_at.desc()).limit(1)
    first = select(Site.default_bundle).order_by(Site.created_at).limit(1)
    site = Site(name=name, default_bundle=session.scalar(first) or session.scalar(newest))
    session.add(site)
    session.flush()
    write_audit(session, site.id, None, "site_added", site.id)
    return invite(session, site.id, email, Role.ADMIN, by=None)[1]


def get_person(session: Session, site_id: uuid.UUID, user_id: uuid.UUID) -> User:
    """Return one person of the site. Raises `NotFound`."""
    user = session.scalar(select(User).where(User.id == user_id, User.site_id == site_id))
    if user is None:
        raise NotFound
    return user


def is_email(text: str) -> bool:
    """Tell whether a text is one e-mail address; whether somebody reads there, a mail shows."""
    return _EMAIL.fullmatch(text) is not None


def invite(
    session: Session, site_id: uuid.UUID, email: str, role: Role, *, name: str = "", by: uuid.UUID | None
) -> tuple[User, str]:
    """Make a person and the token of the one-time link by which they choose a password.

    Raises
    ------
    EmailInvalid, EmailTaken
    """
    if not is_email(email.strip()):
        raise EmailInvalid
    if accounts.find_user(session, site_id, email) is not None:
        raise EmailTaken
    user = accounts.create_user(session, site_id, email, role=role, name=name)
    write_audit(session, site_id, by, "person_invited", user.id, role=role.value)
    return user, accounts.create_sign_in_token(session, user, minutes=INVITATION_MINUTES, sets_password=True)


def first_link(session: Session, admin: User) -> str | None:
    """Return the token of the first administrator's link for a password, or None if there was one already.

    Nor is there one for whoever has been here, or signs in elsewhere.
    """
    been_here = select(Audit.id).where(
        Audit.site_id == admin.site_id,
        or_(Audit.user_id == admin.id, Audit.object_id == str(admin.id)),
    )
    if admin.password_hash or admin.provider_subject or session.scalar(been_here.limit(1)) is not None:
        return None
    write_audit(session, admin.site_id, None, "password_link_made", admin.id)
    return accounts.create_sign_in_token(session, admin, minutes=RESET_MINUTES, sets_password=True)


def new_link(session: Session, site_id: uuid.UUID, user_id: uuid.UUID, *, by: uuid.UUID | None) -> str:
    """Make the token of a one-time link by which a person chooses a new password.

    Raises
    ------
    NotFound, SignsInElsewhere
    """
    user = get_person(session, site_id, user_id)
    if user.role_from_provider:
        raise SignsInElsewhere
    write_audit(session, site_id, by, "password_link_made", user.id)
    tell(session, user, AccountEvent.PASSWORD_LINK)
    return accounts.create_sign_in_token(session, user, minutes=RESET_MINUTES, sets_password=True)


def can_reset(user: User) -> bool:
    """Tell whether a person may get a link by mail: not who is shut out or signs in elsewhere alone."""
    elsewhere = user.role_from_provider or (user.provider_subject and user.password_hash is None)
    return user.disabled_at is None and not elsewhere


def forgot_password(session: Session, email: str) -> None:
    """Mail a sign-in link to the accounts with this address, one a site; earlier links end."""
    users = select(User).where(func.lower(User.email) == email.strip().lower())
    for user in session.scalars(users):
        mine = Work.kind == WorkKind.PASSWORD, Work.subject_id == user.id
        session.execute(delete(Work).where(*mine, Work.state.in_(ENDED_WORK)))
        if can_reset(user) and session.scalar(select(Work.id).where(*mine)) is None:
            work.add_unit(
                session, WorkKind.PASSWORD, site_id=user.site_id, subject_id=user.id, priority=Priority.URGENT
            )


def _require_another_administrator(session: Session, user: User) -> None:
    """Raise `LastAdministrator` if `user` is the only one. Locks them: two cannot leave at once."""
    admins = session.scalars(
        select(User)
        .where(User.site_id == user.site_id, User.role == Role.ADMIN, User.disabled_at.is_(None))
        .order_by(User.id)
        .with_for_update()
    ).all()
    if [admin.id for admin in admins] == [user.id]:
        raise LastAdministrator


def set_role(
    session: Session, site_id: uuid.UUID, user_id: uuid.UUID, role: Role, *, by: uuid.UUID | None
) -> User:
    """Change a person's role; it counts from their next request on.

    Raises
    ------
    NotFound, LastAdministrator
    """
    user = get_person(session, site_id, user_id)
    if role is not Role.ADMIN:
        _require_another_administrator(session, user)
    _set_role(session, user, role, by=by)
    user.role_from_provider = False
    return user


def _set_role(session: Session, user: User, role: Role, *, by: uuid.UUID | None) -> None:
    if role == user.role:
        return
    write_audit(session, user.site_id, by, "role_changed", user.id, before=user.role, after=role.value)
    user.role = role.value
    accounts.narrow_keys(session, user, by=by)


def rename(
    session: Session, site_id: uuid.UUID, user_id: uuid.UUID, name: str, *, by: uuid.UUID | None
) -> User:
    """Set the name that reports and the audit show; never one's own.

    Raises
    ------
    NotFound, OwnName, NameFromProvider
    """
    user = get_person(session, site_id, user_id)
    if by == user.id:
        raise OwnName
    if user.provider_subject is not None:
        raise NameFromProvider
    before, user.name = user.name, " ".join(name.split())[:100]
    write_audit(session, site_id, by, "name_changed", user.id, before=before, after=user.name)
    return user


def disable(session: Session, site_id: uuid.UUID, user_id: uuid.UUID, *, by: uuid.UUID | None) -> User:
    """Shut a person out: their sessions, keys and links end for good.

    Raises
    ------
    NotFound, LastAdministrator
    """
    user = get_person(session, site_id, user_id)
    _require_another_administrator(session, user)
    user.disabled_at = func.now()
    write_audit(session, site_id, by, "person_disabled", user.id)
    accounts.end_access(session, user, by=by)
    return user


def enable(session: Session, site_id: uuid.UUID, user_id: uuid.UUID, *, by: uuid.UUID | None) -> User:
    """Enable a disabled account; earlier keys and links stay revoked. Raises `NotFound`."""
    user = get_person(session, site_id, user_id)
    user.disabled_at = None
    write_audit(session, site_id, by, "person_enabled", user.id)
    return user


def sign_out(session: Session, site_id: uuid.UUID, user_id: uuid.UUID, *, by: uuid.UUID | None) -> User:
    """End all sessions of a person. Raises `NotFound`."""
    user = get_person(session, site_id, user_id)
    session.execute(delete(UserSession).where(UserSession.user_id == user.id))
    write_audit(session, site_id, by, "sessions_ended", user.id)
    return user


@dataclass(frozen=True)
class OidcClaims:
    """The claims of an OpenID Connect ID token that accounts use.

    Attributes
    ----------
    subject
        Issuer and subject; never given to another person.
    role
        What their groups give; None when none of them is known here.
    """

    subject: str
    email: str
    email_verified: bool
    name: str
    role: Role | None


def user_from_claims(
    session: Session, site_name: str, vouched: OidcClaims, default: Role | None
) -> User | None:
    """Return the account of an ID token: linked, found by its verified address, or new.

    The provider's groups decide the role at each sign-in, and a role that they gave ends with them. Where
    they name none, the role that an administrator gave here counts, else `default`.

    Returns
    -------
    User or None
        None when the person has no role any more: sessions, keys and links have ended, so commit.

    Raises
    ------
    NotInvited
        The person is disabled, or never had a role.
    """
    user = session.scalar(select(User).where(User.provider_subject == vouched.subject))
    if user is None:
        query = select(Site).order_by(Site.created_at).limit(1)
        site = session.scalar(query.where(Site.name == site_name) if site_name else query)
        if site is None:
            raise NotInvited(f"there is no site {site_name!r}")
        user = accounts.find_user(session, site.id, vouched.email) if vouched.email else None
        if user is not None and not vouched.email_verified:
            raise NotInvited("the provider has not verified the address of an account that is here already")
        role = vouched.role or default
        if user is None:
            if role is None or not vouched.email:
                raise NotInvited
            user = accounts.create_user(session, site.id, vouched.email, role=role, name=vouched.name)
            user.role_from_provider = True
            write_audit(session, site.id, user.id, "person_joined", user.id, role=role.value)
        user.provider_subject = vouched.subject
    if user.disabled_at is not None:
        raise NotInvited
    role = vouched.role or (default if user.role_from_provider else Role(user.role))
    if role is None:
        write_audit(session, user.site_id, None, "role_ended", user.id, before=user.role)
        accounts.end_access(session, user, by=None)
        user.role = Role.SUBMITTER.value  # the least, should an administrator let the person in again
        user.vouched_at = None
        return None
    _set_role(session, user, role, by=None)
    user.role_from_provider = user.role_from_provider or vouched.role is not None
    user.vouched_at = func.now()
    user.name = vouched.name or user.name
    return user

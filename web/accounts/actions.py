"""What administrators do with people, their links, and everybody's keys."""

from __future__ import annotations

import uuid
from collections.abc import Callable

from flask import request, url_for

from store.accounts import people, second_factor
from store.accounts.accounts import Role
from store.base.session import session_scope
from store.base.tables import User
from web.auth.identity import confirm_lately, identity, require_person
from web.base.config import current_settings
from web.contract.people import NewName, NewPerson, NewRole


def link_of(token: str) -> str:
    """Return the address of a one-time link."""
    settings = current_settings()
    root = settings.public_url.rstrip("/") or request.url_root.rstrip("/")
    return f"{root}{url_for('auth.sign_in', token=token)}"


def invite_person(body: NewPerson) -> tuple[User, str]:
    """Invite somebody; return them and the address of their one-time link.

    Raises
    ------
    NeedsPerson, EmailInvalid, EmailTaken
    """
    require_person()
    if body.role is Role.ADMIN:
        confirm_lately()
    name = " ".join(body.name.split())[:100]
    with session_scope() as session:
        user, token = people.invite(
            session, identity().site_id, body.email, body.role, name=name, by=identity().user_id
        )
    return user, link_of(token)


#: What an API key may do, to whoever is no administrator: let nobody in, and give nobody more.
_BY_KEYS = ("disable", "sign-out")


#: What takes a password again.
_CONFIRMED = ("link", "role", "name", "enable", "reset-second-factor")


#: What can be done with a person, by the last part of the address; what takes a word is beside it.
_ACTIONS: dict[str, Callable[..., User]] = {
    "disable": people.disable,
    "enable": people.enable,
    "sign-out": people.sign_out,
    "reset-second-factor": second_factor.reset,
}


def act_on_person(user_id: uuid.UUID, action: str, body: NewRole | NewName | None) -> tuple[User, str]:
    """Change a person; return them and, where `action` is ``link``, the address of the one-time link.

    Raises
    ------
    NotFound, NeedsPerson, LastAdministrator, OwnName, NameFromProvider
    """
    site_id, by, token = identity().site_id, identity().user_id, ""
    with session_scope() as session:
        user = people.get_person(session, site_id, user_id)
        if action not in _BY_KEYS or user.role == Role.ADMIN:
            require_person()
        if action in _CONFIRMED:
            confirm_lately()
        if action == "link":
            token = people.new_link(session, site_id, user_id, by=by)
        elif isinstance(body, NewRole):
            people.set_role(session, site_id, user_id, body.role, by=by)
        elif isinstance(body, NewName):
            people.rename(session, site_id, user_id, body.name, by=by)
        else:
            _ACTIONS[action](session, site_id, user_id, by=by)
    return user, link_of(token) if token else ""


def revoke_key_of_site(key_id: uuid.UUID) -> None:
    """Make anybody's key useless; a key revokes itself, and others of people who are no administrators.

    Raises
    ------
    NotFound, NeedsPerson
    """
    with session_scope() as session:
        owner = people.owner_of_key(session, identity().site_id, key_id)
        if owner.role == Role.ADMIN and key_id != identity().key_id:
            require_person()
        people.revoke_key(session, identity().site_id, key_id, by=identity().user_id)

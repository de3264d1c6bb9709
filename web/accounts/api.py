"""The JSON API of people and their keys."""

from __future__ import annotations

import uuid

from flask import Blueprint
from sqlalchemy.orm import Session

from store.accounts import people
from store.accounts.accounts import Permission
from store.base.session import session_scope
from store.base.tables import User
from web.accounts.actions import act_on_person, invite_person, revoke_key_of_site
from web.auth.identity import identity, needs
from web.base.binding import DONE, Reply, operation, read_body
from web.contract.base import API
from web.contract.people import Key, Keys, NewName, NewPerson, NewRole, People, Person, PersonWithLink

api = Blueprint("accounts_api", __name__, url_prefix=API)

_PEOPLE, _KEYS = "People", "API keys"


# people


def _person(session: Session, user_id: uuid.UUID, link: str = "") -> Person:
    people.get_person(session, identity().site_id, user_id)
    listed = people.list_people(session, identity().site_id)
    found = next(person for person in listed if person.user.id == user_id)
    return PersonWithLink.of(found, link=link) if link else Person.of(found)


def _changed(user: User, link: str) -> Person:
    with session_scope() as session:
        return _person(session, user.id, link)


@api.get("/people")
@operation(_PEOPLE, "listPeople", "List the people", {200: Reply("All.", People)})
@needs(Permission.ADMINISTER)
def list_people() -> People:
    """List the site's people by address."""
    with session_scope() as session:
        listed = people.list_people(session, identity().site_id)
    return People(items=[Person.of(person) for person in listed])


@api.post("/people")
@operation(
    _PEOPLE,
    "invitePerson",
    "Invite somebody; the one-time link is in the answer alone",
    {201: Reply("The person, with the link.", PersonWithLink)},
    body=NewPerson,
)
@needs(Permission.ADMINISTER, person=True)
def invite() -> Person:
    """Invite somebody; the answer alone holds the one-time link."""
    body = read_body(NewPerson)
    return _changed(*invite_person(body))


@api.get("/people/<uuid:user_id>")
@operation(_PEOPLE, "getPerson", "See one person", {200: Reply("The person.", Person)})
@needs(Permission.ADMINISTER)
def get_person(user_id: uuid.UUID) -> Person:
    """Answer one person."""
    with session_scope() as session:
        return _person(session, user_id)


@api.post(
    "/people/<uuid:user_id>/<any(role,name,link,disable,enable,'sign-out','reset-second-factor'):action>"
)
@operation(
    _PEOPLE,
    "{}Person",
    {
        "disable": "Shut out: sessions end, keys and links stop working",
        "enable": "Let in again",
        "sign-out": "End all their sessions",
        "reset-second-factor": "Remove their second factor",
    },
    {200: Reply("The person.", Person)},
)
@operation(
    _PEOPLE,
    "linkPerson",
    "Make a link for a new password",
    {200: Reply("The person.", PersonWithLink)},
    when="link",
)
@operation(
    _PEOPLE,
    "namePerson",
    "Set the name on signed reports; never one's own",
    {200: Reply("The person.", Person)},
    when="name",
    body=NewName,
)
@operation(
    _PEOPLE,
    "rolePerson",
    "Give another role",
    {200: Reply("The person.", Person)},
    when="role",
    body=NewRole,
)
@needs(Permission.ADMINISTER, person=True)
def change_person(user_id: uuid.UUID, action: str) -> Person:
    """Change a person's role or name, make a link for a new password, disable, enable, or sign them out."""
    with session_scope() as session:
        people.get_person(session, identity().site_id, user_id)  # before the body is looked at
    model = {"role": NewRole, "name": NewName}.get(action)
    return _changed(*act_on_person(user_id, action, read_body(model) if model else None))


# keys


@api.get("/keys")
@operation(_KEYS, "listKeys", "List the keys that still work", {200: Reply("All.", Keys)})
@needs(Permission.ADMINISTER)
def list_keys() -> Keys:
    """List the site's keys that still work, the newest first."""
    with session_scope() as session:
        rows = people.list_site_keys(session, identity().site_id)
    return Keys(items=[Key.of(*row) for row in rows])


@api.post("/keys/<uuid:key_id>/revoke")
@operation(_KEYS, "revokeKey", "Make a key useless", DONE)
@needs(Permission.ADMINISTER, person=True)
def revoke_key(key_id: uuid.UUID) -> None:
    """Make anybody's key useless."""
    revoke_key_of_site(key_id)


# notices


# retention, erasure, the quota


# what bundles may call negative

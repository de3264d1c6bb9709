"""The documents about the people of a site and their API keys."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from store.accounts.accounts import Permission, Role
from store.accounts.people import Person as Known
from store.base.tables import ApiKey, User
from web.contract.base import API, Body, Count, Document, Id, Link, Links, Moment, Page, picked

#: What can be done with a person, by the last part of the address.
DEEDS = ("role", "name", "link", "disable", "enable", "sign-out", "reset-second-factor")


class Person(Document):
    """Somebody who may sign in."""

    id: Id
    email: str
    name: str
    role: Role
    created_at: Moment
    disabled_at: Moment | None
    seen_at: Moment | None = Field(description="When a browser or a key of theirs was last seen.")
    second_factor: bool
    sessions: Count
    keys: Count
    links: Links

    @classmethod
    def of(cls, person: Known, **more: str) -> Person:
        """Return what an administrator wants to know of a person."""
        user, here = person.user, f"{API}/people/{person.user.id}"
        return cls(
            **picked(user, "id", "email", "name", "role", "created_at", "disabled_at"),
            **picked(person, "seen_at", "sessions", "keys"),
            second_factor=user.totp_secret is not None,
            links={"self": here, **{action: f"{here}/{action}" for action in DEEDS}},
            **more,
        )


class People(Page[Person]):
    """A site's people."""


class PersonWithLink(Person):
    """Somebody with the one-time link by which they sign in."""

    link: Link = Field(description="Works once; it is not told again. Send it to the person.")


class NewPerson(Body):
    """Whom to invite."""

    email: str
    role: Role
    name: str = ""


class NewRole(Body):
    """What a person is from now on."""

    role: Role


class NewName(Body):
    """What stands on a person's signed reports."""

    name: Annotated[str, StringConstraints(max_length=100)]


class SecondFactorRoles(Body):
    """Of which roles a site demands a second factor."""

    roles: set[Role]


class Key(Document):
    """An API key; the key itself is known to its owner alone."""

    id: Id
    name: str
    owner: str
    scope: list[Permission]
    created_at: Moment
    last_used_at: Moment | None
    expires_at: Moment | None
    links: Links

    @classmethod
    def of(cls, key: ApiKey, owner: User) -> Key:
        """Return a key."""
        return cls(
            **picked(key, "id", "name", "scope", "created_at", "last_used_at", "expires_at"),
            owner=owner.email,
            links={"revoke": f"{API}/keys/{key.id}/revoke"},
        )


class Keys(Page[Key]):
    """A site's keys that still work."""

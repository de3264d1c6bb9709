"""What the administrators of a site do: its people, their roles and links, and everybody's keys."""

from __future__ import annotations

import uuid

from flask import Blueprint, redirect, render_template, request, url_for
from sqlalchemy.orm import Session
from werkzeug.wrappers import Response

from store.accounts import people, second_factor
from store.accounts.accounts import Permission, Role
from store.base.session import session_scope
from store.base.tables import Site
from web.accounts.account import PERMISSION_WORDS
from web.accounts.actions import act_on_person, invite_person, revoke_key_of_site
from web.auth.identity import confirm_lately, identity, needs, require_person
from web.base.binding import parse_form
from web.base.forms import form_on
from web.contract.people import NewName, NewPerson, NewRole, SecondFactorRoles

admin = Blueprint("admin", __name__, url_prefix="/admin")

ROLE_WORDS = {
    Role.SUBMITTER: "sends batches, sees their results",
    Role.STAFF: "also works the list across batches",
    Role.CLINICIAN: "also reviews and signs reports",
    Role.RESEARCHER: "sends, sees, and re-scores data sets",
    Role.ADMIN: "everything, and this page",
}


@admin.get("")
@needs(Permission.ADMINISTER)
def home() -> Response:
    """Go to the people."""
    return redirect(url_for("admin.list_people"))


def _people(**more: object) -> str:
    with session_scope() as session:
        shown = people.list_people(session, identity().site_id)
        demanded = session.get_one(Site, identity().site_id).second_factor_roles
    return render_template("accounts/people.html", people=shown, roles=ROLE_WORDS, demanded=demanded, **more)


@admin.get("/people")
@needs(Permission.ADMINISTER)
def list_people() -> str:
    """Show who may sign in, as what, and when they were last here."""
    return _people()


@admin.post("/people")
@needs(Permission.ADMINISTER, person=True)
@form_on("admin.list_people")
def invite() -> str:
    """Invite somebody; the one-time link is shown this once."""
    user, link = invite_person(parse_form(NewPerson, request.form))
    return _people(link=link, link_for=user.email, link_days=7)


@admin.post(
    "/people/<uuid:user_id>/<any(role,name,link,disable,enable,'sign-out','reset-second-factor'):action>"
)
@needs(Permission.ADMINISTER, person=True)
@form_on("admin.list_people")
def change_person(user_id: uuid.UUID, action: str) -> Response | str:
    """Change a person's role or name, make a link for a new password, disable, enable, or sign them out."""
    with session_scope() as session:
        people.get_person(session, identity().site_id, user_id)  # before the form is looked at
    model = {"role": NewRole, "name": NewName}.get(action)
    user, link = act_on_person(user_id, action, parse_form(model, request.form) if model else None)
    if link:
        return _people(link=link, link_for=user.email, link_days=1)
    return redirect(url_for("admin.list_people"), 303)


@admin.post("/second-factor")
@needs(Permission.ADMINISTER, person=True)
@form_on("admin.list_people", roles="role")
def demand_second_factor() -> Response:
    """Set of which roles the site demands a second factor."""
    require_person()
    roles = parse_form(SecondFactorRoles, {"roles": request.form.getlist("role")}).roles
    confirm_lately()
    with session_scope() as session:
        site = session.get_one(Site, identity().site_id)
        second_factor.set_policy(session, site, roles, by=identity().user_id)
    return redirect(url_for("admin.list_people"), 303)


def _keys(session: Session) -> list[dict[str, object]]:
    return [
        {"key": key, "owner": user, "scope": [PERMISSION_WORDS[Permission(p)] for p in key.scope]}
        for key, user in people.list_site_keys(session, identity().site_id)
    ]


@admin.get("/keys")
@needs(Permission.ADMINISTER)
def list_keys() -> str:
    """Show every API key of the site: whose, for what, until when, last used."""
    with session_scope() as session:
        return render_template("accounts/keys.html", keys=_keys(session))


@admin.post("/keys/<uuid:key_id>/revoke")
@needs(Permission.ADMINISTER, person=True)
@form_on("admin.list_keys")
def revoke_key(key_id: uuid.UUID) -> Response:
    """Make anybody's key useless."""
    revoke_key_of_site(key_id)
    return redirect(url_for("admin.list_keys"), 303)

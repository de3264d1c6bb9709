"""The JSON API of a site's administrators: people, keys, notices, retention, erasure, the quota."""

from __future__ import annotations

import uuid

from flask import Blueprint
from sqlalchemy.orm import Session

from store.accounts import people
from store.accounts.accounts import Permission
from store.base.session import session_scope
from store.base.tables import Site, User
from store.bundles import bundles
from store.intake import quotas
from store.operations import notices, retention
from store.reading import validations
from web.accounts.people import act_on_person, invite_person, revoke_key_of_site
from web.auth.identity import identity, needs
from web.base.binding import DONE, Reply, operation, read_body
from web.contract.base import API, Paged, next_link, picked
from web.contract.negatives import FIGURES, Negative, Negatives, NewValidation
from web.contract.notices import (
    NewNoticeTarget,
    Notice,
    Notices,
    NoticeTarget,
    NoticeTargetBody,
    NoticeTargets,
)
from web.contract.people import Key, Keys, NewName, NewPerson, NewRole, People, Person, PersonWithLink
from web.contract.retention import (
    ErasableStudies,
    ErasableStudy,
    Erased,
    Erasure,
    Find,
    NewQuota,
    NewRetention,
    Quota,
    Retention,
)
from web.operations.notices import add_target, change_target
from web.operations.retention import erase_studies, set_quota, set_times

admin_api = Blueprint("admin_api", __name__, url_prefix=API)

_PEOPLE, _KEYS, _NOTICES, _KEEPING, _BUNDLES = (
    "People", "API keys", "Notices", "Retention and erasure", "Bundles",
)  # fmt: skip


# people


def _person(session: Session, user_id: uuid.UUID, link: str = "") -> Person:
    people.get_person(session, identity().site_id, user_id)
    listed = people.list_people(session, identity().site_id)
    found = next(person for person in listed if person.user.id == user_id)
    return PersonWithLink.of(found, link=link) if link else Person.of(found)


def _changed(user: User, link: str) -> Person:
    with session_scope() as session:
        return _person(session, user.id, link)


@admin_api.get("/people")
@operation(_PEOPLE, "listPeople", "List the people", {200: Reply("All.", People)})
@needs(Permission.ADMINISTER)
def list_people() -> People:
    """List the site's people by address."""
    with session_scope() as session:
        listed = people.list_people(session, identity().site_id)
    return People(items=[Person.of(person) for person in listed])


@admin_api.post("/people")
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
    said = read_body(NewPerson)
    return _changed(*invite_person(said))


@admin_api.get("/people/<uuid:user_id>")
@operation(_PEOPLE, "getPerson", "See one person", {200: Reply("The person.", Person)})
@needs(Permission.ADMINISTER)
def get_person(user_id: uuid.UUID) -> Person:
    """Answer one person."""
    with session_scope() as session:
        return _person(session, user_id)


@admin_api.post(
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


@admin_api.get("/keys")
@operation(_KEYS, "listKeys", "List the keys that still work", {200: Reply("All.", Keys)})
@needs(Permission.ADMINISTER)
def list_keys() -> Keys:
    """List the site's keys that still work, the newest first."""
    with session_scope() as session:
        rows = people.list_site_keys(session, identity().site_id)
    return Keys(items=[Key.of(*row) for row in rows])


@admin_api.post("/keys/<uuid:key_id>/revoke")
@operation(_KEYS, "revokeKey", "Make a key useless", DONE)
@needs(Permission.ADMINISTER, person=True)
def revoke_key(key_id: uuid.UUID) -> None:
    """Make anybody's key useless."""
    revoke_key_of_site(key_id)


# notices


@admin_api.get("/notice-targets")
@operation(_NOTICES, "listTargets", "List where notices go", {200: Reply("All.", NoticeTargets)})
@needs(Permission.ADMINISTER)
def list_targets() -> NoticeTargets:
    """List where the site's notices go, the oldest first."""
    with session_scope() as session:
        rows = notices.list_targets(session, identity().site_id)
        waiting = notices.count_waiting(session, identity().site_id)
    return NoticeTargets(items=[NoticeTarget.of(row, waiting.get(row.id, 0)) for row in rows])


@admin_api.post("/notice-targets")
@operation(
    _NOTICES,
    "createTarget",
    "Add a target; the secret that signs its webhooks is in the answer alone",
    {201: Reply("The target, with the secret.", NewNoticeTarget)},
    body=NoticeTargetBody,
)
@needs(Permission.ADMINISTER)
def create_target() -> NoticeTarget:
    """Add a target; the answer alone holds the secret that signs its webhooks."""
    target, secret = add_target(read_body(NoticeTargetBody))
    with session_scope() as session:
        kept = notices.get_target(session, identity().site_id, target.id)
    return NewNoticeTarget.of(kept, secret=secret or None)


@admin_api.post("/notice-targets/<uuid:notice_target_id>/<any(test,remove):action>")
@operation(_NOTICES, "{}Target", {"test": "Send a test", "remove": "Send nothing more"}, DONE)
@needs(Permission.ADMINISTER)
def act_on_target(notice_target_id: uuid.UUID, action: str) -> None:
    """Send a target a test notice, or nothing more."""
    change_target(notice_target_id, action)


@admin_api.get("/notices")
@operation(
    _NOTICES,
    "listNotices",
    "List what was delivered and what was not, the newest first",
    {200: Reply("A page.", Notices)},
    query=Paged,
)
@needs(Permission.ADMINISTER)
def list_notices(query: Paged) -> Notices:
    """List what was delivered and what was not, the newest first."""
    with session_scope() as session:
        page = notices.list_notices(session, identity().site_id, cursor=query.cursor, limit=query.limit or 50)
    items = [Notice.of(*row) for row in page.items]
    return Notices(items=items, next=next_link(f"{API}/notices", page.next_cursor, query))


# retention, erasure, the quota


def _retention() -> Retention:
    with session_scope() as session:
        site = session.get_one(Site, identity().site_id)
        return Retention(**picked(site, *Retention.model_fields))


@admin_api.get("/retention")
@operation(_KEEPING, "getRetention", "See how long things are kept", {200: Reply("Days.", Retention)})
@needs(Permission.ADMINISTER)
def get_retention() -> Retention:
    """Tell how many days originals and results are kept after a batch ended."""
    return _retention()


@admin_api.put("/retention")
@operation(
    _KEEPING,
    "putRetention",
    "Set how long things are kept",
    {200: Reply("Days.", Retention)},
    body=NewRetention,
)
@needs(Permission.ADMINISTER)
def put_retention() -> Retention:
    """Set how many days originals and results are kept; null is for ever."""
    set_times(read_body(NewRetention))
    return _retention()


@admin_api.get("/erasures/studies")
@operation(
    _KEEPING,
    "findStudies",
    "Find studies to erase",
    {200: Reply("Those that match.", ErasableStudies)},
    query=Find,
)
@needs(Permission.ADMINISTER)
def find_studies(query: Find) -> ErasableStudies:
    """Find the studies with an accession number, a Study Instance UID or an id."""
    with session_scope() as session:
        found = retention.find(session, identity().site_id, query.find) if query.find else []
    return ErasableStudies(items=[ErasableStudy.of(match) for match in found])


@admin_api.post("/erasures")
@operation(
    _KEEPING,
    "erase",
    "Erase studies: images, findings, reviews, reports, prepared downloads that hold them",
    {200: Reply("What went.", Erased)},
    body=Erasure,
)
@needs(Permission.ADMINISTER)
def erase() -> Erased:
    """Erase studies everywhere: it is done when the answer comes, and cannot be undone."""
    studies, images = erase_studies(read_body(Erasure))
    return Erased(studies=studies, images=images)


def _quota() -> Quota:
    with session_scope() as session:
        own = session.get_one(Site, identity().site_id).quota_bytes
        known = quotas.quota(session, identity().site_id)
    return Quota(own_bytes=own, limit_bytes=known.limit, used_bytes=known.used)


@admin_api.get("/quota")
@operation(_KEEPING, "getQuota", "See the quota of uploads", {200: Reply("Bytes.", Quota)})
@needs(Permission.ADMINISTER)
def get_quota() -> Quota:
    """Tell how much the site holds in uploads, and how much it may."""
    return _quota()


@admin_api.put("/quota")
@operation(_KEEPING, "putQuota", "Set the quota of uploads", {200: Reply("Bytes.", Quota)}, body=NewQuota)
@needs(Permission.ADMINISTER)
def put_quota() -> Quota:
    """Set the site's quota of uploads; null leaves it to the server's setting."""
    set_quota(read_body(NewQuota))
    return _quota()


# what bundles may call negative


def _negatives(name: str) -> Negatives:
    with session_scope() as session:
        bundle = bundles.installed(session, name)
        parts = validations.negatives(session, identity().site_id, bundle)
        return Negatives(items=[Negative.of(name, part) for part in parts])


@admin_api.get("/bundles/<bundle>/negatives")
@operation(
    _BUNDLES,
    "listNegatives",
    "See which body parts a bundle may call negative at this site",
    {200: Reply("Every part that the bundle reads.", Negatives)},
)
@needs(Permission.ADMINISTER)
def list_negatives(bundle: str) -> Negatives:
    """Tell which body parts a bundle may call negative at this site, and why."""
    return _negatives(bundle)


@admin_api.put("/bundles/<bundle>/negatives/<region>")
@operation(
    _BUNDLES,
    "unlockNegative",
    "Let a bundle call a body part negative here, on the site's own figures",
    {200: Reply("Every part that the bundle reads.", Negatives)},
    body=NewValidation,
)
@needs(Permission.ADMINISTER)
def unlock_negative(bundle: str, region: str) -> Negatives:
    """Let a bundle call a body part negative here, on the site's own figures."""
    said = read_body(NewValidation)
    with session_scope() as session:
        validations.unlock(
            session,
            identity().site_id,
            identity().user_id,
            bundle,
            region,
            validations.PartFigures(**picked(said, *FIGURES)),
            sha256=said.sha256,
            dataset=said.dataset,
        )
    return _negatives(bundle)


@admin_api.delete("/bundles/<bundle>/negatives/<region>")
@operation(_BUNDLES, "lockNegative", "Take the site's validation of a body part back", DONE)
@needs(Permission.ADMINISTER)
def lock_negative(bundle: str, region: str) -> None:
    """Take the site's validation of a body part back."""
    with session_scope() as session:
        validations.lock(session, identity().site_id, identity().user_id, bundle, region)

"""The JSON API of a site's administrators: people, keys, notices, retention, erasure, the quota."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from flask import Blueprint, Response, jsonify
from sqlalchemy.orm import Session

from store.accounts import people
from store.accounts.accounts import Permission
from store.accounts.people import Person
from store.base.session import session_scope
from store.base.tables import ApiKey, Notice, NoticeTarget, Site, User
from store.bundles import bundles
from store.intake import quotas
from store.operations import notices, retention
from store.operations.retention import StudyMatch
from store.reading import validations
from web.admin import act_on_person, invite_person, revoke_key_of_site
from web.auth import identity, needs
from web.errors import InvalidRequest
from web.notices import add_target, change_target
from web.representations import API, moment, next_link
from web.request_args import cursor_text, json_body, page_size, read_query
from web.retention import TIMES, erase_studies, set_quota, set_times, wanted

#: More than any site validates with.
MAX_IMAGES = 10_000_000

admin_api = Blueprint("admin_api", __name__, url_prefix=API)


def _text(body: Mapping[str, Any], name: str) -> str:
    value = body.get(name, "")
    if not isinstance(value, str):
        raise InvalidRequest(f"{name} must be a text")
    return value


def _list(body: Mapping[str, Any], name: str) -> list[object]:
    value = body.get(name)
    if not isinstance(value, list):
        raise InvalidRequest(f"{name} must be a list")
    return value


def _answer(document: Mapping[str, Any], status: int = 200) -> Response:
    response = jsonify(document)
    response.status_code = status
    return response


# people


_DEEDS = ("role", "name", "link", "disable", "enable", "sign-out", "reset-second-factor")


def person_document(person: Person) -> dict[str, Any]:
    """Return a person with what an administrator wants to know."""
    user, here = person.user, f"{API}/people/{person.user.id}"
    return {
        "id": str(user.id),
        "email": user.email,
        "name": user.name,
        "role": user.role,
        "created_at": moment(user.created_at),
        "disabled_at": moment(user.disabled_at),
        "seen_at": moment(person.seen_at),
        "second_factor": user.totp_secret is not None,
        "sessions": person.sessions,
        "keys": person.keys,
        "links": {
            "self": here,
            **{action: f"{here}/{action}" for action in _DEEDS},
        },
    }


def _person(session: Session, user_id: uuid.UUID) -> dict[str, Any]:
    people.get_person(session, identity().site_id, user_id)
    listed = people.list_people(session, identity().site_id)
    return person_document(next(person for person in listed if person.user.id == user_id))


def _changed(user: User, link: str, status: int = 200) -> Response:
    with session_scope() as session:
        document = _person(session, user.id)
    return _answer(document | ({"link": link} if link else {}), status)


@admin_api.get("/people")
@needs(Permission.ADMINISTER)
def list_people() -> Response:
    """List the site's people by address."""
    read_query()
    with session_scope() as session:
        listed = people.list_people(session, identity().site_id)
    return jsonify(items=[person_document(person) for person in listed], next=None)


@admin_api.post("/people")
@needs(Permission.ADMINISTER)
def invite() -> Response:
    """Invite somebody; the answer alone holds the one-time link."""
    body = json_body({"email", "role", "name"})
    return _changed(*invite_person(_text(body, "email"), body.get("role"), _text(body, "name")), 201)


@admin_api.get("/people/<uuid:user_id>")
@needs(Permission.ADMINISTER)
def get_person(user_id: uuid.UUID) -> Response:
    """Answer one person."""
    read_query()
    with session_scope() as session:
        return jsonify(_person(session, user_id))


@admin_api.post(
    "/people/<uuid:user_id>/<any(role,name,link,disable,enable,'sign-out','reset-second-factor'):action>"
)
@needs(Permission.ADMINISTER)
def change_person(user_id: uuid.UUID, action: str) -> Response:
    """Change a person's role or name, make a link for a new password, disable, enable, or sign them out."""
    with session_scope() as session:
        people.get_person(session, identity().site_id, user_id)  # before the body is looked at
    body = json_body({action} if action in ("role", "name") else ())
    return _changed(*act_on_person(user_id, action, body))


# keys


def key_document(key: ApiKey, owner: User) -> dict[str, Any]:
    """Return an API key; the key itself is known to its owner alone."""
    return {
        "id": str(key.id),
        "name": key.name,
        "owner": owner.email,
        "scope": key.scope,
        "created_at": moment(key.created_at),
        "last_used_at": moment(key.last_used_at),
        "expires_at": moment(key.expires_at),
        "links": {"revoke": f"{API}/keys/{key.id}/revoke"},
    }


@admin_api.get("/keys")
@needs(Permission.ADMINISTER)
def list_keys() -> Response:
    """List the site's keys that still work, the newest first."""
    read_query()
    with session_scope() as session:
        rows = people.list_site_keys(session, identity().site_id)
    return jsonify(items=[key_document(*row) for row in rows], next=None)


@admin_api.post("/keys/<uuid:key_id>/revoke")
@needs(Permission.ADMINISTER)
def revoke_key(key_id: uuid.UUID) -> Response:
    """Make anybody's key useless."""
    revoke_key_of_site(key_id)
    return Response(status=204)


# notices


def target_document(target: NoticeTarget, waiting: int = 0) -> dict[str, Any]:
    """Return where notices go, and how it does; the secret that signs them is never shown again."""
    here = f"{API}/notice-targets/{target.id}"
    return {
        "id": str(target.id),
        "channel": target.channel,
        "address": target.address,
        "events": target.events,
        "waiting": waiting,
        "failures": target.failures,
        "last_error": target.last_error,
        "rest_until": moment(target.rest_until),
        "created_at": moment(target.created_at),
        "links": {"test": f"{here}/test", "remove": f"{here}/remove"},
    }


def notice_document(notice: Notice, target: NoticeTarget, due_at: datetime | None) -> dict[str, Any]:
    """Return a notice and what became of it."""
    return {
        "id": str(notice.id),
        "event": notice.event,
        "target_id": str(target.id),
        "batch_id": str(notice.batch_id) if notice.batch_id else None,
        "study_id": str(notice.study_id) if notice.study_id else None,
        "state": notice.state,
        "attempts": notice.attempts,
        "status": notice.status,
        "error": notice.error,
        "created_at": moment(notice.created_at),
        "tried_at": moment(notice.tried_at),
        "due_at": moment(due_at),
    }


@admin_api.get("/notice-targets")
@needs(Permission.ADMINISTER)
def list_targets() -> Response:
    """List where the site's notices go, the oldest first."""
    read_query()
    with session_scope() as session:
        rows = notices.list_targets(session, identity().site_id)
        waiting = notices.count_waiting(session, identity().site_id)
    return jsonify(items=[target_document(row, waiting.get(row.id, 0)) for row in rows], next=None)


@admin_api.post("/notice-targets")
@needs(Permission.ADMINISTER)
def create_target() -> Response:
    """Add a target; the answer alone holds the secret that signs its webhooks."""
    body = json_body({"channel", "address", "events"})
    target, secret = add_target(body.get("channel"), _text(body, "address"), _list(body, "events"))
    with session_scope() as session:
        kept = notices.get_target(session, identity().site_id, target.id)
    return _answer({**target_document(kept), "secret": secret or None}, 201)


@admin_api.post("/notice-targets/<uuid:notice_target_id>/<any(test,remove):action>")
@needs(Permission.ADMINISTER)
def act_on_target(notice_target_id: uuid.UUID, action: str) -> Response:
    """Send a target a test notice, or nothing more."""
    change_target(notice_target_id, action)
    return Response(status=204)


@admin_api.get("/notices")
@needs(Permission.ADMINISTER)
def list_notices() -> Response:
    """List what was delivered and what was not, the newest first."""
    args = read_query(cursor=cursor_text, limit=page_size)
    with session_scope() as session:
        page = notices.list_notices(
            session, identity().site_id, cursor=args["cursor"], limit=args["limit"] or 50
        )
    items = [notice_document(*row) for row in page.items]
    return jsonify(items=items, next=next_link(f"{API}/notices", page.next_cursor, limit=args["limit"]))


# retention, erasure, the quota


@admin_api.get("/retention")
@needs(Permission.ADMINISTER)
def get_retention() -> Response:
    """Tell how many days originals and results are kept after a batch ended."""
    read_query()
    with session_scope() as session:
        site = session.get_one(Site, identity().site_id)
        return jsonify({name: getattr(site, name) for name in TIMES})


@admin_api.put("/retention")
@needs(Permission.ADMINISTER)
def put_retention() -> Response:
    """Set how many days originals and results are kept; null is for ever."""
    body = json_body(TIMES)
    if set(body) != set(TIMES):
        raise InvalidRequest(f"say both {' and '.join(TIMES)}; null is for ever")
    set_times(body)
    return jsonify({name: body[name] for name in TIMES})


def match_document(match: StudyMatch) -> dict[str, Any]:
    """Return a study that could be erased, and what that would take along."""
    return {
        "id": str(match.study.id),
        "accession": match.study.accession,
        "study_uid": match.study.study_uid,
        "study_date": match.study.study_date,
        "images": match.images,
        "batches": match.batches,
        "in_use": match.in_use,
        "on_hold": match.on_hold,
        "signed": match.signed,
    }


@admin_api.get("/erasures/studies")
@needs(Permission.ADMINISTER)
def find_studies() -> Response:
    """Find the studies with an accession number, a Study Instance UID or an id."""
    args = read_query(find=wanted)
    with session_scope() as session:
        found = retention.find(session, identity().site_id, args["find"]) if args["find"] else []
    return jsonify(items=[match_document(match) for match in found], next=None)


@admin_api.post("/erasures")
@needs(Permission.ADMINISTER)
def erase() -> Response:
    """Erase studies everywhere: it is done when the answer comes, and cannot be undone."""
    body = json_body({"studies", "named", "password"})
    named = body.get("named", "")
    if not isinstance(named, str):
        raise InvalidRequest("named must be a text")
    chosen = _list(body, "studies") if "studies" in body or not named else []
    erased, images = erase_studies(chosen, named, _text(body, "password"))
    return jsonify(studies=erased, images=images)


def _quota() -> Response:
    with session_scope() as session:
        own = session.get_one(Site, identity().site_id).quota_bytes
        known = quotas.quota(session, identity().site_id)
    return jsonify(own_bytes=own, limit_bytes=known.limit, used_bytes=known.used)


@admin_api.get("/quota")
@needs(Permission.ADMINISTER)
def get_quota() -> Response:
    """Tell how much the site holds in uploads, and how much it may."""
    read_query()
    return _quota()


@admin_api.put("/quota")
@needs(Permission.ADMINISTER)
def put_quota() -> Response:
    """Set the site's quota of uploads; null leaves it to the server's setting."""
    body = json_body({"own_bytes"})
    if "own_bytes" not in body:
        raise InvalidRequest("say own_bytes; null leaves it to the server's setting")
    set_quota(body["own_bytes"])
    return _quota()


# what bundles may call negative


_FIGURES = ("positives", "found", "negatives", "cleared")


def negative_document(bundle: str, part: validations.PartNegative) -> dict[str, Any]:
    """Return whether a bundle may call a body part negative here, and the site's own figures."""
    kept, sensitivity = part.validation, part.sensitivity
    return {
        "region": part.region,
        "may_say_negative": part.allowed,
        "by_bundle": part.by_bundle,
        "validation": None
        if kept is None or sensitivity is None
        else {
            **{name: getattr(kept, name) for name in _FIGURES},
            "sensitivity": sensitivity[0],
            "interval": list(sensitivity[1:]),
            "dataset": kept.dataset,
            "at": moment(kept.at),
        },
        "links": {"self": f"{API}/bundles/{bundle}/negatives/{part.region}"},
    }


def _negatives(name: str) -> Response:
    with session_scope() as session:
        bundle = bundles.installed(session, name)
        parts = validations.negatives(session, identity().site_id, bundle)
        return jsonify(items=[negative_document(name, part) for part in parts], next=None)


@admin_api.get("/bundles/<bundle>/negatives")
@needs(Permission.ADMINISTER)
def list_negatives(bundle: str) -> Response:
    """Tell which body parts a bundle may call negative at this site, and why."""
    read_query()
    return _negatives(bundle)


@admin_api.put("/bundles/<bundle>/negatives/<region>")
@needs(Permission.ADMINISTER)
def unlock_negative(bundle: str, region: str) -> Response:
    """Let a bundle call a body part negative here, on the site's own figures."""
    body = json_body({"sha256", "dataset", *_FIGURES})
    counts = {}
    for name in _FIGURES:
        value = body.get(name)
        if type(value) is not int or not 0 <= value <= MAX_IMAGES:
            raise InvalidRequest(f"{name} must be a whole number from 0 to {MAX_IMAGES}")
        counts[name] = value
    if counts["found"] > counts["positives"] or counts["cleared"] > counts["negatives"]:
        raise InvalidRequest("found is a part of positives, and cleared of negatives")
    dataset = " ".join(_text(body, "dataset").split())
    if not 0 < len(dataset) <= 200 or not dataset.isprintable():
        raise InvalidRequest("dataset must be a name of at most 200 characters")
    with session_scope() as session:
        validations.unlock(
            session,
            identity().site_id,
            identity().user_id,
            bundle,
            region,
            validations.PartFigures(**counts),
            sha256=_text(body, "sha256"),
            dataset=dataset,
        )
    return _negatives(bundle)


@admin_api.delete("/bundles/<bundle>/negatives/<region>")
@needs(Permission.ADMINISTER)
def lock_negative(bundle: str, region: str) -> Response:
    """Take the site's validation of a body part back."""
    with session_scope() as session:
        validations.lock(session, identity().site_id, identity().user_id, bundle, region)
    return Response(status=204)

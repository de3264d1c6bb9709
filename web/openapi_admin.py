"""The part of the API's description about administering a site."""

from __future__ import annotations

from store.accounts.accounts import Permission, Role
from store.operations.notices import EVENTS, Channel, Event, NoticeState
from web.openapi_parts import (
    CURSOR,
    LIMIT,
    LINK,
    LINKS,
    MOMENT,
    TEXT,
    UUID,
    WHOLE,
    YES_NO,
    Json,
    answer,
    id_of,
    many,
    maybe,
    operation,
    page_of,
    query,
    record,
    words_of,
)

_PEOPLE, _KEYS, _NOTICES, _KEEPING = "People", "API keys", "Notices", "Retention and erasure"
_VALIDATION = "Bundles"
_BUNDLE: Json = {"name": "bundle", "in": "path", "required": True, "schema": TEXT}
_DAYS: Json = maybe({"type": "integer", "minimum": 1, "maximum": 36_500}) | {
    "description": "After the batch ended; null is for ever."
}
_DONE: Json = {"204": {"description": "Done."}}
_PERSON: Json = {
    "id": UUID,
    "email": TEXT,
    "name": TEXT,
    "role": words_of(Role),
    "created_at": MOMENT,
    "disabled_at": maybe(MOMENT),
    "seen_at": maybe(MOMENT) | {"description": "When a browser or a key of theirs was last seen."},
    "second_factor": YES_NO,
    "sessions": WHOLE,
    "keys": WHOLE,
    "links": LINKS,
}
_TARGET: Json = {
    "id": UUID,
    "channel": words_of(Channel),
    "address": TEXT,
    "events": many(words_of(Event)),
    "waiting": WHOLE | {"description": "Notices that wait for it."},
    "failures": WHOLE | {"description": "Tries in a row that failed; 0 when it answers."},
    "last_error": maybe(TEXT),
    "rest_until": maybe(MOMENT) | {"description": "While it fails nothing is sent there before."},
    "created_at": MOMENT,
    "links": LINKS,
}

_PART_FIGURES: Json = {
    "positives": WHOLE,
    "found": WHOLE | {"description": "Of the positives: not below the lower threshold."},
    "negatives": WHOLE,
    "cleared": WHOLE | {"description": "Of the negatives: below the lower threshold."},
}

SCHEMAS: Json = {
    "Person": record(_PERSON),
    "People": page_of("Person"),
    "PersonWithLink": record(
        {
            **_PERSON,
            "link": LINK | {"description": "Works once; it is not told again. Send it to the person."},
        }
    ),
    "Key": record(
        {
            "id": UUID,
            "name": TEXT,
            "owner": TEXT,
            "scope": many(words_of(Permission)),
            "created_at": MOMENT,
            "last_used_at": maybe(MOMENT),
            "expires_at": maybe(MOMENT),
            "links": LINKS,
        }
    ),
    "Keys": page_of("Key"),
    "NoticeTarget": record(_TARGET),
    "NoticeTargets": page_of("NoticeTarget"),
    "NewNoticeTarget": record(
        {
            **_TARGET,
            "secret": maybe(TEXT)
            | {"description": "Signs the webhooks; it is not told again. Null for e-mail."},
        }
    ),
    "Notice": record(
        {
            "id": UUID,
            "event": words_of(Event),
            "target_id": UUID,
            "batch_id": maybe(UUID),
            "study_id": maybe(UUID),
            "state": words_of(NoticeState),
            "attempts": WHOLE,
            "status": maybe(WHOLE) | {"description": "What the receiver answered."},
            "error": maybe(TEXT),
            "created_at": MOMENT,
            "tried_at": maybe(MOMENT),
            "due_at": maybe(MOMENT) | {"description": "When it is tried again."},
        }
    ),
    "Notices": page_of("Notice"),
    "Retention": record({"keep_originals_days": _DAYS, "keep_results_days": _DAYS}),
    "ErasableStudy": record(
        {
            "id": UUID,
            "accession": TEXT,
            "study_uid": TEXT,
            "study_date": TEXT,
            "images": WHOLE,
            "batches": WHOLE,
            "in_use": YES_NO | {"description": "Images of it are being read: it cannot be erased now."},
            "on_hold": YES_NO | {"description": "A legal hold: it cannot be erased."},
            "signed": YES_NO,
        }
    ),
    "ErasableStudies": page_of("ErasableStudy"),
    "Erased": record({"studies": WHOLE, "images": WHOLE}),
    "Negative": record(
        {
            "region": TEXT,
            "may_say_negative": YES_NO,
            "by_bundle": YES_NO | {"description": "The bundle's own evidence allows it."},
            "validation": maybe(
                record(
                    {
                        **_PART_FIGURES,
                        "sensitivity": {"type": "number"},
                        "interval": many({"type": "number"}) | {"description": "95%, Wilson."},
                        "dataset": TEXT,
                        "at": MOMENT,
                    }
                )
            ),
            "links": LINKS,
        }
    ),
    "Negatives": page_of("Negative"),
    "Quota": record(
        {
            "own_bytes": maybe(WHOLE) | {"description": "The site's own; null: the server's setting counts."},
            "limit_bytes": maybe(WHOLE) | {"description": "What counts; null is no bound."},
            "used_bytes": WHOLE,
        }
    ),
}


def _takes(schema: Json) -> Json:
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def _deed(tag: str, name: str, summary: str, parameter: str, answers: Json, **more: Json) -> Json:
    return {"parameters": [id_of(parameter)], "post": operation(tag, name, summary, answers, **more)}


def _person(action: str, summary: str, schema: str = "Person", **more: Json) -> Json:
    name = f"{action.replace('-', '')}Person"
    return _deed(_PEOPLE, name, summary, "user_id", {"200": answer("The person.", schema)}, **more)


PATHS: Json = {
    "/people": {
        "get": operation(_PEOPLE, "listPeople", "List the people", {"200": answer("All.", "People")}),
        "post": operation(
            _PEOPLE,
            "invitePerson",
            "Invite somebody; the one-time link is in the answer alone",
            {"201": answer("The person, with the link.", "PersonWithLink")},
            requestBody=_takes(
                record({"email": TEXT, "role": words_of(Role), "name": TEXT}, required=False)
                | {"required": ["email", "role"]}
            ),
        ),
    },
    "/people/{user_id}": {
        "parameters": [id_of("user_id")],
        "get": operation(_PEOPLE, "getPerson", "See one person", {"200": answer("The person.", "Person")}),
    },
    "/people/{user_id}/role": _person(
        "role", "Give another role", requestBody=_takes(record({"role": words_of(Role)}))
    ),
    "/people/{user_id}/name": _person(
        "name", "Set the name on signed reports; never one's own", requestBody=_takes(record({"name": TEXT}))
    ),
    "/people/{user_id}/link": _person("link", "Make a link for a new password", "PersonWithLink"),
    "/people/{user_id}/disable": _person("disable", "Shut out: sessions end, keys and links stop working"),
    "/people/{user_id}/enable": _person("enable", "Let in again"),
    "/people/{user_id}/sign-out": _person("sign-out", "End all their sessions"),
    "/people/{user_id}/reset-second-factor": _person("reset-second-factor", "Remove their second factor"),
    "/keys": {
        "get": operation(_KEYS, "listKeys", "List the keys that still work", {"200": answer("All.", "Keys")})
    },
    "/keys/{key_id}/revoke": _deed(_KEYS, "revokeKey", "Make a key useless", "key_id", _DONE),
    "/notice-targets": {
        "get": operation(
            _NOTICES, "listTargets", "List where notices go", {"200": answer("All.", "NoticeTargets")}
        ),
        "post": operation(
            _NOTICES,
            "createTarget",
            "Add a target; the secret that signs its webhooks is in the answer alone",
            {"201": answer("The target, with the secret.", "NewNoticeTarget")},
            requestBody=_takes(
                record(
                    {
                        "channel": words_of(Channel),
                        "address": TEXT,
                        "events": many(words_of(EVENTS)) | {"minItems": 1},
                    }
                )
            ),
        ),
    },
    "/notice-targets/{notice_target_id}/test": _deed(
        _NOTICES, "testTarget", "Send a test", "notice_target_id", _DONE
    ),
    "/notice-targets/{notice_target_id}/remove": _deed(
        _NOTICES, "removeTarget", "Send nothing more", "notice_target_id", _DONE
    ),
    "/notices": {
        "get": operation(
            _NOTICES,
            "listNotices",
            "List what was delivered and what was not, the newest first",
            {"200": answer("A page.", "Notices")},
            parameters=[CURSOR, LIMIT],
        )
    },
    "/retention": {
        "get": operation(
            _KEEPING, "getRetention", "See how long things are kept", {"200": answer("Days.", "Retention")}
        ),
        "put": operation(
            _KEEPING,
            "putRetention",
            "Set how long things are kept",
            {"200": answer("Days.", "Retention")},
            requestBody=_takes({"$ref": "#/components/schemas/Retention"}),
        ),
    },
    "/erasures/studies": {
        "get": operation(
            _KEEPING,
            "findStudies",
            "Find studies to erase",
            {"200": answer("Those that match.", "ErasableStudies")},
            parameters=[query("find", TEXT, "An accession number, a Study Instance UID, or a study's id.")],
        )
    },
    "/erasures": {
        "post": operation(
            _KEEPING,
            "erase",
            "Erase studies: images, findings, reviews, reports, prepared downloads that hold them",
            {"200": answer("What went.", "Erased")},
            requestBody=_takes(
                record(
                    {
                        "studies": many(UUID) | {"maxItems": 100},
                        "named": TEXT
                        | {
                            "description": "An accession number or UID: images that have it and belong to no"
                            " study, because they were cancelled, refused or never submitted, go too.",
                        },
                        "password": TEXT
                        | {"description": "Of the account, once more: always with an API key."},
                    },
                    required=False,
                )
            ),
        )
    },
    "/bundles/{bundle}/negatives": {
        "parameters": [_BUNDLE],
        "get": operation(
            _VALIDATION,
            "listNegatives",
            "See which body parts a bundle may call negative at this site",
            {"200": answer("Every part that the bundle reads.", "Negatives")},
        ),
    },
    "/bundles/{bundle}/negatives/{region}": {
        "parameters": [_BUNDLE, {**_BUNDLE, "name": "region"}],
        "put": operation(
            _VALIDATION,
            "unlockNegative",
            "Let a bundle call a body part negative here, on the site's own figures",
            {"200": answer("Every part that the bundle reads.", "Negatives")},
            requestBody=_takes(
                record({**_PART_FIGURES, "sha256": TEXT | {"description": "Of the bundle."}, "dataset": TEXT})
            ),
        ),
        "delete": operation(
            _VALIDATION, "lockNegative", "Take the site's validation of a body part back", _DONE
        ),
    },
    "/quota": {
        "get": operation(
            _KEEPING, "getQuota", "See the quota of uploads", {"200": answer("Bytes.", "Quota")}
        ),
        "put": operation(
            _KEEPING,
            "putQuota",
            "Set the quota of uploads",
            {"200": answer("Bytes.", "Quota")},
            requestBody=_takes(record({"own_bytes": maybe({"type": "integer", "minimum": 1})})),
        ),
    },
}

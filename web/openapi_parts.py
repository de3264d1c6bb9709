"""The pieces of which the API's description is put together."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]


def ref(name: str) -> Json:
    """Return a reference to a document of the list."""
    return {"$ref": f"#/components/schemas/{name}"}


def maybe(schema: Json) -> Json:
    """Let the value be null too."""
    return {"anyOf": [schema, {"type": "null"}]}


def record(properties: Json, *, required: bool = True) -> Json:
    """Return an object of these members: all of them, or (a request) some of them."""
    schema: Json = {"type": "object", "properties": properties}
    return schema | {"required": list(properties)} if required else schema | {"additionalProperties": False}


def many(items: Json) -> Json:
    """Return a list."""
    return {"type": "array", "items": items}


def numbers(*names: str) -> Json:
    """Return an object of counts."""
    return record({name: {"type": "integer", "minimum": 0} for name in names})


def page_of(name: str) -> Json:
    """Return a page of a list."""
    return record({"items": many(ref(name)), "next": maybe({"type": "string"})})


TEXT: Json = {"type": "string"}
WHOLE: Json = {"type": "integer"}
SHARE: Json = {"type": "number", "minimum": 0, "maximum": 1}
UUID: Json = {"type": "string", "format": "uuid"}
MOMENT: Json = {"type": "string", "format": "date-time"}
BYTES: Json = {"type": "string", "format": "binary"}
YES_NO: Json = {"type": "boolean"}
LINK: Json = {"type": "string", "format": "uri-reference"}
LINKS: Json = {"type": "object", "additionalProperties": LINK}
DAY: Json = {"type": "string", "format": "date"}


def words_of(kind: Any) -> Json:
    """Return one of an enum's words."""
    return {"type": "string", "enum": [word.value for word in kind]}


def query(name: str, schema: Json, said: str) -> Json:
    """Return a parameter of the query."""
    return {"name": name, "in": "query", "schema": schema, "description": said}


def header(name: str, said: str) -> Json:
    """Return a header."""
    return {"name": name, "in": "header", "schema": TEXT, "description": said}


def id_of(name: str) -> Json:
    """Return an id in the address."""
    return {"name": name, "in": "path", "required": True, "schema": UUID}


CURSOR = query("cursor", TEXT, "From the last page's `next`.")
LIMIT = query("limit", {"type": "integer", "minimum": 1, "maximum": 1000}, "Items a page.")
IF_NONE_MATCH = header("If-None-Match", "An earlier answer's ETag; 304 when nothing changed.")
ETAG: Json = {"ETag": {"schema": TEXT}}
PACE: Json = {
    "X-Poll-Interval": {
        "schema": {"type": "number"},
        "description": "Seconds after which to ask again; more when many watch.",
    }
}


def some_bytes(said: str, *media_types: str) -> Json:
    """Return an answer of one of several kinds of file."""
    return {"description": said, "content": {kind: {"schema": BYTES} for kind in media_types}}


def answer(said: str, schema: str | None = None, media_type: str = "application/json", **more: Any) -> Json:
    """Return an answer: a document, or bytes."""
    content = {media_type: {"schema": ref(schema) if schema else BYTES}}
    return {"description": said, "content": content, **more}


def operation(tag: str, name: str, summary: str, answers: Json, **more: Any) -> Json:
    """Return what a method at an address does; every one may answer a problem."""
    problem = {
        "description": "A problem (RFC 9457) with a stable code and advice.",
        "content": {"application/problem+json": {"schema": ref("Problem")}},
    }
    return {
        "tags": [tag],
        "operationId": name,
        "summary": summary,
        **more,
        "responses": {**answers, "default": problem},
    }

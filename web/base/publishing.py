"""Publishes the routes' operations and their models as OpenAPI 3.1."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from flask import Flask
from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, models_json_schema
from werkzeug.routing import AnyConverter, IntegerConverter, Rule, UUIDConverter

from web.base.binding import BYTES, TEXT, Content, Json, Operation, Reply
from web.contract.base import API, Body, Document, Problem, Query

_REF = "#/components/schemas/{model}"
_NO_MEMBERS: Json = {"type": "object", "maxProperties": 0}
#: Media types of which no schema is told.
_PLAIN = frozenset({"application/json", "text/html"})


class _Schemas(GenerateJsonSchema):
    """Without titles, with enums' words where they are used; answers may get further members one day."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def generate_inner(self, schema: Any) -> Json:
        if schema["type"] != "enum":
            return super().generate_inner(schema)
        found = super().generate_inner({name: value for name, value in schema.items() if name != "ref"})
        return {name: found[name] for name in ("type", "enum")}

    def default_schema(self, schema: Any) -> Json:
        found = super().default_schema(schema)
        return {name: value for name, value in found.items() if name != "default" or value is not None}

    def model_schema(self, schema: Any) -> Json:
        found = super().model_schema(schema)
        found.pop("title", None)
        if self.mode == "serialization":
            found.pop("additionalProperties", None)
        return found


def _parameter(name: str, where: str, schema: Json, *, required: bool = False) -> Json:
    said = schema.pop("description", None)
    return {
        "name": name,
        "in": where,
        "schema": schema,
        **({"description": said} if said else {}),
        **({"required": True} if required else {}),
    }


def _query(model: type[Query]) -> Iterator[Json]:
    schema = model.model_json_schema(schema_generator=_Schemas)
    needed = schema.get("required", ())
    for name, told in schema.get("properties", {}).items():
        kinds = [kind for kind in told.pop("anyOf", ()) if kind.get("type") != "null"]
        yield _parameter(name, "query", told | (kinds[0] if kinds else {}), required=name in needed)


def _in_path(rule: Rule) -> Iterator[Json]:
    for name, converter in rule._converters.items():
        if isinstance(converter, UUIDConverter):
            yield _parameter(name, "path", {**TEXT, "format": "uuid"}, required=True)
        elif isinstance(converter, IntegerConverter):
            yield _parameter(name, "path", {"type": "integer"}, required=True)
        elif not isinstance(converter, AnyConverter):
            yield _parameter(name, "path", dict(TEXT), required=True)


def _answer(answer: Reply) -> Json:
    told: Json = {"description": answer.said}
    if isinstance(answer.content, tuple):
        kinds: Json = {kind: {} if kind in _PLAIN else {"schema": BYTES} for kind in answer.content}
    else:
        kinds = {"application/json": {"schema": {"$ref": _REF.format(model=answer.content.__name__)}}}
    headers = {"headers": answer.headers} if answer.headers else {}
    return told | headers | ({"content": kinds} if kinds else {})


def _body(described: Operation, method: str) -> Json:
    body = described.body
    if isinstance(body, Content):
        return {"requestBody": {"required": True, "content": {body.media_type: {"schema": body.schema}}}}
    if body is not None:
        needed = any(found.is_required() for found in body.model_fields.values())
        kinds = {"application/json": {"schema": {"$ref": _REF.format(model=body.__name__)}}}
        return {"requestBody": {"required": needed, "content": kinds}}
    if method in {"POST", "PUT"}:
        return {"requestBody": {"content": {"application/json": {"schema": _NO_MEMBERS}}}}
    return {}


def _operation(described: Operation, rule: Rule, method: str, view: Any) -> Json:
    problem = {
        "description": "A problem (RFC 9457) with a stable code and advice.",
        "content": {"application/problem+json": {"schema": {"$ref": _REF.format(model=Problem.__name__)}}},
    }
    needed = getattr(view, "needs", None)
    parameters = [
        *_in_path(rule),
        *(_query(described.query) if described.query else ()),
        *(
            _parameter(name, "header", TEXT | {"description": told})
            for name, told in described.headers.items()
        ),
    ]
    return {
        "tags": [described.tag],
        "operationId": described.name,
        "summary": described.summary,
        **({"x-permission": needed} if needed else {"security": []}),
        **({"parameters": parameters} if parameters else {}),
        **_body(described, method),
        "responses": {str(status): _answer(answer) for status, answer in described.answers.items()}
        | {"default": problem},
    }


def routes(app: Flask) -> Iterator[tuple[str, str, Rule, Operation]]:
    """Yield the API's operations: path below the API's root, method, rule, what it does."""
    for rule in app.url_map.iter_rules():
        view = app.view_functions[rule.endpoint]
        path = rule.rule.removeprefix(API)
        for name, converter in rule._converters.items():
            if not isinstance(converter, AnyConverter):
                path = path.replace(_placeholder(rule, name), f"{{{name}}}")
        for word, described in getattr(view, "operations", {}).items():
            spelled = path
            for name, converter in rule._converters.items():
                if isinstance(converter, AnyConverter):
                    spelled = path.replace(_placeholder(rule, name), word)
            for method in sorted(rule.methods - {"HEAD", "OPTIONS"}):
                yield spelled, method.lower(), rule, described


def _placeholder(rule: Rule, name: str) -> str:
    end = rule.rule.index(f"{name}>") + len(name) + 1
    return rule.rule[rule.rule.rindex("<", 0, end) : end]


def paths(app: Flask) -> Json:
    """Return the paths of an application's operations."""
    found: Json = {}
    for path, method, rule, described in routes(app):
        view = app.view_functions[rule.endpoint]
        found.setdefault(path, {})[method] = _operation(described, rule, method, view)
    return found


def schemas(app: Flask) -> Json:
    """Return the schemas of an application's documents, by name."""
    modes: dict[tuple[type[BaseModel], JsonSchemaMode], None] = {(Problem, "serialization"): None}
    for _, _, _, described in routes(app):
        if isinstance(described.body, type) and issubclass(described.body, Body):
            modes[described.body, "validation"] = None
        for answer in described.answers.values():
            if isinstance(answer.content, type) and issubclass(answer.content, Document):
                modes[answer.content, "serialization"] = None
    _, told = models_json_schema(list(modes), schema_generator=_Schemas, ref_template=_REF)
    return dict(sorted(told["$defs"].items()))

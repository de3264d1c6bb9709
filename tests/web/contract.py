"""A test client that holds every answer of the API against the published description, members and all."""

from __future__ import annotations

import json
from copy import deepcopy
from functools import cache
from typing import Any

from jsonschema_rs import Draft202012Validator
from werkzeug.routing import AnyConverter

from tests.web.asking import ClosingClient
from web.contract.base import API
from web.openapi import document


def closed(schema: Any) -> Any:
    """Return a schema whose objects have the members that it names, and no others."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: closed(part) for name, part in schema.items()}
    if "properties" in found and found.get("type") == "object":
        found.setdefault("additionalProperties", False)
    return found


@cache
def validator(ref: str) -> Any:
    schemas = closed(deepcopy(document()["components"]["schemas"]))
    return Draft202012Validator({"$ref": ref, "components": {"schemas": schemas}}, validate_formats=True)


def described(app: Any, method: str, path: str) -> Any:
    """Return what the description says of a request, or None where there is no such address."""
    try:
        rule, named = app.url_map.bind("localhost").match(path, method, return_rule=True)
    except Exception:
        return None
    text = rule.rule.removeprefix(API)
    for name, converter in rule._converters.items():
        end = text.index(f"{name}>") + len(name) + 1
        spelled = str(named[name]) if isinstance(converter, AnyConverter) else f"{{{name}}}"
        text = text[: text.rindex("<", 0, end)] + spelled + text[end:]
    return document()["paths"].get(text, {}).get(method.lower())


def check_answer(app: Any, method: str, path: str, answer: Any) -> None:
    """Fail when an answer of the API is not as its description says."""
    if not path.startswith(f"{API}/") or method in {"HEAD", "OPTIONS"}:
        return
    operation, kind = described(app, method, path), answer.mimetype
    if kind == "application/problem+json":
        schema = {"$ref": "#/components/schemas/Problem"}
    elif operation is None:
        return
    else:
        told = operation["responses"].get(str(answer.status_code))
        assert told is not None, f"{method} {path}: {answer.status_code} is not described"
        if kind != "application/json":
            return
        schema = told["content"][kind].get("schema")
    if schema:
        found = validator(schema["$ref"]).iter_errors(json.loads(answer.get_data()))
        wrong = [f"{'.'.join(map(str, error.instance_path))}: {error.message}" for error in found]
        assert not wrong, f"{method} {path}: {wrong}"


class CheckedClient(ClosingClient):
    """Checks what comes back."""

    def open(self, *args: Any, **more: Any) -> Any:
        answer = super().open(*args, **more)
        if not answer.is_streamed or answer.is_json:
            check_answer(self.application, answer.request.method, answer.request.path, answer)
        return answer

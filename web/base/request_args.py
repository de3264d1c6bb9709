"""What a request may hold, before any model looks at it: text that is text, JSON that is JSON."""

from __future__ import annotations

import json
from typing import Any

from flask import Flask, request
from werkzeug.routing import IntegerConverter, Map

from store.base.errors import NotFound
from web.base.errors import InvalidQuery, InvalidRequest, PrefixUnsupported, UnsupportedMediaType


def refuse_prefix() -> None:
    """Refuse to be served below a path, where the first page would work and later ones would not.

    Raises
    ------
    PrefixUnsupported
    """
    if request.headers.get("X-Forwarded-Prefix", "/") not in {"", "/"}:
        raise PrefixUnsupported


class DatabaseInteger(IntegerConverter):
    """A number in an address, no larger than an integer of the database."""

    def __init__(self, map: Map, **how: Any) -> None:
        super().__init__(map, **{"max": (1 << 31) - 1, **how})


def register(app: Flask) -> None:
    """Refuse addresses, queries and forms with text and numbers that the database does not keep."""
    app.url_map.converters["int"] = DatabaseInteger

    # before anybody is sent to a page that the proxy does not find
    app.before_request_funcs.setdefault(None, []).insert(0, refuse_prefix)

    @app.before_request
    def check_text() -> None:
        if not _writable(list((request.view_args or {}).values())):
            raise NotFound
        if not _writable([value for _, value in request.args.items(multi=True)]):
            raise InvalidQuery("a value holds a character that no text has")
        is_form = request.mimetype == "application/x-www-form-urlencoded"
        if is_form and not _writable([value for _, value in request.form.items(multi=True)]):
            raise InvalidRequest("a field holds a character that no text has")


def without_empty_fields() -> None:
    """Let a form's empty fields count as absent."""
    kept = [(name, value) for name, value in request.args.items(multi=True) if value]
    request.args = type(request.args)(kept)


def json_text() -> bytes:
    """Return the request's JSON object, which holds no more than JSON has; an empty one for no body.

    Raises
    ------
    InvalidRequest, UnsupportedMediaType
    """
    if not request.content_length and not request.headers.get("Transfer-Encoding"):
        return b"{}"
    if request.mimetype != "application/json":
        raise UnsupportedMediaType
    try:
        body = json.loads(request.get_data(), parse_constant=_refuse_constant)
        writable = _writable(body)
    except ValueError:
        raise InvalidRequest("the body is not JSON") from None
    except RecursionError:
        raise InvalidRequest("the body is nested too deeply") from None
    if not isinstance(body, dict):
        raise InvalidRequest("the body is not a JSON object")
    if not writable:
        raise InvalidRequest("the body holds a character that no text has")
    return json.dumps(body).encode()


def _refuse_constant(name: str) -> None:
    """Python reads NaN and Infinity, which JSON does not have."""
    raise ValueError(name)


def _writable(value: object) -> bool:
    """Whether every text in it is one: JSON can name half a character, and Postgres keeps no NUL."""
    if isinstance(value, str):
        return "\0" not in value and not any(0xD800 <= ord(c) <= 0xDFFF for c in value)
    if isinstance(value, dict):
        return all(_writable(name) and _writable(member) for name, member in value.items())
    return all(map(_writable, value)) if isinstance(value, list) else True

"""What a request asks for: its address, query and body, checked."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

from flask import Flask, request
from werkzeug.routing import IntegerConverter, Map

from store.base.errors import NotFound
from vocabulary.states import ImageStatus, Triage
from web.errors import InvalidQuery, InvalidRequest, PrefixUnsupported, UnsupportedMediaType


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


def read_query(**parsers: Callable[[str], Any]) -> dict[str, Any]:
    """Return the query's parameters, parsed; those that are absent are None. Raises `InvalidQuery`."""
    if twice := [name for name, values in request.args.lists() if len(values) > 1]:
        raise InvalidQuery(f"the parameter {twice[0][:40]!r} comes more than once")
    return parse_query(request.args, parsers)


def parse_query(args: Mapping[str, str], parsers: Mapping[str, Callable[[str], Any]]) -> dict[str, Any]:
    """Return the parameters of a query, parsed; those that are absent are None. Raises `InvalidQuery`."""
    unknown = set(args) - set(parsers)
    if unknown:
        raise InvalidQuery(f"unknown parameter {min(unknown)[:40]!r}")
    values: dict[str, Any] = dict.fromkeys(parsers)
    for name in args:
        try:
            values[name] = parsers[name](args[name])
        except ValueError as error:
            raise InvalidQuery(f"{name}: {error}") from None
    return values


def without_empty_fields() -> None:
    """Let a form's empty fields count as absent."""
    kept = [(name, value) for name, value in request.args.items(multi=True) if value]
    request.args = type(request.args)(kept)


def one_of(*allowed: str) -> Callable[[str], str]:
    """Return a parser that takes one of some words."""

    def parse(text: str) -> str:
        if text not in allowed:
            raise ValueError(f"must be one of {', '.join(allowed)}")
        return text

    return parse


def page_size(text: str) -> int:
    """Parse how many items a page has."""
    if not re.fullmatch(r"\d{1,4}", text) or not 1 <= int(text) <= 1000:
        raise ValueError("must be a number from 1 to 1000")
    return int(text)


def region_name(text: str) -> str:
    """Parse a region's name."""
    if not re.fullmatch(r"[a-z][a-z0-9_ -]{0,40}", text):
        raise ValueError("must be a region's name in lower case")
    return text


def cursor_text(text: str) -> str:
    """Parse a cursor's letters; what they mean is checked where they are used."""
    if not text or len(text) > 300:
        raise ValueError("must be a cursor that this server gave")
    return text


IMAGE_FILTERS: Mapping[str, Callable[[str], Any]] = {
    "status": one_of(*ImageStatus),
    "triage": one_of(*Triage),
    "region": region_name,
    "cursor": cursor_text,
}


def read_body() -> dict[str, Any]:
    """Return the request's JSON object. Raises `InvalidRequest`, `UnsupportedMediaType`."""
    if not request.content_length and not request.headers.get("Transfer-Encoding"):
        return {}
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
    return body


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


def json_body(known: Collection[str]) -> dict[str, Any]:
    """Return the body's JSON object, whose members are among `known`. Raises `InvalidRequest`."""
    body = read_body()
    if unknown := set(body) - set(known):
        raise InvalidRequest(f"unknown member {min(unknown)[:40]!r}")
    return body

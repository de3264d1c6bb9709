"""Extremes of every parameter of every route, by its type: told in an answer of 4xx, never of 5xx."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from store.accounts import accounts
from store.accounts.accounts import Permission
from store.base.paging import encode_cursor
from store.base.session import session_scope
from store.base.tables import User
from tests.web.asking import Asker, Browser
from tests.web.conftest import app
from tests.web.serving import site_key
from tests.web.test_access import LINES
from tests.web.world import World, make_world
from web.openapi import document

__all__ = ["app", "site_key"]

SOME_ID = "00000000-0000-0000-0000-000000000000"
MOMENTS = ("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "2020-01-01")
NUMBERS = ("-1", str(2**31), str(2**63), "9" * 5000)
CURSORS = (
    encode_cursor(str(2**63)),
    *(encode_cursor(when, SOME_ID) for when in MOMENTS),
    encode_cursor("2020-01-01T00:00:00+00:00", str(2**63)),
    encode_cursor(str(2**31), "2020-01-01T00:00:00+00:00", SOME_ID),
    encode_cursor("1", MOMENTS[1], SOME_ID),
    "W1tb" * 300,  # a list in a list in a list
)
TEXTS = (
    "",
    "\N{CJK UNIFIED IDEOGRAPH-9AA8}" * 1000,
    "line\r\nSet-Cookie: a=b",
    "\x00",
    "\N{RIGHT-TO-LEFT OVERRIDE}\U0010ffff%",
    "9999-12-31",
    "0001-01-01",
    *NUMBERS,
)
#: Of a member of a body; wrong types are what tests/web/test_api_fuzz.py sends.
VALUES: tuple[Any, ...] = (-1, 2**63, 10**400, 1e308, {"a": {}}, *TEXTS[1:6])
DEEP = '{"a":' * 900 + "1" + "}" * 900


@pytest.fixture
def world(app: Any) -> World:
    return make_world(app, accounts.Role.ADMIN)


@pytest.fixture
def ask_world(app: Any, world: World) -> Asker:
    with session_scope() as session:
        admin = session.query(User).filter_by(email=world.email).one()
        key = accounts.create_api_key(session, admin, "extremes", scope=set(Permission))[1]
    return Asker(app.test_client(use_cookies=False), key)


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document()["paths"].items():
        for method, operation in methods.items():
            if method in {"get", "post", "put", "patch", "delete"}:
                yield method.upper(), path, {**operation, "shared": methods.get("parameters", [])}


def resolved(found: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in found:
        found = document_part(found["$ref"])
    return found


def document_part(reference: str) -> dict[str, Any]:
    part: Any = document()
    for name in reference.removeprefix("#/").split("/"):
        part = part[name]
    return dict(part)


def address(path: str, ids: dict[str, Any], **other: str) -> str:
    for name in (piece.split("}")[0] for piece in path.split("{")[1:]):
        path = path.replace(f"{{{name}}}", other.get(name, str(ids.get(name, SOME_ID))))
    return path


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_no_parameter_of_the_api_breaks_it(ask_world: Asker, world: World) -> None:
    broken = []
    asked = 0

    def ask(method: str, path: str, **more: Any) -> None:
        nonlocal asked
        asked += 1
        answer = ask_world(method, path, **more)
        if answer.status_code >= 500 and answer.status_code != 507:
            broken.append((method, path[:120], str(more)[:120], answer.json))

    for method, path, operation in operations():
        parameters = [resolved(p) for p in (*operation.get("parameters", []), *operation["shared"])]
        for parameter in parameters:
            name, where = parameter["name"], parameter["in"]
            extremes = CURSORS if name == "cursor" else TEXTS
            for value in extremes:
                if where == "query":
                    ask(method, address(path, world.ids), query_string={name: value})
                elif where == "path" and value in (TEXTS[1], NUMBERS[1]):
                    ask(method, address(path, world.ids, **{name: value}))
                elif where == "header" and value.isprintable() and value.isascii():
                    ask(method, address(path, world.ids), headers={name: value})
        body = operation.get("requestBody", {}).get("content", {}).get("application/json")
        if body is None:
            continue
        schema = resolved(body["schema"])
        here = address(path, world.ids)
        for raw in (DEEP, "[" * 100_000, '{"a": NaN}', "1" * 5000, '"\ud800"'):
            ask(method, here, data=raw.encode("utf-8", "surrogatepass"), content_type="application/json")
        for name in schema.get("properties", {}):
            for value in VALUES:
                ask(method, here, data=json.dumps({name: value}), content_type="application/json")
    assert broken == []
    assert asked > 1000


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_no_query_of_a_page_breaks_it(app: Any, world: World) -> None:
    """Every name that any page takes, to every page."""
    names = (
        "cursor", "find", "erased", "person", "action", "object", "first", "last", "status", "triage",
        "region", "class", "batch", "bundle", "from", "until", "reviewed", "q", "next", "token",
    )  # fmt: skip
    browser: Browser = world.browser(app.test_client())
    broken = []
    taken = 0
    for line in LINES:
        if line.method != "GET" or line.rule.startswith("/api/"):
            continue
        path = next(iter(line.paths(world.ids)), "")
        for name in names:
            if "unknown parameter" in browser.client.get(path, query_string={name: "x"}).text:
                continue
            taken += 1
            for value in CURSORS if name == "cursor" else TEXTS:
                answer = browser.client.get(path, query_string={name: value})
                if answer.status_code >= 500:
                    broken.append((path, name, value[:60], answer.status_code))
    assert broken == []
    assert taken > 30

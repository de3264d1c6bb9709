"""Every route, asked by every role, by a foreign site and by nobody: the answers are what the route says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import select

from settings import Settings
from store.accounts import accounts
from store.accounts.accounts import Permission, Role
from store.base.session import session_scope
from store.base.tables import User
from tests.web.asking import Asker
from tests.web.world import World, make_world
from web.auth.identity import refuse_unmarked
from web.factory import create_app

#: Which roles have a permission, said once more: a role that gains or loses one has to change this, too.
MAY = {
    Permission.SUBMIT: frozenset(Role),
    Permission.READ: frozenset(Role),
    Permission.WORK: frozenset({Role.STAFF, Role.CLINICIAN, Role.ADMIN}),
    Permission.REVIEW: frozenset({Role.CLINICIAN, Role.ADMIN}),
    Permission.RESEARCH: frozenset({Role.RESEARCHER, Role.ADMIN}),
    Permission.ADMINISTER: frozenset({Role.ADMIN}),
}
#: What anyone may ask, and what only whoever signed in by browser may; all else takes a permission.
PUBLIC = frozenset(
    {
        "GET /sign-in", "POST /sign-in", "GET /sign-in/forgotten", "POST /sign-in/forgotten",
        "GET /sign-in/provider", "GET /sign-in/provider/back", "GET /sign-in/code", "POST /sign-in/code",
        "GET /healthz", "GET /api/v1/openapi.json", "GET /api/v1/docs",
    }
)  # fmt: skip
PERSONAL = frozenset({"/", "/account", "/sign-in/provider/confirm", "/sign-out"})
NO_BYTES = frozenset({"display", "heat"})  # objects that the test's site does not have
#: What destroys an object that others need comes last, and after all else the end of the session.
DESTROYS = ("delete", "revoke", "erase", "end", "sign-out")


@dataclass(frozen=True)
class Line:
    """One route and who may use it."""

    method: str
    rule: str
    may: frozenset[Role]
    personal: bool
    public: bool
    person: bool  # not by an API key, or not on every object

    @property
    def destroys(self) -> int:
        """How late it is asked."""
        last = self.rule.rpartition("/")[2]
        return 2 if self.rule == "/sign-out" else self.method == "DELETE" or last in DESTROYS

    @property
    def has_id(self) -> bool:
        return "<uuid:" in self.rule

    def paths(self, ids: dict[str, Any]) -> Iterator[str]:
        """Yield the addresses of the objects `ids`, one for each of the rule's words."""
        words = re.search(r"<any\(([^)]*)\):\w+>", self.rule)
        for word in words.group(1).replace("'", "").split(",") if words else [""]:
            if word not in NO_BYTES:
                path = self.rule.replace(words.group(0), word) if words else self.rule
                yield re.sub(r"<(?:\w+(?:\([^)]*\))?:)?(\w+)>", lambda m: str(ids[m.group(1)]), path)


def lines_of(app: Any) -> list[Line]:
    """Return who may use each of an application's routes, as the routes themselves say it."""
    lines = []
    for rule in app.url_map.iter_rules():
        view = app.view_functions[rule.endpoint]
        for method in sorted(rule.methods - {"HEAD", "OPTIONS"}) if rule.endpoint != "static" else ():
            personal, public = hasattr(view, "is_personal"), hasattr(view, "is_public")
            may = frozenset(Role) if personal else frozenset() if public else MAY[view.needs]
            person = getattr(view, "needs_person", False)
            lines.append(Line(method, rule.rule.replace(" ", ""), may, personal, public, person))
    return sorted(lines, key=lambda line: line.destroys)


SETTINGS = Settings(database_url="-", broker_url="-", blob_url="-", secret_key="-" * 40)
LINES = lines_of(create_app(SETTINGS))


def send(client: Any, line: Line, path: str, headers: dict[str, str]) -> Any:
    return client.open(path, method=line.method, headers=headers)


def test_what_needs_no_permission_is_named_here() -> None:
    assert {f"{line.method} {line.rule}" for line in LINES if line.public} == PUBLIC
    personal = {line.rule for line in LINES if line.personal and not line.rule.startswith("/account/")}
    assert personal == PERSONAL
    assert all(line.rule.startswith(("/admin", "/api/v1/")) for line in LINES if line.person)


def test_a_route_that_does_not_say_who_may_is_refused() -> None:
    app = create_app(SETTINGS)
    app.add_url_rule("/forgotten", "forgotten", lambda: "")
    with pytest.raises(TypeError, match="forgotten"):
        refuse_unmarked(app)


@pytest.mark.parametrize("role", list(Role))
def test_each_role_sees_what_the_route_says(app: Any, site_key: str, role: Role) -> None:
    own, other = make_world(app, role), make_world(app, Role.ADMIN)
    key = {"Authorization": f"Bearer {own.key}"}
    for line in LINES:
        for path in line.paths(own.ids) if not line.public else ():
            answer = send(app.test_client(use_cookies=False), line, path, key)
            if line.personal:
                assert answer.status_code == 403, f"{line}: an API key has no account"
            elif line.person and role in line.may and answer.status_code == 403:
                assert "needs_person" in answer.text
            else:
                check(line, role, answer, other.marker)
    fresh = make_world(app, role)  # the key has destroyed what can be destroyed
    browser = fresh.browser(app.test_client())
    for line in LINES:
        for path in line.paths(fresh.ids) if not line.public else ():
            answer = send(browser.client, line, path, {"X-CSRF-Token": browser.csrf})
            check(line, role, answer, other.marker)


def check(line: Line, role: Role, answer: Any, other: str) -> None:
    if role in line.may:
        assert answer.status_code not in {401, 403, 404}, (line, role, answer.text)
        assert answer.status_code < 500, (line, role)
    else:
        assert answer.status_code == 403, (line, role)
    assert other.encode() not in answer.get_data(), (line, role)


@pytest.mark.parametrize("role", list(Role))
def test_ids_of_another_site_are_not_there(app: Any, site_key: str, role: Role) -> None:
    own, other = make_world(app, role), make_world(app, Role.ADMIN)
    browser = own.browser(app.test_client())
    key = {"Authorization": f"Bearer {own.key}"}
    for line in (line for line in LINES if line.has_id):
        for path in line.paths(other.ids):
            asked = [send(browser.client, line, path, {"X-CSRF-Token": browser.csrf})]
            if not line.personal:
                asked.append(send(app.test_client(use_cookies=False), line, path, key))
            for answer in asked:
                assert answer.status_code == (404 if role in line.may else 403), (line, role, answer.text)
                assert other.marker not in answer.text


def test_nobody_is_told_nothing(app: Any, site_key: str) -> None:
    own = make_world(app, Role.ADMIN)
    for line in LINES:
        for path in line.paths(own.ids):
            answer = app.test_client().open(path, method=line.method)
            if line.public:
                assert answer.status_code != 401, line  # the sign-in form wants its own token
            elif line.method == "GET" and not line.rule.startswith(("/api/", "/fhir/")):
                assert answer.status_code == 302, line
                assert answer.location.startswith("/sign-in?next="), line
            else:
                assert answer.status_code == 401, line
            assert own.marker not in answer.text


def test_a_key_without_a_scope_may_nothing(app: Any, site_key: str) -> None:
    own = make_world(app, Role.ADMIN)
    empty = Asker(app.test_client(use_cookies=False), with_scope(own))
    for line in LINES:
        for path in line.paths(own.ids) if not line.public else ():
            assert send(empty.client, line, path, empty.headers).status_code == 403, line


def with_scope(world: World, *scope: accounts.Permission) -> str:
    with session_scope() as session:
        user = session.scalars(select(User).where(User.email == world.email)).one()
        return accounts.create_api_key(session, user, "narrow", scope=scope)[1]

"""Every route, asked by every role, by a foreign site and by nobody: the answers are what the table says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import select

from store.accounts import accounts
from store.accounts.accounts import Role
from store.base.session import session_scope
from store.base.tables import User
from tests.web.asking import Asker
from tests.web.world import World, make_world
from web.factory import create_app

# S submitter, T staff, C clinician, R researcher, A admin: these may; everybody else is refused (403).
# `personal` is for whoever signed in by browser, not for API keys; `public` is for anyone.
# Whoever may, and names an id of another site, gets 404. What destroys an object stands last.
TABLE = """
GET   /                                                       personal
GET   /sign-in                                                public
POST  /sign-in                                                public
GET   /sign-in/forgotten                                      public
POST  /sign-in/forgotten                                      public
GET   /sign-in/provider                                       public
GET   /sign-in/provider/back                                  public
GET   /healthz                                                public
GET   /api/v1/openapi.json                                    public
GET   /api/v1/docs                                            public
GET   /batches                                                S T C R A
GET   /batches/new                                            S T C R A
POST  /batches                                                S T C R A
GET   /batches/<uuid:batch_id>                                S T C R A
POST  /batches/<uuid:batch_id>/files                          S T C R A
POST  /batches/<uuid:batch_id>/<any(submit,cancel,pause,resume,retry):action>   S T C R A
GET   /worklist                                               T C A
GET   /api/v1/worklist                                        T C A
GET   /studies/<uuid:study_id>                                S T C R A
GET   /api/v1/studies/<uuid:study_id>                         S T C R A
POST  /studies/<uuid:study_id>/reviews                        C A
GET   /api/v1/studies/<uuid:study_id>/reviews                 S T C R A
POST  /api/v1/studies/<uuid:study_id>/reviews                 C A
GET   /api/v1/bundles/<name>/agreement                        S T C R A
GET   /api/v1/bundles/<name>/disagreements.csv                R A
GET   /api/v1/studies/<uuid:study_id>/report                  S T C R A
GET   /images/<uuid:image_id>                                 S T C R A
GET   /bundles                                                S T C R A
GET   /downloads                                              S T C R A
POST  /downloads                                              S T C R A
GET   /bundles/<name>                                         S T C R A
GET   /api/v1/batches                                         S T C R A
POST  /api/v1/batches                                         S T C R A
GET   /api/v1/batches/<uuid:batch_id>                         S T C R A
POST  /api/v1/batches/<uuid:batch_id>/files                   S T C R A
POST  /api/v1/batches/<uuid:batch_id>/<any(submit,cancel,pause,resume,retry):action>   S T C R A
GET   /api/v1/batches/<uuid:batch_id>/images                  S T C R A
GET   /api/v1/batches/<uuid:batch_id>/results.csv             S T C R A
GET   /api/v1/batches/<uuid:batch_id>/unmatched.csv           S T C R A
GET   /api/v1/batches/<uuid:batch_id>/results.zip             S T C R A
GET   /api/v1/images/<uuid:image_id>                          S T C R A
GET   /api/v1/images/<uuid:image_id>/<any(original,display,overlay,report):kind>   S T C R A
GET   /api/v1/bundles                                         S T C R A
GET   /api/v1/results                                         S T C R A
GET   /api/v1/exports                                         S T C R A
POST  /api/v1/exports                                         S T C R A
GET   /api/v1/exports/<uuid:export_id>                        S T C R A
GET   /api/v1/exports/<uuid:export_id>/file                   S T C R A
POST  /batches/<uuid:batch_id>/priority                       S T C R A
POST  /api/v1/batches/<uuid:batch_id>/priority                S T C R A
POST  /api/v1/batches/<uuid:batch_id>/known                   S T C R A
POST  /api/v1/batches/<uuid:batch_id>/uploads                 S T C R A
PATCH /api/v1/uploads/<uuid:upload_id>                        S T C R A
POST  /api/v1/uploads/<uuid:upload_id>/take                   S T C R A
DELETE /api/v1/uploads/<uuid:upload_id>                       S T C R A
POST  /api/v1/exports/<uuid:export_id>/cancel                 S T C R A
POST  /downloads/<uuid:export_id>/cancel                      S T C R A
GET   /research                                               R A
GET   /research/datasets/<uuid:dataset_id>                    R A
POST  /research/runs                                          R A
GET   /research/runs/<uuid:run_id>                            R A
POST  /research/runs/<uuid:run_id>/<any(cancel,pause,resume,retry):action>   R A
GET   /research/runs/<uuid:run_id>/images/<int:number>        R A
POST  /research/comparisons                                   R A
GET   /research/comparisons/<uuid:comparison_id>              R A
GET   /research/comparisons/<uuid:comparison_id>/images/<int:number>   R A
POST  /bundles/<any(promote,rollback,shadow):action>          A
GET   /api/v1/datasets                                        R A
GET   /api/v1/datasets/<uuid:dataset_id>                      R A
GET   /api/v1/runs                                            R A
POST  /api/v1/runs                                            R A
GET   /api/v1/runs/<uuid:run_id>                              R A
POST  /api/v1/runs/<uuid:run_id>/<any(cancel,pause,resume,retry):action>   R A
GET   /api/v1/runs/<uuid:run_id>/files/<file>                 R A
GET   /api/v1/runs/<uuid:run_id>/images/<int:number>/display   R A
GET   /api/v1/runs/<uuid:run_id>/images/<int:number>/attention/<bundle>   R A
GET   /api/v1/comparisons                                     R A
POST  /api/v1/comparisons                                     R A
GET   /api/v1/comparisons/<uuid:comparison_id>                R A
POST  /api/v1/bundles/<any(promote,rollback,shadow):action>   A
GET   /account                                                personal
GET   /sign-in/provider/confirm                               personal
POST  /account/password                                       personal
GET   /account/second-factor                                  personal
POST  /account/second-factor                                  personal
POST  /account/second-factor/remove                           personal
POST  /admin/second-factor                                    . . . . A person
GET   /sign-in/code                                           public
POST  /sign-in/code                                           public
GET   /account/confirm                                        personal
POST  /account/confirm                                        personal
GET   /account/kept                                           personal
POST  /account/keys                                           personal
POST  /account/keys/<uuid:key_id>/revoke                      personal
POST  /account/sessions/<uuid:session_id>/end                 personal
GET   /admin                                                  . . . . A
GET   /admin/people                                           . . . . A
POST  /admin/people                                           . . . . A person
POST  /admin/people/<uuid:user_id>/<any(role,name,link,disable,enable,'sign-out','reset-second-factor'):action>   . . . . A person
GET   /admin/keys                                             . . . . A
GET   /admin/notices                                          . . . . A
POST  /admin/notices                                          . . . . A
POST  /admin/notices/<uuid:target_id>/<any(test,remove):action>   . . . . A
GET   /admin/retention                                        . . . . A
POST  /admin/retention                                        . . . . A
POST  /admin/retention/quota                                  . . . . A
GET   /api/v1/people                                          . . . . A
POST  /api/v1/people                                          . . . . A person
GET   /api/v1/people/<uuid:user_id>                           . . . . A
POST  /api/v1/people/<uuid:user_id>/<any(role,name,link,disable,enable,'sign-out','reset-second-factor'):action>   . . . . A person
GET   /api/v1/keys                                            . . . . A
GET   /api/v1/notice-targets                                  . . . . A
POST  /api/v1/notice-targets                                  . . . . A
GET   /api/v1/notices                                         . . . . A
GET   /api/v1/retention                                       . . . . A
PUT   /api/v1/retention                                       . . . . A
GET   /api/v1/erasures/studies                                . . . . A
POST  /api/v1/erasures                                        . . . . A
GET   /api/v1/quota                                           . . . . A
PUT   /api/v1/quota                                           . . . . A
GET   /api/v1/bundles/<bundle>/negatives                      . . . . A
PUT   /api/v1/bundles/<bundle>/negatives/<region>             . . . . A
DELETE /api/v1/bundles/<bundle>/negatives/<region>            . . . . A
POST  /admin/retention/erase                                  . . . . A
GET   /admin/audit                                            . . . . A
GET   /admin/audit/audit.csv                                  . . . . A
POST  /admin/keys/<uuid:key_id>/revoke                        . . . . A person
POST  /api/v1/keys/<uuid:key_id>/revoke                       . . . . A person
POST  /api/v1/notice-targets/<uuid:notice_target_id>/<any(test,remove):action>   . . . . A
DELETE /api/v1/runs/<uuid:run_id>                             R A
POST  /research/runs/<uuid:run_id>/delete                     R A
DELETE /api/v1/datasets/<uuid:dataset_id>                     R A
POST  /research/datasets/<uuid:dataset_id>/delete             R A
POST  /sign-out                                               personal
"""  # noqa: E501

LETTERS = dict(zip("STCRA", Role, strict=True))
NO_BYTES = frozenset({"display"})  # objects that the test's site does not have


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
    def has_id(self) -> bool:
        return "<uuid:" in self.rule

    def paths(self, ids: dict[str, Any]) -> Iterator[str]:
        """Yield the addresses of the objects `ids`, one for each of the rule's words."""
        words = re.search(r"<any\(([^)]*)\):\w+>", self.rule)
        for word in words.group(1).replace("'", "").split(",") if words else [""]:
            if word not in NO_BYTES:
                path = self.rule.replace(words.group(0), word) if words else self.rule
                yield re.sub(r"<(?:\w+(?:\([^)]*\))?:)?(\w+)>", lambda m: str(ids[m.group(1)]), path)


def read_table() -> list[Line]:
    lines = []
    for text in TABLE.strip().splitlines():
        method, rule, *who = text.split()
        may = frozenset(LETTERS[word] for word in who if word in LETTERS)
        if "personal" in who:
            may = frozenset(Role)
        lines.append(Line(method, rule, may, who == ["personal"], who == ["public"], "person" in who))
    return lines


LINES = read_table()


def send(client: Any, line: Line, path: str, headers: dict[str, str]) -> Any:
    return client.open(path, method=line.method, headers=headers)


def test_the_table_names_every_route(site_key: str) -> None:
    app = create_app()
    routes = {
        f"{method} {rule.rule.replace(' ', '')}"
        for rule in app.url_map.iter_rules()
        if rule.endpoint != "static"
        for method in rule.methods - {"HEAD", "OPTIONS"}
    }
    assert routes == {f"{line.method} {line.rule}" for line in LINES}


@pytest.mark.parametrize("role", list(Role))
def test_each_role_sees_what_the_table_says(app: Any, site_key: str, role: Role) -> None:
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
            elif line.method == "GET" and not line.rule.startswith("/api/"):
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

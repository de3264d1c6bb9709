"""The operator's commands for sites, people and keys, on a real database."""

from __future__ import annotations

import re

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import Engine, delete, select

from cli import prepare
from cli.main import main
from cli.operate import operator
from store.accounts import accounts
from store.accounts.accounts import Permission, Role
from store.base.session import session_scope
from store.base.tables import ApiKey, Audit, Bundle, SignInToken, Site, User


def fractureai(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(main, list(arguments))
    assert result.exit_code == code, result.output
    return result


@pytest.fixture
def server(database: Engine) -> None:
    with session_scope() as session:
        session.add(Bundle(name="b1", sha256="0" * 64, manifest={"name": "b1"}, files={}))


def token(result: Result) -> str:
    return re.search(r"token=([\w-]+)", result.output).group(1)


def test_a_site_its_people_and_their_keys(server: None) -> None:
    first = token(fractureai("sites", "add", "North", "--admin", "ada@north.example"))
    with session_scope() as session:
        user = accounts.use_sign_in_token(session, first, "a sentence is easy")
        assert (user.email, user.role) == ("ada@north.example", Role.ADMIN)
        assert session.scalars(select(Site)).one().default_bundle == "b1"
    fractureai("sites", "add", "North", "--admin", "x@north.example", code=4)
    fractureai("people", "invite", "bo@north.example", "--role", "staff", "--name", "Bo")
    fractureai("people", "invite", "bo@north.example", "--role", "staff", code=4)
    fractureai("people", "role", "bo@north.example", "clinician")
    assert "clinician" in fractureai("people").output
    key = fractureai("keys", "add", "PACS", "--for", "bo@north.example", "--scope", "read", "--days", "30")
    with session_scope() as session:
        known = accounts.identify_key(session, key.output.strip())
        assert known.permissions == {Permission.READ}
    listed = fractureai("keys").output
    assert "PACS" in listed
    fractureai("keys", "revoke", re.search(r"[0-9a-f-]{36}", listed).group())
    assert "PACS" not in fractureai("keys").output
    fractureai("people", "disable", "bo@north.example")
    assert "disabled" in fractureai("people").output
    fractureai("people", "enable", "bo@north.example")
    fractureai("people", "disable", "ada@north.example", code=4)  # the last administrator
    with session_scope() as session:
        lines = session.scalars(select(Audit)).all()
        own = {"password_changed"}  # by this test, not by a command
        assert {(line.operator, line.user_id) for line in lines if line.action not in own} == {
            (operator(), None)
        }
    assert token(fractureai("people", "link", "bo@north.example"))


def test_migrate_prints_one_link_once_and_no_key(
    database: Engine, settings_env: pytest.MonkeyPatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "BUNDLES", prepare.ROOT / "none")
    first = fractureai("migrate")
    with session_scope() as session:
        admin = accounts.use_sign_in_token(session, token(first), "a sentence is easy")
        assert admin.role == Role.ADMIN
        session.execute(delete(SignInToken))
    for _ in range(2):
        again = fractureai("migrate").output
        assert "token" not in again
        assert "fractureai people link" in again
    with session_scope() as session:
        assert session.scalars(select(ApiKey)).all() == []
        assert session.scalars(select(SignInToken)).all() == []


def test_where_there_are_several_sites_one_is_named(server: None) -> None:
    for name in ("North", "South"):
        fractureai("sites", "add", name, "--admin", "ada@example.org")
    assert "South" in fractureai("sites").output
    assert "North, South" in fractureai("people", code=2).output
    fractureai("people", "role", "nobody@example.org", "staff", "--site", "South", code=2)
    fractureai("people", "invite", "bo@example.org", "--role", "admin", "--site", "South")
    fractureai("people", "role", "ada@example.org", "staff", "--site", "South")
    with session_scope() as session:
        ada = select(Site.name, User.role).join(User).where(User.email == "ada@example.org")
        roles = {site: role for site, role in session.execute(ada)}
    assert roles == {"North": "admin", "South": "staff"}


def test_a_site_writes_times_in_its_own_zone(server: None) -> None:
    fractureai("sites", "add", "North", "--admin", "ada@north.example")
    assert "North writes times in Europe/Berlin." in fractureai("sites", "time-zone", "Europe/Berlin").output
    assert "no time zone of this name" in fractureai("sites", "time-zone", "Berlin", code=2).output
    with session_scope() as session:
        assert session.query(Site).filter_by(name="North").one().time_zone == "Europe/Berlin"
        (said,) = session.query(Audit).filter_by(action="time_zone_changed").all()
        assert said.detail == {"before": None, "zone": "Europe/Berlin"}
    assert "North writes times in UTC." in fractureai("sites", "time-zone", "none").output


def test_a_site_starts_without_the_attention_map(server: None) -> None:
    fractureai("sites", "add", "North", "--admin", "ada@north.example")
    assert "North starts with the attention map off" in fractureai("sites", "viewer", "--map", "off").output
    with session_scope() as session:
        assert session.query(Site).filter_by(name="North").one().starts_with_map is False
        (said,) = session.query(Audit).filter_by(action="viewer_start_changed").all()
        assert said.detail == {"map": False}

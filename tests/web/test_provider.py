"""Sign-in at an identity provider, against a real one: who comes in, as what, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from flask.testing import FlaskClient
from sqlalchemy import func, select

from settings import SettingsError, get_settings
from store.accounts import accounts
from store.accounts.accounts import Role
from store.base.session import session_scope
from store.base.tables import Audit, Site, User
from tests.web.asking import Asker
from tests.web.provider import CLIENT_ID, CLIENT_SECRET, Code, Provider
from web.factory import create_app

ADA = {"sub": "u-17", "email": "ada@hospital.example", "email_verified": True, "name": "Ada Reader"}


@pytest.fixture
def provider(site_key: str, settings_env: pytest.MonkeyPatch) -> Iterator[Provider]:
    with Provider({**ADA, "groups": ["radiology", "everybody"]}) as provider:
        settings_env.setenv("FRACTUREAI_OIDC_ISSUER", provider.issuer)
        settings_env.setenv("FRACTUREAI_OIDC_CLIENT_ID", CLIENT_ID)
        settings_env.setenv("FRACTUREAI_OIDC_CLIENT_SECRET", CLIENT_SECRET)
        settings_env.setenv("FRACTUREAI_OIDC_ROLE_CLAIM", "groups")
        settings_env.setenv("FRACTUREAI_OIDC_ROLES", "it=admin,radiology=clinician")
        get_settings.cache_clear()
        yield provider


def leave(client: FlaskClient, target: str = "") -> str:
    """Press the button, let the provider sign in; return where it sends the browser, its own part alone."""
    away = client.get("/sign-in/provider", query_string={"next": target})
    assert away.status_code == 302, away.text
    back = httpx.get(away.location, timeout=30)
    assert back.status_code == 302, back.text
    return back.headers["Location"].removeprefix("http://localhost")


def come_back(client: FlaskClient, target: str = "") -> Any:
    return client.get(leave(client, target))


def ada() -> User | None:
    with session_scope() as session:
        return session.scalar(select(User).where(User.email == ADA["email"]))


def test_a_person_of_the_hospital_signs_in_and_has_the_role_of_a_group(provider: Provider) -> None:
    client = create_app().test_client()
    assert "Sign in with Hospital account" in client.get("/sign-in").text
    client.set_cookie("fractureai_session", "planted")
    answer = come_back(client, "/batches/new")
    assert (answer.status_code, answer.location) == (303, "/batches/new")
    assert provider.asked["code_challenge_method"] == "S256"
    assert provider.asked["nonce"]
    assert client.get_cookie("fractureai_session").value != "planted"
    user = ada()
    assert (user.role, user.name, user.password_hash) == (Role.CLINICIAN, "Ada Reader", None)
    assert client.get("/admin/people").status_code == 403
    provider.claims["groups"] = ["it"]  # the hospital changes what she is
    again = create_app().test_client()
    assert come_back(again).status_code == 303
    assert again.get("/admin/people").status_code == 200
    assert ada().id == user.id
    with session_scope() as session:
        actions = list(session.scalars(select(Audit.action).where(Audit.user_id == user.id)))
        assert "person_joined" in actions
        assert actions.count("signed_in") == 2


def test_who_is_in_no_group_or_disabled_stays_out(provider: Provider) -> None:
    client = create_app().test_client()
    provider.claims["groups"] = ["everybody"]
    refused = come_back(client)
    assert refused.status_code == 403
    assert "no access here" in refused.text
    assert ada() is None
    provider.claims["groups"] = "radiology"  # one word instead of a list
    assert come_back(client).status_code == 303
    with session_scope() as session:
        session.scalars(select(User).where(User.email == ADA["email"])).one().disabled_at = func.now()
    assert come_back(create_app().test_client()).status_code == 403


def test_an_invited_person_is_linked_by_a_verified_address_alone(provider: Provider) -> None:
    with session_scope() as session:
        site = session.scalars(select(Site)).one()
        invited = accounts.create_user(session, site.id, "ADA@hospital.example", role=Role.STAFF).id
    provider.claims |= {"email_verified": False, "groups": []}
    assert come_back(create_app().test_client()).status_code == 403
    provider.claims["email_verified"] = True
    assert come_back(create_app().test_client()).status_code == 303
    with session_scope() as session:
        user = session.get_one(User, invited)
        assert user.provider_subject == f"{provider.issuer} u-17"
        assert user.role == Role.STAFF  # no group names a role: the administrator's counts


def test_a_role_of_the_provider_ends_with_its_group(
    provider: Provider, settings_env: pytest.MonkeyPatch
) -> None:
    app = create_app()
    client = app.test_client()
    assert come_back(client).status_code == 303
    with session_scope() as session:
        user = session.scalars(select(User).where(User.email == ADA["email"])).one()
        key = accounts.create_api_key(session, user, "hers")[1]
    ask = Asker(app.test_client(use_cookies=False), key)
    assert ask.get("/worklist").status_code == 200
    with session_scope() as session:  # she stays away: what she was is not known any more
        session.get_one(User, user.id).vouched_at = func.now() - timedelta(days=31)
    assert ask.get("/worklist").status_code == 401
    assert come_back(client).status_code == 303
    assert ask.get("/worklist").status_code == 200
    provider.claims["groups"] = ["everybody"]
    assert come_back(create_app().test_client()).status_code == 403
    assert client.get("/batches").status_code == 302
    assert ask.get("/worklist").status_code == 401
    provider.claims["groups"] = ["radiology"]
    assert come_back(client).status_code == 303
    assert ask.get("/worklist").status_code == 401  # the key does not come back
    assert ada().role == Role.CLINICIAN


def test_an_answer_that_belongs_to_another_browser_is_refused(provider: Provider) -> None:
    app = create_app()
    hers = leave(app.test_client())
    victim = app.test_client()
    assert victim.get(hers).status_code == 403  # no state of its own
    victim.get("/sign-in/provider")
    assert victim.get(hers).status_code == 403  # another state
    assert victim.get_cookie("fractureai_session") is None


def test_an_answer_counts_once_and_only_with_its_nonce_and_verifier(provider: Provider) -> None:
    client = create_app().test_client()
    way = leave(client)
    assert client.get(way).status_code == 303
    assert client.get(way).status_code == 403
    for spoilt in ("nonce", "code_challenge"):
        way = leave(client)
        code = provider.codes[parse_qs(urlsplit(way).query)["code"][0]]
        setattr(code, spoilt, "x" * 43)
        assert client.get(way).status_code == 403, spoilt
    assert client.get("/sign-in/provider/back?error=access_denied&state=x").status_code == 403


def test_a_token_of_another_key_is_refused(provider: Provider) -> None:
    from joserfc.jwk import RSAKey

    client = create_app().test_client()
    assert come_back(client).status_code == 303
    way = leave(client)
    provider.key = RSAKey.generate_key(2048, {"kid": provider.key.kid, "use": "sig", "alg": "RS256"})
    assert client.get(way).status_code == 403


@pytest.mark.parametrize(
    "wrong",
    [{"aud": ["somebody-else"]}, {"iss": "https://login.attacker.example"}, {"exp": 1}, {"nonce": "another"}],
    ids=["audience", "issuer", "time", "nonce"],
)
def test_a_token_for_somebody_else_or_of_another_time_is_refused(
    provider: Provider, wrong: dict[str, Any]
) -> None:
    client = create_app().test_client()
    provider.claims |= wrong
    assert come_back(client).status_code == 403
    assert client.get_cookie("fractureai_session") is None


def test_nothing_of_it_without_the_setting(app: Any) -> None:
    client = app.test_client()
    assert client.get("/sign-in/provider").status_code == 404
    assert client.get("/sign-in/provider/back").status_code == 404
    assert "Hospital account" not in client.get("/sign-in").text


def test_a_provider_that_is_away_and_settings_that_are_wrong(
    provider: Provider, settings_env: pytest.MonkeyPatch
) -> None:
    settings_env.setenv("FRACTUREAI_OIDC_ISSUER", "http://127.0.0.1:9")
    get_settings.cache_clear()
    assert create_app().test_client().get("/sign-in/provider").status_code == 503
    settings_env.setenv("FRACTUREAI_OIDC_ROLES", "it=king")
    get_settings.cache_clear()
    with pytest.raises(SettingsError, match="king"):
        create_app()


def confirm(client: FlaskClient, target: str) -> Any:
    away = client.get("/sign-in/provider/confirm", query_string={"next": target})
    assert away.status_code == 302, away.text
    back = httpx.get(away.location, timeout=30)
    return client.get(back.headers["Location"].removeprefix("http://localhost"))


def test_who_has_no_password_confirms_at_the_provider(provider: Provider) -> None:
    client = create_app().test_client()
    assert client.get("/sign-in/provider/confirm").status_code == 302  # a stranger: to the sign-in page
    assert come_back(client).status_code == 303
    token = client.get_cookie("fractureai_session").value

    def confirmed() -> bool:
        with session_scope() as session:
            return accounts.was_confirmed(session, token, minutes=5)

    assert not confirmed()
    provider.claims["sub"] = "somebody-else"
    assert confirm(client, "/worklist").status_code == 403
    assert not confirmed()
    provider.claims["sub"] = ADA["sub"]
    answer = confirm(client, "/worklist")
    assert (answer.status_code, answer.location) == (303, "/worklist")
    assert (provider.asked["prompt"], provider.asked["max_age"]) == ("login", "0")
    assert confirmed()
    assert client.get_cookie("fractureai_session").value == token
    with session_scope() as session:
        assert not accounts.was_confirmed(session, token, minutes=0)


def test_a_provider_that_did_not_ask_anew_confirms_nothing(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = create_app().test_client()
    assert come_back(client).status_code == 303
    monkeypatch.setattr(Code, "get_auth_time", lambda self: self.auth_time - 3600)
    refused = confirm(client, "/worklist")
    assert refused.status_code == 403
    with session_scope() as session:
        token = client.get_cookie("fractureai_session").value
        assert not accounts.was_confirmed(session, token, minutes=5)

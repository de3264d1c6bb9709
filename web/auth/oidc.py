"""Sign-in at the hospital's own identity provider: OpenID Connect with discovery, PKCE, state and nonce."""

from __future__ import annotations

import hashlib
import hmac
import time
from typing import Any

import requests
from authlib.common.errors import AuthlibBaseError
from authlib.integrations.flask_client import OAuth
from flask import Blueprint, Flask, current_app, redirect, request, session, url_for
from joserfc.errors import JoseError
from werkzeug.wrappers import Response

from settings import Settings, SettingsError
from store.accounts.accounts import Role, record_confirmation, write_audit
from store.accounts.people import NotInvited, OidcClaims, user_from_claims
from store.base.errors import NotFound, ServiceError
from store.base.session import session_scope
from store.base.tables import User
from web.auth.identity import (
    identify,
    is_personal,
    is_public,
)
from web.auth.sign_in import local_address, open_session, signed_in
from web.base import cookies
from web.base.config import current_settings
from web.base.errors import Unauthorized

#: Seconds by which the provider's clock may be behind ours.
CLOCKS_DIFFER = 30

oidc = Blueprint("oidc", __name__, url_prefix="/sign-in/provider")


class ProviderUnavailable(ServiceError):
    """The identity provider does not answer, or not as one."""

    code, status = "provider_unavailable", 503
    title = "The identity provider does not answer."
    advice = "Try again in a minute, or sign in with a password."


class ProviderRefused(ServiceError):
    """The provider's answer does not belong to this browser, is too old, or says no."""

    code, status = "provider_refused", 403
    title = "The identity provider did not confirm who you are."
    advice = "Start again from the sign-in page."


def read_roles(settings: Settings) -> tuple[dict[str, Role], Role | None]:
    """Return which group gives which role, in order, and the role of whom none is named.

    Raises
    ------
    SettingsError
        A role is none of ours, or a pair is malformed.
    """
    try:
        pairs = [pair.rsplit("=", 1) for pair in settings.oidc_roles.split(",") if pair.strip()]
        groups = {group.strip(): Role(role.strip()) for group, role in pairs}
        default = Role(settings.oidc_default_role) if settings.oidc_default_role else None
    except ValueError as error:
        raise SettingsError(f"FRACTUREAI_OIDC_ROLES or _DEFAULT_ROLE: {error}") from None
    return groups, default


def read_claims(claims: dict[str, Any], settings: Settings) -> OidcClaims:
    """Read an identity token's claims."""
    said = claims.get(settings.oidc_role_claim, []) if settings.oidc_role_claim else []
    named = {said} if isinstance(said, str) else {word for word in said if isinstance(word, str)}
    role = next((role for group, role in read_roles(settings)[0].items() if group in named), None)
    return OidcClaims(
        subject=f"{claims['iss']} {claims['sub']}",
        email=str(claims.get("email", "")),
        email_verified=claims.get("email_verified") is True,
        name=str(claims.get("name", ""))[:100],
        role=role,
    )


def _provider() -> Any:
    provider = current_app.extensions.get("oidc_provider")
    if provider is None:
        raise NotFound
    return provider


@oidc.get("")
@is_public
def go() -> Response:
    """Send the browser to the provider; state, nonce and verifier wait in a signed cookie."""
    return _leave()


@oidc.get("/confirm")
@is_personal
def confirm() -> Response:
    """Send somebody who is signed in to the provider, to sign in there anew: before they sign a report.

    Without a provider there is the password, which is set on the account page.
    """
    if "oidc_provider" not in current_app.extensions:
        return redirect(url_for("account.show"))
    return _leave(confirming=int(time.time()), prompt="login", max_age=0)


def _leave(*, confirming: int | None = None, **wanted: object) -> Response:
    provider = _provider()
    settings = current_settings()
    session["confirming"] = confirming
    session["next"] = local_address(request.args.get("next", ""))
    root = settings.public_url.rstrip("/")
    back = root + url_for("oidc.back") if root else url_for("oidc.back", _external=True)
    try:
        answer: Response = provider.authorize_redirect(back, **wanted)
    except (requests.RequestException, AuthlibBaseError, ValueError) as error:
        raise ProviderUnavailable(type(error).__name__) from error
    return answer


@oidc.get("/back")
@is_public
def back() -> Response:
    """Take what the provider says of the browser's person, and sign them in."""
    provider = _provider()
    settings = current_settings()
    try:
        token = provider.authorize_access_token(leeway=60)
    except requests.RequestException as error:
        raise ProviderUnavailable(type(error).__name__) from error
    except (AuthlibBaseError, JoseError, ValueError) as error:
        raise ProviderRefused(type(error).__name__) from error
    if "userinfo" not in token:
        raise ProviderRefused("there is no identity token in the answer")
    target, confirming = session.get("next", ""), session.get("confirming")
    session.clear()
    if confirming is not None:
        return _confirmed(token["userinfo"], confirming, target)
    with session_scope() as database:
        user = user_from_claims(
            database,
            settings.oidc_site,
            read_claims(token["userinfo"], settings),
            read_roles(settings)[1],
        )
        opened = open_session(database, user, "provider") if user else None
    if opened is None:
        raise NotInvited
    return signed_in(opened, local_address(target))


def _confirmed(claims: dict[str, Any], asked_at: int, target: str) -> Response:
    """Record that the signed-in person has confirmed at the provider."""
    known = identify()
    settings = current_settings()
    if known is None or known.csrf_token is None:
        raise Unauthorized
    signed_in_at = claims.get("auth_time")
    if not isinstance(signed_in_at, int) or signed_in_at < asked_at - CLOCKS_DIFFER:
        raise ProviderRefused("the provider did not ask for the password anew")
    with session_scope() as database:
        user = database.get_one(User, known.user_id)
        if user.provider_subject != read_claims(claims, settings).subject:
            raise ProviderRefused("somebody else signed in at the provider")
        record_confirmation(database, cookies.SESSION.sent())
        write_audit(database, user.site_id, user.id, "identity_confirmed", how="provider")
    return redirect(local_address(target), 303)


def register(app: Flask, settings: Settings) -> None:
    """Serve the way to the provider that the settings name, if they name one.

    Raises
    ------
    SettingsError
        The provider's settings are incomplete or malformed.
    """
    app.register_blueprint(oidc)
    if not settings.oidc_issuer:
        return
    settings.require("oidc_client_id", "secret_key")
    read_roles(settings)
    app.secret_key = hmac.new(settings.secret_key.encode(), b"sign-in at a provider", hashlib.sha256).digest()
    app.config.update(
        SESSION_COOKIE_NAME=cookies.PROVIDER.named(over_tls=settings.secure_cookies),
        SESSION_COOKIE_PATH=cookies.PROVIDER.path,
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE=cookies.PROVIDER.same_site,
        SESSION_COOKIE_SECURE=settings.secure_cookies,
    )
    app.extensions["oidc_provider"] = OAuth(app).register(
        "provider",
        server_metadata_url=settings.oidc_issuer.rstrip("/") + "/.well-known/openid-configuration",
        client_id=settings.oidc_client_id,
        client_secret=settings.oidc_client_secret or None,
        client_kwargs={
            "scope": settings.oidc_scope,
            "code_challenge_method": "S256",
            "token_endpoint_auth_method": "client_secret_basic" if settings.oidc_client_secret else "none",
            "timeout": 10,
        },
    )

"""Sign-in at the hospital's own identity provider: OpenID Connect with discovery, PKCE, state and nonce."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

import requests
from authlib.common.errors import AuthlibBaseError
from authlib.integrations.flask_client import OAuth
from flask import Blueprint, Flask, current_app, request, session, url_for
from joserfc.errors import JoseError
from werkzeug.wrappers import Response

from settings import Settings, SettingsError
from store.accounts import Role
from store.errors import NotFound, ServiceError
from store.people import Vouched, find_vouched
from store.session import session_scope
from web.auth import is_public, local_address, open_session, signed_in

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


def vouched_by(claims: dict[str, Any], settings: Settings) -> Vouched:
    """Read an identity token's claims."""
    said = claims.get(settings.oidc_role_claim, []) if settings.oidc_role_claim else []
    named = {said} if isinstance(said, str) else {word for word in said if isinstance(word, str)}
    role = next((role for group, role in read_roles(settings)[0].items() if group in named), None)
    return Vouched(
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
    provider = _provider()
    settings: Settings = current_app.extensions["settings"]
    session["next"] = local_address(request.args.get("next", ""))
    root = settings.public_url.rstrip("/")
    back = root + url_for("oidc.back") if root else url_for("oidc.back", _external=True)
    try:
        answer: Response = provider.authorize_redirect(back)
    except (requests.RequestException, AuthlibBaseError, ValueError) as error:
        raise ProviderUnavailable(type(error).__name__) from error
    return answer


@oidc.get("/back")
@is_public
def back() -> Response:
    """Take what the provider says of the browser's person, and sign them in."""
    provider = _provider()
    settings: Settings = current_app.extensions["settings"]
    try:
        token = provider.authorize_access_token(leeway=60)
    except requests.RequestException as error:
        raise ProviderUnavailable(type(error).__name__) from error
    except (AuthlibBaseError, JoseError, ValueError) as error:
        raise ProviderRefused(type(error).__name__) from error
    if "userinfo" not in token:
        raise ProviderRefused("there is no identity token in the answer")
    target = session.get("next", "")
    session.clear()
    with session_scope() as database:
        user = find_vouched(
            database,
            settings.oidc_site,
            vouched_by(token["userinfo"], settings),
            read_roles(settings)[1],
        )
        opened = open_session(database, user, "provider")
    return signed_in(opened, local_address(target))


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
        SESSION_COOKIE_NAME="fractureai_provider",
        SESSION_COOKIE_PATH="/sign-in/provider",
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Lax",  # the way back is another site's redirect
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

"""Signing in and out: by password, one-time link, and code of an authenticator app."""

from __future__ import annotations

import hmac
import secrets
from ipaddress import ip_address, ip_network
from urllib.parse import urlsplit

from flask import Blueprint, Flask, Response, redirect, render_template, request, url_for
from sqlalchemy.orm import Session
from werkzeug.wrappers import Response as BaseResponse

from store.accounts import accounts, people, second_factor, throttle
from store.base.errors import NotFound
from store.base.session import session_scope
from store.base.tables import User
from web.auth.identity import (
    MAX_FROM_STRANGE_PLACES,
    MAX_PER_ADDRESS,
    MAX_PER_PERSON,
    before_second_factor,
    identify,
    identity,
    is_personal,
    is_public,
)
from web.base import cookies
from web.base.config import current_settings
from web.base.errors import (
    CsrfFailed,
    TooManyAttempts,
)
from web.base.forms import form_on

#: Links by mail in a quarter of an hour, to one address.
MAX_LINKS = 3


auth = Blueprint("auth", __name__)


def local_address(address: str) -> str:
    """Return an address to go to after signing in, only if it lies on this server."""
    parts = urlsplit(address)
    safe = address.startswith("/") and not parts.netloc and not address.startswith(("//", "/\\"))
    printable = all(32 < ord(c) != 127 for c in address)  # a line break would begin another header
    return address if safe and printable and "\\" not in address else url_for("batches.list_batches")


def network_of(address: str) -> str:
    """Return what counts as one place: an IPv4 address, or the /64 that one customer has in IPv6."""
    try:
        known = ip_address(address)
    except ValueError:
        return address
    if known.version == 4:
        return str(known)
    return str(known.ipv4_mapped or ip_network((known, 64), strict=False))


def open_session(session: Session, user: User, how: str) -> str:
    """Sign the asker in: a new session in place of the one that the browser may have had."""
    settings = current_settings()
    accounts.record_sign_in_place(session, user, network_of(request.remote_addr or ""))
    return accounts.open_session(
        session,
        user,
        hours=settings.session_hours,
        how=how,
        agent=request.headers.get("User-Agent", ""),
        replaces=cookies.SESSION.sent(),
    )


def signed_in(token: str, target: str) -> BaseResponse:
    """Answer with the session's cookie and the way to `target`."""
    settings = current_settings()
    response = redirect(target, 303)
    cookies.SESSION.give(response, token, seconds=int(settings.session_hours * 3600))
    cookies.FORM.take_back(response)
    return response


def _sign_in_page(*, token: str = "", error: str = "", status: int = 200) -> Response:
    """Show the form; nobody is signed in yet, so its CSRF token is a cookie's twin."""
    settings = current_settings()
    twin = cookies.FORM.sent() or secrets.token_urlsafe(24)
    with session_scope() as session:
        sets_password = bool(token) and accounts.sets_password(session, token)
        fresh = not token and accounts.is_new_server(session)
    page = render_template(
        "auth/sign_in.html",
        twin=twin,
        token=token,
        sets_password=sets_password,
        fresh=fresh,
        error=error,
        email=request.form.get("email", ""),
        next=request.values.get("next", ""),
        provider=settings.oidc_label if settings.oidc_issuer else "",
        mails_links=settings.mails_links,
    )
    return _with_twin(page, twin, status)


@auth.get("/sign-in")
@is_public
def sign_in() -> BaseResponse:
    """Ask for address and password, or, with a one-time link, for one press of a button.

    The link is used up by the button and not by being looked at: mail scanners look at links.
    """
    if not request.args.get("token"):
        if identify() is not None:
            return redirect(local_address(request.args.get("next", "")))
        if _owes_code() is not None:
            return redirect(url_for("auth.ask_code", next=request.args.get("next", "")))
    return _sign_in_page(token=request.args.get("token", ""))


def _check_twin() -> str:
    """Return the form's CSRF token if it is the cookie's twin. Raises `CsrfFailed`."""
    twin = cookies.FORM.sent()
    if not twin or not hmac.compare_digest(twin.encode(), request.form.get("csrf", "").encode()):
        raise CsrfFailed
    return twin


def _try(email: str) -> list[int]:
    """Count an attempt; return its rows. Raises `TooManyAttempts`."""
    place = network_of(request.remote_addr or "")
    limits = {f"address {place}": MAX_PER_ADDRESS}
    with session_scope() as session:
        if email:
            limits[f"person {email.lower()} from {place}"] = MAX_PER_PERSON
            if not accounts.knows_place(session, email, place):
                limits[f"person {email.lower()}"] = MAX_FROM_STRANGE_PLACES
        attempt = throttle.try_sign_in(session, limits)
        if attempt is None:
            accounts.record_throttled_sign_in(session, email)
    if attempt is None:
        raise TooManyAttempts
    return attempt


@auth.post("/sign-in")
@is_public
@form_on("auth.sign_in")
def sign_in_send() -> BaseResponse:
    """Sign in by password or by a one-time link's token."""
    _check_twin()
    token, email = request.form.get("token", ""), request.form.get("email", "").strip()
    password = request.form.get("password", "")
    attempt = _try(email)
    if token and "again" in request.form and password != request.form["again"]:
        return _sign_in_page(token=token, error="The two passwords differ.", status=422)
    try:
        with session_scope() as session:
            user = (
                accounts.use_sign_in_token(session, token, password)
                if token
                else accounts.check_password(session, email, password)
            )
            opened = open_session(session, user, "link" if token else "password") if user else None
            if user is not None:
                throttle.clear_attempts(session, attempt)
    except accounts.PASSWORD_REFUSED as error:
        return _sign_in_page(token=token, error=f"{error.title} {error.advice}", status=422)
    if opened is None:
        with session_scope() as session:
            accounts.record_refused_sign_in(session, email)
        said = (
            "This link was used already or has run out. Ask for a new one."
            if token
            else "The address or the password is wrong."
        )
        return _sign_in_page(error=said, status=401)
    target = local_address(request.form.get("next", ""))
    if user is not None and user.totp_secret is not None:
        target = url_for("auth.ask_code", next=target)
    return signed_in(opened, target)


def _owes_code() -> User | None:
    """Return who gave the password in this browser and has yet to give a code."""
    with session_scope() as session:
        return accounts.awaiting_code(session, cookies.SESSION.sent())


def _code_page(*, error: str = "", status: int = 200) -> Response:
    twin = cookies.FORM.sent() or secrets.token_urlsafe(24)
    page = render_template("auth/code.html", twin=twin, error=error, next=request.values.get("next", ""))
    return _with_twin(page, twin, status)


@auth.get("/sign-in/code")
@is_public
def ask_code() -> BaseResponse:
    """Ask for a code of the authenticator app, after the password."""
    if _owes_code() is None:
        return redirect(url_for("auth.sign_in", next=request.args.get("next", "")))
    return _code_page()


@auth.post("/sign-in/code")
@is_public
@form_on("auth.ask_code")
def take_code() -> BaseResponse:
    """Finish signing in by a code of the authenticator app, or by a recovery code."""
    _check_twin()
    user = _owes_code()
    if user is None:
        return redirect(url_for("auth.sign_in"), 303)
    with session_scope() as session:
        attempt = throttle.try_sign_in(session, {f"code {user.id}": MAX_PER_PERSON})
        if attempt is None:
            accounts.record_throttled_sign_in(session, user.email)
    if attempt is None:
        raise TooManyAttempts
    with session_scope() as session:
        right = second_factor.check_code(session, user.id, request.form.get("code", ""))
        if right:
            throttle.clear_attempts(session, attempt)
            accounts.pass_second_factor(session, cookies.SESSION.sent())
    if not right:
        return _code_page(error=f"{second_factor.CodeWrong.title}", status=401)
    response = redirect(local_address(request.form.get("next", "")), 303)
    cookies.FORM.take_back(response)
    return response


def _mails_links() -> bool:
    return current_settings().mails_links


def _with_twin(page: str, twin: str, status: int = 200) -> Response:
    """Return a page of somebody who is not signed in: its form's CSRF token is a cookie's twin."""
    response = Response(page, status)
    cookies.FORM.give(response, twin, seconds=3600)
    return response


@auth.get("/sign-in/forgotten")
@is_public
def forgotten() -> BaseResponse:
    """Ask for the address to which a link for a new password goes. Raises `NotFound` where no mail is set."""
    if not _mails_links():
        raise NotFound
    twin = cookies.FORM.sent() or secrets.token_urlsafe(24)
    return _with_twin(render_template("auth/forgotten.html", twin=twin, asked=False), twin)


@auth.post("/sign-in/forgotten")
@is_public
@form_on("auth.forgotten")
def forgotten_send() -> BaseResponse:
    """Have a link mailed, if anybody has the address; the answer is the same if nobody has.

    The mail is made by a worker, so that the answer's time tells nothing either.
    """
    if not _mails_links():
        raise NotFound
    twin = _check_twin()
    email = request.form.get("email", "").strip()
    limits = {
        f"forgotten from {request.remote_addr}": MAX_PER_ADDRESS,
        f"forgotten by {email.lower()}": MAX_LINKS,
    }
    with session_scope() as session:
        if throttle.try_sign_in(session, limits) is None:
            raise TooManyAttempts
        people.forgot_password(session, email)
    return _with_twin(render_template("auth/forgotten.html", twin=twin, asked=True), twin)


@auth.post("/sign-out")
@before_second_factor
@is_personal
def sign_out() -> BaseResponse:
    """End this browser's session."""
    with session_scope() as session:
        accounts.close_session(session, cookies.SESSION.sent())
        accounts.write_audit(session, identity().site_id, identity().user_id, "signed_out")
    response = redirect(url_for("auth.sign_in"), 303)
    cookies.SESSION.take_back(response)
    cookies.KEPT.take_back(response)
    return response


def register(app: Flask) -> None:
    """Serve the sign-in pages."""
    app.register_blueprint(auth)

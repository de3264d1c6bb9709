"""Who asks, by API key or browser session, checked before every request; CSRF; signing in and out."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable
from enum import StrEnum
from ipaddress import ip_address, ip_network
from typing import TypeVar
from urllib.parse import urlsplit

from flask import Blueprint, Flask, Response, current_app, g, redirect, render_template, request, url_for
from sqlalchemy.orm import Session
from werkzeug.wrappers import Response as BaseResponse

from settings import Settings
from store.accounts import accounts, people, second_factor, throttle
from store.accounts.accounts import Identity, Origin, Permission
from store.base.errors import NotFound
from store.base.session import session_scope
from store.base.tables import User
from web.auth import kept_forms
from web.base import cookies
from web.base.errors import (
    ConfirmationFailed,
    ConfirmationNeeded,
    CsrfFailed,
    Forbidden,
    NeedsPerson,
    RequestFailed,
    SecondFactorNeeded,
    TooManyAttempts,
    Unauthorized,
)

#: Failed sign-ins in a quarter of an hour. Many people may sit behind one address.
MAX_PER_ADDRESS, MAX_PER_PERSON = 100, 10
#: For one person from all places where they have not been before: guessing shuts nobody out of their own.
MAX_FROM_STRANGE_PLACES = 50
#: How long a confirmation at the identity provider counts.
CONFIRMED_MINUTES = 5
#: Links by mail in a quarter of an hour, to one address.
MAX_LINKS = 3
#: What somebody unknown may send, as in signing in.
STRANGERS_BODY = 64 << 10
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

auth = Blueprint("auth", __name__)
View = TypeVar("View", bound=Callable[..., object])


def is_public(view: View) -> View:
    """Mark a view that anyone may see."""
    view.is_public = True  # type: ignore[attr-defined]
    return view


def needs(permission: Permission, *, person: bool = False) -> Callable[[View], View]:
    """Mark a view with what one must be allowed to see it.

    Parameters
    ----------
    person
        An API key that may is refused all the same, or for some objects: the view calls `require_person`.
    """

    def mark(view: View) -> View:
        view.needs = permission  # type: ignore[attr-defined]
        view.needs_person = person  # type: ignore[attr-defined]
        return view

    return mark


def is_personal(view: View) -> View:
    """Mark a view for everybody who signed in by browser; an API key could widen its own scope there."""
    view.is_personal = True  # type: ignore[attr-defined]
    return view


def before_second_factor(view: View) -> View:
    """Mark a view that works for somebody who has yet to set the second factor that the site demands."""
    view.before_second_factor = True  # type: ignore[attr-defined]
    return view


def check_allowed(view: Callable[..., object], known: Identity) -> None:
    """Raise `Forbidden` unless `known` may see the view."""
    if getattr(view, "is_personal", False):
        if known.csrf_token is None:
            raise Forbidden("an API key has no account page; sign in")
    elif not known.may(permission := view.needs):  # type: ignore[attr-defined]
        raise Forbidden(f"this needs the permission '{permission}'")


def refuse_unmarked(app: Flask) -> None:
    """Raise `TypeError` when a view says neither `is_public` nor `is_personal` nor what it `needs`."""
    marks = ("is_public", "is_personal", "needs")
    for endpoint, view in app.view_functions.items():
        if endpoint != "static" and sum(hasattr(view, mark) for mark in marks) != 1:
            raise TypeError(f"the view {endpoint!r} needs one of @needs, @is_personal, @is_public")


def identity() -> Identity:
    """Return who asks. Raises `Unauthorized`."""
    known: Identity | None = g.get("identity")
    if known is None:
        raise Unauthorized
    return known


def identify() -> Identity | None:
    """Return whose key or session came with the request, or None."""
    header = request.headers.get("Authorization", "")
    token = cookies.SESSION.sent()
    if header:
        kind, _, key = header.partition(" ")
        if kind.lower() != "bearer" or not key.strip().isascii():
            return None
        with session_scope() as session:
            return accounts.identify_key(session, key.strip())
    if token:
        with session_scope() as session:
            idle_hours = current_app.extensions["settings"].session_idle_hours
            return accounts.identify_session(session, token, idle_hours=idle_hours)
    return None


class Confirmation(StrEnum):
    """How the person who is signed in can confirm that it is still them."""

    PASSWORD = "password"  # noqa: S105 - a way, not a password
    PROVIDER = "provider"
    CONFIRMED = "confirmed"  # at the provider, a moment ago
    IMPOSSIBLE = "impossible"


def confirmation() -> Confirmation:
    """Return how the person who is signed in can confirm that it is still them."""
    token = cookies.SESSION.sent()
    with session_scope() as session:
        user = session.get_one(User, identity().user_id)
        by_browser = identity().csrf_token is not None  # a key is no person
        if by_browser and accounts.was_confirmed(session, token, minutes=CONFIRMED_MINUTES):
            return Confirmation.CONFIRMED
    if user.password_hash is not None and not user.role_from_provider:
        return Confirmation.PASSWORD
    return Confirmation.PROVIDER if by_browser and user.provider_subject else Confirmation.IMPOSSIBLE


def confirm_identity(password: str) -> None:
    """Let only the person who signed in go on; call it before acts such as signing a report.

    They give their password again. Who signs in at an identity provider alone has confirmed there within the
    last minutes: see `web.auth.oidc.confirm`.

    Raises
    ------
    ConfirmationNeeded, ConfirmationFailed, TooManyAttempts
    """
    way = confirmation()
    if way is Confirmation.CONFIRMED:
        return
    if way is not Confirmation.PASSWORD or not password:
        raise ConfirmationNeeded
    known = identity()
    with session_scope() as session:
        attempt = throttle.try_sign_in(session, {f"confirmation {known.user_id}": MAX_PER_PERSON})
    if attempt is None:
        raise TooManyAttempts
    with session_scope() as session:
        right = accounts.is_password(session.get_one(User, known.user_id), password)
        if right:
            throttle.clear_attempts(session, attempt)
        else:
            accounts.write_audit(session, known.site_id, known.user_id, "confirmation_failed")
    if not right:
        raise ConfirmationFailed


def confirm_lately(password: str = "") -> None:
    """Let only the person who signed in change accounts, make keys, or erase.

    A sign-in, or a confirmation on the page for it, of the last minutes counts; otherwise they give their
    password again, as always with an API key.

    Raises
    ------
    ConfirmationNeeded, ConfirmationFailed, TooManyAttempts
    """
    if identity().key_id is None:
        with session_scope() as session:
            token = cookies.SESSION.sent()
            if accounts.was_proved(session, token, minutes=CONFIRMED_MINUTES):
                return
    if not password:
        raise ConfirmationNeeded(_page_of_form())
    confirm_identity(password)


def _page_of_form() -> str:
    """Return the page whose form was sent."""
    pages = {"retention": "retention.show", "admin": "admin.list_people", "account": "account.show"}
    page = pages.get(request.blueprint or "")
    return url_for(page) if page and identity().key_id is None else ""


def require_person() -> None:
    """Let nobody pass who asks by an API key. Raises `NeedsPerson`."""
    if identity().key_id is not None:
        raise NeedsPerson


def check_csrf(sent: str) -> None:
    """Compare the token that a page sent with its session's. Raises `CsrfFailed`."""
    known = identity().csrf_token
    if known is not None and not hmac.compare_digest(known.encode(), sent.encode()):
        raise CsrfFailed


def _protect() -> BaseResponse | None:
    """Set `g.identity`, turn strangers away, and check the token of every form."""
    view = current_app.view_functions.get(request.endpoint or "")
    g.identity = None
    if view is None and not request.path.startswith("/api/"):
        g.identity = identify()  # the page that says so has the person's navigation
    if view is None or request.endpoint == "static":
        return None
    accounts.origin.set(Origin(request.remote_addr))
    if getattr(view, "is_public", False):
        _check_strangers_body()
        return None
    g.identity = identify()
    accounts.origin.set(Origin(request.remote_addr, g.identity.key_id if g.identity else None))
    if g.identity is None:
        if request.path.startswith("/api/"):
            raise Unauthorized
        if request.method not in SAFE_METHODS:
            return _session_over(401)
        return redirect(url_for("auth.sign_in", next=request.full_path.rstrip("?")))
    if g.identity.must_enrol and not getattr(view, "before_second_factor", False):
        if request.path.startswith("/api/") or request.method not in SAFE_METHODS:
            raise SecondFactorNeeded
        return redirect(url_for("account.show_second_factor"))
    check_allowed(view, g.identity)
    if request.method not in SAFE_METHODS and not getattr(view, "checks_csrf", False):
        try:
            check_csrf(request.headers.get("X-CSRF-Token") or _form_token())
        except CsrfFailed:
            if kept_forms.typed_by() != str(g.identity.user_id):
                raise
            return _session_over(403)  # the person signed in anew in another window
    return None


def _session_over(status: int) -> BaseResponse:
    """Answer a form whose session is over: what was typed is kept, or at least shown, for whoever typed it.

    Raises `Unauthorized` for whatever does not come from a page that we showed to somebody.
    """
    owner = kept_forms.typed_by()
    if not owner:
        raise Unauthorized
    sealed = kept_forms.sealed_form(owner)
    fields = [(name, value) for name, value in kept_forms.typed_fields() if value]
    page = render_template("auth/session_over.html", kept=bool(sealed), fields=fields, path=cookies.KEPT.path)
    response = Response(page, status)
    response.headers["Cache-Control"] = "no-store"
    if status == 401:
        response.headers["WWW-Authenticate"] = 'Bearer realm="fractureai"'
    return kept_forms.keep(response, sealed) if sealed else response


def _check_strangers_body() -> None:
    """Refuse a body that was not read before the request got its thread. Raises `RequestFailed`."""
    if request.headers.get("Transfer-Encoding"):
        raise RequestFailed(411)
    if (request.content_length or 0) > STRANGERS_BODY:
        raise RequestFailed(413)


def _form_token() -> str:
    if g.identity.csrf_token is None or request.mimetype != "application/x-www-form-urlencoded":
        return ""
    return request.form.get("csrf", "")


def checks_csrf(view: View) -> View:
    """Mark a view that checks the token itself, since its form is a stream."""
    view.checks_csrf = True  # type: ignore[attr-defined]
    return view


def local_address(address: str) -> str:
    """Return an address to go to after signing in, only if it lies on this server."""
    parts = urlsplit(address)
    safe = address.startswith("/") and not parts.netloc and not address.startswith(("//", "/\\"))
    printable = all(32 < ord(c) != 127 for c in address)  # a line break would begin another header
    return address if safe and printable and "\\" not in address else url_for("pages.list_batches")


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
    settings: Settings = current_app.extensions["settings"]
    accounts.note_place(session, user, network_of(request.remote_addr or ""))
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
    settings: Settings = current_app.extensions["settings"]
    response = redirect(target, 303)
    cookies.SESSION.give(response, token, seconds=int(settings.session_hours * 3600))
    cookies.FORM.take_back(response)
    return response


def _sign_in_page(*, token: str = "", error: str = "", status: int = 200) -> Response:
    """Show the form; nobody is signed in yet, so its CSRF token is a cookie's twin."""
    settings: Settings = current_app.extensions["settings"]
    twin = cookies.FORM.sent() or secrets.token_urlsafe(24)
    with session_scope() as session:
        sets_password = bool(token) and accounts.sets_password(session, token)
    page = render_template(
        "auth/sign_in.html",
        twin=twin,
        token=token,
        sets_password=sets_password,
        error=error,
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
            accounts.note_throttled(session, email)
    if attempt is None:
        raise TooManyAttempts
    return attempt


@auth.post("/sign-in")
@is_public
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
            accounts.note_refused(session, email)
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
def take_code() -> BaseResponse:
    """Finish signing in by a code of the authenticator app, or by a recovery code."""
    _check_twin()
    user = _owes_code()
    if user is None:
        return redirect(url_for("auth.sign_in"), 303)
    with session_scope() as session:
        attempt = throttle.try_sign_in(session, {f"code {user.id}": MAX_PER_PERSON})
        if attempt is None:
            accounts.note_throttled(session, user.email)
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
    settings: Settings = current_app.extensions["settings"]
    return settings.mails_links


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
    """Check every request of the application, and serve the sign-in pages."""
    app.before_request(_protect)
    app.register_blueprint(auth)

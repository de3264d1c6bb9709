"""Who asks, by API key or browser session, checked before every request; CSRF; signing in and out."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import TypeVar

from flask import Flask, Response, current_app, g, redirect, render_template, request, url_for
from sqlalchemy.orm import Session
from werkzeug.wrappers import Response as BaseResponse

from store.accounts import accounts, throttle
from store.accounts.accounts import Identity, Origin, Permission
from store.base.session import session_scope, statement_scope
from store.base.tables import User
from web.auth import kept_forms
from web.base import cookies
from web.base.config import current_settings
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
    is_api_request,
)
from web.base.together import Gathered

#: Failed sign-ins in a quarter of an hour. Many people may sit behind one address.
MAX_PER_ADDRESS, MAX_PER_PERSON = 100, 10
#: For one person from all places where they have not been before: guessing shuts nobody out of their own.
MAX_FROM_STRANGE_PLACES = 50
#: How long a confirmation at the identity provider counts.
CONFIRMED_MINUTES = 5
#: What somebody unknown may send, as in signing in.
STRANGERS_BODY = 64 << 10
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

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
        with statement_scope() as session:
            return accounts.identify_key(session, key.strip())
    if token:
        with statement_scope() as session:
            idle_hours = current_settings().session_idle_hours
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
    """Refuse requests by API key. Raises `NeedsPerson`."""
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
    if view is None and not is_api_request():
        g.identity = identify()  # the page that says so has the person's navigation
    if view is None or request.endpoint == "static":
        return None
    accounts.origin.set(Origin(request.remote_addr))
    if getattr(view, "is_public", False):
        _check_unauthenticated_body()
        return None
    g.identity = identify()
    accounts.origin.set(Origin(request.remote_addr, g.identity.key_id if g.identity else None))
    if g.identity is None:
        if is_api_request():
            raise Unauthorized
        if request.method not in SAFE_METHODS:
            return _session_over(401)
        return redirect(url_for("auth.sign_in", next=request.full_path.rstrip("?")))
    if g.identity.must_enrol and not getattr(view, "before_second_factor", False):
        if is_api_request() or request.method not in SAFE_METHODS:
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


def _check_unauthenticated_body() -> None:
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


def audit(session: Session, action: str, object_id: object) -> None:
    """Audit the request's action; repeated views within minutes are one line, see `note_view`."""
    if action.endswith("_viewed"):
        return note_view(action, object_id)
    accounts.write_audit(session, identity().site_id, identity().user_id, action, object_id)


def note_view(action: str, object_id: object) -> None:
    """Audit that the one who asks sees something: when the view has succeeded, before its answer is sent."""
    known = identity()
    seen = accounts.View(known.site_id, known.user_id, action, str(object_id), accounts.origin.get())
    g.setdefault("views", []).append(seen)


def _write_views(views: Sequence[accounts.View]) -> None:
    with statement_scope() as session:
        accounts.write_views(session, views)


#: Each line of the audit is chained to the one before, so transactions that write it commit one after the
#: other, each waiting for the disk: people who see something at the same time are noted in one.
_views: Gathered[accounts.View] = Gathered(_write_views)


def note_views(app: Flask) -> None:
    """Have what an answer shows noted before it is sent; whoever cannot be noted is shown nothing."""

    @app.after_request
    def note(response: Response) -> Response:
        views: list[accounts.View] = g.pop("views", [])
        if views and response.status_code < 400:
            try:
                _views.write(views)
            except Exception as error:
                response.close()
                return app.make_response(app.handle_user_exception(error))
        return response


def register(app: Flask) -> None:
    """Check every request of the application."""
    app.before_request(_protect)

"""The errors that the web itself raises, and how any error is told: problem+json (RFC 9457) or a page."""

from __future__ import annotations

import json
import logging

import sqlalchemy.exc
from flask import Flask, Response, current_app, g, render_template, request
from werkzeug.exceptions import HTTPException, SecurityError

from store.base.blobs import is_full
from store.base.errors import BlobFull, ServiceError
from store.base.session import is_disk_full
from store.base.throttled_log import log_throttled
from web.contract.base import LineError, MemberError, Problem


class Invalid(ServiceError):
    """The request does not say what the API understands.

    Attributes
    ----------
    errors
        Pairs of a member or parameter and what is wrong with it.
    """

    status = 422
    advice = "Compare it with the API's description at /api/v1/docs."

    def __init__(self, wrong: str | list[tuple[str, str]] = "") -> None:
        self.errors = [] if isinstance(wrong, str) else wrong
        told = "; ".join(f"{member}: {what}" if member else what for member, what in self.errors)
        super().__init__(wrong if isinstance(wrong, str) else told)


class InvalidRequest(Invalid):
    """The body does not say what the API understands."""

    code = "invalid_request"
    title = "The request's body is not one that this address takes."


class InvalidQuery(Invalid):
    """The query string does not say what the API understands."""

    code = "invalid_query"
    title = "The query holds a parameter or a value that this address does not take."


class ManifestInvalid(ServiceError):
    """The manifest has lines that cannot be used; `errors` names each.

    Attributes
    ----------
    errors
        Pairs of line number (the header is line 1) and what is wrong with it.
    """

    code, status = "manifest_invalid", 422
    title = "The manifest has lines that cannot be used."
    advice = "Correct these lines and send the manifest again; files that were sent before are kept."

    def __init__(self, errors: list[tuple[int, str]]) -> None:
        super().__init__("; ".join(f"line {line}: {what}" for line, what in errors))
        self.errors = errors


class PrefixUnsupported(ServiceError):
    """A proxy serves the application below a path."""

    code, status = "prefix_unsupported", 400
    title = "This service has to be served at the root of a host name, not below a path."
    advice = "Give it a host name of its own in the proxy, and send no X-Forwarded-Prefix."


class Unauthorized(ServiceError):
    """Nobody is signed in, or the key is not valid."""

    code, status = "unauthorized", 401
    title = "This needs a valid API key or a signed-in session."
    advice = "Send 'Authorization: Bearer KEY', or sign in."


class Forbidden(ServiceError):
    """The one who asks is known, and may not."""

    code, status = "forbidden", 403
    title = "Your role, or the scope of your key, does not allow this."
    advice = "Ask an administrator of your site for another role or key."


class NeedsPerson(ServiceError):
    """An API key would do what only somebody who signed in may."""

    code, status = "needs_person", 403
    title = "An API key cannot do this: it would gain more than its scope."
    advice = "Sign in as an administrator and do it on the page, or let the operator run `fractureai people`."


class CsrfFailed(ServiceError):
    """A form without the session's token: sent by another site, or after the session changed."""

    code, status = "csrf_failed", 403
    title = "The form does not belong to this session."
    advice = "Load the page again and repeat."


class SessionWasOver(ServiceError):
    """A form was sent after its session had run out; it is shown again."""

    code, status = "session_was_over", 401
    title = "Your session had run out when you sent this: nothing was done."
    advice = "Look through it and send it again."


class NothingKept(ServiceError):
    """There is no form that was sent after its session had run out, or it was somebody else's."""

    code, status = "nothing_kept", 410
    title = "Nothing that you typed is kept here."
    advice = "What is sent after a session has run out is kept for half an hour, for the person who typed it."


class ConfirmationNeeded(ServiceError):
    """A sensitive act, such as signing a report, by somebody who has not confirmed anew who they are."""

    code, status = "confirmation_needed", 403
    title = "Confirm that it is you: nothing was done yet."
    advice = (
        "Give your password again, or confirm at your hospital's identity provider. "
        "Who has neither asks for a new sign-in link."
    )

    def __init__(self, back: str = "") -> None:
        super().__init__()
        self.back = back  # the page from which it is tried again


class ConfirmationFailed(ServiceError):
    """A sensitive act with a wrong password."""

    code, status = "confirmation_failed", 403
    title = "The password is wrong: nothing was done."
    advice = "Type it again."


class SecondFactorNeeded(ServiceError):
    """The site demands a second factor, and the person has set none."""

    code, status = "second_factor_needed", 403
    title = "Your site demands a second factor of your role."
    advice = "Set it on your account page: it takes an authenticator app, and a minute."


class TooManyAttempts(ServiceError):
    """Too many failed sign-ins from one place or for one person."""

    code, status = "too_many_attempts", 429
    title = "Too many failed attempts."
    advice = "Wait a quarter of an hour, then try again."


class UnsupportedMediaType(ServiceError):
    """The body is of a kind that the address does not take."""

    code, status = "unsupported_media_type", 415
    title = "The body is of a kind that this address does not take."
    advice = "Send JSON as application/json, and files as multipart/form-data."


class MalformedForm(ServiceError):
    """The multipart body breaks off or is not one."""

    code, status = "malformed_form", 400
    title = "The form data cannot be read; the connection may have broken off."
    advice = "Send the files again; those that arrived whole are kept."


class DatabaseUnavailable(ServiceError):
    """Postgres does not answer."""

    code, status = "database_unavailable", 503
    title = "The database does not answer."
    advice = "Try again in a minute; nothing that was accepted is lost."


class InternalError(ServiceError):
    """A defect of ours."""


class RequestFailed(ServiceError):
    """What HTTP itself refuses: unknown address, wrong method, too large a body."""

    def __init__(self, status: int) -> None:
        self.status = status
        self.code, self.title, self.advice = HTTP_ERRORS.get(
            status, (f"http_{status}", f"The request was refused with the status {status}.", _COMPARE)
        )
        super().__init__()


_COMPARE = "Compare the request with the API's description at /api/v1/docs."

#: Of each status that HTTP itself gives: code, title, advice. The codes are ours and stay as they are: the
#: names in Python's own table change from version to version.
HTTP_ERRORS = {
    400: ("bad_request", "The request cannot be understood.", _COMPARE),
    404: (
        "not_found",
        "There is nothing at this address.",
        "Check the address and the id; objects of other sites are not shown.",
    ),
    405: (
        "method_not_allowed",
        "This address does not take that method.",
        "See which methods it takes in the 'Allow' header.",
    ),
    406: ("not_acceptable", "There is no answer of the kind that was asked for.", _COMPARE),
    408: ("request_timeout", "The request did not arrive in time.", "Send it again."),
    411: (
        "length_required",
        "The body's length must be known before it is sent.",
        "Send a Content-Length header; only signed-in users may send bodies of unknown length.",
    ),
    412: ("precondition_failed", "It has changed since it was read.", "Read it again."),
    413: (
        "request_entity_too_large",
        "The request is larger than this server accepts.",
        "Send the files in several smaller requests, or ask the operator to raise the limit.",
    ),
    414: ("request_uri_too_long", "The address is too long.", _COMPARE),
    415: ("unsupported_media_type", UnsupportedMediaType.title, UnsupportedMediaType.advice),
    416: (
        "requested_range_not_satisfiable",
        "There are no bytes in the range that was asked for.",
        "Ask for the whole again.",
    ),
    417: ("expectation_failed", "What the request expects of the server cannot be met.", _COMPARE),
    422: ("unprocessable_entity", "The request cannot be used.", _COMPARE),
    428: ("precondition_required", "The request must say which version it is about.", _COMPARE),
    429: ("too_many_requests", "Too many requests.", "Wait as long as Retry-After says, then go on."),
    431: ("request_header_fields_too_large", "The request's headers are too large.", "Send fewer of them."),
    501: ("not_implemented", "This server does not know that method.", _COMPARE),
    503: ("service_unavailable", "The service cannot answer now.", "Try again in a minute."),
}

_DATABASE_GONE = (sqlalchemy.exc.OperationalError, sqlalchemy.exc.InterfaceError, sqlalchemy.exc.TimeoutError)


def problem(error: ServiceError) -> Problem:
    """Return the error as an RFC 9457 problem."""
    errors: list[LineError | MemberError] = []
    if isinstance(error, ManifestInvalid):
        errors = [LineError(line=line, message=what) for line, what in error.errors]
    elif isinstance(error, Invalid):
        errors = [MemberError(member=member, message=what) for member, what in error.errors]
    return Problem(
        type=f"/api/v1/docs#error-{error.code}",
        title=error.title,
        status=error.status,
        detail=error.detail or error.title,
        code=error.code,
        advice=error.advice,
        errors=errors or None,
    )


#: Where programs ask: a page is no answer for them.
_PROGRAMS = ("/api/", "/dicom-web/", "/fhir/")


def is_api_request() -> bool:
    """Tell whether a request is for the API, whose callers are not redirected to the sign-in page."""
    return request.path.startswith(_PROGRAMS)


#: By status, what kind of issue FHIR calls it (http://hl7.org/fhir/R4/valueset-issue-type.html).
_ISSUES = {401: "login", 403: "forbidden", 404: "not-found", 429: "throttled", 503: "transient"}


def _outcome(error: ServiceError) -> Response:
    """Return the error as FHIR's OperationOutcome."""
    kind = _ISSUES.get(error.status, "invalid" if error.status < 500 else "exception")
    issue = {
        "severity": "error",
        "code": kind,
        "details": {"text": error.title},
        "diagnostics": error.detail or error.advice or error.title,
    }
    told = json.dumps({"resourceType": "OperationOutcome", "issue": [issue]})
    return Response(told, error.status, content_type="application/fhir+json")


def respond(error: ServiceError) -> Response:
    """Tell the error in the way of the address that was asked: JSON where programs ask, else a page."""
    if request.path.startswith("/fhir/"):
        response = _outcome(error)
    elif is_api_request():
        told = problem(error).model_dump_json(exclude_none=True)
        response = Response(told, error.status, content_type="application/problem+json")
    else:
        response = Response(render_template("error.html", error=error), error.status)
    return with_headers(response, error)


def with_headers(response: Response, error: ServiceError) -> Response:
    """Add what an error's status wants said in the head of its answer, page or document."""
    response.headers["Cache-Control"] = "no-store"
    if error.status == 401:
        response.headers["WWW-Authenticate"] = 'Bearer realm="fractureai"'
    if error.status in {429, 503}:
        response.headers["Retry-After"] = "900" if error.status == 429 else "10"
    return response


def register(app: Flask) -> None:
    """Make every error of the application end in `respond`."""

    @app.errorhandler(ServiceError)
    def service_error(error: ServiceError) -> Response:
        if error.status in {503, 507}:  # it lasts, and every request meets it
            log_throttled(
                current_app.logger,
                logging.ERROR,
                error.code,
                "%s: %s",
                error.code,
                error.detail or error.title,
            )
        elif error.status >= 500:
            current_app.logger.error("%s: %s", error.code, error.detail)
        elif error.status in {401, 403, 429}:
            known = g.get("identity")
            log_throttled(
                current_app.logger,
                logging.WARNING,
                f"{error.code} {known.user_id if known else ''}",  # strangers' addresses have no end
                "refused (%s): %s %s, asked from %s by %s",
                error.code,
                request.method,
                request.url_rule,
                request.remote_addr,
                known.user_id if known else "nobody",
            )
        return respond(error)

    @app.errorhandler(HTTPException)
    def http_error(error: HTTPException) -> Response:
        if error.code is None or error.code < 400:
            return error.get_response()  # type: ignore[return-value]
        if isinstance(error, SecurityError):  # a host that is not ours: no page can be made for it
            return Response("Unknown host.\n", 400, content_type="text/plain")
        response = respond(RequestFailed(error.code))
        for name, value in error.get_headers():
            if name == "Allow":
                response.headers[name] = value
        return response

    @app.errorhandler(sqlalchemy.exc.SQLAlchemyError)
    def database_error(error: sqlalchemy.exc.SQLAlchemyError) -> Response:
        gone = isinstance(error, _DATABASE_GONE)
        kind = type(getattr(error, "orig", None) or error).__name__
        # the error's own text may quote a row: only its kind is logged
        log_throttled(current_app.logger, logging.ERROR, f"database {kind}", "database: %s", kind)
        return respond(
            BlobFull() if is_disk_full(error) else DatabaseUnavailable() if gone else InternalError()
        )

    @app.errorhandler(OSError)
    def no_room(error: OSError) -> Response:
        return service_error(BlobFull()) if is_full(error) else unexpected(error)

    @app.errorhandler(Exception)
    def unexpected(error: Exception) -> Response:
        current_app.logger.exception("%s on %s", type(error).__name__, request.url_rule)
        return respond(InternalError())

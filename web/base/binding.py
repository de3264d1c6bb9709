"""Binds a route to its models: what it takes is parsed by them, what it answers is made of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, TypeVar

from flask import Response, current_app, request
from pydantic import ValidationError
from werkzeug.wrappers import Response as BaseResponse

from web.base.errors import InvalidQuery, InvalidRequest
from web.base.request_args import json_text
from web.contract.base import Body, Document, Query

Json = dict[str, Any]
View = Callable[..., Any]
B = TypeVar("B", bound=Body)
Q = TypeVar("Q", bound=Query)

TEXT: Json = {"type": "string"}
BYTES: Json = {"type": "string", "format": "binary"}


@dataclass(frozen=True)
class Reply:
    """What one status means: a document, or bytes of one of some media types, or nothing."""

    said: str
    content: type[Document] | tuple[str, ...] = ()
    headers: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True)
class Content:
    """A body that is no JSON object: its media type and its schema."""

    media_type: str
    schema: Json


@dataclass(frozen=True)
class Operation:
    """What a method at an address does.

    Attributes
    ----------
    name
        The operation's id, by which generated clients call it.
    query, body
        What it takes; without `query` no parameter, without `body` no member.
    headers
        Of the request, with what each says.
    answers
        By status; the first is what a document is answered with. Every operation may answer a `Problem`.
    """

    tag: str
    name: str
    summary: str
    query: type[Query] | None = None
    body: type[Body] | Content | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    answers: Mapping[int, Reply] = field(default_factory=dict)


ETAG: Mapping[str, Json] = {"ETag": {"schema": TEXT}}
LOCATION: Mapping[str, Json] = {"Location": {"schema": {"type": "string", "format": "uri-reference"}}}
PACE: Mapping[str, Json] = {
    "X-Poll-Interval": {
        "schema": {"type": "number"},
        "description": "Seconds after which to ask again; more when many watch.",
    }
}
IF_NONE_MATCH = {"If-None-Match": "An earlier answer's ETag; 304 when nothing changed."}
DONE: Mapping[int, Reply] = {204: Reply("Done.")}


def operation(
    tag: str,
    name: str,
    summary: str | Mapping[str, str],
    answers: Mapping[int, Reply],
    *,
    when: str = "",
    **more: Any,
) -> Callable[[View], View]:
    """Describe a route of the API, and have its requests parsed and its answers made by the models named.

    The view may return a `Document`, which is sent with the first of `answers`, nothing for 204, or a
    response of its own making. It gets the parsed query as `query`, and asks for the body by `read_body` once
    it knows that what is named in the address is there.

    Parameters
    ----------
    name
        With ``{}`` where the word of the address goes.
    summary
        One for each word, where the address has several: ``<any(pause,resume):action>``.
    when
        The word of the address for which this holds; such descriptions are stacked.
    more
        Other attributes of `Operation`.
    """
    told = summary if isinstance(summary, Mapping) else {when: summary}

    def bind(view: View) -> View:
        found: dict[str, Operation] = getattr(view, "operations", {})
        for word, said in told.items():
            found[word] = Operation(tag, name.format(word.replace("-", "")), said, answers=answers, **more)
        if hasattr(view, "operations"):
            return view

        @wraps(view)
        def bound(**named: Any) -> BaseResponse:
            described = found[word_of(found, named)]
            if request.method in {"GET", "HEAD"}:
                query = read_query(described.query or Query)
                named |= {"query": query} if described.query else {}
            elif described.body is None:
                _parse_body(Body)
            answered = view(**named)
            if isinstance(answered, Document):
                return send(answered, next(iter(described.answers)))
            return Response(status=204) if answered is None else answered

        bound.operations = found  # type: ignore[attr-defined]
        return bound

    return bind


def word_of(found: Mapping[str, Operation], named: Mapping[str, Any]) -> str:
    """Return by which of an address's words its operation is found; empty where there is one."""
    return next((value for value in named.values() if value in found), "")


def send(document: Document, status: int = 200, **headers: str) -> Response:
    """Answer with a document."""
    response = Response(document.model_dump_json(), status, content_type="application/json")
    for name, value in headers.items():
        response.headers[name.replace("_", "-")] = value
    return response


def _wrong(error: ValidationError) -> list[tuple[str, str]]:
    """Return what is wrong with which member: never what was sent, which may be a patient's or a password."""
    return [
        (
            ".".join(str(part) for part in line["loc"])[:100],
            "is not known at this address"
            if line["type"] == "extra_forbidden"
            else line["msg"].removeprefix("Value error, "),
        )
        for line in error.errors(include_url=False, include_input=False, include_context=False)
    ]


def parse_query(model: type[Q], asked: Mapping[str, str]) -> Q:
    """Return an address's parameters. Raises `InvalidQuery`."""
    try:
        return model.model_validate(dict(asked.items()))
    except ValidationError as error:
        raise InvalidQuery(_wrong(error)) from None


def read_query(model: type[Q]) -> Q:
    """Return the parameters of the request's address. Raises `InvalidQuery`."""
    if twice := [name for name, values in request.args.lists() if len(values) > 1]:
        raise InvalidQuery([(twice[0][:100], "comes more than once")])
    return parse_query(model, request.args)


def _parse_body(model: type[B]) -> B:
    try:
        return model.model_validate_json(json_text(), strict=True)
    except ValidationError as error:
        raise InvalidRequest(_wrong(error)) from None


def read_body(model: type[B]) -> B:
    """Return the request's JSON object, of a model that its route names.

    Raises
    ------
    InvalidRequest, UnsupportedMediaType
    """
    view = current_app.view_functions[request.endpoint or ""]
    if model not in {described.body for described in view.operations.values()}:  # type: ignore[attr-defined]
        raise TypeError(f"{request.endpoint} does not say that it takes a {model.__name__}")
    return _parse_body(model)


def parse_form(model: type[B], fields: Mapping[str, Any]) -> B:
    """Return what those fields of a page's form say that the model has. Raises `InvalidRequest`."""
    try:
        return model.model_validate({name: fields[name] for name in model.model_fields if name in fields})
    except ValidationError as error:
        raise InvalidRequest(_wrong(error)) from None

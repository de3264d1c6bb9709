"""The description of the API (OpenAPI 3.1), read from its routes and their models."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from flask import Flask

from settings import VERSION
from store.base.errors import ServiceError
from web.base import errors as web_errors
from web.base.binding import Json
from web.base.publishing import paths, schemas


def _kinds(kind: type[ServiceError] = ServiceError) -> Iterator[type[ServiceError]]:
    yield kind
    for narrower in kind.__subclasses__():
        yield from _kinds(narrower)


def error_codes() -> list[tuple[str, int, str, str]]:
    """Return every error of the service: code, HTTP status, sentence, advice."""
    kinds = [kind for kind in _kinds() if "code" in vars(kind)]
    found = {kind.code: (kind.code, kind.status, kind.title, kind.advice) for kind in kinds}
    for status, (code, title, advice) in web_errors.HTTP_ERRORS.items():
        found.setdefault(code, (code, status, title, advice))
    return sorted(found.values(), key=lambda line: (line[1], line[0]))


@cache
def document() -> Json:
    """Return the description of the API, as its routes and their models say it."""
    from web.factory import API_BLUEPRINTS  # this module serves one of them

    routes = Flask("web.contract", static_folder=None)
    for blueprint in API_BLUEPRINTS:
        routes.register_blueprint(blueprint)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "FractureAI",
            "version": VERSION,
            "description": "Send X-rays of bones in batches; take away findings, attention maps and reports. "
            "AI output, to be verified by a clinician. Not a medical device.",
        },
        "servers": [{"url": "/api/v1"}],
        "security": [{"apiKey": []}, {"session": []}],
        "paths": paths(routes),
        "components": {
            "schemas": schemas(routes),
            "securitySchemes": {
                "apiKey": {"type": "http", "scheme": "bearer", "description": "A key that begins with fai_."},
                "session": {
                    "type": "apiKey",
                    "in": "cookie",
                    "name": "fractureai_session",
                    "description": "A signed-in browser; over TLS the name begins with __Host-. What changes"
                    " something needs X-CSRF-Token too.",
                },
            },
        },
        "x-error-codes": [
            {"code": code, "status": status, "title": title, "advice": advice}
            for code, status, title, advice in error_codes()
        ],
    }

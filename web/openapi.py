"""The description of the API (OpenAPI 3.1), read from its routes and their models."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from flask import Blueprint, Flask, Response, g, jsonify, render_template

from settings import VERSION
from store.base.errors import ServiceError
from web.accounts.api import api as accounts_api
from web.auth.identity import identify, is_public
from web.base import errors as web_errors
from web.base.binding import Json, Reply, operation
from web.base.publishing import paths, schemas
from web.bundles.api import api as bundles_api
from web.contract.base import API
from web.intake.api import api as batches_api
from web.intake.resumable import resumable
from web.operations.api import api as operations_api
from web.reading import images, reviews, studies, worklist
from web.research.api import api as research_api
from web.results import exports

description = Blueprint("description", __name__, url_prefix=API)

#: What holds addresses of the API.
API_BLUEPRINTS = (
    batches_api,
    images.area,
    worklist.area,
    studies.area,
    reviews.area,
    exports.downloads,
    resumable,
    research_api,
    bundles_api,
    accounts_api,
    operations_api,
    description,
)


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


@description.get("/openapi.json")
@operation(
    "This description", "openapi", "This document", {200: Reply("OpenAPI 3.1.", ("application/json",))}
)
@is_public
def openapi() -> Response:
    """Answer the description of this API (OpenAPI 3.1)."""
    return jsonify(document())


@description.get("/docs")
@operation("This description", "docs", "This document as a page", {200: Reply("HTML.", ("text/html",))})
@is_public
def docs() -> str:
    """Show the description of this API as a page."""
    g.identity = identify()
    return render_template("docs.html", api=document())

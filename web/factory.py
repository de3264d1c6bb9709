"""Makes the web application: ``gunicorn 'web.factory:create_app()'``."""

from __future__ import annotations

import hashlib
from pathlib import Path

from flask import Flask, Response, request, url_for
from werkzeug.middleware.proxy_fix import ProxyFix

from settings import Settings, get_settings, start_log
from web.accounts.account import account
from web.accounts.people import admin
from web.auth import identity, oidc, sign_in
from web.base import errors, filters, pacing, request_args
from web.bundles import pages as bundle_pages
from web.intake import pages as batch_pages
from web.intake.dicomweb import dicomweb
from web.intake.resumable import MethodOverride
from web.openapi import API_BLUEPRINTS
from web.operations.audit import audit_pages
from web.operations.health import health
from web.operations.monitoring import monitoring_pages
from web.operations.notices import notice_pages
from web.operations.overview import overview
from web.operations.retention import retention_pages
from web.operations.site import site_pages
from web.reading.viewer import viewer
from web.research import pages as research_pages
from web.results.deliveries import delivery_pages
from web.results.fhir import fhir_api

#: What holds pages, and addresses that the description of the API does not tell of.
BLUEPRINTS = (
    dicomweb,
    health,
    batch_pages.pages,
    bundle_pages.pages,
    viewer,
    account,
    admin,
    audit_pages,
    monitoring_pages,
    overview,
    notice_pages,
    delivery_pages,
    fhir_api,
    retention_pages,
    site_pages,
)

#: A body without files; requests with files have a limit of their own.
MAX_BODY = 1 << 20

_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
    )
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


def _static_hash(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest.update(path.read_bytes())
    return digest.hexdigest()[:10]


def create_app(settings: Settings | None = None) -> Flask:
    """Return the application.

    Raises
    ------
    SettingsError
        An address of the database, the broker or the blob store is missing.
    """
    settings = settings or get_settings().require("secret_key")
    settings.require("database_url", "broker_url", "blob_url")
    start_log(settings, replace=False)
    app = Flask("web")
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY
    app.config["TRUSTED_HOSTS"] = [name for name in settings.trusted_hosts.split(",") if name] or None
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    app.url_map.strict_slashes = False
    app.extensions["settings"] = settings
    app.wsgi_app = MethodOverride(app.wsgi_app)  # type: ignore[method-assign]
    if settings.trusted_proxies:
        n = settings.trusted_proxies
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=n, x_proto=n, x_host=n)  # type: ignore[method-assign]

    version = _static_hash(Path(app.static_folder or ""))
    app.jinja_env.globals["asset"] = lambda name: url_for("static", filename=name, v=version)

    identity.register(app)
    request_args.register(app)
    errors.register(app)
    filters.register(app)
    for blueprint in (*API_BLUEPRINTS, *BLUEPRINTS):
        app.register_blueprint(blueprint)
    sign_in.register(app)
    oidc.register(app, settings)
    research_pages.register(app)
    pacing.register(app)
    identity.refuse_unmarked(app)

    @app.after_request
    def harden(response: Response) -> Response:
        for name, value in _HEADERS.items():
            response.headers.setdefault(name, value)
        if settings.secure_cookies:
            response.headers["Strict-Transport-Security"] = "max-age=31536000"
        if request.endpoint == "static":
            if request.args.get("v") == version:
                response.headers["Cache-Control"] = "public, max-age=31536000, immutable"
        elif "Cache-Control" not in response.headers:
            response.headers["Cache-Control"] = "no-store"  # pictures and reports are patients'
        return response

    identity.note_views(app)  # last, so that it comes first: its own answer gets the headers too
    return app

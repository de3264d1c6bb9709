"""FHIR R4 to read: DiagnosticReport, Observation and Device (``/fhir``), with an API key or a session."""

from __future__ import annotations

import json
import re
import uuid
from datetime import UTC, datetime
from typing import Annotated, Any
from urllib.parse import urlencode

from flask import Blueprint, current_app, request
from pydantic import Field
from werkzeug.wrappers import Response

from settings import Settings
from store.accounts.accounts import Permission
from store.base.session import session_scope
from store.results import fhir, fhir_resources
from web.auth.identity import audit, identity, needs
from web.base.binding import read_query
from web.base.errors import InvalidQuery
from web.contract.base import Query

fhir_api = Blueprint("fhir", __name__, url_prefix="/fhir")

MEDIA_TYPE = "application/fhir+json"


class ReportSearch(Query):
    """How DiagnosticReports are searched."""

    identifier: str | None = Field(None, max_length=200)
    last_updated: str | None = Field(None, alias="_lastUpdated", max_length=40)
    count: Annotated[int, Field(ge=1, le=200)] = Field(50, alias="_count")
    cursor: str | None = Field(None, max_length=400)
    format: str | None = Field(None, alias="_format", max_length=40)


def _base() -> str:
    settings: Settings = current_app.extensions["settings"]
    return (settings.public_url or request.host_url).rstrip("/") + "/fhir"


def _answer(resource: dict[str, Any]) -> Response:
    return Response(json.dumps(resource), content_type=MEDIA_TYPE)


def _since(text: str) -> datetime:
    """Read a lower bound such as ``ge2026-11-30T10:00:00Z``. Raises `InvalidQuery`."""
    match = re.fullmatch(r"(?:ge|gt)(.+)", text)
    try:
        found = datetime.fromisoformat(match.group(1)) if match else None
    except ValueError:
        found = None
    if found is None or not 1900 < found.year < 9000:
        raise InvalidQuery("_lastUpdated is ge or gt and a date or time")
    return found if found.tzinfo else found.replace(tzinfo=UTC)


@fhir_api.get("/metadata")
@needs(Permission.READ)
def metadata() -> Response:
    """Say what can be asked."""
    return _answer(fhir_resources.capabilities(_base(), "2026-11-30"))


@fhir_api.get("/DiagnosticReport")
@needs(Permission.READ)
def search_reports() -> Response:
    """Answer the site's readings, the oldest first."""
    asked = read_query(ReportSearch)
    identifier = asked.identifier
    if identifier is not None:
        identifier = identifier.rpartition("|")[2].removeprefix("urn:oid:")
    since = _since(asked.last_updated) if asked.last_updated else None
    with session_scope() as session:
        page = fhir.search_reports(
            session,
            identity().site_id,
            identifier=identifier,
            since=since,
            cursor=asked.cursor,
            limit=asked.count,
        )
        audit(session, "fhir_searched", identity().site_id)
    place = f"{_base()}/DiagnosticReport"
    links = {"self": f"{place}?{urlencode(request.args)}" if request.args else place}
    if page.next_cursor:
        links["next"] = f"{place}?{urlencode({**request.args, 'cursor': page.next_cursor})}"
    return _answer(fhir_resources.search_result(page.items, base=_base(), links=links))


@fhir_api.get("/DiagnosticReport/<uuid:finding_id>")
@needs(Permission.READ)
def get_report(finding_id: uuid.UUID) -> Response:
    """Answer a version of what is said of a study."""
    with session_scope() as session:
        found = fhir.get_report(session, identity().site_id, finding_id)
        audit(session, "fhir_viewed", finding_id)
    return _answer(found)


@fhir_api.get("/Observation/<uuid:finding_id>-<int:number>")
@needs(Permission.READ)
def get_observation(finding_id: uuid.UUID, number: int) -> Response:
    """Answer what a version says of one image."""
    with session_scope() as session:
        found = fhir.get_observation(session, identity().site_id, finding_id, number)
        audit(session, "fhir_viewed", finding_id)
    return _answer(found)


@fhir_api.get("/Device/<name>")
@needs(Permission.READ)
def get_device(name: str) -> Response:
    """Answer what a bundle is."""
    with session_scope() as session:
        return _answer(fhir.get_device(session, name))

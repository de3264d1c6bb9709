"""The audit page: who saw, sent, downloaded, reviewed and changed what at the site."""

from __future__ import annotations

import uuid
from typing import Annotated, Any

from flask import Blueprint, Response, render_template
from pydantic import StringConstraints
from sqlalchemy.orm import Session

from store.accounts import people
from store.accounts.accounts import Permission, write_audit
from store.base.session import session_scope
from store.operations.audit import AuditFilter, list_actions, list_lines, stream_csv
from web.auth.identity import identity, needs
from web.base.binding import read_query
from web.base.request_args import without_empty_fields
from web.contract.base import Cursored, Day

audit_pages = Blueprint("audit", __name__, url_prefix="/admin/audit")

_Word = Annotated[str, StringConstraints(max_length=100, strip_whitespace=True)]


class _Filters(Cursored):
    """What the lines are narrowed to."""

    person: uuid.UUID | None = None
    action: _Word | None = None
    object: _Word | None = None
    first: Day | None = None
    last: Day | None = None

    def filter(self) -> AuditFilter:
        """Return what the store narrows the lines to."""
        return AuditFilter(self.person, self.action, self.object, self.first, self.last, identity().time_zone)


def _choices(session: Session) -> dict[str, Any]:
    site_id = identity().site_id
    return {
        "people": [person.user for person in people.list_people(session, site_id)],
        "actions": list_actions(session, site_id),
    }


@audit_pages.get("")
@needs(Permission.ADMINISTER)
def show() -> str:
    """Show lines of the audit, the newest first."""
    without_empty_fields()
    args = read_query(_Filters)
    with session_scope() as session:
        page = list_lines(session, identity().site_id, args.filter(), cursor=args.cursor)
        return render_template(
            "operations/audit.html",
            lines=page.items,
            next=page.next_cursor,
            first=not args.cursor,
            filters=args.kept(),
            **_choices(session),
        )


@audit_pages.get("/audit.csv")
@needs(Permission.ADMINISTER)
def download() -> Response:
    """Stream the lines that the filters let through."""
    without_empty_fields()
    args = read_query(_Filters)
    with session_scope() as session:
        write_audit(session, identity().site_id, identity().user_id, "audit_downloaded", filters=args.kept())
    response = Response(stream_csv(identity().site_id, args.filter()), content_type="text/csv; charset=utf-8")
    response.headers["Content-Disposition"] = 'attachment; filename="fractureai-audit.csv"'
    return response

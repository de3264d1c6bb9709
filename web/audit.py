"""The audit page: who saw, sent, downloaded, reviewed and changed what at the site."""

from __future__ import annotations

import uuid
from typing import Any

from flask import Blueprint, Response, render_template
from sqlalchemy.orm import Session

from store.accounts import people
from store.accounts.accounts import Permission, write_audit
from store.base.days import parse_day
from store.base.session import session_scope
from store.operations.audit import AuditFilter, list_actions, list_lines, stream_csv
from web.auth import identity, needs
from web.request_args import cursor_text, read_query, without_empty_fields

audit_pages = Blueprint("audit", __name__, url_prefix="/admin/audit")


def _word(text: str) -> str:
    if len(text) > 100 or not text.isprintable():
        raise ValueError("must be one word")
    return text.strip()


_FILTERS: dict[str, Any] = {
    "person": uuid.UUID,
    "action": _word,
    "object": _word,
    "first": parse_day,
    "last": parse_day,
}


def _asked(args: dict[str, Any]) -> AuditFilter:
    return AuditFilter(args["person"], args["action"], args["object"], args["first"], args["last"])


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
    args = read_query(**_FILTERS, cursor=cursor_text)
    with session_scope() as session:
        page = list_lines(session, identity().site_id, _asked(args), cursor=args["cursor"])
        return render_template(
            "admin_audit.html",
            lines=page.items,
            next=page.next_cursor,
            first=not args["cursor"],
            filters={name: str(value) for name, value in args.items() if name != "cursor" and value},
            **_choices(session),
        )


@audit_pages.get("/audit.csv")
@needs(Permission.ADMINISTER)
def download() -> Response:
    """Stream the lines that the filters let through."""
    without_empty_fields()
    args = read_query(**_FILTERS)
    with session_scope() as session:
        said = {name: str(value) for name, value in args.items() if value}
        write_audit(session, identity().site_id, identity().user_id, "audit_downloaded", filters=said)
    response = Response(stream_csv(identity().site_id, _asked(args)), content_type="text/csv; charset=utf-8")
    response.headers["Content-Disposition"] = 'attachment; filename="fractureai-audit.csv"'
    return response

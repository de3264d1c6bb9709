"""The worklist, as a page and as JSON: which studies wait for a reader. All filters are in the address."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from typing import Any

from flask import Blueprint, Response, jsonify, render_template

from settings import get_settings
from store.accounts.accounts import Permission, write_view
from store.base.days import parse_day
from store.base.session import session_scope
from store.bundles import bundles
from store.reading import worklist
from store.reading.worklist import Filters, Item, Rank
from vocabulary.anatomy import family_of
from vocabulary.reasons import Reason
from vocabulary.states import ImageStatus, Triage
from web.auth import identity, needs
from web.representations import API, PRIORITIES, flag_documents, moment, next_link, reason_document
from web.request_args import cursor_text, one_of, page_size, read_query, region_name, without_empty_fields

area = Blueprint("worklist", __name__)

PAGE_SIZE = 50
RANK_WORDS = {
    Rank.AMENDED: "Amended after signing",
    Rank.URGENT: "Urgent",
    Rank.POSITIVE: "Positive",
    Rank.DOUBT: "In doubt",
    Rank.NOT_READ: "Not read",
    Rank.NEGATIVE: "Negative",
}
CLASSES = {rank.name.lower(): rank for rank in Rank}
REVIEWED = {"no": False, "yes": True, "all": None}
STATUSES = (ImageStatus.DONE, ImageStatus.REJECTED, ImageStatus.FAILED)


def _id(text: str) -> uuid.UUID:
    try:
        return uuid.UUID(text)
    except ValueError:
        raise ValueError("must be an id") from None


def _words(text: str) -> str:
    if len(text) > 200:
        raise ValueError("must have at most 200 characters")
    return text


QUERY: Mapping[str, Callable[[str], Any]] = {
    "class": one_of(*CLASSES),
    "triage": one_of(*Triage),
    "region": region_name,
    "status": one_of(*STATUSES),
    "batch": _id,
    "bundle": _words,
    "from": parse_day,
    "until": parse_day,
    "reviewed": one_of(*REVIEWED),
    "q": _words,
    "cursor": cursor_text,
}


def filters_of(args: Mapping[str, Any]) -> Filters:
    """Return what the query narrows the list to."""
    return Filters(
        rank=CLASSES[args["class"]] if args["class"] else None,
        triage=args["triage"],
        region=args["region"],
        status=args["status"],
        batch=args["batch"],
        bundle=args["bundle"],
        since=args["from"],
        until=args["until"],
        reviewed=REVIEWED[args["reviewed"] or "no"],
        search=args["q"],
    )


def kept(args: Mapping[str, Any]) -> dict[str, str]:
    """Return what the query narrows the list to, as it stands in an address."""
    return {
        name: str(value)
        for name, value in args.items()
        if value is not None and name not in {"cursor", "limit"}
    }


def row_document(item: Item) -> dict[str, Any]:
    """Return a row of the list."""
    row = item.row
    return {
        "study_id": str(row.study_id),
        "batch_id": str(row.batch_id),
        "batch_label": item.label,
        "bundle": row.bundle,
        "class": Rank(row.rank).name.lower(),
        "arrived_at": moment(row.arrived_at),
        "waited_too_long": row.risen,
        "priority": PRIORITIES[row.priority],
        "status": row.status,
        "triage": row.triage,
        "reason": reason_document(Reason(row.reason)) if row.reason else None,
        "probability": row.probability,
        "region": row.region or None,
        "family": family_of(row.region, {}) or None,
        "images": row.n_images,
        "filename": row.path,
        "accession": row.accession,
        "study_date": row.study_date,
        "opened_by": item.opened_by,
        "opened_at": moment(row.opened_at),
        "answer": row.answer,
        "reviewed_at": moment(row.reviewed_at),
        "signed_at": moment(row.signed_at),
        "read_again": row.reread,
        "flags": flag_documents(row.flags),
        "links": {
            "self": f"{API}/studies/{row.study_id}",
            "page": f"/studies/{row.study_id}",
            "image": f"{API}/images/{row.image_id}",
        },
    }


@area.get(f"{API}/worklist")
@needs(Permission.WORK)
def list_studies() -> Response:
    """List the studies in the order in which they are to be read."""
    args = read_query(**QUERY, limit=page_size)
    with session_scope() as session:
        write_view(session, identity(), "worklist_viewed", "worklist")
        page = worklist.list_studies(
            session,
            identity().site_id,
            filters_of(args),
            cursor=args["cursor"],
            limit=args["limit"] or PAGE_SIZE,
        )
        items = [row_document(item) for item in page.items]
    link = next_link(f"{API}/worklist", page.next_cursor, **kept(args), limit=args["limit"])
    return jsonify(items=items, next=link)


def _counted(n: int) -> str:
    return f"{worklist.MAX_COUNTED:,}+" if n > worklist.MAX_COUNTED else f"{n:,}"


@area.get("/worklist")
@needs(Permission.WORK)
def show_worklist() -> str:
    """Show the list, what narrows it, and how many wait in each class."""
    without_empty_fields()
    args = read_query(**QUERY)
    with session_scope() as session:
        site_id = identity().site_id
        write_view(session, identity(), "worklist_viewed", "worklist")
        page = worklist.list_studies(
            session, site_id, filters_of(args), cursor=args["cursor"], limit=PAGE_SIZE
        )
        waiting = worklist.counts(session, site_id)
        batches = worklist.choices(session, site_id)
        known = bundles.list_bundles(session)
    filters = kept(args)
    return render_template(
        "worklist.html",
        rows=[row_document(item) for item in page.items],
        next=page.next_cursor,
        first=not args["cursor"],
        filters=filters,
        narrowed=set(filters) - {"class", "reviewed"},
        tiles=[(rank.name.lower(), words, _counted(waiting[rank])) for rank, words in RANK_WORDS.items()],
        reviewed=_counted(waiting[Rank.REVIEWED]),
        batches=batches,
        bundles=[bundle.name for bundle in known],
        regions=sorted({region for bundle in known for region in bundle.manifest.get("regions", [])}),
        statuses=STATUSES,
        most_walked=worklist.MAX_WALKED,
        wait_hours=get_settings().worklist_wait_hours,
    )

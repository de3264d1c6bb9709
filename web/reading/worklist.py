"""The worklist, as a page and as JSON: which studies wait for a reader. All filters are in the address."""

from __future__ import annotations

from flask import Blueprint, render_template

from settings import get_settings
from store.accounts.accounts import Permission, write_view
from store.base.session import session_scope
from store.bundles import bundles
from store.reading import worklist
from store.reading.worklist import Rank
from web.auth.identity import identity, needs
from web.base.binding import Reply, operation, read_query
from web.base.pacing import PAGE, is_watched
from web.base.request_args import without_empty_fields
from web.contract.base import API, next_link
from web.contract.worklist import STATUSES, Worklist, WorklistFilters, WorklistQuery, WorklistRow

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


@area.get(f"{API}/worklist")
@operation(
    "Worklist",
    "listStudies",
    "List studies in the order in which they are to be read",
    {200: Reply("A page.", Worklist)},
    query=WorklistQuery,
)
@needs(Permission.WORK)
def list_studies(query: WorklistQuery) -> Worklist:
    """List the studies in the order in which they are to be read."""
    with session_scope() as session:
        write_view(session, identity(), "worklist_viewed", "worklist")
        page = worklist.list_studies(
            session,
            identity().site_id,
            query.filters(),
            cursor=query.cursor,
            limit=query.limit or PAGE_SIZE,
        )
        items = [WorklistRow.of(item) for item in page.items]
    return Worklist(items=items, next=next_link(f"{API}/worklist", page.next_cursor, query))


def _counted(n: int) -> str:
    return f"{worklist.MAX_COUNTED:,}+" if n > worklist.MAX_COUNTED else f"{n:,}"


@area.get("/worklist")
@is_watched(PAGE)
@needs(Permission.WORK)
def show_worklist() -> str:
    """Show the list, what narrows it, and how many wait in each class."""
    without_empty_fields()
    args = read_query(WorklistFilters)
    with session_scope() as session:
        site_id = identity().site_id
        write_view(session, identity(), "worklist_viewed", "worklist")
        page = worklist.list_studies(session, site_id, args.filters(), cursor=args.cursor, limit=PAGE_SIZE)
        waiting = worklist.counts(session, site_id)
        batches = worklist.choices(session, site_id)
        known = bundles.list_bundles(session)
    filters = args.kept()
    return render_template(
        "reading/worklist.html",
        rows=[WorklistRow.of(item) for item in page.items],
        next=page.next_cursor,
        first=not args.cursor,
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

"""The pages that people use: batches, upload, images, bundles. They work without scripts."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime
from typing import Any

from flask import Blueprint, Flask, current_app, g, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from settings import Settings
from store.accounts.accounts import Permission
from store.base.errors import BatchEmpty
from store.base.session import session_scope
from store.base.tables import Priority, Site
from store.bundles import bundles, promotions, words
from store.bundles.words import label_meaning, thresholds
from store.intake import batches, quotas, summary, uploads
from store.reading import reviews, validations
from vocabulary.reasons import REASONS, Reason
from vocabulary.states import (
    STAGES,
    TERMINAL_BATCH_STATUSES,
    Answer,
    BatchStatus,
    ImageStatus,
    Triage,
)
from vocabulary.words import (
    GLYPHS,
    TRIAGE_WORDS,
    answer_words,
    hundredths,
    odds_sentence,
    percents,
    scale_place,
)
from web.auth.identity import check_csrf, checks_csrf, identity, is_personal, needs
from web.base.binding import parse_form, read_query
from web.base.pacing import PAGE, is_watched
from web.base.request_args import without_empty_fields
from web.bundles.markdown import render
from web.contract.base import Cursored
from web.contract.batches import Batch, NewBatch, NewPriority, Retry, batch_etag
from web.contract.images import AttentionRegion, ImageFilters
from web.intake.api import (
    ACTIONS,
    act,
    change_priority,
    make_batch,
    multipart_parts,
    shown_batch,
    shown_images,
)
from web.intake.uploads import FILE_FIELDS, Field, FilePart, Intake, unknown_field

pages = Blueprint("pages", __name__)

PAGE_SIZE = 50


@pages.get("/")
@is_personal
def home() -> Response:
    """Go to the list of batches."""
    return redirect(url_for("pages.list_batches"))


@pages.get("/batches")
@needs(Permission.READ)
def list_batches() -> str:
    """Show the site's batches, the newest first."""
    args = read_query(Cursored)
    with session_scope() as session:
        page = batches.list_batches(session, identity().site_id, cursor=args.cursor, limit=PAGE_SIZE)
        shown = [shown_batch(batch) for batch in page.items]
    return render_template("intake/batches.html", batches=shown, next=page.next_cursor, first=not args.cursor)


def _choices() -> dict[str, Any]:
    with session_scope() as session:
        names = [bundle.name for bundle in bundles.list_bundles(session)]
        default = session.get_one(Site, identity().site_id).default_bundle
    return {"bundles": names, "default_bundle": default}


@pages.get("/batches/new")
@needs(Permission.SUBMIT)
def new_batch() -> str:
    """Show the form for a new batch."""
    with session_scope() as session:
        drafts = [shown_batch(batch) for batch in uploads.list_drafts(session, identity().site_id)]
    return render_template("intake/new_batch.html", drafts=drafts, **_choices())


def _asked_for(fields: dict[str, str]) -> NewBatch:
    ticked = {name: name in fields for name in ("report", "heatmap")}
    return parse_form(NewBatch, {name: value for name, value in fields.items() if value} | ticked)


def _take_form(
    parts: Iterator[Field | FilePart], batch_id: uuid.UUID | None
) -> tuple[uuid.UUID, dict[str, str]]:
    """Take a form's fields, then its files into the batch, which is made when the first file comes.

    Raises
    ------
    CsrfFailed
        The form's token is wrong, or does not come before the files.
    BatchEmpty
        There was no file.
    """
    settings: Settings = current_app.extensions["settings"]
    fields: dict[str, str] = {}
    intake: Intake | None = None
    with ExitStack() as opened:
        for part in parts:
            if isinstance(part, Field):
                if part.name in FILE_FIELDS:
                    raise unknown_field(part.name)
                fields[part.name] = part.value
                continue
            if intake is None:
                check_csrf(fields.get("csrf", ""))
                with session_scope() as session:
                    quotas.require_room(session, identity().site_id, request.content_length or 0)
                if batch_id is None:
                    with session_scope() as session:
                        batch_id = make_batch(session, _asked_for(fields))[0].id
                intake = opened.enter_context(Intake(identity().site_id, batch_id, settings))
            intake.take_part(part)
    if intake is None or batch_id is None:
        raise BatchEmpty
    return batch_id, fields


def _after_upload(batch_id: uuid.UUID, fields: dict[str, str]) -> Response:
    if "start" in fields:
        act(batch_id, "submit")
    return redirect(url_for("pages.show_batch", batch_id=batch_id), 303)


@pages.post("/batches")
@needs(Permission.SUBMIT)
@checks_csrf
def create_batch() -> Response:
    """Make a batch out of one form: its options, then its files."""
    return _after_upload(*_take_form(multipart_parts(), None))


@pages.post("/batches/<uuid:batch_id>/files")
@needs(Permission.SUBMIT)
@checks_csrf
def add_files(batch_id: uuid.UUID) -> Response:
    """Add files to a draft."""
    with session_scope() as session:
        batches.get_batch(session, identity().site_id, batch_id)
    return _after_upload(*_take_form(multipart_parts(), batch_id))


def _actions(batch: Batch, *, retry: bool) -> list[str]:
    """Return what can be done with a batch in its state; `retry`: there is something to be read again."""
    status = batch.status
    if status == BatchStatus.DRAFT:
        return ["submit", "cancel"] if batch.counts.total else ["cancel"]
    if status in {BatchStatus.QUEUED, BatchStatus.RUNNING}:
        return ["pause", "cancel"]
    if status == BatchStatus.PAUSED:
        return ["resume", "cancel"]
    return ["retry"] if retry else []


@pages.get("/batches/<uuid:batch_id>")
@is_watched(PAGE)
@needs(Permission.READ)
def show_batch(batch_id: uuid.UUID) -> Response:
    """Show how far a batch is, and its images."""
    without_empty_fields()
    args = read_query(ImageFilters)
    with session_scope() as session:
        batch = batches.get_batch(session, identity().site_id, batch_id)
        bundle = bundles.get_bundle(session, batch.bundle)
        document = shown_batch(batch, batches.reasons(session, batch_id))
        retry = batches.can_retry(session, batch)
        images, cursor = shown_images(session, batch, args, limit=PAGE_SIZE)
        ended = BatchStatus(batch.status) in TERMINAL_BATCH_STATUSES
        told = ended and not document.findings_withheld and not args.kept() and not args.cursor
        summed = summary.summary(session, batch, thresholds(bundle)) if told else None
    counts = document.counts
    return current_app.make_response(
        render_template(
            "intake/batch.html",
            batch=document,
            etag=batch_etag(batch),
            n_bytes=batch.n_bytes,
            actions=[name for name in _actions(document, retry=retry) if name in ACTIONS],
            ended=counts.done + counts.rejected + counts.failed + counts.cancelled,
            images=images,
            filters=args.kept(),
            first=not args.cursor,
            next=cursor,
            regions=sorted(bundle.manifest.get("regions", [])),
            meaning=label_meaning(bundle),
            summed=summed,
        )
    )


@pages.post("/batches/<uuid:batch_id>/<any(submit,cancel,pause,resume,retry):action>")
@needs(Permission.SUBMIT)
def act_on_batch(batch_id: uuid.UUID, action: str) -> Response:
    """Do what a button says: for the whole batch, or to retry for the images that were ticked."""
    chosen = request.form.getlist("image") if action == "retry" else []
    if chosen:
        act(batch_id, action, images=parse_form(Retry, {"images": chosen}).images)
    else:
        act(batch_id, action)
    return redirect(url_for("pages.show_batch", batch_id=batch_id), 303)


@pages.post("/batches/<uuid:batch_id>/priority")
@needs(Permission.SUBMIT)
def set_priority(batch_id: uuid.UUID) -> Response:
    """Change how soon a batch is read."""
    with session_scope() as session:
        batches.get_batch(session, identity().site_id, batch_id)  # before the form is looked at
    change_priority(batch_id, parse_form(NewPriority, request.form))
    return redirect(url_for("pages.show_batch", batch_id=batch_id), 303)


@pages.get("/bundles")
@needs(Permission.READ)
def list_bundles() -> str:
    """Show the model bundles of this server."""
    with session_scope() as session:
        shown = bundles.list_bundles(session)
        site = promotions.serving(session, identity().site_id)
        history = promotions.history(session, identity().site_id)
        rollback_to = promotions.rollback_target(session, identity().site_id)
    return render_template(
        "bundles/bundles.html",
        bundles=shown,
        site=site,
        history=history,
        rollback_to=rollback_to,
        thresholds=thresholds,
    )


@pages.get("/bundles/<name>")
@needs(Permission.READ)
def show_bundle(name: str) -> str:
    """Show a bundle's card: its data, its figures, its limits."""
    with session_scope() as session:
        bundle = bundles.installed(session, name)
        tally = reviews.tally(session, identity().site_id, name)
        negatives = {part.region: part for part in validations.negatives(session, identity().site_id, bundle)}
    return render_template(
        "bundles/bundle.html",
        negatives=negatives,
        bundle=bundle,
        card=render(re.sub(r"\A\s*# .*", "", bundle.card)),  # the page has that title
        thresholds=thresholds(bundle),
        models=bundle.manifest.get("models", {}),
        noun=words.noun(label_meaning(bundle)),
        NEGATIVE=Triage.NEGATIVE,
        evidence={region: words.evidence(bundle, region) for region in thresholds(bundle)},
        meaning=label_meaning(bundle),
        tally=tally,
        answers=[(answer, answer_words(answer, label_meaning(bundle))) for answer in Answer],
    )


# how things look


def corners(region: AttentionRegion, width: int, height: int) -> str:
    """Return the path of a region's four corners: open, so that nobody takes them for an outline.

    An arm is at most 3% of the picture's longer side, and never more than a third of an edge.
    """
    arm = min(0.03 * max(width, height), region.width / 3, region.height / 3)
    right, bottom = region.x + region.width, region.y + region.height
    return "".join(
        f"M{x + dx:g} {y}H{x}V{y + dy:g}"
        for x, dx in ((region.x, arm), (right, -arm))
        for y, dy in ((region.y, arm), (bottom, -arm))
    )


def percent(value: float | None, digits: int = 0) -> str:
    """Return a share (0-1) as a percentage that is never rounded to certainty."""
    return "" if value is None else f"{hundredths(value, digits)}%"


def duration(seconds: int | None) -> str:
    """Return a time span as a person says it."""
    if seconds is None:
        return ""
    if seconds < 90:
        return f"{seconds} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def moment(when: datetime | str | None) -> str:
    """Return a time to the minute, in UTC; nothing for none."""
    return words.moment(when) if when else ""


def second(when: datetime) -> str:
    """Return a time to the second, in UTC."""
    return words.moment(when, seconds=True)


def register(app: Flask) -> None:
    """Serve the pages."""
    app.register_blueprint(pages)
    app.jinja_env.filters.update(
        part=words.part_words,
        percent=percent,
        duration=duration,
        moment=moment,
        second=second,
        corners=corners,
        evidence_words=lambda shown: f"{shown.sentence} {shown.about_negative}".strip(),
    )
    app.jinja_env.globals.update(
        GLYPHS=GLYPHS,
        scale_place=scale_place,
        percents=percents,
        odds_sentence=odds_sentence,
        TRIAGE_WORDS=TRIAGE_WORDS,
        TRIAGES=list(Triage),
        IMAGE_STATUSES=list(ImageStatus),
        STAGES=list(STAGES),
        PRIORITIES=list(Priority),
        reason_sentence=lambda code: REASONS[Reason(code)].sentence,
    )

    @app.context_processor
    def current_user() -> dict[str, Any]:
        return {"current_user": g.get("identity")}

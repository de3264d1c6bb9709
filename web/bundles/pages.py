"""The pages of model versions: the list, and each one's card."""

from __future__ import annotations

import re

from flask import Blueprint, redirect, render_template, request, url_for
from werkzeug.wrappers import Response as BaseResponse

from store.accounts.accounts import Permission
from store.base.session import session_scope
from store.bundles import bundles, promotions, words
from store.bundles.words import label_meaning, thresholds
from store.reading import reviews, validations
from vocabulary.states import (
    Answer,
    Triage,
)
from vocabulary.words import (
    answer_words,
)
from web.auth.identity import identity, needs
from web.base.forms import form_on
from web.bundles.actions import operate
from web.bundles.markdown import render

pages = Blueprint("bundles", __name__)


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


@pages.post("/bundles/<any(promote,rollback,shadow):action>")
@needs(Permission.ADMINISTER)
@form_on("bundles.list_bundles")
def operate_bundle_by_form(action: str) -> BaseResponse:
    """Promote a bundle, go back to the one before, or set the shadow bundle, from the bundles' page."""
    operate(action, request.form.get("bundle", ""))
    return redirect(url_for("bundles.list_bundles"), 303)


@pages.post("/bundles/<name>/negatives/<region>/lock")
@needs(Permission.ADMINISTER)
@form_on("bundles.show_bundle")
def lock_negative_by_form(name: str, region: str) -> BaseResponse:
    """Take the site's validation of a body part back, from the bundle's page."""
    user = identity()
    with session_scope() as session:
        validations.lock(session, user.site_id, user.user_id, name, region)
    return redirect(url_for("bundles.show_bundle", name=name), 303)

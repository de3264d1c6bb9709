"""The JSON API of model versions: which there are, how readers agree with them, which one serves."""

from __future__ import annotations

from flask import Blueprint, Response

from store.accounts.accounts import Permission
from store.base.session import session_scope
from store.base.tables import Site
from store.bundles import bundles
from store.reading import reviews, validations
from web.auth.identity import (
    audit,
    identity,
    needs,
)
from web.base.binding import (
    DONE,
    Reply,
    operation,
    read_body,
)
from web.bundles.actions import operate
from web.contract.base import API, picked
from web.contract.bundles import Bundle, Bundles
from web.contract.negatives import FIGURES, Negative, Negatives, NewValidation
from web.contract.research import (
    BundleChange,
    Serving,
)
from web.contract.studies import Agreement

api = Blueprint("bundles_api", __name__, url_prefix=API)

_TAG = "Bundles"


@api.get("/bundles")
@operation(_TAG, "listBundles", "List the model bundles", {200: Reply("All of them.", Bundles)})
@needs(Permission.READ)
def list_bundles() -> Bundles:
    """List the model bundles of this server; one of them is the site's default."""
    with session_scope() as session:
        default = session.get_one(Site, identity().site_id).default_bundle
        items = [Bundle.of(b, default=b.name == default) for b in bundles.list_bundles(session)]
    return Bundles(items=items)


@api.get("/bundles/<name>/agreement")
@operation(
    _TAG,
    "bundleAgreement",
    "Readers' answers against the bundle, over the studies that they chose to review",
    {200: Reply("The counts.", Agreement)},
)
@needs(Permission.READ)
def get_agreement(name: str) -> Agreement:
    """Count readers' answers against what the bundle had said."""
    with session_scope() as session:
        bundles.installed(session, name)
        return Agreement.of(name, reviews.tally(session, identity().site_id, name))


@api.get("/bundles/<name>/disagreements.csv")
@operation(
    _TAG,
    "bundleDisagreements",
    "The images of studies whose reader contradicted the bundle: a list to train from",
    {200: Reply("One line an image, streamed.", ("text/csv",))},
)
@needs(Permission.RESEARCH)
def get_disagreements(name: str) -> Response:
    """Stream the images of studies whose reader contradicted the bundle: a list to train from."""
    with session_scope() as session:
        bundle = bundles.installed(session, name)
        audit(session, "disagreements_downloaded", name)
    response = Response(
        reviews.disagreements(identity().site_id, bundle), content_type="text/csv; charset=utf-8"
    )
    response.headers["Content-Disposition"] = f'attachment; filename="disagreements-{bundle.name}.csv"'
    return response


def _negatives(name: str) -> Negatives:
    with session_scope() as session:
        bundle = bundles.installed(session, name)
        parts = validations.negatives(session, identity().site_id, bundle)
        return Negatives(items=[Negative.of(name, part) for part in parts])


@api.get("/bundles/<bundle>/negatives")
@operation(
    _TAG,
    "listNegatives",
    "See which body parts a bundle may call negative at this site",
    {200: Reply("Every part that the bundle reads.", Negatives)},
)
@needs(Permission.ADMINISTER)
def list_negatives(bundle: str) -> Negatives:
    """Tell which body parts a bundle may call negative at this site, and why."""
    return _negatives(bundle)


@api.put("/bundles/<bundle>/negatives/<region>")
@operation(
    _TAG,
    "unlockNegative",
    "Let a bundle call a body part negative here, on the site's own figures",
    {200: Reply("Every part that the bundle reads.", Negatives)},
    body=NewValidation,
)
@needs(Permission.ADMINISTER)
def unlock_negative(bundle: str, region: str) -> Negatives:
    """Let a bundle call a body part negative here, on the site's own figures."""
    body = read_body(NewValidation)
    with session_scope() as session:
        validations.unlock(
            session,
            identity().site_id,
            identity().user_id,
            bundle,
            region,
            validations.PartFigures(**picked(body, *FIGURES)),
            sha256=body.sha256,
            dataset=body.dataset,
        )
    return _negatives(bundle)


@api.delete("/bundles/<bundle>/negatives/<region>")
@operation(_TAG, "lockNegative", "Take the site's validation of a body part back", DONE)
@needs(Permission.ADMINISTER)
def lock_negative(bundle: str, region: str) -> None:
    """Take the site's validation of a body part back."""
    with session_scope() as session:
        validations.lock(session, identity().site_id, identity().user_id, bundle, region)


@api.post("/bundles/<any(promote,rollback,shadow):action>")
@operation(
    _TAG,
    "{}Bundle",
    {
        "promote": "Let a bundle serve the site by default.",
        "rollback": "Let the bundle serve again that did before; refused if that is not the bundle named.",
        "shadow": "Let a bundle read along quietly; without a name, none.",
    },
    {200: Reply("What serves now.", Serving)},
    body=BundleChange,
)
@needs(Permission.ADMINISTER)
def operate_bundle(action: str) -> Serving:
    """Let another bundle serve the site, go back to the one before, or set the shadow bundle."""
    return operate(action, read_body(BundleChange).bundle)

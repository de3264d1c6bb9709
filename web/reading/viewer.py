"""How a person looked at pictures last: kept for their next study."""

from __future__ import annotations

from typing import Annotated, Any

from flask import Blueprint, request
from flask import Response as FlaskResponse
from pydantic import Field
from sqlalchemy.orm import Session

from store.base.session import session_scope
from store.base.tables import Site, User
from web.auth.identity import (
    identity,
    is_personal,
)
from web.base.binding import parse_form
from web.contract.base import Body

viewer = Blueprint("viewer", __name__, url_prefix="/account/viewer")


class ViewerChoice(Body):
    """How a person looked at pictures last."""

    map: Annotated[int, Field(ge=0, le=100)]
    outlines: bool
    two: bool
    linked: bool


def viewer_choice(session: Session) -> dict[str, Any]:
    """Return what the person who asks chose in the viewer; who chose nothing starts as the site does."""
    user_id = identity().user_id
    user = session.get(User, user_id) if user_id else None
    if user is not None and user.viewer:
        return user.viewer
    starts = session.get_one(Site, identity().site_id).starts_with_map
    return {} if starts else {"map": 0}


@viewer.post("")
@is_personal
def keep_viewer() -> FlaskResponse:
    """Keep what the person chose in the viewer, for their next study."""
    said = parse_form(ViewerChoice, request.form)
    with session_scope() as session:
        session.get_one(User, identity().user_id).viewer = said.model_dump()
    return FlaskResponse(status=204)

"""What is done with bundles: which one serves a site."""

from __future__ import annotations

from store.base.session import session_scope
from store.bundles import promotions
from web.auth.identity import audit, identity
from web.contract.research import (
    Serving,
)


def operate(action: str, name: str) -> Serving:
    """Promote a bundle, roll back, or set the shadow, audited; return what serves now."""
    who = identity()
    with session_scope() as session:
        if action == "shadow":
            promotions.set_shadow(session, who.site_id, name or None)
        elif action == "promote":
            promotions.promote(session, who.site_id, who.user_id, name)
        else:
            name = promotions.roll_back(session, who.site_id, who.user_id, name or None)
        audit(session, f"bundle_{action}", name)
        serving = promotions.serving(session, who.site_id)
        back = promotions.rollback_target(session, who.site_id)
    return Serving(default=serving.default_bundle, shadow=serving.shadow_bundle, rollback_to=back)

"""What is done with bundles: which one serves a site."""

from __future__ import annotations

from store.base.session import session_scope
from store.bundles import promotions
from web.auth.identity import audit, identity
from web.contract.research import Serving


def operate(action: str, name: str) -> Serving:
    """Promote a bundle, roll back, or set the shadow, audited; return what serves now."""
    user = identity()
    with session_scope() as session:
        if action == "shadow":
            promotions.set_shadow(session, user.site_id, name or None)
        elif action == "promote":
            promotions.promote(session, user.site_id, user.user_id, name)
        else:
            name = promotions.roll_back(session, user.site_id, user.user_id, name or None)
        audit(session, f"bundle_{action}", name)
        serving = promotions.serving(session, user.site_id)
        back = promotions.rollback_target(session, user.site_id)
    return Serving(default=serving.default_bundle, shadow=serving.shadow_bundle, rollback_to=back)

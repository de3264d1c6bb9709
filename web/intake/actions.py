"""What people and programs do with batches, and what they may see of them."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from sqlalchemy.orm import Session

from store.accounts.accounts import Permission
from store.base import tables
from store.base.errors import FindingsWithheld
from store.base.session import session_scope
from store.bundles import bundles
from store.intake import batches, uploads
from store.queue import dispatch
from store.reading import images
from web.auth.identity import audit, identity
from web.contract.base import picked
from web.contract.batches import (
    Batch,
    NewBatch,
    NewPriority,
)
from web.contract.images import Image, ImageFilters


def make_batch(
    session: Session, body: NewBatch, *, idempotency_key: str | None = None
) -> tuple[tables.Batch, bool]:
    """Make the batch of the one who asks, or find the one that the key made before."""
    user = identity()
    fingerprint = json.dumps([body.label, body.bundle or None, body.priority, body.report, body.heatmap])
    batch, created = batches.create_batch(
        session,
        site_id=user.site_id,
        user_id=user.user_id,
        label=body.label,
        bundle=body.bundle or None,
        priority=body.priority,
        with_report=body.report,
        with_heatmap=body.heatmap,
        idempotency_key=idempotency_key,
        request_hash=hashlib.sha256(fingerprint.encode()).hexdigest(),
    )
    if created:
        audit(session, "batch_created", batch.id)
    return batch, created


def sees_findings(batch: tables.Batch) -> bool:
    """Tell whether the one who asks may see what the batch's bundle says.

    What a bundle said that the site had not promoted is for those who compare bundles.
    """
    return batch.promoted or identity().may(Permission.RESEARCH)


def shown_batch(
    batch: tables.Batch, reasons: Mapping[str, int] = MappingProxyType({}), left: float | None = None
) -> Batch:
    """Return a batch as the one who asks may see it; `left` is how many seconds it still takes, if known."""
    return Batch.of(batch, reasons, findings=sees_findings(batch), left=left)


def shown_images(
    session: Session, batch: tables.Batch, args: ImageFilters, *, limit: int
) -> tuple[list[Image], str | None]:
    """Return a page of a batch's images as the one who asks may see them, and the cursor of the next page.

    Whoever shows it notes that they were seen.

    Raises
    ------
    FindingsWithheld
        Images are chosen by what the asker may not see.
    """
    seen = sees_findings(batch)
    if not seen and (args.triage or args.region):
        raise FindingsWithheld
    chosen = picked(args, *ImageFilters.model_fields)
    page = images.list_images(session, batch.site_id, batch.id, **chosen, limit=limit)
    bundle = bundles.get_bundle(session, batch.bundle)
    return [Image.of(row, bundle, findings=seen) for row in page.items], page.next_cursor


#: What can be done with a batch, by the last part of the address.
ACTIONS: Mapping[str, Callable[[Session, uuid.UUID, uuid.UUID], tables.Batch]] = {
    "submit": batches.submit,
    "cancel": batches.cancel,
    "pause": batches.pause,
    "resume": batches.resume,
    "retry": batches.retry,
}


def act(batch_id: uuid.UUID, action: str, **how: Any) -> tables.Batch:
    """Do one of `ACTIONS`, and have what became due published."""
    with session_scope() as session:
        batches.get_batch(session, identity().site_id, batch_id)  # a run's batch is not steered here
        batch = ACTIONS[action](session, batch_id, identity().site_id, **how)
        audit(session, f"batch_{action}", batch.id)
    if action == "cancel":
        uploads.discard_cancelled(identity().site_id, batch_id)
        with session_scope() as session:
            batch = batches.get_batch(session, identity().site_id, batch_id)
    dispatch.dispatch()
    return batch


def change_priority(batch_id: uuid.UUID, body: NewPriority) -> None:
    """Set a batch's priority. Raises `NotFound`, `WrongState`."""
    with session_scope() as session:
        batches.get_batch(session, identity().site_id, batch_id)  # a run's batch is not steered here
        batch = batches.set_priority(session, batch_id, identity().site_id, body.priority)
        audit(session, "batch_priority", batch.id)

"""What a batch is read for, and what that changes in its stages; research plugs in from outside."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy.orm import Session

from models.bundle import Bundle
from settings import get_settings
from store.base.tables import Batch, Finding, Image
from worker.flow import NotReady

#: Attention maps that were written: SHA-256 and size by image.
Drawn = Mapping[uuid.UUID, tuple[str, int]]
FindingsOf = Callable[[Session, Bundle], Mapping[str, Finding]]


class Purpose:
    """Clinical reading; another purpose overrides what it does differently.

    Attributes
    ----------
    precision
        In which the networks run.
    """

    is_clinical = True

    @property
    def precision(self) -> str:
        """Return the precision that the service reads in."""
        return get_settings().precision

    def bundles(self, batch: Batch) -> Sequence[str]:
        """Return the bundles that score the batch's images, which share one decode."""
        return (batch.bundle,)

    def source(self, image: Image) -> bytes | None:
        """Return the bytes of an image that were never uploaded; None for an upload.

        Raises
        ------
        Rejected
            They are gone, or have changed.
        """
        return None

    def keeps_original(self, image: Image) -> bool:
        """Return whether the de-identified bytes are kept."""
        return True

    def keeps_display(self, image: Image) -> bool:
        """Return whether a picture to look at is kept."""
        return True

    def count_passes(self, *, classified: int = 0, detected: int = 0) -> None:
        """Count images that are about to go through networks."""

    def required_networks(self, bundle: Bundle, finding: Finding) -> set[str]:
        """Return the networks that are to score an image: that of its region, if it is assessed."""
        if finding.not_assessable is not None:
            return set()
        reader = bundle.model_for(finding.region)
        if reader is None:
            raise LookupError(f"bundle {bundle.name} has no network for {finding.region}")
        return {reader.network}

    def scored_networks(self, session: Session, findings: Sequence[Finding]) -> Mapping[str, set[str]]:
        """Return, by sha256, the networks that have scored the bytes already."""
        return {f.sha256: {f.network} for f in findings if f.logit is not None and f.network is not None}

    def save_unrouted_score(
        self, session: Session, finding: Finding, network: str, columns: Mapping[str, Any]
    ) -> None:
        """Keep the score of a network to which the image was not routed."""
        raise LookupError(f"nobody asked for the score of {network}")

    def draw(
        self, images: Sequence[Image], bundles: Sequence[Bundle], findings_of: FindingsOf, drawn: Drawn
    ) -> Any:
        """Draw more than the attention maps of the batch's own bundle, which have been `drawn`."""

    def save_drawn(self, session: Session, more: Any) -> None:
        """Keep the rows of what `draw` has returned."""


_others: list[Callable[[Session, Batch], Purpose | None]] = []


def register(find: Callable[[Session, Batch], Purpose | None]) -> None:
    """Register a function that finds the purpose of batches that are not clinical."""
    _others.append(find)


def purpose_of(session: Session, batch: Batch) -> Purpose:
    """Return what a batch is read for.

    Raises
    ------
    NotReady
        It is not clinical, and nothing that has plugged in knows it.
    """
    if batch.is_clinical:
        return Purpose()
    for find in _others:
        if (found := find(session, batch)) is not None:
            return found
    raise NotReady(f"nothing here knows what batch {batch.id} is read for")

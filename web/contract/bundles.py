"""The documents about bundles: what one reads, where it cuts, and what it has shown."""

from __future__ import annotations

from pydantic import Field

from store.base import tables
from store.bundles import words
from vocabulary.states import Triage
from web.contract.base import Count, Document, Links, Moment, Page, Share, picked


class Thresholds(Document):
    """Below `low` negative, from `high` on positive, in doubt between them."""

    low: Share
    high: Share


class FigureWithInterval(Document):
    """A figure and its 95% interval."""

    value: Share
    interval: list[Share] | None


class PartEvidence(Document):
    """What a bundle has shown for a part on held-out films, at the lower threshold."""

    fractures: Count
    found: Count = Field(description="Of them, how many the lower threshold found.")
    interval: list[Share] = Field(description="95% interval of found / fractures (Wilson).")
    films: Count | None
    auc: FigureWithInterval | None
    sensitivity: FigureWithInterval | None
    specificity: FigureWithInterval | None
    in_doubt: Share | None = Field(description="Share of the held-out films that end in doubt.")
    may_say_negative: bool
    sentence: str
    about_negative: str = Field(description="Why it does not say negative; else mostly empty.")

    @classmethod
    def of(cls, part: words.PartEvidence, label_meaning: str, triage: str | None = None) -> PartEvidence:
        """Return what is known of a part; `triage` is what was said of an image of it."""
        figures = {}
        for name in ("auc", "sensitivity", "specificity"):
            kept = getattr(part, name)
            figures[name] = kept and FigureWithInterval(value=kept.value, interval=kept.interval)
        return cls(
            **picked(part, "fractures", "found", "interval", "films", "in_doubt", "may_say_negative"),
            **figures,
            sentence=part.sentence(label_meaning),
            about_negative=part.about_negative(Triage(triage) if triage else None),
        )


class Bundle(Document):
    """A model bundle, and what it says of itself."""

    name: str
    sha256: str
    default: bool
    label_meaning: str = Field(description="What a positive label says of an image.")
    regions: list[str]
    thresholds: dict[str, Thresholds]
    families: dict[str, str]
    parts: dict[str, PartEvidence]
    suspected_places: bool = Field(description="Whether it draws suspected places.")
    trained_on: str
    limits: list[str]
    created_at: Moment
    links: Links

    @classmethod
    def of(cls, bundle: tables.Bundle, *, default: bool) -> Bundle:
        """Return a bundle; `default`: the site reads by it."""
        thresholds, meaning = words.thresholds(bundle), words.label_meaning(bundle)
        parts = {region: words.evidence(bundle, region) for region in sorted(thresholds)}
        return cls(
            **picked(bundle, "name", "sha256", "created_at"),
            default=default,
            label_meaning=meaning,
            regions=sorted(thresholds),
            thresholds=thresholds,
            families=words.families(bundle),
            parts={region: PartEvidence.of(part, meaning) for region, part in parts.items() if part},
            suspected_places=bool(bundle.manifest.get("places")),
            trained_on=bundle.manifest.get("trained_on", ""),
            limits=bundle.manifest.get("limits", []),
            links={"page": f"/bundles/{bundle.name}"},
        )


class Bundles(Page[Bundle]):
    """The bundles of this server."""

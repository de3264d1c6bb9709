"""The documents about notices: where they go, and what became of them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field

from store.base import tables
from store.outgoing.notices import EVENTS, Channel, Event, NoticeState
from web.contract.base import API, Body, Count, Document, Id, Links, Moment, Page, picked


class NoticeTarget(Document):
    """Where notices go, and how it does."""

    id: Id
    channel: Channel
    address: str
    events: list[Event]
    waiting: Count = Field(description="Notices that wait for it.")
    failures: Count = Field(description="Tries in a row that failed; 0 when it answers.")
    last_error: str | None
    rest_until: Moment | None = Field(description="While it fails nothing is sent there before.")
    created_at: Moment
    links: Links

    @classmethod
    def of(cls, target: tables.NoticeTarget, waiting: int = 0, **more: Any) -> NoticeTarget:
        """Return a target; the secret that signs its webhooks is never shown again."""
        here = f"{API}/notice-targets/{target.id}"
        same = ("id", "channel", "address", "events", "failures", "last_error", "rest_until", "created_at")
        links = {"test": f"{here}/test", "remove": f"{here}/remove"}
        return cls(**picked(target, *same), waiting=waiting, links=links, **more)


class NoticeTargets(Page[NoticeTarget]):
    """Where a site's notices go."""


class NewNoticeTarget(NoticeTarget):
    """A target that was just made."""

    secret: str | None = Field(description="Signs the webhooks; it is not told again. Null for e-mail.")


class NoticeTargetBody(Body):
    """Where notices are to go, and which."""

    channel: Channel
    address: str
    events: Annotated[list[Literal[EVENTS]], Field(min_length=1)]  # type: ignore[valid-type]


class Notice(Document):
    """A notice and what became of it."""

    id: Id
    event: Event
    target_id: Id
    batch_id: Id | None
    study_id: Id | None
    state: NoticeState
    attempts: Count
    status: int | None = Field(description="What the receiver answered.")
    error: str | None
    created_at: Moment
    tried_at: Moment | None
    due_at: Moment | None = Field(description="When it is tried again.")

    @classmethod
    def of(cls, notice: tables.Notice, target: tables.NoticeTarget, due_at: datetime | None) -> Notice:
        """Return a notice to a target."""
        same = ("id", "event", "batch_id", "study_id", "state", "attempts", "status", "error", "created_at")
        return cls(**picked(notice, *same, "tried_at"), target_id=target.id, due_at=due_at)


class Notices(Page[Notice]):
    """What was delivered and what was not."""

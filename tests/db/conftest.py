"""A site, a bundle's row, and batches without bytes: what the store's own tests need."""

from __future__ import annotations

import uuid
from collections.abc import Callable

import pytest
from sqlalchemy import Engine

from store.base.session import session_scope
from store.base.tables import Batch, Bundle, Priority, Site
from store.intake import batches
from store.intake.batches import NewFile

NewBatch = Callable[..., Batch]


@pytest.fixture
def site(database: Engine) -> uuid.UUID:
    return make_site("A")


def make_site(name: str) -> uuid.UUID:
    with session_scope() as session:
        if session.get(Bundle, "b1") is None:
            session.add(Bundle(name="b1", sha256="0" * 64, manifest={"name": "b1"}, files={}))
            session.flush()
        site = Site(id=uuid.uuid4(), name=name, default_bundle="b1")
        session.add(site)
        return site.id


def new_files(n: int, start: int = 0) -> list[NewFile]:
    return [NewFile(f"f/{i:06d}.png", f"{i:064x}", 10, f"incoming/{i}") for i in range(start, start + n)]


def submitted(site: uuid.UUID, n: int, priority: Priority = Priority.NORMAL) -> Batch:
    with session_scope() as session:
        batch, _ = batches.create_batch(session, site_id=site, user_id=None, priority=priority)
        batches.add_files(session, batch.id, site, new_files(n))
        return batches.submit(session, batch.id, site)

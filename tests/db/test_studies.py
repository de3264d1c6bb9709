"""The same bytes twice in one study are kept once, in whatever order their chunks end."""

from __future__ import annotations

import uuid

import pytest
from sqlalchemy import select

from store import batches, studies
from store.batches import NewFile
from store.session import session_scope
from store.tables import Image

SAME = "a" * 64


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_one_copy_is_kept_whichever_chunk_is_first(site: uuid.UUID, order: tuple[int, int]) -> None:
    with session_scope() as session:
        batch, _ = batches.create_batch(session, site_id=site, user_id=None)
        files = [NewFile(f"{i}.dcm", SAME, 10, f"incoming/{i}") for i in range(2)]
        ids = [answer.image_id for answer in batches.add_files(session, batch.id, site, files)]
    copies = []
    for which in order:  # one chunk after the other
        with session_scope() as session:
            image = session.scalars(select(Image).where(Image.id == ids[which])).one()
            image.study_uid, image.stage = "1.2.3", 1
            studies.assign(session, [image])
            session.flush()
            copies.append(studies.first_copies(session, [image]))
    first, second = (ids[which] for which in order)
    assert copies == [{}, {second: first}]
    with session_scope() as session:  # and the first chunk once more, after its worker was lost
        image = session.scalars(select(Image).where(Image.id == first)).one()
        twin = session.scalars(select(Image).where(Image.id == second)).one()
        twin.status = "rejected"
        session.flush()
        assert studies.first_copies(session, [image]) == {}

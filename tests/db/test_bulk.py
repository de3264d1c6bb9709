"""Many rows in one statement."""

from __future__ import annotations

import math
import uuid

from sqlalchemy import func, select, update

from store.base.bulk import insert_rows, parameter, update_rows, write_changed
from store.base.session import session_scope
from store.base.tables import Finding, Image
from store.queue import work
from tests.db.conftest import submitted
from tests.db.test_work import only_unit, taken


def test_rows_hold_what_json_has_no_word_for(site: uuid.UUID) -> None:
    told = {"site_id": site, "sha256": "a" * 64, "bundle": "b1", "region": "", "region_probability": 0.1}
    rows = [
        {
            "id": uuid.uuid4(),
            "precision": "one",
            **told,
            "region_probabilities": {"ü": 1 / 3},
            "distance": 0.1,
        },
        {"id": uuid.uuid4(), "precision": "two", **told, "region_probabilities": {}, "distance": math.nan},
    ]
    with session_scope() as session:
        session.connection().execute(insert_rows(Finding, tuple(rows[0])), parameter(rows))
        scores = [{"id": row["id"], "cam": b"\x00\xff\\", "logit": None, "flags": ["x"]} for row in rows]
        session.connection().execute(update_rows(Finding, ("cam", "logit", "flags")), parameter(scores))
    with session_scope() as session:
        one, two = session.scalars(select(Finding).order_by(Finding.precision))
    assert (one.site_id, one.region_probability, one.distance) == (site, 0.1, 0.1)
    assert one.region_probabilities == {"ü": 1 / 3}
    assert (one.cam, one.logit, one.flags) == (b"\x00\xff\\", None, ["x"])
    assert two.distance is not None
    assert math.isnan(two.distance)


def test_only_what_was_changed_is_written(site: uuid.UUID) -> None:
    submitted(site, 3)
    with session_scope() as session:
        first, second, third = session.scalars(select(Image).order_by(Image.seq))
    with session_scope() as session:  # another process meanwhile
        session.execute(update(Image).values(flags=["theirs"]))
    with session_scope() as session:
        first.region, first.flags, first.finished_at = "hand", [], func.clock_timestamp()
        second.region, second.finished_at = "hip", func.clock_timestamp()
        write_changed(session, [first, second, third])
        write_changed(session, [first, second, third])  # nothing is left to write
        assert not session.dirty
    with session_scope() as session:
        rows = session.execute(select(Image.region, Image.flags, Image.finished_at).order_by(Image.seq)).all()
    assert [(region, flags, bool(at)) for region, flags, at in rows] == [
        ("hand", ["theirs"], True),
        ("hip", ["theirs"], True),
        (None, ["theirs"], False),
    ]


def test_what_others_wrote_of_a_held_chunks_images_is_read_again(site: uuid.UUID) -> None:
    unit = only_unit(submitted(site, 3))
    lease = taken(unit)
    with session_scope() as session:
        loaded = work.images_of(session, unit)
    with session_scope() as session:
        session.execute(update(Image).where(Image.id == loaded[0].id).values(flags=["theirs"], number=7))
        session.execute(update(Image).where(Image.id == loaded[1].id).values(status="cancelled"))
    with session_scope() as session:
        work.hold(session, lease)
        images = work.still_open(session, unit, loaded)
        assert [image.id for image in images] == [loaded[0].id, loaded[2].id]
        assert (images[0].flags, images[0].number, images[1].flags) == (["theirs"], 7, [])
        assert len(work.still_open(session, unit, loaded[:1])) == 2, "a row that was not loaded"

"""A picture at full depth: made once, when somebody asks, from the kept original; it goes with it."""

from __future__ import annotations

import uuid
from datetime import timedelta

import cv2
import numpy as np
from sqlalchemy import func, select

from store.base.blobs import get_blobs
from store.base.session import session_scope
from store.base.tables import Image, Work, WorkKind, WorkState
from store.operations import fsck, retention
from store.reading import full_depth
from store.reading.full_depth import Answer
from tests.unit.test_depth import read_png
from tests.worker.test_reading import by_path, dicom, png, read
from worker import flow
from worker.reading import full_depth as drawing


def ask(image_id: uuid.UUID) -> Answer:
    with session_scope() as session:
        return full_depth.ask(session, image_id)[0]


def draw() -> int:
    """Run what waits; return how many units that was."""
    with session_scope() as session:
        due = session.scalars(
            select(Work).where(Work.kind == WorkKind.PIXELS, Work.state == WorkState.DUE)
        ).all()
    for unit in due:
        flow.run(unit.id, None, drawing.write)
    return len(due)


def row(image_id: uuid.UUID) -> Image:
    with session_scope() as session:
        return session.get_one(Image, image_id)


def test_made_once_for_all_who_ask_and_deleted_in_time(site_id: uuid.UUID) -> None:
    image = by_path(read(site_id, {"a.dcm": dicom(1, "hand", "1.2.3")}))["a.dcm"]
    assert image.pixels_key is None  # nobody has looked
    assert [ask(image.id), ask(image.id)] == [Answer.MAKING, Answer.MAKING]
    assert draw() == 1
    assert ask(image.id) is Answer.READY
    found = row(image.id)
    values, said = read_png(get_blobs().get(found.pixels_key or ""))
    assert values.shape == (found.height, found.width)
    assert said["windows"][0]["name"] == "As the AI read it"
    assert not fsck.check().problems
    full_depth.delete_expired()
    assert row(image.id).pixels_key  # it is young
    with session_scope() as session:
        session.get_one(Image, image.id).pixels_at = session.scalar(
            select(func.clock_timestamp() - timedelta(days=3))
        )
    full_depth.delete_expired()
    assert row(image.id).pixels_key is None
    assert not list(get_blobs().keys(f"{image.pictures}pixels"))
    assert not fsck.check().problems
    with session_scope() as session:
        for unit in session.scalars(select(Work).where(Work.kind == WorkKind.PIXELS)):
            unit.finished_at = session.scalar(select(func.clock_timestamp() - timedelta(hours=1)))
    assert ask(image.id) is Answer.MAKING  # whoever looks again has it made again


def test_what_cannot_be_drawn_is_not_tried_again_and_again(site_id: uuid.UUID) -> None:
    image = by_path(read(site_id, {"a.png": png(1)}))["a.png"]
    get_blobs().put(image.original_key or "", b"something else")
    assert ask(image.id) is Answer.MAKING
    assert draw() == 1
    assert ask(image.id) is Answer.NONE
    assert draw() == 0


def test_it_goes_with_its_original(site_id: uuid.UUID) -> None:
    image = by_path(read(site_id, {"a.png": png(1)}))["a.png"]
    ask(image.id)
    draw()
    assert row(image.id).pixels_key
    assert retention.expire_originals(site_id, -1) == 1
    assert row(image.id).pixels_key is None
    assert not list(get_blobs().keys(f"{image.pictures}pixels"))
    assert ask(image.id) is Answer.NONE
    assert not fsck.check().problems


def test_the_attention_map_by_itself_is_transparent_and_marks_nothing(site_id: uuid.UUID) -> None:
    image = by_path(read(site_id, {"a.png": png(1)}))["a.png"]
    assert image.heat_key
    heat = cv2.imdecode(np.frombuffer(get_blobs().get(image.heat_key), np.uint8), cv2.IMREAD_UNCHANGED)
    assert heat.shape[2] == 4
    assert max(heat.shape[:2]) <= 256
    assert heat[..., 3].max() <= 0.56 * 255
    grey = np.ptp(heat[..., :3].astype(int), axis=2) < 8
    assert not (grey & (heat[..., 0] > 200)).any()  # no white corners

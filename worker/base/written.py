"""What a stage puts into the blob store, and what becomes of it when no commit names it."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Iterable, Mapping
from types import TracebackType

from sqlalchemy import select
from sqlalchemy.orm import Session

from store.base.blobs import get_blobs
from store.base.session import session_scope
from store.base.tables import Image
from vocabulary.states import ImageStatus

#: What the stages write of an image.
PICTURES = ("original", "display.jpg", "overlay.jpg", "heat.png", "pixels.png", "envelope")


_named_elsewhere: list[Callable[[Session, Collection[uuid.UUID]], Iterable[str]]] = []


def register(named: Callable[[Session, Collection[uuid.UUID]], Iterable[str]]) -> None:
    """Register a source of picture keys that other rows than the images' own refer to."""
    _named_elsewhere.append(named)


def picture_key(image: Image, name: str) -> str:
    """Return the key of one of an image's pictures; every attempt writes the same."""
    return f"{image.pictures}{name}"


class Written:
    """What a stage puts into the blob store: named by its commit, or deleted by the stage itself."""

    def __init__(self) -> None:
        self._group = get_blobs().group()
        self._pictures: dict[str, uuid.UUID] = {}
        self._others: list[str] = []

    def __enter__(self) -> Written:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._group.discard()  # what was not kept

    def put(self, key: str, data: bytes, image: Image | None = None) -> tuple[str, int]:
        """Put bytes, of an image or of this attempt alone; return their hex SHA-256 and size.

        They are stored by `keep`; what a block that ends badly has not kept is deleted.
        """
        if image is None:
            self._others.append(key)
        else:
            self._pictures[key] = image.id
        return self._group.put(key, data)

    def keep(self) -> None:
        """Store what was put: the stage's commit is going to name it."""
        self._group.keep()

    def discard(self) -> None:
        """Delete what no image names and none is about to name: the lease is lost, or the batch cancelled."""
        for key in self._others:
            get_blobs().delete(key)
        delete_unnamed(self._pictures)


def delete_unnamed(keys: Mapping[str, uuid.UUID]) -> None:
    """Delete those of the images' pictures and originals that nobody names and nobody is about to name.

    Every attempt writes the same keys: of an image that has not ended, they are another worker's. The rows
    are locked meanwhile, so that a retry waits.
    """
    with session_scope() as session:
        query = select(Image).where(Image.id.in_(set(keys.values()))).order_by(Image.id)
        images = {image.id: image for image in session.scalars(query.with_for_update())}
        elsewhere = {key for named in _named_elsewhere for key in named(session, images)}
        for key, id_ in keys.items():
            image = images.get(id_)
            if image is not None:
                if image.status in (ImageStatus.UPLOADED, ImageStatus.QUEUED, ImageStatus.RUNNING):
                    continue
                named = {image.original_key, image.display_key, image.overlay_key, image.heat_key}
                if key in {*named, image.pixels_key, image.envelope_key, *elsewhere}:
                    continue
            get_blobs().delete(key)

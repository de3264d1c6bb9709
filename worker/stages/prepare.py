"""Prepare: decode each file in the sandbox, gate, de-identify and keep it; stack the model inputs."""

from __future__ import annotations

import hashlib
import time
import uuid
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from sqlalchemy import func
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from pipeline.decode import Limits, Stopped, decode
from pipeline.preprocess import display_jpeg, model_input
from pipeline.types import Radiograph, Rejected, Skipped, StudyFacts, UInt8Array
from settings import get_settings
from store.accounts.sites import pseudonymiser
from store.base.blobs import get_blobs
from store.base.errors import BlobAltered, BlobMissing
from store.base.sealed_blobs import get_opened
from store.base.session import session_scope
from store.base.tables import Image, Work
from store.intake import envelopes, received
from store.intake.devices import device_of
from store.operations import drift
from store.queue import counters, work
from store.queue.work import Lease
from store.reading import studies
from vocabulary.reasons import Reason
from vocabulary.states import ImageStatus, Stage
from worker.base.written import Written, picture_key
from worker.reading.study_reports import FACTS
from worker.stages.chunk import Chunk, drop_scratch, pack_inputs, scratch_of
from worker.stages.purpose import Purpose
from worker.stages.runner import ChunkStage, Outcome, Saving, held


@dataclass(frozen=True)
class _Prepared:
    radiograph: Radiograph
    display_sha256: str | None
    stored_sha256: str | None
    envelope: str | None = None
    device: tuple[str, str, str] | None = None


@cache
def _pseudonymiser(site_id: uuid.UUID):  # noqa: ANN202 - a callable
    return pseudonymiser(site_id)


def _bytes_of(image: Image, purpose: Purpose) -> bytes:
    never_uploaded = purpose.source(image)
    if never_uploaded is not None:
        return never_uploaded
    source, stated = image.original_key, image.original_sha256
    if image.incoming_key is not None:
        stated, data = image.sha256, get_opened(image.incoming_key)
    elif source is not None:
        data = get_blobs().get(source)
    else:
        raise BlobMissing("the image has neither an upload nor a kept copy")
    if stated is not None and hashlib.sha256(data).hexdigest() != stated:
        raise BlobAltered  # a finding is kept under this hash, for whoever sends these bytes again
    return data


def _prepare_one(image: Image, decoding: _Decoding, written: Written) -> _Prepared | Rejected | Skipped:
    try:
        radiograph = decoding.decode(image)
    except (Rejected, Skipped) as verdict:
        return verdict
    purpose = decoding.chunk.purpose
    if purpose.is_clinical and _is_own_object(image, radiograph.facts.sop_uid):
        return Skipped(Reason.MADE_HERE)
    stored, display = image.original_sha256, None
    if image.original_key is None and purpose.keeps_original(image):
        stored, _ = written.put(picture_key(image, "original"), radiograph.stored, image)
    if purpose.keeps_display(image):
        display, _ = written.put(picture_key(image, "display.jpg"), display_jpeg(radiograph.pixels), image)
    envelope = _seal_identity(image, radiograph, decoding, written)
    device = device_of(image.site_id, decoding.last_read) if _came_as_dicom(image, radiograph) else None
    return _Prepared(radiograph, display, stored, envelope, device)


def _seal_identity(image: Image, radiograph: Radiograph, decoding: _Decoding, written: Written) -> str | None:
    """Seal what an object that goes back to the archive needs of its patient; return the envelope's key."""
    if not _came_as_dicom(image, radiograph):
        return None
    public = decoding.public_key
    plain = envelopes.identity_of(decoding.last_read) if public else None
    if public is None or plain is None:
        return None
    binding = envelopes.Binding(image.site_id, radiograph.facts.study_uid, image.id)
    key = picture_key(image, "envelope")
    written.put(key, envelopes.seal(public, plain, binding), image)
    return key


def _came_as_dicom(image: Image, radiograph: Radiograph) -> bool:
    """Tell whether the bytes are those that were sent, with all that their header said."""
    return image.incoming_key is not None and radiograph.media_type == "application/dicom"


def _is_own_object(image: Image, sop_uid: str) -> bool:
    """Tell whether the object is a result of ours that came back, whatever its header says by now."""
    if not sop_uid:
        return False
    with session_scope() as session:
        return bool(received.made_here(session, image.site_id, [sop_uid]))


class _Decoding:
    """What decoding a chunk's files has taken so far, and whether it is still wanted."""

    #: Seconds between two questions whether the batch was cancelled meanwhile.
    ASK_EVERY = 0.5

    def __init__(self, chunk: Chunk) -> None:
        self.chunk = chunk
        self.seconds = 0.0
        self.last_read = b""
        self._asked = time.monotonic()

    def decode(self, image: Image) -> Radiograph:
        """Decode an image's bytes in the sandbox.

        Raises
        ------
        Rejected, Skipped
            As `pipeline.decode.decode`.
        Stopped
            The batch was cancelled, or another worker has the chunk.
        """
        if self._unwanted():
            raise Stopped
        settings, data = get_settings(), _bytes_of(image, self.chunk.purpose)
        self.last_read = data
        started = time.monotonic()
        try:
            return decode(
                data,
                max_pixels=settings.max_pixels,
                pseudonymise=_pseudonymiser(image.site_id),
                refuse_burned_in=settings.burned_in_annotation == "refuse",
                owner=str(image.batch_id),
                limits=Limits(
                    settings.decode_cpu_seconds, settings.decode_wall_seconds, settings.decode_memory_bytes
                ),
                stop=self._unwanted,
            )
        finally:
            self.seconds += time.monotonic() - started

    @cached_property
    def public_key(self) -> bytes | None:
        """The key to which identities are sealed, asked for once a chunk; None where the site has none."""
        with session_scope() as session:
            return envelopes.current_key(session, self.chunk.lease.site_id)

    @property
    def has_had_its_share(self) -> bool:
        """Tell whether others are to be let in before the rest of the chunk."""
        return self.seconds >= get_settings().decode_slice_seconds

    def _unwanted(self) -> bool:
        if time.monotonic() - self._asked < self.ASK_EVERY:
            return False
        self._asked = time.monotonic()
        try:
            with session_scope() as session:
                return not work.should_continue(session, self.chunk.lease)
        except SQLAlchemyError:
            return False  # the save will tell


def _apply_facts(image: Image, facts: StudyFacts) -> None:
    """Take over what the header says; where it is silent the manifest's word stays. Flag where they differ.

    A view is not compared: it has no closed list of words.
    """
    for name in FACTS:
        said, before = getattr(facts, name), getattr(image, name)
        if said in ("", None):
            continue
        if name in ("accession", "laterality") and before not in ("", said):
            image.flags = sorted({*image.flags, Reason.MANIFEST_CONTRADICTS_HEADER.value})
        setattr(image, name, said)


@dataclass
class _PreparedChunk:
    """What `prepare` made of a chunk, or of its first images where it gave way to others."""

    written: Written
    results: dict[uuid.UUID, _Prepared | Rejected | Skipped]
    scratch: str | None
    decode_seconds: float
    uploads: list[str]
    gave_way: bool = False


class Prepare(ChunkStage[_PreparedChunk]):
    """Decode, gate, de-identify and keep each image; stack the model inputs."""

    name = Stage.PREPARE

    def begin(self, lease: Lease) -> list[Image]:
        """Mark batch and images as running; return the images."""
        with held(lease) as (session, unit):
            images = work.images_of(session, unit.id)
            work.start_batch(session, lease.batch_id)
            with counters.counted(session, lease.batch_id, images):
                for image in images:
                    image.status = ImageStatus.RUNNING.value
        return images

    def compute(self, chunk: Chunk) -> _PreparedChunk:
        """Prepare one image after the other, while the site has its share and the batch is wanted."""
        sizes = sorted({size for bundle in chunk.bundles for size in bundle.input_sizes})
        results: dict[uuid.UUID, _Prepared | Rejected | Skipped] = {}
        inputs: dict[int, list[UInt8Array]] = {size: [] for size in sizes}
        ids: list[uuid.UUID] = []
        scratch: str | None = None
        decoding, written = _Decoding(chunk), Written()
        with written:
            for image in chunk.images:
                if decoding.has_had_its_share:
                    break
                try:
                    result = results[image.id] = _prepare_one(image, decoding, written)
                except Stopped:
                    break
                if isinstance(result, _Prepared):
                    ids.append(image.id)
                    for size in sizes:
                        inputs[size].append(model_input(result.radiograph.pixels, size))
                    # the pixels of a whole chunk need not be held
                    results[image.id] = _Prepared(
                        _without_pixels(result.radiograph),
                        result.display_sha256,
                        result.stored_sha256,
                        result.envelope,
                        result.device,
                    )
            if ids:
                scratch = f"{scratch_of(chunk.batch.id)}{chunk.lease.work_id}/{chunk.lease.token}.npz"
                written.put(
                    scratch, pack_inputs({size: np.stack(rows) for size, rows in inputs.items()}, ids)
                )
            written.keep()
        uploads = [image.incoming_key for image in chunk.images if image.id in results and image.incoming_key]
        return _PreparedChunk(written, results, scratch, decoding.seconds, uploads)

    def scratch(self, unit: Work, result: _PreparedChunk) -> str | None:
        """Return where this attempt put it."""
        return result.scratch

    def narrow(
        self, session: Session, unit: Work, images: list[Image], result: _PreparedChunk
    ) -> list[Image]:
        """Queue images not reached in time as units of their own."""
        rest = [image for image in images if image.id not in result.results]
        if rest:
            result.gave_way = True
            work.leave_rest(session, unit, rest)
        return [image for image in images if image.id in result.results]

    def save(self, saving: Saving, result: _PreparedChunk) -> bool:
        """Keep what was prepared, reject what cannot be read, and make studies."""
        images, session, clinical = saving.images, saving.session, saving.chunk.purpose.is_clinical
        _drop_skipped(saving, result)
        _note_devices(saving, result)
        for image in images:
            prepared = result.results[image.id]
            if isinstance(prepared, _Prepared):
                _keep_prepared(image, prepared)
            elif isinstance(prepared, Rejected):
                _reject(image, prepared.reason, prepared.detail)
        # an evaluation keeps every row, and makes studies only for reports
        if images and (clinical or any(image.manifest_study for image in images)):
            studies.assign(session, images)
        running = [image for image in images if image.status == ImageStatus.RUNNING]
        if running and clinical:
            for copy in studies.first_copies(session, running):
                twin = next(image for image in running if image.id == copy)
                _reject(twin, Reason.DUPLICATE_IN_STUDY, "")
            studies.flag_corrections(session, running)
        return any(image.status == ImageStatus.RUNNING for image in images)

    def after(self, chunk: Chunk, result: _PreparedChunk, outcome: Outcome, *, goes_on: bool) -> None:
        """Delete uploads that have their copy, and whatever no row names."""
        if outcome is not Outcome.SAVED:
            result.written.discard()
            return
        if result.gave_way:
            with session_scope() as session:
                work.rest_site(session, chunk.lease.site_id, result.decode_seconds)
        for key in result.uploads:
            get_blobs().delete(key)
        drop_scratch(chunk.lease.scratch)
        if not goes_on:
            drop_scratch(result.scratch)


def _without_pixels(radiograph: Radiograph) -> Radiograph:
    values = {**radiograph.__dict__, "pixels": np.zeros((0, 0), np.uint8), "stored": b""}
    return Radiograph(**values)


def _drop_skipped(saving: Saving, result: _PreparedChunk) -> None:
    """Take what is no image of a study out of the batch, counted."""
    skipped = [image for image in saving.images if isinstance(result.results[image.id], Skipped)]
    for image in skipped:
        saving.images.remove(image)
        saving.session.delete(image)
    saving.counts["n_skipped"] += len(skipped)
    saving.counts["n_total"] -= len(skipped)
    saving.counts["n_bytes"] -= sum(image.size for image in skipped)
    saving.session.flush()


def _note_devices(saving: Saving, result: _PreparedChunk) -> None:
    """Register the devices that made the images."""
    made = {id_: each.device for id_, each in result.results.items() if isinstance(each, _Prepared)}
    found = [device for device in made.values() if device is not None]
    if not found:
        return
    site_id = saving.chunk.lease.site_id
    drift.register_devices(saving.session, site_id, found)
    known = drift.device_ids(saving.session, site_id)
    for image in saving.images:
        if (device := made.get(image.id)) is not None:
            image.device_id = known[device]


def _keep_prepared(image: Image, prepared: _Prepared) -> None:
    radiograph = prepared.radiograph
    if image.original_key is None:
        _apply_facts(image, radiograph.facts)
        if prepared.stored_sha256 is not None:
            image.original_key, image.original_sha256 = picture_key(image, "original"), prepared.stored_sha256
            image.media_type = radiograph.media_type
        image.flags = sorted({*image.flags, *(flag.value for flag in radiograph.flags)})
        image.rendering = [{"code": s.code.value, "detail": s.detail} for s in radiograph.rendering]
    image.incoming_key = None
    image.envelope_key = prepared.envelope or image.envelope_key
    if prepared.display_sha256 is not None:
        image.display_key, image.display_sha256 = picture_key(image, "display.jpg"), prepared.display_sha256
    image.width, image.height = radiograph.width, radiograph.height


def _reject(image: Image, reason: Reason, detail: str) -> None:
    image.status = ImageStatus.REJECTED.value
    image.reason = reason.value
    image.error = detail or None
    image.passed = counters.LAST
    image.incoming_key = None
    image.finished_at = func.clock_timestamp()

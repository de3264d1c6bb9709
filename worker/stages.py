"""The five stages and the end of a batch: load, call `pipeline` and `models`, save under the lease.

Each stage computes with no transaction open, then writes rows, counters and the handing-on of the unit in one
transaction that first locks the unit under this lease. Whatever is written twice comes out the same.
"""

from __future__ import annotations

import hashlib
import io
import logging
import threading
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache, lru_cache, partial
from types import TracebackType
from typing import Any, cast

import cv2
import numpy as np
from billiard.exceptions import SoftTimeLimitExceeded
from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from models.bundle import Bundle, load_bundle
from models.scorer import FractureScores, Scorer, ScorerError, open_scorer
from pipeline.anatomy import family_of
from pipeline.boxes import suspected_places
from pipeline.decode import Limits, Stopped, decode, sandbox
from pipeline.evidence import part_evidence
from pipeline.explain import attention_regions, body_mask, overlay_jpeg, share_on_body
from pipeline.preprocess import display_jpeg, model_input
from pipeline.report import render
from pipeline.report.types import BundleCard, EarlierSignature, ReportImage, Signature, StudyReport
from pipeline.routing import route
from pipeline.study import ImageOutcome, study_finding
from pipeline.triage import PICTURE_FLAGS, calibrate, may_be_negative, triage, withheld
from pipeline.types import (
    AttentionRegion,
    Float16Array,
    ImageStatus,
    Radiograph,
    Reason,
    RegionModel,
    Rejected,
    Skipped,
    Stage,
    StudyFacts,
    SuspectedBox,
    Triage,
    UInt8Array,
)
from pipeline.types import Finding as ReadFinding
from settings import VERSION, get_settings
from store import batch_end, batches, counters, runs, studies, uploads, validations, work, worklist
from store.blobs import get_blobs
from store.bundles import fetch_bundle
from store.errors import BlobAltered, BlobMissing, ServiceError
from store.research_tables import Run, RunPicture
from store.session import session_scope
from store.sites import pseudonymiser
from store.tables import Batch, Finding, Image, Site, Study, StudyFinding, Work
from store.work import Lease
from worker import rescoring
from worker.flow import NotReady, describe, is_away

log = logging.getLogger("fractureai.stages")

FACTS = tuple(StudyFacts.__dataclass_fields__)
FINISH_PAGE = 200
#: Studies whose findings are read and written together; a killed worker leaves at most so many stray PDFs.
REPORTS_AT_ONCE = 8
#: Images whose attention maps the end of a cancelled batch draws together.
EXPLAINED_AT_ONCE = 16


# what a process keeps


@lru_cache(maxsize=4)
def _bundle(name: str) -> Bundle:
    return load_bundle(fetch_bundle(name, get_settings().cache_folder / "bundles"))


#: The warm-up's thread and the task's share one scorer.
_scoring = threading.Lock()


@lru_cache(maxsize=4)
def _scorer(name: str, precision: str) -> Scorer:
    settings = get_settings()
    return open_scorer(
        _bundle(name),
        backend=settings.scorer_backend,
        precision=precision,
        threads=settings.scorer_threads,
        cache=settings.cache_folder / "networks",
        conversion_seconds=settings.conversion_seconds,
    )


@contextmanager
def _scorer_of(bundle: Bundle, precision: str) -> Iterator[Scorer]:
    """Hold the bundle's scorer; a worker that cannot score has failed no image.

    Raises
    ------
    NotReady
    """
    with _scoring:
        try:
            yield _scorer(bundle.name, precision)
        except ScorerError as error:
            raise NotReady(str(error)) from error


def warm_up(queues: set[str]) -> None:
    """Load what the first task would wait for: networks, or fonts. A failure is left to that task."""
    try:
        if "cpu" in queues:
            sandbox().warm_up()
        if "report" in queues:
            render.warm_up()
        if "gpu" not in queues:
            return
        with session_scope() as session:
            names = set(session.scalars(select(Site.default_bundle).where(Site.default_bundle.is_not(None))))
        for name in names:
            if name is not None:
                with _scorer_of(_bundle(name), get_settings().precision) as scorer:
                    scorer.warm_up()
    except Exception as error:
        log.warning("could not warm up (%s); the first task tries again", type(error).__name__)


@cache
def _pseudonymiser(site_id: uuid.UUID):  # noqa: ANN202 - a callable
    return pseudonymiser(site_id)


# what all stages do


@dataclass(frozen=True)
class _Chunk:
    """A chunk's images that have not ended, and what is asked for them.

    `bundles` has more than the batch's own `bundle` when a run asks for several at once.
    """

    images: list[Image]
    batch: Batch
    bundle: Bundle
    bundles: tuple[Bundle, ...]
    run: Run | None

    @property
    def precision(self) -> str:
        """Research repeats in one precision, whatever the service reads in."""
        return get_settings().precision if self.run is None else runs.PRECISION


def _load(lease: Lease) -> _Chunk:
    with session_scope() as session:
        images = work.images_of(session, lease.work_id)
        batch = session.get_one(Batch, lease.batch_id)
        run = rescoring.run_of(session, batch)
    bundles = tuple(_bundle(name) for name in rescoring.bundles_of(batch, run))
    return _Chunk(images, batch, _bundle(batch.bundle), bundles, run)


@contextmanager
def _saving(lease: Lease) -> Iterator[tuple[Session, Work]]:
    """Open the transaction of a stage's end: the unit locked under the lease.

    Raises
    ------
    StaleLease
    """
    with session_scope() as session:
        yield session, work.hold(session, lease)


def _locked_images(session: Session, lease: Lease) -> dict[uuid.UUID, Image]:
    return {image.id: image for image in work.images_of(session, lease.work_id)}


def _pack(stacks: dict[int, UInt8Array], ids: list[uuid.UUID]) -> bytes:
    buffer = io.BytesIO()
    arrays = {f"s{size}": stack for size, stack in stacks.items()}
    np.savez(buffer, ids=np.frombuffer(b"".join(i.bytes for i in ids), np.uint8), **arrays)
    return buffer.getvalue()


class _Stacks:
    """A chunk's model inputs, read back from the blob store."""

    def __init__(self, lease: Lease) -> None:
        if lease.scratch is None:
            raise BlobMissing("the chunk has no input stack")
        with np.load(io.BytesIO(get_blobs().get(lease.scratch)), allow_pickle=False) as arrays:
            raw = arrays["ids"].tobytes()
            self._rows = {uuid.UUID(bytes=raw[n : n + 16]): n // 16 for n in range(0, len(raw), 16)}
            self._stacks = {int(name[1:]): arrays[name] for name in arrays.files if name != "ids"}

    def take(self, images: Iterable[Image], size: int) -> UInt8Array:
        """Return uint8 (n, size, size), a row an image."""
        return self._stacks[size][[self._rows[image.id] for image in images]]


def _scratch_of(batch_id: uuid.UUID) -> str:
    """Return what the keys of a batch's input stacks begin with: its end deletes whatever is left there."""
    return f"scratch/{batch_id}/"


def _drop_scratch(key: str | None) -> None:
    if key is not None:
        get_blobs().delete(key)


# prepare


@dataclass(frozen=True)
class _Prepared:
    radiograph: Radiograph
    display_sha256: str | None
    stored_sha256: str | None


class _Written:
    """What a stage puts into the blob store: named by its commit, or deleted by the stage itself."""

    def __init__(self) -> None:
        self._pictures: dict[str, uuid.UUID] = {}
        self._others: list[str] = []

    def __enter__(self) -> _Written:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, work.StaleLease):  # another worker has the chunk, or its batch has ended
            self.discard()

    def put(self, key: str, data: bytes, image: Image | None = None) -> tuple[str, int]:
        """Put bytes, of an image or of this attempt alone; return their hex SHA-256 and size."""
        if image is None:
            self._others.append(key)
        else:
            self._pictures[key] = image.id
        return get_blobs().put(key, data, named=False)

    def keep(self) -> None:
        """Let them outlast a power cut: the stage's commit is going to name them."""
        get_blobs().keep_names([*self._pictures, *self._others])

    def discard(self) -> None:
        """Delete what no image names and none is about to name: the lease is lost, or the batch cancelled."""
        for key in self._others:
            get_blobs().delete(key)
        _delete_unnamed(self._pictures)


def _delete_unnamed(keys: Mapping[str, uuid.UUID]) -> None:
    """Delete those of the images' pictures and originals that nobody names and nobody is about to name.

    Every attempt writes the same keys: of an image that has not ended, they are another worker's. The rows
    are locked meanwhile, so that a retry waits.
    """
    with session_scope() as session:
        query = select(Image).where(Image.id.in_(set(keys.values()))).order_by(Image.id)
        images = {image.id: image for image in session.scalars(query.with_for_update())}
        pictures = set(session.scalars(select(RunPicture.key).where(RunPicture.image_id.in_(images))))
        for key, id_ in keys.items():
            image = images.get(id_)
            if image is not None:
                if image.status in (ImageStatus.UPLOADED, ImageStatus.QUEUED, ImageStatus.RUNNING):
                    continue
                if key in {image.original_key, image.display_key, image.overlay_key, *pictures}:
                    continue
            get_blobs().delete(key)


def _key(image: Image, name: str) -> str:
    return f"images/{image.site_id}/{image.id}/{name}"


def _bytes_of(image: Image) -> bytes:
    elsewhere = rescoring.read_source(image)
    if elsewhere is not None:
        return elsewhere
    source, stated = image.original_key, image.original_sha256
    if image.incoming_key is not None:
        source, stated = image.incoming_key, image.sha256
    if source is None:
        raise BlobMissing("the image has neither an upload nor a kept copy")
    data = get_blobs().get(source)
    if stated is not None and hashlib.sha256(data).hexdigest() != stated:
        raise BlobAltered  # a finding is kept under this hash, for whoever sends these bytes again
    return data


def _prepare_one(image: Image, decoding: _Decoding, written: _Written) -> _Prepared | Rejected | Skipped:
    try:
        radiograph = decoding.decode(image)
    except (Rejected, Skipped) as verdict:
        return verdict
    if image.source_key is not None:  # another image's bytes: nothing of them is kept twice
        return _Prepared(radiograph, None, None)
    stored = image.original_sha256
    if image.original_key is None and image.dataset_image_id is None:
        stored, _ = written.put(_key(image, "original"), radiograph.stored, image)
    display, _ = written.put(_key(image, "display.jpg"), display_jpeg(radiograph.pixels), image)
    return _Prepared(radiograph, display, stored)


class _Decoding:
    """What decoding a chunk's files has taken so far, and whether it is still wanted."""

    #: Seconds between two questions whether the batch was cancelled meanwhile.
    ASK_EVERY = 0.5

    def __init__(self, lease: Lease) -> None:
        self.lease = lease
        self.seconds = 0.0
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
        settings, data = get_settings(), _bytes_of(image)
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
                return not work.still_wanted(session, self.lease)
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


def prepare(lease: Lease) -> bool:
    """Decode, gate, de-identify and keep each image; stack the model inputs."""
    with _saving(lease) as (session, _):
        images = list(_locked_images(session, lease).values())
        work.start_batch(session, lease.batch_id)
        with counters.counted(session, lease.batch_id, images):
            for image in images:
                image.status = ImageStatus.RUNNING.value
    chunk = _load(lease)
    sizes = sorted({size for bundle in chunk.bundles for size in bundle.input_sizes})
    results: dict[uuid.UUID, _Prepared | Rejected | Skipped] = {}
    inputs: dict[int, list[UInt8Array]] = {size: [] for size in sizes}
    ids: list[uuid.UUID] = []
    scratch: str | None = None
    decoding, rest = _Decoding(lease), list[Image]()
    with _Written() as written:
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
                    _without_pixels(result.radiograph), result.display_sha256, result.stored_sha256
                )
        if ids:
            scratch = f"{_scratch_of(lease.batch_id)}{lease.work_id}/{lease.token}.npz"
            written.put(scratch, _pack({size: np.stack(rows) for size, rows in inputs.items()}, ids))
        read = [image for image in chunk.images if image.id in results]
        uploads = [image.incoming_key for image in read if image.incoming_key]
        written.keep()
        with _saving(lease) as (session, unit):
            if cancelled := work.cancelled_meanwhile(session, unit):
                goes_on, old_scratch, uploads = False, None, []
            else:
                images = list(_locked_images(session, lease).values())
                if rest := [image for image in images if image.id not in results]:
                    work.leave_rest(session, unit, rest)
                    images = [image for image in images if image.id in results]
                if images:
                    _save_prepared(session, lease, images, results, clinical=chunk.run is None)
                goes_on = any(image.status == ImageStatus.RUNNING for image in images if image.id in results)
                old_scratch, unit.scratch = unit.scratch, scratch if goes_on else None
                work.pass_stage(session, unit, Stage.CLASSIFY if goes_on else None)
        if cancelled:
            written.discard()
    if rest:
        with session_scope() as session:
            work.rest_site(session, lease.site_id, decoding.seconds)
    for key in uploads:
        get_blobs().delete(key)
    _drop_scratch(old_scratch)
    if not goes_on:
        _drop_scratch(scratch)
    return goes_on


def _without_pixels(radiograph: Radiograph) -> Radiograph:
    values = {**radiograph.__dict__, "pixels": np.zeros((0, 0), np.uint8), "stored": b""}
    return Radiograph(**values)


def _save_prepared(
    session: Session,
    lease: Lease,
    images: list[Image],
    results: dict[uuid.UUID, _Prepared | Rejected | Skipped],
    *,
    clinical: bool,
) -> None:
    skipped = [image for image in images if isinstance(results[image.id], Skipped)]
    if skipped:
        gone = counters.tally_images(skipped)
        gone["n_total"] += len(skipped)
        gone["n_bytes"] += sum(image.size for image in skipped)
        delta: Counter[str] = Counter({"n_skipped": len(skipped)})
        delta.subtract(gone)
        for image in skipped:
            images.remove(image)
            session.delete(image)
        session.flush()
        if not images:
            counters.apply(session, lease.batch_id, delta)
            return
        counters.apply(session, lease.batch_id, delta)
    with counters.counted(session, lease.batch_id, images):
        for image in images:
            result = results[image.id]
            if isinstance(result, _Prepared):
                _keep_prepared(image, result)
            elif isinstance(result, Rejected):
                _reject(image, result.reason, result.detail)
        if not clinical:  # an evaluation keeps every row, and makes studies only for reports
            if any(image.manifest_study for image in images):
                studies.assign(session, images)
            return
        studies.assign(session, images)
        session.flush()
        running = [image for image in images if image.status == ImageStatus.RUNNING]
        if running:
            for copy in studies.first_copies(session, running):
                twin = next(image for image in running if image.id == copy)
                _reject(twin, Reason.DUPLICATE_IN_STUDY, "")
            session.flush()
            studies.flag_corrections(session, running)


def _keep_prepared(image: Image, prepared: _Prepared) -> None:
    radiograph = prepared.radiograph
    if image.original_key is None:
        _apply_facts(image, radiograph.facts)
        if prepared.stored_sha256 is not None:
            image.original_key, image.original_sha256 = _key(image, "original"), prepared.stored_sha256
            image.media_type = radiograph.media_type
        image.flags = sorted({*image.flags, *(flag.value for flag in radiograph.flags)})
        image.rendering = [{"code": s.code.value, "detail": s.detail} for s in radiograph.rendering]
    image.incoming_key = None
    if prepared.display_sha256 is not None:
        image.display_key, image.display_sha256 = _key(image, "display.jpg"), prepared.display_sha256
    image.width, image.height = radiograph.width, radiograph.height
    image.stage = 1


def _reject(image: Image, reason: Reason, detail: str) -> None:
    image.status = ImageStatus.REJECTED.value
    image.reason = reason.value
    image.error = detail or None
    image.stage = counters.PASSED_ALL
    image.incoming_key = None
    image.finished_at = func.clock_timestamp()


# classify


def _shared_findings(
    session: Session, images: Iterable[Image], bundle: str, precision: str
) -> dict[str, Finding]:
    listed = list(images)
    rows = session.scalars(
        select(Finding).where(
            Finding.site_id == listed[0].site_id,
            Finding.bundle == bundle,
            Finding.precision == precision,
            Finding.sha256.in_({image.sha256 for image in listed}),
        )
    )
    return {row.sha256: row for row in rows}


def _new_findings(lease: Lease, chunk: _Chunk, bundle: Bundle) -> list[dict[str, Any]]:
    """Tell the regions of what `bundle` has not seen yet, as rows of findings."""
    with session_scope() as session:
        known = _shared_findings(session, chunk.images, bundle.name, chunk.precision) if chunk.images else {}
    todo = list({image.sha256: image for image in chunk.images if image.sha256 not in known}.values())
    if not todo:
        return []
    stack = _Stacks(lease).take(todo, bundle.region_input_size)
    with _scorer_of(bundle, chunk.precision) as scorer:
        rescoring.count(chunk.run, classified=len(todo))
        scores = scorer.classify(stack)
    rows = []
    for image, row, distance in zip(todo, scores.probabilities, scores.distances, strict=True):
        probabilities = {region: float(p) for region, p in zip(bundle.regions, row, strict=True)}
        way = route(
            probabilities,
            float(distance),
            bundle.routing,
            body_part=image.body_part,
            view=image.view,
            modality=image.modality,
            picture=sorted(PICTURE_FLAGS & {Reason(flag) for flag in image.flags}),
            regions=tuple(r for r in bundle.regions if bundle.model_for(r) is not None),
            families=bundle.families,
        )
        rows.append(
            {
                "id": uuid.uuid4(),
                "site_id": lease.site_id,
                "sha256": image.sha256,
                "bundle": bundle.name,
                "precision": chunk.precision,
                "region": way.region,
                "region_probability": way.probability,
                "region_probabilities": probabilities,
                "distance": float(distance),
                "not_assessable": way.not_assessable.value if way.not_assessable else None,
                "triage": Triage.NOT_ASSESSABLE.value if way.not_assessable else None,
                "flags": [flag.value for flag in way.flags],
            }
        )
    return rows


def classify(lease: Lease) -> bool:
    """Tell each image's region, or why it is not assessed; what a bundle has said of the bytes stands."""
    chunk = _load(lease)
    rows = [row for bundle in chunk.bundles for row in _new_findings(lease, chunk, bundle)]
    with _saving(lease) as (session, unit):
        if work.cancelled_meanwhile(session, unit):
            return False
        if rows:
            rows.sort(key=lambda row: (str(row["bundle"]), str(row["sha256"])))
            session.execute(insert(Finding).values(rows).on_conflict_do_nothing())
        images = list(_locked_images(session, lease).values())
        findings = _shared_findings(session, images, chunk.bundle.name, chunk.precision)
        with counters.counted(session, lease.batch_id, images):
            for image in images:
                image.finding_id = findings[image.sha256].id
                image.stage = max(image.stage, 2)
        work.pass_stage(session, unit, Stage.DETECT)
    return True


# detect


@dataclass(frozen=True)
class _Score:
    logit: float
    cam: Float16Array
    places: list[dict[str, Any]] | None


def _scored(image: Image, bundle: Bundle, answer: FractureScores, number: int) -> _Score:
    """Take the answer for one image, with its suspected places where the bundle draws them."""
    places = None
    if bundle.places is not None and answer.evidence.shape[1] and image.width and image.height:
        found = suspected_places(answer.evidence[number], image.width, image.height, bundle.places)
        places = [asdict(place.in_pixels(image.width, image.height)) for place in found]
    return _Score(float(answer.logits[number]), answer.cams[number], places)


def _new_scores(lease: Lease, chunk: _Chunk, bundle: Bundle) -> dict[tuple[str, str], _Score]:
    """Score what `bundle` has not scored yet; by (sha256, network)."""
    with session_scope() as session:
        findings = _shared_findings(session, chunk.images, bundle.name, chunk.precision)
        heard = rescoring.networks_heard(session, list(findings.values()))
    groups: defaultdict[str, dict[str, Image]] = defaultdict(dict)
    for image in chunk.images:
        wanted = rescoring.networks_wanted(bundle, findings[image.sha256], chunk.run)
        for network in wanted - heard.get(image.sha256, set()):
            groups[network][image.sha256] = image
    scores: dict[tuple[str, str], _Score] = {}
    stacks = _Stacks(lease) if groups else None
    for network, images_by_sha in sorted(groups.items()):
        images = list(images_by_sha.values())
        stack = cast(_Stacks, stacks).take(images, bundle.input_size(network))
        with _scorer_of(bundle, chunk.precision) as scorer:
            rescoring.count(chunk.run, detected=len(images))
            answer = scorer.detect(network, stack)
        for number, image in enumerate(images):
            scores[image.sha256, network] = _scored(image, bundle, answer, number)
    return scores


def detect(lease: Lease) -> bool:
    """Read each image by its region's network: probability and class-activation map in one pass."""
    chunk = _load(lease)
    scores = {bundle.name: _new_scores(lease, chunk, bundle) for bundle in chunk.bundles}
    with _saving(lease) as (session, unit):
        if work.cancelled_meanwhile(session, unit):
            return False
        for bundle in sorted(chunk.bundles, key=lambda b: b.name):
            findings = _shared_findings(session, chunk.images, bundle.name, chunk.precision)
            allowed = _may_say_negative(session, lease.site_id, bundle)
            for (sha256, network), score in sorted(scores[bundle.name].items()):
                _save_score(session, findings[sha256], bundle, network, score, allowed)
        session.expire_all()  # another worker may have said it first
        images = list(_locked_images(session, lease).values())
        findings = _shared_findings(session, images, chunk.bundle.name, chunk.precision)
        allowed = _may_say_negative(session, lease.site_id, chunk.bundle)
        with counters.counted(session, lease.batch_id, images):
            for image in images:
                _apply_finding(image, findings[image.sha256], chunk.bundle, allowed)
        work.pass_stage(session, unit, Stage.EXPLAIN)
    return True


def _reader(bundle: Bundle, region: str) -> RegionModel:
    model = bundle.model_for(region)
    if model is None:
        raise LookupError(f"bundle {bundle.name} has no network for {region}")
    return model


def _may_say_negative(session: Session, site_id: uuid.UUID, bundle: Bundle) -> frozenset[str]:
    """Return the regions that the bundle may call negative here: by its evidence or the site's validation."""
    earned = {region for region, model in bundle.models.items() if model.may_say_negative}
    return validations.validated(session, site_id, bundle.name) | earned


def _save_score(
    session: Session,
    finding: Finding,
    bundle: Bundle,
    network: str,
    score: _Score,
    may_say_negative: frozenset[str],
) -> None:
    cam = score.cam.astype(np.float16).tobytes()
    side = score.cam.shape[0], score.cam.shape[1]
    reader = bundle.model_for(finding.region)
    if finding.not_assessable is not None or reader is None or reader.network != network:
        rescoring.save_forced(session, finding, network, score.logit, cam, side)
        return
    probability = calibrate(score.logit, reader.calibration)
    session.execute(
        update(Finding)
        .where(Finding.id == finding.id, Finding.logit.is_(None))  # the first to score it has said it
        .values(
            network=network,
            logit=score.logit,
            probability=probability,
            triage=triage(
                probability,
                reader.thresholds,
                never_negative=finding.region not in may_say_negative
                or not may_be_negative(map(Reason, finding.flags)),
            ).value,
            cam=cam,
            cam_height=side[0],
            cam_width=side[1],
            suspected_places=score.places,
        )
    )


def _apply_finding(image: Image, finding: Finding, bundle: Bundle, may_say_negative: frozenset[str]) -> None:
    """Put the shared finding beside the image, with this image's own flags."""
    image.finding_id = finding.id
    image.region, image.region_probability = finding.region, finding.region_probability
    image.stage = max(image.stage, 3)
    flags = {Reason(flag) for flag in (*image.flags, *finding.flags)}
    not_assessable = finding.not_assessable
    if Reason.TOO_LITTLE_CONTRAST in flags:  # the finding of these bytes may be older than that measure
        flags.remove(Reason.TOO_LITTLE_CONTRAST)
        not_assessable = Reason.TOO_LITTLE_CONTRAST.value
    if not_assessable is not None:
        image.reason = not_assessable
        image.triage, image.probability = Triage.NOT_ASSESSABLE.value, None
    elif finding.probability is not None:
        reader = _reader(bundle, finding.region)
        if reader.pooled:
            flags.add(Reason.POOLED_MODEL)
        flags.discard(Reason.NEGATIVE_NOT_VALIDATED)  # read again, it may have been earned meanwhile
        flags |= withheld(
            finding.probability, reader.thresholds, may_say_negative=finding.region in may_say_negative
        )
        image.probability = finding.probability
        image.triage = triage(
            finding.probability, reader.thresholds, never_negative=not may_be_negative(flags)
        ).value
    image.flags = sorted(flag.value for flag in flags)


# explain


#: On what else nothing is marked: the map of a negative points at what the model did not find.
_MARKED = frozenset({Triage.POSITIVE.value, Triage.DOUBT.value})


def _grey(jpeg: bytes) -> UInt8Array:
    return cast(UInt8Array, cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_GRAYSCALE))


@dataclass(frozen=True)
class _Attention:
    """Where the model looked in some images: regions, places, and the SHA-256 and size of each drawn map."""

    regions: Mapping[uuid.UUID, tuple[AttentionRegion, ...]]
    places: Mapping[uuid.UUID, list[Any]]
    maps: Mapping[uuid.UUID, tuple[str, int]]

    def apply(self, image: Image) -> None:
        """Put it into the image's row."""
        image.attention_regions = [asdict(region) for region in self.regions.get(image.id, ())]
        image.suspected_places = self.places.get(image.id, [])
        if image.id in self.maps:
            image.overlay_key = _key(image, "overlay.jpg")
            image.overlay_sha256, image.overlay_size = self.maps[image.id]


def _attention(images: Iterable[Image], findings: Mapping[str, Finding], *, draw: bool) -> _Attention:
    """Look where the model looked: on the body alone; nothing is marked on a negative."""
    blobs = get_blobs()
    regions: dict[uuid.UUID, tuple[AttentionRegion, ...]] = {}
    places: dict[uuid.UUID, list[Any]] = {}
    maps: dict[uuid.UUID, tuple[str, int]] = {}
    for image in images:
        finding = findings[image.sha256]
        cam = rescoring.cam_of(finding)
        if cam is None or image.width is None or image.height is None or image.display_key is None:
            continue
        marked = image.triage in _MARKED
        if not marked and not draw:
            continue
        grey = _grey(blobs.get(image.display_key))
        body = body_mask(grey)
        if marked:
            width, height = image.width, image.height
            regions[image.id] = attention_regions(cam, width=width, height=height, body=body)
            places[image.id] = [
                place
                for place in finding.suspected_places or ()
                if share_on_body(
                    body,
                    place["x"] / width,
                    place["y"] / height,
                    place["width"] / width,
                    place["height"] / height,
                )
                >= 0.5
            ]
        if draw:
            picture = overlay_jpeg(grey, cam, marked=marked, body=body)
            maps[image.id] = blobs.put(_key(image, "overlay.jpg"), picture)
    return _Attention(regions, places, maps)


def explain(lease: Lease) -> bool:
    """Draw each read image's attention map, and name its attention regions in original pixels."""
    chunk = _load(lease)
    with session_scope() as session:
        findings = _shared_findings(session, chunk.images, chunk.bundle.name, chunk.precision)
    attention = _attention(chunk.images, findings, draw=chunk.batch.with_heatmap)
    drawn = attention.maps
    pictures = _run_pictures(chunk, drawn) if chunk.run is not None and chunk.batch.with_heatmap else {}
    with _saving(lease) as (session, unit):
        if work.cancelled_meanwhile(session, unit):
            return False
        images = list(_locked_images(session, lease).values())
        with counters.counted(session, lease.batch_id, images):
            for image in images:
                attention.apply(image)
                image.stage = max(image.stage, 4)
        rescoring.save_pictures(session, pictures)
        work.pass_stage(session, unit, Stage.REPORT)
    return True


def _explain_cancelled(batch: Batch) -> None:
    """Draw what a cancel left undrawn: the attention maps of images that had been read before it."""
    query = (
        select(Image)
        .where(
            Image.batch_id == batch.id,
            Image.status == ImageStatus.DONE,
            Image.probability.is_not(None),
            Image.display_key.is_not(None),
            Image.overlay_key.is_(None) if batch.with_heatmap else Image.attention_regions == [],
        )
        .order_by(Image.seq)
    )
    with session_scope() as session:
        ids = list(session.scalars(query.with_only_columns(Image.id)))
    for start in range(0, len(ids), EXPLAINED_AT_ONCE):
        part = Image.id.in_(ids[start : start + EXPLAINED_AT_ONCE])
        with session_scope() as session:
            images = list(session.scalars(query.where(part)))
            wanted = {image.finding_id for image in images}
            rows = session.scalars(select(Finding).where(Finding.id.in_(wanted)))
            findings = {row.sha256: row for row in rows}
        attention = _attention(images, findings, draw=batch.with_heatmap)
        with session_scope() as session:
            for image in session.scalars(query.where(part).with_for_update()):
                attention.apply(image)


def _run_pictures(
    chunk: _Chunk, drawn: Mapping[uuid.UUID, tuple[str, int]]
) -> dict[tuple[uuid.UUID, str], tuple[str, str, int]]:
    """Draw each bundle's attention maps over a run's images; by image and bundle: key, SHA-256, size.

    The batch's own bundle has drawn what it has read.
    """
    blobs, kept, maps = get_blobs(), {}, {}
    negative = set()
    with session_scope() as session:
        for bundle in chunk.bundles:
            findings = _shared_findings(session, chunk.images, bundle.name, chunk.precision)
            maps[bundle.name] = rescoring.maps_of(session, bundle, findings.values())
            negative |= {(bundle.name, f.sha256) for f in findings.values() if f.triage == Triage.NEGATIVE}
    for image in chunk.images:
        seen: tuple[UInt8Array, UInt8Array] | None = None  # picture and body, looked at once for all bundles
        for name, by_hash in maps.items():
            if name == chunk.bundle.name and image.id in drawn:
                kept[image.id, name] = (_key(image, "overlay.jpg"), *drawn[image.id])
            elif image.sha256 in by_hash and image.display_key is not None:
                if seen is None:
                    grey = _grey(blobs.get(image.display_key))
                    seen = grey, body_mask(grey)
                key = _key(image, f"attention-{name}.jpg")
                marked = (name, image.sha256) not in negative
                picture = overlay_jpeg(seen[0], by_hash[image.sha256], marked=marked, body=seen[1])
                kept[image.id, name] = (key, *blobs.put(key, picture))
    return kept


# report


def report(lease: Lease) -> bool:
    """Say what each study of the chunk amounts to, and write its PDF once all its images are explained."""
    chunk = _load(lease)
    ids = sorted({image.study_id for image in chunk.images if image.study_id}, key=str)
    for start in range(0, len(ids), REPORTS_AT_ONCE):
        _write_studies(ids[start : start + REPORTS_AT_ONCE], chunk.batch)
    with _saving(lease) as (session, unit):
        if work.cancelled_meanwhile(session, unit):
            return False
        images = list(_locked_images(session, lease).values())
        with counters.counted(session, lease.batch_id, images):
            for image in images:
                image.status = ImageStatus.DONE.value
                image.stage = counters.PASSED_ALL
                image.finished_at = func.clock_timestamp()
        unit.scratch = None
        work.pass_stage(session, unit, None)
    _drop_scratch(lease.scratch)
    return False


def _write_studies(study_ids: Sequence[uuid.UUID], batch: Batch) -> None:
    """Write a new version of each study's finding and report if what it stands on has changed."""
    with session_scope() as session:
        todo, states, latest = _due(session, study_ids, batch)
        if not todo:
            return
        site = session.get_one(Site, batch.site_id)
        rows = {study.id: study for study in session.scalars(select(Study).where(Study.id.in_(todo)))}
        signed = studies.last_signed(session, todo)
        read = [image.finding_id for id_ in todo for image in states[id_].images if image.finding_id]
        findings = {f.id: f for f in session.scalars(select(Finding).where(Finding.id.in_(read)))}
    new = []
    for id_ in todo:
        images, before = states[id_].images, latest.get(id_)
        version = before.version + 1 if before else 1
        said = study_finding([_outcome(image) for image in images])
        reasons = study_reasons(rows[id_], said.reasons)
        kept: studies.Report | None = None
        if batch.with_report:
            document = study_report(
                site,
                rows[id_],
                batch,
                version,
                said.triage,
                reasons,
                images,
                findings,
                earlier=earlier_signature(signed.get(id_), batch.bundle, states[id_].basis),
            )
            pdf = render.render_report(document)
            name = f"{batch.bundle}-v{version}-{uuid.uuid4().hex[:8]}.pdf"
            key = f"reports/{batch.site_id}/{id_}/{name}"
            kept = studies.Report(key, *get_blobs().put(key, pdf))
        new.append(
            studies.NewFinding(id_, states[id_].basis, said.triage, reasons, len(images), version, kept)
        )
    with session_scope() as session:
        saved = studies.save_findings(session, batch, new)
    for finding in new:
        if finding.study_id not in saved and finding.report is not None:
            get_blobs().delete(finding.report.key)  # another worker wrote this version; its key differs


def study_reasons(study: Study, reasons: tuple[Reason, ...]) -> tuple[Reason, ...]:
    """Return a finding's reasons, and whether other patients' images came under the study's identifier."""
    conflict = Reason.STUDY_IDENTITY_CONFLICT
    return (*reasons, conflict) if study.uid_shared and conflict not in reasons else reasons


def _due(
    session: Session, study_ids: Sequence[uuid.UUID], batch: Batch
) -> tuple[list[uuid.UUID], dict[uuid.UUID, studies.StudyState], dict[uuid.UUID, StudyFinding]]:
    """Return the studies that want a new version, and of all what they stand on and what was said last."""
    # of a study that is not ready: whoever explains its last image writes it
    ids = sorted(studies.ready(session, study_ids, batch.id), key=str)
    states = studies.study_states(session, ids, batch.bundle)
    latest = studies.latest_findings(session, ids, batch.bundle)

    def wants(id_: uuid.UUID) -> bool:
        before = latest.get(id_)
        if before is not None and before.basis == states[id_].basis:
            return batch.with_report and before.report_key is None
        return any(_was_read(image) for image in states[id_].images)  # else the rows say why

    return [id_ for id_ in ids if wants(id_)], states, latest


def _was_read(image: Image) -> bool:
    """Tell whether the image was assessed; its finding is there earlier, as soon as the region is known."""
    return image.finding_id is not None and image.triage is not None


def _status(image: Image) -> ImageStatus:
    """Return how the image counts in a study: once it is read it is as good as done."""
    return ImageStatus.DONE if _was_read(image) else ImageStatus(image.status)


def _reasons(image: Image) -> tuple[Reason, ...]:
    codes = ([image.reason] if image.reason else []) + [f for f in image.flags if f != image.reason]
    return tuple(Reason(code) for code in codes)


def _outcome(image: Image) -> ImageOutcome:
    return ImageOutcome(
        status=_status(image),
        triage=Triage(image.triage) if image.triage and image.finding_id else None,
        probability=image.probability if _was_read(image) else None,
        reasons=_reasons(image),
    )


def _facts(image: Image) -> StudyFacts:
    return StudyFacts(**{name: getattr(image, name) for name in FACTS})


def earlier_signature(signed: StudyFinding | None, bundle: str, basis: str) -> EarlierSignature | None:
    """Return what a report says of the version that was signed last, if any was."""
    if signed is None or signed.signed_at is None:
        return None
    return EarlierSignature(
        version=signed.version,
        bundle=signed.bundle,
        reader=signed.signed_by or "",
        signed_at=signed.signed_at,
        amended=(signed.bundle, signed.basis) != (bundle, basis),
    )


def study_report(
    site: Site,
    study: Study,
    batch: Batch,
    version: int,
    worst: Triage,
    reasons: tuple[Reason, ...],
    images: list[Image],
    findings: dict[uuid.UUID, Finding],
    signature: Signature | None = None,
    earlier: EarlierSignature | None = None,
) -> StudyReport:
    """Gather what a study's report says; its pictures are read from the blob store."""
    bundle = _bundle(batch.bundle)
    numbers = studies.numbers(images)
    pages = tuple(
        _report_image(
            numbers[image.id],
            image,
            findings.get(image.finding_id) if image.finding_id else None,
            bundle,
            batch,
        )
        for image in images
    )
    first = images[0]
    facts = StudyFacts(
        accession=study.accession or first.accession,
        study_uid=study.study_uid,
        study_date=study.study_date or first.study_date,
        study_time=first.study_time,
        laterality=first.laterality if len({image.laterality for image in images}) == 1 else "",
        age_years=next((image.age_years for image in images if image.age_years is not None), None),
        patient_hash=study.patient_hash,
        body_part=first.body_part,
        view=first.view if len(images) == 1 else "",
    )
    return StudyReport(
        site_name=site.name,
        study_id=str(study.id),
        version=version,
        created_at=datetime.now(UTC),
        facts=facts,
        triage=worst,
        reasons=reasons,
        images=pages,
        bundle=BundleCard(
            name=bundle.name,
            sha256=bundle.sha256,
            label_meaning=bundle.label_meaning,
            trained_on=bundle.trained_on,
            limits=bundle.limits,
        ),
        software_version=VERSION,
        signature=signature,
        earlier=earlier,
    )


def _report_image(
    number: int, image: Image, finding: Finding | None, bundle: Bundle, batch: Batch
) -> ReportImage:
    blobs = get_blobs()
    reader = bundle.model_for(finding.region) if finding and finding.not_assessable is None else None
    read = None
    if finding is not None and image.triage is not None:
        read = ReadFinding(
            region=finding.region,
            region_probability=finding.region_probability,
            region_probabilities=finding.region_probabilities,
            probability=finding.probability,
            triage=Triage(image.triage),
            reasons=_reasons(image),
            attention_regions=tuple(AttentionRegion(**region) for region in image.attention_regions),
            suspected_places=tuple(SuspectedBox(**place) for place in image.suspected_places),
        )
    evidence = part_evidence(bundle.manifest, finding.region) if finding is not None and reader else None
    return ReportImage(
        number=number,
        image_id=str(image.id),
        status=_status(image),
        facts=_facts(image),
        width=image.width or 0,
        height=image.height or 0,
        reason=Reason(image.reason) if image.reason else None,
        finding=read,
        thresholds=reader.thresholds if reader else None,
        prevalence=reader.calibration.prevalence if reader else None,
        network=reader.network if reader else "",
        pooled=reader.pooled if reader else False,
        family=family_of(finding.region, bundle.families) if finding and reader else "",
        evidence=evidence,
        flags=tuple(Reason(flag) for flag in image.flags),
        original_jpeg=blobs.get(image.display_key) if image.display_key else None,
        overlay_jpeg=blobs.get(image.overlay_key) if image.overlay_key and batch.with_heatmap else None,
    )


# finish


#: What the stages write of an image, beside a run's pictures.
PICTURES = ("original", "display.jpg", "overlay.jpg")


def _sweep_pictures(batch_id: uuid.UUID) -> None:
    """Delete what stages wrote of images that were cancelled or failed before a commit had named it."""
    ended = [ImageStatus.CANCELLED.value, ImageStatus.FAILED.value]
    with session_scope() as session:
        query = (
            select(Image)
            .join(Work, Work.id == Image.work_id)
            .where(Image.batch_id == batch_id, Image.status.in_(ended), Work.taken > 0)
            .where(Image.overlay_key.is_(None))
        )
        written = {_key(image, name): image.id for image in session.scalars(query) for name in PICTURES}
    keys = list(written)
    for start in range(0, len(keys), FINISH_PAGE):
        _delete_unnamed({key: written[key] for key in keys[start : start + FINISH_PAGE]})


def _sweep(batch_id: uuid.UUID) -> None:
    """Delete what nothing needs any more of a batch whose images have all ended.

    Input stacks: of chunks that were cancelled or split, and of workers killed before they had named theirs
    or deleted it. Uploads: of workers killed, or left by the blob store, between the commit that no longer
    names one and its deletion; what a retry can still use is named. No unit of the round is at work any
    more, and the next round waits for this end.
    """
    blobs = get_blobs()
    for key in list(blobs.keys(_scratch_of(batch_id))):
        blobs.delete(key)
    with session_scope() as session:
        named = select(Image.incoming_key).where(Image.batch_id == batch_id, Image.incoming_key.is_not(None))
        kept = set(session.scalars(named))
    for key in list(blobs.keys(batches.incoming_of(batch_id))):
        if key not in kept:
            blobs.delete(key)


class _EndSteps:
    """What the end of a batch wants, step by step: one that fails holds no other back."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.errors: list[Exception] = []
        self.more = False

    def do(self, what: str, step: Callable[[], None]) -> None:
        """Do one step; keep its error for later."""
        try:
            step()
        except (SoftTimeLimitExceeded, work.StaleLease):
            raise
        except Exception as error:
            log.warning("the end of batch %s: %s failed (%s)", self.batch.id, what, describe(error))
            self.errors.append(error)

    def raise_first(self) -> None:
        """Raise what went wrong: what is a fault before what is merely away."""
        if self.errors:
            raise next((error for error in self.errors if not is_away(error)), self.errors[0])

    def write_studies(self) -> None:
        """Write the studies that miss a finding or a report; there may be `more` than one task has time for.

        Of a group that cannot be written, each is tried alone: its neighbours must not miss theirs.
        """
        written = False
        until = time.monotonic() + get_settings().soft_time_limit / 2
        with session_scope() as session:
            waiting = studies.needs_finding(session, self.batch)
        for first in range(0, len(waiting), FINISH_PAGE):
            with session_scope() as session:  # few of a page are due: all of it is read at once
                due = _due(session, waiting[first : first + FINISH_PAGE], self.batch)[0]
            for start in range(0, len(due), REPORTS_AT_ONCE):
                group = due[start : start + REPORTS_AT_ONCE]
                try:
                    _write_studies(group, self.batch)
                    written = True
                except Exception as error:
                    if is_away(error) or isinstance(error, SoftTimeLimitExceeded):
                        raise
                    for id_ in group:
                        self.do(f"study {id_}", partial(_write_studies, [id_], self.batch))
                if written and time.monotonic() > until:
                    self.more = True
                    return


def finish(lease: Lease) -> bool:
    """End a round of a batch: what is left of study findings, then its final status.

    When a step fails the others are done all the same, and an attempt is counted; `batch_end.give_up` ends a
    batch whose end fails for too long.
    """
    with session_scope() as session:
        batch = session.get_one(Batch, lease.batch_id)
    if batch.round == lease.round:
        steps = _EndSteps(batch)
        if batch.run_id is None:
            if batch.cancelled_at is not None:
                steps.do("attention maps", partial(_explain_cancelled, batch))
            steps.do("studies of what was not read", partial(_assign_unread, batch))
        steps.do("studies", steps.write_studies)
        if steps.more:
            with session_scope() as session:
                work.postpone(session, lease, 0.0)
            return False
        steps.do("worklist", partial(worklist.fill, batch))
        steps.do("what is left of chunks", partial(_sweep, lease.batch_id))
        steps.do("what is left of pictures", partial(_sweep_pictures, lease.batch_id))
        steps.raise_first()
    with _saving(lease) as (session, unit):
        batch = session.get_one(Batch, lease.batch_id, with_for_update=True, populate_existing=True)
        if ends := batch_end.is_ended(batch, lease.round):
            batch_end.end(session, batch)
            batch_end.announce(session, batch)
        work.pass_stage(session, unit, None)
    if ends and batch.cancelled_at is not None:
        with suppress(ServiceError):  # `reconcile` does it later
            uploads.delete_old(lease.batch_id)
    return False


def _assign_unread(batch: Batch) -> None:
    with session_scope() as session:
        studies.assign_unread(session, batch)

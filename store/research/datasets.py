"""Data sets: labelled radiographs that stay where they lie; labels are apart from what scoring reads."""

from __future__ import annotations

import hashlib
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache

from sqlalchemy import delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from store.base.blobs import BlobStore, open_blobs
from store.base.errors import BlobMissing, NotFound, ServiceError
from store.base.session import session_scope
from store.research.research_tables import Dataset, DatasetImage, DatasetLabel, Run

MISSING = "missing"


class DatasetExists(ServiceError):
    """The name is taken by other files."""

    code, status = "dataset_exists", 409
    title = "A data set of this name with other files is here already."
    advice = "Give this one a new name, or remove the other one first."


class DatasetInUse(ServiceError):
    """Runs stand on the data set."""

    code, status = "dataset_in_use", 409
    title = "Runs stand on this data set, and their reports have permanent addresses."
    advice = "Delete the runs first, or keep it: nothing of its images is stored here."


@dataclass(frozen=True)
class NewImage:
    """An image as a reader of published data sets gives it; `path` is below the data set's root."""

    path: str
    study: str
    patient: str
    region: str
    part: str
    label: bool | None


@dataclass(frozen=True)
class ScanResult:
    """What a look at an image's bytes gave; `look` is its perceptual hash."""

    id: uuid.UUID
    sha256: str | None
    size: int | None
    problem: str | None
    look: bytes | None = None


def add_dataset(
    session: Session,
    site_id: uuid.UUID,
    *,
    name: str,
    root: str,
    format: str,
    label_meaning: str,
    images: Sequence[NewImage],
    left_out: Mapping[str, int],
) -> Dataset:
    """Register images, or find those that an interrupted registration of the same files left.

    Their numbers follow the hashes of their paths, so that neither a number nor its neighbours tell a label.

    Raises
    ------
    DatasetExists
    """
    ordered = sorted(images, key=lambda image: hashlib.sha256(image.path.encode()).digest())
    known = session.scalar(select(Dataset).where(Dataset.site_id == site_id, Dataset.name == name))
    if known is not None:
        paths = session.scalars(select(DatasetImage.path).where(DatasetImage.dataset_id == known.id))
        if known.root != root or set(paths) != {image.path for image in images}:
            raise DatasetExists(name)
        return known
    dataset = Dataset(
        id=uuid.uuid4(),
        site_id=site_id,
        name=name,
        root=root,
        format=format,
        label_meaning=label_meaning,
        n_images=len(ordered),
        left_out=dict(left_out),
    )
    session.add(dataset)
    session.flush()
    for start in range(0, len(ordered), 1000):
        part = [(uuid.uuid4(), n, i) for n, i in enumerate(ordered[start : start + 1000], start + 1)]
        session.execute(
            insert(DatasetImage),
            [
                {
                    "id": id_,
                    "dataset_id": dataset.id,
                    "number": number,
                    "path": image.path,
                    "study": image.study,
                    "patient": image.patient,
                    "region": image.region,
                    "part": image.part,
                }
                for id_, number, image in part
            ],
        )
        labels = [
            {"image_id": id_, "name": label_meaning, "value": image.label}
            for id_, _, image in part
            if image.label is not None
        ]
        if labels:
            session.execute(insert(DatasetLabel), labels)
    return dataset


def waiting(session: Session, dataset_id: uuid.UUID, limit: int) -> list[DatasetImage]:
    """Return images that were not looked at yet, or before looks were kept."""
    return list(
        session.scalars(
            select(DatasetImage)
            .where(
                DatasetImage.dataset_id == dataset_id,
                DatasetImage.look.is_(None),
                DatasetImage.problem.is_(None),
            )
            .order_by(DatasetImage.number)
            .limit(limit)
        )
    )


def count_waiting(session: Session, dataset_id: uuid.UUID) -> int:
    """Return how many images `waiting` has in all."""
    here = (
        (DatasetImage.dataset_id == dataset_id) & DatasetImage.look.is_(None) & DatasetImage.problem.is_(None)
    )
    return session.scalar(select(func.count()).select_from(DatasetImage).where(here)) or 0


def save_scan_results(session: Session, dataset_id: uuid.UUID, seen: Iterable[ScanResult]) -> None:
    """Save scan results of some images."""
    rows = [asdict(one) for one in seen]
    session.execute(update(DatasetImage), rows)
    seen_now = func.least(Dataset.n_seen + len(rows), Dataset.n_images)
    session.execute(update(Dataset).where(Dataset.id == dataset_id).values(n_seen=seen_now))


def end_scan(session: Session, dataset_id: uuid.UUID) -> Dataset:
    """Hash the data set as a whole once every image was looked at."""
    dataset = session.get_one(Dataset, dataset_id)
    digest = hashlib.sha256()
    query = (
        select(DatasetImage.sha256, DatasetImage.path)
        .where(DatasetImage.dataset_id == dataset_id)
        .order_by(DatasetImage.path.collate("C"))
    )
    for sha256, path in session.execute(query):
        digest.update(f"{sha256 or '-' * 64}  {path}\n".encode())
    dataset.sha256 = digest.hexdigest()
    dataset.scanned_at = func.clock_timestamp()
    session.flush()
    session.refresh(dataset)
    return dataset


def list_datasets(session: Session, site_id: uuid.UUID) -> list[Dataset]:
    """Return the site's data sets, the newest first."""
    query = select(Dataset).where(Dataset.site_id == site_id).order_by(Dataset.created_at.desc())
    return list(session.scalars(query))


def get_dataset(session: Session, site_id: uuid.UUID, which: uuid.UUID | str) -> Dataset:
    """Return one data set of the site by its id or its name. Raises `NotFound`."""
    column = Dataset.id if isinstance(which, uuid.UUID) else Dataset.name
    dataset = session.scalar(select(Dataset).where(Dataset.site_id == site_id, column == which))
    if dataset is None:
        raise NotFound
    return dataset


@dataclass(frozen=True)
class Contents:
    """What lies in a data set: images by part and region, and by what is wrong with them.

    `without_look` counts usable images that were registered before looks were kept.
    """

    parts: Mapping[str, int]
    regions: Mapping[str, int]
    problems: Mapping[str, int]
    studies: int
    patients: int
    label_names: tuple[str, ...]
    without_look: int


def contents(session: Session, dataset: Dataset) -> Contents:
    """Count a data set. Labels are named here and not counted: that is the evaluation's."""
    here = DatasetImage.dataset_id == dataset.id
    rows = session.execute(
        select(DatasetImage.part, DatasetImage.region, DatasetImage.problem, func.count())
        .where(here)
        .group_by(DatasetImage.part, DatasetImage.region, DatasetImage.problem)
    ).all()
    parts, regions, problems = Counter[str](), Counter[str](), Counter[str]()
    for part, region, problem, n in rows:
        parts[part] += n
        regions[region or "not stated"] += n
        if problem:
            problems[problem] += n
    studies, patients = session.execute(
        select(
            func.count(func.distinct(DatasetImage.study)), func.count(func.distinct(DatasetImage.patient))
        ).where(here)
    ).one()
    names = session.scalars(
        select(DatasetLabel.name)
        .join(DatasetImage, DatasetImage.id == DatasetLabel.image_id)
        .where(here)
        .distinct()
        .order_by(DatasetLabel.name)
    )
    return Contents(
        dict(sorted(parts.items())),
        dict(sorted(regions.items())),
        dict(problems),
        studies,
        patients,
        tuple(names),
        count_waiting(session, dataset.id) if dataset.sha256 else 0,
    )


def with_problems(session: Session, dataset: Dataset, limit: int = 100) -> list[DatasetImage]:
    """Return images that are missing or broken."""
    return list(
        session.scalars(
            select(DatasetImage)
            .where(DatasetImage.dataset_id == dataset.id, DatasetImage.problem.is_not(None))
            .order_by(DatasetImage.path)
            .limit(limit)
        )
    )


def in_use(session: Session, dataset: Dataset) -> bool:
    """Tell whether runs stand on a data set."""
    return session.scalar(select(Run.id).where(Run.dataset_id == dataset.id).limit(1)) is not None


def remove_dataset(session: Session, dataset: Dataset) -> None:
    """Delete a data set's rows; its files are not touched. Raises `DatasetInUse`."""
    if in_use(session, dataset):
        raise DatasetInUse(dataset.name)
    session.execute(delete(Dataset).where(Dataset.id == dataset.id))


@lru_cache(maxsize=8)
def open_root(root: str) -> BlobStore:
    """Return what reads a data set's files; nothing writes through it."""
    return open_blobs(root)


def read_image(image_id: uuid.UUID) -> bytes:
    """Return the bytes of a registered image, which are still those that were registered.

    The caller learns neither path nor label.

    Raises
    ------
    BlobMissing
        The file is gone or altered.
    """
    with session_scope() as session:
        root, path, sha256 = session.execute(
            select(Dataset.root, DatasetImage.path, DatasetImage.sha256)
            .join(Dataset, Dataset.id == DatasetImage.dataset_id)
            .where(DatasetImage.id == image_id)
        ).one()
    data = open_root(root).get(path)
    if hashlib.sha256(data).hexdigest() != sha256:
        raise BlobMissing("altered since it was registered")
    return data

"""What the pages of research ask of scores: one image as each bundle saw it, a shadow beside the service."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session, aliased

from settings import get_settings
from store.base.errors import NotFound
from store.base.tables import Batch, Bundle, Finding, Image
from store.research.research_tables import DatasetImage, FindingScore, Run, RunPicture
from store.research.runs import PRECISION


@dataclass(frozen=True)
class BundleFinding:
    """What one bundle said of one image.

    Attributes
    ----------
    forced
        The service would not have read it.
    kept
        Its attention map is there as a picture.
    """

    bundle: str
    region: str
    region_probability: float
    probability: float | None
    not_assessable: str | None
    forced: bool
    cam: bytes | None
    cam_height: int
    cam_width: int
    kept: bool


@dataclass(frozen=True)
class RunImage:
    """One image of a run, and what each of some bundles said of it."""

    image: Image
    entry: DatasetImage
    said: tuple[BundleFinding, ...]


def image_of(session: Session, run: Run, number: int, bundles: Sequence[str] | None = None) -> RunImage:
    """Return one image of a data set's run by its number in the data set.

    Parameters
    ----------
    bundles
        Whose word is wanted, whichever run they scored it in; those of the run if None.

    Raises
    ------
    NotFound
    """
    names = list(dict.fromkeys(run.bundles if bundles is None else bundles))
    found = session.execute(
        select(Image, DatasetImage)
        .join(DatasetImage, DatasetImage.id == Image.dataset_image_id)
        .where(Image.batch_id == run.batch_id, DatasetImage.number == number)
    ).first()
    if found is None:
        raise NotFound
    image, entry = found
    findings = session.scalars(
        select(Finding).where(
            Finding.site_id == run.site_id,
            Finding.sha256 == image.sha256,
            Finding.bundle.in_(names),
            Finding.precision == PRECISION,
        )
    ).all()
    models = {
        name: manifest["models"]
        for name, manifest in session.execute(
            select(Bundle.name, Bundle.manifest).where(Bundle.name.in_(names))
        )
    }
    kept = set(session.scalars(select(RunPicture.bundle).where(RunPicture.image_id == image.id)))
    said = {}
    for finding in findings:
        own = finding.cam is not None
        cam = finding if own else _forced(session, finding, models[finding.bundle])
        said[finding.bundle] = BundleFinding(
            finding.bundle,
            finding.region,
            finding.region_probability,
            finding.probability,
            finding.not_assessable,
            not own,
            cam.cam if cam else None,
            (cam.cam_height if cam else 0) or 0,
            (cam.cam_width if cam else 0) or 0,
            finding.bundle in kept,
        )
    return RunImage(image, entry, tuple(said[name] for name in names if name in said))


def _forced(
    session: Session, finding: Finding, models: Mapping[str, Mapping[str, str]]
) -> FindingScore | None:
    """Return the score by force: of the network of the most probable region that the bundle reads."""
    region = min(models, key=lambda region: (-finding.region_probabilities.get(region, 0.0), region))
    return session.get(FindingScore, (finding.id, models[region]["network"]))


def picture_of(session: Session, run: Run, number: int, bundle: str) -> RunPicture:
    """Return a bundle's attention map over one image of a run, as it was kept. Raises `NotFound`."""
    picture = session.get(RunPicture, (image_of(session, run, number, ()).image.id, bundle))
    if picture is None:
        raise NotFound
    return picture


@dataclass(frozen=True)
class Agreement:
    """A shadow bundle beside the one that serves, on the same images.

    Attributes
    ----------
    table
        How many images the serving bundle called one thing and the shadow another, by (serving, shadow).
    changed
        Images that one calls positive and the other negative.
    mean_difference
        Mean absolute difference of the probabilities where both read the image.
    """

    images: int
    waiting: int
    agree: int
    changed: int
    mean_difference: float | None
    table: dict[tuple[str, str], int]


def shadow_agreement(session: Session, run: Run) -> Agreement:
    """Compare what the serving and the shadow bundle said of a site's traffic; no label is known there."""
    serving, shadow = run.bundles
    a, b = aliased(Finding), aliased(Finding)
    rows = session.execute(
        select(a.triage, b.triage, a.probability, b.probability)
        .select_from(Image)
        .join(Batch, Batch.id == Image.batch_id)
        .outerjoin(
            a,
            (a.site_id == run.site_id)
            & (a.sha256 == Image.sha256)
            & (a.bundle == serving)
            & (a.precision == get_settings().precision),
        )
        .outerjoin(b, (b.id == Image.finding_id) & (b.bundle == shadow))
        .where(Batch.run_id == run.id)
    ).all()
    both = [(x, y, p, q) for x, y, p, q in rows if x and y]
    gaps = [abs(p - q) for _, _, p, q in both if p is not None and q is not None]
    return Agreement(
        images=len(both),
        waiting=len(rows) - len(both),
        agree=sum(x == y for x, y, _, _ in both),
        changed=sum({x, y} == {"positive", "negative"} for x, y, _, _ in both),
        mean_difference=sum(gaps) / len(gaps) if gaps else None,
        table=dict(sorted(Counter((x, y) for x, y, _, _ in both).items())),
    )

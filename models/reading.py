"""One file to a finding with its attention map, without a server: what a notebook uses.

The stages of the service do the same in chunks; a test holds the two together.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from models.bundle import Bundle, load_bundle
from models.scorer import Scorer, open_scorer
from pipeline.decode import decode
from pipeline.explain import heat_map, locate_attention, overlay_jpeg
from pipeline.preprocess import display_jpeg, model_input
from pipeline.triage import calibrate, judge
from pipeline.types import (
    Finding,
    Float32Array,
    Radiograph,
    RegionModel,
    Route,
    SuspectedBox,
)
from vocabulary.reasons import Reason
from vocabulary.states import Triage

BUNDLES = Path(__file__).resolve().parent / "bundles"
MAX_PIXELS = 100_000_000


@dataclass(frozen=True)
class Reading:
    """What a bundle says of one radiograph. AI output, to be verified by a clinician.

    Attributes
    ----------
    radiograph
        The decoded image: pixels, and what its header said, without names and ids.
    finding
        Region, calibrated probability, triage, reasons, attention regions and suspected places.
    heat
        The attention map over the picture, float32 (height, width), 0-1; None where nothing was read.
    display, overlay
        JPEGs: the picture as people see it, and the attention map drawn on it (None where nothing was read).
    """

    radiograph: Radiograph
    finding: Finding
    heat: Float32Array | None
    display: bytes
    overlay: bytes | None


class Reader:
    """Reads one image at a time with one bundle; use `open_reader`."""

    def __init__(self, bundle: Bundle, scorer: Scorer) -> None:
        self.bundle = bundle
        self._scorer = scorer

    def read(self, file: Path | str | bytes) -> Reading:
        """Read a file (PNG, JPEG, TIFF, WebP or DICOM), or its bytes.

        Raises
        ------
        Rejected, Skipped
            The file is no radiograph that can be read; `reason` says why.
        """
        data = file if isinstance(file, bytes) else Path(file).read_bytes()
        radiograph = decode(data, max_pixels=MAX_PIXELS, pseudonymise=lambda _: "")
        display = display_jpeg(radiograph.pixels)
        way, probabilities = self._route(radiograph)
        model = None if way.not_assessable else self.bundle.model_for(way.region)
        if model is None:
            flags = {*radiograph.flags, *way.flags}
            if way.not_assessable:
                flags = {way.not_assessable, *flags}
            nothing = Finding(
                way.region, way.probability, probabilities, None, Triage.NOT_ASSESSABLE, _ordered(flags)
            )
            return Reading(radiograph, nothing, None, display, None)
        return self._looked_at(radiograph, display, way, probabilities, model)

    def _route(self, radiograph: Radiograph) -> tuple[Route, dict[str, float]]:
        bundle = self.bundle
        scores = self._scorer.classify(model_input(radiograph.pixels, bundle.region_input_size)[None])
        probabilities = dict(zip(bundle.regions, map(float, scores.probabilities[0]), strict=True))
        distance = float(scores.distances[0])
        return bundle.route(probabilities, distance, radiograph.facts, radiograph.flags), probabilities

    def _looked_at(
        self,
        radiograph: Radiograph,
        display: bytes,
        way: Route,
        probabilities: dict[str, float],
        model: RegionModel,
    ) -> Reading:
        """Score, calibrate and cut; draw where the network looked."""
        size = self.bundle.input_size(model.network)
        scores = self._scorer.detect(model.network, model_input(radiograph.pixels, size)[None])
        probability = calibrate(float(scores.logits[0]), model.calibration)
        flags = {*radiograph.flags, *way.flags}
        said, flags = judge(probability, model, flags, may_say_negative=model.may_say_negative)
        width, height = radiograph.width, radiograph.height
        found = scores.places(0, width, height, self.bundle.places) or ()
        boxes = [asdict(place.in_pixels(width, height)) for place in found]
        cam = scores.cams[0]
        seen = locate_attention(display, cam, boxes, said, width=width, height=height)
        places = tuple(SuspectedBox(**box) for box in seen.places)
        finding = Finding(
            way.region,
            way.probability,
            probabilities,
            probability,
            said,
            _ordered(flags),
            seen.regions,
            places,
        )
        overlay = overlay_jpeg(seen.grey, cam, marked=seen.marked, body=seen.body)
        return Reading(radiograph, finding, heat_map(cam, width=width, height=height), display, overlay)


def _ordered(flags: set[Reason]) -> tuple[Reason, ...]:
    return tuple(sorted(flags, key=lambda flag: flag.value))


def shipped_bundles() -> list[str]:
    """Return the names of the bundles that come with the package."""
    return sorted(manifest.parent.name for manifest in BUNDLES.glob("*/manifest.json"))


def open_reader(bundle: str | Path, *, backend: str = "auto", threads: int = 0) -> Reader:
    """Open a bundle for reading.

    Parameters
    ----------
    bundle
        The name of one that comes with the package (`shipped_bundles`), or a bundle's folder.
    backend, threads
        As of `models.scorer.open_scorer`.

    Raises
    ------
    BundleError
        There is none, or a file of it is not what its manifest says.
    """
    folder = BUNDLES / bundle if isinstance(bundle, str) and (BUNDLES / bundle).is_dir() else Path(bundle)
    opened = load_bundle(folder)
    return Reader(opened, open_scorer(opened, backend=backend, threads=threads))

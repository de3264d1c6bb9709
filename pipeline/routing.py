"""Region probabilities to the model that reads the image, or to an honest "not read"."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping

from pipeline.types import Reason, Route, RoutingRules

#: DICOM BodyPartExamined (PS3.16 annex L) to the regions that such an image may show.
#: FracAtlas calls everything from the finger to the elbow a hand and from the foot to the thigh a leg.
_HAND = frozenset({"hand"})
_LEG = frozenset({"leg"})
_HIP = frozenset({"hip"})
_SHOULDER = frozenset({"shoulder"})
BODY_PARTS: Mapping[str, frozenset[str]] = {
    **dict.fromkeys(("HAND", "FINGER", "THUMB", "WRIST", "PALM", "METACARPUS", "CARPUS"), _HAND),
    **dict.fromkeys(("FOREARM", "RADIUS", "ULNA", "RADIUSULNA", "LOWER ARM"), frozenset({"hand", "elbow"})),
    "ARM": frozenset({"hand", "elbow", "shoulder"}),
    "UPPER EXTREMITY": frozenset({"hand", "elbow", "shoulder"}),
    "ELBOW": frozenset({"elbow"}),
    **dict.fromkeys(("HUMERUS", "UPPER ARM"), frozenset({"shoulder", "elbow"})),
    **dict.fromkeys(("SHOULDER", "CLAVICLE", "SCAPULA", "ACJOINT", "AC JOINT", "AXILLA"), _SHOULDER),
    **dict.fromkeys(
        ("LEG", "LOWER LEG", "TIBIA", "FIBULA", "TIBIAFIBULA", "KNEE", "PATELLA", "CALF", "ANKLE", "FOOT"),
        _LEG,
    ),
    **dict.fromkeys(("TOE", "CALCANEUS", "HEEL", "HINDFOOT", "FOREFOOT", "MIDFOOT"), _LEG),
    **dict.fromkeys(("FEMUR", "THIGH", "UPPER LEG", "LOWER EXTREMITY"), frozenset({"leg", "hip"})),
    **dict.fromkeys(("HIP", "PELVIS", "PELVIS HIP", "SIJOINT", "ACETABULUM"), _HIP),
}
#: The families that those regions belong to, in a bundle that names the parts.
_FAMILIES = {"hand": "arm", "elbow": "arm"}
#: Says nothing about the region.
_VAGUE = frozenset({"", "EXTREMITY", "EXTREMITIES", "BONE", "SKELETON", "WHOLEBODY", "OTHER", "UNKNOWN"})


def regions_of(body_part: str) -> frozenset[str] | None:
    """Return the regions that a header's body part allows; None if it says nothing, empty if none we know."""
    name = " ".join(body_part.upper().replace("_", " ").split())
    if name in _VAGUE:
        return None
    singular = name[:-1] if name.endswith("S") and name not in BODY_PARTS else name
    return BODY_PARTS.get(singular, BODY_PARTS.get(singular.replace(" ", ""), frozenset()))


def route(
    probabilities: Mapping[str, float],
    distance: float | None,
    rules: RoutingRules,
    *,
    body_part: str,
    regions: Collection[str],
    families: Mapping[str, str] | None = None,
    picture: Collection[Reason] = (),
) -> Route:
    """Decide by which region's model an image is read, if at all.

    Parameters
    ----------
    probabilities
        Of every region that the region network knows.
    distance
        Of the image's features to the training data, see `models.scorer.Reference`; None if not measured.
    body_part
        BodyPartExamined of the header, or empty.
    regions
        Those that the bundle reads.
    families
        Region to family, in a bundle that has them: the header is held against the family.
    picture
        What decoding says of the picture; passed on as flags.

    Returns
    -------
    Route
        With the most probable region, also when the image is not read.
    """
    ranked = sorted(probabilities, key=lambda name: (-probabilities[name], name))
    top, probability = ranked[0], float(probabilities[ranked[0]])
    second = probabilities[ranked[1]] if len(ranked) > 1 else 0.0
    if rules.across_families and families:
        by_family: dict[str, float] = defaultdict(float)
        for name, p in probabilities.items():
            by_family[families.get(name, name)] += float(p)
        probability = by_family.pop(families.get(top, top))
        second = max(by_family.values(), default=0.0)
    stated, known, name_of_top = regions_of(body_part), set(regions), top
    # readers differ about the main subject of one arm; a header that names its neighbour is right
    if families:
        stated = None if stated is None else frozenset(_FAMILIES.get(name, name) for name in stated)
        known, name_of_top = {families.get(name, name) for name in regions}, families.get(top, top)
    # a part that nothing here reads may be in the picture: being second is enough to leave it alone
    limit = rules.second_region if rules.max_foreign is None else rules.max_foreign
    foreign = any(p >= limit for name, p in probabilities.items() if name not in regions)
    reason = None
    if Reason.TOO_LITTLE_CONTRAST in picture:
        reason = Reason.TOO_LITTLE_CONTRAST
    elif top not in regions or foreign or (stated is not None and not stated & known):
        reason = Reason.REGION_UNSUPPORTED
    elif rules.max_distance is not None and distance is not None and not distance <= rules.max_distance:
        reason = Reason.UNFAMILIAR_IMAGE
    elif not probability >= rules.min_probability:
        reason = Reason.REGION_UNSURE
    flags = [flag for flag in picture if flag is not Reason.TOO_LITTLE_CONTRAST]
    if stated is not None and stated & known and name_of_top not in stated:
        flags.append(Reason.REGION_CONTRADICTS_HEADER)
    if second >= rules.second_region:
        flags.append(Reason.SEVERAL_REGIONS)
    return Route(top, probability, reason, tuple(flags))

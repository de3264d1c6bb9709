"""Region probabilities to the model that reads the image, or to an honest "not read"."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping

from pipeline.types import Route, RoutingRules
from vocabulary.anatomy import family_of, stated_regions
from vocabulary.reasons import Reason


def route(
    probabilities: Mapping[str, float],
    distance: float | None,
    rules: RoutingRules,
    *,
    body_part: str,
    view: str = "",
    modality: str = "",
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
    body_part, view, modality
        Body Part Examined, View Position and Modality of the header, or empty. What they rule out is not
        read, whatever the network says.
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
    stated, known, name_of_top = stated_regions(body_part, view, modality), set(regions), top
    # readers differ about the main subject of one arm; a header that names its neighbour is right
    if families:
        stated = None if stated is None else frozenset(family_of(name, families) for name in stated)
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

"""Which model reads an image, and when none does."""

import pytest

from pipeline.routing import route
from pipeline.types import RoutingRules
from vocabulary.anatomy import stated_regions
from vocabulary.reasons import Reason

RULES = RoutingRules(min_probability=0.5, max_distance=10.0, second_region=0.3)
REGIONS = ("hand", "hip", "leg", "shoulder")


def routed(distance=1.0, body_part="", view="", modality="", **probabilities):
    return route(
        probabilities, distance, RULES, body_part=body_part, view=view, modality=modality, regions=REGIONS
    )


def test_a_clear_image_goes_to_its_region():
    found = routed(hand=0.9, leg=0.1)
    assert (found.region, found.probability, found.not_assessable, found.flags) == ("hand", 0.9, None, ())


def test_an_unsure_region_is_not_read():
    assert routed(hand=0.45, leg=0.2, hip=0.2, shoulder=0.15).not_assessable is Reason.REGION_UNSURE


@pytest.mark.parametrize("distance", [10.1, float("nan"), float("inf")])
def test_an_image_unlike_the_training_data_is_not_read(distance):
    assert routed(distance, hand=1.0).not_assessable is Reason.UNFAMILIAR_IMAGE


def test_the_distance_test_can_be_switched_off():
    rules = RoutingRules(0.5, None, 0.3)
    assert route({"hand": 1.0}, 99.0, rules, body_part="", regions=REGIONS).not_assessable is None
    assert route({"hand": 1.0}, None, RULES, body_part="", regions=REGIONS).not_assessable is None


def test_a_region_without_a_model_is_not_read():
    assert routed(other=0.9, hand=0.1).not_assessable is Reason.REGION_UNSUPPORTED
    assert routed(hand=0.69, other=0.31).not_assessable is Reason.REGION_UNSUPPORTED
    assert routed(hand=0.71, other=0.29).not_assessable is None


@pytest.mark.parametrize("part", ["CHEST", "JAW", "ELBOW", "SKULL", "CSPINE", "chest", "no such part"])
def test_a_header_that_names_another_part_ends_unread(part):
    assert routed(hand=1.0, body_part=part).not_assessable is Reason.REGION_UNSUPPORTED


@pytest.mark.parametrize("modality", ["CT", "MR", "US", "MG", "IO", "PX", "PT", "NM", "XA", "DOC", "XC"])
def test_a_modality_that_takes_no_radiographs_of_limbs_ends_unread(modality):
    assert routed(hand=1.0, body_part="HAND", modality=modality).not_assessable is Reason.REGION_UNSUPPORTED


@pytest.mark.parametrize("modality", ["", "CR", "DX", "RG", "RF", "OT"])
@pytest.mark.parametrize("view", ["", "PA", "AP", "LL", "LATERAL", "OBLIQUE", "RPO", "AXIAL", "MORTISE"])
def test_what_limbs_are_taken_by_and_in_says_nothing(modality, view):
    assert routed(hand=1.0, view=view, modality=modality) == routed(hand=1.0)


@pytest.mark.parametrize("view", ["CC", "MLO", "XCCL", "LORDOTIC", "LLD", "RLD", "DECUBITUS", "SWIMMERS"])
def test_a_view_that_only_other_examinations_have_ends_unread(view):
    assert routed(hand=1.0, view=view, modality="DX").not_assessable is Reason.REGION_UNSUPPORTED


@pytest.mark.parametrize("part", ["", "EXTREMITY", "extremity "])
def test_a_vague_header_says_nothing(part):
    assert stated_regions(part) is None
    assert routed(leg=1.0, body_part=part) == routed(leg=1.0)


@pytest.mark.parametrize(
    ("part", "region"),
    [
        *((part, "hand") for part in ("HAND", "HANDS", "FINGER", "THUMB", "WRIST", "FOREARM")),
        *((part, "leg") for part in ("KNEE", "TIBIA", "FIBULA", "ANKLE", "FOOT", "FEMUR", "Lower  Leg")),
        *((part, "hip") for part in ("HIP", "HIPS", "PELVIS", "FEMUR")),
        *((part, "shoulder") for part in ("SHOULDER", "SCAPULA", "HUMERUS")),
    ],
)
def test_headers_that_agree(part, region):
    found = routed(**{region: 1.0}, body_part=part)
    assert (found.not_assessable, found.flags) == (None, ())


def test_a_header_that_contradicts_the_picture_is_flagged_and_read():
    found = routed(leg=1.0, body_part="HAND")
    assert found.not_assessable is None
    assert found.flags == (Reason.REGION_CONTRADICTS_HEADER,)


def test_two_regions_in_one_image_are_flagged():
    assert routed(hand=0.6, shoulder=0.4).flags == (Reason.SEVERAL_REGIONS,)


def test_equal_probabilities_are_settled_by_name():
    assert routed(leg=0.5, hand=0.5).region == "hand"

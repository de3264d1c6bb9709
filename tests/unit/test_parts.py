"""The parts that two readers saw."""

import numpy as np

from pipeline.routing import route
from pipeline.types import RoutingRules
from training.datasets.parts import FAMILY, PARTS, read_parts
from vocabulary.reasons import Reason

RULES = RoutingRules(0.5, None, 0.35, across_families=True, max_foreign=0.3)


def told(**probabilities):
    said = dict.fromkeys((*PARTS, "other"), 0.0) | probabilities
    return route(said, None, RULES, body_part="", regions=PARTS, families=FAMILY)


def test_votes_are_shared_and_doubtful_parts_half_in_view(tmp_path):
    table = tmp_path / "parts.csv"
    table.write_text(
        "image_id,main,in_view,maybe,reader_a,reader_b\n"
        "a.jpg,wrist,wrist hand,forearm,wh,whf\n"
        "b.jpg,,knee,lower_leg,kl,lk\n"
        "c.jpg,trunk,shoulder trunk,,cs,cs\n"
        "d.jpg,unclear,,,x,x\n"
    )
    seen = read_parts(table)
    assert seen["a.jpg"].agreed == "wrist"
    assert dict(zip(PARTS, seen["a.jpg"].main, strict=True))["wrist"] == 1
    view = dict(zip(PARTS, seen["a.jpg"].view, strict=True))
    assert (view["wrist"], view["hand"], view["forearm"], view["knee"]) == (1, 1, 0.5, 0)
    main = dict(zip(PARTS, seen["b.jpg"].main, strict=True))
    assert (main["knee"], main["lower_leg"], seen["b.jpg"].agreed) == (0.5, 0.5, "")
    assert seen["c.jpg"].agreed == "", "the trunk is no part that is read"
    assert np.sum(seen["d.jpg"].main) == 0


def test_a_neighbour_of_the_same_family_does_not_make_a_film_unsure():
    found = told(wrist=0.4, forearm=0.35, hand=0.2)
    assert (found.region, found.not_assessable, found.flags) == ("wrist", None, ())
    assert np.isclose(found.probability, 0.95)


def test_another_family_flags_the_film_and_neither_half_is_read_alone():
    assert told(wrist=0.6, knee=0.4).flags == (Reason.SEVERAL_REGIONS,)
    assert told(wrist=0.4, knee=0.35, hip=0.25).not_assessable is Reason.REGION_UNSURE


def test_other_refuses_from_its_own_limit():
    assert told(shoulder=0.69, other=0.31).not_assessable is Reason.REGION_UNSUPPORTED
    assert told(shoulder=0.75, other=0.25).not_assessable is None


def test_a_header_is_held_against_the_family():
    said = dict.fromkeys((*PARTS, "other"), 0.0) | {"wrist": 0.9}

    def stated(body_part):
        return route(said, None, RULES, body_part=body_part, regions=PARTS, families=FAMILY)

    assert stated("FOREARM").flags == stated("HAND").flags == stated("ELBOW").flags == ()
    assert stated("KNEE").flags == (Reason.REGION_CONTRADICTS_HEADER,)
    assert stated("CHEST").not_assessable is Reason.REGION_UNSUPPORTED


def test_a_part_is_right_where_the_data_names_its_family():
    from training.datasets import Example
    from training.figures import region_right
    from training.readings import Reading

    def right(region, *tags):
        example = Example("a", None, tags, False, "", "")
        return region_right(Reading(example, told(**{region: 0.9}), None, None, None), FAMILY)

    assert right("wrist", "hand")
    assert right("wrist", "wrist")
    assert right("ankle", "leg")
    assert not right("wrist", "leg")
    assert not right("shoulder", "hand")

"""What a person is told of an image, in pages, tables and reports alike."""

from __future__ import annotations

import pytest

from vocabulary.reasons import Reason
from vocabulary.words import shown_flags


@pytest.mark.parametrize(
    ("reason", "region", "told"),
    [
        (Reason.REGION_UNSUPPORTED, "other", False),  # a chest looks like an inverted limb
        (Reason.REGION_UNSUPPORTED, "hip", True),
        (Reason.REGION_UNSURE, "hand", True),
        (None, "hand", True),
    ],
)
def test_perhaps_inverted_is_told_of_limbs_only(reason, region, told):
    shown = shown_flags(
        ["low_contrast", "perhaps_inverted"],
        reason=reason and reason.value,
        region=region,
        age_years=40,
        study_shared=False,
    )
    assert Reason.LOW_CONTRAST in shown
    assert (Reason.PERHAPS_INVERTED in shown) == told

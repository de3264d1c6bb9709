"""Calibration and the two operating points, against numbers worked out by hand."""

import pytest

from pipeline.study import ImageOutcome, study_finding
from pipeline.triage import NEVER_NEGATIVE, PICTURE_FLAGS, calibrate, may_be_negative, triage, withheld
from pipeline.types import Platt, Thresholds
from vocabulary.reasons import Reason
from vocabulary.states import ImageStatus, Triage

CUT = Thresholds(low=0.2, high=0.6)


def test_calibration_is_the_logistic_of_slope_and_intercept():
    # 2 * 0.5 - 1 = 0; 1 / (1 + e^-(2*1.5-1)) = 1 / (1 + e^-2)
    platt = Platt(slope=2.0, intercept=-1.0, prevalence=0.2)
    assert calibrate(0.5, platt) == pytest.approx(0.5)
    assert calibrate(1.5, platt) == pytest.approx(0.8807970779778823)
    assert calibrate(-0.5, platt) == pytest.approx(1 - 0.8807970779778823)


@pytest.mark.parametrize(("logit", "expected"), [(1e6, 1.0), (-1e6, 0.0)])
def test_huge_logits_saturate_without_overflow(logit, expected):
    assert calibrate(logit, Platt(1.0, 0.0, 0.5)) == expected


@pytest.mark.parametrize("logit", [float("nan"), float("inf")])
def test_a_broken_logit_is_an_error_not_a_finding(logit):
    with pytest.raises(ValueError, match="finite"):
        calibrate(logit, Platt(1.0, 0.0, 0.5))


@pytest.mark.parametrize(
    ("probability", "expected"),
    [
        (0.0, Triage.NEGATIVE),
        (0.1999999, Triage.NEGATIVE),
        (0.2, Triage.DOUBT),
        (0.5999999, Triage.DOUBT),
        (0.6, Triage.POSITIVE),
        (1.0, Triage.POSITIVE),
    ],
)
def test_the_thresholds_themselves_belong_to_the_worse_side(probability, expected):
    assert triage(probability, CUT) is expected


def test_a_flagged_image_is_never_negative():
    assert triage(0.01, CUT, never_negative=True) is Triage.DOUBT
    assert triage(0.3, CUT, never_negative=True) is Triage.DOUBT
    assert triage(0.9, CUT, never_negative=True) is Triage.POSITIVE


def test_equal_thresholds_leave_no_doubt():
    one = Thresholds(0.5, 0.5)
    assert triage(0.5, one) is Triage.POSITIVE
    assert triage(0.4999, one) is Triage.NEGATIVE


@pytest.mark.parametrize("probability", [-0.01, 1.01, float("nan")])
def test_what_is_no_probability_is_refused(probability):
    with pytest.raises(ValueError, match="probability"):
        triage(probability, CUT)


def test_thresholds_out_of_order_are_refused():
    with pytest.raises(ValueError, match="exceeds"):
        triage(0.5, Thresholds(0.6, 0.2))


@pytest.mark.parametrize("flag", sorted(NEVER_NEGATIVE))
def test_what_forbids_negative_is_one_list(flag):
    assert not may_be_negative([flag, Reason.POOLED_MODEL])
    assert may_be_negative([Reason.POOLED_MODEL, Reason.BURNED_IN_FLAG])


@pytest.mark.parametrize("flag", sorted(PICTURE_FLAGS))
@pytest.mark.parametrize("probability", [0.0, 0.1, 0.1999])
def test_no_flag_of_a_picture_leaves_an_image_or_its_study_negative(flag, probability):
    assert triage(probability, CUT) is Triage.NEGATIVE
    said = triage(probability, CUT, never_negative=not may_be_negative([flag]))
    assert said is Triage.DOUBT
    good = ImageOutcome(ImageStatus.DONE, Triage.NEGATIVE, probability)
    for triaged in (said, Triage.NEGATIVE):
        flagged = ImageOutcome(ImageStatus.DONE, triaged, probability, (flag,))
        assert study_finding([good, flagged]).triage is Triage.DOUBT
    assert study_finding([good, good]).triage is Triage.NEGATIVE


def test_only_what_would_have_been_negative_is_flagged_as_not_validated():
    assert withheld(0.1, CUT, may_say_negative=False) == {Reason.NEGATIVE_NOT_VALIDATED}
    assert not withheld(0.1, CUT, may_say_negative=True)
    assert not withheld(CUT.low, CUT, may_say_negative=False)
    assert not withheld(CUT.high, CUT, may_say_negative=False)

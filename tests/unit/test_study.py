"""A study is as bad as its worst image, and negative only when every image was assessed."""

from itertools import permutations

import pytest

from pipeline.study import ImageOutcome, study_finding
from vocabulary.reasons import Reason
from vocabulary.states import ImageStatus, Triage


def done(triage, probability=None, *reasons):
    return ImageOutcome(ImageStatus.DONE, triage, probability, reasons)


NEGATIVE = done(Triage.NEGATIVE, 0.05)
DOUBT = done(Triage.DOUBT, 0.4)
POSITIVE = done(Triage.POSITIVE, 0.9)
UNREAD = done(Triage.NOT_ASSESSABLE, None, Reason.REGION_UNSURE)


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        ((NEGATIVE, NEGATIVE), Triage.NEGATIVE),
        ((NEGATIVE, UNREAD), Triage.NOT_ASSESSABLE),
        ((NEGATIVE, UNREAD, DOUBT), Triage.DOUBT),
        ((NEGATIVE, UNREAD, DOUBT, POSITIVE), Triage.POSITIVE),
    ],
)
def test_the_worst_image_decides_in_any_order(images, expected):
    for order in permutations(images):
        finding = study_finding(order)
        assert finding.triage is expected
        assert order[finding.worst].triage is expected


def test_never_the_mean():
    # the mean probability would be 0.14
    assert study_finding([*[NEGATIVE] * 9, POSITIVE]).triage is Triage.POSITIVE


@pytest.mark.parametrize(
    "status",
    [
        ImageStatus.REJECTED,
        ImageStatus.FAILED,
        ImageStatus.CANCELLED,
        ImageStatus.QUEUED,
        ImageStatus.RUNNING,
    ],
)
def test_an_image_that_is_not_done_forbids_negative(status):
    finding = study_finding([NEGATIVE, ImageOutcome(status, reasons=(Reason.TRUNCATED,))])
    assert finding.triage is Triage.NOT_ASSESSABLE
    assert finding.worst == 1
    assert finding.reasons == (Reason.TRUNCATED, Reason.STUDY_INCOMPLETE)


def test_a_stale_triage_of_an_image_that_failed_later_does_not_count():
    assert (
        study_finding([ImageOutcome(ImageStatus.FAILED, Triage.NEGATIVE, 0.1)]).triage
        is Triage.NOT_ASSESSABLE
    )


def test_done_without_a_triage_is_not_assessed():
    assert study_finding([ImageOutcome(ImageStatus.DONE)]).triage is Triage.NOT_ASSESSABLE


def test_a_positive_study_says_that_an_image_is_missing():
    finding = study_finding([POSITIVE, ImageOutcome(ImageStatus.REJECTED, reasons=(Reason.CORRUPT,))])
    assert finding.triage is Triage.POSITIVE
    assert finding.reasons == (Reason.STUDY_INCOMPLETE,)


def test_the_worst_images_flags_are_the_studys_reasons():
    flagged = done(Triage.DOUBT, 0.1, Reason.REGION_CONTRADICTS_HEADER)
    assert study_finding([NEGATIVE, flagged]).reasons == (Reason.REGION_CONTRADICTS_HEADER,)


def test_a_single_unreadable_image_gives_its_own_reason_only():
    finding = study_finding([UNREAD])
    assert finding.triage is Triage.NOT_ASSESSABLE
    assert finding.reasons == (Reason.REGION_UNSURE,)


def test_among_equals_the_most_probable_image_decides_then_the_first():
    assert study_finding([done(Triage.POSITIVE, 0.7), done(Triage.POSITIVE, 0.9)]).worst == 1
    assert study_finding([done(Triage.POSITIVE, 0.7), done(Triage.POSITIVE, 0.7)]).worst == 0


def test_a_study_without_images_is_an_error():
    with pytest.raises(ValueError, match="at least one image"):
        study_finding([])

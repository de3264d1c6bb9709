"""The PDF report says what was found and nothing else, looks nothing up, and names nobody."""

from __future__ import annotations

import hashlib
import http.server
import io
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import cv2
import numpy as np
import pytest
from pypdf import PdfReader

from pipeline.report import render, words
from pipeline.report.drawings import probability_scale, reader_mark, region_marks
from pipeline.report.render import NotInMemoryError, ReportUnavailable, place, render_report
from pipeline.report.types import (
    BundleCard,
    EarlierSignature,
    Mark,
    ReportImage,
    Signature,
    StudyReport,
)
from pipeline.types import AttentionRegion, Finding, StudyFacts, Thresholds
from vocabulary.reasons import REASONS, Reason
from vocabulary.states import Answer, ImageStatus, Triage
from vocabulary.words import NOTICE, percents

ROOT = Path(__file__).resolve().parents[2]
LOW, HIGH = 0.182, 0.564
CARD = BundleCard(
    "first-bundle",
    "9f8e7d6c5b4a3928" * 4,
    "fractured",
    "FracAtlas, group split.",
    ("Not tried in casts.", "Hip and shoulder share one network."),
)
FACTS = StudyFacts(
    accession="RAD-2026-118204",
    study_date="20261120",
    study_time="141233",
    laterality="L",
    view="PA",
    age_years=47,
)


def picture(width: int, height: int, channels: int = 1) -> bytes:
    values = np.random.default_rng(width).integers(
        0, 255, (height // 8 + 1, width // 8 + 1, channels), np.uint8
    )
    done, data = cv2.imencode(".jpg", cv2.resize(values, (width, height)))
    assert done
    return data.tobytes()


def an_image(triage: Triage = Triage.POSITIVE, probability: float | None = 0.913, **changes) -> ReportImage:
    width, height = changes.pop("size", (400, 500))
    regions = (AttentionRegion(147, 156, 66, 62, 0.81), AttentionRegion(202, 268, 36, 53, 0.47))
    read = probability is not None
    finding = Finding(
        changes.pop("region", "hand"),
        0.9931,
        {"hand": 0.9931},
        probability,
        triage,
        changes.pop("reasons", ()),
        regions if read else (),
    )
    image = ReportImage(
        number=1,
        image_id="019d3c55-7b1e-4c60-9f1f-00aa11bb22cc",
        status=ImageStatus.DONE,
        facts=FACTS,
        width=width,
        height=height,
        finding=finding,
        thresholds=Thresholds(LOW, HIGH),
        prevalence=0.171,
        network="mobilenetv2-hand",
        original_jpeg=picture(width, height),
        overlay_jpeg=picture(width, height, 3) if read else None,
    )
    return replace(image, **changes)


def a_study(*images: ReportImage, triage: Triage = Triage.POSITIVE, **changes) -> StudyReport:
    report = StudyReport(
        site_name="St. Elsewhere",
        study_id="5f0c2a9e-1111-4222-8333-444455556666",
        version=1,
        created_at=datetime(2026, 11, 21, 21, 42, tzinfo=UTC),
        facts=FACTS,
        triage=triage,
        reasons=(),
        images=images or (an_image(),),
        bundle=CARD,
        software_version="0.1.0",
    )
    return replace(report, **changes)


def rejected(number: int = 2) -> ReportImage:
    return ReportImage(number, "77aa", ImageStatus.REJECTED, StudyFacts(), reason=Reason.TRUNCATED)


def read(report: StudyReport) -> tuple[PdfReader, list[str]]:
    pdf = PdfReader(io.BytesIO(render_report(report)))
    return pdf, [re.sub(r"\s+", " ", page.extract_text()) for page in pdf.pages]


def text_of(report: StudyReport) -> str:
    return " ".join(read(report)[1])


def test_times_are_those_of_the_site_s_zone_and_say_so():
    assert "Report made 2026-11-21 22:42 CET" in text_of(a_study(time_zone="Europe/Berlin"))
    assert "Report made 2026-11-21 21:42 UTC" in text_of(a_study())


def test_a_positive_image_fills_one_page_with_what_was_found():
    _, pages = read(a_study())
    assert len(pages) == 1
    for said in (
        "St. Elsewhere",
        "RAD-2026-118204",
        "2026-11-20 14:12",
        "47 years",
        "Side left",
        "View PA",
        "5f0c2a9e",
        "019d3c55",
        "Fracture suspected by AI",
        "triage: positive",
        "91 of 100 such images show a fracture; flagged from 56.",
        "Calibrated probability of a fracture: 91%",
        "Calibrated where 17% of images show a fracture",
        "Hand (> 99%)",
        "400 × 500 pixels",
        "1: 66 × 62 at 147, 156, attention 0.81",
        "not the outline of a fracture",
        "first-bundle",
        "9f8e7d6c5b4a",
        "Its label means: fractured",
        "Not tried in casts.",
        "mobilenetv2-hand",
        NOTICE,
        "Page 1 of 1",
    ):
        assert said in pages[0], said
    assert "replaces" not in pages[0]
    assert "children" not in pages[0]


def test_the_file_says_what_it_is():
    pdf, _ = read(a_study(version=2))
    assert pdf.metadata.title == "AI report, accession RAD-2026-118204, study 5f0c2a9e-111, version 2"
    assert pdf.metadata.author == "St. Elsewhere"
    assert pdf.metadata.creation_date == datetime(2026, 11, 21, 21, 42, tzinfo=UTC)
    catalogue = pdf.trailer["/Root"]
    assert catalogue["/Lang"] == "en"
    assert catalogue["/MarkInfo"]["/Marked"]
    assert b"pdfuaid" in catalogue["/Metadata"].get_object().get_data()
    size = pdf.pages[0].mediabox
    assert (round(size.width), round(size.height)) == (595, 842)


def test_every_picture_has_words_for_those_who_cannot_see_it():
    pdf, _ = read(a_study())
    figures = [o for o in objects(pdf) if o.get("/S") == "/Figure"]
    assert len(figures) == 4
    assert all(figure["/Alt"] for figure in figures)


def objects(pdf: PdfReader) -> list[dict]:
    found = [pdf.get_object(number) for number in range(1, pdf.trailer["/Size"])]
    return [o for o in found if isinstance(o, dict)]


def test_only_the_embedded_typeface_is_used():
    pdf, _ = read(a_study())
    fonts = [o for o in objects(pdf) if o.get("/Type") == "/FontDescriptor"]
    assert len(fonts) == 2
    for font in fonts:
        assert "Inter" in font["/FontName"]
        assert {"/FontFile", "/FontFile2", "/FontFile3"} & set(font)


def test_the_pictures_go_into_the_file_as_they_came():
    image = an_image()
    pdf = render_report(a_study(image))
    assert image.original_jpeg in pdf
    assert image.overlay_jpeg in pdf


@pytest.mark.parametrize(
    ("triage", "probability", "headline", "standing"),
    [
        (
            Triage.NEGATIVE,
            0.03,
            "No fracture suspected by AI",
            "3 of 100 such images show a fracture; in doubt only",
        ),
        (
            Triage.DOUBT,
            0.3,
            "In doubt: AI cannot tell whether a fracture is present",
            "30 of 100 such images show a fracture; in doubt from",
        ),
        (Triage.DOUBT, 0.03, "In doubt: AI cannot", "but no negative is said here."),
        (Triage.POSITIVE, HIGH, "Fracture suspected by AI", "such images show a fracture; flagged from"),
    ],
)
def test_the_finding_is_told_in_words(triage, probability, headline, standing):
    text = text_of(a_study(an_image(triage, probability), triage=triage))
    assert headline in text
    assert standing in " ".join(text.split())


def test_the_bundles_own_word_is_used():
    card = replace(CARD, label_meaning="abnormal")
    negative = text_of(a_study(an_image(Triage.NEGATIVE, 0.02), triage=Triage.NEGATIVE, bundle=card))
    assert "No abnormality suspected by AI" in negative
    assert "Calibrated probability of an abnormality" in negative
    assert "fracture" not in negative.replace("FractureAI", "").lower()


def test_nothing_clinical_is_invented():
    pages = [
        text_of(a_study(an_image(t, p), triage=t)) for t, p in ((Triage.POSITIVE, 0.999), (Triage.DOUBT, 0.4))
    ]
    for page in pages:
        assert not re.search(
            r"severe|severity|displac|comminut|hairline|surg|cast\b|treat|urgent|confiden|recommend",
            page,
            re.I,
        )


def test_an_image_that_is_not_read_has_its_reason_and_no_probability():
    image = an_image(Triage.NOT_ASSESSABLE, None, reasons=(Reason.REGION_UNSUPPORTED,))
    _, pages = read(a_study(image, triage=Triage.NOT_ASSESSABLE))
    assert len(pages) == 1
    assert "Not read by AI" in pages[0]
    assert REASONS[Reason.REGION_UNSUPPORTED].sentence in pages[0]
    assert "%" not in pages[0]
    assert "suspected" not in pages[0]


def test_a_study_has_a_page_an_image_and_names_the_rejected_ones():
    images = (an_image(Triage.NEGATIVE, 0.08), rejected(2), replace(an_image(), number=3, pooled=True))
    _, pages = read(a_study(*images, reasons=(Reason.STUDY_INCOMPLETE,), version=3))
    assert len(pages) == 2
    first, second = pages
    assert "Version 3, not signed. It replaces version 2." in first
    assert first.index("Fracture suspected by AI") < first.index("No fracture suspected by AI")
    assert "here image 3" in first
    assert REASONS[Reason.STUDY_INCOMPLETE].sentence in first
    assert "Rejected, not read by AI. " + REASONS[Reason.TRUNCATED].sentence in first
    assert "Image 3" in second
    assert REASONS[Reason.POOLED_MODEL].sentence in second
    assert "Accession RAD-2026-118204" in second
    for number, page in enumerate(pages, 1):
        assert NOTICE in page
        assert f"Page {number} of 2" in page


@pytest.mark.parametrize("n", [2, 6, 8, 9, 10, 11, 12])
def test_no_page_holds_a_few_lines_that_ran_over(n):
    """A long table leaves the first page no room for an image, which then begins on the next."""
    images = tuple(an_image(number=number + 1, pooled=True) for number in range(n))
    signed = Signature(
        "A", "a@hospital.example", datetime(2026, 11, 22, tzinfo=UTC), Answer.PRESENT, "distal"
    )
    study = a_study(*images, signature=signed, reasons=(Reason.POOLED_MODEL,), version=2)
    pages = PdfReader(io.BytesIO(render_report(study))).pages
    for page in pages:
        text = page.extract_text()
        assert "Original, not mirrored" in text or "Study finding" in text, text


def test_a_study_read_in_part_is_not_called_unread():
    images = (an_image(Triage.NEGATIVE, 0.08), rejected())
    text = text_of(a_study(*images, triage=Triage.NOT_ASSESSABLE, reasons=(Reason.STUDY_INCOMPLETE,)))
    assert "Not fully read by AI" in text


def test_a_study_of_rejected_images_alone_still_has_a_report():
    _, pages = read(a_study(rejected(1), triage=Triage.NOT_ASSESSABLE))
    assert len(pages) == 1
    assert "Not read by AI" in pages[0]
    assert REASONS[Reason.TRUNCATED].sentence in pages[0]


@pytest.mark.parametrize(
    ("age", "warning"),
    [
        (17, "Not validated in children: the patient is under 18"),
        (None, "Age not stated. The AI is not validated"),
        (18, ""),
    ],
)
def test_children_are_warned_of(age, warning):
    facts = replace(FACTS, age_years=age)
    text = text_of(a_study(an_image(facts=facts), facts=facts))
    assert warning in text
    assert bool(warning) == ("validated" in text)


def test_a_child_known_from_one_image_only_is_a_child():
    text = text_of(a_study(an_image(facts=replace(FACTS, age_years=9)), facts=replace(FACTS, age_years=None)))
    assert "under 18" in text


def test_what_is_missing_is_said_to_be_missing():
    text = text_of(a_study(an_image(facts=StudyFacts()), facts=StudyFacts()))
    for name in ("Accession", "Study date", "Age", "Side", "View"):
        assert re.search(f"{name} not stated", text), name
    assert "body part stated: not stated" in text


def test_two_sides_are_both_named():
    sides = [
        an_image(facts=replace(FACTS, laterality=side), number=n) for n, side in ((1, "L"), (2, ""), (3, "R"))
    ]
    assert words.sides(a_study(*sides)) == "Left, Not stated, Right"


def test_without_a_heat_map_the_original_stands_alone():
    pdf, pages = read(a_study(an_image(overlay_jpeg=None)))
    assert "Attention" not in pages[0]
    assert "91%" in pages[0]
    assert len(jpegs(pdf)) == 1


def jpegs(pdf: PdfReader) -> list[dict]:
    return [o for o in objects(pdf) if o.get("/Filter") == "/DCTDecode"]


def test_flags_are_told_with_their_codes():
    image = an_image(Triage.DOUBT, 0.03, flags=(Reason.SEVERAL_REGIONS,), reasons=(Reason.SEVERAL_REGIONS,))
    text = text_of(a_study(image, triage=Triage.DOUBT))
    assert text.count(REASONS[Reason.SEVERAL_REGIONS].sentence) == 1
    assert "several_regions" in text


def test_a_study_id_out_of_a_folder_is_not_printed():
    named = replace(FACTS, study_uid="XR_HAND/Smith_John/study1")
    assert "Smith" not in text_of(a_study(an_image(facts=named), facts=named))
    assert "1.2.840.99" in text_of(a_study(facts=replace(FACTS, study_uid="1.2.840.99.1")))


def test_markup_and_control_characters_in_the_data_are_only_text():
    odd = 'Ünïv <b>&amp;</b> <img src="file:///etc/hostname"> \x00\x07\u202e\ud800 Łódź'
    pdf, pages = read(a_study(site_name=odd, facts=replace(FACTS, accession="A" * 90 + "-end")))
    assert len(pages) == 1
    assert "Ünïv <b>&amp;</b> <img" in pages[0]
    assert "Łódź" in pages[0]
    assert "-end" in pages[0].replace(" ", "")
    assert len(jpegs(pdf)) == 2
    assert "\x07" not in pdf.metadata.author


def test_a_right_to_left_name_and_an_unknown_script_do_no_harm():
    _, pages = read(a_study(site_name="مستشفى الملك · בית חולים · 病院 · General"))
    assert len(pages) == 1
    assert "AI reading of X-ray images" in pages[0]


@pytest.fixture
def visitors():
    """A web server on this machine, and the list of what was asked of it."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


def test_nothing_is_fetched(visitors, tmp_path):
    address, asked = visitors
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(picture(64, 64))
    sources = (
        f"{address}/a.jpg",
        secret.as_uri(),
        "data:image/gif;base64,R0lGODlhAQABAAAAACw=",
        "memory:none",
    )
    page = "".join(
        f'<img alt="x" src="{source}"/><link rel="stylesheet" href="{source}"/>' for source in sources
    )
    renderer = render._renderer()
    pdf = renderer.pdf(
        f'<html lang="en"><head><title>t</title></head><body>{page}<a href="{address}/b">a</a></body></html>',
        {},
    )
    assert asked == []
    assert b"/Subtype /Image" not in pdf
    fetcher = renderer.fetcher({"1-original": b"here"})
    assert fetcher.fetch("memory:1-original").read() == b"here"
    for source in sources:
        with pytest.raises(NotInMemoryError):
            fetcher.fetch(source)


def test_equal_input_gives_equal_bytes_in_every_process():
    first = render_report(a_study())
    assert render_report(a_study(an_image(Triage.NEGATIVE, 0.01), triage=Triage.NEGATIVE)) != first
    assert render_report(a_study()) == first
    program = (
        "import hashlib; from tests.unit.test_report import a_study, render_report;"
        "print(hashlib.sha256(render_report(a_study())).hexdigest())"
    )
    other = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()
    assert other == hashlib.sha256(first).hexdigest()


def test_threads_take_turns():
    expected = render_report(a_study())
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(lambda _: render_report(a_study()), range(8))) == {expected}


@pytest.mark.parametrize(
    ("image", "what"),
    [
        (an_image(original_jpeg=b"\x89PNG\r\n"), "not a JPEG"),
        (an_image(width=0), "known size"),
        (an_image(thresholds=None), "needs thresholds"),
        (an_image(probability=float("nan")), "probability of 0 to 1"),
    ],
)
def test_a_report_that_would_lose_something_is_refused(image, what):
    with pytest.raises(ValueError, match=what):
        render_report(a_study(image))


def test_a_time_without_a_zone_is_refused():
    with pytest.raises(ValueError, match="aware"):
        render_report(a_study(created_at=datetime(2026, 11, 21)))


def test_a_machine_without_pango_says_what_to_install():
    program = """
import cffi, sys
real = cffi.FFI.dlopen
def dlopen(self, name, *args):
    if name and "pango" in name:
        raise OSError(f"cannot load library {name!r}")
    return real(self, name, *args)
cffi.FFI.dlopen = dlopen
from tests.unit.test_report import ReportUnavailable, a_study, render_report
try:
    render_report(a_study())
except ReportUnavailable as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "apt-get install libpango-1.0-0" in done.stdout
    assert issubclass(ReportUnavailable, RuntimeError)


@pytest.mark.parametrize("size", [(3000, 400), (300, 2600), (64, 64), (1024, 1024)])
def test_the_aspect_is_kept_and_one_image_stays_on_one_page(size):
    at = place(*size, pair=True, max_height=90)
    assert at.width / at.height == pytest.approx(size[0] / size[1])
    assert at.width <= (178 if at.stacked else 86)
    assert at.height * (2 if at.stacked else 1) <= 90
    image = an_image(size=size, pooled=True, flags=(Reason.SEVERAL_REGIONS, Reason.BURNED_IN_FLAG))
    assert len(read(a_study(image))[1]) == 1


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([0.913], ["91%"]),
        ([0.0], ["0%"]),
        ([1.0], ["100%"]),
        ([0.99999], ["> 99%"]),
        ([0.00001], ["< 1%"]),
        ([0.146, 0.03, 0.152], ["14.6%", "3.0%", "15.2%"]),
        ([0.56396, 0.2, 0.564], ["56.396%", "20.000%", "56.400%"]),
        ([0.5, 0.5], ["50%", "50%"]),
    ],
)
def test_percentages_never_round_to_certainty_nor_onto_a_threshold(values, texts):
    assert percents(values) == texts


@pytest.mark.parametrize(
    ("years", "text"),
    [(None, "Not stated"), (0, "Under 1 year"), (1, "1 year"), (47, "47 years"), (90, "90 years or more")],
)
def test_ages(years, text):
    assert words.age(years) == text


def test_dates():
    assert words.date(StudyFacts(study_date="20261120")) == "2026-11-20"
    assert words.date(StudyFacts(study_date="November")) == "November"
    assert words.date(StudyFacts(study_time="1012")) == "Not stated"


@pytest.mark.parametrize("cuts", [Thresholds(0.2, 0.6), Thresholds(0.03, 0.15)])
def test_the_scales_cuts_stand_at_fixed_places_with_their_labels(cuts):
    drawing = probability_scale((cuts.low + cuts.high) / 2, cuts).decode()
    assert "M34.33 2.3V7M67.67 2.3V7" in drawing
    assert "M51.00 3.2l" in drawing  # midway between the cuts, wherever they are
    for words_ in (">negative<", ">in doubt<", ">positive<", f">{cuts.low:.0%}<", f">{cuts.high:.0%}<"):
        assert words_ in drawing, words_


def test_no_plate_covers_what_is_marked():
    regions = [
        AttentionRegion(*box, 0.5) for box in ((0, 0, 300, 200), (320, 0, 200, 200), (700, 600, 300, 200))
    ]
    drawing = region_marks(tuple(regions), 1000, 100.0, 80.0).decode()
    plates = [tuple(map(float, found)) for found in re.findall(r"M([\d.]+) ([\d.]+)h3.2v3.2h-3.2z", drawing)]
    assert len(plates) == 3
    for x, y in plates:
        assert 0 <= x <= 100 - 3.2
        assert 0 <= y <= 80 - 3.2
        for region in regions:
            left, top = region.x / 10, region.y / 10
            beside = x + 3.2 <= left or x >= left + region.width / 10
            assert beside or y + 3.2 <= top or y >= top + region.height / 10


def test_region_marks_stand_at_the_regions_corners():
    drawing = region_marks((AttentionRegion(100, 200, 300, 90, 0.5),), 1000, 100.0, 80.0).decode()
    for corner in ("H10.00V22.50", "H10.00V26.50", "H40.00V22.50", "H40.00V26.50"):
        assert corner in drawing


def test_of_two_images_of_one_triage_the_more_probable_one_decides_whatever_their_order():
    images = (replace(an_image(Triage.POSITIVE, 0.71)), replace(an_image(Triage.POSITIVE, 0.93), number=2))
    assert "here image 2" in text_of(a_study(*images))
    equal = (images[0], replace(images[0], number=4))
    assert "here image 1" in text_of(a_study(*equal))
    unread = (an_image(Triage.NEGATIVE, 0.02), rejected(2))
    assert "here image 2" in text_of(a_study(*unread, triage=Triage.NOT_ASSESSABLE))


SIGNED_AT = datetime(2026, 11, 22, 8, 5, tzinfo=UTC)
ANA = Signature("Dr Ana Reader", "ana@hospital.example", SIGNED_AT, Answer.PRESENT)


def test_a_signed_report_names_the_account_and_draws_what_was_marked():
    images = (an_image(Triage.NEGATIVE, 0.08), replace(an_image(), number=7))
    plain = render_report(a_study(*images, version=2, signature=ANA))
    signed = a_study(*images, version=2, signature=replace(ANA, mark=Mark(7, 100, 50, 200, 250)))
    text = text_of(signed)
    assert "Signed by Dr Ana Reader, account ana@hospital.example, 2026-11-22 08:05 UTC" in text
    assert "Marked on image 7 at left 100, top 50, 200 × 250 (pixels of the original)." in text
    assert "marked by the reader" in text
    assert len(render_report(signed)) > len(plain)
    drawn = reader_mark(Mark(7, 100, 50, 200, 250), 400, 40, 50).decode()
    assert 'd="M10.00 5.00h20.00v25.00h-20.00z"' in drawn  # at a tenth of a millimetre a pixel
    assert 'd="M7.50 5.00h5.00M10.00 2.50v5.00"' in reader_mark(Mark(7, 100, 50), 400, 40, 50).decode()


def test_a_version_says_what_was_signed_before_and_that_it_is_to_be_read_again():
    before = EarlierSignature(2, "first-bundle", "Dr Ana Reader", SIGNED_AT, amended=True)
    assert words.version_line(a_study()) == ""
    assert (
        words.version_line(a_study(version=2, signature=ANA)) == "Version 2, signed. It replaces version 1."
    )
    amended = text_of(a_study(version=3, earlier=before))
    assert (
        "Version 3, not signed. Dr Ana Reader signed version 2 on 2026-11-22 08:05 UTC; it is kept."
        in amended
    )
    assert "to be read again" in amended
    assert "replaces" not in amended
    again = words.version_line(a_study(version=4, earlier=before, signature=ANA))
    assert again.endswith("it is kept. This version amends it.")
    other = words.version_line(a_study(earlier=replace(before, bundle="old-bundle")))
    assert "signed version 2 of old-bundle" in other

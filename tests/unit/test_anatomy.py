"""The table of body parts against DICOM's own dictionary, and what headers say, by table."""

import pytest
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from models.bundle import load_bundle
from pipeline.dicom.header import study_facts
from pipeline.dicom.reader import silent_pydicom
from pipeline.dicom.terms import BODY_PARTS, UNLISTED
from training.datasets.parts import FAMILY, PARTS
from training.experiment import ROOT
from vocabulary import anatomy

NOWHERE = frozenset()


@silent_pydicom()
def stated(region=(), **elements):
    """Return what a header's part comes to, and the regions that it allows."""
    raw = Dataset()
    for name, value in elements.items():
        setattr(raw, name, value)
    items = []
    for code, meaning in region:
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code, "SCT", meaning
        items.append(item)
    if items:
        raw.AnatomicRegionSequence = items
    facts = study_facts(raw)[0]
    return facts.body_part, anatomy.stated_regions(facts.body_part, facts.view, facts.modality)


def test_the_parts_are_those_that_bundles_name():
    assert {name: anatomy.PARTS[name].family for name in PARTS} == dict(FAMILY)
    for bundle in ("fracatlas-1", "fracatlas-3", "fracatlas-4"):
        assert set(load_bundle(ROOT / "models" / "bundles" / bundle).models) <= set(anatomy.PARTS)


def test_codes_are_those_of_the_standard():
    for part in anatomy.PARTS.values():
        code = Code(part.code, "SCT", part.meaning)
        assert code in codes.cid4031.concepts.values(), part.name
        assert code == Code(part.srt, "SRT", part.meaning), "pydicom maps the retired scheme itself"
        assert anatomy.stated_regions(part.body_part) >= {part.name}
    assert set(anatomy.CODED_PARTS.values()) <= BODY_PARTS
    assert set(anatomy.TRANSLATED.values()) <= BODY_PARTS
    assert anatomy.CODED_PARTS["30021000"] == anatomy.CODED_PARTS["T-D9400"] == "LEG"


def test_a_family_is_the_bundles_word_or_the_tables():
    assert anatomy.family_of("ankle", {"ankle": "foot and ankle"}) == "foot and ankle"
    assert anatomy.family_of("hand", {}) == "arm"
    assert anatomy.family_of("other", {}) == ""
    assert anatomy.coded_region("ankle") == {
        "body_part_examined": "ANKLE", "scheme": "SCT", "code": "70258002", "meaning": "Ankle joint",
    }  # fmt: skip
    assert anatomy.coded_region("other") is None


@pytest.mark.parametrize(
    "word",
    [
        "CHEST", "THORAX", "LUNG", "RIB", "RIBS", "STERNUM", "CLAVICLE", "SC JOINT", "HEART", "BREAST",
        "SPINE", "CSPINE", "C SPINE", "TSPINE", "LSPINE", "LSSPINE", "CERVICAL SPINE", "WHOLE BODY",
        "WHOLEBODY", "SACRUM", "COCCYX", "SKULL", "HEAD", "FACE", "ORBIT", "SINUS", "NECK", "JAW",
        "MANDIBLE", "MAXILLA", "TMJ", "TEETH", "TOOTH", "ABDOMEN", "ABDOMEN_PELVIS", "KIDNEY", "SIJOINT",
        # German, Spanish, Japanese
        "Lunge", "Rippen", "Schlüsselbein", "HWS", "BWS", "LWS", "Wirbelsäule", "Schädel", "Kopf", "Bauch",
        "Kiefer", "Zähne", "TÓRAX", "TORAX", "COLUMNA LUMBAR", "CRANEO", "MAMA", "DIENTES", "COSTILLAS",
        "胸部", "腹部", "頭部", "頸椎", "腰椎", "全脊椎", "肋骨", "鎖骨", "乳房", "歯",
        "no such part", "SMITH",
    ],
)  # fmt: skip
def test_a_header_that_names_no_limb_is_refused(word):
    assert stated(SpecificCharacterSet="ISO_IR 192", BodyPartExamined=word)[1] == NOWHERE


@pytest.mark.parametrize(
    ("word", "region"),
    [
        ("Hand", "hand"), ("Handgelenk", "wrist"), ("Unterarm", "forearm"), ("Ellenbogen", "elbow"),
        ("Oberarm", "humerus"), ("Schulter", "shoulder"), ("Hüfte", "hip"), ("Becken", "hip"),
        ("Oberschenkel", "femur"), ("Knie", "knee"), ("Unterschenkel", "lower_leg"), ("OSG", "ankle"),
        ("Fuß", "foot"), ("Zehen", "foot"), ("MANO", "hand"), ("MUÑECA", "wrist"), ("MUNECA", "wrist"),
        ("ANTEBRAZO", "forearm"), ("CODO", "elbow"), ("HUMERO", "humerus"), ("HOMBRO", "shoulder"),
        ("CADERA", "hip"), ("FÉMUR", "femur"), ("RODILLA", "knee"), ("PIERNA", "lower_leg"),
        ("TOBILLO", "ankle"), ("PIE", "foot"), ("手", "hand"), ("手関節", "wrist"), ("前腕", "forearm"),
        ("肘関節", "elbow"), ("上腕", "humerus"), ("肩関節", "shoulder"), ("股関節", "hip"), ("骨盤", "hip"),
        ("大腿", "femur"), ("膝関節", "knee"), ("下腿", "lower_leg"), ("足関節", "ankle"), ("足", "foot"),
    ],
)  # fmt: skip
def test_a_limb_in_another_language_is_read_and_kept_as_the_standards_term(word, region):
    term, regions = stated(SpecificCharacterSet="ISO_IR 192", BodyPartExamined=word)
    assert region in regions
    assert term.isascii()
    assert (term, regions) == stated(BodyPartExamined=term), "the kept copy says the same"


@pytest.mark.parametrize(
    ("part", "region", "term"),
    [
        ("", [("70258002", "whatever")], "ANKLE"),
        ("", [("T-D9200", "Knee")], "KNEE"),
        ("", [("29836001", "Hip")], "HIP"),
        ("", [("816094009", "Chest")], "CHEST"),
        ("EXTREMITY", [("72696002", "Knee")], "KNEE"),
        ("MUSTERMANN", [("72696002", "Knee")], "KNEE"),
        # what is not read here counts, whichever of the two says it
        ("HAND", [("51185008", "Chest")], "CHEST"),
        ("SKULL", [("72696002", "Knee")], "SKULL"),
        ("HAND", [("72696002", "Knee"), ("T-11501", "C spine")], "CSPINE"),
        # a code that no list has says nothing beside a part that is stated
        ("HAND", [("4711", "Musterfrau")], "HAND"),
        ("", [("4711", "Musterfrau")], UNLISTED),
        ("EXTREMITY", [("4711", "Musterfrau")], "EXTREMITY"),
        ("", [("4711", "Knee joint")], "KNEE JOINT"),
    ],
)
def test_coded_regions_and_the_part_examined_together(part, region, term):
    assert stated(region, BodyPartExamined=part)[0] == term


def test_a_study_description_says_nothing():
    assert stated(StudyDescription="CHEST PA", SeriesDescription="Thorax", ProtocolName="Chest") == ("", None)


def test_modality_and_view_of_the_header_are_kept_and_refuse():
    assert stated(BodyPartExamined="HAND", Modality="CT")[1] == NOWHERE
    assert stated(BodyPartExamined="HAND", Modality="DX", ViewPosition="PA")[1] == {"hand", "finger", "wrist"}
    assert stated(ViewPosition="LORDOTIC")[1] == NOWHERE
    assert stated(Modality="JANE DOE") == ("", None)


def test_the_page_shows_the_table():
    page = (ROOT / "docs" / "anatomy.md").read_text()
    for p in anatomy.PARTS.values():
        assert f"| {p.name} | {p.family} | {p.body_part} | {p.code} | {p.meaning} | {p.srt} |" in page
    for view in anatomy.FOREIGN_VIEWS:
        assert view in page

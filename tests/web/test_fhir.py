"""Readings as FHIR resources: what may be asked, by whom, and what HL7's structures say of the answers."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from store.base.session import session_scope
from store.base.tables import Audit, Batch, Image, StudyFinding
from store.reading.reported import Reported, ReportedImage
from store.results import fhir_resources
from tests.npm import npm_folder, run_script
from tests.reading import read_batch
from tests.web.asking import Asker, png
from vocabulary.states import Triage


@pytest.fixture
def read(ask: Asker) -> list[str]:
    """Two studies with UIDs, three images; return the reports' ids, the oldest first."""
    batch = ask.draft()
    ask.send(batch, *((name, png(name)) for name in ("a.png", "b.png", "c.png")))
    ask.post(f"/batches/{batch}/submit")
    read_batch(batch, facts=lambda path: {"study_uid": "1.2.1" if path < "c" else "1.2.2"})
    with session_scope() as session:
        for n, image in enumerate(session.scalars(select(Image).order_by(Image.path))):
            image.sop_uid, image.region, image.laterality = f"1.2.3.{n}", "hand", "L"
        query = select(StudyFinding.id).order_by(StudyFinding.created_at, StudyFinding.id)
        return [str(each) for each in session.scalars(query)]


def get(ask: Asker, path: str, status: int = 200) -> Any:
    path = path.removeprefix("http://localhost")
    answer = ask.client.get(path, headers=ask.headers)
    assert answer.status_code == status, answer.text
    return answer.json if status == 200 else None


def test_who_asks_for_what_is_new_sees_a_report_signed_since(ask: Asker, read: list[str]) -> None:
    asked = "/fhir/DiagnosticReport?_lastUpdated=gt2030-01-01T00:00:00Z"
    assert not get(ask, asked)["entry"]
    with session_scope() as session:
        found = session.get_one(StudyFinding, uuid.UUID(read[0]))
        found.signed_at, found.signed_by = datetime(2030, 1, 2, tzinfo=UTC), "Dr Day"
    (entry,) = get(ask, asked)["entry"]
    assert entry["resource"]["id"] == read[0]
    assert entry["resource"]["meta"]["lastUpdated"].startswith("2030-01-02")


def test_readings_are_searched_and_their_references_hold(
    ask: Asker, stranger: Asker, read: list[str]
) -> None:
    assert get(ask, "/fhir/metadata")["fhirVersion"] == "4.0.1"
    page = get(ask, "/fhir/DiagnosticReport?_count=1")
    (first,) = page["entry"]
    links = {link["relation"]: link["url"] for link in page["link"]}
    (second,) = get(ask, links["next"])["entry"]
    assert [first["resource"]["id"], second["resource"]["id"]] == read
    assert get(ask, f"/fhir/DiagnosticReport/{read[0]}") == first["resource"]
    report = first["resource"]
    assert report["status"] == "preliminary"
    assert report["imagingStudy"][0]["identifier"]["value"] in {"urn:oid:1.2.1", "urn:oid:1.2.2"}
    for reference in report["result"]:
        observation = get(ask, f"/fhir/{reference['reference']}")
        assert observation["valueCodeableConcept"]["coding"][0]["code"] in {"positive", "doubt", "negative"}
        assert observation["bodySite"]["text"] == "left hand"
        device = get(ask, f"/fhir/{observation['device']['reference']}")
        assert device["manufacturer"] == "FractureAI"
    found = get(ask, "/fhir/DiagnosticReport?identifier=urn:dicom:uid|urn:oid:1.2.1")["entry"]
    assert len(found) == 1
    assert len(found[0]["resource"]["result"]) == 2
    assert get(ask, "/fhir/DiagnosticReport?_lastUpdated=ge2020-01-01")["entry"]
    assert not get(ask, "/fhir/DiagnosticReport?_lastUpdated=gt2100-01-01T00:00:00Z")["entry"]
    get(ask, "/fhir/DiagnosticReport?_lastUpdated=yesterday", 422)
    get(ask, f"/fhir/Observation/{read[0]}-99", 404)
    get(ask, "/fhir/Device/nothing", 404)
    with session_scope() as session:
        seen = select(Audit.action, Audit.object_id).where(Audit.action.like("fhir_%"))
        actions = {(action, str(of)) for action, of in session.execute(seen)}
    assert ("fhir_viewed", read[0]) in actions
    assert {action for action, _ in actions} == {"fhir_searched", "fhir_viewed"}
    # another site's are nobody's
    get(stranger, f"/fhir/DiagnosticReport/{read[0]}", 404)
    get(stranger, f"/fhir/{report['result'][0]['reference']}", 404)
    assert not get(stranger, "/fhir/DiagnosticReport")["entry"]


@pytest.mark.parametrize(
    ("path", "key", "status", "kind"),
    [
        ("/fhir/metadata", "", 401, "login"),
        ("/fhir/DiagnosticReport", "Bearer fai_wrong", 401, "login"),
        (f"/fhir/DiagnosticReport/{uuid.UUID(int=1)}", "own", 404, "not-found"),
        ("/fhir/DiagnosticReport?_count=0", "own", 422, "invalid"),
        ("/fhir/DiagnosticReport?_count=1&_count=2", "own", 422, "invalid"),
        ("/fhir/Patient", "own", 404, "not-found"),
    ],
)
def test_a_program_is_told_what_is_wrong(ask: Asker, path: str, key: str, status: int, kind: str) -> None:
    """No page, and no way to a form for signing in: a client took that for an answer."""
    headers = ask.headers if key == "own" else {"Authorization": key} if key else {}
    answer = ask.client.get(path, headers=headers)
    assert (answer.status_code, answer.content_type) == (status, "application/fhir+json")
    assert answer.json["resourceType"] == "OperationOutcome"
    assert answer.json["issue"][0]["code"] == kind
    assert answer.headers["Cache-Control"] == "no-store"


def test_what_a_bundle_on_trial_says_is_not_told(ask: Asker, read: list[str]) -> None:
    with session_scope() as session:
        session.scalars(select(Batch)).one().promoted = False
    assert not get(ask, "/fhir/DiagnosticReport")["entry"]
    get(ask, f"/fhir/DiagnosticReport/{read[0]}", 404)


def said() -> Reported:
    images = [
        ReportedImage(1, "1.2.3.1", "hand", "L", Triage.POSITIVE, 0.91),
        ReportedImage(2, "1.2.3.2", "", "", Triage.NOT_ASSESSABLE, None),
    ]
    at = datetime(2026, 11, 30, 12, tzinfo=UTC)
    return Reported(
        id=uuid.UUID(int=5), study_uid="1.2.840.1", accession="ACC1", patient="4711",
        patient_system="urn:oid:1.2.3", bundle="fracatlas-3", bundle_hash="ab" * 32,
        label_meaning="fractured", version=1, triage=Triage.POSITIVE, made_at=at, images=images,
        pdf=b"%PDF-1.7",
    )  # fmt: skip


def resources() -> list[dict[str, Any]]:
    """One of each kind."""
    one = said()
    place = "Device/" + fhir_resources.device_id(one.bundle, one.bundle_hash)
    observations = [fhir_resources.observation(one, image, device_reference=place) for image in one.images]
    results = [f"Observation/{each['id']}" for each in observations]
    report = fhir_resources.report(one, results=results)
    return [
        report,
        *observations,
        fhir_resources.device(one.bundle, one.bundle_hash),
        fhir_resources.transaction(one),
        fhir_resources.search_result([report], base="https://x/fhir", links={"self": "https://x/fhir"}),
        fhir_resources.capabilities("https://x/fhir", "2026-11-30"),
    ]


def test_a_transaction_makes_each_once_and_its_references_hold() -> None:
    bundle = fhir_resources.transaction(said())
    assert bundle == fhir_resources.transaction(said())
    places = [entry["fullUrl"] for entry in bundle["entry"]]
    assert len(set(places)) == 4
    report = bundle["entry"][-1]["resource"]
    assert {each["reference"] for each in report["result"]} == set(places[1:3])
    assert bundle["entry"][1]["resource"]["device"]["reference"] == places[0]
    for entry in bundle["entry"]:
        assert entry["request"]["ifNoneExist"].startswith("identifier=urn:")
    assert (report["status"], report["subject"]["identifier"]["value"]) == ("preliminary", "4711")


_VALIDATE = """
const {Fhir} = require("fhir");
const fhir = new Fhir();
const out = JSON.parse(require("fs").readFileSync(process.argv[2])).map((each) => {
  const result = fhir.validate(each, {errorOnUnexpected: true});
  return [each.resourceType, result.messages.filter((m) => ["error", "fatal"].includes(m.severity))];
});
console.log(JSON.stringify(out));
"""


@pytest.mark.faults
def test_npms_fhir_finds_no_error(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    path = tmp_path / "resources.json"
    path.write_text(json.dumps([*resources(), {"resourceType": "Observation", "status": "nonsense", "x": 1}]))
    *found, wrong = json.loads(run_script(npm_folder(pytestconfig, "fhir@4.12.0"), _VALIDATE, path))
    assert [each for each in found if each[1]] == []
    assert wrong[1], "it can find one"

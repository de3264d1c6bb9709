"""FHIR R4: a study's reading as DiagnosticReport, an Observation an image, and the Device that made them.

Functions over plain values, so that web and the process that delivers make the same. The AI's report is
`preliminary`; one that a reader signed is `final`. An ImagingStudy is referred to by its UID and not made.
"""

from __future__ import annotations

import base64
import re
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from settings import VERSION
from store.reading.reported import Reported, ReportedImage
from vocabulary.anatomy import PARTS, part_words
from vocabulary.dicom import FINDING_CODES, MANUFACTURER, derived_uid
from vocabulary.states import Triage
from vocabulary.words import NOTICE, TRIAGE_WORDS

Resource = dict[str, Any]

SYSTEM = "urn:fractureai"
_SNOMED, _LOINC, _DICOM = "http://snomed.info/sct", "http://loinc.org", "urn:dicom:uid"
_SIDES = {"L": "left", "R": "right"}
_CATEGORY = "http://terminology.hl7.org/CodeSystem/observation-category"
_SECTION = "http://terminology.hl7.org/CodeSystem/v2-0074"


def device_id(bundle: str, bundle_hash: str) -> str:
    """Return the id of the Device for a bundle: its name, where that may be one."""
    return bundle if re.fullmatch(r"[A-Za-z0-9.-]{1,64}", bundle) else bundle_hash


def observation_id(report: uuid.UUID, number: int) -> str:
    """Return the id of an image's Observation."""
    return f"{report}-{number}"


def _concept(system: str, code: str, display: str) -> Resource:
    return {"coding": [{"system": system, "code": code, "display": display}], "text": display}


def _instant(at: datetime) -> str:
    return at.isoformat(timespec="milliseconds")


def _finding(said: Reported) -> Resource:
    if said.label_meaning in FINDING_CODES:
        return _concept(_SNOMED, *FINDING_CODES[said.label_meaning])
    return {"text": said.label_meaning}


def _triage(triage: Triage) -> Resource:
    return _concept(f"{SYSTEM}:triage", triage.value, TRIAGE_WORDS[triage])


def _subject(said: Reported) -> Resource:
    identifier = {"system": said.patient_system, "value": said.patient}
    return {"subject": {"type": "Patient", "identifier": identifier}} if said.patient else {}


def _imaging_study(said: Reported) -> Resource:
    return {
        "type": "ImagingStudy",
        "identifier": {"system": _DICOM, "value": f"urn:oid:{said.study_uid}"},
    }


def device(bundle: str, bundle_hash: str) -> Resource:
    """Return the Device: this software with one bundle."""
    return {
        "resourceType": "Device",
        "id": device_id(bundle, bundle_hash),
        "identifier": [{"system": f"{SYSTEM}:bundle", "value": bundle_hash}],
        "status": "active",
        "manufacturer": MANUFACTURER,
        "deviceName": [{"name": f"{MANUFACTURER} with {bundle}", "type": "user-friendly-name"}],
        "type": {"text": "Artificial intelligence that reads radiographs"},
        "version": [{"value": VERSION}],
        "note": [{"text": "Not a medical device; not for diagnosis."}],
    }


def observation(said: Reported, image: ReportedImage, *, device_reference: str) -> Resource:
    """Return what is said of one image."""
    found: Resource = {
        "resourceType": "Observation",
        "id": observation_id(said.id, image.number),
        "identifier": [{"system": _DICOM, "value": f"urn:oid:{derived_uid(said.uid, image.sop_uid)}"}],
        "status": "preliminary",
        "category": [_concept(_CATEGORY, "imaging", "Imaging")],
        "code": _finding(said),
        **_subject(said),
        "effectiveDateTime": _instant(said.made_at),
        "issued": _instant(said.made_at),
        "valueCodeableConcept": _triage(image.triage or Triage.NOT_ASSESSABLE),
        "device": {"reference": device_reference},
        "derivedFrom": [_imaging_study(said)],
        "note": [{"text": f"Image {image.number} (SOP Instance UID {image.sop_uid}). {NOTICE}."}],
    }
    if part := PARTS.get(image.region):
        site = _concept(_SNOMED, part.code, part.meaning)
        side = _SIDES.get(image.laterality)
        site["text"] = f"{side} {part_words(image.region)}" if side else part_words(image.region)
        found["bodySite"] = site
    if image.probability is not None:
        found["component"] = [
            {
                "code": _concept(f"{SYSTEM}:measurement", "probability", "Calibrated probability"),
                "valueQuantity": {
                    "value": round(image.probability, 6),
                    "unit": "1",
                    "system": "http://unitsofmeasure.org",
                    "code": "1",
                },
            }
        ]
    return found


def report(said: Reported, *, results: Sequence[str]) -> Resource:
    """Return the DiagnosticReport; `results` are references to its Observations."""
    found: Resource = {
        "resourceType": "DiagnosticReport",
        "id": str(said.id),
        "meta": {"lastUpdated": _instant(said.signed_at or said.made_at)},
        "identifier": [{"system": _DICOM, "value": f"urn:oid:{said.uid}"}],
        "status": "final" if said.signed_at else "preliminary",
        "category": [_concept(_SECTION, "RAD", "Radiology")],
        "code": _concept(_LOINC, "18748-4", "Diagnostic imaging study"),
        **_subject(said),
        "effectiveDateTime": _instant(said.made_at),
        "issued": _instant(said.signed_at or said.made_at),
        "result": [{"reference": reference} for reference in results],
        "imagingStudy": [_imaging_study(said)],
        "conclusion": f"{TRIAGE_WORDS[said.triage]} by {said.bundle}, version {said.version}. {NOTICE}.",
        "conclusionCode": [_triage(said.triage)],
    }
    if said.accession:
        kind = _concept("http://terminology.hl7.org/CodeSystem/v2-0203", "ACSN", "Accession ID")
        found["identifier"].append({"type": kind, "value": said.accession})
    if said.signed_by:
        found["resultsInterpreter"] = [{"display": said.signed_by}]
    if said.pdf is not None:
        data = base64.b64encode(said.pdf).decode()
        found["presentedForm"] = [{"contentType": "application/pdf", "data": data, "title": "Report"}]
    return found


def search_result(resources: Sequence[Resource], *, base: str, links: Mapping[str, str]) -> Resource:
    """Return the answer to a search."""
    return {
        "resourceType": "Bundle",
        "type": "searchset",
        "link": [{"relation": relation, "url": url} for relation, url in links.items()],
        "entry": [
            {
                "fullUrl": f"{base}/{each['resourceType']}/{each['id']}",
                "resource": each,
                "search": {"mode": "match"},
            }
            for each in resources
        ],
    }


def transaction(said: Reported) -> Resource:
    """Return a Bundle that makes the report and what it refers to on a server, each once (If-None-Exist)."""
    made: list[tuple[str, Resource]] = []

    def add(resource: Resource) -> str:
        resource = dict(resource)
        own = str(uuid.uuid5(uuid.NAMESPACE_OID, f"{resource['resourceType']}|{resource.pop('id')}"))
        made.append((f"urn:uuid:{own}", resource))
        return f"urn:uuid:{own}"

    ours = add(device(said.bundle, said.bundle_hash))
    results = [add(observation(said, image, device_reference=ours)) for image in said.images if image.triage]
    add(report(said, results=results))
    return {
        "resourceType": "Bundle",
        "type": "transaction",
        "entry": [
            {
                "fullUrl": url,
                "resource": resource,
                "request": {
                    "method": "POST",
                    "url": resource["resourceType"],
                    "ifNoneExist": "identifier={system}|{value}".format(**resource["identifier"][0]),
                },
            }
            for url, resource in made
        ],
    }


def capabilities(base: str, at: str) -> Resource:
    """Return what the server says of itself (CapabilityStatement)."""

    def resource(kind: str, *interactions: str, search: Sequence[tuple[str, str]] = ()) -> Resource:
        found: Resource = {"type": kind, "interaction": [{"code": each} for each in interactions]}
        if search:
            found["searchParam"] = [{"name": name, "type": of} for name, of in search]
        return found

    search = [("identifier", "token"), ("_lastUpdated", "date")]
    return {
        "resourceType": "CapabilityStatement",
        "status": "active",
        "date": at,
        "kind": "instance",
        "software": {"name": MANUFACTURER, "version": VERSION},
        "implementation": {"description": "Readings of radiographs; AI output", "url": base},
        "fhirVersion": "4.0.1",
        "format": ["json"],
        "rest": [
            {
                "mode": "server",
                "resource": [
                    resource("DiagnosticReport", "read", "search-type", search=search),
                    resource("Observation", "read"),
                    resource("Device", "read"),
                ],
            }
        ],
    }

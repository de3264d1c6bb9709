"""How the API shows what is stored: rows as JSON documents."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from store.base.blobs import storage_problem
from store.base.errors import BatchGivenUp, ServiceError
from store.base.tables import Batch, Bundle, Priority, RenderingStep
from store.bundles.words import PartEvidence, evidence, families, family, label_meaning, thresholds
from store.intake.batches import ImageRow
from store.results.safe_names import reason_of
from vocabulary.anatomy import coded_region
from vocabulary.reasons import REASONS, Reason
from vocabulary.rendering import RenderingCode
from vocabulary.states import STAGES, BatchStatus, Triage
from vocabulary.times import instant
from vocabulary.words import shown_flags

API = "/api/v1"
_MOVING = frozenset({BatchStatus.QUEUED, BatchStatus.RUNNING})
#: Why a bundle did not assess an image: that is a finding too.
NOT_ASSESSABLE = frozenset(
    {
        Reason.REGION_UNSUPPORTED,
        Reason.REGION_UNSURE,
        Reason.UNFAMILIAR_IMAGE,
        Reason.STUDY_INCOMPLETE,
        Reason.TOO_LITTLE_CONTRAST,
    }
)
PRIORITIES = {priority.rank: priority.value for priority in Priority}


def moment(when: datetime | None) -> str | None:
    """Return a time as ISO 8601 in UTC, or None."""
    return instant(when) if when else None


def reason_document(reason: Reason) -> dict[str, str]:
    """Return a reason with its sentence and what to do next."""
    said = REASONS[reason]
    return {"code": reason.value, "sentence": said.sentence, "advice": said.advice}


def flag_documents(codes: Iterable[str]) -> list[dict[str, str]]:
    """Return flags with their sentences."""
    return [{"code": str(code), "sentence": REASONS[Reason(code)].sentence} for code in codes]


def flags_of(row: ImageRow) -> tuple[Reason, ...]:
    """Return what a person must know of an image: its own flags, its patient's, its study's."""
    shared = row.study is not None and row.study.uid_shared
    image = row.image
    return shown_flags(
        image.flags,
        reason=image.reason,
        region=image.region,
        age_years=image.age_years,
        study_shared=shared,
    )


def rendering_documents(steps: Iterable[Mapping[str, str]]) -> list[dict[str, str]]:
    """Return how an image's grey values came about: codes, details and sentences, in order."""
    return [
        {"code": step.code.value, "detail": step.detail, "sentence": step.sentence}
        for step in (RenderingStep(RenderingCode(kept["code"]), kept["detail"]) for kept in steps)
    ]


def uploaded(batch: Batch) -> int:
    """Return how many images wait for the batch to be submitted."""
    others = batch.n_queued + batch.n_running + batch.n_done + batch.n_rejected + batch.n_failed
    return batch.n_total - others - batch.n_cancelled


def waits_for(batch: Batch) -> ServiceError | None:
    """Return why a batch that is read makes no progress: the blob store takes nothing."""
    return storage_problem(wait=False) if batch.status in _MOVING else None


def eta_seconds(batch: Batch) -> int | None:
    """Return the seconds that the rest will take at the present rate, or None when that is not known."""
    if batch.status not in _MOVING or batch.rate <= 0 or waits_for(batch) is not None:
        return None
    passed = sum(getattr(batch, f"s_{stage.value}") for stage in STAGES) / len(STAGES)
    return round((batch.n_total - passed) / batch.rate)


def batch_document(batch: Batch, reasons: Mapping[str, int], *, findings: bool) -> dict[str, Any]:
    """Return a batch; every figure comes from its own row and its counted reasons.

    Without `findings` it does not say what the bundle found.
    """
    here = f"{API}/batches/{batch.id}"
    waits = waits_for(batch)
    return {
        "id": str(batch.id),
        "label": batch.label,
        "status": batch.status,
        "waits_for": waits and {"code": waits.code, "sentence": waits.title, "advice": waits.waiting},
        "end_failure": batch.end_failure
        and {
            "code": BatchGivenUp.code,
            "sentence": f"{BatchGivenUp.title} ({batch.end_failure})",
            "advice": BatchGivenUp.advice,
        },
        "priority": PRIORITIES[batch.priority],
        "bundle": batch.bundle,
        "options": {"report": batch.with_report, "heatmap": batch.with_heatmap},
        "created_at": moment(batch.created_at),
        "submitted_at": moment(batch.submitted_at),
        "finished_at": moment(batch.finished_at),
        "counts": {
            "total": batch.n_total,
            "uploaded": uploaded(batch),
            "queued": batch.n_queued,
            "running": batch.n_running,
            "done": batch.n_done,
            "rejected": batch.n_rejected,
            "failed": batch.n_failed,
            "cancelled": batch.n_cancelled,
            "skipped": batch.n_skipped,
        },
        "findings_withheld": not findings,
        "triage": {triage.value: getattr(batch, f"t_{triage.value}") for triage in Triage}
        if findings
        else None,
        "stages": {stage.value: getattr(batch, f"s_{stage.value}") for stage in STAGES},
        "reasons": {code: n for code, n in sorted(reasons.items()) if findings or code not in NOT_ASSESSABLE},
        "manifest": {
            "rows": batch.manifest_rows,
            "rows_without_file": batch.manifest_rows_unmatched,
            "files_without_row": batch.manifest_files_unmatched,
        }
        if batch.manifest_rows
        else None,
        "rate": round(batch.rate, 3) if batch.status in _MOVING else 0.0,
        "eta_seconds": eta_seconds(batch),
        "links": {
            "self": here,
            "page": f"/batches/{batch.id}",
            "images": f"{here}/images",
            "files": f"{here}/files",
            "submit": f"{here}/submit",
            "cancel": f"{here}/cancel",
            "retry": f"{here}/retry",
            "pause": f"{here}/pause",
            "resume": f"{here}/resume",
            "unmatched": f"{here}/unmatched.csv",
            "csv": f"{here}/results.csv",
            "zip": f"{here}/results.zip",
        },
    }


def batch_etag(batch: Batch) -> str:
    """Return the entity tag of a batch: its version rises with every change of its row; what it waits for."""
    waits = waits_for(batch)
    return f"{batch.id.hex[:12]}-{batch.version}" + (f"-{waits.code}" if waits else "")


def evidence_document(part: PartEvidence, label_meaning: str, triage: str | None = None) -> dict[str, Any]:
    """Return what a bundle has shown for a part on held-out films."""

    def figure(name: str) -> dict[str, Any] | None:
        kept = getattr(part, name)
        return kept and {"value": kept.value, "interval": list(kept.interval) if kept.interval else None}

    return {
        "fractures": part.fractures,
        "found": part.found,
        "interval": list(part.interval),
        "films": part.films,
        **{name: figure(name) for name in ("auc", "sensitivity", "specificity")},
        "in_doubt": part.in_doubt,
        "may_say_negative": part.may_say_negative,
        "sentence": part.sentence(label_meaning),
        "about_negative": part.about_negative(Triage(triage) if triage else None),
    }


def image_document(row: ImageRow, bundle: Bundle) -> dict[str, Any]:
    """Return an image with its finding, as the bundle of its batch made it."""
    image, reason, here = row.image, reason_of(row), f"{API}/images/{row.image.id}"
    found, region = row.study_finding, row.image.region or ""
    shown = evidence(bundle, region) if image.probability is not None else None
    return {
        "id": str(image.id),
        "batch_id": str(image.batch_id),
        "study_id": str(image.study_id) if image.study_id else None,
        "filename": image.path,
        "status": image.status,
        "reason": reason_document(reason) if reason else None,
        "region": image.region,
        "family": family(bundle, region),
        "anatomic_region": coded_region(region),
        "region_probability": image.region_probability,
        "region_probabilities": row.finding.region_probabilities if row.finding else {},
        "probability": image.probability,
        "triage": image.triage,
        "number": image.number,
        "flags": flag_documents(flags_of(row)),
        "thresholds": thresholds(bundle).get(region) if image.probability is not None else None,
        "evidence": evidence_document(shown, label_meaning(bundle), image.triage) if shown else None,
        "bundle": bundle.name,
        "sha256": image.sha256 or None,
        "size": image.size,
        "media_type": image.media_type,
        "width": image.width,
        "height": image.height,
        "accession": image.accession,
        "study_uid": image.study_uid,
        "sop_uid": image.sop_uid,
        "study_date": image.study_date,
        "laterality": image.laterality,
        "view": image.view,
        "study_triage": found.triage if found else None,
        "attention_regions": image.attention_regions,
        "suspected_places": image.suspected_places,
        "rendering": rendering_documents(image.rendering),
        "links": {
            "self": here,
            "original": f"{here}/original" if image.original_key else None,
            "display": f"{here}/display" if image.display_key else None,
            "overlay": f"{here}/overlay" if image.overlay_key else None,
            "report": f"{here}/report" if found and found.report_key else None,
            "batch": f"{API}/batches/{image.batch_id}",
            "page": f"/images/{image.id}",
            "study": f"{API}/studies/{image.study_id}" if image.study_id else None,
        },
    }


#: What an image's document says of its finding, and what it says instead where that is withheld.
_FINDING: Mapping[str, Any] = {
    "region": None,
    "family": None,
    "anatomic_region": None,
    "region_probability": None,
    "region_probabilities": {},
    "probability": None,
    "triage": None,
    "flags": [],
    "thresholds": None,
    "evidence": None,
    "study_triage": None,
    "attention_regions": [],
    "suspected_places": [],
}


def image_without_finding(row: ImageRow, bundle: Bundle) -> dict[str, Any]:
    """Return an image without what the bundle says of it, for those who may not see that."""
    document = {**image_document(row, bundle), **_FINDING}
    if row.image.reason in NOT_ASSESSABLE:
        document["reason"] = None
    document["links"] = {name: link if name == "batch" else None for name, link in document["links"].items()}
    return document


def bundle_document(bundle: Bundle, *, default: bool) -> dict[str, Any]:
    """Return a bundle: what it reads, where it cuts, and what it says of itself."""
    return {
        "name": bundle.name,
        "sha256": bundle.sha256,
        "default": default,
        "label_meaning": label_meaning(bundle),
        "regions": sorted(thresholds(bundle)),
        "thresholds": thresholds(bundle),
        "families": families(bundle),
        "parts": {
            region: evidence_document(part, label_meaning(bundle))
            for region in sorted(thresholds(bundle))
            if (part := evidence(bundle, region)) is not None
        },
        "suspected_places": bool(bundle.manifest.get("places")),
        "trained_on": bundle.manifest.get("trained_on", ""),
        "limits": bundle.manifest.get("limits", []),
        "created_at": moment(bundle.created_at),
        "links": {"page": f"/bundles/{bundle.name}"},
    }


def next_link(path: str, cursor: str | None, **parameters: object) -> str | None:
    """Return the address of the next page, or None at the end."""
    if cursor is None:
        return None
    kept = {name: value for name, value in parameters.items() if value is not None}
    return f"{path}?{urlencode({**kept, 'cursor': cursor})}"

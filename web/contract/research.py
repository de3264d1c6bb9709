"""The documents about research: data sets, runs, comparisons; and which bundle serves."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Self
from uuid import UUID

from pydantic import Field, StringConstraints

from store.base import tables
from store.base.tables import Priority
from store.research import datasets, research_tables
from store.research.research_tables import RunKind
from store.research.runs import MARGIN
from web.contract.base import API, Body, Count, Document, Id, Link, Links, Moment, Page, Words, picked
from web.contract.batches import PRIORITIES, BatchProgress

_Figures = dict[str, Any]


class Dataset(Document):
    """A data set; its labels' names stand here, its labels nowhere."""

    id: Id
    name: str
    format: str
    label_meaning: str
    labels: list[str]
    sha256: str | None
    images: Count
    looked_at: Count
    studies: Count
    patients: Count
    parts: dict[str, Count]
    regions: dict[str, Count]
    problems: dict[str, Count]
    left_out: dict[str, Count]
    without_look: Count = Field(description="Registered before looks were kept: add the data set again.")
    created_at: Moment
    links: Links

    @classmethod
    def of(cls, dataset: research_tables.Dataset, inside: datasets.Contents) -> Dataset:
        """Return a data set and what lies in it."""
        return cls(
            **picked(dataset, "id", "name", "format", "label_meaning", "sha256", "left_out", "created_at"),
            **picked(inside, "studies", "patients", "parts", "regions", "problems", "without_look"),
            labels=list(inside.label_names),
            images=dataset.n_images,
            looked_at=dataset.n_seen,
            links={"self": f"{API}/datasets/{dataset.id}", "page": f"/research/datasets/{dataset.id}"},
        )


class Datasets(Page[Dataset]):
    """A site's data sets."""


class NewRun(Body):
    """What to score, and by which bundles."""

    dataset: Words = Field(description="Its name.")
    part: Words = ""
    label: Words = Field("", description="The label column; the data set's own when absent.")
    bundles: Annotated[list[str], Field(min_length=1)] = Field(description="They share one decode.")
    priority: Priority = Priority.LOW
    heatmap: bool = False
    report: bool = False
    routing: bool = Field(False, description="Score with every network.")


class RunOptions(Document):
    """What a run makes beside its figures, and how soon."""

    routing: bool
    heatmap: bool
    report: bool
    priority: Priority


class ForwardPasses(Document):
    """Images that were sent through networks; what a bundle had scored before was not sent again."""

    region: Count
    fracture: Count


class RunSummary(Document):
    """A run with its progress."""

    id: Id
    kind: RunKind
    dataset: dict[str, Any] | None
    part: str
    label: str
    bundles: list[str]
    options: RunOptions
    status: str
    progress: BatchProgress | None
    forward_passes: ForwardPasses
    created_at: Moment
    evaluated_at: Moment | None
    links: Links

    @classmethod
    def of(
        cls,
        run: research_tables.Run,
        batch: tables.Batch | None,
        *,
        left: float | None = None,
        **more: Any,
    ) -> Self:
        """Return a run; it is steered by its own address, not by its batch's."""
        here = f"{API}/runs/{run.id}"
        return cls(
            **picked(run, "id", "kind", "part", "label", "bundles", "created_at", "evaluated_at"),
            dataset=run.made_with["dataset"],
            options=RunOptions(
                routing=run.with_routing,
                heatmap=bool(batch and batch.with_heatmap),
                report=bool(batch and batch.with_report),
                priority=PRIORITIES[batch.priority] if batch else Priority.LOW,
            ),
            status=_state_of(run, batch),
            progress=BatchProgress.of(batch, {}, findings=True, left=left) if batch else None,
            forward_passes=ForwardPasses(region=run.classified, fracture=run.detected),
            links={"self": here, "page": f"/research/runs/{run.id}", "files": f"{here}/files/"},
            **more,
        )


def _state_of(run: research_tables.Run, batch: tables.Batch | None) -> str:
    """Return the batch's state; after it the evaluation is still to come."""
    if batch is None:
        return "running"
    if batch.status in {"done", "partial", "failed"} and run.evaluated_at is None:
        return "evaluating"
    return batch.status


class Runs(Page[RunSummary]):
    """A site's latest runs."""


class Run(RunSummary):
    """A run with its figures, and all that repeats them."""

    made_with: dict[str, Any] = Field(description="Hashes, settings and versions.")
    figures: _Figures | None = Field(
        description="By bundle, as {value, interval}; null until evaluated. `fitted_on` counts the images "
        "that the bundle was fitted on, found `by_file` (its hash) or `by_look` (a copy)."
    )

    @classmethod
    def of(cls, run: research_tables.Run, batch: tables.Batch | None, **more: Any) -> Self:
        """Return a run."""
        return super().of(run, batch, **picked(run, "made_with", "figures"), **more)


class RunFile(Document):
    """A table that a run's evaluation wrote."""

    name: str
    sha256: str
    size: Count
    link: Link


class ComparedBundles(Document):
    """A comparison that a run has part in."""

    id: Id
    a: str
    b: str


class RunWithFiles(Run):
    """A run, its tables, and what it was compared with."""

    files: list[RunFile]
    comparisons: list[ComparedBundles]

    @classmethod
    def of(
        cls,
        run: research_tables.Run,
        batch: tables.Batch | None,
        files: Iterable[research_tables.RunFile] = (),
        compared: Iterable[research_tables.Comparison] = (),
    ) -> Self:
        """Return a run with all that came of it."""
        told = [
            RunFile(**picked(file, "name", "sha256", "size"), link=f"{API}/runs/{run.id}/files/{file.name}")
            for file in files
        ]
        others = [ComparedBundles(id=c.id, a=c.bundle_a, b=c.bundle_b) for c in compared]
        return super().of(run, batch, files=told, comparisons=others)


class NewComparison(Body):
    """Which two bundles to compare, each of an evaluated run."""

    run_a: UUID
    bundle_a: Words
    run_b: UUID
    bundle_b: Words
    margin: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] = Field(
        MARGIN, description="Loss of AUC that counts as none."
    )


class ComparedSide(Document):
    """One of the two that are compared."""

    run: Id
    bundle: str


class Comparison(Document):
    """What was compared, and the figures once they are there."""

    id: Id
    a: ComparedSide
    b: ComparedSide
    margin: float
    status: str
    created_at: Moment
    evaluated_at: Moment | None
    figures: _Figures | None = Field(
        description="Every figure as {value, interval}; null until evaluated. `overlap` counts and names the "
        "images that a bundle was fitted on, found `by_file` (its hash) or `by_look` (a copy)."
    )
    links: Links

    @classmethod
    def of(cls, compared: research_tables.Comparison, *, figures: bool = True) -> Comparison:
        """Return a comparison; without `figures` it does not hold them."""
        return cls(
            **picked(compared, "id", "margin", "created_at", "evaluated_at"),
            a=ComparedSide(run=compared.run_a, bundle=compared.bundle_a),
            b=ComparedSide(run=compared.run_b, bundle=compared.bundle_b),
            status="done" if compared.evaluated_at else "evaluating",
            figures=compared.figures if figures else None,
            links={
                "self": f"{API}/comparisons/{compared.id}",
                "page": f"/research/comparisons/{compared.id}",
            },
        )


class Comparisons(Page[Comparison]):
    """A site's latest comparisons."""


class BundleChange(Body):
    """Which bundle is to serve, or to read along."""

    bundle: Annotated[str, StringConstraints(max_length=200)] = ""


class Serving(Document):
    """What serves now."""

    default: str | None
    shadow: str | None
    rollback_to: str | None

"""`fractureai rescore`, `runs` and `compare`: score data sets again on a server; which bundle is better."""

from __future__ import annotations

import time
from pathlib import Path

import click

from cli.client import Client, Interrupted, Json, UsageProblem, client_command, open_client
from cli.output import batch_bar, moment, open_console, print_json, print_rows

ENDED = frozenset({"done", "partial", "failed", "cancelled"})
FIGURES = (
    ("auc", "AUC"),
    ("kappa", "kappa"),
    ("accuracy", "accuracy"),
    ("recall", "sensitivity"),
    ("specificity", "specificity"),
    ("ece", "ECE"),
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print the server's JSON.")


def _wait(client: Client, run: Json, as_json: bool) -> Json:
    """Show a run's progress until its figures are there."""
    with batch_bar(open_console(as_json=as_json)) as update:
        while run["status"] not in ENDED:
            update(run["progress"])
            if client.stopped.wait(1.0):
                raise Interrupted("Interrupted; the server goes on.")
            run = client.document(f"/runs/{run['id']}")
    return run


def _shown(figure: Json) -> str:
    if figure["value"] is None:
        return "-"
    interval = figure["interval"]
    return f"{figure['value']:.3f}" + (f" ({interval[0]:.3f} to {interval[1]:.3f})" if interval else "")


def _print_run(run: Json) -> None:
    console = open_console()
    passes = run["forward_passes"]
    console.print(f"Run {run['id']} is {run['status']}.", soft_wrap=True)
    console.print(
        f"{passes['region']} images went through region networks, {passes['fracture']} through others."
    )
    for bundle, figures in (run["figures"] or {}).items():
        coverage = figures["coverage"]
        console.print(
            f"\n{bundle} ({figures['label_meaning']}): {coverage['studies']} studies, "
            f"{coverage['images']} images, {coverage['read']} read, {coverage['forced']} by force, "
            f"{coverage['unscored']} not scored",
            soft_wrap=True,
        )
        console.print(f"  {fitted_words(figures)}", soft_wrap=True)
        parts = {"all": figures["study"]["pooled"], **figures["study"]["regions"]}
        print_rows(
            console,
            ("studies", *(words for _, words in FIGURES)),
            [
                (f"{name} ({part['n']})", *(_shown(part["figures"][key]) for key, _ in FIGURES))
                for name, part in parts.items()
                if "figures" in part
            ],
        )


def fitted_words(figures: Json) -> str:
    """Say how many images of a run its bundle was fitted on, and how they were found."""
    told = f"{figures['fitted_on_overlap']} are among those that it was fitted on"
    ways = figures.get("fitted_on")
    if ways is None:
        return f"{told}; judged by the hash of the file alone"
    told += f": {ways['by_file']} by the hash of the file, {ways['by_look']} by their looks"
    if ways["looks"] < ways["images"]:
        told += f"; it holds the looks of {ways['looks']} of {ways['images']}"
    return (
        f"{told}; {ways['without_look']} could not be judged by their looks" if ways["without_look"] else told
    )


def overlap_words(overlap: Json) -> str:
    """Say which images of a comparison were set apart because a bundle was fitted on them."""
    told = f"{overlap['images']} images are among those that a bundle was fitted on"
    if "by_look" in overlap:
        told += f": {overlap['by_file']} by the hash of the file, {overlap['by_look']} by their looks"
    return f"{told}; their {overlap['studies']} studies are set apart"


@click.command()
@click.argument("dataset")
@click.option(
    "--split", "part", default="", help="A part of the data set, such as valid; all of it by default."
)
@click.option(
    "--bundle", "bundles", multiple=True, required=True, help="Again for each bundle; they share a decode."
)
@click.option("--label", default="", help="The label column, where there are several.")
@click.option("--heatmaps", is_flag=True, help="Keep attention maps as pictures.")
@click.option("--reports", is_flag=True, help="Write a PDF for each study.")
@click.option("--routing", is_flag=True, help="Score with every network: what the routing costs.")
@click.option("--priority", type=click.Choice(["urgent", "normal", "low"]), default="low", show_default=True)
@click.option("--no-wait", is_flag=True, help="Start it, and do not wait for the figures.")
@json_option
@client_command
def rescore(
    dataset: str,
    part: str,
    bundles: tuple[str, ...],
    label: str,
    heatmaps: bool,
    reports: bool,
    routing: bool,
    priority: str,
    no_wait: bool,
    as_json: bool,
) -> None:
    """Score the registered DATASET with some bundles, by study and by image, against its labels.

    What a bundle has scored already is not scored again. Clinical images overtake it.

    \b
    Examples:
      fractureai rescore mura --split valid --bundle NAME
      fractureai rescore mura --split valid --bundle OLD --bundle NEW
    """  # noqa: D301 - \b is click's mark for "do not rewrap"
    with open_client() as client:
        body = {
            "dataset": dataset,
            "part": part,
            "label": label,
            "bundles": list(bundles),
            "heatmap": heatmaps,
            "report": reports,
            "routing": routing,
            "priority": priority,
        }
        run = client.document("/runs", body=body)
        if not no_wait:
            open_console(as_json=as_json).print(f"Run {run['id']}")
            run = _wait(client, run, as_json)
    if as_json:
        print_json(run)
    else:
        _print_run(run)


def _find_run(client: Client, word: str) -> str:
    found = [run["id"] for run in client.items("/runs")]
    fitting = found[:1] if word == "latest" else [run for run in found if run.startswith(word.lower())]
    if len(fitting) != 1:
        raise UsageProblem(f"{len(fitting)} runs begin with {word!r}; `fractureai runs` lists them.")
    return str(fitting[0])


@click.group(invoke_without_command=True)
@json_option
@click.pass_context
def runs(ctx: click.Context, as_json: bool) -> None:
    """List the runs over data sets; RUN is an id, a beginning of one, or `latest`."""
    if ctx.invoked_subcommand is None:
        client_command(_list)(as_json)


def _list(as_json: bool) -> None:
    with open_client(patience=10.0) as client:
        found = client.items("/runs")
    if as_json:
        print_json(found)
        return
    print_rows(
        open_console(),
        ("run", "data set", "bundles", "status", "images", "started"),
        [
            (
                run["id"],
                f"{run['dataset']['name']} {run['part']}".strip() if run["dataset"] else "shadow",
                ", ".join(run["bundles"]),
                run["status"],
                str(run["progress"]["counts"]["total"]) if run["progress"] else "",
                moment(run["created_at"]),
            )
            for run in found
        ],
    )


@runs.command()
@click.argument("run")
@json_option
@client_command
def show(run: str, as_json: bool) -> None:
    """Show a run's figures."""
    with open_client(patience=10.0) as client:
        found = client.document(f"/runs/{_find_run(client, run)}")
    if as_json:
        print_json(found)
    else:
        _print_run(found)


@runs.command()
@click.argument("run")
@click.option("--output", type=click.Path(path_type=Path, file_okay=False), default=".", help="Folder.")
@client_command
def download(run: str, output: Path) -> None:
    """Save a run's tables: predictions as MURA takes them, studies, images as CSV and Parquet."""
    output.mkdir(parents=True, exist_ok=True)
    with open_client() as client:
        run_id = _find_run(client, run)
        for file in client.document(f"/runs/{run_id}")["files"]:
            client.download(f"/runs/{run_id}/files/{file['name']}", output / file["name"])
            click.echo(output / file["name"])


def _steer(verb: str, does: str) -> click.Command:
    @client_command
    def act(run: str) -> None:
        with open_client(patience=10.0) as client:
            after = client.document(f"/runs/{_find_run(client, run)}/{verb}", body={})
        click.echo(f"Run {after['id']} is {after['status']}.")

    return click.Command(verb, callback=act, params=[click.Argument(["run"])], help=does)


for _verb, _does in (
    ("pause", "Hold a run back."),
    ("resume", "Let a paused run go on."),
    ("cancel", "Stop a run; what is scored stays scored."),
    ("retry", "Score what failed or was cancelled."),
):
    runs.add_command(_steer(_verb, _does))


@runs.command()
@click.argument("run")
@click.option("--yes", is_flag=True, help="Do not ask.")
@client_command
def delete(run: str, yes: bool) -> None:
    """Delete a run that has ended, with all that it stored; its data set stays."""
    with open_client(patience=10.0) as client:
        run_id = _find_run(client, run)
        if not yes:
            click.confirm(
                f"Delete run {run_id} with its figures, tables, pictures and comparisons?", abort=True
            )
        client.request("DELETE", f"/runs/{run_id}")
    click.echo(f"Run {run_id} is deleted.")


def compared_rows(figures: Json) -> list[tuple[str, ...]]:
    """Return a comparison as rows of a table: all studies, then each region."""

    def row(name: str, n: int, figures: Json, p: str) -> tuple[str, ...]:
        low, high = figures["interval"] or (None, None)
        interval = "" if low is None else f"{low:+.3f} to {high:+.3f}"
        difference = f"{figures['difference']:+.3f}"
        return name, str(n), f"{figures['a']:.3f}", f"{figures['b']:.3f}", difference, interval, p

    rows = [row("all", figures["studies"], figures["pooled"], "")] if figures["pooled"] else []
    for region, part in sorted(figures["regions"].items()):
        p = part["p_holm"]
        rows.append(row(region, part["studies"], part, "< 0.001" if p < 0.001 else f"{p:.3f}"))
    return rows


@click.command()
@click.argument("run_a")
@click.argument("run_b", required=False)
@click.option("--a", "bundle_a", help="Bundle a; run_a's first by default.")
@click.option("--b", "bundle_b", help="Bundle b; run_b's last by default.")
@click.option(
    "--margin", type=float, default=0.02, show_default=True, help="Loss of AUC that counts as none."
)
@json_option
@client_command
def compare(
    run_a: str, run_b: str | None, bundle_a: str | None, bundle_b: str | None, margin: float, as_json: bool
) -> None:
    """Say whether bundle b is better than bundle a, on runs over one data set (or within one run)."""
    with open_client() as client:
        first, second = _find_run(client, run_a), _find_run(client, run_b or run_a)
        names = [client.document(f"/runs/{run}")["bundles"] for run in (first, second)]
        body = {
            "run_a": first,
            "bundle_a": bundle_a or names[0][0],
            "run_b": second,
            "bundle_b": bundle_b or names[1][-1],
            "margin": margin,
        }
        compared = client.document("/comparisons", body=body)
        deadline = time.monotonic() + 600
        while compared["status"] != "done" and time.monotonic() < deadline:
            if client.stopped.wait(1.0):
                raise Interrupted("Interrupted; the server goes on.")
            compared = client.document(f"/comparisons/{compared['id']}")
    if as_json:
        print_json(compared)
        return
    figures = compared["figures"]
    if not figures:
        raise UsageProblem("The comparison takes longer; see the page of the run.")
    click.echo(f"{body['bundle_b']} against {body['bundle_a']}: {figures['verdict']}")
    print_rows(
        open_console(),
        (
            "studies",
            "n",
            f"AUC {body['bundle_a']}",
            f"AUC {body['bundle_b']}",
            "difference",
            "95%",
            "p, Holm",
        ),
        compared_rows(figures),
    )
    click.echo(overlap_words(figures["overlap"]))
    for name in figures["overlap"].get("bundles_without_looks", ()):
        click.echo(f"{name} holds no looks: judged by the hash of the file alone")
    click.echo(f"Margin of AUC {margin}; intervals by resampling of patients.")
    if len(set(figures["label_meanings"].values())) > 1:
        click.echo(f"Mind the labels: {figures['label_meanings']}")
    click.echo(f"{figures['changed']} images changed side; see {client.url}{compared['links']['page']}")

"""`fractureai demo`: a whole server, a batch through it over HTTP, and its results; then it keeps serving."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from pathlib import Path

import click
from rich.console import Console

from cli.child import end_with_parent
from cli.client import Client, UsageProblem
from cli.embedded import EmbeddedError
from cli.output import open_console
from cli.prepare import ROOT, issue_admin_access
from cli.submit import SubmitOptions, SubmitResult, run_submit
from cli.supervise import Server, interruptible, leave, server

#: In the checkout; where the package is installed, in the folder in which the command is called.
DEMO = (ROOT if (ROOT / "pyproject.toml").is_file() else Path.cwd()) / "demo"


class _Reading(threading.Thread):
    """Makes samples if no images were named, sends them, waits, saves the ZIP; the main thread supervises."""

    def __init__(self, client: Client, images: Path | None, out: Path, console: Console) -> None:
        super().__init__(daemon=True)
        self.client, self.images, self.out, self.console = client, images, out, console
        self.result: SubmitResult | None = None
        self.error: Exception | None = None

    def run(self) -> None:
        """Read the batch; what goes wrong is kept for the main thread."""
        try:
            options = SubmitOptions(label="demo", out=self.out)
            paths = [self.images or _samples()]
            self.result = run_submit(self.client, paths, options, self.console, rows=40)
        except Exception as error:
            self.error = error


def _samples() -> Path:
    from phantoms.files import demo_images

    folder = DEMO / "samples"
    shutil.rmtree(folder, ignore_errors=True)  # a newer version may make others
    demo_images(folder)
    return folder


def _read(running: Server, images: Path | None, out: Path, console: Console) -> SubmitResult:
    with Client(running.address, running.access.api_key, patience=600.0) as client:
        reading = _Reading(client, images, out, console)
        reading.start()
        try:
            while reading.is_alive():
                reading.join(0.25)
                running.supervisor.tick()
                if name := running.supervisor.hopeless():
                    raise EmbeddedError(
                        "process_keeps_ending", f"{name} keeps ending; see {running.home}/logs."
                    )
        finally:
            client.stopped.set()
    if reading.error:
        raise reading.error
    assert reading.result is not None
    return reading.result


@click.command()
@click.option(
    "--images", type=click.Path(exists=True, path_type=Path), help="Read these.  [default: samples]"
)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="[default: demo/results.zip]")
@click.option(
    "--exit", "then_exit", is_flag=True, help="End after saving: 0 if every image is done or rejected."
)
@click.option("--port", type=int, help="Port to listen on.  [default: the first free one from 8000]")
@click.option("--home", type=click.Path(path_type=Path, file_okay=False), help="[default: demo/home]")
@click.option("--small", is_flag=True, help="As of `up`: one worker does everything in turn.")
@click.option("--end-with", type=int, hidden=True, help="Process id of the parent to end with.")
def demo(
    *,
    images: Path | None,
    out: Path | None,
    then_exit: bool,
    port: int | None,
    home: Path | None,
    end_with: int | None,
    small: bool,
) -> None:
    """Run a whole server here, read some radiographs with it, keep serving.

    Without --images it makes samples: synthetic radiographs, and files that have to be refused. Data and logs
    stay in the home folder; the next start finds them again.
    """
    interruptible()
    if end_with is not None:
        end_with_parent(signal.SIGTERM, end_with)
    started = time.monotonic()
    console = open_console()
    folder = (home or Path(os.environ.get("FRACTUREAI_HOME") or DEMO / "home")).resolve()
    console.print("Starting Postgres, Valkey, web and workers ...")
    finished = False
    try:
        with server(
            folder, host="127.0.0.1", port=port, workers=0 if small else None, say=console.print
        ) as running:
            console.print(f"At work after {time.monotonic() - started:.1f} s: {running.address}")
            result = _read(running, images, (out or DEMO / "results.zip"), console)
            counts = result.batch["counts"]
            finished = counts["done"] + counts["rejected"] == counts["total"]
            if not then_exit:
                sign_in = issue_admin_access(running.access.api_key).sign_in
                console.print(
                    f"\nServing at {running.address}\nSign in:   {sign_in}\nCtrl-C ends it.",
                    soft_wrap=True,
                )
                running.supervisor.run()
    except KeyboardInterrupt:
        console.print("\nStopped.")
    except EmbeddedError as error:
        raise UsageProblem(f"{error} [{error.code}]") from None
    leave(0 if finished else 1)

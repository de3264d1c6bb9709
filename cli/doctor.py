"""`fractureai doctor`: what this machine lacks for a server, and what to do about each."""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import click
import psutil

from cli.client import ClientError
from cli.embedded import (
    EmbeddedError,
    Servers,
    postgres_answers,
    postgres_folder,
    running_servers,
    valkey_answers,
    valkey_binary,
)
from cli.home import default_home
from cli.output import open_console, print_json
from cli.prepare import BUNDLES
from cli.supervise import PORT
from settings import SettingsError, from_environ

GB = 1024**3
MARKS = {"ok": "ok     ", "warning": "warning", "problem": "PROBLEM"}


@dataclass(frozen=True)
class Check:
    """One thing looked at: `state` is ok, warning or problem; `advice` says what to do where it is not ok."""

    name: str
    state: str
    detail: str
    advice: str = ""


def _python() -> Iterator[Check]:
    state = "ok" if (3, 11) <= sys.version_info[:2] < (3, 14) else "problem"
    yield Check("Python", state, sys.version.split()[0], "Use Python 3.11, 3.12 or 3.13.")
    state = "ok" if sys.platform == "linux" else "problem"
    yield Check("system", state, sys.platform, "A server runs on Linux; elsewhere, use the containers.")


def _packages() -> Iterator[Check]:
    from packaging.requirements import Requirement

    wrong = []
    named = [Requirement(line) for line in requires("fractureai") or []]
    extras = [{"extra": name} for name in ("", "web", "read", "server")]
    needed = [
        each
        for each in named
        if (each.marker is None or any(each.marker.evaluate(extra) for extra in extras))
        and not each.name.startswith("fractureai")  # the bundles, which a checkout has itself
    ]
    for requirement in needed:
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            wrong.append(f"{requirement.name} is missing")
        else:
            if not requirement.specifier.contains(found, prereleases=True):
                wrong.append(f"{requirement.name} is {found}, not {requirement.specifier}")
    detail = "; ".join(wrong) or f"{len(needed)} named, all there"
    yield Check("Python packages", "problem" if wrong else "ok", detail, "Run `make setup`.")


def _opens(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _libraries() -> Iterator[Check]:
    for library, package, state, why in (
        ("libpango-1.0.so.0", "libpango-1.0-0", "problem", "there are no PDF reports without it"),
        ("libpangoft2-1.0.so.0", "libpangoft2-1.0-0", "problem", "there are no PDF reports without it"),
        ("libharfbuzz-subset.so.0", "libharfbuzz-subset0", "warning", "a report takes four times as long"),
    ):
        there = _opens(library)
        yield Check(
            library,
            "ok" if there else state,
            "found" if there else f"missing: {why}",
            f"sudo apt-get install {package}",
        )


def _sandbox() -> Iterator[Check]:
    from pipeline.decode import Sandbox

    sandbox = Sandbox()
    try:
        sandbox.warm_up()
    except RuntimeError as error:
        yield Check(
            "decoding", "problem", str(error), "Run `make setup`; files cannot be decoded without it."
        )
        return
    finally:
        sandbox.close()
    held = {
        "system calls are filtered": sandbox.layers["seccomp"],
        "files are closed": sandbox.layers["landlock"],
        "the network is closed": sandbox.layers["network"],
    }
    lacking = [what for what, holds in held.items() if not holds]
    yield Check(
        "decoding",
        "ok" if sandbox.layers["seccomp"] else "warning",
        "confined: "
        + ", ".join(what for what, holds in held.items() if holds)
        + (f"; not held here: {', '.join(lacking)}" if lacking else ""),
        "sudo apt-get install libseccomp2; use a kernel with seccomp, better also with Landlock (5.13).",
    )


def _machine(home: Path) -> Iterator[Check]:
    folder = next(each for each in (home, *home.parents) if each.exists())
    free = shutil.disk_usage(folder).free / GB
    state = "problem" if free < 1 else "warning" if free < 10 else "ok"
    yield Check(
        "disk",
        state,
        f"{free:.1f} GB free at {folder}",
        "Make room, or name another folder: FRACTUREAI_HOME.",
    )
    memory = psutil.virtual_memory()
    state = "warning" if memory.available < 2 * GB else "ok"
    yield Check(
        "memory",
        state,
        f"{memory.available / GB:.1f} of {memory.total / GB:.1f} GB available, {os.cpu_count()} cores",
        "A server with one worker of each kind takes about 2 GB.",
    )
    with socket.socket() as probe:
        taken = probe.connect_ex(("127.0.0.1", PORT)) == 0
    detail = "in use; `up` takes the next free one" if taken else "free"
    yield Check(f"port {PORT}", "ok", detail)


def _scoring() -> Iterator[Check]:
    found = {}
    for package in ("tensorflow", "tensorflow-cpu", "openvino"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    detail = (
        ", ".join(f"{name} {number}" for name, number in found.items()) or "neither TensorFlow nor OpenVINO"
    )
    yield Check("scoring", "ok" if found else "problem", detail, "Run `make setup`.")
    card = Path("/dev/nvidia0").exists()
    if card and "tensorflow" not in found:
        yield Check(
            "GPU", "warning", "a card is there, TensorFlow for it is not", "pip install 'fractureai[gpu]'"
        )
    else:
        yield Check("GPU", "ok", "NVIDIA" if card else "none; scoring runs on the processor")


def _bundles() -> Iterator[Check]:
    from models.bundle import BundleError, load_bundle

    folders = [manifest.parent for manifest in sorted(BUNDLES.glob("*/manifest.json"))]
    if not folders:
        yield Check("bundles", "problem", f"none in {BUNDLES}", "Get the whole repository again.")
    for folder in folders:
        try:
            bundle = load_bundle(folder)
        except BundleError as error:
            yield Check(
                f"bundle {folder.name}", "problem", str(error), "Get the bundle again; do not read with it."
            )
        else:
            yield Check(f"bundle {bundle.name}", "ok", f"every hash right ({bundle.sha256[:12]})")


def _embedded(named: Servers) -> Iterator[Check]:
    programs: list[tuple[str, bool, Callable[[], Path]]] = [
        ("embedded Postgres", not named.database_url, lambda: postgres_folder() / "bin/postgres"),
        ("embedded Valkey", not named.broker_url, valkey_binary),
    ]
    for what, needed, program in programs:
        if needed:
            try:
                done = subprocess.run(
                    [str(program()), "--version"], capture_output=True, text=True, check=True
                )
                yield Check(what, "ok", done.stdout.strip().splitlines()[0])
            except (EmbeddedError, OSError, subprocess.CalledProcessError) as error:
                yield Check(what, "problem", str(error), "Run `make setup`, or name servers of your own.")


def _servers(named: Servers) -> Iterator[Check]:
    reachable: list[tuple[str, str, Callable[[str], bool]]] = [
        ("database", named.database_url, postgres_answers),
        ("broker", named.broker_url, valkey_answers),
        ("files", os.environ.get("FRACTUREAI_BLOB_URL", ""), _files_answer),
    ]
    for what, url, answers in reachable:
        if url:
            state = "ok" if answers(url) else "problem"
            yield Check(
                what,
                state,
                "answers" if state == "ok" else "does not answer",
                "Is it running, is its address right?",
            )


def _maintenance(home: Path, named: Servers) -> Iterator[Check]:
    """Look at recovery and cleaning up of the server whose database answers."""
    if not (named.database_url and postgres_answers(named.database_url)):
        return
    from cli.operate import server_parts
    from store.base.session import session_scope
    from store.operations import monitoring

    advice = "Look into the log of `reconcile`; the page Health says when each step last went through."
    try:
        with server_parts(home), session_scope() as session:
            problems = monitoring.step_problems(session)
    except ClientError as error:
        yield Check(
            "recovery and cleaning up", "problem", str(error), "Run `fractureai up`, which migrates it."
        )
        return
    detail = "; ".join(f"{step} {how.words}" for step, how in problems.items())
    yield Check(
        "recovery and cleaning up",
        "warning" if problems else "ok",
        detail or "every step went through",
        advice,
    )


def _files_answer(url: str) -> bool:
    from store.base.blobs import open_blobs
    from store.base.errors import BlobUnavailable

    try:
        open_blobs(url).exists("doctor")
    except BlobUnavailable:
        return False
    return True


def _settings() -> Iterator[Check]:
    try:
        from_environ(os.environ)
        yield Check("settings", "ok", "FRACTUREAI_* are in order")
    except SettingsError as error:
        yield Check("settings", "problem", str(error), "Mend the variable, or unset it.")


def examine(home: Path) -> list[Check]:
    """Look at everything; slow things have time limits of a few seconds."""
    running = running_servers(home)
    try:
        stated = from_environ(os.environ)
        named = Servers(stated.database_url, stated.broker_url)
    except SettingsError:  # which the checks tell
        named = Servers("", "")
    checks = [
        *_python(),
        *_packages(),
        *_libraries(),
        *_sandbox(),
        *_machine(home),
        *_scoring(),
        *_settings(),
        *_bundles(),
    ]
    checks += [*_embedded(named), *_servers(named)]
    checks += _maintenance(home, running or named)
    checks.append(Check("server here", "ok", f"runs on {home}" if running else f"none runs on {home}"))
    return checks


@click.command()
@click.option("--home", type=click.Path(path_type=Path, file_okay=False), help="Folder of the server.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on standard output.")
@click.pass_context
def doctor(ctx: click.Context, *, home: Path | None, as_json: bool) -> None:
    """Say what is missing on this machine, and what to do.

    Ends with 0 when a server can run here, with 1 when something has to be mended first.
    """
    checks = examine(home.resolve() if home else default_home())
    fine = all(check.state != "problem" for check in checks)
    if as_json:
        print_json({"ok": fine, "checks": [asdict(check) for check in checks]})
    else:
        console = open_console()
        for check in checks:
            advice = f"\n         -> {check.advice}" if check.state != "ok" and check.advice else ""
            console.print(f"{MARKS[check.state]}  {check.name}: {check.detail}{advice}", soft_wrap=True)
    ctx.exit(0 if fine else 1)

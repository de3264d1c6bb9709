"""A data set laid out as MURA is, scored by two bundles on a server that is killed twice meanwhile.

    python -m bench.rescore --count 5000 --fracatlas ../shared/data/fracatlas

A scoring worker is killed, then the whole server; both come back and the run goes on. Meanwhile an urgent
image is sent. At the end the run's figures are compared with those of `fractureai evaluate` on the same
files, and what went through the networks is counted.
"""  # fmt: skip

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from bench.measure import machine, publish
from cli.client import Client, ClientError
from cli.embedded import free_port
from phantoms.files import encode_phantom
from phantoms.film import make_phantom
from training.mura_layout import plan_images, plan_with_fracatlas, write_mura

COMMAND = (sys.executable, "-m", "cli.main")
#: Shares of the images at which things happen.
KILL_WORKER, SEND_URGENT, STOP_SERVER = 0.15, 0.35, 0.55
#: Long side of the pictures, pixels.
SIDE = 320
#: Gives phantoms that `fractureai phantoms`, and so a bundle's training, does not make unless told to.
SEED = 1


class Stand:
    """A server in a folder, and the client that asks it."""

    def __init__(self, home: Path) -> None:
        self.home, self.port = home, free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server and wait until it answers."""
        self._launch()
        _wait(self._answers, 300, "the server")

    def _launch(self) -> None:
        with (self.home.parent / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*COMMAND, "up", "--home", str(self.home), "--port", str(self.port)],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _answers(self) -> bool:
        if self.process is None or self.process.poll() is not None:
            self._launch()  # it gives up when a busy machine keeps it from answering for a minute
        try:
            with self.client(patience=1) as client:
                client.bundles()
        except (OSError, KeyError, ValueError, ClientError):
            return False
        return True

    def client(self, patience: float = 120.0) -> Client:
        """Return a client with the administrator's key."""
        found = json.loads((self.home / "client.json").read_text())
        return Client(f"http://127.0.0.1:{self.port}", found["api_key"], patience=patience)

    def kill_scoring_worker(self) -> None:
        """SIGKILL the process that scores."""
        assert self.process is not None
        for process in psutil.Process(self.process.pid).children(recursive=True):
            with suppress(psutil.Error):  # a child of one just killed
                if "-Q gpu" in " ".join(process.cmdline()):
                    process.kill()

    def kill(self) -> None:
        """SIGKILL the whole server; its children die with it."""
        if self.process is not None and self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def stop(self) -> None:
        """Stop the server in good order."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(60)


@contextmanager
def running_stand(home: Path) -> Iterator[Stand]:
    """Run a server while the block does."""
    stand = Stand(home)
    try:
        stand.start()
        yield stand
    finally:
        stand.stop()


def _wait(ask: Callable[[], Any], seconds: float, what: str) -> Any:
    end = time.monotonic() + seconds
    while not (answer := ask()):
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds:.0f} s for {what}")
        time.sleep(0.5)
    return answer


def _say(words: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {words}", flush=True)


def _fractureai(*arguments: object) -> str:
    done = subprocess.run([*COMMAND, *map(str, arguments)], check=True, capture_output=True, text=True)
    return done.stdout


def ended(run: dict[str, Any]) -> int:
    """Return how many images of a run have ended."""
    counts = run["progress"]["counts"]
    return int(counts["done"] + counts["rejected"] + counts["failed"] + counts["cancelled"])


def send_urgent(client: Client, picture: Path, bundle: str) -> float:
    """Send one urgent image; return the seconds until its finding and report were there."""
    started = time.monotonic()
    batch = client.create_batch({"priority": "urgent", "bundle": bundle, "label": "urgent"}, str(started))

    def parts(stack: ExitStack) -> list[tuple[str, Any]]:
        return [("files", (picture.name, stack.enter_context(picture.open("rb"))))]

    client.send_files(batch["id"], parts)
    client.act(batch["id"], "submit")
    after = client.wait_for(batch["id"], lambda _: None, timeout=600)
    assert after["status"] == "done", after
    return time.monotonic() - started


def differences(figures: dict[str, Any], measured: dict[str, Any]) -> float:
    """Return the largest difference between the values and intervals of two evaluations."""
    largest = 0.0
    for level in ("study", "image"):
        here = {"pooled": figures[level]["pooled"], **figures[level]["regions"]}
        there = {"pooled": measured[level]["pooled"], **measured[level]["regions"]}
        assert here.keys() == there.keys(), (here.keys(), there.keys())
        for name, part in here.items():
            assert part.get("confusion") == there[name].get("confusion"), (level, name)
            for key, figure in part.get("figures", {}).items():
                other = there[name]["figures"][key]
                pairs = [(figure["value"], other["value"])]
                pairs += zip(figure["interval"] or (), other["interval"] or (), strict=True)
                largest = max([largest, *(abs(a - b) for a, b in pairs if a is not None)])
    return largest


def write_pictures(out: Path, count: int, fracatlas: Path | None) -> Path:
    """Lay `count` pictures out as MURA: phantoms, and radiographs where FracAtlas is there."""
    plan = plan_with_fracatlas(count, fracatlas, seed=SEED) if fracatlas else plan_images(count, seed=SEED)
    return write_mura(out, plan, longest=SIDE)


def rescore(
    folder: Path,
    count: int,
    bundles: list[Path],
    *,
    fracatlas: Path | None = None,
    interrupt: bool = True,
) -> dict[str, Any]:
    """Do all that the module says; return what was seen."""
    mura = write_pictures(folder / "data", count, fracatlas)
    urgent = folder / "urgent.png"
    urgent.write_bytes(encode_phantom(make_phantom(999_983, "hand", size=(512, 400))))
    names = [path.name for path in bundles]
    _say(f"{count} images laid out as MURA is")
    home = folder / "home"
    seen: dict[str, Any] = {"images": count}
    with running_stand(home) as stand:
        for path in bundles:
            _fractureai("bundles", "add", path, "--home", home)
        started = time.monotonic()
        said = _fractureai("datasets", "add", "mura", mura, "--format", "mura", "--home", home)
        _say(next(line for line in said.splitlines() if line.startswith("mura:")))
        seen["register_seconds"] = time.monotonic() - started
        with stand.client() as client:
            idle = send_urgent(client, urgent, names[0])
            _say(f"an urgent image on the idle server: {idle:.1f} s")
            started = time.monotonic()
            run = client.document("/runs", body={"dataset": "mura", "bundles": names})
        address = f"/runs/{run['id']}"
        steps = [(KILL_WORKER, "worker"), (SEND_URGENT, "urgent"), (STOP_SERVER, "server")]
        while run["status"] not in {"done", "partial", "failed", "cancelled"}:
            if steps and interrupt and ended(run) >= steps[0][0] * count:
                _, what = steps.pop(0)
                if what == "worker":
                    stand.kill_scoring_worker()
                    _say(f"scoring worker killed at {ended(run)} images")
                elif what == "server":
                    stand.kill()
                    _say(f"server killed at {ended(run)} images")
                    stand.start()
                    _say("server started again")
                else:
                    picture = make_phantom(999_979, "hand", size=(512, 400))
                    urgent.write_bytes(encode_phantom(picture))
                    with stand.client() as client:
                        seen["urgent_seconds"] = send_urgent(client, urgent, names[0])
                    _say(f"an urgent image meanwhile: {seen['urgent_seconds']:.1f} s")
            time.sleep(1.0)
            with stand.client() as client:
                run = client.document(address)
        seen |= {
            "run_seconds": time.monotonic() - started,
            "idle_urgent_seconds": idle,
            "status": run["status"],
            "counts": run["progress"]["counts"],
            "forward_passes": run["forward_passes"],
        }
        seen["distinct"] = len({p.read_bytes() for p in mura.rglob("*.png")})
        _say(f"run {run['status']} after {seen['run_seconds']:.0f} s, kills included")
        for path in bundles:
            out = folder / f"{path.name}.json"
            _fractureai("evaluate", path, mura, "--studies", "--json", out)
            largest = differences(run["figures"][path.name], json.loads(out.read_text()))
            seen[f"largest difference from `fractureai evaluate`, {path.name}"] = largest
            auc = run["figures"][path.name]["study"]["pooled"]["figures"]["auc"]
            seen[f"AUC by study, {path.name}"] = (
                f"{auc['value']:.3f} ({auc['interval'][0]:.3f} to {auc['interval'][1]:.3f})"
            )
        with stand.client() as client:

            def verdict() -> str | None:
                made = client.document(address)["comparisons"]
                figures = client.document(f"/comparisons/{made[0]['id']}")["figures"] if made else None
                return figures["verdict"] if figures else None

            seen["verdict"] = _wait(verdict, 600, "the comparison")
    return seen


def main() -> None:
    """Run it and print what was seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=5000, help="images")
    parser.add_argument("--bundle", type=Path, action="append", help="bundle folders; two tiny ones if none")
    parser.add_argument("--fracatlas", type=Path, help="FracAtlas's folder: its hands and shoulders, too")
    parser.add_argument("--folder", type=Path, help="where to work; a temporary folder if none is named")
    arguments, before = parser.parse_args(), machine()
    with tempfile.TemporaryDirectory(prefix="fractureai-bench-") as temporary:
        Path(temporary).chmod(0o711)
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        bundles = arguments.bundle
        if not bundles:
            from training.tiny import build_tiny_bundle

            bundles = [folder / "tiny-a", folder / "tiny-b"]
            for epochs, path in zip((2, 5), bundles, strict=True):
                if not path.exists():
                    build_tiny_bundle(path, epochs=epochs)
            _say("two tiny bundles trained")
        seen = rescore(folder, arguments.count, bundles, fracatlas=arguments.fracatlas)
    passes, wanted = seen["forward_passes"], seen["distinct"] * len(bundles)
    seen |= {
        f"through {kind} networks": f"{passes[kind]:,} for {wanted:,} wanted: {passes[kind] - wanted} twice"
        for kind in ("region", "fracture")
    }
    rows = {name.replace("_", " "): {"seen": value} for name, value in seen.items() if _single(value)}
    publish("rescore", "A data set scored again by two bundles, with two kills", rows, before)


def _single(value: object) -> bool:
    return isinstance(value, (int, float, str))


if __name__ == "__main__":
    main()

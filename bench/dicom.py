"""Images a second that the DICOM receiver acknowledges, beside DCMTK's storescp in the same run.

``python -m bench.dicom [--images N] [--rounds N] [--senders N]``; needs DCMTK (Debian's package ``dcmtk``).
storescp writes files and syncs none; the receiver syncs each, commits a row, and keeps what is repeated once.
Both run all the time and have their turns, first one, then the other, so that whatever else the machine does
holds both: the ratio is worth more than the figures, unless the machine is quiet.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cli.embedded import embedded, free_port, set_defaults
from cli.prepare import ROOT, prepare
from phantoms.files import encode_phantom
from phantoms.film import make_phantom
from settings import get_settings

CALLED = "FRACTURES"
STUDY = 25  # images
#: Times that a sender begins: on a busy machine an association may not be answered in time.
TRIES = 5


def _films(folder: Path, count: int, size: int) -> list[Path]:
    paths = []
    pixels = make_phantom(1, "hand", size=(size, size))
    for n in range(count):
        path = folder / f"{n:05d}.dcm"
        path.write_bytes(encode_phantom(pixels, "dicom", study=f"study {n // STUDY}", number=n))
        paths.append(path)
    return paths


def _send(paths: Sequence[Path], port: int, senders: int) -> float:
    """Send all by so many associations at once, again what was not acknowledged; return the seconds."""
    began = time.monotonic()
    left = [paths[n::senders] for n in range(senders)]
    for _ in range(TRIES):
        running = []
        for files in left:
            command = ["/usr/bin/storescu", "-R", "-ta", "300", "-aet", "BENCH", "-aec", CALLED, "127.0.0.1"]
            quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            running.append(subprocess.Popen([*command, str(port), *map(str, files)], **quiet))
        left = [files for files, each in zip(left, running, strict=True) if each.wait()]
        if not left:
            return time.monotonic() - began
    raise RuntimeError("an image was not acknowledged")


def _await(port: int) -> None:
    command = ["/usr/bin/echoscu", "-aet", "BENCH", "-aec", CALLED, "127.0.0.1", str(port)]
    until = time.monotonic() + 300
    while subprocess.run(command, capture_output=True, check=False).returncode:
        if time.monotonic() > until:
            raise RuntimeError("the receiver does not answer")
        time.sleep(0.2)


@contextmanager
def _storescp(folder: Path) -> Iterator[int]:
    port = free_port()
    folder.mkdir()
    command = ["/usr/bin/storescp", "--fork", "-aet", CALLED, "-od", str(folder), str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _await(port)
        yield port
    finally:
        process.kill()
        process.wait()


@contextmanager
def _ours(home: Path) -> Iterator[int]:
    port = free_port()
    with embedded(home) as (servers, _):
        set_defaults(home, servers)
        os.environ["FRACTUREAI_GATEWAY_PORT"] = str(port)
        get_settings.cache_clear()
        prepare()
        from sqlalchemy import select

        from store.base.session import session_scope
        from store.base.tables import Site
        from store.intake import gateway_peers

        with session_scope() as session:
            site = session.scalars(select(Site)).one()
            gateway_peers.set_site(session, site.id, ae_title=CALLED)
            gateway_peers.allow(session, site.id, "BENCH", ["127.0.0.1"])
        process = subprocess.Popen([sys.executable, "-m", "cli.main", "gateway"], cwd=ROOT)
        try:
            _await(port)
            yield port
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--senders", type=int, default=4)
    parser.add_argument("--size", type=int, default=512, help="pixels a side, 8 bits each")
    options = parser.parse_args()
    seconds: dict[str, list[float]] = {"DCMTK storescp": [], "fractureai gateway": []}
    with tempfile.TemporaryDirectory(prefix="fractureai-bench-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        (folder / "films").mkdir()
        paths = _films(folder / "films", options.images, options.size)
        with _storescp(folder / "storescp") as theirs, _ours(folder / "home") as ours:
            ports = dict(zip(seconds, (theirs, ours), strict=True))
            for n in range(options.rounds):
                part = paths[n :: options.rounds]
                for who in reversed(seconds) if n % 2 else seconds:  # each is first as often
                    seconds[who].append(_send(part, ports[who], options.senders))
                    print(f"round {n + 1}: {who}: {len(part) / seconds[who][-1]:.1f} images/s", flush=True)
    print(
        f"\n{options.images} images of {options.size} x {options.size} in {options.rounds} rounds, "
        f"{options.senders} associations\n"
    )
    print("| Receiver | Seconds | Images a second |\n|---|--:|--:|")
    for who, each in seconds.items():
        print(f"| {who} | {sum(each):.1f} | {options.images / sum(each):.1f} |")
    ratios = sorted(b / a for a, b in zip(*seconds.values(), strict=True))
    print(
        f"\nThe gateway takes {statistics.median(ratios):.1f} times as long as storescp "
        f"(median of the rounds; {ratios[0]:.1f} to {ratios[-1]:.1f})."
    )


if __name__ == "__main__":
    main()

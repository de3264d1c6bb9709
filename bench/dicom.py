"""Images a second that the DICOM receiver acknowledges, beside DCMTK's storescp in the same run.

``python -m bench.dicom [--images N] [--senders N]``; needs DCMTK (Debian's package ``dcmtk``). storescp
writes files and syncs none; the receiver syncs each, commits a row, and keeps what is repeated once.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from cli.embedded import embedded, free_port, set_defaults
from cli.prepare import ROOT, prepare
from phantoms.files import encode_phantom
from phantoms.film import make_phantom
from settings import get_settings

CALLED = "FRACTURES"
STUDY = 25  # images


def _films(folder: Path, count: int, size: int) -> list[Path]:
    paths = []
    pixels = make_phantom(1, "hand", size=(size, size))
    for n in range(count):
        path = folder / f"{n:05d}.dcm"
        path.write_bytes(encode_phantom(pixels, "dicom", study=f"study {n // STUDY}", number=n))
        paths.append(path)
    return paths


def _send(paths: Sequence[Path], port: int, senders: int) -> float:
    """Send all by so many associations at once; return the seconds."""
    began = time.monotonic()
    running = []
    for n in range(senders):
        files = list(map(str, paths[n::senders]))
        command = ["/usr/bin/storescu", "-R", "-aet", "BENCH", "-aec", CALLED, "127.0.0.1", str(port), *files]
        running.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
    if any(each.wait() for each in running):
        raise RuntimeError("an image was not acknowledged")
    return time.monotonic() - began


def _await(port: int) -> None:
    command = ["/usr/bin/echoscu", "-aet", "BENCH", "-aec", CALLED, "127.0.0.1", str(port)]
    until = time.monotonic() + 60
    while subprocess.run(command, capture_output=True, check=False).returncode:
        if time.monotonic() > until:
            raise RuntimeError("the receiver does not answer")
        time.sleep(0.2)


def _storescp(paths: Sequence[Path], folder: Path, senders: int) -> float:
    port = free_port()
    folder.mkdir()
    command = ["/usr/bin/storescp", "--fork", "-aet", CALLED, "-od", str(folder), str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _await(port)
        return _send(paths, port, senders)
    finally:
        process.kill()
        process.wait()


def _ours(paths: Sequence[Path], home: Path, senders: int) -> float:
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
            return _send(paths, port, senders)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--senders", type=int, default=4)
    parser.add_argument("--size", type=int, default=512, help="pixels a side, 8 bits each")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fractureai-bench-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        (folder / "films").mkdir()
        paths = _films(folder / "films", options.images, options.size)
        theirs = _storescp(paths, folder / "storescp", options.senders)
        home = folder / "home"
        ours = _ours(paths, home, options.senders)
    print(f"\n{options.images} images of {options.size} x {options.size}, {options.senders} associations\n")
    print("| Receiver | Seconds | Images a second |\n|---|--:|--:|")
    for who, seconds in (("DCMTK storescp", theirs), ("fractureai gateway", ours)):
        print(f"| {who} | {seconds:.1f} | {options.images / seconds:.0f} |")


if __name__ == "__main__":
    main()

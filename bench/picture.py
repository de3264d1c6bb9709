"""What the picture code of an earlier commit and of this one cost an image in `prepare`, in turns.

``python -m bench.picture [--before COMMIT]``. Decoding, scaling and the display copy, as the stage does them,
each in a process of its own without the sandbox, whose share `bench.prepare` measures; both keep freed memory
as the sandbox does. Only processor time is counted, and the ratio is taken within each round.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np

from bench.measure import ROOT, Spread, machine, publish
from bench.prepare import INPUT_SIZE, MAX_PIXELS, files

#: The last commit before header and picture data were compared, and grey levels measured.
BEFORE = "37b40f1"
#: Runs in the folder of either commit: a line ``FILE IMAGES`` in, milliseconds an image out.
_CHILD = f"""
import ctypes, sys, time
import cv2
libc = ctypes.CDLL(None)
libc.mallopt(-3, 32 << 20), libc.mallopt(-1, 512 << 20)  # pipeline.decode.confine.keep_freed_memory
cv2.setNumThreads(1)
try:
    from pipeline.decode.picture import decode
except ImportError:
    from pipeline.decode import decode
from pipeline.preprocess import display_jpeg, model_input
for line in sys.stdin:
    path, images = line.split()
    with open(path, "rb") as file:
        data = file.read()
    began = time.process_time()
    for _ in range(int(images)):
        found = decode(data, max_pixels={MAX_PIXELS}, pseudonymise=lambda _: "0" * 64)
        model_input(found.pixels, {INPUT_SIZE})
        display_jpeg(found.pixels)
    print(1000 * (time.process_time() - began) / int(images), flush=True)
"""


class Code:
    """The picture code of one checkout, in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _CHILD],
            cwd=folder,
            env={"PYTHONPATH": str(folder)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Code:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def cpu_milliseconds(self, path: Path, images: int) -> float:
        """Prepare one file so many times; return the processor time of one."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{path} {images}\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())


def main() -> None:
    """Measure and publish."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", default=BEFORE, help="commit")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.5, help="processor time of a file in a round")
    arguments = parser.parse_args()
    machine_before = machine()
    rows = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tree = ["git", "-C", str(ROOT), "archive", arguments.before, "pipeline"]
        packed = subprocess.run(tree, check=True, capture_output=True).stdout
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            archive.extractall(folder / "before", filter="data")
        with Code(folder / "before") as old, Code(ROOT) as new:
            for number, (kind, data) in enumerate(files().items()):
                path = folder / str(number)
                path.write_bytes(data)
                once = min(code.cpu_milliseconds(path, 2) for code in (old, new))
                images = max(1, round(1000 * arguments.seconds / once))
                seen = [
                    [code.cpu_milliseconds(path, images) for code in turn]
                    for turn in ((old, new), (new, old)) * ((arguments.rounds + 1) // 2)
                ][: arguments.rounds]
                seen = [pair if turn % 2 == 0 else pair[::-1] for turn, pair in enumerate(seen)]
                before, after = np.array(seen).T
                rows[kind] = {
                    "before, CPU ms": Spread.of(before.tolist()),
                    "now, CPU ms": Spread.of(after.tolist()),
                    "more, %": Spread.of((100 * (after / before - 1)).tolist()),
                }
    publish("picture", f"An image in prepare, {arguments.before} and now", rows, machine_before)


if __name__ == "__main__":
    main()

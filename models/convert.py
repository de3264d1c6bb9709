"""Networks for OpenVINO, converted once a machine in another process: ``python -m models.convert BUNDLE``.

Only that process loads TensorFlow. Beside each converted network it leaves what TensorFlow says of a few
made-up images, so that whoever loads the network can check that it still says the same.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import os
import shutil
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from models import outputs
from models.bundle import Bundle, load_bundle
from pipeline.types import Float32Array, UInt8Array

#: How long converting a bundle may take for a person at a terminal: half a minute where nothing else runs,
#: many where much does. The service, whose leases end, has a setting of its own.
CONVERSION_SECONDS = 3600.0
#: A change makes cached conversions stale.
_VERSION = 4
SELF_TEST_IMAGES = 4
ROOT = Path(__file__).resolve().parent.parent


class ConversionError(RuntimeError):
    """The networks cannot be converted; the message says why."""


def self_test_images(size: int) -> UInt8Array:
    """Return uint8 (n, size, size): bright bars with soft edges on a slope, the same on every machine.

    They look like nothing in particular; what counts is that they excite the networks differently.
    """
    y, x = np.mgrid[0:size, 0:size].astype(np.float64) / size
    pictures = []
    for n in range(1, SELF_TEST_IMAGES + 1):
        across = (x * np.cos(n) + y * np.sin(n)) * 2 * n
        bars = np.clip(4 * (np.abs(across % 2 - 1) - 0.5) + 0.5, 0, 1)
        spot = np.clip(1 - 3 * np.hypot(x - 0.2 * n, y - 0.5), 0, 1)
        pictures.append(np.round(255 * np.clip(0.15 * y + 0.55 * bars + 0.3 * spot, 0, 1)))
    return np.asarray(pictures, np.uint8)


def read_expected(folder: Path) -> dict[str, Float32Array]:
    """Return what the bundle's own network says of the self-test images, kept beside a conversion.

    By the output's name, those of `outputs.CHECKED` that the network has.
    """
    with np.load(folder / "expected.npz", allow_pickle=False) as kept:
        return {name: np.asarray(kept[name], np.float32) for name in kept.files}


def converted_folder(bundle: Bundle, network: str, cache: Path) -> Path:
    """Return where a network's conversion is kept: its weights, OpenVINO's version, and how it was made."""
    import openvino as ov

    digest = bundle.networks[network].sha256[:16]
    return cache / f"openvino-{ov.get_version().split('-')[0]}-{_VERSION}-{digest}"


def convert_in_process(
    bundle: Bundle,
    network: str,
    cache: Path,
    seconds: float = CONVERSION_SECONDS,
    converted: Path | None = None,
) -> Path:
    """Return a network's conversion; if there is none yet, another process converts the whole bundle.

    Parameters
    ----------
    converted
        Where conversions lie that were made beforehand, when an image was built.

    Raises
    ------
    ConversionError
        That process failed, or took too long.
    """
    if converted is not None and (ready := converted_folder(bundle, network, converted)).is_dir():
        return ready
    folder = converted_folder(bundle, network, cache)
    if folder.is_dir():
        return folder
    if find_spec("tensorflow") is None:
        raise ConversionError(
            f"{bundle.name} has no conversion in {converted or cache}, and TensorFlow, which makes one, is "
            "not here: score with the image `cpu`, or convert elsewhere: python -m models.convert"
        )
    command = [sys.executable, "-m", "models.convert", str(bundle.folder)]
    command += ["--cache", str(cache), "--end-with", str(os.getpid())]
    try:
        done = subprocess.run(
            command, cwd=ROOT, timeout=seconds, check=False, capture_output=True, text=True, errors="replace"
        )
    except subprocess.TimeoutExpired:
        raise ConversionError(
            f"converting {bundle.name} for OpenVINO took longer than {seconds:.0f} s; "
            "FRACTUREAI_CONVERSION_SECONDS allows more"
        ) from None
    if done.returncode or not folder.is_dir():
        last = done.stderr.strip().splitlines()[-1:] or [f"the process ended with {done.returncode}"]
        raise ConversionError(
            f"converting {bundle.name} for OpenVINO failed: {last[0]}. "
            f"Try by hand: python -m models.convert {bundle.folder} --cache {cache}"
        )
    return folder


def convert_bundle(bundle: Bundle, cache: Path) -> list[Path]:
    """Convert what is not converted yet; of several processes one works and the others wait for it."""
    cache.mkdir(parents=True, exist_ok=True)
    made = []
    with (cache / "conversion.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for network in bundle.networks:
            folder = converted_folder(bundle, network, cache)
            if not folder.is_dir():
                _convert(bundle, network, folder)
                made.append(folder)
    return made


def _convert(bundle: Bundle, network: str, folder: Path) -> None:
    import openvino as ov

    from models.traced import save_traced, traced

    part = folder.with_name("unfinished")  # a killed process left it; we hold the lock
    shutil.rmtree(part, ignore_errors=True)
    function = traced(bundle, network)
    save_traced(function, part / "saved")
    ov.save_model(ov.convert_model(part / "saved"), part / "network.xml", compress_to_fp16=False)
    shutil.rmtree(part / "saved")
    said = function(self_test_images(bundle.networks[network].input_size))
    np.savez(
        part / "expected.npz",
        **{name: rows.numpy() for name, rows in said.items() if name in outputs.CHECKED},
    )
    part.rename(folder)


def _end_with(parent: int) -> None:
    """End when the parent does, even by SIGKILL."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        raise SystemExit("the process that asked for the conversion has ended")


def main() -> None:
    """Convert a bundle's networks and print where each lies."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--cache", type=Path, required=True, help="folder that keeps the conversions")
    parser.add_argument("--end-with", type=int, metavar="PID", help="end when this parent process does")
    arguments = parser.parse_args()
    if arguments.end_with:
        _end_with(arguments.end_with)
    for folder in convert_bundle(load_bundle(arguments.bundle), arguments.cache):
        print(folder)


if __name__ == "__main__":
    main()

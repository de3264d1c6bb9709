"""What labelled radiographs look like (`pipeline.lookalikes`), decoded as the service decodes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.decode import decode
from pipeline.lookalikes import look_of
from pipeline.types import Rejected, Skipped
from training.datasets import Example
from training.datasets.scan import MAX_PIXELS
from training.processes import in_processes


def look_of_file(path: Path) -> bytes | None:
    """Return a file's look; None where the service would refuse it."""
    try:
        return look_of(decode(path.read_bytes(), max_pixels=MAX_PIXELS, pseudonymise=lambda _: "").pixels)
    except (Rejected, Skipped):
        return None


def looks_of_files(paths: Sequence[Path]) -> list[bytes | None]:
    """Return the look of each file: pictures turned round or of low contrast are brought right first."""
    return list(in_processes(look_of_file, paths, None))


def looks_by_sha256(examples: Sequence[Example]) -> dict[str, bytes]:
    """Return the looks of examples by their SHA-256."""
    found = looks_of_files([example.path for example in examples])
    return {e.sha256: look for e, look in zip(examples, found, strict=True) if look is not None}

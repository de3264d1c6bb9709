"""What both backends say of the same real radiographs: ``python -m bench.agreement --images FOLDER``."""

from __future__ import annotations

import argparse
from pathlib import Path

from bench.measure import machine, publish
from bench.reading import ROOT
from bench.scoring import agreement, apart, read_real

#: What a new site reads with.
SHIPPED = ROOT / "models" / "bundles" / "fracatlas-4"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, default=SHIPPED)
    parser.add_argument("--images", type=Path, required=True, help="folder of real radiographs")
    parser.add_argument("--count", type=int, default=1000, help="how many of them")
    arguments = parser.parse_args()
    before = machine()
    truth, said = (
        apart(read_real, arguments.images, arguments.count, backend, "float32", arguments.bundle)
        for backend in ("tensorflow", "openvino")
    )
    rows = {"OpenVINO in float32 against TensorFlow": agreement(said, truth)}
    publish("agreement", f"The same weights on two backends, {arguments.bundle.name}", rows, before)


if __name__ == "__main__":
    main()

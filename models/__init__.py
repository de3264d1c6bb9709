"""Neural networks: their architectures, the versioned bundle, and the scorer."""

import sys

# OpenVINO reports its import to an analytics service if it finds this package; without it, to its own stub.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]

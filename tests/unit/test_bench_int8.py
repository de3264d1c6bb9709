"""Which operations of a converted network stay in float32 when only its trunk is quantised."""

from __future__ import annotations

import numpy as np
import openvino as ov
from openvino import opset8 as ops

from bench.int8 import after_last_depthwise


def test_the_head_is_all_after_the_last_depthwise_convolution() -> None:
    image = ops.parameter([1, 2, 8, 8], np.float32, name="image")
    sides = ([1, 1], [0, 0], [0, 0], [1, 1])
    depthwise = ops.group_convolution(image, np.ones((2, 1, 1, 1, 1), np.float32), *sides, name="depthwise")
    first = ops.convolution(depthwise, np.ones((3, 2, 1, 1), np.float32), *sides, name="first")
    last = ops.convolution(
        ops.relu(first, name="relu"), np.ones((1, 3, 1, 1), np.float32), *sides, name="last"
    )

    assert after_last_depthwise(ov.Model([last], [image])) == ["first", "relu", "last"]

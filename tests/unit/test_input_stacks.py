"""A chunk's model inputs on their way between the stages."""

from __future__ import annotations

import io
import uuid

import numpy as np
import pytest

from worker.stages.chunk import _arrays, pack_inputs

IDS = [uuid.uuid4() for _ in range(3)]
STACKS = {size: np.arange(3 * size * size, dtype=np.uint8).reshape(3, size, size) for size in (4, 320)}


def test_stacks_are_read_as_numpy_reads_them() -> None:
    packed = pack_inputs(STACKS, IDS)
    read = _arrays(packed)
    with np.load(io.BytesIO(packed)) as expected:  # workers of the version before do
        assert sorted(read) == sorted(expected.files)
        assert all(np.array_equal(read[name], expected[name]) for name in read)


@pytest.mark.parametrize("broken", [b"", b"not numpy's", pack_inputs(STACKS, IDS)[:-40]])
def test_what_is_no_stack_says_so(broken: bytes) -> None:
    with pytest.raises(ValueError, match="no stack"):
        _arrays(broken)


def test_other_arrays_are_refused() -> None:
    for arrays in ({"s4": np.zeros((1, 4, 4), np.float32)}, {"s4": np.array([[[None]]])}):
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        with pytest.raises(ValueError, match="a stack of"):
            _arrays(buffer.getvalue())


def test_an_altered_stack_is_refused() -> None:
    packed = bytearray(pack_inputs(STACKS, IDS))
    packed[len(packed) // 2] ^= 1
    with pytest.raises(ValueError, match="altered"):
        _arrays(bytes(packed))

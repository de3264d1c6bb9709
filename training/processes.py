"""One function over many items in several processes."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

import cv2

Item = TypeVar("Item")
Result = TypeVar("Result")

#: Fewer items than this are not worth a process.
_FEW = 64


def in_processes(
    function: Callable[[Item], Result], items: Sequence[Item], jobs: int | None
) -> Iterator[Result]:
    """Yield the results in the items' order.

    Parameters
    ----------
    function
        Of a module's top level.
    jobs
        Processes; None for one a processor, 1 for none but this.
    """
    jobs = jobs or os.cpu_count() or 1
    if jobs == 1 or len(items) < _FEW:
        yield from map(function, items)
        return
    # spawned, not forked: a fork of a process with OpenCV's or TensorFlow's threads was seen to wait for ever
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        yield from pool.map(function, items, chunksize=16)

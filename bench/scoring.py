"""Backends, precisions, batch sizes, threads: speed, memory, agreement: ``python -m bench.scoring``."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from bench.measure import Spread, machine, publish
from bench.reading import BUNDLE, MAX_PIXELS, NETWORKS
from models.bundle import load_bundle
from models.convert import convert_in_process
from models.scorer import MAX_STREAMS, ScorerError, open_scorer
from pipeline.decode.picture import decode
from pipeline.preprocess import model_input
from pipeline.routing import route
from pipeline.triage import calibrate, triage
from pipeline.types import Rejected, UInt8Array

NETWORK = "hand"
IMAGES = 32
#: How long processes wait for each other, seconds: loading takes a while on a busy machine.
_PATIENCE = 600.0


def _stack() -> UInt8Array:
    size = load_bundle(BUNDLE).networks[NETWORK].input_size
    return np.random.default_rng(0).integers(0, 255, (IMAGES, size, size), np.uint8)


def _memory() -> float:
    """Return this process's MiB; what it shares with others is divided among them, so that sums are right."""
    return float(psutil.Process().memory_full_info().pss) / 2**20


def _rates(score: Callable[[], object], rounds: int) -> dict[str, Any]:
    """Return images a second, by the clock and by processor time, and this process's memory."""
    score()
    wall, cpu = [], []
    for _ in range(rounds):
        started, busy = time.perf_counter(), time.process_time()
        score()
        wall.append(IMAGES / (time.perf_counter() - started))
        cpu.append(IMAGES / (time.process_time() - busy))
    return {
        "images/s": Spread.of(wall),
        "images/CPU-s": Spread.of(cpu),
        "MB": f"{_memory():.0f}",
    }


def with_scorer(
    backend: str, precision: str, threads: int, rounds: int, cache: Path = NETWORKS
) -> dict[str, Any]:
    """Measure our scorer with all networks of the bundle loaded."""
    scorer = open_scorer(
        load_bundle(BUNDLE), backend=backend, precision=precision, threads=threads, cache=cache
    )
    scorer.warm_up()
    stack = _stack()
    return _rates(lambda: scorer.detect(NETWORK, stack), rounds)


#: Set in each of several processes: all that measure together meet here.
_meeting: Barrier | None = None


def _meet_at(barrier: Barrier) -> None:
    global _meeting  # noqa: PLW0603  # a barrier can only be handed to a process as it starts
    _meeting = barrier


def _one_of_several(threads: int, passes: int, rounds: int) -> dict[str, Any]:
    """Score `passes` stacks a round, every round begun together with the others."""
    assert _meeting is not None
    scorer = open_scorer(load_bundle(BUNDLE), backend="openvino", threads=threads, cache=NETWORKS)
    scorer.warm_up()
    stack, spans, cpu = _stack(), [], []
    for _ in range(rounds + 1):
        _meeting.wait(_PATIENCE)
        started, busy = time.perf_counter(), time.process_time()
        for _ in range(passes):
            scorer.detect(NETWORK, stack)
        spans.append((started, time.perf_counter()))
        cpu.append(time.process_time() - busy)
    _meeting.wait(_PATIENCE)  # memory while all are alive
    memory = _memory()
    _meeting.wait(_PATIENCE)
    return {"spans": spans[1:], "cpu": cpu[1:], "memory": memory}


def several(processes: int, threads: int, rounds: int) -> dict[str, Any]:
    """Measure processes of `threads` OpenVINO streams each, all at once: their rates and memory together.

    A round is as many stacks as there are streams in all, so that every division does the same work.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        processes, context, initializer=_meet_at, initargs=(context.Barrier(processes),)
    ) as pool:
        # each waits for the others, so none takes a second call
        calls = [pool.submit(_one_of_several, threads, threads, rounds) for _ in range(processes)]
        found = [call.result() for call in calls]
    images = IMAGES * processes * threads
    # perf_counter is one clock for all processes of a machine
    wall = [
        max(end for _, end in spans) - min(start for start, _ in spans)
        for spans in zip(*(one["spans"] for one in found), strict=True)
    ]
    cpu = [sum(times) for times in zip(*(one["cpu"] for one in found), strict=True)]
    return {
        "images/s": Spread.of([images / seconds for seconds in wall]),
        "images/CPU-s": Spread.of([images / seconds for seconds in cpu]),
        "MB": f"{sum(one['memory'] for one in found):.0f}",
    }


def with_batches(size: int, rounds: int) -> dict[str, Any]:
    """Measure OpenVINO on one thread with batches of `size`, all networks of the bundle loaded."""
    import openvino as ov

    bundle, core, stack = load_bundle(BUNDLE), ov.Core(), _stack()
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1}
    requests = {}
    for name, network in bundle.networks.items():
        folder = convert_in_process(bundle, name, NETWORKS)
        requests[name] = core.compile_model(folder / "network.xml", "CPU", options).create_infer_request()
        requests[name].infer([np.zeros((size, network.input_size, network.input_size), np.uint8)])

    def score() -> None:
        for start in range(0, IMAGES, size):
            requests[NETWORK].infer([stack[start : start + size]])

    return _rates(score, rounds)


def network_times(rounds: int) -> dict[str, Any]:
    """Return processor milliseconds an image of the region network and of a fracture network."""
    bundle = load_bundle(BUNDLE)
    scorer = open_scorer(bundle, threads=1, cache=NETWORKS)
    scorer.warm_up()
    side = bundle.region_input_size
    small = np.random.default_rng(0).integers(0, 255, (IMAGES, side, side), np.uint8)
    region = _rates(lambda: scorer.classify(small), rounds)["images/CPU-s"]
    stack = _stack()
    fracture = _rates(lambda: scorer.detect(NETWORK, stack), rounds)["images/CPU-s"]
    return {"region ms": 1000 / region.median, "fracture ms": 1000 / fracture.median}


def apart(measure: Callable[..., Any], *arguments: object) -> Any:
    """Run a measurement in a process of its own: memory and threads are a process's."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(measure, *arguments).result()


def read_real(
    folder: Path, count: int, backend: str, precision: str, bundle_folder: Path = BUNDLE
) -> list[tuple[str, float, str]]:
    """Return (region, probability, triage) of readable images; not assessed ones have probability -1."""
    bundle = load_bundle(bundle_folder)
    scorer = open_scorer(bundle, backend=backend, precision=precision, cache=NETWORKS)
    said = []
    for path in sorted(folder.iterdir())[:count]:
        try:
            pixels = decode(path.read_bytes(), max_pixels=MAX_PIXELS, pseudonymise=str).pixels
        except Rejected:
            continue
        scores = scorer.classify(model_input(pixels, bundle.region_input_size)[None])
        probabilities = dict(zip(bundle.regions, map(float, scores.probabilities[0]), strict=True))
        known = tuple(bundle.models)
        distance = float(scores.distances[0])
        way = route(
            probabilities,
            distance,
            bundle.routing,
            body_part="",
            regions=known,
            families=bundle.families,
        )
        if way.not_assessable:
            said.append((way.region, -1.0, way.not_assessable.value))
            continue
        reader = bundle.models[way.region]
        stack = model_input(pixels, bundle.input_size(reader.network))[None]
        logit = float(scorer.detect(reader.network, stack).logits[0])
        probability = calibrate(logit, reader.calibration)
        said.append((way.region, probability, triage(probability, reader.thresholds).value))
    return said


def agreement(
    ours: Sequence[tuple[str, float, str]], theirs: Sequence[tuple[str, float, str]]
) -> dict[str, Any]:
    """Compare what two backends say of the same images."""
    same = [a[2] == b[2] for a, b in zip(ours, theirs, strict=True)]
    apart_by = [abs(a[1] - b[1]) for a, b in zip(ours, theirs, strict=True) if a[0] == b[0]]
    return {
        "same triage": f"{sum(same)} of {len(same)} ({100 * sum(same) / len(same):.2f}%)",
        "furthest probability": max(apart_by),
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=Path, help="folder of real radiographs for the agreement")
    parser.add_argument("--count", type=int, default=1000, help="how many of them")
    arguments = parser.parse_args()
    before, cores, rounds = machine(), len(os.sched_getaffinity(0)), arguments.rounds
    rows: dict[str, Any] = {}
    for backend, precision, threads in (
        ("tensorflow", "float32", 1),
        ("openvino", "float32", 1),
        ("openvino", "bfloat16", 1),
    ):
        try:
            found = apart(with_scorer, backend, precision, threads, rounds)
        except ScorerError as error:
            found = {"images/s": f"refuses: {error}"[:60]}
        rows[f"{backend} {precision}, {threads} thread(s)"] = found
    rows[f"one process, {min(cores, MAX_STREAMS)} streams"] = several(1, cores, rounds)
    rows[f"{cores} processes, one thread each"] = several(cores, 1, rounds)
    for size in (1, 4, 16, 32):
        rows[f"openvino float32, batches of {size}"] = apart(with_batches, size, rounds)
    times = apart(network_times, rounds)
    saved = (times["region ms"] + times["fracture ms"]) / times["fracture ms"]
    rows["region and fracture network, CPU ms"] = {
        "images/CPU-s": f"{times['region ms']:.3g} + {times['fracture ms']:.3g}"
    }
    rows["one shared trunk at the fracture network's size"] = {"images/CPU-s": f"{saved:.3g} times as fast"}
    if arguments.images:
        truth = apart(read_real, arguments.images, arguments.count, "tensorflow", "float32")
        for precision in ("float32", "bfloat16"):
            try:
                said = apart(read_real, arguments.images, arguments.count, "openvino", precision)
                rows[f"openvino {precision} against tensorflow"] = agreement(said, truth)
            except ScorerError as error:
                rows[f"openvino {precision} against tensorflow"] = {"same triage": str(error)[:60]}
    publish("scoring", f"Scoring network {NETWORK} of {BUNDLE.name}, {IMAGES} images a round", rows, before)


if __name__ == "__main__":
    main()

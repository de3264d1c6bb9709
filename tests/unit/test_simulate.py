"""The model of queues and workers against what can be worked out by hand."""

from __future__ import annotations

import math

import pytest

from bench.control_plane import SMALL, SMALL_CHUNK
from bench.simulate import (
    CHUNK,
    HOSPITAL,
    LEASE,
    Batch,
    Costs,
    Pool,
    Prices,
    Service,
    kept,
    measured_costs,
    one_machine,
    reads,
    size,
)
from vocabulary.states import STAGES, Stage

COSTS = Costs(dict.fromkeys(STAGES, 0.01))
ALL = ("cpu", "gpu", "report")


def run(service: Service, *batches: Batch) -> None:
    service.submit(batches)
    service.run()
    assert all(batch.left == 0 for batch in batches)


def test_one_worker_takes_the_sum_of_all_stages() -> None:
    assert reads(COSTS, [Pool(ALL, 1)], 1, Batch("one", 100, 0.0)) == pytest.approx(20)
    without = Batch("one", 100, 0.0, reports=False)
    assert reads(COSTS, [Pool(ALL, 1)], 1, without) == pytest.approx(25)


def test_processes_share_the_cores() -> None:
    pools = [Pool(ALL, 4)]
    alone, shared = (reads(COSTS, pools, cores, Batch("one", 64, 0.0), chunk=1) for cores in (4, 2))
    assert alone == pytest.approx(80)
    assert shared == pytest.approx(40)


def test_the_slowest_stage_sets_the_pace() -> None:
    costs = Costs({stage: 0.03 if stage is Stage.REPORT else 0.001 for stage in STAGES})
    pools = [Pool(("cpu",), 1), Pool(("gpu",), 1), Pool(("report",), 2)]
    assert reads(costs, pools, math.inf, Batch("one", 3200, 0.0)) == pytest.approx(2 / 0.03, rel=0.05)


def test_a_worker_that_waits_for_the_disk_leaves_the_cores_to_others() -> None:
    costs = Costs(dict.fromkeys(STAGES, 0.0), wait=dict.fromkeys(STAGES, 0.01))
    for slots, rate in ((1, 20), (4, 80)):
        said = reads(costs, [Pool(ALL, slots)], 1, Batch("one", 64, 0.0), chunk=1)
        assert said == pytest.approx(rate)


def test_a_unit_and_a_batch_cost_however_many_images_they_have() -> None:
    nothing = dict.fromkeys(STAGES, 0.0)
    by_unit = Costs(nothing, worker_unit=dict.fromkeys(STAGES, 0.04), server_unit=0.3)
    for chunk, rate in ((1, 2), (10, 20)):
        assert reads(by_unit, [Pool(ALL, 1)], 1, Batch("one", 40, 0.0), chunk=chunk) == pytest.approx(rate)
    service = Service(Costs(nothing, server_batch=2.0), [(1, [Pool(ALL, 1)])])
    batch = Batch("one", 40, 0.0)
    run(service, batch)
    assert batch.seconds == batch.submitted == pytest.approx(2)


def test_the_measured_costs_are_those_of_the_tables() -> None:
    """The stages come to the floor's sum; small and large chunks to what they took."""
    costs = measured_costs()
    beside = kept("control_plane")
    said = kept("floor")["all"]["CPU ms an image"]["median"]
    assert 1000 * sum(costs.image.values()) == pytest.approx(said, rel=0.05)
    for column, chunk in ((next(iter(beside["all, CPU ms"])), CHUNK), (SMALL, SMALL_CHUNK)):
        units = sum(costs.of_worker(stage, chunk) + costs.of_servers(chunk) for stage in STAGES)
        said = 1000 * (costs.upload + units / chunk)
        assert said == pytest.approx(beside["all, CPU ms"][column]["median"], rel=0.02)


def test_what_urgent_asks_for_comes_first_and_sites_take_turns() -> None:
    service = Service(COSTS, [(1, [Pool(ALL, 1)])])
    large, small = Batch("large", 3200, 0.0), Batch("small", 320, 1.0)
    urgent = Batch("large", 1, 2.0, priority=0)
    run(service, large, small, urgent)
    assert urgent.seconds < 10
    # its ten chunks behind ten of the other's, and what was in flight already
    assert small.ended < 2.2 * 320 * 0.05 + 10
    assert large.ended == pytest.approx(3521 * 0.05, rel=0.01)


def test_a_dead_workers_unit_is_read_once_when_its_lease_has_run_out() -> None:
    pool = Pool(ALL, 1)
    service = Service(COSTS, [(1, [pool])])
    service.kill(pool, 3.0)
    batch = Batch("one", 320, 0.0)
    run(service, batch)
    assert service.lost == 1
    assert LEASE < batch.seconds < 320 * 0.05 + LEASE + 1


def test_a_hospital_needs_a_handful_of_cores() -> None:
    said = size(COSTS, HOSPITAL, card=0, seconds=600, prices=Prices())
    assert said["cores, all"] <= 8
    assert said["study read, p95 s"] < 10
    assert 0 < said["backfill, hours"] < 10


def test_one_machine_has_what_up_starts() -> None:
    pools = one_machine()
    assert [pool.slots for pool in pools] == [1, 1, 2, 1]

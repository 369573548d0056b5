"""Policies that offload beyond the paper's rule, in a virtual node where every time is known."""

from __future__ import annotations

import numpy as np
import pytest

from deeprecsys.core.errors import InputError
from deeprecsys.core.events import Start
from deeprecsys.core.policy import CPU, GPU, DeepRecSched, Earliest, Offload
from deeprecsys.core.runlog import Status
from deeprecsys.simulate.driver import simulate

WORKERS = {CPU: 2, GPU: 1}


def on_cpu(items: int, busy: int, u: float) -> float:
    return items / 64


def on_gpu(items: int, busy: int, u: float) -> float:
    return 1.0 + items / 1024


def run(policy, arrivals, sizes, gpu=on_gpu):
    """(time, device, (query, start, stop)...) of every batch in order of start, and the log."""
    found = []

    def watch(event, now_s, commands):
        found.extend(
            (now_s, c.batch.device, *((s.query.id, s.start, s.stop) for s in c.batch.slices))
            for c in commands
            if isinstance(c, Start)
        )

    log = simulate(policy, arrivals, sizes, {CPU: on_cpu, GPU: gpu}, WORKERS, observe=watch)
    assert (log.status == Status.SERVED).all()
    return found, log


def test_the_accelerator_merges_whole_queries_that_wait_up_to_its_batch():
    found, _ = run(Offload(64, 100, 512), [0.0, 0.1, 0.2, 0.3, 0.4], [200, 200, 300, 101, 64])
    away = [b for b in found if b[1] == GPU]
    assert [b[2:] for b in away] == [((0, 0, 200),), ((1, 0, 200), (2, 0, 300)), ((3, 0, 101),)]
    assert [b[2:] for b in found if b[1] == CPU] == [((4, 0, 64),)]


def test_a_query_beyond_the_device_batch_runs_alone_and_whole():
    found, _ = run(Offload(64, 100, 150), [0.0, 0.1, 0.2], [101, 400, 120])
    assert [b[2:] for b in found] == [((0, 0, 101),), ((1, 0, 400),), ((2, 0, 120),)]


def test_merging_carries_more_than_one_query_after_the_other():
    rng = np.random.default_rng(0)
    arrivals, sizes = np.cumsum(rng.exponential(0.5, 400)), np.full(400, 200)
    _, alone = run(DeepRecSched(64, 100), arrivals, sizes)
    _, together = run(Offload(64, 100, 1000), arrivals, sizes)
    assert together.finish_s[-1] < 0.7 * alone.finish_s[-1]


def test_a_query_goes_where_it_is_done_first():
    """Once both devices' times are learnt: to an idle accelerator, and not to one with a line before it."""
    policy = Earliest(64, 100, 1)
    warm = [10.0 * i for i in range(6)]
    sizes = [64, 128, 640, 640, 400, 64]
    found, _ = run(policy, [*warm, 100.0, 100.01, 100.02], [*sizes, 320, 320, 320])
    last = {b[2][0]: b[1] for b in found if b[2][0] >= 6}
    assert last[6] == GPU  # 1.3 s there, 2.5 s on two cores
    assert CPU in last.values(), "a line before the accelerator sends some to the CPU"


def test_small_queries_never_leave_the_cpu():
    rng = np.random.default_rng(1)
    arrivals, sizes = np.cumsum(rng.exponential(0.2, 300)), rng.integers(1, 400, 300)
    found, _ = run(Earliest(64, 100, 512), arrivals, sizes)
    away = {s[0] for b in found if b[1] == GPU for s in b[2:]}
    assert away
    assert min(sizes[i] for i in away) > 100


def test_where_the_threshold_is_too_low_choosing_the_device_beats_the_threshold_alone():
    rng = np.random.default_rng(2)
    arrivals, sizes = np.cumsum(rng.exponential(1.0, 1000)), rng.integers(1, 200, 1000)
    _, fixed = run(DeepRecSched(64, 10), arrivals, sizes)
    _, chosen = run(Earliest(64, 10, 1), arrivals, sizes)
    assert np.quantile(chosen.latency_s, 0.95) < 0.7 * np.quantile(fixed.latency_s, 0.95)


@pytest.mark.parametrize("kind", [Offload, Earliest])
def test_knobs_that_cannot_be_are_refused(kind):
    for knobs in ((0, 10, 10), (10, -1, 10), (10, 10, 0)):
        with pytest.raises(InputError, match="expected at least"):
            kind(*knobs)

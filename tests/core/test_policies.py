"""Each policy's own rule, in a virtual node where every time is known."""

from __future__ import annotations

from dataclasses import dataclass
from math import isclose

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deeprecsys.core.errors import InputError
from deeprecsys.core.events import Start
from deeprecsys.core.policy import (
    Adaptive,
    BentoML,
    Clipper,
    Coalescing,
    Deadline,
    DeepRecSched,
    Knob,
    Placement,
    Policy,
    Take,
    TFServing,
    Triton,
    registry,
)
from deeprecsys.core.policy.linear_time import LinearTime
from deeprecsys.core.runlog import Status
from deeprecsys.simulate.driver import simulate
from tests.core.policies import BY_NAME, POLICIES


def service(items: int, busy: int, u: float) -> float:
    """Times that a binary fraction holds exactly: an eighth of a second, and 1/1024 per item."""
    return 0.125 + items / 1024


service.stage_s = service.staged_s = 1 / 16


def batches(policy, arrivals, sizes, workers=1, service=service):
    """(time, worker, (query, start, stop)...) of every batch in order of start, and the log."""
    found = []

    def watch(event, now_s, commands):
        found.extend(
            (now_s, c.batch.worker, *((s.query.id, s.start, s.stop) for s in c.batch.slices))
            for c in commands
            if isinstance(c, Start)
        )

    log = simulate(policy, arrivals, sizes, service, workers, observe=watch)
    return found, log


@settings(max_examples=200, deadline=None)
@given(
    POLICIES,
    st.lists(st.tuples(st.floats(0, 0.3), st.integers(1, 100)), max_size=40),
    st.integers(1, 5),
)
def test_every_policy_serves_every_query_once_it_has_begun(policy, load, workers):
    arrivals, sizes = np.cumsum([g for g, _ in load]), [n for _, n in load]
    log = simulate(policy, arrivals, sizes, service, {"cpu": workers, "gpu": 1})
    assert (log.status == Status.SERVED).all()
    assert (log.finish_s > log.start_s).all()
    assert (log.start_s >= log.arrival_s).all()


@settings(max_examples=60, deadline=None)
@given(POLICIES, st.lists(st.tuples(st.floats(0, 0.3), st.integers(1, 100)), max_size=30), st.integers(1, 3))
def test_a_run_leaves_nothing_behind_in_its_policy(policy, load, workers):
    arrivals, sizes = np.cumsum([g for g, _ in load]), [n for _, n in load]
    counts = {"cpu": workers, "gpu": 1}
    first = simulate(policy, arrivals, sizes, service, counts)
    again = simulate(policy, arrivals, sizes, service, counts)
    np.testing.assert_array_equal(first.finish_s, again.finish_s)


@pytest.mark.parametrize("name", BY_NAME)
def test_describe_has_a_name_and_the_knobs_that_reports_show(name):
    policy = one_of(BY_NAME[name])
    known = policy.describe()
    assert known["policy"] == name
    assert {"batch_size", "offload_above"} <= known.keys()
    assert hash(policy) == hash(policy)


def one_of(strategy):
    """One value of a strategy, without hypothesis' warning about examples outside a test."""
    found = []

    @settings(max_examples=1, database=None, deadline=None)
    @given(strategy)
    def draw(value):
        found.append(value)

    draw()
    return found[0]


def test_adaptive_spreads_one_query_over_idle_workers_and_takes_large_batches_under_load():
    found, _ = batches(Adaptive(100, 10), [0.0], [200], workers=4)
    assert [b[2][2] - b[2][1] for b in found] == [50, 50, 50, 50]
    found, _ = batches(Adaptive(100, 10), [0.0], [20], workers=4)
    assert [b[2][2] - b[2][1] for b in found] == [10, 10], "no finer than the finest"
    found, _ = batches(Adaptive(100, 10), [0.0, 0.0, 0.0], [5, 250, 100])
    assert [b[2] for b in found] == [(0, 0, 5), (1, 0, 84), (1, 84, 167), (1, 167, 250), (2, 0, 100)]


def test_adaptive_with_equal_bounds_cuts_as_the_paper_does():
    rng = np.random.default_rng(1)
    arrivals, sizes = np.cumsum(rng.exponential(0.05, 500)), rng.integers(1, 300, 500)
    a, _ = batches(Adaptive(64, 64), arrivals, sizes, workers=3)
    b, _ = batches(DeepRecSched(64), arrivals, sizes, workers=3)
    assert [x[2][2] - x[2][1] for x in a] == [x[2][2] - x[2][1] for x in b]
    assert [x[0] for x in a] == [x[0] for x in b]


def test_coalescing_fills_a_batch_across_queries_and_cuts_where_it_is_full():
    found, _ = batches(Coalescing(100, 1), [0.0, 0.0, 0.0, 0.0], [10, 60, 60, 30])
    assert [b[2:] for b in found] == [
        ((0, 0, 10),),
        ((1, 0, 60), (2, 0, 40)),
        ((2, 40, 60), (3, 0, 30)),
    ]


def test_triton_waits_for_a_full_batch_at_most_the_delay_and_never_cuts():
    policy = Triton(100, delay_s=0.5)
    found, _ = batches(policy, [0.0, 0.25, 2.0, 2.125], [60, 30, 60, 300])
    assert found[0] == (0.5, 0, (0, 0, 60), (1, 0, 30))
    assert found[1] == (2.125, 0, (2, 0, 60)), "full as the next does not fit"
    assert found[2][2] == (3, 0, 300), "larger than the maximum: alone and whole"


def test_tensorflow_serving_cuts_at_the_edge_of_the_open_batch():
    policy = TFServing(100, timeout_s=0.5)
    found, _ = batches(policy, [0.0, 0.25], [60, 150], workers=4)
    assert found == [
        (0.25, 0, (0, 0, 60), (1, 0, 40)),
        (0.25, 1, (1, 40, 140)),
        (0.75, 1, (1, 140, 150)),
    ]


def test_bentoml_waits_only_as_long_as_it_is_cheaper_than_a_batch():
    eager, _ = batches(BentoML(100), [0.0], [10])
    assert eager[0][0] == 0.0, "nothing learnt yet: nothing to save"
    # Two lengths teach it the overhead of 125 ms; alone in line, a query then waits about that long.
    arrivals, sizes = [0.0, 1.0, 2.0, 3.0], [10, 50, 10, 10]
    found, _ = batches(BentoML(100), arrivals, sizes)
    assert 2.0 + 0.1 < found[2][0] < 2.0 + 0.15


def test_clipper_raises_its_batch_until_the_objective_and_backs_off():
    policy = Clipper(latency_s=0.1875, step=16)  # 125 ms + 64 items
    found, _ = batches(policy, np.zeros(3000), np.ones(3000, int), workers=1)
    lengths = [len(b) - 2 for b in found]
    assert lengths[:5] == [1, 16, 32, 48, 64]
    # It goes one step beyond, and from there saws between a tenth below and one step above.
    assert max(lengths) == 80
    assert min(lengths[5:-1]) >= 0.9 * 64 - 1


def test_deadline_order_lets_those_in_time_pass_those_who_are_late():
    policy = Deadline(1000, latency_s=0.5)
    # The first teaches it a time; then two arrive of which the second would be late behind the first.
    arrivals, sizes = [0.0, 1.0, 1.0, 1.125, 1.25], [100, 300, 300, 10, 10]
    _, log = batches(policy, arrivals, sizes)
    fifo = batches(DeepRecSched(1000), arrivals, sizes)[1]
    late = log.finish_s - log.arrival_s > 0.5
    assert late.sum() < (fifo.finish_s - fifo.arrival_s > 0.5).sum()
    assert np.isfinite(log.finish_s).all()


def test_learnt_line_finds_overhead_and_slope_and_stays_above_zero():
    line = LinearTime()
    assert line.coefficients() == (0.0, 0.0)
    line.learn(10, 0.02)
    assert line.coefficients() == (0.0, 0.002)
    for items in (1, 5, 100, 50):
        line.learn(items, 0.01 + 0.001 * items)
    batch_s, item_s = line.coefficients()
    assert isclose(batch_s, 0.01, rel_tol=1e-6)
    assert isclose(item_s, 0.001, rel_tol=1e-6)
    falling = LinearTime()
    for items in (1, 2, 3):
        falling.learn(items, 1.0 / items)
    assert falling.coefficients()[1] == 0.0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Adaptive(10, 20), "finest batch: expected at most the batch size of 10, got 20"),
        (lambda: Coalescing(0, 0), "finest batch: expected at least 1 item, got 0"),
        (lambda: Triton(10, -1.0), "delay: expected a number of at least 0, got -1.0"),
        (lambda: TFServing(10, float("nan")), "timeout: expected a number of at least 0, got nan"),
        (lambda: Deadline(10, 0.0), "latency: expected a number above 0, got 0.0"),
        (lambda: Clipper(0.1, 0), "step: expected at least 1 item, got 0"),
        (lambda: DeepRecSched(10, -1), "offload above: expected at least 0 items, got -1"),
    ],
)
def test_bad_knobs(make, message):
    with pytest.raises(InputError, match=f"^{message}$"):
        make()


def test_the_contract_covers_every_policy_of_the_registry():
    assert set(BY_NAME) == set(registry.POLICIES)


@pytest.mark.parametrize("name", registry.POLICIES)
def test_name_class_file_and_knobs_agree(name):
    kind = registry.POLICIES[name]
    assert kind.__module__ == f"deeprecsys.core.policy.{name.replace('-', '_')}"
    assert kind.__name__.lower() == name.replace("-", "")
    assert [knob.name for knob in kind.knobs] == list(kind.__dataclass_fields__)
    policy = one_of(BY_NAME[name])
    assert policy.batch_size is None or "batch_size" in kind.__dataclass_fields__
    assert policy.offload_above is None or "offload_above" in kind.__dataclass_fields__


def test_what_is_no_policy_is_not_registered():
    @dataclass(frozen=True, slots=True)
    class Second(Policy):
        name = "triton"

    @dataclass(frozen=True, slots=True)
    class Knobless(Policy):
        knobs = (Knob("depth", lambda setting: 1),)

    class Open(Policy):
        pass

    for kind, message in [
        (Second, "policy triton: expected a name that is not taken, got that of Triton"),
        (Knobless, "policy knobless: expected a field for each knob, got none for depth"),
        (Open, "policy open: expected a frozen dataclass, got Open"),
        (int, "expected a subclass of deeprecsys.core.policy.Policy, got <class 'int'>"),
    ]:
        with pytest.raises(InputError, match=message):
            registry.register(kind)
    assert set(registry.POLICIES) == set(BY_NAME)


class Wrong(Policy):
    """Places and forms as it is told."""

    def __init__(self, placement=None, decision=None):
        self._placement, self._decision = placement, decision

    def place(self, query, view, now_s):
        return self._placement or super().place(query, view, now_s)

    def form(self, line, view, now_s):
        return self._decision or super().form(line, view, now_s)

    def describe(self):
        return {}


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (Wrong(Placement("tpu", 8)), "policy: Placement: expected a device of cpu and .*, got tpu and 8"),
        (
            Wrong(Placement("cpu", 0)),
            "policy: Placement: .* batch size of at least 1, got cpu and 0",
        ),
        (Wrong(decision=Take(0, merge=True)), "policy: Take.items: expected at least 1 item, got 0"),
    ],
)
def test_a_decision_that_cannot_be_carried_out_is_one_clear_error(policy, message):
    with pytest.raises(InputError, match=message):
        simulate(policy, [0.0], [5], service, 1)

"""Several models on one dispatcher: under random events, batches are of one model and nothing is lost."""

from __future__ import annotations

from collections import Counter
from math import inf

from hypothesis import given, settings
from hypothesis import strategies as st

from deeprecsys.core.deadlines import Forecast, LateBudget
from deeprecsys.core.device import Limits
from deeprecsys.core.dispatcher import Dispatcher
from deeprecsys.core.events import Adopt, Arrive, Cancel, Finish, Retire, Start, Tick
from deeprecsys.core.policy import CPU, GPU, Coalescing, Static, Triton
from deeprecsys.core.query import Query
from tests.core.policies import BY_NAME, OFFLOADING, POLICIES
from tests.core.test_dispatcher import Driver

NEEDS_GPU = {"deeprecsched", *OFFLOADING}
CPU_POLICIES = st.one_of(*(p for name, p in BY_NAME.items() if name not in NEEDS_GPU))
STEPS = st.lists(
    st.tuples(
        st.sampled_from("aaaaaffffelrtcxp"),
        st.integers(1, 100),
        st.integers(0, 10**6),
        st.sampled_from([inf, 0.001, 0.02, 0.2]),
    ),
    max_size=100,
)


class Several(Driver):
    """Two models, one of them with deadlines; queries are cancelled, policies change, accelerators die."""

    def __init__(self, policies, workers, gpus=0):
        super().__init__(policies[0], {CPU: workers} | ({GPU: gpus} if gpus else {}), Limits())
        self.policies = policies
        budget = LateBudget(0.05)
        gpu = Forecast([0.0001 * n for n in range(50)], None, False, budget) if gpus else None
        forecast = Forecast([0.0005 * n for n in range(50)], None, False, budget, gpu)
        self.do(Adopt(1, policies[1], forecast))

    def step(self, kind, size, pick, within=inf):
        if kind == "a":
            q = Query(
                len(self.queries), size, self.now, 0, pick % 2, self.now + within, pick % 3 == 0, pick % 2 - 1
            )
            self.queries.append(q)
            self.scored[q.id] = set()
            self.do(Arrive(q))
        elif kind == "c" and self.queries:
            q = self.queries[pick % len(self.queries)]
            before = self.dispatcher.cancelled
            self.do(Cancel(q))
            if self.dispatcher.cancelled > before:
                self.ended[q.id] += 1
        elif kind in "xp":
            model = pick % 2
            self.do(Adopt(model, self.policies[pick % len(self.policies)]))
        else:
            super().step(kind, size, pick)


@settings(max_examples=200, deadline=None)
@given(st.lists(CPU_POLICIES, min_size=3, max_size=3), st.integers(1, 4), STEPS)
def test_every_query_of_every_model_ends_exactly_once(policies, workers, steps):
    every_query_ends_once(Several(policies, workers), steps)


@settings(max_examples=200, deadline=None)
@given(st.lists(POLICIES, min_size=3, max_size=3), st.integers(1, 3), st.integers(1, 2), STEPS)
def test_every_query_ends_exactly_once_on_a_node_with_accelerators(policies, workers, gpus, steps):
    every_query_ends_once(Several(policies, workers, gpus), steps)


def every_query_ends_once(driver, steps):
    for step in steps:
        driver.step(*step)
    driver.drain()
    d = driver.dispatcher
    assert d.open == 0
    assert driver.ended == Counter({q.id: 1 for q in driver.queries})
    assert d.arrived == len(driver.queries) == d.completed + d.failed + d.shed + d.cancelled
    d.handle(Retire(1), driver.now)
    d.check()


def starts(commands):
    return [c.batch for c in commands if isinstance(c, Start)]


def two(policy=None):
    d = Dispatcher(policy or Static(10), {CPU: 1})
    d.handle(Adopt(1, policy or Static(10)), 0.0)
    return d


def test_the_earlier_deadline_goes_first_whatever_the_model():
    d = two()
    (first,) = starts(d.handle(Arrive(Query(0, 5, 0.0)), 0.0))
    d.handle(Arrive(Query(1, 5, 0.0, version=0, deadline_s=9.0)), 0.0)
    d.handle(Arrive(Query(2, 5, 0.1, version=1, deadline_s=5.0)), 0.1)
    (second,) = starts(d.handle(Finish(first), 1.0))
    assert second.slices[0].query.id == 2


def test_a_smaller_priority_goes_first_whatever_the_deadline():
    d = two()
    (first,) = starts(d.handle(Arrive(Query(0, 5, 0.0)), 0.0))
    for q in (
        Query(1, 5, 0.0, version=0, deadline_s=1.0),
        Query(2, 5, 0.1, version=1, deadline_s=5.0, priority=-1),
        Query(3, 5, 0.1, version=0, deadline_s=9.0, priority=-2),
    ):
        d.handle(Arrive(q), 0.1)
    order = []
    batch = first
    for now in (1.0, 2.0, 3.0):
        (batch,) = starts(d.handle(Finish(batch), now))
        order.append(batch.slices[0].query.id)
    assert order == [3, 2, 1]


def test_batches_that_mix_queries_do_not_mix_models():
    d = two(Coalescing(100, 1))
    (first,) = starts(d.handle(Arrive(Query(0, 5, 0.0)), 0.0))
    for i in range(1, 7):
        d.handle(Arrive(Query(i, 5, 0.0, version=i % 2)), 0.0)
    (second,) = starts(d.handle(Finish(first), 1.0))
    (third,) = starts(d.handle(Finish(second), 2.0))
    found = [sorted(s.query.id for s in b.slices) for b in (second, third)]
    assert sorted(found) == [[1, 3, 5], [2, 4, 6]]


def test_a_line_that_is_held_lets_the_other_model_pass():
    d = Dispatcher(Triton(10, 1.0), {CPU: 1})
    d.handle(Adopt(1, Static(10)), 0.0)
    assert starts(d.handle(Arrive(Query(0, 5, 0.0)), 0.0)) == []
    assert d.wake_s == 1.0
    (batch,) = starts(d.handle(Arrive(Query(1, 5, 0.1, version=1)), 0.1))
    assert batch.slices[0].query.id == 1
    d.check()
    d.handle(Finish(batch), 0.5)
    (held,) = starts(d.handle(Tick(), 1.0))
    assert held.slices[0].query.id == 0


def test_a_cancelled_query_runs_no_further_and_its_running_slice_counts_for_nothing():
    d = Dispatcher(Static(10), {CPU: 1})
    query = Query(0, 30, 0.0)
    (batch,) = starts(d.handle(Arrive(query), 0.0))
    assert d.handle(Cancel(query), 0.1) == []
    assert d.handle(Finish(batch), 0.2) == []
    assert (d.cancelled, d.completed, d.open) == (1, 0, 0)
    d.check()

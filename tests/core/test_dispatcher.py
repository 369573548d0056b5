"""The dispatcher as a state machine: whatever happens, in whatever order, its invariants hold."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deeprecsys.core.dispatcher import (
    Arrive,
    Command,
    Complete,
    Dispatcher,
    Event,
    Fail,
    Finish,
    Limits,
    Lost,
    Ready,
    Shed,
    Start,
)
from deeprecsys.core.errors import InputError
from deeprecsys.core.policy import CPU, GPU, DeepRecSched, Policy, Static
from deeprecsys.core.query import Batch, Query, cut

policies = st.one_of(
    st.builds(Static, st.integers(1, 40)),
    st.builds(DeepRecSched, st.integers(1, 40), st.none() | st.integers(0, 60)),
)
limits = st.builds(
    Limits, queries=st.integers(1, 30), items=st.integers(1, 300), bytes=st.integers(1, 3000),
    bytes_per_item=st.sampled_from([0, 10]),
)  # fmt: skip


class World:
    """A node without time: keeps what the dispatcher has started, and lets anything happen next."""

    def __init__(self, policy: Policy, workers: dict[str, int], bounds: Limits) -> None:
        self.dispatcher = Dispatcher(policy, workers, bounds)
        self.running: dict[tuple[str, int], Batch] = {}
        self.dead: set[tuple[str, int]] = set()
        self.ends: Counter[int] = Counter()
        self.scored: Counter[int] = Counter()
        self.queries: dict[int, Query] = {}
        self.told: list[tuple[Event, list[Command]]] = []

    def tell(self, event: Event) -> None:
        commands = self.dispatcher.handle(event, 0.0)
        self.told.append((event, commands))
        for command in commands:
            match command:
                case Start(batch):
                    key = (batch.device, batch.worker)
                    assert key not in self.running, "a busy worker was given a batch"
                    assert key not in self.dead, "a dead worker was given a batch"
                    self.running[key] = batch
                case Complete(query):
                    assert self.scored[query.id] == query.size
                    self.ends[query.id] += 1
                case Fail(query, _) | Shed(query, _):
                    self.ends[query.id] += 1
        self.dispatcher.check()

    def arrive(self, size: int) -> None:
        query = Query(len(self.queries), size, float(len(self.queries)))
        self.queries[query.id] = query
        self.tell(Arrive(query))

    def finish(self, pick: int, fails: bool) -> None:
        if not self.running:
            return
        key = sorted(self.running)[pick % len(self.running)]
        batch = self.running.pop(key)
        errors = ((batch.slices[0].query.id, "cannot be scored"),) if fails else ()
        for part in batch.slices:
            self.scored[part.query.id] += part.items
        self.tell(Finish(batch, errors))

    def lose(self, pick: int) -> None:
        alive = [(d, w) for d in (CPU, GPU) for w in range(3) if (d, w) not in self.dead]
        if not alive:
            return
        key = alive[pick % len(alive)]
        self.running.pop(key, None)
        self.dead.add(key)
        self.tell(Lost(*key))

    def replace(self) -> None:
        if self.dead:
            key = min(self.dead)
            self.dead.discard(key)
            self.tell(Ready(*key))

    def end(self) -> None:
        """Replace what is dead, finish what runs, until nothing is left to do."""
        while self.dead:
            self.replace()
        while self.running:
            self.finish(0, fails=False)


steps = st.lists(
    st.one_of(
        st.tuples(st.just("arrive"), st.integers(1, 100)),
        st.tuples(st.just("finish"), st.integers(0, 5)),
        st.tuples(st.just("fail"), st.integers(0, 5)),
        st.tuples(st.just("lose"), st.integers(0, 5)),
        st.tuples(st.just("replace"), st.just(0)),
    ),
    max_size=60,
)


def play(policy: Policy, bounds: Limits, script: list[tuple[str, int]]) -> World:
    world = World(policy, {CPU: 3, GPU: 3}, bounds)
    for step, value in script:
        match step:
            case "arrive":
                world.arrive(value)
            case "finish" | "fail":
                world.finish(value, fails=step == "fail")
            case "lose":
                world.lose(value)
            case "replace":
                world.replace()
    world.end()
    return world


@given(policies, limits, steps)
def test_every_query_ends_exactly_once_whatever_happens(
    policy: Policy, bounds: Limits, script: list[tuple[str, int]]
) -> None:
    world = play(policy, bounds, script)
    assert set(world.ends) == set(world.queries)
    assert set(world.ends.values()) <= {1}
    assert world.dispatcher.open == 0


@given(policies, limits, steps)
def test_the_same_events_give_the_same_commands(
    policy: Policy, bounds: Limits, script: list[tuple[str, int]]
) -> None:
    world = play(policy, bounds, script)
    fresh = Dispatcher(policy, {CPU: 3, GPU: 3}, bounds)
    for event, commands in world.told:
        assert fresh.handle(event, 0.0) == commands


def test_slices_run_first_come_first_served() -> None:
    world = World(Static(10), {CPU: 1, GPU: 1}, Limits())
    for size in (25, 5, 12):
        world.arrive(size)
    order = []
    while world.running:
        part = world.running[CPU, 0].slices[0]
        order.append((part.query.id, part.start))
        world.finish(0, fails=False)
    assert order == sorted(order)
    assert [q for q, _ in order] == [0, 0, 0, 1, 2, 2]


def test_queries_above_the_threshold_go_to_the_accelerator_whole() -> None:
    world = World(DeepRecSched(10, offload_above=50), {CPU: 3, GPU: 1}, Limits())
    world.arrive(50)
    world.arrive(51)
    assert world.running[GPU, 0].items == 51
    assert {b.slices[0].query.id for (d, _), b in world.running.items() if d == CPU} == {0}


def test_a_slice_that_two_workers_died_on_fails_its_query() -> None:
    world = World(Static(100), {CPU: 3, GPU: 3}, Limits())
    world.arrive(7)
    for _ in range(2):
        (_, worker), _ = next(iter(world.running.items()))
        del world.running[CPU, worker]
        world.dead.add((CPU, worker))
        world.tell(Lost(CPU, worker))
    assert world.told[-1][1] == [Fail(world.queries[0], "2 workers died while scoring it")]


def test_a_large_query_is_never_refused_by_an_idle_node() -> None:
    world = World(Static(100), {CPU: 3, GPU: 3}, Limits(items=10))
    world.arrive(80)
    assert world.ends[0] == 0
    world.arrive(300)
    world.arrive(11)
    assert isinstance(world.told[-1][1][0], Shed)


def test_a_policy_that_wants_a_device_the_node_lacks_is_refused() -> None:
    with pytest.raises(InputError, match="without gpu"):
        Dispatcher(DeepRecSched(10, offload_above=5), {CPU: 2})


@given(st.integers(1, 2000), st.integers(1, 2000))
def test_cut_covers_the_query_in_the_fewest_and_most_equal_slices(size: int, batch_size: int) -> None:
    parts = cut(Query(0, size, 0.0), batch_size)
    assert len(parts) == -(-size // batch_size)
    assert parts[0].start == 0
    assert parts[-1].stop == size
    assert all(a.stop == b.start for a, b in pairwise(parts))
    lengths = {p.items for p in parts}
    assert max(lengths) <= batch_size
    assert max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize(
    "make",
    [lambda: Static(0), lambda: DeepRecSched(-1), lambda: DeepRecSched(4, offload_above=-1)],
)
def test_knobs_out_of_range_are_refused(make: object) -> None:
    with pytest.raises(InputError, match="expected"):
        make()  # type: ignore[operator]


def test_the_static_baseline_spreads_the_largest_query_over_the_cores() -> None:
    assert Static.baseline(1000, 40) == Static(25)
    assert Static.baseline(1000, 28) == Static(36)


def test_the_core_loads_neither_torch_nor_numba() -> None:
    code = (
        "import sys, pkgutil, importlib, deeprecsys.core as c\n"
        "for m in pkgutil.iter_modules(c.__path__): importlib.import_module('deeprecsys.core.' + m.name)\n"
        "sys.exit(bool({'torch', 'numba'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0

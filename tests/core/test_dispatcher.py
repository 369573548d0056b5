"""The dispatcher under random events: invariants after each, and every query ends exactly once."""

from __future__ import annotations

from collections import Counter
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deeprecsys.core.device import Limits
from deeprecsys.core.dispatcher import MAX_KILLS, Dispatcher
from deeprecsys.core.errors import InputError
from deeprecsys.core.events import Arrive, Cancel, Complete, Fail, Finish, Lost, Ready, Shed, Start, Tick
from deeprecsys.core.policy import CPU, GPU, Coalescing, DeepRecSched, Static, UserFirst
from deeprecsys.core.query import Batch, Query, Slice, cut
from tests.core.policies import POLICIES

LIMITS = st.one_of(
    st.just(Limits()),
    st.builds(Limits, items=st.integers(1, 200)),
    st.builds(Limits, bytes=st.integers(100, 2000), bytes_per_item=st.just(10)),
)
STEPS = st.lists(
    st.tuples(st.sampled_from("aaaaffffelrt"), st.integers(1, 100), st.integers(0, 10**6)), max_size=120
)


class Driver:
    """A world whose order of events is drawn: it does what it is told and checks what must hold."""

    def __init__(self, policy, workers, limits):
        self.dispatcher = Dispatcher(policy, workers, limits)
        self.workers = workers
        self.running: dict[tuple[str, int], Batch] = {}
        self.dead: set[tuple[str, int]] = set()
        self.ended: Counter[int] = Counter()
        self.scored: dict[int, set[int]] = {}
        self.queries: list[Query] = []
        self.events = []
        self.commands = []
        self.now = 0.0

    def do(self, event):
        self.now += 0.001
        commands = self.dispatcher.handle(event, self.now)
        self.events.append((event, self.now))
        self.commands.append(list(commands))
        for command in commands:
            match command:
                case Start(batch):
                    key = (batch.device, batch.worker)
                    assert key not in self.running, "started on a busy worker"
                    assert key not in self.dead, "started on a dead worker"
                    self.running[key] = batch
                case Complete(query):
                    self.ended[query.id] += 1
                    assert self.scored[query.id] == set(range(query.size)), "complete before all was scored"
                case Fail(query) | Shed(query):
                    self.ended[query.id] += 1
        self.dispatcher.check()

    def step(self, kind, size, pick):
        if kind == "t":
            if self.dispatcher.wake_s < inf:
                self.now = max(self.now, self.dispatcher.wake_s)
                self.do(Tick())
        elif kind == "a":
            query = Query(len(self.queries), size, self.now)
            self.queries.append(query)
            self.scored[query.id] = set()
            self.do(Arrive(query))
        elif kind in "fe" and self.running:
            key = sorted(self.running)[pick % len(self.running)]
            batch = self.running.pop(key)
            errors = ((batch.slices[0].query.id, "bad id"),) if kind == "e" else ()
            for part in batch.slices:
                self.scored[part.query.id].update(range(part.start, part.stop))
            self.do(Finish(batch, errors))
        elif kind == "l":
            alive = sorted({(d, w) for d, n in self.workers.items() for w in range(n)} - self.dead)
            if alive:
                key = alive[pick % len(alive)]
                self.dead.add(key)
                self.running.pop(key, None)
                self.do(Lost(*key))
        elif kind == "r" and self.dead:
            key = sorted(self.dead)[pick % len(self.dead)]
            self.dead.remove(key)
            self.do(Ready(*key))

    def drain(self):
        while self.dead:
            self.step("r", 0, 0)
        while self.running or self.dispatcher.wake_s < inf:
            self.step("f" if self.running else "t", 0, 0)


def world(policy, limits, cpus, steps):
    driver = Driver(policy, {CPU: cpus, GPU: 1}, limits)
    for step in steps:
        driver.step(*step)
    return driver


@settings(max_examples=200, deadline=None)
@given(POLICIES, LIMITS, st.integers(1, 4), STEPS)
def test_every_query_ends_exactly_once(policy, limits, cpus, steps):
    driver = world(policy, limits, cpus, steps)
    driver.drain()
    assert driver.dispatcher.open == 0
    assert driver.ended == Counter({q.id: 1 for q in driver.queries})
    d = driver.dispatcher
    assert d.arrived == len(driver.queries) == d.completed + d.failed + d.shed


@settings(max_examples=60, deadline=None)
@given(POLICIES, LIMITS, st.integers(1, 3), STEPS)
def test_replayed_events_give_the_same_commands(policy, limits, cpus, steps):
    driver = world(policy, limits, cpus, steps)
    fresh = Dispatcher(policy, {CPU: cpus, GPU: 1}, limits)
    known: dict[int, Batch] = {}  # the dispatcher tells batches apart by identity
    for (event, now), expected in zip(driver.events, driver.commands, strict=True):
        again = Finish(known[event.batch.id], event.errors) if isinstance(event, Finish) else event
        commands = fresh.handle(again, now)
        known.update({c.batch.id: c.batch for c in commands if isinstance(c, Start)})
        assert commands == expected


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), st.lists(st.integers(1, 100), min_size=1, max_size=30), st.integers(1, 50))
def test_batches_start_first_come_first_served(cpus, sizes, batch_size):
    driver = Driver(Static(batch_size), {CPU: cpus}, Limits())
    for size in sizes:
        driver.step("a", size, 0)
    driver.drain()
    started = [c.batch.slices[0] for step in driver.commands for c in step if isinstance(c, Start)]
    order = [(s.query.id, s.start) for s in started]
    assert order == sorted(order)
    assert [s.items for s in started if s.query.id == 0] == [
        s.items for s in cut(driver.queries[0], batch_size)
    ]


def start(commands):
    return [c.batch for c in commands if isinstance(c, Start)]


def test_a_slice_that_kills_two_workers_fails_its_query_once_and_frees_the_line():
    d = Dispatcher(Static(10), {CPU: 1})
    query, other = Query(0, 30, 0.0), Query(1, 10, 0.0)
    d.handle(Arrive(query), 0.0)
    d.handle(Arrive(other), 0.0)
    for _ in range(MAX_KILLS - 1):
        assert start(d.handle(Lost(CPU, 0), 1.0)) == []
        again = start(d.handle(Ready(CPU, 0), 1.0))
        assert again[0].slices == (Slice(query, 0, 10),), "the slice that was running comes first again"
    commands = d.handle(Lost(CPU, 0), 2.0)
    assert [c.query for c in commands if isinstance(c, Fail)] == [query]
    commands = d.handle(Ready(CPU, 0), 3.0)
    assert start(commands)[0].slices[0].query == other, "the failed query's other slices are gone"
    d.check()


def test_a_late_report_of_a_worker_given_up_for_dead_counts_for_nothing():
    d = Dispatcher(Static(10), {CPU: 2})
    query = Query(0, 10, 0.0)
    (batch,) = start(d.handle(Arrive(query), 0.0))
    (again,) = start(d.handle(Lost(CPU, batch.worker), 1.0))
    assert d.handle(Finish(batch), 2.0) == []
    assert d.handle(Finish(again), 3.0) == [Complete(query)]


def test_only_the_query_named_in_a_failed_batch_fails():
    d = Dispatcher(Static(10), {CPU: 2})
    a = start(d.handle(Arrive(Query(0, 5, 0.0)), 0.0))[0]
    b = start(d.handle(Arrive(Query(1, 5, 0.0)), 0.0))[0]
    assert d.handle(Finish(a, ((0, "id 7 out of range"),)), 1.0) == [
        Fail(Query(0, 5, 0.0), "id 7 out of range")
    ]
    assert d.handle(Finish(b), 1.0) == [Complete(Query(1, 5, 0.0))]


def test_a_full_line_sheds_and_an_idle_node_never_does():
    d = Dispatcher(Static(1000), {CPU: 1}, Limits(items=10))
    assert start(d.handle(Arrive(Query(0, 500, 0.0)), 0.0)), "nothing waits: it starts, however large"
    assert d.handle(Arrive(Query(1, 10, 0.0)), 0.0) == []
    (shed,) = d.handle(Arrive(Query(2, 1, 0.0)), 0.0)
    assert isinstance(shed, Shed)
    assert "10 items" in shed.reason


def test_limits_in_bytes_hold_too():
    d = Dispatcher(Static(1000), {CPU: 1}, Limits(bytes=1000, bytes_per_item=100))
    d.handle(Arrive(Query(0, 1, 0.0)), 0.0)
    assert d.handle(Arrive(Query(1, 10, 0.0)), 0.0) == []
    assert isinstance(d.handle(Arrive(Query(2, 1, 0.0)), 0.0)[0], Shed)


def test_offloaded_queries_go_whole_and_the_rest_is_cut():
    d = Dispatcher(DeepRecSched(10, offload_above=50), {CPU: 8, GPU: 1})
    (batch,) = start(d.handle(Arrive(Query(0, 51, 0.0)), 0.0))
    assert (batch.device, batch.items) == (GPU, 51)
    batches = start(d.handle(Arrive(Query(1, 50, 0.0)), 0.0))
    assert [(b.device, b.items) for b in batches] == [(CPU, 10)] * 5


def test_a_policy_for_a_device_that_is_not_there_is_refused():
    with pytest.raises(InputError, match="without gpu"):
        Dispatcher(DeepRecSched(10, offload_above=50), {CPU: 8})


def test_a_batch_holds_at_most_as_many_slices_as_the_limit_says():
    d = Dispatcher(Coalescing(1000, 1), {CPU: 1}, Limits(slices=3))
    (first,) = start(d.handle(Arrive(Query(0, 1, 0.0)), 0.0))
    for i in range(1, 6):
        d.handle(Arrive(Query(i, 1, 0.0)), 0.0)
    (second,) = start(d.handle(Finish(first), 1.0))
    assert [s.query.id for s in second.slices] == [1, 2, 3]
    (third,) = start(d.handle(Finish(second), 2.0))
    assert [s.query.id for s in third.slices] == [4, 5]


@pytest.mark.parametrize(("killed", "command"), [(False, Fail), (True, Shed)])
def test_a_query_on_which_workers_die_fails_and_is_refused_if_they_were_killed(killed: bool, command: type):
    d = Dispatcher(Static(100), {CPU: 1})
    d.handle(Arrive(Query(0, 10, 0.0)), 0.0)
    assert d.handle(Lost(CPU, 0, killed=killed), 1.0) == []
    d.handle(Ready(CPU, 0), 2.0)
    (found,) = d.handle(Lost(CPU, 0, killed=killed), 3.0)
    assert isinstance(found, command)
    d.check()
    assert not d._kills


def test_a_shared_batch_that_is_lost_runs_again_slice_by_slice_and_fails_the_bad_one_alone():
    d = Dispatcher(Coalescing(1000, 1), {CPU: 1})
    (first,) = start(d.handle(Arrive(Query(0, 1, 0.0)), 0.0))
    for i in range(1, 4):
        d.handle(Arrive(Query(i, 5, 0.0)), 0.0)
    (shared,) = start(d.handle(Finish(first), 1.0))
    assert len(shared.slices) == 3
    d.handle(Lost(CPU, 0), 2.0)
    (one,) = start(d.handle(Ready(CPU, 0), 3.0))
    assert one.slices == shared.slices[:1], "before the line, and alone"
    (two,) = start(d.handle(Finish(one), 4.0))
    assert two.slices == shared.slices[1:2]
    (failed,) = d.handle(Lost(CPU, 0), 5.0)
    assert isinstance(failed, Fail)
    assert failed.query.id == 2
    (three,) = start(d.handle(Ready(CPU, 0), 6.0))
    assert three.slices == shared.slices[2:]
    assert d.handle(Finish(three), 7.0) == [Complete(Query(3, 5, 0.0))]
    d.check()
    assert not d._kills, "nothing is remembered of queries that have ended"


def test_what_an_accelerator_was_to_run_goes_to_the_cpu_while_it_has_no_worker():
    d = Dispatcher(DeepRecSched(10, offload_above=50), {CPU: 1, GPU: 1})
    (away,) = start(d.handle(Arrive(Query(1, 60, 0.0)), 0.0))
    assert away.device == GPU
    assert start(d.handle(Arrive(Query(2, 51, 0.1)), 0.1)) == [], "it waits for the accelerator"
    (first,) = start(d.handle(Lost(GPU, 0), 0.2))
    assert (first.device, first.slices) == (CPU, (Slice(away.slices[0].query, 0, 10),))
    assert d.handle(Arrive(Query(3, 55, 0.3)), 0.3) == []
    d.check()
    assert (d.waiting_items(CPU), d.waiting_items(GPU)) == (50 + 51 + 55, 0)
    assert d.handle(Ready(GPU, 0), 0.4) == [], "what was cut for the CPU stays there"
    (back,) = start(d.handle(Arrive(Query(4, 70, 0.5)), 0.5))
    assert (back.device, back.items) == (GPU, 70)
    done: list[int] = []
    running = [first, back]
    while running:
        commands = d.handle(Finish(running.pop(0)), 1.0)
        running += start(commands)
        done += [c.query.id for c in commands if isinstance(c, Complete)]
    assert sorted(done) == [1, 2, 3, 4]


def test_an_accelerator_with_a_worker_left_keeps_its_work():
    d = Dispatcher(DeepRecSched(10, offload_above=50), {CPU: 1, GPU: 2})
    (a, b) = (start(d.handle(Arrive(Query(i, 60, 0.0)), 0.0))[0] for i in (1, 2))
    assert d.handle(Lost(GPU, a.worker), 0.1) == []
    assert d.waiting_items(GPU) == 60
    (again,) = start(d.handle(Finish(b), 0.2))
    assert (again.device, again.slices) == (GPU, a.slices)


def test_workers_that_die_before_they_begin_a_slice_are_not_counted_against_it() -> None:
    d = Dispatcher(DeepRecSched(10), {CPU: 1})
    (batch,) = start(d.handle(Arrive(Query(0, 5, 0.0)), 0.0))
    for k in range(5):
        assert d.handle(Lost(CPU, 0, begun=False), 1.0 + k) == []
        (batch,) = start(d.handle(Ready(CPU, 0), 1.5 + k))
        d.check()
    (done,) = d.handle(Finish(batch), 9.0)
    assert isinstance(done, Complete)


STAGED = UserFirst(10)


def started(commands):
    return [tuple(s[1:] for s in c.batch.slices) for c in commands if isinstance(c, Start)]


def test_a_query_that_is_cut_has_its_user_stage_first_and_keeps_its_place():
    driver = Driver(STAGED, {CPU: 2}, None)
    for step in (("a", 25, 0), ("a", 10, 0), ("a", 20, 0)):
        driver.step(*step)
    assert started(driver.commands[0]) == [((0, 0, False),)], "its slices wait for it"
    assert started(driver.commands[1]) == [((0, 10, False),)], "one that is a batch has no stage"
    assert driver.dispatcher.line_items(0) == 45
    driver.step("f", 0, 0)
    assert started(driver.commands[3]) == [((0, 9, True),)], "before the third query, which came later"
    driver.drain()
    assert driver.dispatcher.completed == 3
    stages = [part for commands in driver.commands for (part,) in started(commands) if part[0] == part[1]]
    assert len(stages) == 2, "once for each"


def test_a_user_stage_that_fails_fails_its_query_and_one_whose_worker_died_runs_again():
    driver = Driver(STAGED, {CPU: 1}, None)
    driver.step("a", 25, 0)
    driver.step("e", 0, 0)
    assert (driver.dispatcher.failed, driver.dispatcher.line_items(0)) == (1, 0)
    driver.step("a", 25, 0)
    driver.step("l", 0, 0)
    driver.step("r", 0, 0)
    assert started(driver.commands[-1]) == [((0, 0, False),)]
    driver.do(Cancel(driver.queries[1]))
    assert driver.dispatcher.line_items(0) == 0
    driver.drain()
    assert driver.dispatcher.cancelled == 1


@settings(max_examples=100, deadline=None)
@given(st.builds(UserFirst, st.integers(1, 40)), LIMITS, st.integers(1, 4), STEPS)
def test_every_query_ends_exactly_once_with_user_stages(policy, limits, cpus, steps):
    driver = world(policy, limits, cpus, steps)
    driver.drain()
    assert driver.ended == Counter({q.id: 1 for q in driver.queries})

"""The live node: every query answered once and correctly, whatever happens to its workers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deeprecsys.core.device import Limits
from deeprecsys.core.dispatcher import Dispatcher
from deeprecsys.core.errors import InputError, NodeError
from deeprecsys.core.events import Lost, Start
from deeprecsys.core.policy import (
    Adaptive,
    BentoML,
    Clipper,
    Coalescing,
    Deadline,
    DeepRecSched,
    Policy,
    Static,
    TFServing,
    Triton,
    UserFirst,
)
from deeprecsys.core.runlog import Status, summarise
from deeprecsys.core.target import Target
from deeprecsys.engine import Assembly, SliceView
from deeprecsys.memory import available_bytes
from deeprecsys.node.driver import Recording
from deeprecsys.node.node import Node, NodeConfig
from deeprecsys.node.runtime.mailbox import MAX_SLICES
from deeprecsys.workload.stream import Stream
from tests.core.policies import BY_NAME, OFFLOADING, STAGED
from tests.node.faults import DEADLY_SIZE
from tests.node.plain import PLAIN, PlainEngine

pytestmark = pytest.mark.live

SMALL = NodeConfig("dlrm-rmc1", 1e-3, PLAIN, workers=2, max_query=100, locality="uniform")


def stream(sizes: list[int], gap_s: float = 0.002, seed: int = 0) -> Stream:
    rng = np.random.default_rng(seed)
    n = len(sizes)
    return Stream(
        rate_qps=1 / gap_s,
        arrival_s=gap_s * np.arange(1, n + 1),
        size=np.asarray(sizes, np.int32),
        features=rng.integers(0, 1 << 63, n, dtype=np.uint64),
    )


class Collect:
    """Keeps every query's scores, and can do something at a tick."""

    def __init__(
        self, node: Node | None = None, kill_at_tick: int | None = None, with_signal: int = signal.SIGKILL
    ) -> None:
        self._signal = with_signal
        self.scores_by_query: dict[int, np.ndarray] = {}
        self.answers: Counter[int] = Counter()
        self._node, self._kill_at, self._ticks = node, kill_at_tick, 0

    def tick(self, share: float) -> None:
        self._ticks += 1
        if self._node and self._ticks == self._kill_at:
            os.kill(self._node.pool.pids[0], self._signal)

    def scores(self, query, scores) -> None:
        self.answers[query.id] += 1
        self.scores_by_query[query.id] = scores.copy()


def rows_of(node: Node) -> Callable[[int], dict[str, int]]:
    """From a query's handle to its first row of each input."""
    return node.memory.features.rows_at


def reference(node: Node, queries: Stream) -> list[np.ndarray]:
    """Each query's scores, whole, by an engine in this very process."""
    memory, layout = node.memory, node.memory.layout
    rows_at = rows_of(node)
    engine = PlainEngine(Assembly(layout.built(), memory.tables, memory.inputs, node.config.seed))
    out = []
    for size, handle in zip(queries.size.tolist(), queries.features.tolist(), strict=True):
        y = np.empty((size, memory.schema.outputs), np.float32)
        engine.score([SliceView(rows_at(handle), 0, size, y)])
        out.append(y)
    return out


def assert_all_answered(collect: Collect, queries: Stream, expected: list[np.ndarray]) -> None:
    assert set(collect.answers) == set(range(len(expected)))
    assert set(collect.answers.values()) == {1}
    for i, y in enumerate(expected):
        np.testing.assert_allclose(collect.scores_by_query[i], y, atol=1e-5)
    spread = np.std(np.concatenate(expected))
    assert spread > 1e-3, "scores that hardly differ would hide a wrong row"


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    with Node(SMALL) as n:
        yield n


def test_every_query_is_answered_once_with_its_own_scores(node: Node) -> None:
    sizes = np.random.default_rng(1).integers(1, 101, 300).tolist()
    queries = stream(sizes)
    collect = Collect()
    log = node.run(DeepRecSched(16), queries, Target(latency_s=1.0), hooks=collect)
    summary = summarise(log, Target(latency_s=1.0))
    assert (summary.completed, summary.shed, summary.failed, summary.served) == (300, 0, 0, 1.0)
    assert np.all(log.arrival_s <= log.issued_s)
    assert np.all(log.issued_s <= log.start_s)
    assert np.all(log.start_s <= log.finish_s)
    assert_all_answered(collect, queries, reference(node, queries))


def test_a_killed_worker_loses_no_query_and_is_replaced(node: Node) -> None:
    queries = stream([50] * 2000)
    collect = Collect(node, kill_at_tick=1)
    before, deaths = node.pool.pids, node.pool.deaths
    log = node.run(Static(10), queries, hooks=collect)
    assert node.pool.deaths == deaths + 1
    assert summarise(log).served == 1.0
    assert_all_answered(collect, queries, reference(node, queries))
    assert len(set(node.pool.pids) - set(before)) == 1
    after = node.run(Static(10), stream([50] * 20))
    assert summarise(after).served == 1.0


def test_a_worker_that_hangs_is_replaced_in_the_middle_of_a_trial(node: Node) -> None:
    queries = stream([50] * 2000)
    collect = Collect(node, kill_at_tick=1, with_signal=signal.SIGSTOP)
    deaths = node.pool.deaths
    log = node.run(Static(10), queries, hooks=collect)
    assert node.pool.deaths == deaths + 1
    assert summarise(log).served == 1.0
    assert_all_answered(collect, queries, reference(node, queries))


POLICIES = [
    Static(20),
    DeepRecSched(20),
    Adaptive(50, 5),
    Coalescing(64, 8),
    Deadline(20, latency_s=0.005),
    Triton(64, delay_s=0.002),
    TFServing(32, timeout_s=0.002),
    BentoML(64),
    Clipper(latency_s=0.01),
]


@pytest.mark.parametrize("policy", POLICIES, ids=lambda p: p.describe()["policy"])
def test_every_policy_serves_all_and_its_events_replayed_give_the_same_commands(
    node: Node, policy: Policy
) -> None:
    recording, collect = Recording(), Collect()
    queries = stream(np.random.default_rng(2).integers(1, 101, 200).tolist(), gap_s=1e-4)
    log = node.run(policy, queries, hooks=collect, recording=recording)
    assert summarise(log).served == 1.0
    assert_all_answered(collect, queries, reference(node, queries))
    fresh = Dispatcher(policy, {"cpu": 2}, Limits(slices=MAX_SLICES))
    for (now, event), commands in zip(recording.events, recording.commands, strict=True):
        assert fresh.handle(event, now) == commands
        fresh.check()
    assert fresh.completed == 200
    lost = sum(isinstance(event, Lost) for _, event in recording.events)  # of workers that other tests killed
    assert fresh._next_batch - lost <= len(recording.batches) <= fresh._next_batch
    shared = any(len(batch.slices) > 1 for batch, *_ in recording.batches)
    assert shared == policy.merges_queries, "or the test shows less than it says"


def test_every_kind_of_policy_runs_live() -> None:
    assert {p.describe()["policy"] for p in POLICIES} == set(BY_NAME) - set(OFFLOADING) - set(STAGED)


def test_a_user_stage_runs_once_and_first_and_the_scores_are_those_of_whole_queries() -> None:
    recording, collect = Recording(), Collect()
    queries = stream(np.random.default_rng(2).integers(1, 101, 60).tolist(), gap_s=2e-3)
    with Node(replace(SMALL, model="wnd", engine="compiled")) as n:
        log = n.run(UserFirst(20), queries, hooks=collect, recording=recording)
        expected = n.score(queries)
    assert summarise(log).served == 1.0
    for k, wanted in enumerate(expected):
        np.testing.assert_allclose(collect.scores_by_query[k], wanted, atol=1e-5)
    parts = [batch.slices[0] for batch, *_ in recording.numbered]
    stages = [s.query.id for s in parts if s.start == s.stop]
    assert sorted(stages) == [k for k, size in enumerate(queries.size) if size > 20]
    assert all(s.staged == (s.query.size > 20) for s in parts if s.items)
    fresh = Dispatcher(UserFirst(20), {"cpu": 2}, Limits(slices=MAX_SLICES))
    for (now, event), commands in zip(recording.events, recording.commands, strict=True):
        assert fresh.handle(event, now) == commands


def test_user_stages_are_refused_where_there_are_none(node: Node) -> None:
    with pytest.raises(InputError, match="policy user-first: expected a model with a user stage"):
        node.run(UserFirst(20), stream([30]))


def test_a_killed_worker_has_the_slices_of_its_batch_run_again_alone() -> None:
    """Six queries at once on one worker: the first runs, the others share a batch, which kills."""
    recording, collect = Recording(), Collect()
    queries = stream([10, 20, 30, 40, 50, 60], gap_s=1e-6)
    with Node(replace(SMALL, engine="tests.node.faults:LonelyEngine", workers=1)) as n:
        log = n.run(Coalescing(1000, 1), queries, hooks=collect, recording=recording)
        deaths, expected = n.pool.deaths, reference(n, queries)
    started = [c.batch for commands in recording.commands for c in commands if isinstance(c, Start)]
    merged = [b for b in started if len(b.slices) > 1]
    assert merged
    assert deaths == len(merged) == log.extra["workers_lost"]
    assert summarise(log).served == 1.0
    assert_all_answered(collect, queries, expected)
    assert all(len(batch.slices) == 1 for batch, *_ in recording.batches), "what was answered ran alone"
    after = started[started.index(merged[0]) + 1 :]
    assert [b.slices for b in after[: len(merged[0].slices)]] == [(part,) for part in merged[0].slices]


def test_an_id_outside_its_table_fails_its_query_alone(node: Node) -> None:
    schema, rows_at = node.memory.schema, rows_of(node)
    sparse = schema.sparse[3]
    queries = stream([20] * 50)
    victim = 7
    row = rows_at(int(queries.features[victim]))[sparse.name] + 11
    ids = node.memory.inputs[sparse.name]
    good = ids[row, 0]
    ids[row, 0] = schema.table(sparse.table).rows
    try:
        hit = [i for i, h in enumerate(queries.features.tolist()) if 0 <= row - rows_at(h)[sparse.name] < 20]
        log = node.run(Static(8), queries)
    finally:
        ids[row, 0] = good
    assert victim in hit
    assert np.flatnonzero(log.status == Status.FAILED).tolist() == hit
    assert np.count_nonzero(log.status == Status.SERVED) == 50 - len(hit)
    assert "query 7" in log.extra["failures"][hit.index(victim)]
    assert summarise(node.run(Static(8), queries)).served == 1.0


def test_hopeless_overload_is_given_up_and_counted(node: Node) -> None:
    queries = stream([100] * 4000, gap_s=1e-5)
    log = node.run(Static(100), queries, Target(latency_s=0.001))
    summary = summarise(log, Target(latency_s=0.001))
    assert log.abandoned
    assert summary.served < 1
    assert summary.p95_ms == float("inf")
    assert 0 < len(log.size) == np.count_nonzero(~np.isnan(log.issued_s)), "what came until then"
    assert log.elapsed_s is not None
    assert log.arrival_s[-1] <= log.elapsed_s
    assert log.warmup_s <= log.elapsed_s / 3
    assert summarise(node.run(Static(8), stream([20] * 50))).served == 1.0


def test_an_overload_may_be_followed_to_its_end(node: Node) -> None:
    queries = stream([100] * 1000, gap_s=1e-5)
    log = node.run(Static(100), queries, Target(latency_s=0.0005), abandon=False)
    assert not log.abandoned
    assert log.latency_s.max() > 20 * 0.0005, "would have been given up"
    assert summarise(log).served == 1.0


def test_full_lines_shed_visibly() -> None:
    with Node(replace(SMALL, engine="wait:5", workers=1, limits=Limits(items=300, queries=16000))) as n:
        log = n.run(Static(100), stream([100] * 50, gap_s=1e-4))
    summary = summarise(log)
    assert summary.shed > 0
    assert summary.completed + summary.shed == 50


def test_measured_times_grow_with_the_batch(node: Node) -> None:
    small, large = (np.median(node.measure(b, busy=2, repeats=30)) for b in (1, 100))
    assert 0 < small < large


def test_a_query_larger_than_the_node_takes_is_refused(node: Node) -> None:
    with pytest.raises(InputError, match="at most 100 items, got 101"):
        node.run(Static(8), stream([101]))


def test_a_query_that_kills_workers_fails_alone_after_its_second() -> None:
    config = replace(SMALL, engine="tests.node.faults:DeadlyEngine")
    sizes = [10] * 40
    sizes[5] = DEADLY_SIZE
    queries = stream(sizes)
    collect = Collect()
    with Node(config) as n:
        log = n.run(Static(100), queries, hooks=collect)
        assert n.pool.deaths == 2
    assert np.flatnonzero(log.status == Status.FAILED).tolist() == [5]
    assert np.count_nonzero(log.status == Status.SERVED) == 39
    assert "2 workers died" in log.extra["failures"][0]
    assert 5 not in collect.answers


@pytest.mark.parametrize(
    ("engine", "why"),
    [("RefusingEngine", "no such instruction"), ("CrashingEngine", "killed by signal 9")],
)
def test_a_worker_that_cannot_start_stops_the_node_with_its_reason(engine: str, why: str) -> None:
    before = children(os.getpid())
    with (
        pytest.raises(NodeError, match=f"cannot start: .*{why}"),
        Node(replace(SMALL, engine=f"tests.node.refusals:{engine}")),
    ):
        pass
    assert children(os.getpid()) == before


def test_tables_that_do_not_fit_are_refused_with_the_option_to_change() -> None:
    scale = 2 * available_bytes() / NodeConfig("dlrm-rmc1").rows_scale / 5e9
    with pytest.raises(InputError, match="--rows-scale"):
        Node(replace(SMALL, rows_scale=scale))


def test_closing_leaves_neither_process_nor_descriptor_nor_memory() -> None:
    before = os.listdir("/proc/self/fd"), set(os.listdir("/dev/shm"))
    with Node(replace(SMALL, engine="null")) as n:
        pids = n.pool.pids
        assert len(children(os.getpid())) >= 2
    assert not any(Path(f"/proc/{p}").exists() for p in pids)
    assert len(os.listdir("/proc/self/fd")) == len(before[0])
    assert set(os.listdir("/dev/shm")) == before[1]


def test_workers_die_with_a_node_that_is_killed() -> None:
    code = (
        "from deeprecsys.node.node import Node, NodeConfig; import time\n"
        "n = Node(NodeConfig('ncf', rows_scale=0.01, engine='null', workers=2, max_query=10))\n"
        "print(*n.pool.pids, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pids = [int(p) for p in parent.stdout.readline().split()]
    assert len(pids) == 2
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 5
    while any(alive(p) for p in pids) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(alive(p) for p in pids)


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def children(pid: int) -> list[int]:
    """The live child processes of a process that are workers."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rsplit(")", 1)[1].split()[:2]
            line = (stat.parent / "cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(parent) == pid and state != "Z" and b"deeprecsys.node.runtime.worker" in line:
            found.append(int(stat.parent.name))
    return found

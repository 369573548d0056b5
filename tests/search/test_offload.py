"""The second climb: its threshold is one that ran, and within one step of the exhaustive optimum."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.lib.searches import Sweep
from deeprecsys.core.errors import TargetUnreachableError
from deeprecsys.core.policy import CPU, GPU, DeepRecSched, Policy, Static
from deeprecsys.core.profile import LatencyProfile, Point
from deeprecsys.core.runlog import RunLog, warmup_s
from deeprecsys.core.target import Target
from deeprecsys.node.node import Node, NodeConfig
from deeprecsys.search.capacity import capacity
from deeprecsys.search.climbs import HillClimb
from deeprecsys.search.confirm import ConfirmSettings
from deeprecsys.search.history import MOVES, UNREACHABLE, Score, batch_sizes, thresholds
from deeprecsys.search.rank import TOLERANCE, Ranking
from deeprecsys.search.result import Settings
from deeprecsys.search.tuner import TuneSettings, tune, tune_by_model
from deeprecsys.simulate.fast import run
from deeprecsys.simulate.published import GTX_1080_TI, device_profile
from deeprecsys.simulate.table import Tabulated
from deeprecsys.workload.sizes import parse
from deeprecsys.workload.stream import Workload
from deeprecsys.zoo import model
from tests.search.fakes import TARGET, Cliff, drive

PROFILES = Path(__file__).parents[2] / "profiles"
QUERIES = 4_000
LIMITS = thresholds(1000)


class Path1080:
    """One sample path of a model on some cores and an emulated GTX 1080 Ti."""

    def __init__(self, name: str, cores: int) -> None:
        self.cores = cores
        cpu = LatencyProfile.from_json(json.loads((PROFILES / "amd-25-1-avx2" / f"{name}.json").read_text()))
        self.services = {CPU: Tabulated(cpu), GPU: Tabulated(device_profile(cpu, GTX_1080_TI))}
        self.target = Target(latency_s=model(name).medium_target_ms / 1e3)
        rng = np.random.default_rng(7)
        self.unit = np.cumsum(rng.exponential(size=QUERIES))
        self.size = parse("production").of(rng.random(QUERIES), self.unit)
        self.hint = cores / cpu.seconds(139, cores)

    def __call__(self, policy: Policy, rate_qps: float) -> RunLog:
        arrivals = self.unit / rate_qps
        warm = warmup_s(float(arrivals[-1]), self.target)
        workers = {CPU: self.cores, GPU: 1}
        return run(policy, arrivals, self.size, self.services, workers, warmup_s=warm, rate_qps=rate_qps)


def test_steps_that_move_hardly_an_item_are_no_steps() -> None:
    """They would look like the end of the climb: below the smallest query, and above nearly all."""
    sizes = parse("production").of(np.random.default_rng(1).random(4000), np.arange(4000.0))
    kept = thresholds(1000, sizes)
    assert set(kept) < set(LIMITS)
    assert kept[0] == 0
    shares = [sizes[sizes > n].sum() / sizes.sum() for n in kept] + [0.0]
    assert min(-np.diff(shares)) >= MOVES
    assert thresholds(1000, np.full(10, 500, np.int32)) == (0,), "one size: all or none"


CLIMBED = [("wnd", 4), ("mt-wnd", 4), ("dlrm-rmc1", 4), ("dlrm-rmc3", 4), ("din", 4), ("wnd", 2), ("ncf", 2)]
"""On two cores the accelerator alone does more than they: the second climb begins on its plateau."""


@pytest.mark.parametrize(("name", "cores"), CLIMBED)
def test_the_climbs_threshold_is_within_one_step_of_the_exhaustive_optimum(name: str, cores: int) -> None:
    path = Path1080(name, cores)
    static = Static.baseline(1000, cores)
    limits = thresholds(1000, path.size)
    climb = HillClimb(batch_sizes(1000, static.batch_size), limits)
    Ranking(path, path.target, path.hint).finish(climb)
    best = climb.best
    assert best is not None
    assert isinstance(best.policy, DeepRecSched)
    sweep = Sweep([DeepRecSched(best.policy.batch_size, n) for n in (None, *limits)])
    Ranking(path, path.target, path.hint).finish(sweep)
    optimum = sweep.best
    assert optimum is not None
    assert isinstance(optimum.policy, DeepRecSched)
    ladder = [*limits, None]  # None: all on the CPU, beyond the last threshold
    found, exact = (ladder.index(p.offload_above) for p in (best.policy, optimum.policy))
    level = best.qps >= optimum.qps * (1 - 2 * TOLERANCE)  # on a plateau no threshold is nearer
    assert abs(found - exact) <= 1 or level, (best.policy, optimum.policy)


@given(
    st.lists(st.floats(0, 1000), min_size=len(LIMITS), max_size=len(LIMITS)),
    st.floats(0, 1000),
    st.sampled_from(["exact", "floor"]),
)
def test_a_threshold_that_was_never_run_is_never_returned(rates, alone, kind) -> None:
    """Whatever the landscape, and also where the trials only say that a policy is below the floor."""
    climb = HillClimb([64], LIMITS)
    ran: list[Policy] = []
    while (policy := climb.ask()) is not None:
        assert policy not in ran
        ran.append(policy)
        above = policy.offload_above
        qps = alone if above is None else rates[LIMITS.index(above)]
        floor = climb.floor_qps
        if kind == "floor" and floor is not None and qps < floor:
            climb.tell(policy, Score.below(floor))
        else:
            climb.tell(policy, Score.exactly(qps))
    assert [t.policy for t in climb.told] == ran
    if climb.best is not None:
        assert climb.best.policy in ran
        assert climb.best.qps == max(t.qps for t in climb.told)


def landscape(kind: str, seed: int) -> Callable[[Policy], float]:
    """Capacities by threshold: at random, falling from none, or rising to all away."""
    rng = np.random.default_rng(seed)
    rates = {n: float(r) for n, r in zip((None, *LIMITS), rng.uniform(50, 400, 1 + len(LIMITS)), strict=True)}
    if kind == "fall":
        rates = dict(zip((None, *LIMITS), np.linspace(400, 50, 1 + len(LIMITS)).tolist(), strict=True))
    if kind == "rise":
        rates = dict(zip((*LIMITS, None), np.linspace(400, 50, 1 + len(LIMITS)).tolist(), strict=True))
    return lambda p: rates[p.describe()["offload_above"]] * (1.0 if p.describe()["batch_size"] > 100 else 0.8)


SHORT = Settings(resolution=0.1, trial_s=1.5, budget_s=8.0)
CASES = [("any", 1), ("any", 2), ("any", 3), ("fall", 0), ("rise", 0)]


def searched() -> HillClimb:
    return HillClimb([64, 250], LIMITS)


@pytest.mark.parametrize(("kind", "seed"), CASES)
@pytest.mark.parametrize("budget_s", [400.0, 30.0])
def test_tuning_live_returns_no_threshold_that_never_ran(kind: str, seed: int, budget_s: float) -> None:
    """With time for all, and with so little that the second climb is cut short."""
    node = Cliff(landscape(kind, seed))
    settings = TuneSettings(SHORT, budget_s, SHORT, ConfirmSettings(trial_s=2.0, rounds=2, most_rounds=2))
    found = tune(node, TARGET, static=Static(250), search=searched(), hint_qps=200.0, settings=settings)
    ran = {p for p, *_ in node.ran}
    assert {t.policy for t in found.candidates} <= ran
    assert found.tuned.policy in ran
    assert found.complete or budget_s < 100
    if budget_s > 100:
        assert any(p.describe()["offload_above"] is not None for p in ran), "the second climb was reached"
    if kind == "rise" and budget_s > 100:
        assert found.tuned.policy.describe()["offload_above"] in LIMITS[:2]


@pytest.mark.parametrize(("kind", "seed"), CASES)
def test_tuning_by_model_returns_no_threshold_that_never_ran(kind: str, seed: int) -> None:
    """Neither in virtual time nor live: what is returned was confirmed on the node."""
    model, node = Cliff(landscape(kind, seed)), Cliff(landscape(kind, seed))
    ranking = Ranking(lambda p, rate: model(p, rate, 10.0, 0), TARGET, 200.0)
    settings = TuneSettings(refine=SHORT, confirm=ConfirmSettings(trial_s=2.0, rounds=2, most_rounds=2))
    found = tune_by_model(
        node, model, ranking, TARGET, static=Static(250), search=searched(), settings=settings
    )
    ranked, ran = ({p for p, *_ in where.ran} for where in (model, node))
    assert {t.policy for t in found.candidates} <= ranked
    assert found.tuned.policy in ran
    assert ran <= ranked
    assert any(p.describe()["offload_above"] is not None for p in ranked), "the second climb was reached"
    if kind == "rise":
        assert found.tuned.policy.describe()["offload_above"] in LIMITS[:2]


def test_a_threshold_that_pays_nothing_leaves_all_on_the_cpu() -> None:
    climb = HillClimb([64], LIMITS)
    drive(climb, lambda p: 100.0 if p.offload_above is None else 50.0)
    assert climb.best is not None
    assert climb.best.policy == DeepRecSched(64)


@pytest.mark.alone
def test_both_knobs_are_tuned_live_against_an_emulated_accelerator(tmp_path: Path) -> None:
    """A worker that takes 0.1 ms an item, an accelerator that takes 8 ms whatever the query."""
    gpu = LatencyProfile("ncf", tuple(Point(1, b, (7.9e-3, 8e-3, 8.2e-3)) for b in (1, 300)))
    (tmp_path / "gpu.json").write_text(json.dumps(gpu.to_json()))
    config = NodeConfig(
        "ncf", 1e-3, "wait:0.5,0.1", workers=1, max_query=300, gpu=f"emulated:{tmp_path}/gpu.json"
    )
    workload, target = (
        Workload.parse(None, "normal:100,60,300", trace=None, seed=0, locality="uniform"),
        Target(latency_s=0.05),
    )
    climb = HillClimb([40, 300], [0, 90, 200])
    with Node(config) as node:

        def trial(policy, rate_qps, duration_s, seed):
            return node.run(
                policy, replace(workload, seed=seed).stream(rate_qps, duration_s=duration_s), target
            )

        settings = Settings(resolution=0.1, trial_s=0.4, budget_s=2.0)
        while (policy := climb.ask()) is not None:
            try:
                found = capacity(trial, policy, target, hint_qps=80.0, settings=settings)
            except TargetUnreachableError:
                climb.tell(policy, UNREACHABLE)
            else:
                climb.tell(policy, found)
    assert climb.best is not None
    assert isinstance(climb.best.policy, DeepRecSched)
    assert climb.best.policy.offload_above == 90, "neither all to one device nor nearly none"
    assert {t.policy.offload_above for t in climb.told if isinstance(t.policy, DeepRecSched)} >= {None, 0, 90}

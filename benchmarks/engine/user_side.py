"""What the user's side of a query costs: cut into slices, after a user stage, and merged with other queries.

Zoo: processor time of one batch of 1,024 items, of 16 slices of 64 of one query, and of a user stage with 16
slices that read it, in turn. A model of one's own (`Ranker`): batches of several queries of 16 items through one
graph and slice by slice; and the rate that 8 simulated cores carry with these times, merging queries or not.
Last, MT-WND at its low target on 40 simulated cores, with a user stage and without: batch times are those of
`profiles/`, and a stage takes the share of a batch of one item that it takes here. About two minutes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from statistics import median
from typing import Any

import numpy as np

import deeprecsys as dr
from benchmarks.harness import Benchmark, Result, Run, Tables, markdown
from benchmarks.lib.experiments import filled_memory
from benchmarks.simulate.policies import CORES as MANY_CORES
from benchmarks.simulate.policies import Case, Path, path_of, steady_profile
from deeprecsys.bounds.bounds import BoundKind
from deeprecsys.bounds.path import bounds_of
from deeprecsys.core.policy import Coalescing, DeepRecSched, UserFirst
from deeprecsys.core.profile import Point
from deeprecsys.engine import Assembly, SliceView, build
from deeprecsys.report import format as f
from deeprecsys.search.rank import capacity_on_path
from deeprecsys.simulate import fast
from deeprecsys.zoo import model
from deeprecsys.zoo.custom import Own, OwnModel
from deeprecsys.zoo.schema import DenseInput, Per, Pooling, Schema, SparseInput, Table

MODELS = ("mt-wnd", "wnd")
WHOLE, SLICE = 1024, 64
OWN = "benchmarks.engine.user_side:Ranker"
QUERY, CORES, TARGET = 16, 8, dr.Target(latency_s=0.01)
BATCHES = (91, 128, 181, 256)
SHARED = (1, 2, 4, 8, 16, 32)
"""Queries in one batch."""


class Ranker(OwnModel):
    """Three inputs per query, two per item; the user's tower is as wide as the item's."""

    schema = Schema(
        (Table("users", 100_000, 64), Table("goods", 100_000, 64)),
        (
            SparseInput("user", "users", per=Per.QUERY),
            SparseInput("history", "goods", 50, Pooling.MEAN, Per.QUERY),
            DenseInput("context", 128, Per.QUERY),
            SparseInput("item", "goods"),
            DenseInput("features", 64),
        ),
    )

    def dense_stage(self) -> Any:
        import torch
        from torch import nn

        class Stage(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.user = nn.Sequential(nn.Linear(256, 1024), nn.ReLU(), nn.Linear(1024, 256), nn.ReLU())
                self.top = nn.Sequential(
                    nn.Linear(384, 512), nn.ReLU(), nn.Linear(512, 128), nn.ReLU(), nn.Linear(128, 1)
                )

            def forward(
                self, user: torch.Tensor, history: torch.Tensor, context: torch.Tensor, item: torch.Tensor,
                features: torch.Tensor,
            ) -> torch.Tensor:  # fmt: skip
                once = self.user(torch.cat([user, history, context], 1)).expand(item.shape[0], -1)
                return torch.sigmoid(self.top(torch.cat([once, item, features], 1)))

        return Stage()


def in_turn(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Processor milliseconds of each call, one of each in every round; the first round warms up."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, call in calls.items():
            began = time.process_time()
            call()
            if number:
                found[name].append(1e3 * (time.process_time() - began))
    return found


def cut(name: str, scale: float, rounds: int) -> dict[str, Any]:
    """One query of a model of the zoo, whole, in slices, and in slices after its user stage."""
    memory, network = filled_memory(name, scale, WHOLE), model(name).scaled(scale)
    engine = build("compiled", Assembly(network, memory.tables, memory.inputs))
    first = memory.features.rows_at(7)
    out = np.zeros((WHOLE, network.schema.outputs), np.float32)
    user = np.zeros((1, network.user_stage), np.float32)
    starts = range(0, WHOLE, SLICE)

    def slices(kept: Any) -> None:
        for a in starts:
            engine.score([SliceView(first, a, a + SLICE, out[a : a + SLICE], kept)])

    def staged() -> None:
        engine.score([SliceView(first, 0, 0, out[:0], user)])
        slices(user)

    times = in_turn(
        {
            "whole": lambda: engine.score([SliceView(first, 0, WHOLE, out)]),
            "slices": lambda: slices(None),
            "staged": staged,
            "stage": lambda: engine.score([SliceView(first, 0, 0, out[:0], user)]),
            "one": lambda: engine.score([SliceView(first, 0, 1, out[:1])]),
        },
        rounds,
    )
    memory.close()
    typical = {k: median(v) for k, v in times.items()}
    ratios = {k: median(np.divide(times[k], times["whole"])) for k in ("slices", "staged")}
    return {"ms": typical, "over_whole": ratios}


def shared(rounds: int) -> dict[str, Any]:
    """Batches of the own model's queries, and what they let 8 cores carry."""
    memory = filled_memory(OWN, 1.0, QUERY)
    own = model(OWN)
    assert isinstance(own, Own)
    assert own.merged
    about = Assembly(own, memory.tables, memory.inputs)
    ways = {"merged": build("compiled", about),
            "slice by slice": build("compiled", replace(about, model=replace(own, merged=b"")))}  # fmt: skip
    outs = [np.zeros((QUERY, 1), np.float32) for _ in range(max(SHARED))]
    views = [SliceView(memory.features.rows_at(k), 0, QUERY, out) for k, out in enumerate(outs)]
    times = {}
    for count in SHARED:
        batch = views[:count]
        calls = {
            name: lambda e=engine, b=batch: [e.score(b) for _ in range(10)] for name, engine in ways.items()
        }
        for name, found in in_turn(calls, rounds).items():
            times[name, count] = median(found) / 10
    memory.close()
    return {
        name: {"ms": {str(n): times[name, n] for n in SHARED}, "qps": carried(name, times)} for name in ways
    }


def carried(name: str, times: dict[tuple[str, int], float]) -> float:
    """The highest rate of queries of 16 items at which `CORES` cores meet the target, over batch sizes."""
    # Batches of more queries never take less.
    rising = np.maximum.accumulate([times[name, n] for n in SHARED])
    points = [Point(1, QUERY * n, (float(t) / 1e3,)) for n, t in zip(SHARED, rising, strict=True)]
    profile = dr.LatencyProfile("ranker", tuple(points))
    stream = dr.Workload.parse("poisson", f"fixed:{QUERY}", seed=7).stream(1.0, queries=20_000)
    best = 0.0
    for policy in (DeepRecSched(QUERY), *(Coalescing(QUERY * n, QUERY) for n in SHARED[1:])):

        def meets(rate_qps: float, policy: dr.Policy = policy) -> bool:
            log = fast.run(
                policy, stream.arrival_s / rate_qps, stream.size, profile, CORES, rate_qps=rate_qps
            )
            return bool(np.quantile(log.latency_s, TARGET.quantile) <= TARGET.latency_s)

        full = CORES / profile.seconds(QUERY)
        best = max(best, capacity_on_path(meets, 0.8 * full))
    return best


def at_low_target(ms: dict[str, float], quick: bool) -> dict[str, float]:
    """What 40 cores carry of MT-WND, as a share of O_fcfs without user stages."""
    parts = WHOLE / SLICE
    saved = (ms["slices"] - ms["staged"] + ms["stage"]) / parts / ms["one"]
    case = Case("mt-wnd", "low", queries=2000 if quick else 20_000)
    path, times = path_of(case)
    one_s, reference = float(times[0]), path.stream
    stage_s, staged_s = min(ms["stage"] / ms["one"], 1.0) * one_s, min(saved, 1.0) * one_s
    profile = replace(steady_profile("mt-wnd"), stage_s=stage_s, staged_s=staged_s)
    path = Path(case, path.about_qps, profile)
    bound = bounds_of(
        times, MANY_CORES, path.target, reference.arrival_s, reference.size, rate_qps=path.about_qps
    )[BoundKind.O_FCFS].rate_qps
    found = {"stage_share": stage_s / one_s, "saved_share": staged_s / one_s}
    for kind in (DeepRecSched, UserFirst):
        found[kind.name] = max(path.capacity(kind(b), 0.9 * bound) / bound for b in BATCHES)
    return found


def run(run: Run) -> None:
    scale, rounds = (0.001, 3) if run.quick else (0.1, 30)
    found = {"zoo": {name: cut(name, scale, rounds) for name in MODELS}, "own": shared(rounds)}
    found["own"]["ratio"] = found["own"]["merged"]["qps"] / found["own"]["slice by slice"]["qps"]
    found["low_target"] = at_low_target(found["zoo"]["mt-wnd"]["ms"], run.quick)
    run.save(found)
    low = found["low_target"]
    print(f"mt-wnd at its low target on 40 simulated cores: {100 * low['deeprecsched']:.1f} % of O_fcfs, "
          f"{100 * low['user-first']:.1f} % with user stages")  # fmt: skip
    for name, r in found["zoo"].items():
        print(f"{name}: 16 slices {r['over_whole']['slices']:.3f}, after a user stage "
              f"{r['over_whole']['staged']:.3f} of one batch of 1,024")  # fmt: skip
    print(f"own model: {found['own']['ratio']:.2f} times the queries/s with merged batches")


def tables(result: Result) -> Tables:
    header = ("model", "one batch of 1,024, ms", "user stage, ms", "16 slices of 64", "after a user stage")
    rows = [
        (name, f.figure(r["ms"]["whole"]), f.figure(r["ms"]["stage"]), f"{r['over_whole']['slices']:.2f}×",
         f"{r['over_whole']['staged']:.2f}×")
        for name, r in result["zoo"].items()
    ]  # fmt: skip
    own = [
        (n, *(f.figure(result["own"][way]["ms"][n]) for way in ("merged", "slice by slice")))
        for n in map(str, SHARED)
    ]
    return {
        "docs/design/0023-user-side.md#cut": markdown(header, rows),
        "docs/design/0023-user-side.md#shared": markdown(
            ("queries of 16 items in a batch", "one graph, ms", "slice by slice, ms"), own
        ),
    }


BENCHMARK = Benchmark(__file__, __doc__, run, tables)

if __name__ == "__main__":
    BENCHMARK.main()

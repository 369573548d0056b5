"""What the rule for a sustained capacity accepts and rejects, in virtual time, and what short trials do.

M/D/c and M/G/c near saturation, at 5 % below the capacity, at it, and 3 % above. The capacity is that of a path of three
million queries. The rule judges one run as long as `planned_s` asks for, at most ten minutes, and one of a minute; the former rule pools up to six
trials of two seconds or six targets, each from an empty node. Goals: at least 90 of 100 accepted below, at most 5 above.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

import deeprecsys as dr
from benchmarks.harness import Benchmark, Result, Run, Tables, markdown
from deeprecsys.api.virtual import NodeModel
from deeprecsys.core.profile import LatencyProfile, Point
from deeprecsys.search.confirm import confirm
from deeprecsys.search.history import Evaluation, Score
from deeprecsys.search.rank import capacity_on_path
from deeprecsys.search.sustain import LEAST_S, planned_s, sustained
from deeprecsys.search.tuner import TuneSettings

SHARES = (0.95, 1.0, 1.03)
MOST_S = 600.0
PATH, QUICK_PATH = 3_000_000, 200_000
WHOLE = dr.Static(1 << 16)
"""Queries are not cut: a query's work is its service time."""


class Queue(NamedTuple):
    """Workers, batch time `fixed_s + item_s * items`, sizes, target in seconds."""

    name: str
    workers: int
    sizes: str
    fixed_s: float
    item_s: float
    target_s: float

    @property
    def profile(self) -> LatencyProfile:
        points = tuple(Point(1, b, (self.fixed_s + self.item_s * b,)) for b in (1, 2000))
        return LatencyProfile(self.name, points)

    @property
    def target(self) -> dr.Target:
        return dr.Target(latency_s=self.target_s)

    @property
    def workload(self) -> dr.Workload:
        return dr.Workload.parse("poisson", self.sizes, seed=7)

    @property
    def node(self) -> NodeModel:
        return NodeModel(self.profile, self.workload, self.workers, self.target)


MG = ("production", 0.0005, 2e-5)
QUEUES = (
    Queue("M/D/1", 1, "fixed:1", 0.002, 0.0, 0.1),
    Queue("M/D/4", 4, "fixed:1", 0.002, 0.0, 0.03),
    Queue("M/G/2", 2, *MG, 0.1),
    Queue("M/G/4", 4, *MG, 0.1),
    Queue("M/G/2, long target", 2, *MG, 0.25),
)


@cache
def capacity_qps(queue: Queue, queries: int = PATH) -> float:
    """The highest rate at which a long path meets the target."""
    path, full = queue.node.path(queries), queue.node.saturation_qps(1 << 16)
    return capacity_on_path(lambda rate: path(WHOLE, rate).meets(queue.target), 0.95 * full, tolerance=1e-3)


def accepted(queue: Queue, rate_qps: float, seeds: range) -> dict[str, Any]:
    """How many runs at a rate the rule accepts, and how many the former one."""
    node, plan = queue.node.trial(), queue.node.path()
    length_s = min(planned_s(plan(WHOLE, rate_qps)), MOST_S)
    runs, minute = (
        [sustained(node(WHOLE, rate_qps, s, seed), queue.target) for seed in seeds]
        for s in (length_s, LEAST_S)
    )
    short = replace(TuneSettings.by_model(queue.target).confirm, margin=0.0, attempts=1, upward=False)
    point = Evaluation(WHOLE, Score.exactly(rate_qps))
    former = [confirm(node, [point], queue.target, short, seed=seed)[0].met for seed in seeds]
    return {
        "seconds": length_s,
        "sustained": sum(r.held for r in runs),
        "in_a_minute": sum(r.held for r in minute),
        "not_met": sum(r.verdict == "not met" for r in runs),
        "former": sum(former),
        "seeds": len(seeds),
    }


def run(run: Run) -> dict[str, Any]:
    queues, seeds, path = (QUEUES[:1], 10, QUICK_PATH) if run.quick else (QUEUES, 100, PATH)
    found = []
    for queue in queues:
        full = capacity_qps(queue, path)
        work = queue.workload.stream(1.0, queries=4000).size.mean() * queue.item_s + queue.fixed_s
        at = {str(share): accepted(queue, share * full, range(seeds)) for share in SHARES}
        about = {"queue": queue.name, "workers": queue.workers, "target_ms": 1e3 * queue.target_s}
        found.append({**about, "capacity_qps": full, "utilisation": full * work / queue.workers, "at": at})
        print(queue.name, {s: (a["sustained"], a["former"]) for s, a in at.items()}, flush=True)
    return {"queues": found}


def tables(result: Result) -> Tables:
    rows = []
    for q in result["queues"]:
        below, at, above = (q["at"][str(s)] for s in SHARES)
        cells = [f"{a['sustained']}, {a['in_a_minute']}, {a['former']}" for a in (below, at, above)]
        rows.append((q["queue"], f"{q['target_ms']:g} ms", f"{100 * q['utilisation']:.1f} %",
                     f"{below['seconds']:.0f} s, {above['seconds']:.0f} s", *cells))  # fmt: skip
    header = ("queue", "target", "utilisation at capacity", "length of the run: below, above",
              "accepted 5 % below: rule, rule in a minute, short trials", "at capacity", "3 % above")  # fmt: skip
    seeds = result["queues"][0]["at"][str(SHARES[0])]["seeds"]
    where = f"Simulated, {seeds} seeds each. `python -m benchmarks.search.sustained` makes this table."
    return {"sustained": f"{markdown(header, rows)}\n\n{where}"}


BENCHMARK = Benchmark(__file__, __doc__, run, tables)

if __name__ == "__main__":
    BENCHMARK.main()

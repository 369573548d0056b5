"""The offload threshold in virtual time, without noise: eight models, three targets, an emulated GTX 1080 Ti.

Both climbs, then every threshold at the climb's batch size, on one sample path: what differs is the policy and
nothing else. Beside them what goes beyond the threshold, each with the best of all thresholds. Batch times are
those of `profiles/`, the accelerator's by the published speed-ups. All 24 cases take some minutes on two processes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import deeprecsys as dr
from benchmarks.harness import Benchmark, Result, Run, Tables, markdown
from benchmarks.lib.experiments import MODELS, experiment, kept_profile
from benchmarks.lib.searches import Sweep
from deeprecsys.api.predict import offloaded_share, two_pools_bound
from deeprecsys.api.virtual import Accelerators, NodeModel
from deeprecsys.core.target import LEVELS
from deeprecsys.report import format as f
from deeprecsys.search.climbs import HillClimb
from deeprecsys.search.history import batch_sizes
from deeprecsys.search.rank import TOLERANCE, Ranking
from deeprecsys.simulate.published import GTX_1080_TI, device_profile

MACHINE, CORES, PROCESSES, QUERIES = "amd-25-1-avx2", 2, 2, 20_000
DEVICE_QUERIES = 2
"""Queries of the greatest size that a merged batch has room for."""
BEYOND: dict[str, Callable[[int, int, int], dr.Policy]] = {"merged": dr.Offload, "earliest": dr.Earliest}


def run(run: Run) -> Result:
    cases = [(name, level, QUERIES) for name in MODELS for level in LEVELS]
    began, found = time.monotonic(), []
    if run.quick:
        cases = [("wnd", "medium", 2_000)]
    with ProcessPoolExecutor(PROCESSES, get_context("spawn")) as pool:
        for done in pool.map(case, cases):
            found.append(done)
            print(" | ".join(row(done)), flush=True)
    return {"emulated": True, "simulated": True, "device": GTX_1080_TI.title, "cores": CORES,
            "queries": QUERIES, "cases": found, "wall_s": time.monotonic() - began}  # fmt: skip


def case(what: tuple[str, str, int]) -> dict[str, Any]:
    """One model at one target: the climb, the exhaustive optimum, and what goes beyond."""
    name, level, queries = what
    job = experiment(name, workers=CORES, target=level, gpu="emulated:gtx-1080-ti")
    cpu = kept_profile(name)
    gpu = Accelerators(device_profile(cpu, GTX_1080_TI))
    cap, static = job.workload.sizes.cap, job.baseline(CORES).batch_size
    node = NodeModel.of(job, cpu, CORES, gpu)
    limits = node.policies.thresholds
    ranking = Ranking(node.path(queries), job.target, node.saturation_qps())
    climb = HillClimb(batch_sizes(cap, static), limits)
    ranking.finish(climb)
    found = {"model": name, "level": level, "target_ms": 1e3 * job.target.latency_s}
    if climb.best is None:
        return found
    chosen = climb.best.policy
    size = chosen.batch_size
    sweep = swept(ranking, [dr.DeepRecSched(size, n) for n in (*limits, None)])
    assert sweep.best is not None
    ladder = [*limits, None]
    tried = [ladder.index(s.best.policy.offload_above) for s in (climb, sweep) if s.best]
    beyond = {
        k: swept(ranking, [make(size, n, DEVICE_QUERIES * cap) for n in limits]).best
        for k, make in BEYOND.items()
    }
    stream = job.workload.stream(node.saturation_qps(), queries=queries)
    largest = int(stream.size.max())
    alone, mixed = (two_pools_bound(cpu, CORES, gpu, stream, most, mixes).rate_qps
                    for most, mixes in ((largest, False), (DEVICE_QUERIES * cap, True)))  # fmt: skip
    return {
        **found,
        "climb": {**chosen.describe(), "qps": climb.best.qps, "candidates": len(climb.told)},
        "sweep": {**sweep.best.policy.describe(), "qps": sweep.best.qps},
        "alone_qps": next(t.qps for t in sweep.told if t.policy == dr.DeepRecSched(size)),
        "steps": abs(tried[0] - tried[1]),
        "share": climb.best.qps / sweep.best.qps,
        "gpu_share": offloaded_share(chosen, stream),
        "two_pools_qps": alone,
        "two_pools_coalescing_qps": mixed,
        "beyond": {kind: {**b.policy.describe(), "qps": b.qps} if b else None for kind, b in beyond.items()},
    }


def swept(ranking: Ranking, policies: list[dr.Policy] | list[dr.DeepRecSched]) -> Sweep:
    """All of some policies, ranked."""
    sweep = Sweep(policies)
    ranking.finish(sweep)
    return sweep


def row(c: dict[str, Any]) -> tuple[str, ...]:
    """A case's row of the table."""
    name = (c["model"], f"{c['target_ms']:g} ms")
    if "climb" not in c:
        return (*name, "cannot be met", *("",) * 9)
    one, two = c["climb"], c["sweep"]
    more = (
        "–" if b is None else f"{f.signed_share(b['qps'] / one['qps'] - 1)}, {away(b)}"
        for b in c["beyond"].values()
    )
    return (*name, f"{one['batch_size']}, {away(one)}", away(two), str(c["steps"]), f.share(c["share"]),
            f.figure(c["alone_qps"]), f.figure(one["qps"]), f.share(c["gpu_share"]),
            f.share(one["qps"] / c["two_pools_qps"]), *more)  # fmt: skip


def away(point: dict[str, Any]) -> str:
    """Which queries go, or may go, to the accelerator."""
    return "none" if point["offload_above"] is None else f"> {point['offload_above']}"


def tables(result: Result) -> Tables:
    """The table and its summary."""
    header = ("model", "target", "climb: batch, away", "optimum: away", "steps apart", "capacity reached",
              "all on the CPU, QPS", "threshold, QPS", "items away", "of the two-pool bound", "merged, away",
              "earliest finish, away")  # fmt: skip
    cases = result["cases"]
    met = [c for c in cases if "climb" in c]
    near = [c for c in met if c["steps"] <= 1]
    level = [c for c in met if c["steps"] > 1 and c["share"] >= 1 - 2 * TOLERANCE]
    said = (
        f"Of {len(met)} cases in which the target can be met, the climb's threshold is within one step of the exhaustive "
        f"optimum in {len(near)} and otherwise level with it (to {200 * TOLERANCE:g} %) in {len(level)}; the least capacity "
        f"that it reaches is {f.share(min(c['share'] for c in met))} of the optimum's. The {result['device']} is emulated, "
        f"and all of this simulated: {result['cores']} cores, {result['queries']:,} queries, batch times of "
        f"`profiles/{MACHINE}/`. `python -m benchmarks.search.offload_simulated` makes this table."
    )
    return {"offload-virtual": f"{markdown(header, map(row, cases))}\n\n{said}"}


BENCHMARK = Benchmark(__file__, __doc__, run, tables)

if __name__ == "__main__":
    BENCHMARK.main()

"""What the node itself costs: batches/s through one worker, hop latency, lateness of the source, memory.

The engine computes nothing (`null`), so that all that is left is the node. Keep the machine idle.
"""

from __future__ import annotations

import numpy as np

import deeprecsys as dr
from benchmarks.harness import Benchmark, Result, Run, Tables, markdown
from deeprecsys.core.runlog import summarise
from deeprecsys.node.driver import Recording

ROUNDS = 5
TABLES = 0.5  # rows scale of dlrm-rmc1 for the memory figure: 2.56 GB of tables


def run(run: Run) -> Result:
    rounds, seconds, scale = (2, 0.5, 0.01) if run.quick else (ROUNDS, 3.0, TABLES)
    return {"hop": hop(rounds), "lateness": lateness(rounds, seconds), "memory": memory(scale, seconds)}


def tables(result: Result) -> Tables:
    h, late, m = result["hop"], result["lateness"], result["memory"]
    rows = [
        ("batches/s through one worker, dispatcher included", f"{h['batches_per_s']:,.0f}"),
        ("dispatch to completion, p50", f"{h['p50_us']:.1f} µs"),
        ("dispatch to completion, p99", f"{h['p99_us']:.0f} µs"),
        ("lateness of the source at 2,000 queries/s, p99", f"{late['p99_ms']:.2f} ms"),
        ("share of one core that the node process takes then", f"{100 * late['node_cpu_share']:.0f} %"),
        ("sum of PSS", f"{m['pss_bytes'] / 1e6:,.0f} MB, of it tables {m['table_bytes'] / 1e6:,.0f} MB"),
        ("tables on huge pages", f"{100 * m['huge_page_fraction']:.0f} %"),
    ]
    return {"node": markdown(("what", "figure"), rows)}


def hop(rounds: int) -> dict[str, float]:
    """Back-to-back batches of one item through the dispatcher on one worker."""
    rates, times = [], []
    with dr.Node(dr.NodeConfig("ncf", rows_scale=0.1, engine="null", workers=1)) as node:
        stream = dr.Workload.parse("constant", "fixed:1000").stream(100, duration_s=0.3)
        for _ in range(rounds):
            recording = Recording()
            log = node.run(dr.Static(1), stream, recording=recording)
            rates.append(log.batches / log.duration_s)
            times.append(np.array([b[1:] for b in recording.batches]))
    posted, started, ended, heard = np.concatenate(times).T
    us = 1e6 * (heard - posted)
    spans = {"to_worker_us": started - posted, "in_worker_us": ended - started, "back_us": heard - ended}
    return {
        "batches_per_s": float(np.median(rates)), "batches_per_s_rounds": rates,
        "p50_us": float(np.quantile(us, 0.5)), "p99_us": float(np.quantile(us, 0.99)),
        **{name: 1e6 * float(np.median(s)) for name, s in spans.items()},
    }  # fmt: skip


def lateness(rounds: int, seconds: float) -> dict[str, float]:
    """How late the open-loop source is at 2,000 queries/s."""
    found = []
    with dr.Node(dr.NodeConfig("ncf", rows_scale=0.1, engine="null")) as node:
        for seed in range(rounds):
            log = node.run(dr.Static(1000), dr.Workload.parse(seed=seed).stream(2000, duration_s=seconds))
            late = log.issued_s - log.arrival_s
            found.append((summarise(log).lateness_p99_ms, 1e3 * late.max(), log.node_cpu_share))
    p99, most, cpu = np.median(found, axis=0)
    return {"p99_ms": p99, "max_ms": most, "node_cpu_share": cpu, "p99_ms_rounds": [f[0] for f in found]}


def memory(scale: float, seconds: float) -> dict[str, float]:
    """PSS of all processes of a real node after a trial, against tables + 15 % + 250 MB per worker."""
    with dr.Node(dr.NodeConfig("dlrm-rmc1", rows_scale=scale)) as node:
        node.run(dr.Static(100), dr.Workload.parse().stream(100, duration_s=seconds))
        found = node.footprint()
        workers = node.workers
    allowed = 1.15 * found["table_bytes"] + 250e6 * workers
    return {**found, "workers": workers, "allowed_bytes": allowed}


BENCHMARK = Benchmark(__file__, __doc__, run, tables)

if __name__ == "__main__":
    BENCHMARK.main()

"""The analytic model of a CPU held against measurements: this machine described by it, beside its measured profiles.


The model's constants are measured one by one by `platform_limits.py`; none is fitted to a profile. Compared are times of
batches while the other cores are idle: two cores say nothing about how forty share memory.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.harness import Benchmark, Result, Run, Tables, load, markdown
from benchmarks.lib.experiments import kept_profile
from benchmarks.paper import platform_limits
from deeprecsys.paper.platforms import SKYLAKE, CpuSpec, batch_time, work_of
from deeprecsys.paper.published import CLASS, MODELS, SHORT
from deeprecsys.zoo import MODELS as ZOO

Times = dict[str, tuple[float, float]]
"""Batch, as JSON has it → measured and modelled seconds."""
BATCHES = (1, 8, 32, 128, 512, 1000)
SMALL, LARGE = 32, 512
"""The gain from larger batches is what the paper's ratios are made of: time per item at one, over that at the other."""
IN_FLIGHT = 12
"""Lines. Only their ratio to the latency counts, and that is measured."""


def described(limits: dict[str, Any]) -> CpuSpec:
    """This machine in the model's terms. Rates are per cycle of a clock of 1 GHz: only products of the two count."""
    lanes, ports = 8, 2
    line_ns = {where: ns / 2 for where, ns in limits["gather_ns_per_row"].items()}  # rows of two lines
    stream = limits["stream_gb_per_s"]
    memory_ns = IN_FLIGHT * line_ns["memory"]
    return SKYLAKE.but(
        name="this machine", cores=1, sockets=1, ghz=1.0, lanes=lanes, fma_ports=ports,
        efficiency=max(limits["product_gflops_by_batch"].values()) / (2 * lanes * ports),
        l2_bytes=limits["cache_bytes"]["l2"], l3_bytes=limits["cache_bytes"]["l3"], inclusive=False,
        l2_bytes_per_cycle=stream["l2"], l3_bytes_per_cycle=stream["l3"],
        fill_buffers=IN_FLIGHT, l3_ns=IN_FLIGHT * line_ns["l3"], memory_ns=memory_ns,
        stream_buffers=stream["memory"] * memory_ns / 64,
        operator_us=limits["operator_us"], batch_us=0.0,  # profiles count from the worker's start
        memory_gb_per_s=1e6,  # one core does not share
    )  # fmt: skip


def measured(model: str) -> dict[int, float]:
    """Batch → median seconds of a worker that had no rest, the others being idle."""
    profile = kept_profile(model)
    return {p.batch: p.median_s for p in profile.curve(min(profile.busy_levels))}


def compare(spec: CpuSpec) -> dict[str, dict[int, tuple[float, float]]]:
    """Model → batch → (measured, modelled) seconds."""
    found = {}
    for m in MODELS:
        times, work = measured(m), work_of(ZOO[m])
        found[m] = {b: (times[b], batch_time(spec, work, b).total) for b in BATCHES if b in times}
    return found


def gain(times: Times, which: int) -> float:
    """Time per item in small batches over that in large ones."""
    return (times[str(SMALL)][which] / SMALL) / (times[str(LARGE)][which] / LARGE)


def tables(result: Result) -> Tables:
    """The comparison in words, and as tables."""
    found: dict[str, Times] = result["measured_and_modelled_s"]
    rows = [
        (SHORT[m], CLASS[m], *(f"{1e3 * a:.3g} / {1e3 * b:.3g} ({b / a:.2f}×)" for a, b in times.values()),
         f"{gain(times, 0):.2f} / {gain(times, 1):.2f}")
        for m, times in found.items()
    ]  # fmt: skip
    header = ("model", "bound by", *(f"batch {b}" for b in BATCHES), f"gain, {SMALL} to {LARGE}")
    errors = {b: np.array([t[str(b)][1] / t[str(b)][0] for t in found.values()]) for b in BATCHES}
    every = np.concatenate(list(errors.values()))
    summary = [
        (name, f"{np.exp(np.log(x).mean()):.2f}×", f"{np.exp(np.abs(np.log(x)).mean()):.2f}×",
         f"{x.min():.2f}× to {x.max():.2f}×", f"{np.mean(np.abs(np.log2(x)) <= 1):.0%}")
        for name, x in (*((f"batch {b}", x) for b, x in errors.items()), ("all", every))
    ]  # fmt: skip
    head = ("", "bias, geometric mean", "typical factor off", "range", "within a factor of 2")
    return {
        "docs/paper.md#platform-check": "Measured / modelled ms of a batch on one core (modelled over measured):\n\n"
        f"{markdown(header, rows)}\n\nModelled over measured:\n\n{markdown(head, summary)}"
    }


def run(run: Run) -> Result:
    limits = load("paper_platform_limits")
    if run.quick or not limits:
        limits = platform_limits.measure(0.1 if run.quick else 1.5)
        Run("paper_platform_limits", run.options).save(limits)
    return {"limits": limits, "measured_and_modelled_s": compare(described(limits))}


BENCHMARK = Benchmark(__file__, __doc__, run, tables)

if __name__ == "__main__":
    BENCHMARK.main()

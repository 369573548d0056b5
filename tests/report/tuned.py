"""A run directory as `tune --out` writes it, made in virtual time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from deeprecsys.api.progress import event_document
from deeprecsys.core.policy import Policy, Static
from deeprecsys.core.runlog import RunLog, warmup_s
from deeprecsys.core.target import Target
from deeprecsys.report.rundir import RunWriter
from deeprecsys.search.climbs import HillClimb
from deeprecsys.search.confirm import ConfirmSettings
from deeprecsys.search.events import PhaseStarted
from deeprecsys.search.result import Settings
from deeprecsys.search.tuner import TuneSettings, tune
from deeprecsys.workload.stream import Workload
from tests.report.trials import run

MACHINE = {
    "cpu": "Intel(R) Xeon(R) Processor @ 2.90GHz",
    "cores": 2,
    "isa": ["avx2", "fma", "avx512f", "avx512_bf16", "amx_tile"],
    "memory_bytes": 8_200_000_000,
    "transparent_hugepage": "always",
    "kernel": "6.1",
    "python": "3.11.7",
    "versions": {"deeprecsys": "0.1.0", "numpy": "2.4.6", "torch": "2.13.0"},
    "power": "unavailable",
}


class Trials:
    """Runs trials in virtual time; keeps those of the confirmation."""

    def __init__(self, writer: RunWriter, target: Target, scale: float) -> None:
        self.writer, self.target, self.scale = writer, target, scale
        self.workload = Workload.parse("poisson", "production")
        self.phase = ""
        self.tuned: Policy | None = None

    def __call__(self, policy: Policy, rate_qps: float, duration_s: float, seed: int) -> RunLog:
        stream = replace(self.workload, seed=seed).stream(rate_qps, duration_s=duration_s)
        warmup = warmup_s(duration_s, self.target)
        log, batches = run(stream.arrival_s, stream.size, policy, 2, self._service, seed % 997, warmup)
        log = replace(log, rate_qps=rate_qps)
        if self.phase == "confirm":
            role = "static" if isinstance(policy, Static) else "tuned"
            self.writer.trial(role, log, batches, {"role": role, **policy.describe()})
        return log

    def _service(self, items: int, busy: int, u: float) -> float:
        """Seconds: dearer per item beyond 64 items, as caches overflow; now and then a straggler."""
        spill = 1 + 0.15 * np.log2(max(1.0, items / 64))
        straggler = 3.0 if u > 0.999 else 0.0
        return float(
            self.scale * (0.4e-3 + 60e-6 * items * spill) * (1 + 0.08 * busy) * (0.9 + 0.2 * u + straggler)
        )

    def hear(self, event: Any) -> None:
        if isinstance(event, PhaseStarted):
            self.phase = event.phase
        self.writer.event(event_document(event))


def write_tuned(
    path: Path,
    model: str = "dlrm-rmc1",
    target: Target | None = None,
    scale: float = 1.0,
    seconds: float = 6.0,
    sizes: list[int] | None = None,
) -> None:
    """Tune in virtual time, as the command does, and keep it all in a run directory."""
    target = target or Target(latency_s=0.1)
    fine = Settings(resolution=0.02, trial_s=seconds, budget_s=10 * seconds)
    settings = TuneSettings(
        candidate=replace(fine, resolution=0.06),
        climb_budget_s=1e9,
        refine=fine,
        confirm=ConfirmSettings(trial_s=2 * seconds),
    )
    config = {
        "node": {"model": model, "engine": "eager", "precision": "fp32", "rows_scale": 0.5, "seed": 0},
        "workload": {
            "arrivals": "poisson",
            "sizes": {"spec": "production"},
            "locality": "zipf:0.9",
            "seed": 0,
        },
        "target": {"quantile": target.quantile, "latency_ms": 1e3 * target.latency_s},
    }
    with RunWriter(path, config, MACHINE) as writer:
        trials = Trials(writer, target, scale)
        search = HillClimb(sizes or [1, 2, 4, 8, 16, 32, 64, 128, 256, 500, 1000])
        mean_s = float(np.mean([trials._service(139, 2, 0.5)]))
        found = tune(
            trials,
            target,
            static=Static(500),
            search=search,
            hint_qps=2 / mean_s,
            settings=settings,
            progress=trials.hear,
        )
        result = {
            **config,
            "model": model,
            "engine": "eager",
            "precision": "fp32",
            "machine": MACHINE,
            **found.to_json(),
            "offline_qps": 1.12 * found.tuned.qps,
        }
        result["node"] = {
            "engine": "eager", "precision": "fp32", "threads": 1, "workers": 2, "cores": [[0], [1]],
            "dispatcher": "SCHED_FIFO", "rows_scale": 0.5, "table_bytes": 2.56e9, "huge_page_fraction": 0.98,
            "pss_bytes": 2.9e9,
        }  # fmt: skip
        result["tuned"] |= {"engine": "eager", "precision": "fp32"}
        result |= {"bounds": None, "fraction_of_bound": None, "simulator_error": None, "warnings": []}
        writer.result(result)

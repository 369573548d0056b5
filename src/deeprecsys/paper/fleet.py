"""The fleet of figures 7 and 13: two kinds of machines, eight models, a day."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from deeprecsys.core.policy import DeepRecSched
from deeprecsys.paper.fleet_day import DayLog, MachineKind, Pool, day
from deeprecsys.paper.published import MODELS
from deeprecsys.paper.study import Case, Study
from deeprecsys.workload.arrivals import Diurnal
from deeprecsys.workload.sizes import parse

MACHINES = 300
PEAK = 0.9
"""The load at the day's peak, as a share of the static batch size's capacity: a well-used fleet."""
QUERIES = 900
"""The least number of queries in a machine's span, at the mean load."""
LONGEST = 20
"""The least length of a span, in longest batches."""
VARIATION = 0.05
"""Relative standard deviation of the machines' speeds: assumed, and varied."""
POLICIES = ("static", "tuned", "for latency")


class Fleet:
    """Days of the fleet, half of it of each kind, spread evenly over the models."""

    def __init__(self, study: Study) -> None:
        quick = study.quick
        self.study = study
        self.models = ("dlrm-rmc1", "wnd") if quick else MODELS
        self.machines = 24 if quick else MACHINES
        self.windows = 8 if quick else 24
        self.queries = 400 if quick else QUERIES

    def day(
        self,
        model: str,
        policy: str,
        peak: float = PEAK,
        router: str = "weighted",
        variation: float = VARIATION,
    ) -> DayLog:
        """One model's day. It takes some ten bytes a query and is not kept."""
        pool = self._pool(model, policy, peak)
        return day(
            pool, windows=self.windows, router=router, variation=variation,
            diurnal=Diurnal(period_s=86_400.0), seed=MODELS.index(model),
        )  # fmt: skip

    def counts(self, model: str) -> Mapping[str, int]:
        """Machines of each kind that serve a model; what does not divide evenly goes to the first ones."""
        each, more = divmod(self.machines, len(self.models))
        n = each + (self.models.index(model) < more)
        return {"Skylake": n - n // 2, "Broadwell": n // 2}

    def batch(self, model: str, platform: str, policy: str, peak: float = PEAK) -> int:
        case = Case(model, platform=platform)
        if policy == "static":
            return self.study.static_batch(case)
        if policy == "tuned":
            return self.study.tuned(case).batch_size
        return self.study.quickest(case, peak)

    def _pool(self, model: str, policy: str, peak: float) -> Pool:
        study, counts = self.study, self.counts(model)
        capacity = {p: study.static(Case(model, platform=p)).qps for p in counts}
        diurnal = Diurnal(period_s=86_400.0)
        mean = peak * sum(counts[p] * capacity[p] for p in counts) / (1 + diurnal.swing)
        longest = max(study.cpu(model, p).seconds(512, study.specs[p].cores) for p in counts)
        rng = np.random.default_rng(7)
        size = parse("production").of(rng.random(1 << 17), np.zeros(1 << 17))
        kinds = tuple(
            MachineKind(
                p, study.table(model, p), study.specs[p].cores,
                DeepRecSched(self.batch(model, p, policy, peak)), counts[p], capacity[p],
            )
            for p in counts if counts[p]
        )  # fmt: skip
        span = max(self.queries * sum(counts.values()) / mean, LONGEST * longest)
        return Pool(model, kinds, mean, size, span)

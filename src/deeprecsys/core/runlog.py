"""The run log of a trial: what happened to every query. Whatever is reported is derived from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deeprecsys.core.target import Target, percentile

VOID_SHARE = 0.05
VOID_FLOOR_S = 0.5e-3
STALL = 4.0
"""Times the median: a batch that took longer was held up by something other than its work."""
STALL_FLOOR_S = 0.02
DISTURBED_SHARE = 0.002


class Status(IntEnum):
    """What became of a query."""

    OPEN = 0  # neither of the others when the trial ended
    SERVED = 1
    SHED = 2
    FAILED = 3


@dataclass(frozen=True, slots=True)
class RunLog:
    """Every query of a trial, as arrays of one length; times in seconds from the trial's start.

    Attributes:
        rate_qps: the offered rate.
        arrival_s: intended arrivals.
        size: items.
        issued_s: when the source handed the query to the dispatcher (lateness = issued - arrival).
        start_s: when its first slice started on a worker; nan if none did.
        finish_s: when its last slice was scored; nan if it was not.
        status: a `Status` each.
        busy_s: worker-seconds spent on batches, all workers together.
        workers: how many workers there were.
        warmup_s: queries that arrived before this are kept, and left out of every summary.
        extra: what the driver observed besides (its own CPU time, dead workers, ...).
    """

    rate_qps: float
    arrival_s: NDArray[np.float64]
    size: NDArray[np.int32]
    issued_s: NDArray[np.float64]
    start_s: NDArray[np.float64]
    finish_s: NDArray[np.float64]
    status: NDArray[np.uint8]
    busy_s: float
    workers: int
    warmup_s: float
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def measured(self) -> NDArray[np.bool_]:
        """The queries that arrived after the warm-up."""
        return np.asarray(self.arrival_s >= self.warmup_s)

    @property
    def latency_s(self) -> NDArray[np.float64]:
        """Latency of every query, in order of arrival; infinite where it was not served."""
        late = np.where(self.status == Status.SERVED, self.finish_s - self.arrival_s, np.inf)
        return np.asarray(late)

    @property
    def duration_s(self) -> float:
        """From the trial's start to the last thing that happened."""
        last = np.nanmax(self.finish_s, initial=0.0) if len(self.finish_s) else 0.0
        return float(max(last, self.arrival_s[-1] if len(self.arrival_s) else 0.0))


def warmup_s(duration_s: float, target: Target | None) -> float:
    """The warm-up of a trial, by rule: a tenth of it, and at least one target; never more than a third."""
    least = target.latency_s if target else 0.0
    return min(max(0.1 * duration_s, least), duration_s / 3)


@dataclass(frozen=True, slots=True)
class Summary:
    """One trial in numbers. Latencies in milliseconds, over the queries that arrived after the warm-up.

    A percentile is infinite where so many queries went unserved that it falls on one of them.
    """

    rate_qps: float
    offered: int
    completed: int
    shed: int
    failed: int
    mean_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float
    lateness_p99_ms: float
    utilisation: float
    void: bool
    stalled_share: float
    """Worker-seconds for which batches were held up by something other than their work, of all there were."""
    served: float
    """Share of all offered queries that were served, the warm-up's included."""
    misses: int
    """Measured queries later than the target, or not served."""
    measured: int

    @property
    def miss_rate(self) -> float:
        return self.misses / self.measured if self.measured else float("nan")

    @property
    def disturbed(self) -> bool:
        """Whether the machine stood still in a trial: worth a repetition, though it happened."""
        return self.stalled_share > DISTURBED_SHARE


def summarise(log: RunLog, target: Target | None = None) -> Summary:
    """The summary of a run log, against a target if there is one.

    The trial is void when the source's 99th-percentile lateness exceeds 5 % of the target or 0.5 ms,
    whichever is more: then the load was not the load that was asked for.
    """
    keep = log.measured
    latency = log.latency_s[keep]
    issued = ~np.isnan(log.issued_s)
    lateness = percentile((log.issued_s - log.arrival_s)[issued], 0.99)
    allowed = max(VOID_SHARE * target.latency_s, VOID_FLOOR_S) if target else VOID_FLOOR_S
    finite = latency[np.isfinite(latency)]
    count = {s: int(np.count_nonzero(log.status == s)) for s in Status}
    offered = len(log.status)

    def ms(quantile: float) -> float:
        return 1e3 * percentile(latency, quantile)

    return Summary(
        rate_qps=log.rate_qps,
        offered=offered,
        completed=count[Status.SERVED],
        shed=count[Status.SHED],
        failed=count[Status.FAILED],
        mean_ms=1e3 * float(finite.mean()) if len(finite) else float("nan"),
        p50_ms=ms(0.50),
        p95_ms=ms(0.95),
        p99_ms=ms(0.99),
        max_ms=1e3 * float(latency.max()) if len(latency) else float("nan"),
        lateness_p99_ms=1e3 * lateness,
        utilisation=log.busy_s / (log.workers * log.duration_s) if log.duration_s else 0.0,
        void=bool(lateness > allowed),
        stalled_share=log.extra.get("stalled_s", 0.0) / max(log.workers * log.duration_s, 1e-9),
        served=count[Status.SERVED] / offered if offered else float("nan"),
        misses=int(np.count_nonzero(latency > target.latency_s)) if target else 0,
        measured=len(latency),
    )


def stalled_s(items: NDArray[np.int64], seconds: NDArray[np.float64]) -> float:
    """Seconds for which a trial's batches were held up by something other than their work.

    A batch of at most the median's items should take about the median's time, and a larger one at most in
    proportion more; what exceeds `STALL` times that by `STALL_FLOOR_S` was held up, from the proportion on.

    Args:
        items: of each batch; seconds: that each occupied its worker.
    """
    if not len(items):
        return 0.0
    expected = np.median(seconds) * np.maximum(items / np.median(items), 1.0)
    held_up = seconds > STALL * expected + STALL_FLOOR_S
    return float((seconds - expected)[held_up].sum())

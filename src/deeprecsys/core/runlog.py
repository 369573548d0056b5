"""The run log of a trial, one entry for each query, and the summary derived from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deeprecsys.core.target import Target, percentile, percentiles

VOID_SHARE = 0.05
"""Share of the target that the source's 99th-percentile lateness may reach before the trial is void."""
VOID_FLOOR_S = 0.5e-3
"""Seconds of lateness that never make a trial void."""
STALL = 4.0
"""A batch that takes more than this many times the expected time was held up by other work of the machine."""
STALL_FLOOR_S = 0.02
"""Seconds beyond that from which a batch counts as held up."""
LEAST_BINS, MOST_BINS, PER_BIN = 10, 50, 10
"""Stretches of a trial in which its beginning is looked for, and the least queries of each, on average."""
DISTURBED_SHARE = 0.002
"""Share of the worker-seconds lost to held-up batches above which a trial is disturbed."""


ABANDON_TARGETS = 20
"""A trial is given up when a query has been open for this many targets: it cannot pass any more."""


class Status(IntEnum):
    """The state of a query at the end of a trial."""

    OPEN = 0  # not ended
    SERVED = 1
    SHED = 2
    FAILED = 3


@dataclass(frozen=True, slots=True)
class RunLog:
    """Every query of a trial, as arrays of one length; times in seconds from the trial's start.

    What a driver does not observe is None.

    Attributes:
        rate_qps: the offered rate.
        arrival_s: intended arrivals.
        size: items.
        issued_s: when the source handed the query to the dispatcher (lateness = issued - arrival).
        start_s: when its first slice started on a worker; nan if none did.
        finish_s: when its last slice was scored; nan if it was not.
        status: a `Status` each.
        busy_s: worker-seconds spent on batches, all workers together.
        workers: number of workers, of all devices.
        warmup_s: queries that arrived before this are kept, and left out of every summary.
        batches: number of batches.
        occupied_s: worker-seconds from the start of each batch until its end was known.
        seconds_per_item: the same of the CPU's batches, per item.
        stalled_s: worker-seconds for which batches were held up by other work of the machine.
        elapsed_s: length of the trial on the driver's clock, until its last answer or until it was given up.
        node_cpu_share: CPU seconds of the node's own process, over `elapsed_s`.
        abandoned: whether the trial was given up because queries waited too long; its queries are those that
            had arrived by then.
        interrupted: whether the user ended it.
        extra: further observations for reports; no algorithm reads it.
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
    batches: int | None = None
    occupied_s: float | None = None
    seconds_per_item: float | None = None
    stalled_s: float | None = None
    elapsed_s: float | None = None
    node_cpu_share: float | None = None
    abandoned: bool | None = None
    interrupted: bool | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def observed(self) -> dict[str, Any]:
        """The driver's observations besides the queries, as JSON values: `extra` of results and run files."""
        known = {name: getattr(self, name) for name in OBSERVED}
        return {name: value for name, value in known.items() if value is not None} | self.extra

    def observing(self, found: Mapping[str, Any]) -> RunLog:
        """The run log with observations as `observed` returns them."""
        known = {name: found[name] for name in OBSERVED if name in found}
        extra = {name: value for name, value in found.items() if name not in OBSERVED}
        return replace(self, **known, extra=extra)

    @property
    def measured(self) -> NDArray[np.bool_]:
        """The queries that arrived after the warm-up."""
        return np.asarray(self.arrival_s >= self.warmup_s)

    @property
    def latency_s(self) -> NDArray[np.float64]:
        """Latency of every query, in order of arrival; infinite where it was not served."""
        late = self.finish_s - self.arrival_s
        late[self.status != Status.SERVED] = np.inf
        return late

    @property
    def duration_s(self) -> float:
        """Seconds from the trial's start to the last arrival or answer."""
        last = np.nanmax(self.finish_s, initial=0.0) if len(self.finish_s) else 0.0
        return float(max(last, self.arrival_s[-1] if len(self.arrival_s) else 0.0))

    @property
    def load(self) -> float:
        """Worker-seconds of work over those that passed while the queries arrived.

        Above 1 the line grows for as long as such queries arrive.
        """
        span_s = float(self.arrival_s[-1]) if len(self.arrival_s) else 0.0
        return self.busy_s / (self.workers * span_s) if span_s > 0 else 0.0

    def meets(self, target: Target) -> bool:
        """Whether the measured percentile is within the target and every query was served."""
        late = int(np.count_nonzero(self.latency_s[self.measured] > target.latency_s))
        measured = int(np.count_nonzero(self.measured))
        served = bool((self.status == Status.SERVED).all())
        return served and measured > 0 and target.allows(late / measured)

    def carries(self, target: Target) -> bool:
        """Whether the target was met at a load that can go on.

        A path that holds less work than the target allows to wait meets it at any rate: that is no capacity.
        """
        return self.load <= 1.0 and self.meets(target)


OBSERVED = tuple(f.name for f in fields(RunLog) if f.default is None)
"""What a driver observes besides the queries."""


def warmup_s(duration_s: float, target: Target | None) -> float:
    """The warm-up of a trial, by rule: a tenth of it, and at least one target; never more than a third."""
    least = target.latency_s if target else 0.0
    return min(max(0.1 * duration_s, least), duration_s / 3)


@dataclass(frozen=True, slots=True)
class Steady:
    """What a trial answers per second once its beginning is over, while queries keep arriving.

    A node begins empty, so the first queries of any overload are in time; and after the last arrival it works
    off what waits, as it never would under that load. So both rates are counted from the end of the beginning
    (`stretches_to_cut`) to the last arrival. Goodput is of the queries that arrived up to one target before
    the last arrival: whether they were in time was known while the load went on. Where queries are answered
    in order of arrival and none is refused, the goodput of an overload is 0.

    Attributes:
        goodput_qps: queries answered within the target, per second of their arrivals.
        throughput_qps: answers per second, late ones too.
    """

    goodput_qps: float
    throughput_qps: float

    @classmethod
    def of(cls, log: RunLog, target: Target) -> Steady | None:
        """The rates of a trial; None where it is too short to have any."""
        end_s = float(log.arrival_s[-1]) - target.latency_s if len(log.arrival_s) else 0.0
        known = log.arrival_s <= end_s
        if end_s <= 0 or not known.any():
            return None
        in_time = log.arrival_s[known & (log.latency_s <= target.latency_s)]
        bins: int = min(int(np.count_nonzero(known)) // PER_BIN, MOST_BINS)
        bins = bins if bins >= LEAST_BINS else 1
        begin_s = stretches_to_cut(np.histogram(in_time, bins, (0.0, end_s))[0]) * end_s / bins
        answered = np.count_nonzero((log.finish_s > begin_s) & (log.finish_s <= log.arrival_s[-1]))
        return cls(
            float(np.count_nonzero(in_time >= begin_s) / (end_s - begin_s)),
            float(answered / (log.arrival_s[-1] - begin_s)),
        )


def stretches_to_cut(counts: NDArray[np.int64]) -> int:
    """How many of a run's first stretches of equal length belong to its beginning: at most half of all.

    The cut at which the mean of what is left is known best (White's marginal standard error rule, MSER:
    Simulation 69, 1997).
    """
    left = [counts[cut:] for cut in range(len(counts) // 2 + 1)]
    return int(np.argmin([np.var(part) / len(part) for part in left]))


@dataclass(frozen=True, slots=True)
class Summary:
    """Trials at one rate in numbers. Latencies in milliseconds, of the queries that came after the warm-up.

    A percentile is infinite where it falls on a query that was not served.

    Attributes:
        stalled_share: share of the worker-seconds for which batches were held up by other work.
        served: share of all offered queries that were served, the warm-up's included.
        misses: measured queries later than the target, or not served.
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
    served: float
    misses: int
    measured: int

    @property
    def miss_rate(self) -> float:
        return self.misses / self.measured if self.measured else float("nan")

    @property
    def disturbed(self) -> bool:
        """Whether the machine stood still during a trial, which is then worth repeating."""
        return self.stalled_share > DISTURBED_SHARE

    @property
    def all_served(self) -> bool:
        """Whether every offered query was served, and there was one."""
        return 0 < self.completed == self.offered

    def meets(self, target: Target) -> bool:
        """Whether the measured percentile is within the target and every query was served."""
        return self.all_served and target.allows(self.miss_rate)


def summarise(logs: RunLog | Sequence[RunLog], target: Target | None = None) -> Summary:
    """The summary of one trial, or of several at one rate, against a target if there is one.

    A trial is void when the source's 99th-percentile lateness exceeds 5 % of the target or 0.5 ms,
    whichever is more: then the load was not the load that was asked for. Of several the greatest counts.
    """
    logs = [logs] if isinstance(logs, RunLog) else logs
    latency = np.concatenate([log.latency_s[log.measured] for log in logs])
    lateness = max(_lateness_s(log) for log in logs)
    allowed = max(VOID_SHARE * target.latency_s, VOID_FLOOR_S) if target else VOID_FLOOR_S
    finite = latency[np.isfinite(latency)]
    status = np.concatenate([log.status for log in logs])
    count = {s: int(np.count_nonzero(status == s)) for s in Status}
    worker_s = sum(log.workers * log.duration_s for log in logs)
    p50_ms, p95_ms, p99_ms = (1e3 * s for s in percentiles(latency, (0.50, 0.95, 0.99)))
    return Summary(
        rate_qps=logs[0].rate_qps,
        offered=len(status),
        completed=count[Status.SERVED],
        shed=count[Status.SHED],
        failed=count[Status.FAILED],
        mean_ms=1e3 * float(finite.mean()) if len(finite) else float("nan"),
        p50_ms=p50_ms,
        p95_ms=p95_ms,
        p99_ms=p99_ms,
        max_ms=1e3 * float(latency.max()) if len(latency) else float("nan"),
        lateness_p99_ms=1e3 * lateness,
        utilisation=sum(log.busy_s for log in logs) / worker_s if worker_s else 0.0,
        void=bool(lateness > allowed),
        stalled_share=sum(log.stalled_s or 0.0 for log in logs) / max(worker_s, 1e-9),
        served=count[Status.SERVED] / len(status) if len(status) else float("nan"),
        misses=int(np.count_nonzero(latency > target.latency_s)) if target else 0,
        measured=len(latency),
    )


def _lateness_s(log: RunLog) -> float:
    """The 99th percentile of how late queries were issued: 0 in virtual time, where none is."""
    if log.issued_s is log.arrival_s:
        return 0.0
    issued = ~np.isnan(log.issued_s)
    return percentile((log.issued_s - log.arrival_s)[issued], 0.99)


def stalled_s(items: NDArray[np.int64], seconds: NDArray[np.float64]) -> float:
    """Seconds for which a trial's batches were held up by other work of the machine.

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

"""Deadlines: when a query will be answered, who is refused, and how many answers may be late.

The time of an answer is predicted from batch times and from the work before it. Whether a query is let in
although it will be late follows from the target's quantile: p95 ≤ t leaves room for one miss in twenty
(docs/design/0011-live-service.md).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from math import inf

from deeprecsys.core.policy import CPU, GPU, Policy
from deeprecsys.core.profile import LatencyProfile
from deeprecsys.core.query import Batch, Query, Slice

KEEP = 0.98
"""Weight of the past in the pace at each new batch, in [0, 1): about 50 batches count."""
RATIOS, LEAST_RATIOS = 256, 32
"""Latest batches whose times make the spread, and the least number that shows one."""
WINDOW = 5_000
"""Queries whose allowed misses may be saved up for a burst: 250 late answers at p95."""
SHED_LATE_SPARE = 10.0
"""Late answers that may be saved up where late queries are to be refused early, a count."""
LATEST, LATEST_S = 3.0, 0.25
"""A query is not let in if it would be late by more than the allowed time times `LATEST`, or by `LATEST_S`
seconds if that is more: a burst leaves the line at most this long."""
USED = 0.5
"""Share of the misses that the target allows which is earned while more answers are late than predicted."""
STEP = 0.02
"""Share of the allowed time that is kept back for each late answer beyond those planned."""
MOST_MARGIN = 0.5
"""Most of the allowed time that is kept back, as a share in [0, 1]."""
RESERVE = 0.1
"""Share of the allowed time that admission keeps back in addition. Without it about half of the queries that
are let in when the line is full would be dropped at its head."""
WAY_S = 1e-3
"""Seconds that the answer takes to the client, which counts them: it must be ready that long before."""
WAY_SHARE = 0.1
"""The most of the allowed time that `WAY_S` may be, as a share."""
AGAIN = 0.25
"""Share of the allowed time by which usual queries must be early again before the node is called ready."""
CALM = 0.25
"""Share of the allowed time: while the predicted wait is below it, no query is refused. It is then not the
line that makes a query late, and refusing it helps no other."""


class LateBudget:
    """How many more queries may be late within a target's quantile.

    Every answer adds the share of misses that the target allows, and a miss takes 1, whether it was late or
    refused. So below the capacity late queries are answered; in a lasting overload the refused ones
    use all that is earned, and none is let in late: each would delay others that can still be in time.

    Args:
        miss_rate: share of the queries that may miss the target.
        shed_late: save up few late answers, and so refuse early.

    Attributes:
        level: misses to spare; below 0, more answers were late than had been predicted.
        tolerated: open queries that were let in, or let wait, although they will be late.
        late: answers that were late so far.
    """

    __slots__ = ("_allowed", "_most", "late", "level", "tolerated")

    def __init__(self, miss_rate: float, shed_late: bool = False) -> None:
        self._allowed = miss_rate
        self._most = SHED_LATE_SPARE if shed_late else max(WINDOW * miss_rate, 1.0)
        self.level = self._most
        self.tolerated = self.late = 0

    def answered(self, late: bool, foreseen: bool = False) -> None:
        """A query was answered.

        Args:
            foreseen: it was let in, or let wait, as one that will be late.
        """
        self.level = min(self.level + (USED if self.level < 0 else 1.0) * self._allowed, self._most)
        self.late += late
        if late and foreseen:
            self.refused()
        elif late:  # the forecast is to be more careful
            self.level = max(self.level - 1.0, -MOST_MARGIN / STEP)

    def refused(self) -> None:
        """A query was refused: a miss that the forecast is not to blame for."""
        self.level = min(self.level, max(self.level - 1.0, 0.0))

    @property
    def left(self) -> float:
        """How many more queries may be late now, a count."""
        return max(self.level - self.tolerated, 0.0)

    @property
    def margin(self) -> float:
        """Share of the allowed time to keep back, since predictions have been too early."""
        return min(STEP * max(-self.level, 0.0), MOST_MARGIN)


class Forecast:
    """Predicts the times of one model's queries on one device, and learns from the batches that end.

    Args:
        seconds: by number of items, the time of a batch; index 0 is not used. Longer batches are
            continued along the last step.
        batch_size: of the policy; None where it does not cut.
        merges_queries: whether its batches hold several queries.
        budget: of late answers.
        gpu: the forecast of accelerators, which score whole queries; None where there are none.
    """

    def __init__(
        self,
        seconds: Sequence[float],
        batch_size: int | None,
        merges_queries: bool,
        budget: LateBudget,
        gpu: Forecast | None = None,
    ) -> None:
        assert len(seconds) >= 3, "two times make a line"
        self._seconds = seconds
        self.budget = budget
        self.gpu = gpu
        self._took = self._predicted = 0.0
        self._ratios: deque[float] = deque(maxlen=RATIOS)  # of the latest batches
        self.adopt(batch_size, merges_queries)

    def adopt(self, batch_size: int | None, merges_queries: bool, offload_above: int | None = None) -> None:
        """Another policy is in force; what was learnt of the machine is kept."""
        self._batch_size, self._merges_queries = batch_size, merges_queries
        self._offload_above = offload_above

    def device(self, items: int) -> str:
        """Where a query of a number of items is predicted to run while there are accelerators."""
        above = self._offload_above
        return GPU if self.gpu and above is not None and items > above else CPU

    def on(self, device: str) -> Forecast:
        """The forecast of a device."""
        return self.gpu if self.gpu and device == GPU else self

    @property
    def pace(self) -> float:
        """Measured over predicted time of the batches; 1 before the first."""
        return self._took / self._predicted if self._predicted else 1.0

    def batch_s(self, items: int) -> float:
        """The predicted time of a batch, before the pace."""
        seconds = self._seconds
        last = len(seconds) - 1
        if items <= last:
            return seconds[items]
        return seconds[last] + (items - last) * (seconds[last] - seconds[last - 1])

    def work_s(self, items: int) -> float:
        """Worker-seconds that a query takes, before the pace."""
        size = self._batch_size
        if size is None:
            return self.batch_s(items)
        if self._merges_queries:
            return items * self.batch_s(size) / size
        parts = -(-items // size)
        return parts * self.batch_s(-(-items // parts))

    def parts(self, items: int) -> tuple[int, float]:
        """The number of batches that a query is in, and the time of one, with the pace."""
        size = self._batch_size
        parts = 1 if size is None else -(-items // size)
        merged = size is not None and self._merges_queries
        return parts, self.pace * self.batch_s(size if size and merged else -(-items // parts))

    def alone_s(self, items: int, workers: int) -> float:
        """Seconds from start to end of a query on workers that have nothing else to do."""
        parts = 1 if self._batch_size is None else -(-items // self._batch_size)
        rounds = -(-parts // workers)
        return rounds * self.batch_s(-(-items // parts)) * self.pace

    def spread(self, count: int) -> list[float]:
        """Batch times over their mean: `count` equally probable values, rising, of the latest batches."""
        if len(self._ratios) < LEAST_RATIOS:
            return [1.0] * count
        ratios = sorted(self._ratios)
        chosen = [ratios[int((i + 0.5) / count * len(ratios))] for i in range(count)]
        return [count * ratio / sum(chosen) for ratio in chosen]

    def learn(self, predicted_s: float, took_s: float) -> None:
        """A batch ended: the predicted time of its slices, and the measured one."""
        self._predicted = KEEP * self._predicted + predicted_s
        self._took = KEEP * self._took + took_s
        if predicted_s > 0:
            self._ratios.append(took_s / predicted_s)


class Readiness:
    """Whether a query that comes now is answered in time, by admission's own forecast, with hysteresis.

    Attributes:
        now: the answer at the last `update`.
    """

    __slots__ = ("now",)

    def __init__(self) -> None:
        self.now = True

    def update(self, late_s: float, allowed_s: float) -> bool:
        """Whether queries are answered in time.

        Args:
            late_s: by how much a usual query would miss its deadline; below 0: it would not.
            allowed_s: that it has.
        """
        if late_s > 0:
            self.now = False
        elif late_s <= -AGAIN * allowed_s:
            self.now = True
        return self.now


class DeadlineTracker:
    """Forecasts by model version, and the work of the queries that are open.

    Versions without a forecast have no deadlines and count for nothing.
    """

    def __init__(self) -> None:
        self._forecasts: dict[int, Forecast] = {}
        # Work that is not yet done: version -> (device, priority) -> worker-seconds, before the pace.
        self._ahead_s: dict[int, dict[tuple[str, int], float]] = {}
        self._offloads = True  # accelerators are alive
        self._tolerated: set[int] = set()  # ids of queries that will be late, and may

    def adopt(
        self, version: int, policy: Policy, forecast: Forecast | None, unscored: Iterable[Slice]
    ) -> None:
        """A version's policy, or forecast, is another one now; `unscored` is counted anew."""
        if forecast:
            self._forecasts[version] = forecast
        if known := self._forecasts.get(version):
            known.adopt(policy.batch_size, policy.merges_queries, policy.offload_above)
            self._ahead_s[version] = {}
            for part in unscored:
                self.count(part.query, part.items)

    def offload(self, possible: bool, unscored: Iterable[Slice]) -> None:
        """Accelerators are alive again, or none is any more; `unscored` is counted anew."""
        self._offloads = possible
        self._ahead_s = {version: {} for version in self._ahead_s}
        for part in unscored:
            self.count(part.query, part.items)

    def _device(self, forecast: Forecast, query: Query) -> str:
        return forecast.device(query.size) if self._offloads else CPU

    def retire(self, version: int) -> None:
        """A version without open queries is no longer served."""
        self._forecasts.pop(version, None)
        self._ahead_s.pop(version, None)

    def count(self, query: Query, items: int) -> None:
        """Add a query's items to those that are to be scored; a negative number takes them off."""
        if forecast := self._forecasts.get(query.version):
            ahead, device = self._ahead_s[query.version], self._device(forecast, query)
            work_s = forecast.on(device).work_s(query.size) * items / query.size
            ahead[device, query.priority] = max(ahead.get((device, query.priority), 0.0) + work_s, 0.0)

    def learn(self, batch: Batch, took_s: float) -> None:
        """A batch ended."""
        known = self._forecasts.get(batch.slices[0].query.version)
        if known and (batch.device == CPU or known.gpu):
            forecast = known.on(batch.device)
            forecast.learn(_work_s(forecast, batch.slices), took_s)

    def late_by_s(
        self, query: Query, workers: Mapping[str, int], running: Iterable[tuple[Batch, float]], now_s: float
    ) -> float:
        """By how much a query that comes at `now_s` would miss its deadline; below 0: it would not.

        Args:
            workers: number of live workers of each device.
            running: their batches, with the times of their starts.
        """
        forecast = self._forecasts.get(query.version)
        if forecast is None or query.deadline_s == inf:
            return -inf
        device = self._device(forecast, query)
        if not (alive := workers[device]):
            return inf
        allowed_s = query.deadline_s - query.arrival_s
        kept_s = min(forecast.budget.margin + RESERVE, 1.0) * allowed_s
        wait_s = self._work_ahead_s(device, query.priority, running, now_s) / alive
        if not query.firm and wait_s <= CALM * allowed_s:
            return -inf
        alone_s = forecast.on(device).alone_s(query.size, alive)
        return now_s + wait_s + alone_s - (query.deadline_s - kept_s)

    def _work_ahead_s(
        self, device: str, priority: int, running: Iterable[tuple[Batch, float]], now_s: float
    ) -> float:
        """Worker-seconds of a device's open work that goes before a query of a priority."""
        total = 0.0
        for version, ahead in self._ahead_s.items():
            pace = self._forecasts[version].on(device).pace
            total += pace * sum(s for (d, p), s in ahead.items() if d == device and p <= priority)
        for batch, started_s in running:  # part of it is done
            if batch.device == device and (known := self._forecasts.get(batch.slices[0].query.version)):
                forecast = known.on(device)
                total -= min(now_s - started_s, forecast.pace * _work_s(forecast, batch.slices))
        return max(total, 0.0)

    def cannot_meet_by_s(self, query: Query, items: int, workers: Mapping[str, int], now_s: float) -> float:
        """By how much a query misses its deadline if its `items` start now; below 0 where it may be late."""
        forecast = self._forecasts.get(query.version)
        if forecast is None or query.deadline_s == inf or query.id in self._tolerated:
            return -inf
        allowed_s = query.deadline_s - query.arrival_s
        if not query.firm and now_s - query.arrival_s <= CALM * allowed_s:
            return -inf
        kept_s = forecast.budget.margin * allowed_s
        device = self._device(forecast, query)
        alone_s = forecast.on(device).alone_s(items, max(workers[device], 1))
        return now_s + alone_s - (query.deadline_s - kept_s)

    def may_be_late(self, query: Query, late_s: float) -> bool:
        """Whether the target's quantile leaves room for the query to be late, by `late_s`."""
        forecast = self._forecasts.get(query.version)
        if query.firm or forecast is None:
            return not query.firm
        latest_s = max(LATEST * (query.deadline_s - query.arrival_s), LATEST_S)
        return late_s <= latest_s and forecast.budget.left >= 1.0

    def tolerate_late(self, query: Query) -> None:
        """Let a query be late."""
        self._tolerated.add(query.id)
        self._forecasts[query.version].budget.tolerated += 1

    def answered(self, query: Query, now_s: float) -> None:
        """All items of a query are scored."""
        if query.deadline_s < inf and not query.firm and (forecast := self._forecasts.get(query.version)):
            way_s = min(WAY_S, WAY_SHARE * (query.deadline_s - query.arrival_s))
            late = now_s > query.deadline_s - way_s
            forecast.budget.answered(late, foreseen=query.id in self._tolerated)

    def refused(self, query: Query) -> None:
        """A query was refused, or dropped."""
        if query.deadline_s < inf and not query.firm and (forecast := self._forecasts.get(query.version)):
            forecast.budget.refused()

    def ended(self, query: Query) -> None:
        """A query has ended, in whichever way."""
        if query.id in self._tolerated:
            self._tolerated.remove(query.id)
            self._forecasts[query.version].budget.tolerated -= 1

    def check(self, open_queries: Collection[int], unscored: Iterable[Slice]) -> None:
        """Raise AssertionError if what is counted is not what waits and runs; for tests."""
        assert self._tolerated <= set(open_queries)
        budgets = {id(f.budget): f.budget for f in self._forecasts.values()}
        assert sum(b.tolerated for b in budgets.values()) == len(self._tolerated)
        known = {v: sum(ahead.values()) for v, ahead in self._ahead_s.items()}
        for part in unscored:
            if forecast := self._forecasts.get(version := part.query.version):
                known[version] -= _work_s(forecast.on(self._device(forecast, part.query)), (part,))
        assert all(abs(s) < 1e-6 for s in known.values()), "work is counted twice, or not at all"


def _work_s(forecast: Forecast, slices: Iterable[Slice]) -> float:
    """The work of slices, before the pace."""
    return sum(forecast.work_s(s.query.size) * s.items / s.query.size for s in slices)


def batch_seconds(profile: LatencyProfile, workers: int, largest: int) -> list[float]:
    """Mean s(b) of a profile for 0 … `largest` items, at least two, while all `workers` are busy."""
    times = [profile.seconds(b, workers) for b in range(1, max(largest, 2) + 1)]
    return [times[0], *times]

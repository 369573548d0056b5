"""What a dispatcher knows of the future: work ahead, who will be late, and who may be."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from math import inf

from deeprecsys.core.forecast import CALM, RESERVE, WAY_S, WAY_SHARE, Forecast
from deeprecsys.core.policy import Policy
from deeprecsys.core.query import Batch, Query, Slice


class Outlook:
    """Forecasts by model version, and the work of the queries that are open.

    Versions without a forecast have no deadlines and count for nothing.
    """

    def __init__(self) -> None:
        self._forecasts: dict[int, Forecast] = {}
        self._ahead_s: dict[int, dict[int, float]] = {}  # version -> priority -> work not yet done
        self._promised: set[int] = set()  # queries that will be late, and may

    def adopt(
        self, version: int, policy: Policy, forecast: Forecast | None, unscored: Iterable[Slice]
    ) -> None:
        """A version's policy, or forecast, is another one now; `unscored` is counted anew."""
        if forecast:
            self._forecasts[version] = forecast
        if known := self._forecasts.get(version):
            known.adopt(policy.batch_size, policy.merges_queries)
            self._ahead_s[version] = {}
            for part in unscored:
                self.count(part.query, part.items)

    def retire(self, version: int) -> None:
        """A version without open queries is no longer served."""
        self._forecasts.pop(version, None)
        self._ahead_s.pop(version, None)

    def count(self, query: Query, items: int) -> None:
        """So many more of a query's items are to be scored; below 0: fewer."""
        if forecast := self._forecasts.get(query.version):
            ahead = self._ahead_s[query.version]
            left = ahead.get(query.priority, 0.0) + forecast.work_s(query.size) * items / query.size
            ahead[query.priority] = max(left, 0.0)

    def learn(self, batch: Batch, took_s: float) -> None:
        """A batch took so long."""
        if forecast := self._forecasts.get(batch.slices[0].query.version):
            forecast.learn(_work_s(forecast, batch.slices), took_s)

    def late_by_s(
        self, query: Query, workers: int, running: Iterable[tuple[Batch, float]], now_s: float
    ) -> float:
        """By how much a query that comes at `now_s` would miss its deadline; below 0: it would not.

        Args:
            workers: that are alive.
            running: batches on them, with the times of their starts.
        """
        forecast = self._forecasts.get(query.version)
        if forecast is None or query.deadline_s == inf:
            return -inf
        if not workers:
            return inf
        allowed_s = query.deadline_s - query.arrival_s
        kept_s = min(forecast.budget.margin + RESERVE, 1.0) * allowed_s
        wait_s = self._work_ahead_s(query.priority, running, now_s) / workers
        if not query.firm and wait_s <= CALM * allowed_s:
            return -inf
        return now_s + wait_s + forecast.alone_s(query.size, workers) - (query.deadline_s - kept_s)

    def _work_ahead_s(self, priority: int, running: Iterable[tuple[Batch, float]], now_s: float) -> float:
        """Worker-seconds of work, not done yet, that goes before a query of a priority."""
        total = 0.0
        for version, by_priority in self._ahead_s.items():
            pace = self._forecasts[version].pace
            total += pace * sum(s for p, s in by_priority.items() if p <= priority)
        for batch, started_s in running:  # part of it is done
            if known := self._forecasts.get(batch.slices[0].query.version):
                total -= min(now_s - started_s, known.pace * _work_s(known, batch.slices))
        return max(total, 0.0)

    def hopeless_by_s(self, query: Query, items: int, workers: int, now_s: float) -> float:
        """By how much a query misses its deadline if its `items` are begun now; below 0 also if it may."""
        forecast = self._forecasts.get(query.version)
        if forecast is None or query.deadline_s == inf or query.id in self._promised:
            return -inf
        allowed_s = query.deadline_s - query.arrival_s
        if not query.firm and now_s - query.arrival_s <= CALM * allowed_s:
            return -inf
        kept_s = forecast.budget.margin * allowed_s
        return now_s + forecast.alone_s(items, workers) - (query.deadline_s - kept_s)

    def may_be_late(self, query: Query) -> bool:
        """Whether the target's quantile leaves room for the query to be late."""
        forecast = self._forecasts.get(query.version)
        return not query.firm and (forecast is None or forecast.budget.spare)

    def promise(self, query: Query) -> None:
        """Let a query be late."""
        self._promised.add(query.id)
        self._forecasts[query.version].budget.promised += 1

    def answered(self, query: Query, now_s: float) -> None:
        """All of a query is scored."""
        if query.deadline_s < inf and not query.firm and (forecast := self._forecasts.get(query.version)):
            way_s = min(WAY_S, WAY_SHARE * (query.deadline_s - query.arrival_s))
            forecast.budget.answered(late=now_s > query.deadline_s - way_s)

    def ended(self, query: Query) -> None:
        """A query is open no more, however it ended."""
        if query.id in self._promised:
            self._promised.remove(query.id)
            self._forecasts[query.version].budget.promised -= 1

    def check(self, open_queries: Collection[int], unscored: Iterable[Slice]) -> None:
        """Raise AssertionError if what is counted is not what waits and runs; for tests."""
        assert self._promised <= set(open_queries)
        budgets = {id(f.budget): f.budget for f in self._forecasts.values()}
        assert sum(b.promised for b in budgets.values()) == len(self._promised)
        known = {v: sum(by_priority.values()) for v, by_priority in self._ahead_s.items()}
        for part in unscored:
            if part.query.version in known:
                known[part.query.version] -= _work_s(self._forecasts[part.query.version], (part,))
        assert all(abs(s) < 1e-6 for s in known.values()), "work is counted twice, or not at all"


def _work_s(forecast: Forecast, slices: Iterable[Slice]) -> float:
    """The work of slices, before the pace."""
    return sum(forecast.work_s(s.query.size) * s.items / s.query.size for s in slices)

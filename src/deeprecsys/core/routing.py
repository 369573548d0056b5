"""Routing: which of several machines gets a query, by a router's own account of what it has sent.

One decision for every router: simulated fleets compile it, a live router calls it as it is.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import NamedTuple

from deeprecsys.core.deadlines import Forecast

FEW = 3
"""Machines that are sampled for a query, by capacity; more only while none of them can answer in time."""
MOST = 8
TICK_S = 2.0**-30
"""Work is counted in whole multiples of this, a nanosecond, so that sums do not depend on their order."""
LEAST_SHARE = 0.05
"""The least share of a machine that a router takes for its own."""


def choose(
    sampled: Sequence[int], few: int, kind: Sequence[int], ahead_s: Sequence[float], speed: Sequence[float],
    alone_s: Sequence[float], within_s: float,
) -> int:  # fmt: skip
    """The machine, of those sampled, that is predicted to answer a query first.

    Only the first `few` are looked at, and the others while the best of those before would be late.

    Args:
        sampled: machines; few: at least 1.
        kind: [machines] indices of their kinds.
        ahead_s: [machines] work that was sent to each and is not completed, worker-seconds.
        speed: [machines] of it done per second: its workers, times the share of them that is this router's.
        alone_s: [kinds] what the query takes where nothing is ahead of it.
        within_s: the time that it has.
    """
    best = sampled[0]
    least_s = ahead_s[best] / speed[best] + alone_s[kind[best]]
    for i in range(1, len(sampled)):
        if i >= few and least_s <= within_s:
            break
        m = sampled[i]
        done_s = ahead_s[m] / speed[m] + alone_s[kind[m]]
        if done_s < least_s:
            best, least_s = m, done_s
    return best


class Kind(NamedTuple):
    """Machines that are alike, for one model.

    Attributes:
        forecast: batch times under the model's policy; workers: of each machine.
        capacity_qps: of each, at the target: machines are sampled in proportion.
    """

    forecast: Forecast
    workers: int
    capacity_qps: float

    def work_s(self, items: int) -> float:
        """Worker-seconds of a query, in whole ticks."""
        return round(self.forecast.work_s(items) / TICK_S) * TICK_S

    def alone_s(self, items: int) -> float:
        """Seconds that a query takes where nothing is ahead of it."""
        return self.forecast.alone_s(items, self.workers)


class Router:
    """A router's account of its machines. Not thread-safe; random numbers are the caller's.

    Args:
        kinds: of machines; kind: [machines] the index of each one's.
        uniform: random numbers in [0, 1).
    """

    def __init__(self, kinds: Sequence[Kind], kind: Sequence[int], uniform: Callable[[], float]) -> None:
        self._kinds, self._kind, self._uniform = kinds, list(kind), uniform
        self._edges = list(accumulate(kinds[k].capacity_qps for k in kind))
        self._ahead_s = [0.0] * len(kind)
        self._speed = [float(kinds[k].workers) for k in kind]
        self._costs: dict[
            int, tuple[list[float], list[float]]
        ] = {}  # by size: work and time alone, of each kind

    def route(self, items: int, within_s: float) -> int:
        """The machine for a query of a size that has so much time; it counts as sent."""
        work_s, alone_s = self._cost(items)
        edges, uniform = self._edges, self._uniform
        sampled = [bisect(edges, uniform() * edges[-1]) for _ in range(MOST)]
        m = choose(sampled, FEW, self._kind, self._ahead_s, self._speed, alone_s, within_s)
        self._ahead_s[m] += work_s[self._kind[m]]
        return m

    def completed(self, machine: int, items: int) -> None:
        """A query that was sent to a machine is answered, or will not be."""
        work_s, _ = self._cost(items)
        self._ahead_s[machine] -= work_s[self._kind[machine]]

    def reported(self, machine: int, headroom: float, own_share: float) -> None:
        """A machine has published its headroom: what others use of it is not there for this router.

        Args:
            headroom: `core.headroom`; own_share: of its capacity that this router sends it.
        """
        others = max(1.0 - headroom - own_share, 0.0)
        share = max(1.0 - others, LEAST_SHARE)
        self._speed[machine] = self._kinds[self._kind[machine]].workers * share

    def _cost(self, items: int) -> tuple[list[float], list[float]]:
        found = self._costs.get(items)
        if found is None:
            work, alone = [k.work_s(items) for k in self._kinds], [k.alone_s(items) for k in self._kinds]
            found = self._costs[items] = work, alone
        return found

"""The compiled loop of `simulate.fleet`. Imports numba."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deeprecsys.core import routing
from deeprecsys.jit import compiled, inner

Reals = NDArray[np.float64]
Indices = NDArray[np.int64]

choose: Any = inner(routing.choose)


class Machines(NamedTuple):
    """[machines] kind, workers, cumulative weight, weight."""

    kind: Indices
    workers: Reals
    edges: Reals
    weight: Reals


class Costs(NamedTuple):
    """[sizes, kinds] worker-seconds, seconds alone, slices, seconds of a slice."""

    work_s: Reals
    alone_s: Reals
    parts: Reals
    part_s: Reals


class SentWork(NamedTuple):
    """The router's: [machines, room] ends and work of open queries; [machines] number and work of all."""

    end_s: Reals
    work_s: Reals
    open: Indices
    ahead_s: Reals


@inner
def forget(a: SentWork, m: int, now_s: float) -> None:
    """Take off what a machine has completed."""
    i = 0
    while i < a.open[m]:
        if a.end_s[m, i] <= now_s:
            a.open[m] -= 1
            a.ahead_s[m] -= a.work_s[m, i]
            a.end_s[m, i], a.work_s[m, i] = a.end_s[m, a.open[m]], a.work_s[m, a.open[m]]
        else:
            i += 1


@inner
def routed(
    machines: Machines,
    a: SentWork,
    alone_s: Reals,
    draw: Reals,
    i: int,
    now_s: float,
    router: int,
    few: int,
    within_s: float,
) -> int:
    edges, count = machines.edges, len(machines.kind)
    by_weight = np.minimum(np.searchsorted(edges, draw * edges[-1], side="right"), count - 1)
    if router == 1:
        return int(by_weight[0])
    if router == 2:
        return i % count
    if router == 3:
        one, other = int(draw[0] * count), int(draw[1] * count)
        forget(a, one, now_s)
        forget(a, other, now_s)
        return other if a.open[other] < a.open[one] else one
    if router == 4:
        first, best, least = int(draw[0] * count), -1, np.inf
        for step in range(count):
            m = (first + step) % count
            forget(a, m, now_s)
            if (a.open[m] + 1) / machines.weight[m] < least:
                best, least = m, (a.open[m] + 1) / machines.weight[m]
        return best
    for m in by_weight:
        forget(a, m, now_s)
    chosen: int = choose(by_weight, few, machines.kind, a.ahead_s, machines.workers, alone_s, within_s)
    return chosen


@compiled
def run(
    arrival_s: Reals, size: Indices, machines: Machines, costs: Costs, draws: Reals, router: int, few: int,
    within_s: float,
) -> tuple[Reals, Indices]:  # fmt: skip
    """End of each query, and its machine.

    Args:
        size: [queries] row of `costs`; draws: [queries, k] uniform.
    """
    count, most = len(machines.kind), int(machines.workers.max())
    room = 64
    account = SentWork(
        np.zeros((count, room)), np.zeros((count, room)), np.zeros(count, np.int64), np.zeros(count)
    )
    free_s = np.zeros((count, most))
    end_s, where = np.empty(len(arrival_s)), np.empty(len(arrival_s), np.int64)
    for i in range(len(arrival_s)):
        now_s, row = arrival_s[i], size[i]
        m = routed(machines, account, costs.alone_s[row], draws[i], i, now_s, router, few, within_s)
        kind, workers = machines.kind[m], int(machines.workers[m])
        last_s = now_s
        for _ in range(int(costs.parts[row, kind])):
            w = np.argmin(free_s[m, :workers])
            free_s[m, w] = max(free_s[m, w], now_s) + costs.part_s[row, kind]
            last_s = max(last_s, free_s[m, w])
        end_s[i], where[i] = last_s, m
        if account.open[m] == room:
            forget(account, m, now_s)
        if account.open[m] == room:
            wider = np.zeros((count, 2 * room))
            wider[:, :room] = account.end_s
            heavier = np.zeros((count, 2 * room))
            heavier[:, :room] = account.work_s
            account = SentWork(wider, heavier, account.open, account.ahead_s)
            room *= 2
        account.end_s[m, account.open[m]] = last_s
        account.work_s[m, account.open[m]] = costs.work_s[row, kind]
        account.open[m] += 1
        account.ahead_s[m] += costs.work_s[row, kind]
    return end_s, where

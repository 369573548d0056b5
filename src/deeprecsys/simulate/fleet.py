"""Machines of several kinds behind one router, query by query, in virtual time.

Every machine answers in order of arrival, its queries cut in equal slices; so a query's end is known when it
comes, and one pass over the arrivals runs all machines together. Batch times are means.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deeprecsys.core.errors import unknown
from deeprecsys.core.routing import FEW, MOST, Kind

ROUTERS: Mapping[str, int] = {
    "completion": 0, "weighted": 1, "round robin": 2, "power of two": 3, "least request": 4,
}  # fmt: skip
"""`completion` is `core.routing`. `weighted` draws by weight. `power of two` takes the one of two drawn that
has fewer open queries, `least request` the one of all with the fewest for its weight."""

Reals = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class FleetLog:
    """What became of each query: [queries] latency, and the machine that answered."""

    latency_s: Reals
    machine: NDArray[np.int64]


def run_fleet(
    kinds: Sequence[Kind],
    machines: Sequence[int],
    arrival_s: Reals,
    size: NDArray[np.int32],
    router: str = "completion",
    *,
    within_s: float = float("inf"),
    weights: Sequence[float] | None = None,
    seed: int = 0,
) -> FleetLog:
    """Queries on a number of machines of each kind.

    Args:
        machines: of each kind; arrival_s, size: [queries], arrivals rising.
        router: of `ROUTERS`; within_s: the time that a query has.
        weights: of a machine of each kind; by default its capacity.

    Raises:
        InputError: an unknown router.
    """
    from deeprecsys.simulate import fleet_loop  # loads numba

    if router not in ROUTERS:
        raise unknown("router", router, ROUTERS)
    kind = np.repeat(np.arange(len(kinds)), machines)
    given = np.array(weights if weights is not None else [k.capacity_qps for k in kinds], np.float64)
    edges = np.cumsum(given[kind])
    sizes, which = np.unique(size, return_inverse=True)
    tables = [_table(k, sizes) for k in kinds]
    work_s, alone_s, parts, part_s = (np.ascontiguousarray([t[i] for t in tables]).T.copy() for i in range(4))
    draws = np.random.default_rng(seed).random((len(size), MOST))
    loop = fleet_loop.Machines(kind, np.array([float(k.workers) for k in kinds])[kind], edges, given[kind])
    finish_s, machine = fleet_loop.run(
        np.ascontiguousarray(arrival_s, np.float64), which.astype(np.int64), loop,
        fleet_loop.Costs(work_s, alone_s, parts, part_s), draws, ROUTERS[router], FEW, within_s,
    )  # fmt: skip
    return FleetLog(finish_s - arrival_s, machine)


def _table(kind: Kind, sizes: NDArray[np.int32]) -> tuple[Reals, Reals, Reals, Reals]:
    """By size: work, time alone, number of slices, time of one."""
    rows = [(kind.work_s(n), kind.alone_s(n), *kind.forecast.parts(n)) for n in sizes.tolist()]
    work, alone, parts, part = np.array(rows, np.float64).T
    return work, alone, parts, part

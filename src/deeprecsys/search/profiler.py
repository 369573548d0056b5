"""The profiler: batch times s(b) at every level of contention; and a trial's batches over these."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from heapq import heappop, heappush
from itertools import product
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from deeprecsys.core.errors import InputError, positive
from deeprecsys.core.profile import LatencyProfile, Point, quantiles_of
from deeprecsys.core.runlog import STALL

BATCHES = tuple(1 << k for k in range(11))
LEAST_SAMPLES = 5


class Measure(Protocol):
    """Times batches on a node; the node supplies it."""

    def __call__(self, batch: int, busy: int, repeats: int, rest_s: float, /) -> NDArray[np.float64]:
        """Have `busy` workers score batches of `batch` items, all at once, until `repeats` are timed.

        Returns the seconds of each batch, of all these workers, in any order. With `rest_s` above 0, one of
        them rests before each of its batches, for that long on average, and only its batches count.
        """
        ...


class ProfileStep(NamedTuple):
    """How far the profiler is: seconds of its budget, and what it has just measured."""

    spent_s: float
    budget_s: float
    batch: int
    busy: int


@dataclass(frozen=True, slots=True)
class ProfilePlan:
    """What to measure, and how long it may take.

    Attributes:
        batches: rising batch sizes.
        busy: levels of contention: how many workers score at once.
        budget_s: seconds of scoring, shared equally by all cells; each is measured a few times at least.
        rounds: passes over all cells, so that a drift of the machine hits all of them alike.
        quantiles: equally spaced, kept of each cell.
        most: samples of one cell and worker in one round, at most.
        after_idle: whether to measure every cell also on a worker that was idle before: about as long as
            a batch of `rest_batch` items takes.
    """

    batches: tuple[int, ...] = BATCHES
    busy: tuple[int, ...] = (1,)
    budget_s: float = 20.0
    rounds: int = 4
    quantiles: int = 21
    most: int = 500
    after_idle: bool = False
    rest_batch: int = 128

    def __post_init__(self) -> None:
        positive("profile budget", self.budget_s)
        for name, values in (("batch sizes", self.batches), ("busy levels", self.busy)):
            if not values or list(values) != sorted(set(values)) or values[0] < 1:
                raise InputError(f"{name}: expected rising whole numbers from 1, got {list(values)}")
        if self.rounds < 1 or self.quantiles < 2:
            raise InputError(
                f"profile: expected at least 1 round and 2 quantiles, got {self.rounds}, {self.quantiles}"
            )


@dataclass
class _Cell:
    batch: int
    busy: int
    after_idle: bool = False
    samples: list[NDArray[np.float64]] = field(default_factory=list)
    typical_s: float = 0.0


def profile(
    measure: Measure,
    model: str,
    plan: ProfilePlan | None = None,
    *,
    engine: str = "unknown",
    precision: str = "fp32",
    threads: int = 1,
    machine: Mapping[str, Any] | None = None,
    progress: Callable[[ProfileStep], None] | None = None,
) -> LatencyProfile:
    """Measure s(b).

    Each cell (batch size, busy workers) runs once unrecorded, to warm up and to learn how long it takes;
    then every round gives each cell an equal share of the budget, forwards and backwards in turn.

    Raises:
        InputError: the callable returned no times, or such as cannot be.
    """
    plan = plan or ProfilePlan()
    kinds = (False, True) if plan.after_idle else (False,)
    cells = [_Cell(batch, busy, rest) for rest, busy, batch in product(kinds, plan.busy, plan.batches)]
    spent_s = rest_s = 0.0

    def run(cell: _Cell, repeats: int) -> NDArray[np.float64]:
        nonlocal spent_s
        pause_s = rest_s if cell.after_idle else 0.0
        times = np.asarray(measure(cell.batch, cell.busy, repeats, pause_s), dtype=np.float64).ravel()
        if not len(times) or not np.isfinite(times).all() or times.min() <= 0:
            raise InputError(
                f"batch times (batch {cell.batch}, busy {cell.busy}): expected seconds above 0, got {times}"
            )
        spent_s += float(times.sum()) / (1 if cell.after_idle else cell.busy) + pause_s * len(times)
        if progress:
            progress(ProfileStep(spent_s, plan.budget_s, cell.batch, cell.busy))
        return times

    for cell in cells:
        if cell.after_idle and not rest_s:
            near = min(cells, key=lambda c: (c.after_idle, abs(c.batch - plan.rest_batch), c.busy))
            rest_s = near.typical_s
        cell.typical_s = float(np.median(run(cell, 2))) + (rest_s if cell.after_idle else 0.0)
    for number in range(plan.rounds):
        share_s = max(plan.budget_s - spent_s, 0.0) / ((plan.rounds - number) * len(cells))
        least = -(-LEAST_SAMPLES // plan.rounds)
        for cell in cells if number % 2 == 0 else cells[::-1]:
            repeats = min(max(int(share_s / cell.typical_s), least), plan.most)
            cell.samples.append(run(cell, repeats))
    return LatencyProfile(
        model=model,
        points=tuple(_point(cell, plan.quantiles) for cell in cells),
        engine=engine,
        precision=precision,
        threads=threads,
        machine=machine or {},
        detail={
            "samples": sum(len(s) for cell in cells for s in cell.samples),
            "seconds": spent_s,
            "rounds": plan.rounds,
        },
    )


def _point(cell: _Cell, quantiles: int) -> Point:
    """The cell's quantiles.

    A stall of the machine, met by one of a few samples, is no such share of what happens: beyond `STALL`
    medians a time counts as that.
    """
    samples = np.concatenate(cell.samples)
    samples = np.minimum(samples, STALL * np.median(samples))
    return Point(cell.busy, cell.batch, quantiles_of(samples, quantiles), cell.after_idle)


class Ran(NamedTuple):
    """A batch of a trial: when it was handed to its worker, and when its end was known."""

    start_s: float
    end_s: float
    worker: int
    items: int


def ratios(batches: Iterable[Ran], profile: LatencyProfile) -> NDArray[np.float64]:
    """[batches] in order of start: the time of each over the mean of like ones.

    Alike are batches of the same size, with as many busy workers at the start, on a worker that was idle
    before or was not: what the simulator goes by.

    Args:
        batches: in order of their numbers; of those that start at one instant, each finds the last one busy.
        profile: batch times.
    """
    rested = profile.rested

    @cache
    def mean_s(items: int, busy: int, idle_before: bool) -> float:
        return (rested if idle_before else profile).seconds(items, busy)

    running: list[float] = []
    ended: dict[int, float] = {}
    found = []
    for b in batches:
        while running and running[0] <= b.start_s:
            heappop(running)
        heappush(running, b.end_s)
        like_s = mean_s(b.items, len(running), ended.get(b.worker) != b.start_s)
        ended[b.worker] = b.end_s
        found.append((b.end_s - b.start_s) / like_s)
    return np.array(found)

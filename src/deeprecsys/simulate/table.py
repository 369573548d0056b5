"""Batch times as arrays: a latency profile laid out by busy level, batch size and quantile."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from deeprecsys.core.profile import LatencyProfile, Point


class Tabulated:
    """A profile as service times (`driver.ServiceTimes`), and as a cached table of them for compiled loops.

    The times are those of `LatencyProfile.seconds`.
    """

    def __init__(self, profile: LatencyProfile) -> None:
        self._profile = profile
        self._levels = profile.busy_levels
        self._curves = [profile.curve(level) for level in self._levels]
        self._points = [len(curve[0].seconds) for curve in self._curves]
        self._nearest: dict[int, int] = {}  # number of busy workers -> index of the level that holds for it
        self._rows: dict[tuple[int, int], list[float] | None] = {}  # by index of the level, and batch size
        self._quantiles: NDArray[np.float64] | None = None
        self.host_s, self.ranks = profile.host_s, np.array(profile.ranks)
        self.stage_s, self.staged_s = profile.stage_s, profile.staged_s
        self._by, self._of = 1.0, self  # the factor of all times, and the owner of the table
        self.rested = self if profile.rested is profile else Tabulated(profile.rested)

    def __call__(self, batch_items: int, busy_workers: int, u: float, /) -> float:
        index = self._nearest.get(busy_workers)
        if index is None:
            index = self._level(busy_workers)
        key = (index, batch_items)
        if key not in self._rows:
            (found,) = quantiles_at(self._curves[index], [batch_items])
            self._rows[key] = None if np.isnan(found).any() else found.tolist()
        row = self._rows[key]
        if row is None:
            return self._by * self._profile.seconds(batch_items, busy_workers, u)
        place = u * (len(row) - 1)
        i = int(place)
        return self._by * (row[i] if i + 1 >= len(row) else row[i] + (place - i) * (row[i + 1] - row[i]))

    def _level(self, busy: int) -> int:
        """The index of the busy level that holds for a number of busy workers."""
        levels = self._levels
        nearest = min(range(len(levels)), key=lambda i: (abs(levels[i] - busy), levels[i]))
        return self._nearest.setdefault(busy, nearest)

    def slowed(self, by: float) -> Tabulated:
        """These times multiplied by `by`, over the shared table."""
        other = copy(self)
        other._by, other.host_s = self._by * by, 0.0
        other.stage_s, other.staged_s = self.stage_s * by, self.staged_s * by
        other.rested = other if self.rested is self else self.rested.slowed(by)
        return other

    @property
    def quantiles_per_level(self) -> Sequence[int]:
        """How many quantiles a time has, for each busy level; 1 is a constant."""
        return self._points

    def level_of(self, workers: int) -> NDArray[np.int32]:
        """[workers + 1] the index of the busy level that holds for 0, 1, … busy workers."""
        return np.array([self._level(busy) for busy in range(workers + 1)], dtype=np.int32)

    def quantiles(self, largest: int) -> NDArray[np.float64]:
        """[levels, at least largest + 1, quantiles] seconds; row 0 stands for no batch.

        Where the time at a batch size does not follow linearly from the measured quantiles, it is nan,
        and only calling gives it.
        """
        if self._of is not self:
            return self._by * self._of.quantiles(largest)
        if self._quantiles is None or self._quantiles.shape[1] <= largest:
            self._quantiles = np.zeros((len(self._levels), largest + 1, max(self._points)))
            for index, rows in enumerate(self._quantiles):
                self._fill(index, rows)
        return self._quantiles

    def _fill(self, index: int, rows: NDArray[np.float64]) -> None:
        """[batches, quantiles] of a level, in place; one that has fewer quantiles repeats its last."""
        curve = self._curves[index]
        batches = np.arange(1, len(rows))
        found = quantiles_at(curve, batches)
        if all(len(p.seconds) == 1 for p in curve):
            for b in batches[np.isnan(found[:, 0])]:
                found[b - 1] = self._profile.seconds(int(b), self._levels[index], 0.0)
        width = found.shape[1]
        rows[1:, :width] = found
        rows[1:, width:] = found[:, -1:]


def quantiles_at(points: list[Point], batches: ArrayLike) -> NDArray[np.float64]:
    """[batches, quantiles] at batch sizes; nan where they do not follow linearly from the measured ones."""
    wanted = np.asarray(batches, np.int64)
    if len({len(p.seconds) for p in points}) > 1:
        return np.full((len(wanted), 1), np.nan)
    seconds = np.array([p.seconds for p in points])
    if len(points) == 1:
        return np.repeat(seconds, len(wanted), axis=0)
    sizes = np.array([p.batch for p in points])
    hi = np.clip(np.searchsorted(sizes, wanted), 1, len(points) - 1)
    share = (wanted - sizes[hi - 1]) / (sizes[hi] - sizes[hi - 1])
    rows: NDArray[np.float64] = seconds[hi - 1] + share[:, None] * (seconds[hi] - seconds[hi - 1])
    # Beyond the measured sizes `seconds` never goes to nothing; where that could bind, leave it to it.
    safe = (rows >= 0.1 * seconds.max(axis=0)).all(axis=1)
    rows[~(safe | ((share >= 0) & (share <= 1)))] = np.nan
    return rows


class Tables(NamedTuple):
    """The batch times of up to two devices, as the compiled path reads them.

    Row 2 d is of workers of device d that had no rest, row 2 d + 1 of those that were idle before.

    Attributes:
        seconds: [2 * devices, levels, largest batch + 1, quantiles].
        points: [2 * devices, levels] how many of the quantiles count.
        level_of: [2 * devices, workers + 1] index of the level for a number of busy workers.
    """

    seconds: NDArray[np.float64]
    points: NDArray[np.int32]
    level_of: NDArray[np.int32]

    @property
    def spread(self) -> bool:
        """Whether any time has a spread, so that draws matter."""
        return bool((self.points > 1).any())


def stack(services: Sequence[Tabulated], workers: Sequence[int], largest: Sequence[int]) -> Tables:
    """The tables of several devices in one, for batches of up to `largest` items each."""
    tables = [kind for service in services for kind in (service, service.rested)]
    counts = [k for k in workers for _ in range(2)]
    quantiles = [t.quantiles(n)[:, : n + 1] for t, n in zip(tables, np.repeat(largest, 2), strict=True)]
    shape = (len(tables), *(max(q.shape[axis] for q in quantiles) for axis in range(3)))
    seconds = np.zeros(shape)
    points = np.ones(shape[:2], dtype=np.int32)
    level_of = np.zeros((len(tables), max(workers) + 1), dtype=np.int32)
    for i, (table, q, k) in enumerate(zip(tables, quantiles, counts, strict=True)):
        seconds[i, : q.shape[0], : q.shape[1], : q.shape[2]] = q
        points[i, : q.shape[0]] = table.quantiles_per_level
        level_of[i, : k + 1] = table.level_of(k)
    return Tables(seconds, points, level_of)

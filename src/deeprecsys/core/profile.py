"""The latency profile: measured batch times s(b), with their spread and with contention."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from deeprecsys.core.errors import InputError, not_negative, shown, unknown

FORMAT = "deeprecsys-profile/1"
MOST_HOST = 0.9
"""The most of the workers' cores that the node's own process is taken to use, as a share."""
FAR = 1.15
"""Ratio of batch times to those of a profile: outside [1 / FAR, FAR] the machine has another speed now."""
KEYS = (
    "format", "model", "engine", "precision", "threads", "machine", "detail", "host_s", "lookup_share",
    "ranks", "stage_s", "staged_s", "points",
)  # fmt: skip
MOST_ITEMS, MOST_BUSY, MOST_S, LEAST_S = (1 << 31) - 1, 1 << 16, 1e6, 1e-9
"""Bounds of a point: items, busy workers, and seconds of a batch."""
KINDS: Mapping[str, type] = {
    "model": str, "engine": str, "precision": str, "threads": int, "machine": dict, "detail": dict,
    "points": list,
}  # fmt: skip
REQUIRED = ("model", "points")
_NUMBERS = ("host_s", "lookup_share", "stage_s", "staged_s")
POINT_KEYS = ("busy", "batch", "seconds", "after_idle")

LEAST_SHARE = 0.1
"""The least of a batch's time that is left where its query's user stage has run, as a share."""


@dataclass(frozen=True, slots=True)
class Point:
    """Times of batches of `batch` items while `busy` workers (itself included) were busy.

    `seconds` are equally spaced quantiles from the least to the greatest: one value is a constant,
    three are least, median and greatest. `after_idle`: the worker was idle before, so that it had to wake up
    and its caches were cold.
    """

    busy: int
    batch: int
    seconds: tuple[float, ...]
    after_idle: bool = False

    @property
    def mean_s(self) -> float:
        """Mean of the distribution that the quantiles span (trapezoid rule)."""
        s = self.seconds
        return s[0] if len(s) == 1 else float(np.trapezoid(s, dx=1.0 / (len(s) - 1)))

    @property
    def median_s(self) -> float:
        return float(np.interp(0.5, np.linspace(0, 1, len(self.seconds)), self.seconds))


@dataclass(frozen=True)
class LatencyProfile:
    """s(b) of one model with one engine, precision and thread count, and the machine it was measured on.

    The file is JSON; a hand-written one needs only `model` and `points`
    (docs/profile-format.md): `{"model": "x", "points": [{"batch": 1, "seconds": [0.001]}]}`.
    """

    model: str
    points: tuple[Point, ...]
    engine: str = "unknown"
    precision: str = "fp32"
    threads: int = 1
    machine: Mapping[str, Any] = field(default_factory=dict)
    detail: Mapping[str, Any] = field(default_factory=dict)
    host_s: float = 0.0
    """Seconds of the workers' cores that the node's own process uses for each query; the times of batches in
    a row do not contain them."""
    lookup_share: float = 0.0
    """The share of the time that an average item adds to a batch which its look-ups in jagged inputs take, in
    [0, 1]: `batch` is in units of work then (`core.work`)."""
    ranks: tuple[float, ...] = ()
    """Ranks of the batch times of a trial within their spread, in order of start, each in [0, 1]: a machine
    is slow for a period, not for a single batch. Empty if unknown."""
    stage_s: float = 0.0
    """Seconds of a batch that runs one query's user stage; 0 where the model has none."""
    staged_s: float = 0.0
    """Seconds that a batch takes less where that has run."""

    def __post_init__(self) -> None:
        for name in _NUMBERS:
            if not_negative(f"profile {name}", value := getattr(self, name)) > MOST_S:
                raise InputError(f"profile {name}: expected at most {MOST_S:g}, got {value}")
        if self.staged_s and not self.stage_s:
            raise InputError(f"profile staged_s: expected 0 without stage_s, got {self.staged_s}")
        if self.lookup_share > 1:
            raise InputError(f"profile lookup_share: expected at most 1, got {self.lookup_share}")
        wrong = next((u for u in self.ranks if not 0 <= u <= 1), None)
        if wrong is not None:
            raise InputError(f"profile ranks: expected numbers from 0 to 1, got {wrong}")
        if not self.points:
            raise InputError("profile points: expected at least one, got none")
        if all(p.after_idle for p in self.points):
            raise InputError("profile points: expected at least one that is not after_idle, got none")
        seen: dict[tuple[int, bool], int] = {}
        for p in self.points:
            where = f"profile point (busy {p.busy}, batch {p.batch}{', after idle' if p.after_idle else ''})"
            if p.batch < 1 or p.busy < 1:
                raise InputError(f"{where}: expected batch and busy of at least 1")
            if p.batch > MOST_ITEMS or p.busy > MOST_BUSY:
                raise InputError(f"{where}: expected at most batch {MOST_ITEMS} and busy {MOST_BUSY}")
            level = (p.busy, p.after_idle)
            if p.batch <= seen.get(level, 0):
                raise InputError(
                    f"{where}: expected batch sizes in rising order, got {p.batch} after {seen[level]}"
                )
            seen[level] = p.batch
            if not p.seconds:
                raise InputError(f"{where} seconds: expected at least one time, got none")
            if any(not 0 < s < float("inf") for s in p.seconds):
                raise InputError(f"{where} seconds: expected times above 0, got {min(p.seconds)}")
            if not LEAST_S <= min(p.seconds) <= max(p.seconds) <= MOST_S:
                got = shown(list(p.seconds))
                raise InputError(f"{where} seconds: expected times from {LEAST_S:g} to {MOST_S:g}, got {got}")
            if list(p.seconds) != sorted(p.seconds):
                raise InputError(f"{where} seconds: expected rising quantiles, got {shown(list(p.seconds))}")

    def slowed(self, by: float) -> LatencyProfile:
        """The profile of workers on which everything takes `by` times as long, and `host_s` is no more."""
        points = tuple(replace(p, seconds=tuple(by * s for s in p.seconds)) for p in self.points)
        stage_s, staged_s = by * self.stage_s, by * self.staged_s
        return replace(self, points=points, host_s=0.0, stage_s=stage_s, staged_s=staged_s)

    def ordered(self, ratios: ArrayLike) -> LatencyProfile:
        """The profile whose quick and slow batches follow each other as those of one trial did.

        Its times do not change: only their order is taken from the trial.

        Args:
            ratios: of the trial's batches in order of start, the time of each over the mean time of its kind.
        """
        order = np.asarray(ratios, np.float64)
        places = (np.argsort(np.argsort(order, kind="stable"), kind="stable") + 0.5) / len(order)
        return replace(self, ranks=tuple(round(float(u), 4) for u in places))

    @property
    def busy_levels(self) -> list[int]:
        """The numbers of busy workers that were measured, rising."""
        return sorted({p.busy for p in self.points if not p.after_idle})

    @cached_property
    def rested(self) -> LatencyProfile:
        """The times of batches on a worker that was idle before; this profile itself if it has none."""
        points = tuple(replace(p, after_idle=False) for p in self.points if p.after_idle)
        return replace(self, points=points) if points else self

    def curve(self, busy: int) -> list[Point]:
        """The points measured at the level nearest to `busy`, by rising batch size."""
        level = min(self.busy_levels, key=lambda k: (abs(k - busy), k))
        return [p for p in self.points if p.busy == level and not p.after_idle]

    def seconds(self, batch: int, busy: int = 1, u: float | None = None) -> float:
        """s(b): linear in b between measured sizes, and along the last segment beyond them.

        Args:
            batch: items.
            busy: busy workers, this one included; the nearest measured level is used.
            u: a number in [0, 1) picks that quantile of the spread; None takes the mean.
        """
        points = self.curve(busy)

        def at(p: Point) -> float:
            if u is None:
                return p.mean_s
            return float(np.interp(u, np.linspace(0, 1, len(p.seconds)), p.seconds))

        if len(points) == 1:
            return at(points[0])
        sizes = [p.batch for p in points]
        hi = min(max(bisect_left(sizes, batch), 1), len(points) - 1)
        a, b = points[hi - 1], points[hi]
        slope = (at(b) - at(a)) / (b.batch - a.batch)
        # Below the smallest measured batch the first segment goes on, but never to nothing.
        return max(at(a) + slope * (batch - a.batch), min(at(p) for p in points) * 0.1)

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "model": self.model,
            "engine": self.engine,
            "precision": self.precision,
            "threads": self.threads,
            "machine": dict(self.machine),
            "detail": dict(self.detail),
            **{name: value for name in _NUMBERS if (value := getattr(self, name))},
            **({"ranks": list(self.ranks)} if self.ranks else {}),
            "points": [
                {"busy": p.busy, "batch": p.batch, "seconds": list(p.seconds)}
                | ({"after_idle": True} if p.after_idle else {})
                for p in self.points
            ],
        }

    @classmethod
    def from_json(cls, data: Any) -> LatencyProfile:
        """The profile that a JSON document describes.

        Raises:
            InputError: an unknown or missing key, or a value that cannot be; names the key.
        """
        if not isinstance(data, dict):
            raise InputError(f"profile: expected a JSON object, got {type(data).__name__}")
        for key in data:
            if key not in KEYS:
                raise unknown("profile key", str(key), KEYS)
        if data.get("format", FORMAT) != FORMAT:
            raise InputError(f"profile format: expected {FORMAT!r}, got {shown(data['format'])}")
        for key, kind in KINDS.items():
            value = data.get(key, kind())
            if (
                not isinstance(value, kind)
                or isinstance(value, bool)
                or (key in REQUIRED and key not in data)
            ):
                raise InputError(f"profile {key}: expected a {kind.__name__}, got {shown(data.get(key))}")
        for name in _NUMBERS:
            if not _number(data.get(name, 0.0)):
                raise InputError(f"profile {name}: expected a number, got {shown(data[name])}")
        ranks = data.get("ranks", [])
        if not isinstance(ranks, list) or not all(_number(u) for u in ranks):
            raise InputError(f"profile ranks: expected a list of numbers, got {shown(ranks)}")
        points = tuple(_point(i, p) for i, p in enumerate(data["points"]))
        names = ("engine", "precision", "threads", "machine", "detail", *_NUMBERS)
        optional = {k: data[k] for k in names if k in data}
        return cls(model=data["model"], points=points, ranks=tuple(map(float, ranks)), **optional)


def _point(index: int, data: Any) -> Point:
    where = f"profile points[{index}]"
    if not isinstance(data, dict):
        raise InputError(f"{where}: expected an object, got {shown(data)}")
    for key in data:
        if key not in POINT_KEYS:
            raise unknown(f"key of {where}", str(key), POINT_KEYS)
    busy = _whole(f"{where} busy", data.get("busy", 1))
    batch = _whole(f"{where} batch", data.get("batch"))
    seconds = data.get("seconds")
    values: list[Any] = seconds if isinstance(seconds, list) else [seconds]
    if not all(map(_number, values)):
        raise InputError(f"{where} seconds: expected a number or a list of numbers, got {shown(seconds)}")
    after_idle = data.get("after_idle", False)
    if not isinstance(after_idle, bool):
        raise InputError(f"{where} after_idle: expected true or false, got {shown(after_idle)}")
    return Point(busy, batch, tuple(float(s) for s in values), after_idle)


def _whole(field: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise InputError(f"{field}: expected a whole number, got {shown(value)}")
    return value


def _number(value: Any) -> bool:
    """Whether it is a number, and one that a float can hold."""
    whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 63
    return whole or isinstance(value, float)


def quantiles_of(samples: NDArray[np.float64], count: int) -> tuple[float, ...]:
    """Equally spaced quantiles of [n] samples, the greatest lowered until the mean is that of the samples.

    A straight line to the longest of many samples would make times between the last two quantiles far more
    frequent than they were.
    """
    seconds = np.maximum.accumulate(np.quantile(samples, np.linspace(0, 1, count)))
    inner = float(seconds[0] / 2 + seconds[1:-1].sum())
    top = 2 * (float(samples.mean()) * (count - 1) - inner)
    seconds[-1] = min(max(top, seconds[-2]), seconds[-1])
    return tuple(float(x) for x in seconds)


def after_stage(batch_s: float, staged_s: float) -> float:
    """Time of a batch whose query's user stage has run, from that of one that computes it."""
    return max(batch_s - staged_s, LEAST_SHARE * batch_s)


def slowdown(host_s: float, rate_qps: float, workers: int) -> float:
    """Factor of batch times at a rate, where the node's own process shares the workers' cores."""
    return 1 / (1 - min(host_s * rate_qps / workers, MOST_HOST))

"""What became of the queries that the load client of `bench --url` sent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from typing import Any

import numpy as np
from numpy.typing import NDArray

import deeprecsys as dr
from deeprecsys.core.target import percentile
from deeprecsys.serve.load import offer as serve_load
from deeprecsys.serve.load.client import Response
from deeprecsys.serve.load.offer import Requests, TimedCalls
from deeprecsys.workload.stream import Stream
from deeprecsys.zoo import model

KINDS = 64
"""Number of different queries of each size."""


@dataclass
class Answers:
    """What became of every query of a stream, by arrival."""

    arrival_s: NDArray[np.float64]
    size: NDArray[np.int32]
    latency_s: NDArray[np.float64]
    """From the intended arrival; nan where no scores came."""
    status: NDArray[np.int32]
    """HTTP status; 0 where no answer came."""
    wrong: int = 0
    """Answers of status 200 whose scores were not those of before."""

    def between(self, begin_s: float, end_s: float) -> Answers:
        keep = (self.arrival_s >= begin_s) & (self.arrival_s < end_s)
        return Answers(
            *(x[keep] for x in (self.arrival_s, self.size, self.latency_s, self.status)), self.wrong
        )

    @property
    def served(self) -> NDArray[np.bool_]:
        return self.status == 200

    def in_time(self, target: dr.Target) -> NDArray[np.bool_]:
        """Which queries were answered within the target; one that was refused was not."""
        return self.served & (self.latency_s <= target.latency_s)

    def summary(self, target: dr.Target, duration_s: float) -> dict[str, Any]:
        """Figures over all of them; goodput is answers within the target per second."""
        latency = self.latency_s[self.served]
        return {
            "offered": len(self.status),
            "served": int(self.served.sum()),
            "refused": int((self.status == 503).sum()),
            "other": int(((self.status != 200) & (self.status != 503)).sum()),
            "wrong": self.wrong,
            "unanswered": int((self.status == 0).sum()),
            "p50_ms": 1e3 * percentile(latency, 0.5),
            "p95_ms": 1e3 * percentile(latency, 0.95),
            "p99_ms": 1e3 * percentile(latency, 0.99),
            "goodput_qps": int(self.in_time(target).sum()) / duration_s,
            "goodput_items_per_s": int(self.size[self.in_time(target)].sum()) / duration_s,
        }


@dataclass(frozen=True)
class After:
    """A stream after a disturbance, compared with the undisturbed stream.

    Of the queries that were answered in time undisturbed: what a node never answers in time, such as a query
    too large for its target, tells nothing of a disturbance.

    Attributes:
        since_s: when each query came, counted from the disturbance before it.
        in_time: whether it was answered within the target.
    """

    since_s: NDArray[np.float64]
    in_time: NDArray[np.bool_]

    @classmethod
    def each(cls, hit: Answers, calm: Answers, target: dr.Target, times: Sequence[float]) -> list[After]:
        """After each of some disturbances, to the next or the end."""
        fine, again, found = calm.in_time(target), hit.in_time(target), []
        for begin, end in pairwise([*times, np.inf]):
            asked = fine & (hit.arrival_s >= begin) & (hit.arrival_s < end)
            found.append(cls(hit.arrival_s[asked] - begin, again[asked]))
        return found

    @classmethod
    def pooled(cls, parts: Sequence[After]) -> After:
        """All together."""
        return cls(np.concatenate([p.since_s for p in parts]), np.concatenate([p.in_time for p in parts]))

    def share(self, from_s: float) -> float:
        """Share in time of the queries that came later than `from_s` after the disturbance."""
        return float(self.in_time[self.since_s >= from_s].mean())

    def settled_s(self, target: dr.Target, window_s: float = 0.5) -> float:
        """The end of the disturbance: when the first window begins that has its share in time; infinite if none."""
        for at in np.arange(0.0, float(self.since_s.max(initial=0.0)), window_s):
            inside = self.in_time[(self.since_s >= at) & (self.since_s < at + window_s)]
            if len(inside) and inside.mean() >= target.quantile:
                return float(at)
        return inf


class Bodies(Requests):
    """Requests of a model's queries, which differ in `KINDS` ways."""

    def __init__(self, name: str, rows_scale: float, largest: int) -> None:
        super().__init__(model(name).scaled(rows_scale).schema, largest, 0, KINDS)
        self.name = name


async def offer(port: int, bodies: Bodies, stream: Stream, target: dr.Target, at: TimedCalls) -> Answers:
    """Send a stream's queries when they are due; what became of them."""
    status, expected, wrong = np.zeros(len(stream), np.int32), dict[tuple[int, int], bytes](), 0
    kinds = (stream.features % np.uint64(KINDS)).tolist()

    def answered(i: int, response: Response) -> None:
        nonlocal wrong
        status[i] = response.status
        if response.status == 200:
            scores = response.body[int(response.headers[b"inference-header-content-length"]) :]
            first = expected.setdefault((int(stream.size[i]), kinds[i]), scores)
            if first != scores:
                close = np.allclose(np.frombuffer(first, "<f4"), np.frombuffer(scores, "<f4"), atol=1e-4)
                wrong += not close

    url = f"http://127.0.0.1:{port}"
    log = await serve_load.offer(url, bodies.name, bodies, stream, target, answered=answered, at=at)
    return Answers(stream.arrival_s, stream.size, log.finish_s - stream.arrival_s, status, wrong)

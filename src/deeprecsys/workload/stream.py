"""A workload, the random streams of its parts, and the queries that it gives at a rate.

Each part draws from a generator of its own, all from one seed, so that no part disturbs another.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deeprecsys.core.errors import InputError, at_most, positive
from deeprecsys.core.query import Query
from deeprecsys.memory import available_bytes
from deeprecsys.workload import arrivals as arrivals_
from deeprecsys.workload import lengths as lengths_
from deeprecsys.workload import locality as locality_
from deeprecsys.workload import sizes as sizes_
from deeprecsys.workload.arrivals import Arrivals, Replay
from deeprecsys.workload.lengths import HEAVY
from deeprecsys.workload.sizes import Sizes
from deeprecsys.workload.spec import whole
from deeprecsys.workload.trace import read
from deeprecsys.workload.work import PoolWork

QUERY_BYTES, SHARE = 256, 0.5
"""Memory of one query of a trial, and the share of the free memory that all may take."""
FEW = 100_000
"""Queries for which the memory is not looked at."""


def most_queries() -> int:
    """Queries of one stream for which there is memory."""
    return max(FEW, int(SHARE * available_bytes() / QUERY_BYTES))


class RandomStream(IntEnum):
    """The parts of a workload that draw random numbers. Its values fix every stream: never reorder."""

    ARRIVALS = 0
    SIZES = 1
    FEATURES = 2
    POOL = 3


def generator(seed: int, part: RandomStream, *key: int) -> np.random.Generator:
    """A fresh generator for one part (and, below it, for one `key`) of the workload with this seed.

    Raises:
        InputError: the seed is not an integer of at least 0.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise InputError(f"seed: expected an integer of at least 0, got {seed!r}")
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(int(part), *key)))


@dataclass(frozen=True, eq=False)
class Stream:
    """Queries in the order of their arrival.

    Attributes:
        rate_qps: the mean rate that was asked for, or that the trace was recorded at.
        arrival_s: [n] float64, intended arrivals on the trial's clock, above 0, never decreasing.
        size: [n] int32 items, at least 1; their work where items have different numbers of ids (`core.work`).
        features: [n] uint64, uniform handles into a feature pool.
        counts: [n] int32 items, where `size` is their work; work: how that is known.
    """

    rate_qps: float
    arrival_s: NDArray[np.float64]
    size: NDArray[np.int32]
    features: NDArray[np.uint64]
    counts: NDArray[np.int32] | None = None
    work: PoolWork | None = None

    @property
    def items(self) -> NDArray[np.int32]:
        """[n] int32 items of the queries, at least 1."""
        return self.size if self.counts is None else self.counts

    def at_share(self, share: float) -> Stream:
        """The stream where look-ups are another share of the work (`PoolWork.at_share`)."""
        return self if self.work is None else self._weighed(self.work.at_share(share))

    def _weighed(self, work: PoolWork | None) -> Stream:
        """With sizes that are the work of the items."""
        if work is None:
            return self
        size = work.units(self.features, self.items)
        return replace(self, size=size, counts=self.items, work=work)

    def __len__(self) -> int:
        return len(self.size)

    def query(self, i: int) -> Query:
        """Query `i`, counted from 0."""
        return Query(i, int(self.size[i]), float(self.arrival_s[i]), int(self.features[i]))

    def queries(self) -> list[Query]:
        """All of them, in order."""
        columns = (self.size.tolist(), self.arrival_s.tolist(), self.features.tolist())
        return [Query(i, *row) for i, row in enumerate(zip(*columns, strict=True))]


@dataclass(frozen=True)
class Workload:
    """Arrival process × size distribution × feature locality, with a seed.

    Arrivals, sizes, handles and the pool draw from generators of their own: changing one part never
    changes another, and another rate changes arrivals alone.
    """

    arrivals: Arrivals
    sizes: Sizes
    seed: int = 0
    locality: str = "zipf:0.9"
    trace: str | None = None
    """The trace's name, if arrivals or sizes come from one."""
    lookups: str = HEAVY
    """How many ids the rows of jagged inputs have (`lengths.parse`)."""
    work: PoolWork | None = None
    """What queries count for, where their items have different numbers of ids."""

    def __post_init__(self) -> None:
        generator(self.seed, RandomStream.ARRIVALS)
        locality_.parse(self.locality)
        lengths_.parse(self.lookups)

    def at_share(self, share: float) -> Workload:
        """The workload where look-ups are another share of the work (`PoolWork.at_share`)."""
        return self if self.work is None else replace(self, work=self.work.at_share(share))

    @classmethod
    def parse(
        cls,
        arrivals: str | None = None,
        sizes: str | None = None,
        *,
        trace: str | Path | None = None,
        seed: int = 0,
        locality: str = "zipf:0.9",
        lookups: str = HEAVY,
    ) -> Workload:
        """The workload that the options of the command line name.

        What is left out is `poisson` and `production`, or, with a trace, the trace's own arrivals and
        its sizes in order.

        Raises:
            InputError: one of them is not valid.
        """
        recorded = read(trace) if trace is not None else None
        a = arrivals if arrivals is not None else "trace" if recorded else "poisson"
        s = sizes if sizes is not None else "in-order" if recorded else "production"
        source = recorded.source if recorded else None
        lookups = lengths_.parse(lookups).spec  # a file is read once
        drawn = arrivals_.parse(a, recorded), sizes_.parse(s, recorded)
        return cls(*drawn, seed, locality, source, lookups)

    def stream(
        self, rate_qps: float | None = None, *, queries: int | None = None, duration_s: float | None = None
    ) -> Stream:
        """The first `queries` queries, or those that arrive within `duration_s` seconds, at a mean rate.

        Asking for more extends the answer and never changes what was there. A replayed trace needs
        neither a rate (then as recorded) nor a length (then one round of it).

        Raises:
            InputError: a rate or a length is missing, given twice, or not above 0.
        """
        rate = self._rate(rate_qps)
        if queries is None and duration_s is None and isinstance(self.arrivals, Replay):
            queries = len(self.arrivals.trace)
        if (queries is None) == (duration_s is None):
            got = "neither" if queries is None else "both"
            raise InputError(f"stream: expected either a number of queries or a duration, got {got}")
        longest_s = positive("duration", duration_s) if duration_s is not None else 0.0
        wanted = rate * longest_s if queries is None else queries
        at_most(most_queries(), "queries", wanted, "as memory allows")
        fresh = partial(generator, self.seed, RandomStream.ARRIVALS)
        if queries is not None:
            at_s = self.arrivals.times(fresh(), rate, whole("queries", queries))
        else:
            assert duration_s is not None
            at_s = arrivals_.until(self.arrivals, fresh, rate, duration_s)
        n = len(at_s)
        size = self.sizes.of(generator(self.seed, RandomStream.SIZES).random(n), at_s)
        handles = generator(self.seed, RandomStream.FEATURES).integers(0, 2**64, n, dtype=np.uint64)
        return Stream(rate, at_s, size, handles)._weighed(self.work)

    def _rate(self, rate_qps: float | None) -> float:
        if rate_qps is not None:
            return positive("rate", rate_qps)
        if isinstance(self.arrivals, Replay):
            return self.arrivals.trace.rate_qps
        raise InputError(f"rate: expected a number above 0 for {self.arrivals.spec} arrivals, got none")

    def describe(self) -> dict[str, Any]:
        """What it is, for JSON reports: parseable names, the seed, statistics of the sizes."""
        return {
            "arrivals": self.arrivals.spec,
            "sizes": self.sizes.describe(),
            "locality": self.locality,
            "seed": self.seed,
            "trace": self.trace,
            **({"lookups": self.lookups} if self.work else {}),
        }

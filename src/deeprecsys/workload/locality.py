"""Feature locality: how often which embedding rows are looked up (docs/facts.md §3)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from deeprecsys.core.errors import unknown
from deeprecsys.workload.spec import Named, split

_HEAD = 512  # ranks whose probabilities are summed; the rest are integrated
_BINS = 512  # of the integral over the tail in `unique_rows`


class Locality(Protocol):
    """A distribution over the popularity ranks 0 … rows - 1 of a table's rows, rank 0 the most popular."""

    @property
    def spec(self) -> str:
        """The text that `parse` turns into this."""

    def ranks(self, rng: np.random.Generator, rows: int, n: int) -> NDArray[np.int64]:
        """`n` independent ranks, [n]."""

    def unique_rows(self, rows: int, draws: float) -> float:
        """How many different ranks `draws` independent draws are expected to touch."""


@dataclass(frozen=True, slots=True)
class Uniform(Named):
    """Every row is as likely as any other: the worst case for caches."""

    def ranks(self, rng: np.random.Generator, rows: int, n: int) -> NDArray[np.int64]:
        return rng.integers(rows, size=n)

    def unique_rows(self, rows: int, draws: float) -> float:
        return -rows * math.expm1(-draws / rows)


@dataclass(frozen=True, slots=True)
class Zipf(Named):
    """The row of rank k (from 1) is drawn with a probability in proportion to k**-s, bounded by the rows.

    Sampled by inversion, one uniform number per id: the first 512 ranks from their exact cumulative
    sums; beyond them the sum over k is taken as the integral of x**-s from k - 1/2 to k + 1/2, whose
    relative error is s(s + 1) / (24 k²), below 4e-7 there for s ≤ 1.5.
    """

    ranges = ((0.01, 1.5),)

    s: float = 0.9

    def ranks(self, rng: np.random.Generator, rows: int, n: int) -> NDArray[np.int64]:
        head, tail = self._masses(rows)
        x = rng.random(n)
        x *= head[-1] + tail
        far = x >= head[-1]
        near = ~far
        ranks = np.empty(n, np.int64)
        ranks[near] = np.searchsorted(head, x[near], side="right")
        ranks[far] = np.minimum(self._tail_rank(x[far] - head[-1], len(head)), rows - 1)
        return ranks

    def unique_rows(self, rows: int, draws: float) -> float:
        head, tail = self._masses(rows)
        rate = draws / (head[-1] + tail)
        k = np.arange(1, len(head) + 1)
        expected = float(-np.expm1(-rate * k**-self.s).sum())
        if rows > len(head):
            edges = np.geomspace(len(head) + 0.5, rows + 0.5, _BINS + 1)
            middle = np.sqrt(edges[1:] * edges[:-1])
            expected -= float((np.expm1(-rate * middle**-self.s) * np.diff(edges)).sum())
        return min(expected, float(rows))

    def _masses(self, rows: int) -> tuple[NDArray[np.float64], float]:
        """Cumulative weights of the first ranks, and the weight of all the others together."""
        head = _head(self.s, min(rows, _HEAD))
        return head, self._integral(len(head) + 0.5, rows + 0.5) if rows > len(head) else 0.0

    def _integral(self, a: float, b: float) -> float:
        """∫ x**-s dx from a to b; exact also close to s = 1."""
        q, span = 1 - self.s, math.log(b / a)
        return float(a**q * (math.expm1(q * span) / q if q else span))

    def _tail_rank(self, mass: NDArray[np.float64], head: int) -> NDArray[np.int64]:
        """The rank (from 0) at which the weight beyond the first `head` ranks reaches `mass`."""
        a, q = head + 0.5, 1 - self.s
        mass *= a**-q
        if q:
            mass *= q
            np.log1p(mass, out=mass)
            mass /= q
        np.exp(mass, out=mass)
        mass *= a
        mass -= 0.5  # rank k, counted from 0, covers x from k + 1/2 to k + 3/2
        return mass.astype(np.int64)


@lru_cache(maxsize=64)
def _head(s: float, k: int) -> NDArray[np.float64]:
    return np.cumsum(np.arange(1, k + 1, dtype=np.float64) ** -s)


def parse(text: str) -> Locality:
    """`uniform` or `zipf[:S]`, 0 < S ≤ 1.5.

    The default, 0.9, is the middle of 0.7 … 1.1 and the best fit to the reuse statistics of Meta's
    `dlrm_datasets` (2021, 856 tables): there each octave of reuse counts between 64 and 8192 has 4.3 to
    5.8 % of all accesses, so the share above a count falls by 0.05 per octave; 6.9 M accesses to 1 M rows
    at s = 0.9 give 3.9 to 6.1 %. (At s = 1 all octaves have the same share.)

    Raises:
        InputError: another name, or an exponent out of range.
    """
    name, args = split(text)
    kinds: dict[str, type[Uniform | Zipf]] = {"uniform": Uniform, "zipf": Zipf}
    if name not in kinds:
        raise unknown("locality", name, kinds)
    return kinds[name].of("locality", args)


@dataclass(frozen=True, slots=True)
class Scatter:
    """A pseudo-random permutation of 0 … rows - 1, computed and not stored: popular rows lie scattered.

    Three rounds of multiply – add – shift – xor, each invertible on the next power of two; what falls
    beyond `rows` is sent round again (cycle walking), which keeps the map a permutation.
    """

    rows: int
    factors: tuple[int, ...]
    addends: tuple[int, ...]

    @classmethod
    def draw(cls, rng: np.random.Generator, rows: int) -> Scatter:
        """A permutation of `rows` rows, chosen by `rng`."""
        factors, addends = rng.integers(1 << 31, size=(2, 3)).tolist()
        return cls(rows, tuple(2 * f + 1 for f in factors), tuple(addends))

    def __call__(self, ranks: NDArray[np.int64]) -> NDArray[np.int64]:
        """The row of each rank, [n]; the argument's memory is reused."""
        bits = max(2, (self.rows - 1).bit_length())
        x = self._mix(ranks.view(np.uint64), bits)
        beyond = np.flatnonzero(x >= self.rows)
        while len(beyond):
            again = self._mix(x[beyond], bits)
            x[beyond] = again
            beyond = beyond[again >= self.rows]
        return x.view(np.int64)

    def _mix(self, x: NDArray[Any], bits: int) -> NDArray[Any]:
        mask, half = np.uint64((1 << bits) - 1), np.uint64((bits + 1) // 2)
        for factor, addend in zip(self.factors, self.addends, strict=True):
            x *= np.uint64(factor)
            x += np.uint64(addend)
            x &= mask
            x ^= x >> half
        return x

"""The ask-and-tell interface of all searches over policies. No search runs a trial itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deeprecsys.core.policy import CPU, DeepRecSched, Policy, Static

MOVES = 0.04
"""Least share of all items that a step of the threshold moves: less is noise in a live trial."""


@dataclass(frozen=True, slots=True)
class Score:
    """A policy's capacity, with its interval: 0 if the target is met at no load.

    None where all that is known is `high_qps`, a floor that the policy does not reach.
    """

    capacity_qps: float | None
    low_qps: float
    high_qps: float

    @classmethod
    def exactly(cls, qps: float) -> Score:
        """The score of a capacity that is known."""
        return cls(qps, qps, qps)

    @classmethod
    def below(cls, floor_qps: float) -> Score:
        """The score of a policy that does not reach the floor."""
        return cls(None, 0.0, floor_qps)

    def to_json(self) -> dict[str, Any]:
        if self.capacity_qps is None:
            return {"outcome": "below floor", "capacity_qps": None, "interval_qps": [0.0, self.high_qps]}
        if self.capacity_qps == 0:
            return {"outcome": "unreachable"}
        interval = [self.low_qps, self.high_qps] if self.low_qps < self.high_qps else None
        return {"outcome": "found", "capacity_qps": self.capacity_qps, "interval_qps": interval}


UNREACHABLE = Score.exactly(0.0)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A policy and its score."""

    policy: Policy
    score: Score

    @property
    def qps(self) -> float:
        """The capacity; 0 where it is only known to be below a floor."""
        return self.score.capacity_qps or 0.0


class Search:
    """A search over policies: `ask` for one, run it, `tell` its score, until `ask` gives None."""

    def __init__(self) -> None:
        self._told: list[Evaluation] = []

    def ask(self) -> Policy | None:
        """The next policy to run, unchanged until its score is given; None when the search is over."""
        raise NotImplementedError

    def tell(self, policy: Policy, score: Score) -> None:
        """The score of a policy, whether it was asked for or not."""
        self._told.append(Evaluation(policy, score))

    @property
    def told(self) -> tuple[Evaluation, ...]:
        """All evaluations, in order."""
        return tuple(self._told)

    @property
    def best(self) -> Evaluation | None:
        """The best policy so far that meets the target at some load, the earliest of equals."""
        good = [t for t in self.told if t.qps > 0]
        return max(good, key=lambda t: t.qps) if good else None

    @property
    def floor_qps(self) -> float | None:
        """Below this capacity no accuracy is needed; None for full accuracy."""
        return None


def batch_sizes(largest_query: int, static: int | None = None) -> tuple[int, ...]:
    """The batch sizes to try: powers of two below the largest query, that query whole, the static size.

    A power within 5 % of one of the latter two would measure the same thing twice and is left out.
    """
    fixed = {largest_query} | ({static} if static else set())
    powers = [1 << k for k in range(largest_query.bit_length()) if 1 << k < largest_query]
    apart = [b for b in powers if all(abs(b - f) > 0.05 * f for f in fixed)]
    return tuple(sorted(set(apart) | fixed))


def thresholds(largest_query: int, sizes: NDArray[np.int32] | None = None) -> tuple[int, ...]:
    """The offload thresholds to try: 0 (all queries), then by half octaves up to the largest query.

    With a sample of query sizes, those are left out that move less than `MOVES` of all items from one
    device to the other, counted from the threshold before, or leave less than that on the accelerator.
    Where nothing moves, the rate does not rise either, and the climb would take that for its end.
    """
    least = max(largest_query // 64, 1)
    steps = sorted({round(least * 2 ** (k / 2)) for k in range(13)})
    ladder = [0, *(s for s in steps if s < largest_query)]
    if sizes is None:
        return tuple(ladder)
    items = np.bincount(sizes, weights=sizes, minlength=largest_query + 1)
    upto = np.cumsum(items) / items.sum()
    kept = [0]
    for s in ladder[1:]:
        if upto[s] - upto[kept[-1]] >= MOVES and 1 - upto[s] >= MOVES:
            kept.append(s)
    return tuple(kept)


def batch_size_of(policy: Policy) -> int | None:
    """The batch size of a policy that cuts on arrival and keeps all work on the CPU; None for any other."""
    if isinstance(policy, Static | DeepRecSched) and policy.devices == (CPU,):
        return policy.batch_size
    return None

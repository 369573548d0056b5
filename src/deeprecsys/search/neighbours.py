"""Hill climbs over more than one knob, and searches one after the other."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from math import sqrt

from deeprecsys.core.policy import Adaptive, Coalescing, Earliest, Offload, Policy
from deeprecsys.search.hill_climb import HillClimb
from deeprecsys.search.history import Evaluation, History, Score, Search, batch_size_of, best_of

NEAR = 3
"""Rungs of the finer ladder, up and down, that are looked at first: nearly an octave."""
Neighbours = Callable[[Policy], Sequence[Policy]]


class NeighbourClimb(History):
    """Tries a policy's neighbours, moves to the best one that is better, until none is. Ask and tell.

    What others have reached is no floor here: a climb that begins below it may end above.

    Args:
        starts: all tried first; it begins at the best of them.
        neighbours: the policies one step away from a policy.
    """

    def __init__(self, starts: Sequence[Policy], neighbours: Neighbours) -> None:
        super().__init__()
        self._neighbours = neighbours
        self._queue = list(dict.fromkeys(starts))
        self._seen = set(self._queue)
        self._at: Evaluation | None = None
        self._top: Evaluation | None = None  # the best of those that it asked for

    def ask(self) -> Policy | None:
        if not self._queue and self._top is not self._at:
            assert self._top is not None
            self._at = self._top
            self._queue = [p for p in self._neighbours(self._at.policy) if p not in self._seen]
            self._seen.update(self._queue)
        return self._queue[0] if self._queue else None

    def tell(self, policy: Policy, score: Score) -> None:
        told = Evaluation(policy, score)
        self._told.append(told)
        if policy in self._queue:
            self._queue.remove(policy)
            if told.qps > (self._top.qps if self._top else 0.0):
                self._top = told

    @property
    def floor_qps(self) -> float | None:
        return self._top.score.low_qps if self._top else None

    @property
    def outstanding(self) -> int:
        return len(self._queue)


class Chain:
    """Searches in turn, each made when the one before has ended, from the best that is known by then."""

    def __init__(self, first: Search, then: Iterable[Callable[[Evaluation], Search | None]]) -> None:
        self._done: list[Evaluation] = []
        self._now: Search = first
        self._then = list(then)

    def ask(self) -> Policy | None:
        while (policy := self._now.ask()) is None and self._then:
            following = self._then.pop(0)
            best = self.best
            made = following(best) if best else None
            if made is not None:
                self._done = list(self.told)
                self._now = made
        return policy

    def tell(self, policy: Policy, score: Score) -> None:
        self._now.tell(policy, score)

    @property
    def best(self) -> Evaluation | None:
        return best_of([*self._done, *self._now.told])

    @property
    def told(self) -> tuple[Evaluation, ...]:
        """All that was told, each policy once: a search may have been made with what one before it found."""
        before = {t.policy for t in self._done}
        return (*self._done, *(t for t in self._now.told if t.policy not in before))

    @property
    def floor_qps(self) -> float | None:
        return self._now.floor_qps

    @property
    def outstanding(self) -> int:
        return self._now.outstanding


def ladder(value: int, steps: Sequence[int]) -> list[int]:
    """The steps next to a value, below and above, on a rising ladder."""
    below = [s for s in steps if s < value]
    above = [s for s in steps if s > value]
    return below[-1:] + above[:1]


def two_sizes(kind: type[Adaptive] | type[Coalescing], sizes: Sequence[int]) -> Neighbours:
    """The neighbours of an `Adaptive` or `Coalescing` policy: one size of the two, one rung up or down."""

    def neighbours(policy: Policy) -> Sequence[Policy]:
        assert isinstance(policy, kind)
        largest, finest = policy.batch_size, policy.finest
        pairs = [(b, finest) for b in ladder(largest, sizes)] + [(largest, f) for f in ladder(finest, sizes)]
        return [kind(b, f) for b, f in pairs if f <= b]

    return neighbours


def beyond_fixed(
    kind: type[Adaptive] | type[Coalescing], sizes: Sequence[int]
) -> Callable[[Evaluation], Search | None]:
    """A climb over both sizes of a policy, from the best batch size that is known so far.

    It looks at a quarter of every batch size as the finest first: what is best for a policy that cuts on
    arrival, large batches, may be a plateau on which no step betters one that shares batches.
    """

    def make(best: Evaluation) -> Search:
        known = best.policy
        if isinstance(known, Adaptive | Coalescing):
            start: Policy = kind(known.batch_size, known.finest)
        else:
            size = batch_size_of(known) or sizes[-1]
            start = kind(size, size)
        quarters = [kind(b, sizes[max(i - 2, 0)]) for i, b in enumerate(sizes)]
        return NeighbourClimb([start, *quarters], two_sizes(kind, sizes))

    return make


def between(sizes: Sequence[int]) -> Callable[[Evaluation], Search | None]:
    """A climb among the batch sizes between the rungs, quarter octaves apart, from the best so far.

    Where the longest batch that the target allows lies between two rungs, the best size does too. It looks
    first at one size for both, near the best batch size, of either kind.
    """
    fine = finer(finer(sizes))

    def neighbours(policy: Policy) -> Sequence[Policy]:
        return two_sizes(type(policy), fine)(policy) if isinstance(policy, Adaptive | Coalescing) else ()

    def make(best: Evaluation) -> Search | None:
        known = best.policy
        size = known.batch_size if isinstance(known, Adaptive | Coalescing) else batch_size_of(known)
        if size is None:
            return None
        at = bisect_left(fine, size)
        near = fine[max(at - NEAR, 0) : at + NEAR + 1]
        starts = [kind(b, b) for kind in (Adaptive, Coalescing) for b in near]
        climb = NeighbourClimb(
            [known, *starts] if isinstance(known, Adaptive | Coalescing) else starts, neighbours
        )
        climb.tell(known, best.score)
        return climb

    return make


def finer(sizes: Sequence[int]) -> tuple[int, ...]:
    """A rising ladder with a rung in the middle of every step, as ratios go."""
    middles = {round(sqrt(a * b)) for a, b in pairwise(sizes)}
    return tuple(sorted({*sizes, *middles}))


def beyond_threshold(
    kind: type[Offload] | type[Earliest], sizes: Sequence[int], limits: Sequence[int]
) -> Callable[[Evaluation], Search | None]:
    """A climb over batch size and threshold of a policy whose accelerator merges, from the best so far.

    Two of the largest queries may share a device batch: from there on its time is linear.
    """

    def neighbours(policy: Policy) -> Sequence[Policy]:
        assert isinstance(policy, kind)
        other_sizes = [replace(policy, batch_size=b) for b in ladder(policy.batch_size, sizes)]
        return other_sizes + [replace(policy, offload_above=n) for n in ladder(policy.offload_above, limits)]

    def make(best: Evaluation) -> Search:
        above = best.policy.offload_above
        size = batch_size_of(best.policy) or sizes[-1]
        start = kind(size, limits[-1] if above is None else above, 2 * sizes[-1])
        return NeighbourClimb([start], neighbours)

    return make


def model_search(sizes: Sequence[int], limits: Sequence[int] = ()) -> Search:
    """The paper's climbs, from their best the policies that cut late, and that share batches, and last the
    sizes between the rungs.

    Of a single size, that of whole queries which must not be cut, there is nothing more to search.

    Args:
        sizes: batch sizes; limits: offload thresholds to try, where there is an accelerator.
    """
    climb = HillClimb(sizes, limits)
    if len(sizes) == 1:
        return climb
    if limits:
        return Chain(climb, [beyond_threshold(kind, sizes, limits) for kind in (Offload, Earliest)])
    return Chain(climb, [beyond_fixed(Adaptive, sizes), beyond_fixed(Coalescing, sizes), between(sizes)])

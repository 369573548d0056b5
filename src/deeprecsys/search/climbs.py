"""Searches over policies by hill climbing: the paper's, one over every knob that a policy declares, a chain.

When is a fall a fall? A single measurement may dip, from noise or because a size cuts queries badly. So the
paper's climb (§IV) goes on past one candidate that is lower than its best, and stops at the second in a row.
Looking one further costs little: a candidate that is clearly lower is given up after a trial or two.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from math import sqrt

from deeprecsys.core.errors import InputError
from deeprecsys.core.policy import DeepRecSched, Knob, Ladder, Policy, Setting, Static
from deeprecsys.core.policy.registry import POLICIES, make, offloads
from deeprecsys.search.history import Evaluation, Score, Search, batch_size_of

PATIENCE = 2
"""Candidates in a row below the best after which the paper's climb stops."""
NEAR = 3
"""Rungs of the finer ladder, up and down, that are tried first: nearly an octave."""
FIXED = (Static, DeepRecSched)
"""The policies of one batch size for all, which the paper's climb searches."""
Neighbours = Callable[[Policy], Sequence[Policy]]
Kind = type[Policy]
Following = Callable[[Evaluation | None], Search | None]
"""Makes a search from the best that is known; None where there is nothing to search."""


class LadderClimb(Search):
    """Tries policies in order until several in a row are worse than the best of them. Ask and tell.

    A policy whose score is given without having been asked for (the static baseline) replaces the candidate
    of the same batch size; whatever its size, it counts for `best` and for `floor_qps`.
    """

    def __init__(self, candidates: Iterable[DeepRecSched]) -> None:
        super().__init__()
        self._left = list(candidates)
        self._falls = 0
        self._top: Evaluation | None = None  # the best of the candidates

    def ask(self) -> Policy | None:
        while self._left and self._falls < PATIENCE:
            known = next((t for t in self._told if _amounts_to(t.policy, self._left[0])), None)
            if known is None:
                return self._left[0]
            del self._left[0]
            if known.qps > (self._top.qps if self._top else 0.0):
                self._top, self._falls = known, 0
            elif self._top is not None:
                self._falls += 1  # before the first that meets the target there is nothing to fall from
        return None

    @property
    def floor_qps(self) -> float | None:
        best = self.best
        return best.score.low_qps if best and best.score.low_qps > 0 else None


def _amounts_to(policy: Policy, candidate: DeepRecSched) -> bool:
    """Whether a policy does what a candidate does."""
    return policy == candidate or batch_size_of(policy) == batch_size_of(candidate) is not None


class NeighbourClimb(Search):
    """Tries a policy's neighbours, moves to the best one that is better, until none is. Ask and tell.

    The capacity of other policies is no floor: a climb that begins below it may end above.

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
        super().tell(policy, score)
        if policy in self._queue:
            self._queue.remove(policy)
            if self._told[-1].qps > (self._top.qps if self._top else 0.0):
                self._top = self._told[-1]

    @property
    def floor_qps(self) -> float | None:
        return self._top.score.low_qps if self._top else None


class Chain(Search):
    """Searches in turn, each made when the one before has ended, from the best that is known by then."""

    def __init__(self, first: Search, then: Iterable[Following]) -> None:
        super().__init__()  # what was told before the present search
        self._now: Search = first
        self._then = list(then)

    def ask(self) -> Policy | None:
        while (policy := self._now.ask()) is None and self._then:
            made = self._then.pop(0)(self.best)
            if made is not None:
                self._told, self._now = list(self.told), made
        return policy

    def tell(self, policy: Policy, score: Score) -> None:
        self._now.tell(policy, score)

    @property
    def told(self) -> tuple[Evaluation, ...]:
        """All evaluations, each policy once: a search may have been made with what one before it found."""
        before = {t.policy for t in self._told}
        return (*self._told, *(t for t in self._now.told if t.policy not in before))

    @property
    def floor_qps(self) -> float | None:
        return self._now.floor_qps


class HillClimb(Chain):
    """DeepRecSched's two climbs: over batch sizes, then over offload thresholds at the best of them.

    Args:
        batch_sizes: rising; tried from the first.
        thresholds: rising offload thresholds; empty where there is no accelerator.
    """

    def __init__(self, batch_sizes: Sequence[int], thresholds: Sequence[int] = ()) -> None:
        for field, values in (("batch sizes", batch_sizes), ("thresholds", thresholds)):
            if list(values) != sorted(set(values)):
                raise InputError(f"{field}: expected rising values, got {list(values)}")
        if not batch_sizes:
            raise InputError("batch sizes: expected at least one, got none")

        def second(best: Evaluation | None) -> Search:
            size = batch_size_of(best.policy) if best else batch_sizes[-1]
            assert size is not None
            climb = LadderClimb(DeepRecSched(size, offload_above=n) for n in thresholds)
            if best:  # the static baseline too may have the best batch size
                climb.tell(best.policy, best.score)
            return climb

        super().__init__(LadderClimb(map(DeepRecSched, batch_sizes)), [second] if thresholds else [])


def rungs(value: float, steps: Sequence[float]) -> list[float]:
    """The steps next to a value, below and above, on a rising ladder."""
    below = [s for s in steps if s < value]
    above = [s for s in steps if s > value]
    return below[-1:] + above[:1]


def finer(sizes: Sequence[int]) -> tuple[int, ...]:
    """A rising ladder with a rung in the middle of every step, as ratios go."""
    middles = {round(sqrt(a * b)) for a, b in pairwise(sizes)}
    return tuple(sorted({*sizes, *middles}))


def one_step(kind: Kind, sizes: Sequence[int], limits: Sequence[int] = ()) -> Neighbours:
    """The policies of a kind that differ from one in one knob, by one rung up or down.

    Args:
        kind: declares which knobs vary, and over which ladder.
        sizes: batch sizes; limits: offload thresholds.
    """
    ladders = [(knob.name, steps) for knob in kind.knobs if (steps := _steps(knob, sizes, limits))]

    def neighbours(policy: Policy) -> Sequence[Policy]:
        assert isinstance(policy, kind)
        found: list[Policy] = []
        for name, steps in ladders:
            for value in rungs(getattr(policy, name), steps):
                with suppress(InputError):  # a finest cut above the batch size, say
                    found.append(replace(policy, **{name: value}))  # type: ignore[type-var] # a dataclass
        return found

    return neighbours


def climb_of(
    kind: Kind, sizes: Sequence[int], limits: Sequence[int] = (), latency_s: float | None = None
) -> Following:
    """A climb over all knobs of a policy, from the knobs of the best that is known so far.

    For a policy of several batch sizes it first tries every batch size with the others at a quarter of it:
    what is best for a policy that cuts on arrival, large batches, may be a plateau on which no step betters
    one that shares batches.

    Args:
        kind: the policy; sizes: batch sizes; limits: offload thresholds.
        latency_s: the target's, for a policy that goes by it.
    """
    batches = [k.name for k in kind.knobs if k.values is Ladder.BATCH_SIZES]

    def make_climb(best: Evaluation | None) -> Search | None:
        if best is None:
            return None
        known = best.policy
        size = known.batch_size or sizes[-1]
        setting = Setting(size, sizes[-1], latency_s, size)
        given = {k.name: v for k in kind.knobs if (v := _alike(k, known, size, limits)) is not None}
        wanted = [given]
        if len(batches) > 1:
            quarters = [dict.fromkeys(batches, sizes[max(i - 2, 0)]) for i in range(len(sizes))]
            wanted += [given | q | {batches[0]: b} for q, b in zip(quarters, sizes, strict=True)]
        return NeighbourClimb(_made(kind, setting, wanted), one_step(kind, sizes, limits))

    return make_climb


def between(sizes: Sequence[int], kinds: Sequence[Kind], latency_s: float | None = None) -> Following:
    """A climb among the batch sizes between the rungs, quarter octaves apart, from the best so far.

    Where the longest batch that the target allows lies between two rungs, the best size does too. It tries
    first one value for all batch sizes of a policy, near the best batch size, of every kind.
    """
    fine = finer(finer(sizes))

    climbed = tuple(kinds)

    def neighbours(policy: Policy) -> Sequence[Policy]:
        return one_step(type(policy), fine)(policy) if isinstance(policy, climbed) else ()

    def make_climb(best: Evaluation | None) -> Search | None:
        if best is None:
            return None
        known = best.policy
        size = known.batch_size if isinstance(known, climbed) else batch_size_of(known)
        if size is None:
            return None
        at = bisect_left(fine, size)
        starts: list[Policy] = [known] if isinstance(known, climbed) else []
        for kind in kinds:
            names = [k.name for k in kind.knobs if k.values is Ladder.BATCH_SIZES]
            near = fine[max(at - NEAR, 0) : at + NEAR + 1] if names else ()
            starts += _made(
                kind, Setting(size, sizes[-1], latency_s), [dict.fromkeys(names, b) for b in near]
            )
        climb = NeighbourClimb(starts, neighbours)
        climb.tell(known, best.score)
        return climb

    return make_climb


def model_search(
    sizes: Sequence[int],
    limits: Sequence[int] = (),
    *,
    kinds: Sequence[Kind] | None = None,
    latency_s: float | None = None,
) -> Search:
    """The paper's climbs, from their best every policy that declares what a search may vary, and last the
    batch sizes between the rungs.

    Where queries must not be cut there is one size, the whole query, and nothing more to search.

    Args:
        sizes: batch sizes.
        limits: offload thresholds to try, where there is an accelerator: then only policies that offload.
        kinds: the policies; by default all registered ones that are searched.
        latency_s: the target's, for policies that go by it.
    """
    climb = HillClimb(sizes, limits)
    if len(sizes) == 1:
        return climb
    chosen = [k for k in POLICIES.values() if k.searched] if kinds is None else kinds
    chosen = [k for k in chosen if k not in FIXED and offloads(k) == bool(limits)]
    then = [climb_of(kind, sizes, limits, latency_s) for kind in chosen]
    return Chain(climb, then if limits else [*then, between(sizes, chosen, latency_s)])


def _steps(knob: Knob, sizes: Sequence[int], limits: Sequence[int]) -> Sequence[float]:
    """The values of a knob that a search tries."""
    if isinstance(knob.values, Ladder):
        return sizes if knob.values is Ladder.BATCH_SIZES else limits
    return knob.values


def _alike(knob: Knob, known: Policy, size: int, limits: Sequence[int]) -> float | None:
    """A knob's value in a climb's first policy: that of the policy known, else an end of its ladder.

    None leaves it at its default.
    """
    value: float | None = getattr(known, knob.name, None)
    if value is not None:
        return value
    if isinstance(knob.values, Ladder):
        return size if knob.values is Ladder.BATCH_SIZES else limits[-1]
    return knob.values[0] if knob.values else None


def _made(kind: Kind, setting: Setting, wanted: Iterable[dict[str, float]]) -> list[Policy]:
    """The policies with these knobs, less those whose knobs do not go together."""
    found: list[Policy] = []
    for given in wanted:
        with suppress(InputError):
            found.append(make(kind, setting, **given))
    return found

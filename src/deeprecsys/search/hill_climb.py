"""The paper's hill climb (§IV): raise the batch size until the rate falls, then the offload threshold.

When is a fall a fall? A single measurement may dip, from noise or because a size cuts queries badly.
So a climb goes on past one candidate that is lower than its best, and stops at the second in a row.
Looking one further costs little: a candidate that is clearly lower is given up after a trial or two.
"""

from __future__ import annotations

from collections.abc import Sequence

from deeprecsys.core.errors import InputError
from deeprecsys.core.policy import DeepRecSched, Policy
from deeprecsys.search.history import Evaluation, History, Score, batch_size_of

PATIENCE = 2


class HillClimb(History):
    """DeepRecSched's two climbs, as ask and tell.

    A policy that was told without being asked for (the static baseline) takes the place of the climb's own
    candidate of the same batch size; whatever its size, it counts for `best` and for `floor_qps`.

    Args:
        batch_sizes: rising; tried from the first.
        thresholds: rising offload thresholds for the second climb; empty where there is no accelerator.
        patience: how many candidates in a row below the climb's best end it.
    """

    def __init__(
        self, batch_sizes: Sequence[int], thresholds: Sequence[int] = (), patience: int = PATIENCE
    ) -> None:
        for field, values in (("batch sizes", batch_sizes), ("thresholds", thresholds)):
            if list(values) != sorted(set(values)):
                raise InputError(f"{field}: expected rising values, got {list(values)}")
        if not batch_sizes:
            raise InputError("batch sizes: expected at least one, got none")
        super().__init__()
        self._patience = patience
        self._sizes = [DeepRecSched(b) for b in batch_sizes]
        self._thresholds = list(thresholds)
        self._climb = _Climb(self._sizes, patience)
        self._second: _Climb | None = None

    def ask(self) -> Policy | None:
        self._advance()
        policy = self._climb.candidate
        if policy is not None or self._second is not None or not self._thresholds:
            return policy
        best = self.best  # the static baseline too may have the best batch size
        size = batch_size_of(best.policy) if best else self._sizes[-1].batch_size
        assert size is not None
        self._second = self._climb = _Climb(
            [DeepRecSched(size, offload_above=n) for n in self._thresholds], self._patience
        )
        return self._climb.candidate

    def tell(self, policy: Policy, score: Score) -> None:
        told = Evaluation(policy, score)
        self._told.append(told)
        if policy == self._climb.candidate:
            self._climb.step(told)

    def _advance(self) -> None:
        """Take what is known of the current candidate from a policy that amounts to the same."""
        while self._second is None and (candidate := self._climb.candidate) is not None:
            size = candidate.batch_size
            same = next((t for t in self._told if batch_size_of(t.policy) == size), None)
            if same is None:
                return
            self._climb.step(same)

    @property
    def floor_qps(self) -> float | None:
        best = self.best
        return best.score.low_qps if best and best.score.low_qps > 0 else None

    @property
    def outstanding(self) -> int:
        later = len(self._thresholds) if self._second is None else 0
        return self._climb.left + later


class _Climb:
    """One climb along a list of candidates."""

    def __init__(self, candidates: list[DeepRecSched], patience: int) -> None:
        self._left = candidates
        self._patience = patience
        self._falls = 0
        self.best: Evaluation | None = None

    @property
    def candidate(self) -> DeepRecSched | None:
        return self._left[0] if self._left and self._falls < self._patience else None

    @property
    def left(self) -> int:
        return len(self._left) if self.candidate else 0

    def step(self, told: Evaluation) -> None:
        self._left = self._left[1:]
        if told.qps > (self.best.qps if self.best else 0.0):
            self.best, self._falls = told, 0
        elif self.best is not None:
            self._falls += 1  # before the first that meets the target there is nothing to fall from

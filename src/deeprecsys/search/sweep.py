"""The exhaustive sweep: every candidate, to full accuracy. What the hill climb is judged by."""

from __future__ import annotations

from collections.abc import Iterable

from deeprecsys.core.errors import InputError
from deeprecsys.core.policy import DeepRecSched, Policy
from deeprecsys.search.history import Evaluation, History, Score


class Sweep(History):
    """Runs a list of policies in order, as ask and tell."""

    def __init__(self, policies: Iterable[Policy]) -> None:
        super().__init__()
        self._left = list(policies)
        if not self._left:
            raise InputError("policies: expected at least one, got none")

    @classmethod
    def grid(cls, batch_sizes: Iterable[int], thresholds: Iterable[int] = ()) -> Sweep:
        """All batch sizes on the CPU, then each with every offload threshold."""
        sizes, limits = list(batch_sizes), list(thresholds)
        alone: list[Policy] = [DeepRecSched(b) for b in sizes]
        return cls(alone + [DeepRecSched(b, offload_above=n) for b in sizes for n in limits])

    def ask(self) -> Policy | None:
        return self._left[0] if self._left else None

    def tell(self, policy: Policy, score: Score) -> None:
        self._told.append(Evaluation(policy, score))
        if policy in self._left:
            self._left.remove(policy)

    @property
    def floor_qps(self) -> float | None:
        return None

    @property
    def outstanding(self) -> int:
        return len(self._left)

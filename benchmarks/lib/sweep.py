"""An exhaustive search, to compare the climbs with."""

from __future__ import annotations

from collections.abc import Iterable

from deeprecsys.core.errors import InputError
from deeprecsys.core.policy import Policy
from deeprecsys.search.history import Score, Search


class Sweep(Search):
    """Every policy of a list, in order and to full accuracy. Ask and tell."""

    def __init__(self, policies: Iterable[Policy]) -> None:
        super().__init__()
        self._left = list(policies)
        if not self._left:
            raise InputError("policies: expected at least one, got none")

    def ask(self) -> Policy | None:
        return self._left[0] if self._left else None

    def tell(self, policy: Policy, score: Score) -> None:
        super().tell(policy, score)
        if policy in self._left:
            self._left.remove(policy)

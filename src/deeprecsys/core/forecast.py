"""When a query will be answered, predicted from batch times and from the work that is before it.

Who is taken although it will be late is a question of the target's quantile: p95 ≤ t leaves room for one
late answer in twenty, and that room is better spent on a hiccup of the machine than kept
(docs/design/0011-live-service.md).
"""

from __future__ import annotations

from collections.abc import Sequence

from deeprecsys.core.profile import LatencyProfile

KEEP = 0.98
"""The weight of the past at each new batch: some fifty batches count for the pace."""
USED = 0.5
"""The share of the late answers that the target allows which are taken knowingly."""
MOST_SPARE = 10.0
"""Late answers that may be saved up for a burst."""
STEP = 0.02
"""How much of the allowed time is kept back for each late answer beyond what the target allows."""
MOST_MARGIN = 0.5
RESERVE = 0.1
"""Of the allowed time: a query that comes is asked for more room than one that waits, or half of what was
taken to the brim would be dropped at the head of the line."""

WAY_S, WAY_SHARE = 1e-3, 0.1
"""An answer is in time if it is ready so long before its deadline, or this share of the allowed time if that
is less: the client counts the way there and back, which nobody here sees."""

CALM = 0.25
"""Of the allowed time: where a query waits no longer, it is not the line that makes it late, and to refuse it
would help nobody."""


class LateBudget:
    """How many more answers may be late within a target's quantile.

    An answer in time adds to the level, a late one takes 1: over many answers the share of late ones
    that keeps the level where it is, is `USED` of the share that the target allows.

    Attributes:
        level: late answers to spare; below 0, more were late than planned.
        promised: open queries that were let in, or let wait, although they will be late.
    """

    __slots__ = ("_earned", "level", "promised")

    def __init__(self, miss_rate: float) -> None:
        self._earned = USED * miss_rate
        self.level = MOST_SPARE
        self.promised = 0

    def answered(self, late: bool) -> None:
        self.level = min(self.level + self._earned - late, MOST_SPARE)

    @property
    def spare(self) -> bool:
        """Whether one more query may be late."""
        return self.level - self.promised >= 1.0

    @property
    def margin(self) -> float:
        """Share of the allowed time to keep back, as predictions have been too hopeful."""
        return min(STEP * max(-self.level, 0.0), MOST_MARGIN)


class Forecast:
    """Predicts the times of one model's queries under its policy, and learns from the batches that end.

    Args:
        seconds: by number of items, the time of a batch; index 0 is not used. Longer batches are
            continued along the last step.
        batch_size: of the policy; None where it does not cut.
        mixes: whether its batches hold several queries.
        budget: of late answers.
    """

    def __init__(
        self, seconds: Sequence[float], batch_size: int | None, mixes: bool, budget: LateBudget
    ) -> None:
        assert len(seconds) >= 3, "two times make a line"
        self._seconds = seconds
        self.budget = budget
        self._took = self._predicted = 0.0
        self.adopt(batch_size, mixes)

    def adopt(self, batch_size: int | None, mixes: bool) -> None:
        """Another policy is in force: what was learnt of the machine is kept."""
        self._batch_size, self._mixes = batch_size, mixes

    @property
    def pace(self) -> float:
        """What batches took over what was predicted for their items."""
        return self._took / self._predicted if self._predicted else 1.0

    def batch_s(self, items: int) -> float:
        """The predicted time of a batch, before the pace."""
        seconds = self._seconds
        last = len(seconds) - 1
        if items <= last:
            return seconds[items]
        return seconds[last] + (items - last) * (seconds[last] - seconds[last - 1])

    def work_s(self, items: int) -> float:
        """Worker-seconds that a query of so many items takes, before the pace."""
        size = self._batch_size
        if size is None:
            return self.batch_s(items)
        if self._mixes:
            return items * self.batch_s(size) / size
        parts = -(-items // size)
        return parts * self.batch_s(-(-items // parts))

    def alone_s(self, items: int, workers: int) -> float:
        """From start to end of so many items on workers that have nothing else to do."""
        parts = 1 if self._batch_size is None else -(-items // self._batch_size)
        rounds = -(-parts // workers)
        return rounds * self.batch_s(-(-items // parts)) * self.pace

    def learn(self, predicted_s: float, took_s: float) -> None:
        """A batch took so long, and so long was predicted for its slices."""
        self._predicted = KEEP * self._predicted + predicted_s
        self._took = KEEP * self._took + took_s


def batch_seconds(profile: LatencyProfile, workers: int, largest: int) -> list[float]:
    """Mean s(b) of a profile for 0 … `largest` items, at least two, while all `workers` are busy."""
    times = [profile.seconds(b, workers) for b in range(1, max(largest, 2) + 1)]
    return [times[0], *times]

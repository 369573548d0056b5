"""What `tune` and `capacity` do with a limit: a margin below it, and one uninterrupted run at that rate."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from math import inf
from typing import Any, NamedTuple

from deeprecsys.api.virtual import NodeModel
from deeprecsys.core.policy import Policy
from deeprecsys.core.target import Target
from deeprecsys.node.node import Node
from deeprecsys.search.confirm import Confirmed
from deeprecsys.search.events import Progress
from deeprecsys.search.hold import hold
from deeprecsys.search.margin import Drift, Margin, NearLimit
from deeprecsys.search.probes import Trial
from deeprecsys.search.rank import PathTrial
from deeprecsys.search.sustain import planned_s
from deeprecsys.search.tuner import TuneResult

LOOK_S, EVERY_S, LEAST_LOOKS = 0.15, 3.0, 5
"""Seconds of reference batches in one look, seconds between looks, and the least number of batches in one."""
HOLD_S, FULL_S = 75.0, 1800.0
"""The longest run at the tuned rate, in seconds: usually, and where each point is to have all the time."""
LEAST_TARGETS = 5


class Reference:
    """A reference batch, timed on a node now and then: its drift is the machine's.

    Args:
        batch: items; batch_s: about what it takes, in seconds.
    """

    def __init__(self, node: Node, batch: int, batch_s: float) -> None:
        self.drift = Drift()
        self.batch, self._node = batch, node
        self._repeats = max(LEAST_LOOKS, int(LOOK_S * node.workers / batch_s))
        self._last_s = -inf

    def look(self) -> None:
        """Time the batch, unless that was done a moment ago."""
        if time.monotonic() - self._last_s < EVERY_S:
            return
        self.drift.add(self._node.measure(self.batch, self._node.workers, self._repeats).tolist())
        self._last_s = time.monotonic()


class Budget(NamedTuple):
    """How much the runs at the rates found may take, and how far below the limit they are.

    Attributes:
        margin_percent: None for the machine's own drift.
        full: every point has a run, as long as the rule asks.
        longest_s: seconds of one run otherwise.
    """

    margin_percent: float | None = None
    full: bool = False
    longest_s: float = HOLD_S

    @classmethod
    def of(cls, margin_percent: float | None, full: bool, budget_s: float | None) -> Budget:
        """From the options of a command; `budget_s` is what the search before may take."""
        return cls(margin_percent, full, HOLD_S if budget_s is None else min(HOLD_S, 2 * budget_s))


@dataclass(frozen=True)
class Sustaining:
    """Holds points at their limit less the margin.

    Attributes:
        node: what is predicted of it; queries: of a sample path.
    """

    node: NodeModel
    margin: Margin
    budget: Budget
    progress: Progress
    queries: int

    def near(self, policy: Policy, hint_qps: float) -> NearLimit:
        """A policy near its limit, in virtual time."""

        def path(slower: float) -> PathTrial:
            return self.node.slowed(slower).path(self.queries)

        return NearLimit(path, policy, self.node.target, hint_qps)

    def held(self, trial: Trial, point: Confirmed, near: NearLimit) -> Confirmed:
        """A point as a run at its limit less the margin shows it, and at no rate that has failed."""
        share, limit = near.share(self.margin), point.limit.qps
        longest_s = FULL_S if self.budget.full else self.budget.longest_s

        def length_s(rate_qps: float) -> float:
            return bounded_s(planned_s(near.at(rate_qps / limit)), longest_s, self.node.target)

        return hold(
            trial, point, self.node.target, min(share * limit, point.failed_qps),
            length_s=length_s, step=self.margin.share or 0.03, seed=self.node.workload.seed,
            progress=self.progress,
        )  # fmt: skip

    def result(
        self, found: TuneResult, near: NearLimit, live: Trial, eager: Trial | None = None
    ) -> TuneResult:
        """A tuning whose tuned point was held; where all the time is given, the baselines too.

        Args:
            near: the tuned policy near its limit; live: its trials; eager: those of eager torch's node.
        """
        tuned = self.held(live, found.tuned, near)
        static, usual = tuned if found.kept_static else found.static, found.eager
        if self.budget.full and static and not found.kept_static:
            static = self.held(live, static, self.near(static.policy, static.limit.qps))
        if usual is found.static:
            usual = static
        elif self.budget.full and usual and eager:
            # It has no profile of its own; relative to the limit its queue is that of the same policy.
            usual = self.held(eager, usual, self.near(usual.policy, usual.limit.qps))
        return replace(found, tuned=tuned, static=static, eager=usual)


def bounded_s(planned: float, longest_s: float, target: Target) -> float:
    """Seconds of a run: as planned, within what it may take; a few targets at least."""
    return max(min(planned, longest_s), LEAST_TARGETS * target.latency_s)


def about(near: NearLimit, point: Confirmed, margin: Margin, reference: Reference) -> dict[str, Any]:
    """The parts of the JSON of `tune` and `capacity` that say how far a point is from its limit."""
    measured = Margin(margin.share, reference.drift.share, margin.chosen)
    curve = near.curve(point.qps, point.limit.qps)
    return {
        **point.limit.to_json(),
        **measured.to_json(),
        "reference": {"batch": reference.batch, "seconds": reference.drift.usual_s},
        "near": curve,
    }

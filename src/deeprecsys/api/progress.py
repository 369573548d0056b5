"""Progress of long work: a callback of the caller's, or a bar in a terminal or a notebook."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from numpy.typing import NDArray
from tqdm import tqdm

from deeprecsys.api.runs import Record
from deeprecsys.core.policy import Policy
from deeprecsys.core.query import Query
from deeprecsys.core.runlog import RunLog
from deeprecsys.machine.energy import over
from deeprecsys.node.driver import Recording
from deeprecsys.report.text import knobs
from deeprecsys.search.events import (
    CapacityDone,
    CapacityStarted,
    Cost,
    Event,
    PhaseStarted,
    ProbeDone,
    TrialDone,
    TrialStarted,
)

ProgressCallback = Callable[[str, float, str], None]
"""Called with the stage, the share of it that is done, in [0, 1], and a note on what runs now."""
ProgressOption = ProgressCallback | bool | None
"""A callback; True for a bar in a terminal or a notebook; False or None for silence."""
LABELS = {"simulate": "in virtual time", "confirm": "in turns", "hold": "uninterrupted"}
"""What phases are called while they last."""
POINTS = ("confirm", "hold")
"""Phases in which operating points run."""
StageReport = Callable[[float, str], None]
"""Called with the share of one stage that is done, and a note."""


class Interrupted(KeyboardInterrupt):
    """Work that the user interrupted, with what it had found.

    Attributes:
        result: of the trial that was cut short; None where there is none.
        found: the capacities that a search had found, in order.
    """

    def __init__(self, result: Any = None, found: tuple[CapacityDone, ...] = ()) -> None:
        super().__init__("interrupted")
        self.result, self.found = result, found


@contextmanager
def stage(label: str, progress: ProgressOption) -> Iterator[StageReport]:
    """One stage of the work; the value reports how far it is. Drawing a bar takes some 50 µs."""
    if progress is not True:
        yield partial(progress, label) if callable(progress) else lambda share, note: None
        return
    with tqdm(
        total=1.0,
        desc=label,
        file=sys.stderr,
        disable=not (sys.stderr.isatty() or "ipykernel" in sys.modules),
        leave=False,
        dynamic_ncols=True,
        bar_format="{desc} |{bar:24}| {percentage:3.0f}% {elapsed} {postfix}",
        mininterval=0.2,
    ) as bar:

        def report(share: float, note: str) -> None:
            if note:
                bar.set_postfix_str(note, refresh=False)
            bar.update(max(0.0, min(1.0, share) - bar.n))

        yield report


class TickHooks:
    """Hooks of a trial that report its progress and ignore its scores."""

    def __init__(self, tick: Callable[[float], None]) -> None:
        self._tick = tick

    def tick(self, share: float) -> None:
        self._tick(share)

    def scores(self, query: Query, scores: NDArray[Any]) -> None:
        """A load test has no use for scores."""


class SearchProgress:
    """Follows a search: reports its progress, records its events and trials, and adds up what it took."""

    def __init__(self, report: StageReport, record: Record, budget_s: float = 0.0) -> None:
        self._report, self._record = report, record
        self._phase = ""
        self._budget_s = budget_s
        self._phase_began_s = 0.0
        self._trial_s = 0.0
        self._note = ""
        self.found: list[CapacityDone] = []
        self.cost = Cost()
        self._energy: dict[str, list[dict[str, Any]]] = {"static": [], "tuned": []}

    def __call__(self, event: Event) -> None:
        self._record.event(event_document(event))
        match event:
            case PhaseStarted(phase, budget_s):
                self._phase, self._budget_s, self._phase_began_s = phase, budget_s, self.cost.seconds
            case CapacityStarted(policy, budget_s, _):
                self._note = knobs(policy.describe())
                if not self._phase:
                    self._budget_s = budget_s
            case TrialStarted(policy, rate_qps, duration_s):
                self._trial_s = duration_s
                self._note = f"{knobs(policy.describe())} at {rate_qps:.4g} queries/s"
            case TrialDone(_, _, seconds, queries, _, void):
                self.cost = self.cost.with_trial(seconds, queries, void)
            case CapacityDone():
                self.found.append(event)
        self.tick(0.0)

    def tick(self, share: float) -> None:
        """A share of the present trial is over."""
        done_s = self.cost.seconds - self._phase_began_s + share * self._trial_s
        phase = LABELS.get(self._phase, self._phase)
        label = f"{phase}: {self._note}" if phase else self._note
        self._report(min(done_s / self._budget_s, 1.0) if self._budget_s else 0.0, label)

    def recording(self) -> Recording | None:
        """Where the next trial is recorded slice by slice: those of operating points are, for the report."""
        return Recording() if self._record.slices and self._phase in POINTS else None

    def keep(self, policy: Policy, log: RunLog, recording: Recording | None, role: str | None = None) -> None:
        """Record a trial; of one at an operating point, also the energy."""
        known = policy.describe()
        role = role or ("static" if known["policy"] == "static" else "tuned")
        if self._phase in POINTS:
            if "energy" in log.extra:
                self._energy.setdefault(role, []).append(log.extra["energy"])
            name = known["role"] = role
        else:
            size = f"-b{known['batch_size']}" if known["batch_size"] else ""
            name = f"{self._phase or 'probe'}{size}"
        self._record.trial(name, log, recording.batches if recording else None, known)

    def energy(self, policy: Mapping[str, Any] | None) -> dict[str, Any] | None:
        """What the trials of an operating point took, given as in the JSON of `tune`."""
        return over(self._energy["static" if policy["policy"] == "static" else "tuned"]) if policy else None


def event_document(event: Event) -> dict[str, Any]:
    """One event of a search as JSON values, for the run directory."""
    kind = {"event": type(event).__name__}
    match event:
        case PhaseStarted(phase, budget_s):
            return {**kind, "phase": phase, "budget_s": budget_s}
        case CapacityStarted(policy, budget_s, floor_qps):
            return {**kind, **policy.describe(), "budget_s": budget_s, "floor_qps": floor_qps}
        case TrialDone(policy, rate_qps, seconds, queries, miss_rate, void):
            return {
                **kind, **policy.describe(), "rate_qps": rate_qps, "seconds": seconds, "queries": queries,
                "miss_rate": miss_rate, "void": void,
            }  # fmt: skip
        case ProbeDone(policy, probe):
            return {**kind, **policy.describe(), **probe.to_json()}
        case CapacityDone(policy, result):
            return {**kind, **policy.describe(), **result.to_json()}
        case _:
            return {**kind, **event.policy.describe(), "rate_qps": event.rate_qps}

"""A search on the command line: its bar, its record, and what it found when it is cut short."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import TracebackType
from typing import Any

import click

from deeprecsys.api.progress import Bar
from deeprecsys.cli.output import event_document
from deeprecsys.core.errors import positive
from deeprecsys.core.policy import Policy
from deeprecsys.core.runlog import RunLog
from deeprecsys.core.target import Target
from deeprecsys.machine.energy import over
from deeprecsys.node.driver import Recording
from deeprecsys.report.rundir import RunWriter
from deeprecsys.report.text import knobs
from deeprecsys.search.capacity import Settings
from deeprecsys.search.events import (
    CapacityDone,
    CapacityStarted,
    Event,
    PhaseStarted,
    TrialDone,
    TrialStarted,
)
from deeprecsys.search.tuner import TuneSettings

LEAST_TRIAL_S = 0.3


def tune_settings(target: Target, budget_s: float | None) -> TuneSettings:
    """The live settings, or these shrunk or stretched so that the climb takes about `budget_s`.

    Trials shrink with the budget, down to a few targets each: shorter ones would never see a queue.
    """
    settings = TuneSettings.live(target)
    if budget_s is None:
        return settings
    factor = positive("--budget", budget_s) / settings.climb_budget_s
    usual = settings.candidate.trial_s
    trial_s = max(min(factor, 1.0) * usual, 5 * target.latency_s, LEAST_TRIAL_S)

    def scaled(part: Settings) -> Settings:
        return replace(part, trial_s=trial_s, budget_s=factor * part.budget_s)

    return replace(
        settings,
        climb_budget_s=budget_s,
        candidate=scaled(settings.candidate),
        refine=scaled(settings.refine),
        confirm=replace(settings.confirm, trial_s=trial_s / usual * settings.confirm.trial_s),
    )


class SearchProgress:
    """Listens to a search: moves a bar, writes events, and on Ctrl-C says what was found until then."""

    def __init__(self, model: str, out: RunWriter | None, settings: TuneSettings | None = None) -> None:
        self._bar = Bar(f"{model}: searching")
        self._out = out
        self._phase = ""
        self._budget_s = settings.climb_budget_s if settings else 0.0
        self._spent_s = 0.0
        self._phase_began_s = 0.0
        self._trial_s = 0.0
        self._note = ""
        self._found: list[CapacityDone] = []
        self._trials = self._queries = self._voids = 0
        self._energy: dict[str, list[dict[str, Any]]] = {"static": [], "tuned": []}

    def __enter__(self) -> SearchProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.__exit__(kind, error, trace)
        if kind is KeyboardInterrupt and self._found:
            click.echo("found before the interruption:")
            for done in self._found:
                qps = done.result.capacity_qps
                rate = f"{qps:.4g} queries/s" if qps else f"below {done.result.high_qps:.4g} queries/s"
                click.echo(f"  {knobs(done.policy.describe())}: {rate}")

    def __call__(self, event: Event) -> None:
        if self._out:
            self._out.event(event_document(event))
        match event:
            case PhaseStarted(phase, budget_s):
                self._phase, self._budget_s, self._phase_began_s = phase, budget_s, self._spent_s
            case CapacityStarted(policy, budget_s, _):
                self._note = knobs(policy.describe())
                if not self._phase:
                    self._budget_s = budget_s
            case TrialStarted(policy, rate_qps, duration_s):
                self._trial_s = duration_s
                self._note = f"{knobs(policy.describe())} at {rate_qps:.4g} queries/s"
            case TrialDone(_, _, seconds, queries, _, void):
                self._spent_s += seconds
                self._trials += 1
                self._queries += queries
                self._voids += void
            case CapacityDone():
                self._found.append(event)
        self._show(0.0)

    def tick(self, share: float) -> None:
        """Within a trial: `share` of it is over."""
        self._show(share)

    def recording(self) -> Recording | None:
        """Trials that confirm are recorded slice by slice, for the report to explain."""
        return Recording() if self._out and self._phase == "confirm" else None

    def keep(self, policy: Policy, log: RunLog, recording: Recording | None) -> None:
        """Put a trial's raw records into the run directory; of one that confirms, remember the energy."""
        known = policy.describe()
        role = "static" if known["policy"] == "static" else "tuned"
        if self._phase == "confirm" and "energy" in log.extra:
            self._energy[role].append(log.extra["energy"])
        if self._out is None:
            return
        if self._phase == "confirm":
            name = known["role"] = role
        else:
            size = f"-b{known['batch_size']}" if known["batch_size"] else ""
            name = f"{self._phase or 'probe'}{size}"
        self._out.trial(name, log, recording.batches if recording else None, about=known)

    def _show(self, share: float) -> None:
        done_s = self._spent_s - self._phase_began_s + share * self._trial_s
        label = f"{self._phase}: {self._note}" if self._phase else self._note
        self._bar.set(min(done_s / self._budget_s, 1.0) if self._budget_s else 0.0, label)

    def energy(self, policy: Mapping[str, Any] | None) -> dict[str, Any] | None:
        """What the trials took that confirmed an operating point, given as in the JSON of `tune`."""
        return over(self._energy["static" if policy["policy"] == "static" else "tuned"]) if policy else None

    def cost(self) -> dict[str, Any]:
        """Trials, seconds and queries so far."""
        return {
            "trials": self._trials,
            "seconds": self._spent_s,
            "queries": self._queries,
            "voids": self._voids,
        }

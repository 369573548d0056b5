"""Results of runs: their figures, the trials behind them, their plots, and the directory that keeps them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from deeprecsys.api.policies import from_description
from deeprecsys.core.errors import InputError
from deeprecsys.core.policy import Policy
from deeprecsys.core.profile import LatencyProfile
from deeprecsys.core.runlog import RunLog
from deeprecsys.extras import require
from deeprecsys.machine.record import machine_record
from deeprecsys.report.documents import (
    AnyReport,
    BenchReport,
    CapacityReport,
    ProfileDocument,
    QualityReport,
    SimulateReport,
    TuneReport,
    read_report,
)
from deeprecsys.report.rundir import VERSION, Run, RunWriter, read_run, trial_name
from deeprecsys.report.slices import BatchTimes, Slices
from deeprecsys.report.text import text_of
from deeprecsys.report.trialfile import TrialRecord

if TYPE_CHECKING:  # matplotlib takes a second to load
    from matplotlib.figure import Figure

MADE_ANEW = ("started", "finished", "trial")
"""Events that a run directory writes by itself."""


class Recorded:
    """What the results of all runs have besides their figures. Figures are None where they are unknown.

    The figures are attributes named as the keys of `--json`, with their units; `repr` is the text that the
    command line prints.
    """

    run: Run
    """The configuration, the machine, the events and the trials behind the figures."""

    @classmethod
    def of(cls, run: Run, document: Mapping[str, Any]) -> Self:
        """The result that a document states, of a run."""
        assert issubclass(cls, AnyReport)
        found = cls.from_json(document)
        object.__setattr__(found, "run", run)
        return found

    @property
    def records(self) -> Mapping[str, TrialRecord]:
        """The trials that were kept, by name: every query's times."""
        return self.run.trials

    def save(self, folder: str | Path) -> Path:
        """Write a run directory, which `load_run` and `deeprecsys report` read.

        Raises:
            InputError: the directory is not empty, or cannot be made.
        """
        run = self.run
        with RunWriter(Path(folder), run.config, run.machine) as out:
            for event in run.events:
                if event.get("event") not in MADE_ANEW:
                    out.event(event)
            for t in run.trials.values():
                out.trial(t.name, t.log, t.slices, t.about)
            out.result(run.result or {})
        return Path(folder)

    def plots(self) -> dict[str, Figure]:
        """All plots that this run has what is needed for, by name; the most telling one first."""
        require("engine", "a plot")
        from deeprecsys.report.illustrate import illustrations
        from deeprecsys.report.view import view

        return {i.name: i.figure for i in illustrations(view(self.run))}

    def plot(self, name: str | None = None) -> Figure:
        """One plot; by default the first of `plots`.

        Raises:
            InputError: the run has no such plot.
        """
        found = self.plots()
        if not found or (name is not None and name not in found):
            raise InputError(f"plot: expected one of {', '.join(found) or 'none'}, got {name or 'no name'}")
        return found[name] if name is not None else next(iter(found.values()))

    def __repr__(self) -> str:
        assert isinstance(self, AnyReport)
        return text_of(self)

    def _repr_html_(self) -> str:
        from html import escape

        from deeprecsys.report.plots.look import svg

        figures = list(self.plots().items())[:1]
        return f"<pre>{escape(repr(self))}</pre>" + "".join(
            svg(figure, name, name) for name, figure in figures
        )


class BenchRun(Recorded, BenchReport):
    """The result of `bench`: one live trial."""


class CapacityRun(Recorded, CapacityReport):
    """The result of `capacity`: the highest rate of one policy within the target."""


class SimulateRun(Recorded, SimulateReport):
    """The result of `simulate`: a trial or a capacity in virtual time, and its bounds."""


class TuneRun(Recorded, TuneReport):
    """The result of `tune`: the static baseline (`.static`) and the tuned operating point (`.tuned`)."""

    @property
    def policy(self) -> Policy:
        """The policy of the tuned point.

        Raises:
            InputError: the run did not come to one.
        """
        if self.tuned is None:
            raise InputError("policy: expected a run that came to a tuned point, got one that did not")
        return from_description(self.tuned.to_json())

    @property
    def latency_profile(self) -> LatencyProfile:
        """The batch times of the node that was tuned, as simulation takes them."""
        return LatencyProfile.from_json(self.to_json()["profile"])


class QualityRun(Recorded, QualityReport):
    """The result of `quality`: what a lower precision did to scores and rankings."""


class ProfileRun(Recorded, ProfileDocument):
    """The result of `profile`: batch times s(b)."""

    @property
    def latency_profile(self) -> LatencyProfile:
        """The profile as simulation and search take it."""
        return LatencyProfile.from_json(self.to_json())


AnyRun = BenchRun | CapacityRun | SimulateRun | TuneRun | QualityRun | ProfileRun
KINDS: dict[type[AnyReport], type[AnyRun]] = {
    BenchReport: BenchRun,
    CapacityReport: CapacityRun,
    SimulateReport: SimulateRun,
    TuneReport: TuneRun,
    QualityReport: QualityRun,
    ProfileDocument: ProfileRun,
}


def load_run(folder: str | Path) -> AnyRun:
    """The result in a run directory; of a run that did not end, what it measured until then.

    What is missing or damaged is listed in `.run.problems` and `.problems`.

    Raises:
        InputError: there is no run in that directory.
    """
    from deeprecsys.report.view import view

    run = read_run(Path(folder))
    document = view(run).report.to_json() if run.result is None else run.result
    return KINDS[type(read_report(document))].of(run, document)


class Record:
    """Collects the events and trials of one run. A context manager: leaving it closes the run directory.

    Args:
        configuration: the resolved one.
        out: the run directory to write to as things happen; None keeps them in memory alone.
        slices: keep when each slice of a trial ran; with a run directory that is always kept.

    Raises:
        InputError: the directory is not empty, or cannot be made.
    """

    def __init__(
        self, configuration: dict[str, Any], out: str | Path | None = None, slices: bool = False
    ) -> None:
        self._configuration = configuration
        self._created = datetime.now(UTC).isoformat(timespec="seconds")
        self._began_s = time.monotonic()
        self._out = RunWriter(Path(out), configuration, machine_record()) if out is not None else None
        self._events: list[dict[str, Any]] = []
        self._trials: dict[str, TrialRecord] = {}
        self.slices = slices or self._out is not None

    def __enter__(self) -> Record:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._out:
            self._out.__exit__(kind, error, trace)

    def event(self, document: dict[str, Any]) -> None:
        """Keep an event."""
        line = {"elapsed_s": round(time.monotonic() - self._began_s, 6), **document}
        self._events.append(line)
        if self._out:
            self._out.event(line)

    def trial(
        self, name: str, log: RunLog, batches: Iterable[BatchTimes] | None, about: dict[str, Any]
    ) -> None:
        """Keep a trial: its queries, its batches if they were recorded, and what it was."""
        slices = None if batches is None else Slices.of(batches)
        taken = trial_name(name, self._trials)
        self._trials[taken] = TrialRecord(taken, log, slices, about)
        if self._out:
            self._out.trial(name, log, slices, about)

    def run(self, document: dict[str, Any]) -> Run:
        """The run with its final document, which the run directory keeps too. Call once, last."""
        if self._out:
            self._out.result(document)
        return Run(
            path=self._out.path if self._out else Path(str(document.get("model"))),
            version=VERSION,
            created=self._created,
            config=self._configuration,
            machine=document.get("machine") or machine_record(),
            events=tuple(self._events),
            result=document,
            trials=self._trials,
        )

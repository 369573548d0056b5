"""What a run directory has to show: one reading of it, for text, plots and page alike.

A run that has no result yet is read from its events, as far as they go.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from deeprecsys.core.runlog import summarise
from deeprecsys.core.target import Target
from deeprecsys.report import documents as docs
from deeprecsys.report import tables
from deeprecsys.report.plots.capacity import PlottedCandidate
from deeprecsys.report.plots.latency import Curve
from deeprecsys.report.rundir import Run
from deeprecsys.report.trialfile import TrialRecord

MOST_PROBLEMS = 20
"""Problems of a result that are listed; further ones are counted."""
_SAME_RATE = 1e-6
_LARGEST = 1e12  # no rate, size or latency that can be drawn is beyond it


@dataclass(frozen=True)
class RunView:
    """A run, sorted by what can be shown of it. What is not known is empty or None.

    Attributes:
        name: of the directory.
        report: the result, or as much of one as the configuration and the events give.
        complete: whether it is the result.
        target: what was to be met.
        candidates: the operating points that were tried, by batch size.
        batch_curve: the capacity of every batch size in virtual time.
        marks: batch size of the static and the tuned point, and today's limit; without one, the rate.
        best: the capacity search of the best point.
        probes: the rates that were tried in it.
        curves: latencies of static and tuned, or of the one trial.
        main: the trial to look into: the tuned one, or the one there is.
        problems: what is missing or damaged.
    """

    name: str
    report: docs.AnyReport
    complete: bool
    target: Target | None
    candidates: tuple[PlottedCandidate, ...]
    batch_curve: tuple[PlottedCandidate, ...]
    marks: dict[str, tuple[int, float]]
    best: docs.CapacityDocument
    probes: tuple[docs.ProbeDocument, ...]
    curves: tuple[Curve, ...]
    main: TrialRecord | None
    problems: tuple[str, ...]

    @property
    def kind(self) -> str:
        """`tune`, `capacity`, `bench`, `quality` or `profile`: by what there is, in virtual time too."""
        kinds = {docs.TuneReport: "tune", docs.ProfileDocument: "profile", docs.QualityReport: "quality"}
        for kind, name in kinds.items():
            if isinstance(self.report, kind):
                return name
        searched = isinstance(self.report, docs.CapacityDocument) and self.report.probes
        return "capacity" if searched else "bench"

    @property
    def searched(self) -> str:
        """What candidates, probes and the capacity are: live or simulated; empty where that is not known."""
        return self.report.search_basis

    @property
    def live(self) -> tuple[float, float] | None:
        """Rate and latency at the target's quantile of the point that ran, queries/s and milliseconds."""
        point = self.report.tuned if isinstance(self.report, docs.TuneReport) else self.report
        if not isinstance(point, docs.TrialFigures) or self.target is None:
            return None
        rate = _drawable(getattr(point, "qps", None))
        latency = _drawable(getattr(point, f"p{100 * self.target.quantile:g}_ms", None))
        return None if rate is None or latency is None else (rate, latency)

    @property
    def capacity_qps(self) -> float | None:
        """The capacity of the best point, in queries per second."""
        return _drawable(self.best.capacity_qps)

    @property
    def interval(self) -> docs.Interval | None:
        """The interval of the best point's capacity."""
        low, high = (_drawable(v) for v in self.best.interval)
        return None if low is None and high is None else (low, high)


def view(run: Run) -> RunView:
    """The reading of a run."""
    report, best = _unfinished(run) if run.result is None else (docs.read_report(run.result), None)
    problems = report.problems
    if run.machine and not report.machine:
        report = replace(report, machine=docs.MachineDocument.from_json(run.machine, "machine.json"))
    points: dict[str, docs.PointDocument] = {}
    if isinstance(report, docs.TuneReport):
        points = {r: p for r, p in (("static", report.static), ("tuned", report.tuned)) if p}
        if report.kept_static and report.static:
            points.pop("tuned", None)
        best = report.tuned.capacity if report.tuned and report.tuned.capacity else best
    elif isinstance(report, docs.CapacityDocument):
        best = report
        if isinstance(report, docs.SimulateReport) and report.static:
            points = {"static": report.static, "best": tables.points(report)[0][1]}
    best = best or docs.CapacityDocument()
    target = report.target.value if isinstance(report, docs.RunReport) and report.target else None
    roles = ["static", "tuned"][: 1 if isinstance(report, docs.TuneReport) and report.kept_static else 2]
    records = {r: _records(run, points.get(r, docs.PointDocument()), r, target) for r in roles}
    curves = tuple(_curve(role, r) for role, r in records.items() if r)
    main = _main(run, report, records.get("tuned") or records["static"])
    if not curves and main is not None:
        curves = (Curve(main.name, main.log.latency_s[main.log.measured]),)
    more = len(problems) - MOST_PROBLEMS
    return RunView(
        name=run.name,
        report=report,
        complete=run.result is not None,
        target=target,
        candidates=_candidates(report),
        batch_curve=_batch_curve(report),
        marks=_marks(points),
        best=best,
        probes=tuple(p for p in best.probes if _drawable(p.rate_qps)),
        curves=curves,
        main=main,
        problems=(
            *run.problems,
            *problems[:MOST_PROBLEMS],
            *([f"result: {more} more values of the wrong type"] if more > 0 else []),
        ),
    )


def _unfinished(run: Run) -> tuple[docs.AnyReport, docs.CapacityDocument | None]:
    """What a run that did not end measured: the capacities that were found, and the best of them."""
    node = run.config.get("node")
    known = {"target": run.config.get("target"), "workload": run.config.get("workload")}
    known |= {
        "model": node.get("model") if isinstance(node, Mapping) else None,
        "machine": run.machine or None,
    }
    if run.config.get("simulated") is True:
        return docs.SimulateReport.from_json(known, "config.json"), None
    done = [docs.CandidateDocument.from_json(e) for e in run.events if e.get("event") == "CapacityDone"]
    trials = [docs.CostDocument.from_json(e) for e in run.events if e.get("event") == "TrialDone"]
    if not done:
        return docs.BenchReport.from_json(known, "config.json"), None
    cost = docs.SearchDocument(
        trials=len(trials),
        seconds=sum(t.seconds or 0.0 for t in trials),
        queries=sum(t.queries or 0 for t in trials),
        voids=sum(t.more.get("void") is True for t in trials),
    )
    known["method"] = "model" if any(e.get("phase") == "simulate" for e in run.events) else "live"
    report = docs.TuneReport.from_json(known, "config.json")
    best = max(done, key=lambda c: c.capacity_qps or 0.0)
    return replace(report, candidates=tuple(done), search=cost, problems=report.problems), best


def _drawable(value: float | None) -> float | None:
    """The value, where it can be drawn: finite, not negative, not beyond all reason."""
    return value if value is not None and 0 <= value < _LARGEST else None


def _candidates(report: docs.AnyReport) -> tuple[PlottedCandidate, ...]:
    """One a fixed batch size on the CPU: what was found last, which is the finer look."""
    found: dict[int, PlottedCandidate] = {}
    for c in report.candidates if isinstance(report, docs.TuneReport) else ():
        size = _drawable(c.batch_size)
        if not size or c.offload_above is not None or c.policy not in tables.FIXED:
            continue
        low, high = (_drawable(v) for v in c.interval)
        qps = 0.0 if c.outcome == "unreachable" else _drawable(c.capacity_qps)
        found[int(size)] = PlottedCandidate(int(size), qps, low, high)
    return tuple(found[size] for size in sorted(found))


def _batch_curve(report: docs.AnyReport) -> tuple[PlottedCandidate, ...]:
    points = report.batch_curve if isinstance(report, docs.TuneReport | docs.SimulateReport) else ()
    known = ((_drawable(p.batch_size), _drawable(p.qps)) for p in points)
    return tuple(PlottedCandidate(int(size), qps) for size, qps in known if size and qps is not None)


def _marks(points: Mapping[str, docs.PointDocument]) -> dict[str, tuple[int, float]]:
    marks = {}
    for role, point in points.items():
        limit = point.qps if point.limit_today_qps is None else point.limit_today_qps
        size, qps = _drawable(point.batch_size), _drawable(limit)
        if size and qps is not None and point.offload_above is None:
            marks[role] = (int(size), qps)
    return marks


def _records(run: Run, point: docs.PointDocument, role: str, target: Target | None) -> list[TrialRecord]:
    """The trials of an operating point at its rate; without such, the last that is named after its role.

    Void trials do not count, as they did not when the point was judged.
    """
    valid = [t for t in run.trials.values() if not summarise(t.log, target).void]
    named = [t for t in valid if t.name.split("-")[0] == role and _fits(t, point)]
    return _at_rate(named or valid, point, point.qps) or named[-1:]


def _fits(trial: TrialRecord, point: docs.PolicyDocument) -> bool:
    """Whether a trial can be of an operating point, by what is known of both."""
    ran = docs.PolicyDocument.from_json(trial.about)
    knobs = [k for k in docs.PolicyDocument.types() if k in trial.about and point.has(k)]
    return all(getattr(ran, k) == getattr(point, k) for k in knobs)


def _at_rate(
    trials: Iterable[TrialRecord], point: docs.PolicyDocument, rate: float | None
) -> list[TrialRecord]:
    if rate is None:
        return []
    return [t for t in trials if _fits(t, point) and abs(t.log.rate_qps - rate) <= _SAME_RATE * rate]


def _curve(role: str, records: list[TrialRecord]) -> Curve:
    return Curve(role, np.concatenate([t.log.latency_s[t.log.measured] for t in records]), role)


def _main(run: Run, report: docs.AnyReport, records: list[TrialRecord]) -> TrialRecord | None:
    """The longest of these trials, or of those at the rate found, or of all; those with slices first."""
    found: list[TrialRecord] = []
    if isinstance(report, docs.CapacityDocument) and isinstance(report, docs.PolicyDocument) and report.point:
        found = _at_rate(run.trials.values(), report, report.point.rate_qps)
    chosen = records or found or list(run.trials.values())
    return max(chosen, key=lambda t: (t.slices is not None, len(t.log.size)), default=None)

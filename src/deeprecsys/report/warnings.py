"""What a reader must know before relying on a result."""

from __future__ import annotations

from collections.abc import Iterator

from deeprecsys.core.profile import FAR
from deeprecsys.core.runlog import ABANDON_TARGETS, DISTURBED_SHARE
from deeprecsys.engine.spec import EngineSpec
from deeprecsys.machine.record import UNAVAILABLE
from deeprecsys.report import documents as docs
from deeprecsys.report import format as f
from deeprecsys.report.document import Document

HUGE_PAGES = 0.9
"""With less than this share of the tables on huge pages, gathers are slower than they could be."""


def warnings(report: docs.AnyReport) -> list[str]:
    """One sentence for each thing that limits what the figures of a result mean."""
    found: list[str] = []
    if isinstance(report, docs.TuneReport):
        found += [*report.warnings, *_tuning(report)]
    if isinstance(report, docs.CapacityReport):
        found += _voids(report.search)
    if isinstance(report, docs.TrialFigures):
        found += _trial(report)
    if isinstance(report, docs.CapacityDocument) and report.resolved is False:
        found.append("the budget ended the search before the interval was as narrow as asked")
    return list(dict.fromkeys([*found, *_setup(report)]))


def void(report: Document) -> str:
    """Why no figure of a trial counts; empty where they do."""
    if not isinstance(report, docs.TrialFigures) or not report.void:
        return ""
    late = f.figure(report.lateness_p99_ms)
    why = f"the load source was late (p99 {late} ms), so the load was not the one asked for"
    return f"VOID: {why}: no figure counts"


def gave_up(report: docs.AnyReport) -> str:
    """That a trial ended before its time; empty where it did not."""
    extra = report.extra if isinstance(report, docs.BenchReport) else None
    if not isinstance(report, docs.BenchReport) or not extra or not extra.abandoned:
        return ""
    after = extra.elapsed_s if report.gave_up_after_s is None else report.gave_up_after_s
    asked = f" of {f.seconds(report.asked_s)}" if report.asked_s is not None else ""
    return (
        f"gave up after {f.seconds(after)}{asked}: a query had waited for {ABANDON_TARGETS} targets "
        "(--no-abandon goes on); all figures are of the time that ran"
    )


def _trial(trial: docs.TrialFigures, name: str = "") -> Iterator[str]:
    if trial.stalled_share is not None and trial.stalled_share > DISTURBED_SHARE:
        held_up = f.share(trial.stalled_share)
        yield f"the machine stood still: batches were held up for {held_up} of the workers' time"
    if trial.served is not None and trial.served < 1:
        yield f"{name}only {f.share(trial.served)} of the offered queries were served"


def _voids(*parts: docs.CostDocument | None) -> Iterator[str]:
    voids = max((part.voids or 0 for part in parts if part), default=0)
    if voids:
        trials = "1 void trial was" if voids == 1 else f"{voids} void trials were"
        yield f"{trials} repeated: the load source was late, or the machine stood still or was slow"


def _tuning(report: docs.TuneReport) -> Iterator[str]:
    yield from _voids(report.search, report.confirmation)
    if report.search and report.search.complete is False:
        yield "the search ended with its budget, before every candidate was tried"
    for name, point in (("static: ", report.static), ("tuned: ", report.tuned)):
        if point:
            yield from (f"{name}{words}" for words in [void(point)] if words)
            yield from _trial(point, name)
        if point and point.met is False:
            yield f"{name}no rate that was tried met the target when it was run again"
    # Figures that cannot all be true: something else used the machine while one of them was measured.
    tuned, part = report.tuned.qps if report.tuned else None, report.fraction_of_bound
    if tuned is not None and report.offline_qps is not None and tuned > report.offline_qps:
        yield "the offline rate is below the tuned one: the machine was disturbed while one was measured"
    if part and part.value is not None and part.value > 1:
        yield "the tuned rate is above its bound: under this load batches took less time than in the profile"
    if report.pace is not None and not 1 / FAR < report.pace < FAR:
        yield (
            f"batches took {f.figure(report.pace)} times what the profile says while the tuned point "
            "ran: it was chosen for another speed of the machine"
        )
    margin, drift = report.margin_percent, report.drift_percent
    if margin is not None and drift is not None and drift > margin + 1:
        changed = f"the machine's speed changed by {drift:.3g} % meanwhile"
        yield f"{changed}, more than the margin of {margin:.3g} %"
    there = report.profile.machine if report.profile else None
    if report.machine and there and there.to_json() and not report.machine.like(there):
        yield f"the latency profile was measured on another machine ({there.cpu or UNAVAILABLE})"


def _setup(report: docs.AnyReport) -> Iterator[str]:
    run = report if isinstance(report, docs.RunReport) else docs.RunReport(engine=report.engine)
    node, tuned = run.node or docs.NodeDocument(), run.tuned if isinstance(run, docs.TuneReport) else None
    engine = run.engine or node.engine or ""
    scorer = EngineSpec.recorded(engine)
    if not scorer.scores and not scorer.emulated:
        yield f"engine {engine} scores nothing: the figures are of the node, not of a model"
    if run.emulated or (tuned and tuned.emulated) or scorer.emulated:
        name = f" ({run.gpu.device})" if run.gpu and run.gpu.device else ""
        title = f"the accelerator is emulated{name}"
        yield f"{title}: its batch times come from a profile, and what ran on it has no scores"
    if isinstance(report, docs.SimulateReport):
        yield "simulated: a prediction in virtual time from a latency profile, not a measurement"
    huge = node.huge_page_fraction
    if huge is not None and huge < HUGE_PAGES:
        yield f"only {f.share(huge)} of the embedding tables lie on huge pages: gathers are slower for it"
    if node.dispatcher == "normal priority":
        yield "the dispatcher ran at normal priority: SCHED_FIFO is not permitted here"

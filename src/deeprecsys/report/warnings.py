"""What a reader must know before relying on a result."""

from __future__ import annotations

from collections.abc import Iterator

from deeprecsys.core.profile import FAR
from deeprecsys.core.runlog import DISTURBED_SHARE
from deeprecsys.engine.spec import EngineSpec
from deeprecsys.machine.record import UNAVAILABLE
from deeprecsys.report import format as f
from deeprecsys.report.documents import (
    AnyReport,
    CapacityDocument,
    CapacityReport,
    NodeDocument,
    RunReport,
    SimulateReport,
    TrialFigures,
    TuneReport,
)

HUGE_PAGES = 0.9
"""With less than this share of the tables on huge pages, gathers are slower than they could be."""


def warnings(report: AnyReport) -> list[str]:
    """One sentence for each thing that limits what the figures of a result mean."""
    found = list(report.warnings) if isinstance(report, TuneReport) else []
    for part in (_load, _search, _points, _order, _setup):
        found += part(report)
    return list(dict.fromkeys(found))


def _load(report: AnyReport) -> Iterator[str]:
    if not isinstance(report, TrialFigures):
        return
    if report.void:
        late = f.figure(report.lateness_p99_ms)
        yield f"void: the load source was late (p99 {late} ms), so the load was not the one asked for"
    if report.stalled_share is not None and report.stalled_share > DISTURBED_SHARE:
        held_up = f.share(report.stalled_share)
        yield f"the machine stood still: batches were held up for {held_up} of the workers' time"


def _search(report: AnyReport) -> Iterator[str]:
    searched = report.search if isinstance(report, CapacityReport | TuneReport) else None
    confirmed = report.confirmation if isinstance(report, TuneReport) else None
    voids = max((part.voids or 0 for part in (searched, confirmed) if part), default=0)
    if voids:
        trials = "1 void trial was" if voids == 1 else f"{voids} void trials were"
        yield f"{trials} repeated: the load source was late, or the machine stood still or was slow"
    if isinstance(report, TuneReport) and report.search and report.search.complete is False:
        yield "the search ended with its budget, before every candidate was tried"
    if isinstance(report, CapacityDocument) and report.resolved is False:
        yield "the budget ended the search before the interval was as narrow as asked"


def _points(report: AnyReport) -> Iterator[str]:
    served: list[tuple[str, float | None]] = []
    if isinstance(report, TrialFigures):
        served = [("", report.served)]
    elif isinstance(report, TuneReport):
        points = {"static: ": report.static, "tuned: ": report.tuned}
        served = [(name, p.served) for name, p in points.items() if p]
        for name, p in points.items():
            if p and p.met is False:
                yield f"{name}no rate that was tried met the target when it was confirmed"
    for name, share in served:
        if share is not None and share < 1:
            yield f"{name}only {f.share(share)} of the offered queries were served"


def _order(report: AnyReport) -> Iterator[str]:
    """Figures that cannot all be true: something else used the machine while one of them was measured."""
    if not isinstance(report, TuneReport):
        return
    tuned, part = report.tuned.qps if report.tuned else None, report.fraction_of_bound
    if tuned is not None and report.offline_qps is not None and tuned > report.offline_qps:
        yield "the offline rate is below the tuned one: the machine was disturbed while one was measured"
    if part and part.value is not None and part.value > 1:
        yield "the tuned rate is above its bound: under this load batches took less time than in the profile"
    if report.pace is not None and not 1 / FAR < report.pace < FAR:
        yield (
            f"batches took {f.figure(report.pace)} times what the profile says while the tuned point was "
            "confirmed: it was chosen for another speed of the machine"
        )


def _setup(report: AnyReport) -> Iterator[str]:
    run = report if isinstance(report, RunReport) else RunReport(engine=report.engine)
    node, tuned = run.node or NodeDocument(), run.tuned if isinstance(run, TuneReport) else None
    engine = run.engine or node.engine or ""
    scorer = EngineSpec.recorded(engine)
    if not scorer.scores and not scorer.emulated:
        yield f"engine {engine} scores nothing: the figures are of the node, not of a model"
    if run.emulated or (tuned and tuned.emulated) or scorer.emulated:
        name = f" ({run.gpu.device})" if run.gpu and run.gpu.device else ""
        title = f"the accelerator is emulated{name}"
        yield f"{title}: its batch times come from a profile, and what ran on it has no scores"
    if isinstance(report, SimulateReport):
        yield "simulated: a prediction in virtual time from a latency profile, not a measurement"
    there = report.profile.machine if isinstance(report, TuneReport) and report.profile else None
    if report.machine and there and there.to_json() and not report.machine.like(there):
        yield f"the latency profile was measured on another machine ({there.cpu or UNAVAILABLE})"
    huge = node.huge_page_fraction
    if huge is not None and huge < HUGE_PAGES:
        yield f"only {f.share(huge)} of the embedding tables lie on huge pages: gathers are slower for it"
    if node.dispatcher == "normal priority":
        yield "the dispatcher ran at normal priority: SCHED_FIFO is not permitted here"

"""The page of a run, and of several runs compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from deeprecsys.report import documents as docs
from deeprecsys.report import format as f
from deeprecsys.report import tables, text
from deeprecsys.report.explain import explain, overview
from deeprecsys.report.html import Card, Facts, Notice, Page, Why
from deeprecsys.report.plots.look import Illustration
from deeprecsys.report.rundir import Run
from deeprecsys.report.sustained import how_sure
from deeprecsys.report.tables import TextTable, named, target
from deeprecsys.report.view import RunView
from deeprecsys.report.warnings import gave_up, void, warnings

SUBTITLES = {
    "quality": "scores at a lower precision compared with those of the reference",
    "tune": "the usual way, the static baseline and the tuned point, live, by load that the search never saw",
    "capacity": "the highest rate within the target, every query served",
    "bench": "one trial",
    "profile": "batch times",
}


def run_page(run: Run, view: RunView, plots: Sequence[Illustration]) -> Page:
    """The page of one run."""
    report = view.report
    title = report.model or view.name
    title += f", {target(report)}" if view.target else ""
    details = []
    if isinstance(report, docs.TuneReport):
        details += [tables.near(report.near), tables.ranked_engines(report.setups)]
    if isinstance(report, docs.TuneReport | docs.SimulateReport):
        details.append(tables.candidates(report.candidates, view.searched))
    details.append(
        tables.probes(view.probes, named("Every rate that was tried for the best point", view.searched))
    )
    return Page(
        title=title + (", simulated" if report.all_simulated else ""),
        subtitle=_subtitle(view),
        void=void(report),
        headline=_headline(view),
        notices=[
            Notice("Incomplete run directory", view.problems),
            Notice("Overload", tuple(filter(None, [gave_up(report)]))),
            Notice("Read with care", tuple(warnings(report))),
        ],
        tables=[t for t in _tables(view) if t],
        facts=_facts(report),
        plots=plots,
        why=_why(view),
        details=[t for t in details if t],
        setup=_setup(run, report),
        footer=_footer([run]),
    )


def comparison_page(runs: Sequence[Run], views: Sequence[RunView], plots: Sequence[Illustration]) -> Page:
    """The page of several runs."""
    return Page(
        title=f"{len(runs)} runs compared",
        subtitle=", ".join(tables.common([v.report for v in views])),
        notices=[
            Notice("Read with care", tuple(differences(views))),
            Notice("Incomplete run directories", tuple(f"{v.name}: {p}" for v in views for p in v.problems)),
            Notice(
                "In the runs",
                tuple(f"{v.name}: {w}" for v in views for w in (void(v.report), *warnings(v.report)) if w),
            ),
        ],
        tables=[tables.comparison([(v.name, v.report) for v in views])],
        plots=plots,
        setup=_machines(views),
        footer=_footer(runs),
    )


def differences(views: Sequence[RunView]) -> list[str]:
    """Why figures of these runs may not be compared."""
    machines = [v.report.machine or docs.MachineDocument() for v in views]
    found = []
    if any(not m.like(machines[0]) for m in machines[1:]):
        found.append("the runs were made on different machines")
    for what, values in (("target", {v.target for v in views}), ("model", {v.report.model for v in views})):
        if len(values) > 1:
            found.append(f"the runs do not have the same {what}")
    return found


def _subtitle(view: RunView) -> str:
    if not view.complete:
        return "an unfinished run: what was measured until it ended"
    if view.report.all_simulated:
        return "in virtual time, from a latency profile: not a measurement"
    return SUBTITLES[view.kind]


def _headline(view: RunView) -> list[Card]:
    report = view.report
    if isinstance(report, docs.TuneReport) and report.tuned:
        return _tuned_cards(report, report.tuned)
    if isinstance(report, docs.SimulateReport) and report.static:
        return _best_cards(report, report.static)
    if view.kind == "capacity" or (view.kind == "tune" and view.best.capacity_qps is not None):
        low, high = view.best.interval
        cards = [
            Card("capacity", f.figure(view.best.capacity_qps), f"queries/s, {f.interval(low, high)}", "tuned")
        ]
        served = report.served if isinstance(report, docs.TrialFigures) else None
        if served is not None:
            cards.append(Card("served", f.share(served), "of all offered queries"))
        return cards
    if isinstance(report, docs.BenchReport | docs.SimulateReport) and report.one_trial:
        verdict = text.met(report).partition(",")[0]
        return [
            Card("offered", f.figure(report.rate_qps), "queries/s"),
            Card(
                "p95",
                f"{f.figure(report.p95_ms)} ms",
                f"target {target(report)}, {verdict}" if verdict else "",
            ),
            Card("p99", f"{f.figure(report.p99_ms)} ms"),
            Card("served", f.share(report.served), "of all offered queries"),
        ]
    return []


def _tuned_cards(report: docs.TuneReport, tuned: docs.PointDocument) -> list[Card]:
    static, (low, high) = report.static, text.ratio_interval(report)
    between = "tuned over static, limits" if low is None else f"between {f.ratio(low)} and {f.ratio(high)}"
    if report.kept_static:
        between = "nothing proved better than static"
    verdict, _, figures = how_sure(tuned.sustained).partition(": ")
    p99 = f"{f.share(tuned.served)} of all queries served, p99 {f.figure(tuned.p99_ms)} ms"
    cards = [Card("tuned, with a margin", f.figure(tuned.qps), f"queries/s, {verdict or p99}", "tuned")]
    for role, point in (("static", static), ("tuned", tuned)):
        knobs = f"queries/s, {text.knobs(point)}" if point else "misses at any rate"
        limit = point and (point.qps if point.limit_today_qps is None else point.limit_today_qps)
        cards.append(Card(f"{role}, limit today", f.figure(limit), knobs, role))
    cards.append(Card("scheduling", f.ratio(report.ratio), between))
    if report.engine_gain is not None:
        cards.append(Card("engine", f.ratio(report.engine_gain), "over eager torch, the same batch, limits"))
    return [*cards, Card("late", f.share(tuned.miss_rate), figures)] if figures else cards


def _best_cards(report: docs.SimulateReport, static: docs.PointDocument) -> list[Card]:
    part = report.fraction_of_bound
    most = (report.bounds or {}).get(f"{part.bound}_qps") if part else None
    cards = [
        Card("static", f.figure(static.qps), f"queries/s, {text.knobs(static)}", "static"),
        Card("best", f.figure(report.qps), f"queries/s, {text.knobs(report)}", "tuned"),
        Card("ratio", f.ratio(report.ratio), "best over static"),
    ]
    if part and most is not None:
        cards.append(
            Card("limit", f.figure(most), f"queries/s by the bound; you are at {f.share(part.value)}")
        )
    return cards


def _tables(view: RunView) -> list[TextTable]:
    report = view.report
    if isinstance(report, docs.ProfileDocument):
        return [tables.batch_times(report)]
    if view.kind == "capacity":
        return [tables.probes(view.probes, named("Rates that were tried", view.searched))]
    one = isinstance(report, docs.TrialFigures) and report.offered is not None
    points = tables.points(report) if one or isinstance(report, docs.TuneReport) else []
    rows = [(role or "trial", p) for role, p in points]
    title = named("Trial" if one else "Operating points", view.report.basis)
    return [tables.operating_points(rows, title).turned()] if rows else []


def _why(view: RunView) -> Why | None:
    if view.main is None or not len(view.main.log.size):
        return None
    log, slices = view.main.log, view.main.slices
    stories = tuple(explain(log, slices, view.target))
    return Why(f"trial {view.main.name}", tuple(overview(log, slices)), stories)


def _facts(report: docs.AnyReport) -> list[Facts]:
    """What stands next to the first table: limits and cost of a search; counts of a trial."""
    if isinstance(report, docs.BenchReport | docs.SimulateReport) and report.one_trial:
        latency = [("mean", report.mean_ms), ("max", report.max_ms)]
        pairs = [*text.trial(report), *((k, f.with_unit(f.figure(v), "ms")) for k, v in latency)]
        return [Facts("Load", _known(pairs))]
    scored = report if isinstance(report, docs.TuneReport | docs.QualityReport) else None
    limits = text.context(report) if isinstance(report, docs.TuneReport | docs.SimulateReport) else []
    found = [
        Facts("Limits", _known(limits)),
        Facts("Scores", tuple(text.scores(scored.quality if scored else None))),
        Facts("Cost of the search", tuple(text.costs(report))),
        Facts("Energy", tuple(text.energy(report))),
    ]
    return [facts for facts in found if facts.pairs]


def _known(pairs: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    return tuple((name, value) for name, value in pairs if value != f.NONE)


def _setup(run: Run, report: docs.AnyReport) -> list[Facts]:
    load = report if isinstance(report, docs.RunReport) else docs.RunReport()
    config = run.config or {
        k: d.to_json() for k, d in (("workload", load.workload), ("target", load.target)) if d
    }
    return [
        Facts("Machine that simulated it" if report.all_simulated else "Machine", _machine(report)),
        Facts("Node", tuple(_flat(load.node.to_json() if load.node else {}))),
        Facts("Configuration", tuple(_flat(config))),
    ]


def _machines(views: Sequence[RunView]) -> list[Facts]:
    """Every machine once, with the runs that were made on it."""
    names: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for view in views:
        names.setdefault(_machine(view.report), []).append(view.name)
    return [Facts(f"Machine of {', '.join(of)}", machine) for machine, of in names.items()]


def _machine(report: docs.AnyReport) -> tuple[tuple[str, str], ...]:
    return tuple(_flat(report.machine.to_json() if report.machine else {}))


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    """Nested keys as one list; bytes and shares with their units."""
    for key, v in value.items():
        name = f"{prefix}{str(key).removesuffix('_bytes').replace('_', ' ')}"
        if isinstance(v, Mapping):
            yield from _flat(v, f"{name}: ")
        elif key.endswith("_bytes"):
            yield name, f.size(v)
        elif key.endswith("_fraction"):
            yield name, f.share(v)
        elif isinstance(v, list):
            yield name, ", ".join(str(x) for x in v) or f.NONE
        else:
            yield name, f.NONE if v is None else f"{v:g}" if isinstance(v, float) else str(v)


def _footer(runs: Sequence[Run]) -> str:
    parts = []
    for run in runs:
        versions = docs.MachineDocument.from_json(run.machine).versions or {}
        version = f"deeprecsys {versions.get('deeprecsys', '')}".strip()
        parts.append(" ".join(p for p in (run.name, run.created or "", version) if p))
    return " · ".join(parts)

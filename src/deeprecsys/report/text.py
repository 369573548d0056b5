"""Results as text for a terminal: aligned columns, no boxes, no colour. What is unknown shows as "–"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from typing import Any

from deeprecsys.machine.record import UNAVAILABLE
from deeprecsys.report import documents as docs
from deeprecsys.report import format as f
from deeprecsys.report import tables
from deeprecsys.report.sustained import how_sure, margin_words, next_command, why
from deeprecsys.report.tables import GAP, TextTable, target
from deeprecsys.report.warnings import gave_up, void, warnings

Pairs = list[tuple[str, str]]
"""Names and values, for lines of text or a list on a page."""
LatencyReport = docs.BenchReport | docs.CapacityReport | docs.SimulateReport


def text_of(report: docs.AnyReport) -> str:
    """Any result; a void one says so first."""
    return _join(void(report), _text_of(report))


def _text_of(report: docs.AnyReport) -> str:
    match report:
        case docs.SimulateReport():
            return simulate(report)
        case docs.TuneReport():
            return tune(report)
        case docs.CapacityReport():
            return capacity(report)
        case docs.ProfileDocument():
            return profile(report)
        case docs.QualityReport():
            return quality(report)
        case _:
            return bench(report)


def whole_of(report: docs.AnyReport) -> str:
    """Any result with all that is behind it, as `report.txt` and `--verbose` have it."""
    return tune_whole(report) if isinstance(report, docs.TuneReport) else text_of(report)


def profile(report: docs.ProfileDocument) -> str:
    """A latency profile: the median of s(b) for each number of busy workers, and items per second."""
    title = f"{_model(report)}: batch time s(b), {_engine(report)}"
    return _join(title, str(tables.batch_times(report)), where(report), cautions(report))


def bench(report: docs.BenchReport) -> str:
    """One live trial."""
    title = f"{_model(report)}: {f.figure(report.qps)} queries/s offered, {operating_point(report)}"
    reached = met(report)
    verdict = [("target", f"{target(report)}: {reached}" if reached else target(report))]
    pairs = _pairs(verdict + trial(report))
    return _join(title, gave_up(report), _latencies(report), pairs, where(report), cautions(report))


def simulate(report: docs.SimulateReport) -> str:
    """One trial or a capacity in virtual time, and its bounds."""
    count = (report.workers or {}).get("cpu")
    workers = "1 worker" if count == 1 else f"{f.count(count)} workers"
    words = [f"{_model(report)}, simulated", workers]
    words.append(operating_point(report))
    if report.searched:
        words.insert(1, target(report))
    found = _capacity(report) if report.searched else f"{f.figure(report.qps)} queries/s"
    latency = _latencies(report) if any(v is not None for v in _five(report)) else ""
    if report.stable is False:
        latency = (
            f"unstable: the arrivals bring at least {f.count(100 * (report.load or 1.0))} % of "
            "what the workers can do, and the line grows without end"
        )
    reached = "" if report.searched else met(report)
    pairs = [("target", f"{target(report)}: {reached}")] if reached else []
    lines = "\n".join(filter(None, [f"{', '.join(words)}: {found}", _beside(report), limit(report)]))
    return _join(lines, latency, _pairs(pairs + trial(report)), cautions(report))


def _beside(report: docs.SimulateReport) -> str:
    """What the static batch carries; empty where no policy was searched."""
    static = report.static
    if static is None:
        return ""
    carries = f"{f.figure(static.qps)} queries/s" if static.qps else "misses the target at any rate"
    ratio = f"; the best policy carries {f.ratio(report.ratio)} that" if report.ratio is not None else ""
    return f"static, batch size {f.count(static.batch_size)}: {carries}{ratio}"


def limit(report: docs.BoundsDocument) -> str:
    """What no policy exceeds and how near the rate is to it, in a line; empty where that is not known."""
    part = report.fraction_of_bound
    most = (report.bounds or {}).get(f"{part.bound}_qps") if part else None
    if part is None or part.value is None or most is None:
        return ""
    return f"at most about {f.figure(most)} queries/s by the bound; you are at {f.share(part.value)}"


def capacity(report: docs.CapacityReport) -> str:
    """The rate of one policy, how sure it is, its limit, and all rates that were tried."""
    title = f"{_model(report)}, {target(report)}, {operating_point(report)}: {_capacity(report)}"
    sure = "\n".join(filter(None, (how_sure(report.sustained), margin_words(report))))
    tried = ""
    if report.point and not sure:
        tried = f"highest rate that was tried and met it: {f.figure(report.point.rate_qps)} queries/s"
    rates, near = str(tables.probes(report.probes)), str(tables.near(report.near))
    return _join(title, sure, tried, near, rates, cost(report), where(report), cautions(report))


def tune(report: docs.TuneReport, folder: str = "") -> str:
    """Four lines: the result, how sure it is, what it gains by, the next command; and what to beware of.

    Args:
        folder: the run directory.
    """
    if report.tuned is None:
        return _join(headline(report), cautions(report))
    sure = "; ".join(filter(None, (how_sure(report.tuned.sustained), margin_words(report))))
    lines = [headline(report), sure or f.NONE, why(report), next_command(report, folder)]
    return _join("\n".join(lines), cautions(report))


def tune_whole(report: docs.TuneReport, folder: str = "") -> str:
    """What `tune` says, and everything behind it."""
    return _join(
        tune(report, folder),
        str(tables.operating_points(tables.points(report))),
        str(tables.near(report.near)),
        str(tables.ranked_engines(report.setups)),
        str(tables.candidates(report.candidates, report.search_basis)),
        _pairs(scores(report.quality)),
        _pairs(context(report) + energy(report)),
        cost(report),
        where(report),
    )


def quality(report: docs.QualityReport) -> str:
    """What a lower precision did to scores and rankings."""
    return _join(f"{_model(report)}, {_engine(report)}", _pairs(scores(report.quality)), where(report))


def compare(reports: Sequence[tuple[str, docs.AnyReport]]) -> str:
    """Several results under their names, one line for each operating point in them."""
    voids = "\n".join(f"{name}: {words}" for name, r in reports if (words := void(r)))
    return _join(voids, ", ".join(tables.common([r for _, r in reports])), str(tables.comparison(reports)))


def headline(report: docs.TuneReport) -> str:
    """One line: model, target, the rate and its latency, live."""
    tuned = report.tuned
    text = f"{_model(report)}, {target(report)}: "
    if not tuned:
        return text + "not tuned to the end"
    t = report.target
    name = f.percentile(0.95 if t is None or t.quantile is None else t.quantile)
    reached = getattr(tuned, f"{name}_ms", None)
    latency = "" if reached is None else f", {name} {f.figure(reached)} ms live"
    return f"{text}{f.figure(tuned.qps)} queries/s{latency}"


def ratio_interval(report: docs.TuneReport) -> tuple[float | None, float | None]:
    """The interval of tuned over static; None twice where it is open."""
    low, high = report.ratio_interval or (None, None)
    return (low, high) if low and low > 0 and high and high < inf else (None, None)


def cautions(report: docs.AnyReport) -> str:
    """The warnings, one a line."""
    return "\n".join(f"warning: {w}" for w in warnings(report))


def trial(report: LatencyReport) -> Pairs:
    """The figures of a trial other than its latencies."""
    found = [
        ("goodput", f.with_unit(f.figure(report.goodput_qps), "queries/s, answered within the target")),
        ("throughput", f.with_unit(f.figure(report.throughput_qps), "queries/s, answered at all")),
        ("served", _served(report)),
        ("utilisation", f.share(report.utilisation)),
    ]
    if not isinstance(report, docs.BenchReport):  # the source of virtual time is never late
        return found
    return [
        *found,
        *_accelerator_load(report),
        ("lateness p99", f.with_unit(f.figure(report.lateness_p99_ms), "ms, of the load source")),
        ("offline rate", f.with_unit(f.figure(report.offline_qps), "queries/s")),
        *energy(report),
    ]


def _accelerator_load(report: docs.BenchReport) -> Pairs:
    """The accelerator's share of a trial's items, and the share of the time in which it was busy."""
    used = (report.extra.devices if report.extra else None) or {}
    gpu, items = used.get("gpu"), sum(u.items or 0 for u in used.values())
    if not gpu or not items:
        return []
    elapsed, count = report.extra and report.extra.elapsed_s, gpu.workers
    busy = f.share(gpu.busy_s / (count * elapsed)) if elapsed and count and gpu.busy_s is not None else f.NONE
    return [("accelerator", f"{f.share((gpu.items or 0) / items)} of the items, busy {busy}")]


def context(report: docs.TuneReport | docs.SimulateReport) -> Pairs:
    """Offline rate, bounds and how far the simulator was."""
    if isinstance(report, docs.SimulateReport):
        return _bounds(report)
    error = f.signed_share(report.simulator_error)
    pairs = [
        ("offline rate", f.with_unit(f.figure(report.offline_qps), "queries/s, without a target")),
        *_bounds(report),
        ("simulator error", f.with_unit(error, "in p95, compared with live")),
    ]
    if report.pace is not None:
        paced = f.signed_share(report.paced_simulator_error)
        pace = f"{paced}: batches took {f.figure(report.pace)} times what the profile says"
        pairs.append(("at that speed", pace))
    return pairs


BOUNDS = (
    ("capacity", "capacity"),
    ("O_fcfs", "o_fcfs"),
    ("O_drop", "o_drop"),
    ("two-pool", "two_pools"),
)


def _bounds(report: docs.BoundsDocument) -> Pairs:
    """The bounds that hold for the policy: where its queries share batches, those that allow that."""
    bounds, part = report.bounds or {}, report.fraction_of_bound
    mixed = "_coalescing" if part and (part.bound or "").endswith("_coalescing") else ""
    fraction = f.NONE
    if part and part.value is not None:
        named = {key: f"the {name} bound" for name, key in BOUNDS}
        known = (part.bound or "").removesuffix("_coalescing")
        fraction = f"{f.share(part.value)} of {named.get(known, known or 'the bound')}"
    return [
        *(
            (f"{name} bound", f.with_unit(f.figure(bounds.get(f"{key}{mixed}_qps")), "queries/s"))
            for name, key in BOUNDS
        ),
        ("reached", fraction),
    ]


def energy(report: docs.AnyReport) -> Pairs:
    """The energy of a trial, or of both operating points."""
    parts: dict[str, docs.EnergyDocument | None] = {}
    if isinstance(report, docs.BenchReport):
        parts = {"energy": report.extra.energy if report.extra else None}
    elif isinstance(report, docs.TuneReport):
        points = {"static": report.static, "tuned": report.tuned}
        parts = {f"{role} energy": p.energy for role, p in points.items() if p and _metered(p.energy)}
    return [(name, _energy(spent)) for name, spent in parts.items() if spent]


def _metered(spent: docs.EnergyDocument | None) -> bool:
    """Whether there was a meter."""
    return spent is not None and spent.qps_per_watt is not None and not isinstance(spent.qps_per_watt, str)


def _energy(spent: docs.EnergyDocument) -> str:
    joules, seconds = spent.joules, spent.seconds
    if spent.qps_per_watt is None or isinstance(spent.qps_per_watt, str):
        return UNAVAILABLE
    watts = None if joules is None or isinstance(joules, str) or not seconds else joules / seconds
    return f"{f.figure(spent.qps_per_watt)} queries/s per watt, {f.figure(watts)} W"


def scores(q: docs.QualityDocument | None) -> Pairs:
    """Scores at a lower precision compared with the reference's."""
    if q is None:
        return []
    items = f"{f.count(q.queries)} queries, {f.count(q.items)} items"
    return [
        ("scores", f"{items}, compared with {q.reference or 'the reference'}"),
        ("computed in", q.arithmetic or f.NONE),
        ("tables", f.size(q.table_bytes)),
        ("largest difference", f"{_short(q.largest_difference)}, scores up to {_short(q.largest_score)}"),
        ("Spearman's rho", _mean_and_least(q.spearman, q.spearman_least)),
        ("Kendall's tau", _mean_and_least(q.kendall, q.kendall_least)),
        ("top 10 kept", _mean_and_least(q.top_10, q.top_10_least)),
        ("best item kept", _places(q.first)),
    ]


def _mean_and_least(mean: float | None, least: float | None) -> str:
    return (
        _places(mean) if mean is None or least is None else f"{_places(mean)}, worst query {_places(least)}"
    )


def _places(value: float | None) -> str:
    return f.NONE if value is None else f"{value:.4f}"


def _short(value: float | None) -> str:
    return f.NONE if value is None else f"{value:.2g}"


def cost(report: docs.TuneReport | docs.CapacityReport) -> str:
    """What the search and the trials of the points took, a line each."""
    return "\n".join(f"{name}: {words}" for name, words in costs(report))


def costs(report: docs.AnyReport) -> Pairs:
    """What each part of a search took: live, and in virtual time."""
    parts: dict[str, docs.CostDocument | None] = {}
    if isinstance(report, docs.CapacityReport):
        own = docs.CostDocument(trials=report.trials, seconds=report.seconds, queries=report.queries)
        parts = {"search": report.search or own}
    elif isinstance(report, docs.TuneReport):
        simulated = report.search.simulated if report.search else None
        parts = {
            "search": report.search,
            "search, in virtual time": simulated,
            "live trials of the points": report.confirmation,
        }
    found = [(name, cost_words(part)) for name, part in parts.items() if part]
    return [(name, words) for name, words in found if words]


def cost_words(part: docs.CostDocument) -> str:
    """Trials, queries and seconds; empty where none of them is known."""
    if part.trials is None and part.seconds is None and part.queries is None:
        return ""
    return f"{f.count(part.trials)} trials, {f.count(part.queries)} queries, {f.seconds(part.seconds)}"


def where(report: docs.Report) -> str:
    """The machine in one line."""
    m = report.machine
    if m is None or not m.to_json():
        return ""
    size = [f.size(m.memory_bytes)] if m.memory_bytes is not None else []
    return "machine: " + ", ".join([m.cpu or UNAVAILABLE, f"{f.count(m.cores)} cores", *size])


def operating_point(report: LatencyReport) -> str:
    """Batch size, threshold and engine in words."""
    return ", ".join(p for p in (knobs(report), _engine(report)) if p)


KNOBS = {
    "batch_size": "batch size {}",
    "finest": "finest {}",
    "delay_ms": "delay {} ms",
    "timeout_ms": "timeout {} ms",
    "step": "step {}",
    "offload_above": "offload above {} items",
    "device_batch": "device batch {}",
}


def knobs(policy: docs.PolicyDocument | Mapping[str, Any]) -> str:
    """A policy's name, where a batch size alone does not describe it, and its knobs."""
    point = policy if isinstance(policy, docs.PolicyDocument) else docs.PolicyDocument.from_json(policy)
    name = tables.policy(point)
    values = ((getattr(point, k), words) for k, words in KNOBS.items())
    known = [words.format(f"{v:,.10g}") for v, words in values if v is not None]
    return ", ".join([*([] if name == f.NONE else [name]), *known])


def met(report: LatencyReport) -> str:
    """Whether the latency at the target's quantile is within it; empty where that is not known."""
    if report.void:
        return "void"
    t = report.target
    if t is None or t.latency_ms is None or t.quantile is None:
        return ""
    reached = getattr(report, f"p{100 * t.quantile:g}_ms", None)
    if reached is None:
        return ""
    if reached == inf:
        return f"missed, more than {f.share(1 - t.quantile)} without an answer"
    return "met" if reached <= t.latency_ms else f"missed, {f.figure(reached)} ms"


def _capacity(report: docs.CapacityReport | docs.SimulateReport) -> str:
    """The rate that was found and its interval, or what is known instead."""
    low, high = report.interval
    found = report.qps if report.qps is not None else report.capacity_qps
    if found is None:
        return f"below {f.figure(high)} queries/s" if high else "no capacity found"
    words = f"{f.figure(found)} queries/s"
    if isinstance(report, docs.CapacityReport) and report.sustained:
        return words  # its limit has the interval
    if low is not None:
        words += f", {f.interval(low, high)} at {f.share(report.confidence)} confidence"
    return words


def _five(report: docs.TrialFigures) -> tuple[float | None, ...]:
    return report.mean_ms, report.p50_ms, report.p95_ms, report.p99_ms, report.max_ms


def _latencies(report: LatencyReport) -> str:
    header = (
        f"latency, {docs.SIMULATED if report.all_simulated else docs.LIVE}",
        "mean",
        "p50",
        "p95",
        "p99",
        "max",
    )
    return str(TextTable(header, (("ms", *map(f.figure, _five(report))),)))


def _model(report: docs.Report) -> str:
    return report.model or "unknown model"


def _engine(report: docs.Report) -> str:
    parts = [p for p in (report.engine, report.precision) if p]
    if report.threads and report.threads > 1:
        parts.append(f"{report.threads} threads")
    words = " ".join(parts) or "engine unknown"
    return f"{words}, {device}" if (device := accelerator(report)) else words


def accelerator(report: docs.Report) -> str:
    """The accelerator in words, an emulated one labelled; empty where there is none."""
    gpu = report.gpu if isinstance(report, docs.RunReport) else None
    if gpu is None:
        return ""
    words = f"{'emulated ' if gpu.emulated else ''}{gpu.device or gpu.engine}"
    return words if gpu.workers in (None, 0, 1) else f"{gpu.workers} × {words}"


def _served(report: docs.TrialFigures) -> str:
    text = f.share(report.served)
    if report.offered is None:
        return text
    text += f": {f.count(report.completed)} of {f.count(report.offered)} queries"
    ended = [report.completed, report.shed, report.failed]
    left = report.offered - sum(n or 0 for n in ended)
    parts = ((report.shed, "shed"), (report.failed, "failed"), (left, "left open"))
    return text + "".join(f", {f.count(n)} {what}" for n, what in parts if n)


def _pairs(values: Pairs) -> str:
    """Names and values, one pair a line, without those that have no value."""
    shown = [(name, value) for name, value in values if value not in (f.NONE, "")]
    width = max((len(name) for name, _ in shown), default=0)
    return "\n".join(f"{name.ljust(width)}{GAP}{value}" for name, value in shown)


def _join(*parts: str) -> str:
    return "\n\n".join(p for p in parts if p)

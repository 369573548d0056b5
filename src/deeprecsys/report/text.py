"""Results as text for a terminal: aligned columns, no boxes, no colour. Documents in, text out.

The documents are those of `--json`; a key that is missing or null shows as "–".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf

from deeprecsys.report import energy, tables
from deeprecsys.report import format as f
from deeprecsys.report import quality as quality_of
from deeprecsys.report.tables import GAP, Document, TextTable, target
from deeprecsys.report.warnings import simulated, warnings


def models(rows: Sequence[Document]) -> str:
    """The zoo: one line a model. Keys: name, target_ms, bottleneck, tables, table_bytes,
    dense_parameters, flops_per_item, bytes_per_item."""
    return str(tables.models(rows))


def profile(doc: Document) -> str:
    """A latency profile: the median of s(b) for each number of busy workers, and items per second."""
    title = f"{_model(doc)}: batch time s(b), {_engine(doc)}"
    return _join(title, str(tables.batch_times(doc)), where(doc), cautions(doc))


def bench(doc: Document) -> str:
    """One live trial."""
    rate = doc.get("rate_qps", doc.get("qps"))
    title = f"{_model(doc)}: {f.figure(rate)} queries/s offered, {operating_point(doc)}"
    names = ("mean", "p50", "p95", "p99", "max")
    latency = TextTable(("latency", *names), (("ms", *(f.ms(doc.get(f"{k}_ms")) for k in names)),))
    reached = met(doc)
    verdict = [("target", f"{target(doc)}: {reached}" if reached else target(doc))]
    return _join(title, str(latency), _pairs(verdict + trial(doc)), where(doc), cautions(doc))


def simulate(doc: Document) -> str:
    """One trial or a capacity in virtual time, and its bounds."""
    words = [f"{_model(doc)}, simulated", f"{f.count((doc.get('workers') or {}).get('cpu'))} workers"]
    words.append(operating_point(doc))
    searched = "probes" in doc
    if searched:
        words.insert(1, target(doc))
    title = (
        ", ".join(words) + ": " + (_capacity(doc) if searched else f"{f.figure(doc.get('qps'))} queries/s")
    )
    names = ("mean", "p50", "p95", "p99", "max")
    latency = str(TextTable(("latency", *names), (("ms", *(f.ms(doc.get(f"{k}_ms")) for k in names)),)))
    if doc.get("stable") is False:
        latency = (
            f"unstable: the arrivals bring at least {f.count(100 * (f.number(doc.get('load')) or 1.0))} % of "
            "what the workers can do, and the line grows without end"
        )
    elif all(doc.get(f"{k}_ms") is None for k in names):
        latency = ""
    reached = "" if searched else met(doc)
    pairs = [("target", f"{target(doc)}: {reached}")] if reached else []
    return _join(title, latency, _pairs(pairs + trial(doc) + context(doc)), cautions(doc))


def trial(doc: Document) -> list[tuple[str, str]]:
    """What a trial was besides its latencies, by name."""
    found = [("served", _served(doc)), ("utilisation", f.share(doc.get("utilisation"))), *devices(doc)]
    if simulated(doc):  # the source of virtual time is never late, and nothing ran offline
        return found
    return [
        *found,
        ("lateness p99", f.with_unit(f.ms(doc.get("lateness_p99_ms")), "ms, of the load source")),
        ("offline rate", f.with_unit(f.figure(doc.get("offline_qps")), "queries/s")),
        *energy.pairs(doc),
    ]


def devices(doc: Document) -> list[tuple[str, str]]:
    """What the accelerator's share of a trial was, of items and of its own time."""
    used = (doc.get("extra") or {}).get("devices") or {}
    gpu, items = used.get("gpu"), sum(f.number(u.get("items")) or 0 for u in used.values())
    if not gpu or not items:
        return []
    elapsed = f.number((doc.get("extra") or {}).get("elapsed_s"))
    busy = f.share(gpu["busy_s"] / (gpu["workers"] * elapsed)) if elapsed else f.NONE
    return [("accelerator", f"{f.share(gpu['items'] / items)} of the items, busy {busy}")]


def capacity(doc: Document) -> str:
    """The highest rate of one policy, the rate that was tried and met the target, and all others."""
    title = f"{_model(doc)}, {target(doc)}, {operating_point(doc)}: {_capacity(doc)}"
    point = doc.get("point") or {}
    tried = (
        f"highest rate that was tried and met it: {f.figure(point['rate_qps'])} queries/s" if point else ""
    )
    rates = tables.probes(doc.get("probes") or [])
    return _join(title, tried, str(rates) if rates else "", cost(doc), where(doc), cautions(doc))


def _capacity(doc: Document) -> str:
    """A capacity and its interval."""
    low, high = (doc.get("interval_qps") or (None, None))[:2]
    found = f.number(doc.get("qps", doc.get("capacity_qps")))
    if found is None:
        return f"below {f.figure(high)} queries/s" if f.number(high) else "no capacity found"
    words = f"{f.figure(found)} queries/s"
    if f.number(low) is not None:
        words += f", {f.interval(low, high)} at {f.share(doc.get('confidence'))} confidence"
    return words


def tune(doc: Document) -> str:
    """Static and tuned side by side, how sure that is, and what it took."""
    points = tables.operating_points(tables.points(doc))
    setups, tried = tables.setups(doc), tables.candidates(doc)
    return _join(
        headline(doc),
        str(points) if points else "",
        str(setups) if setups else "",
        str(tried) if tried else "",
        _pairs(quality_of.pairs(doc)),
        _pairs(context(doc) + energy.pairs(doc)),
        cost(doc),
        where(doc),
        cautions(doc),
    )


def quality(doc: Document) -> str:
    """What a lower precision did to scores and rankings."""
    return _join(f"{_model(doc)}, {_engine(doc)}", _pairs(quality_of.pairs(doc)), where(doc))


def compare(docs: Sequence[tuple[str, Document]]) -> str:
    """Several results under their names, one line for each operating point in them."""
    return _join(", ".join(tables.common([d for _, d in docs])), str(tables.comparison(docs)))


def headline(doc: Document) -> str:
    """One line: model, target, static → tuned, the ratio and its interval."""
    static, tuned = doc.get("static") or {}, doc.get("tuned") or {}
    text = f"{_model(doc)}, {target(doc)}: "
    if not tuned:
        return text + "not tuned to the end"
    if doc.get("kept_static"):
        return text + f"{f.figure(tuned.get('qps'))} queries/s; nothing proved better than the static point"
    text += f"{f.figure(tuned.get('qps'))} queries/s tuned"
    if f.number(static.get("qps")) is not None:
        value, low, high = ratio_of(doc)
        text += f", {f.ratio(value)} the static {f.figure(static.get('qps'))}"
        if low is not None and high is not None:
            text += f" (between {f.ratio(low)} and {f.ratio(high)})"
    return text


def ratio_of(doc: Document) -> tuple[float | None, float | None, float | None]:
    """Tuned over static, and its interval; None for an interval that is open."""
    low, high = (f.number(v) for v in (doc.get("ratio_interval") or (None, None))[:2])
    if low is None or high is None or low <= 0 or high == inf:
        low = high = None
    return f.number(doc.get("ratio")), low, high


def cautions(doc: Document) -> str:
    """The warnings, one a line."""
    return "\n".join(f"warning: {w}" for w in warnings(doc))


def context(doc: Document) -> list[tuple[str, str]]:
    """Offline rate, bounds and how far the simulator was, by name."""
    bounds, part = doc.get("bounds") or {}, doc.get("fraction_of_bound") or {}
    # Where queries share batches, so do those that the bounds allow.
    mixed = "_coalescing" if str(part.get("bound", "")).endswith("_coalescing") else ""
    fraction = f.NONE
    if f.number(part.get("value")) is not None:
        fraction = f"{f.share(part['value'])} of {part.get('bound', 'the bound')}"
    return [
        ("offline rate", f.with_unit(f.figure(doc.get("offline_qps")), "queries/s, nobody waiting")),
        *(
            (f"{name} bound", f.with_unit(f.figure(bounds.get(f"{key}{mixed}_qps")), "queries/s"))
            for name, key in BOUNDS
        ),
        ("reached", fraction),
        ("simulator error", f.with_unit(f.signed_share(doc.get("simulator_error")), "in p95, against live")),
        *_pace(doc),
    ]


def _pace(doc: Document) -> list[tuple[str, str]]:
    """How fast the machine was while the tuned point was confirmed, and the simulator's error at that."""
    pace = f.number(doc.get("pace"))
    if pace is None:
        return []
    error = f.signed_share(doc.get("paced_simulator_error"))
    return [("at its pace", f"{error}: batches then took {f.figure(pace)} times what the profile says")]


def cost(doc: Document) -> str:
    """What search and confirmation took, a line each."""
    return "\n".join(f"{name}: {words}" for name, words in costs({**doc, "search": doc.get("search") or doc}))


def costs(doc: Document) -> list[tuple[str, str]]:
    """What each part of a search took, by name; live, but for what was simulated."""
    search = doc.get("search") or {}
    parts = {
        "search": search,
        "search, simulated": search.get("simulated"),
        "confirmation": doc.get("confirmation"),
    }
    return [
        (n, words) for n, part in parts.items() if isinstance(part, Mapping) and (words := cost_words(part))
    ]


def cost_words(part: Document) -> str:
    """Trials, queries and seconds; nothing where none of them is known."""
    if all(f.number(part.get(k)) is None for k in ("trials", "seconds", "queries")):
        return ""
    return (
        f"{f.count(part.get('trials'))} trials, {f.count(part.get('queries'))} queries, "
        f"{f.seconds(part.get('seconds'))}"
    )


def where(doc: Document) -> str:
    """The machine in one line."""
    machine = doc.get("machine") or {}
    if not isinstance(machine, Mapping) or not machine:
        return ""
    parts = [str(machine.get("cpu", f.UNAVAILABLE)), f"{f.count(machine.get('cores'))} cores"]
    if f.number(machine.get("memory_bytes")) is not None:
        parts.append(f.size(machine["memory_bytes"]))
    return "machine: " + ", ".join(parts)


def operating_point(doc: Document) -> str:
    """Batch size, threshold and engine in words."""
    return ", ".join(p for p in (knobs(doc), _engine(doc)) if p)


BOUNDS = (
    ("capacity", "capacity"),
    ("O_fcfs", "o_fcfs"),
    ("O_drop", "o_drop"),
    ("two-pool", "two_pools"),
)
KNOBS = {
    "batch_size": "batch size {}",
    "finest": "finest {}",
    "delay_ms": "delay {} ms",
    "timeout_ms": "timeout {} ms",
    "step": "step {}",
    "offload_above": "offload above {} items",
    "device_batch": "device batch {}",
}


def knobs(doc: Document) -> str:
    """A policy's name, where a batch size alone does not describe it, and its knobs."""
    name = tables.policy(doc)
    values = ((f.number(doc.get(k)), words) for k, words in KNOBS.items())
    known = [words.format(f"{v:,.10g}") for v, words in values if v is not None]
    return ", ".join([*([] if name == f.NONE else [name]), *known])


def met(doc: Document) -> str:
    """Whether the latency at the target's quantile is within it; nothing where that is not known."""
    t = doc.get("target") or {}
    limit, quantile = f.number(t.get("latency_ms")), f.number(t.get("quantile"))
    if limit is None or quantile is None:
        return ""
    reached = f.number(doc.get(f"p{100 * quantile:g}_ms"))
    if reached is None:
        return ""
    return "met" if reached <= limit else f"missed, {f.ms(reached)} ms"


def _model(doc: Document) -> str:
    return str(doc.get("model") or "unknown model")


def _engine(doc: Document) -> str:
    parts = [str(doc[k]) for k in ("engine", "precision") if doc.get(k)]
    threads = f.number(doc.get("threads"))
    if threads and threads > 1:
        parts.append(f"{threads:.0f} threads")
    words = " ".join(parts) or "engine unknown"
    return f"{words}, {device}" if (device := accelerator(doc)) else words


def accelerator(doc: Document) -> str:
    """The accelerator in words, an emulated one labelled; nothing where there is none."""
    gpu = doc.get("gpu")
    if not isinstance(gpu, Mapping):
        return ""
    words = f"{'emulated ' if gpu.get('emulated') else ''}{gpu.get('device') or gpu.get('engine')}"
    count = f.number(gpu.get("workers")) or 1
    return words if count == 1 else f"{count:.0f} × {words}"


def _served(doc: Document) -> str:
    text = f.share(doc.get("served"))
    if f.number(doc.get("offered")) is None:
        return text
    text += f": {f.count(doc.get('completed'))} of {f.count(doc.get('offered'))} queries"
    lost = [(f.number(doc.get(k)), k) for k in ("shed", "failed")]
    return text + "".join(f", {n:.0f} {k}" for n, k in lost if n)


def _pairs(values: Sequence[tuple[str, str]]) -> str:
    """Names and values, one pair a line; pairs without a value go."""
    shown = [(name, value) for name, value in values if value not in (f.NONE, "")]
    width = max((len(name) for name, _ in shown), default=0)
    return "\n".join(f"{name.ljust(width)}{GAP}{value}" for name, value in shown)


def _join(*parts: str) -> str:
    return "\n\n".join(p for p in parts if p)

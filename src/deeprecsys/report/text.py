"""Results as text for a terminal: aligned columns, no boxes, no colour. Documents in, text out.

The documents are those of `--json` (docs, "Keys of the JSON"); a key that is missing or null shows as "–".
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from deeprecsys.report import format as f

Document = Mapping[str, Any]
GAP = "  "


def table(
    header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1, optional: Collection[str] = ()
) -> str:
    """Aligned columns: the first `left` to the left, the others to the right.

    Columns named in `optional` are left out where they have no value in any row.
    """
    kept = [
        i for i, name in enumerate(header) if name not in optional or any(row[i] != f.NONE for row in rows)
    ]
    lines = [[line[i] for i in kept] for line in (header, *rows)]
    width = [max(len(line[i]) for line in lines) for i in range(len(kept))]

    def line(cells: list[str]) -> str:
        padded = [
            c.ljust(w) if k < left else c.rjust(w) for k, (c, w) in enumerate(zip(cells, width, strict=True))
        ]
        return GAP.join(padded).rstrip()

    return "\n".join(line(cells) for cells in lines)


def pairs(values: Sequence[tuple[str, str]]) -> str:
    """Names and values, one pair a line; pairs without a value go."""
    shown = [(name, value) for name, value in values if value not in (f.NONE, "")]
    width = max((len(name) for name, _ in shown), default=0)
    return "\n".join(f"{name.ljust(width)}{GAP}{value}" for name, value in shown)


def models(rows: Sequence[Document]) -> str:
    """The zoo: one line a model. Keys: name, target_ms, bottleneck, tables, table_bytes,
    dense_parameters, flops_per_item, bytes_per_item."""
    header = ("model", "bottleneck", "p95 target", "tables", "embeddings", "dense weights", "FLOP/item",
              "bytes/item")  # fmt: skip
    body = [
        (
            str(m.get("name", f.NONE)),
            str(m.get("bottleneck") or f.NONE),
            _with(f.ms(m.get("target_ms")), "ms"),
            f.count(m.get("tables")),
            f.size(m.get("table_bytes")),
            f.magnitude(m.get("dense_parameters")),
            f.magnitude(m.get("flops_per_item")),
            f.size(m.get("bytes_per_item")),
        )
        for m in rows
    ]
    return table(header, body, left=2)


def profile(doc: Document) -> str:
    """A latency profile: the median of s(b) for each number of busy workers, and items per second."""
    points = [p for p in doc.get("points", []) if p.get("seconds")]
    levels = sorted({p.get("busy", 1) for p in points})
    found = {(p.get("busy", 1), p["batch"]): _quantiles(p["seconds"]) for p in points}
    header = ["batch"]
    for k in levels:
        workers = "1 busy" if k == 1 else f"{k} busy"
        header += [f"{workers}: ms", "spread", "items/s"]
    rows = []
    for batch in sorted({p["batch"] for p in points}):
        row = [f.count(batch)]
        for k in levels:
            least, median, most = found.get((k, batch), (None, None, None))
            spread = f"{f.figure(1e3 * least)}–{f.figure(1e3 * most)}" if least and most else f.NONE
            row += [f.figure(median and 1e3 * median), spread, f.count(median and k * batch / median)]
        rows.append(row)
    title = f"{doc.get('model', f.NONE)}: batch time s(b), {_engine(doc)}"
    return "\n\n".join([title, table(header, rows, left=0), _where(doc)]).rstrip()


def bench(doc: Document) -> str:
    """One live trial."""
    point = _operating_point(doc)
    rate = doc.get("rate_qps", doc.get("qps"))
    title = f"{doc.get('model', f.NONE)}: {f.figure(rate)} queries/s offered, {point}"
    latency = table(
        ("latency", "mean", "p50", "p95", "p99", "max"),
        [("ms", *(f.ms(doc.get(f"{k}_ms")) for k in ("mean", "p50", "p95", "p99", "max")))],
    )
    counts = pairs(
        [
            ("target", target(doc) + _met(doc)),
            ("served", _served(doc)),
            ("utilisation", f.share(doc.get("utilisation"))),
            ("lateness p99", _with(f.ms(doc.get("lateness_p99_ms")), "ms, of the load source")),
            ("offline rate", _with(f.figure(doc.get("offline_qps")), "queries/s")),
        ]
    )
    return _join(title, latency, counts, _where(doc), *warnings(doc))


def capacity(doc: Document) -> str:
    """The highest rate of one policy."""
    low, high = (doc.get("interval_qps") or (None, None))[:2]
    title = f"{doc.get('model', f.NONE)}, {target(doc)}: {f.figure(doc.get('qps'))} queries/s"
    if f.number(low) is not None:
        title += f" ({f.interval(low, high)} at {f.share(doc.get('confidence'))} confidence)"
    return _join(title, _points([("", doc)]), probes(doc.get("probes") or []), _cost(doc), _where(doc),
                 *warnings(doc))  # fmt: skip


def tune(doc: Document) -> str:
    """Static and tuned side by side, how sure that is, and what it took."""
    static, tuned = doc.get("static") or {}, doc.get("tuned") or {}
    rows = [("static", static), ("tuned", tuned)]
    return _join(headline(doc), _points([r for r in rows if r[1]]), _context(doc), _cost(doc), _where(doc),
                 *warnings(doc))  # fmt: skip


def headline(doc: Document) -> str:
    """One line: model, target, static → tuned, the ratio and its interval."""
    static, tuned = doc.get("static") or {}, doc.get("tuned") or {}
    value, low, high = ratio_of(doc)
    text = f"{doc.get('model', f.NONE)}, {target(doc)}: {f.figure(tuned.get('qps'))} queries/s tuned"
    if f.number(static.get("qps")) is not None:
        text += f", {f.ratio(value)} the static {f.figure(static.get('qps'))}"
        if low is not None and high is not None:
            text += f" (between {f.ratio(low)} and {f.ratio(high)})"
    return text


def compare(docs: Sequence[tuple[str, Document]]) -> str:
    """Several results under their names, one line for each operating point in them."""
    rows: list[tuple[str, Document]] = []
    for name, doc in docs:
        parts = [(role, doc[role]) for role in ("static", "tuned") if doc.get(role)]
        if not parts:
            parts = [("", doc)]
        rows += [
            (f"{name} {role}".strip(), {"model": doc.get("model"), "target": doc.get("target"), **part})
            for role, part in parts
        ]
    header, body = _point_cells(rows)
    lead = [(name, str(d.get("model") or f.NONE), target(d)) for name, d in rows]
    cells = [(*a, *b[1:]) for a, b in zip(lead, body, strict=True)]
    return table(("run", "model", "target", *header[1:]), cells, left=3, optional=_OPTIONAL)


def probes(rows: Sequence[Document]) -> str:
    """The rates that a search tried, and what was found at each."""
    if not rows:
        return ""
    header = ("rate QPS", "verdict", "misses", "interval", "p50 ms", "p95 ms", "p99 ms", "queries")
    body = [
        (
            f.figure(p.get("rate_qps")),
            str(p.get("verdict", f.NONE)),
            f.share(p.get("miss_rate")),
            f"{f.share(p.get('miss_low'))} – {f.share(p.get('miss_high'))}",
            f.ms(p.get("p50_ms")),
            f.ms(p.get("p95_ms")),
            f.ms(p.get("p99_ms")),
            f.count(p.get("queries")),
        )
        for p in sorted(rows, key=lambda p: f.number(p.get("rate_qps")) or 0.0)
    ]
    return table(header, body, left=0)


def target(doc: Document) -> str:
    """The target in the field's notation: p95 ≤ 100 ms."""
    t = doc.get("target") or {}
    if f.number(t.get("latency_ms")) is None:
        return f.NONE
    return f"{f.percentile(t.get('quantile', 0.95))} ≤ {f.number(t['latency_ms']):g} ms"


def ratio_of(doc: Document) -> tuple[float | None, float | None, float | None]:
    """Tuned over static: the value, and its interval where one was stated."""
    given = doc.get("ratio")
    if isinstance(given, Mapping):
        low, high = (given.get("interval") or (given.get("low"), given.get("high")))[:2]
        return f.number(given.get("value")), f.number(low), f.number(high)
    low, high = (doc.get("ratio_interval") or (None, None))[:2]
    return f.number(given), f.number(low), f.number(high)


def warnings(doc: Document) -> list[str]:
    """What a reader must know before believing the figures."""
    found = [str(w) for w in doc.get("warnings") or []]
    if doc.get("void"):
        found.append(
            "void: the load source was late, so the load was not the one asked for"
            f" (lateness p99 {f.ms(doc.get('lateness_p99_ms'))} ms)"
        )
    for role in ("static", "tuned"):
        served = f.number((doc.get(role) or {}).get("served"))
        if served is not None and served < 1:
            found.append(f"{role}: only {f.share(served)} of the offered queries were served")
    voids = f.number((doc.get("search") or {}).get("voids"))
    if voids:
        found.append(f"{voids:.0f} void trials were repeated: the load source was late in them")
    return [f"warning: {w}" for w in dict.fromkeys(found)]


_OPTIONAL = ("interval", "offload above", "engine", "precision")
_COLUMNS: tuple[tuple[str, Callable[[Document], str]], ...] = (
    ("QPS", lambda d: f.figure(d.get("qps", d.get("rate_qps")))),
    ("interval", lambda d: f.interval(*(d.get("interval_qps") or (None, None))[:2])),
    ("batch", lambda d: f.count(d.get("batch_size"))),
    ("offload above", lambda d: f.count(d.get("offload_above"))),
    ("engine", lambda d: str(d.get("engine") or f.NONE)),
    ("precision", lambda d: str(d.get("precision") or f.NONE)),
    ("p50 ms", lambda d: f.ms(d.get("p50_ms"))),
    ("p95 ms", lambda d: f.ms(d.get("p95_ms"))),
    ("p99 ms", lambda d: f.ms(d.get("p99_ms"))),
    ("served", lambda d: f.share(d.get("served"))),
)


def _points(rows: Sequence[tuple[str, Document]]) -> str:
    header, body = _point_cells(rows)
    return table(header, body, optional=_OPTIONAL) if body else ""


def _point_cells(rows: Sequence[tuple[str, Document]]) -> tuple[list[str], list[list[str]]]:
    header = ["", *(name for name, _ in _COLUMNS)]
    return header, [[name, *(cell(d) for _, cell in _COLUMNS)] for name, d in rows]


def _context(doc: Document) -> str:
    """Offline rate, bounds and how far the simulator was."""
    bounds, part = doc.get("bounds") or {}, doc.get("fraction_of_bound") or {}
    fraction = f.NONE
    if f.number(part.get("value")) is not None:
        fraction = f"{f.share(part['value'])} of {part.get('bound', 'the bound')}"
    return pairs(
        [
            ("offline rate", _with(f.figure(doc.get("offline_qps")), "queries/s, nobody waiting")),
            ("capacity bound", _with(f.figure(bounds.get("capacity_qps")), "queries/s")),
            ("O_fcfs bound", _with(f.figure(bounds.get("o_fcfs_qps")), "queries/s")),
            ("reached", fraction),
            ("simulator error", f.share(doc.get("simulator_error"))),
        ]
    )


def _cost(doc: Document) -> str:
    search = doc.get("search") or {k: doc.get(k) for k in ("trials", "seconds", "queries")}
    if all(f.number(search.get(k)) is None for k in ("trials", "seconds", "queries")):
        return ""
    return (
        f"search: {f.count(search.get('trials'))} trials, {f.count(search.get('queries'))} queries, "
        f"{f.seconds(search.get('seconds'))}"
    )


def _where(doc: Document) -> str:
    machine = doc.get("machine") or {}
    if not isinstance(machine, Mapping) or not machine:
        return ""
    parts = [str(machine.get("cpu", f.UNAVAILABLE)), f"{f.count(machine.get('cores'))} cores"]
    if f.number(machine.get("memory_bytes")) is not None:
        parts.append(f.size(machine["memory_bytes"]))
    return "machine: " + ", ".join(parts)


def _operating_point(doc: Document) -> str:
    parts = []
    if f.number(doc.get("batch_size")) is not None:
        parts.append(f"batch size {f.count(doc['batch_size'])}")
    if f.number(doc.get("offload_above")) is not None:
        parts.append(f"offload above {f.count(doc['offload_above'])} items")
    return ", ".join([*parts, _engine(doc)])


def _engine(doc: Document) -> str:
    parts = [str(doc[k]) for k in ("engine", "precision") if doc.get(k)]
    threads = f.number(doc.get("threads"))
    if threads and threads > 1:
        parts.append(f"{threads:.0f} threads")
    return " ".join(parts) or "engine unknown"


def _met(doc: Document) -> str:
    """Whether the latency at the target's quantile is within it."""
    t = doc.get("target") or {}
    limit, quantile = f.number(t.get("latency_ms")), f.number(t.get("quantile"))
    if limit is None or quantile is None:
        return ""
    reached = f.number(doc.get(f"p{100 * quantile:g}_ms"))
    if reached is None:
        return ""
    return ": met" if reached <= limit else f": missed, {f.ms(reached)} ms"


def _served(doc: Document) -> str:
    text = f.share(doc.get("served"))
    if f.number(doc.get("offered")) is None:
        return text
    text += f": {f.count(doc.get('completed'))} of {f.count(doc.get('offered'))} queries"
    lost = [(f.number(doc.get(k)), k) for k in ("shed", "failed")]
    return text + "".join(f", {n:.0f} {k}" for n, k in lost if n)


def _quantiles(seconds: Sequence[float]) -> tuple[float, float, float]:
    """Least, median and greatest of equally spaced quantiles."""
    s = seconds if isinstance(seconds, Sequence) else [seconds]
    low, high = s[(len(s) - 1) // 2], s[len(s) // 2]
    return s[0], (low + high) / 2, s[-1]


def _with(text: str, unit: str) -> str:
    return text if text in (f.NONE, f.UNAVAILABLE) else f"{text} {unit}"


def _join(*parts: str) -> str:
    return "\n\n".join(p for p in parts if p)

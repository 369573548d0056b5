"""The tables of a report, as cells. Text and page show the same ones."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deeprecsys.report import format as f

Document = Mapping[str, Any]
GAP = "  "


@dataclass(frozen=True, slots=True)
class TextTable:
    """Columns of text.

    Attributes:
        header: names of the columns.
        rows: as many cells each.
        left: how many of the first columns are names, set to the left; the others are figures.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: int = 1

    def __bool__(self) -> bool:
        return bool(self.rows)

    def __str__(self) -> str:
        """Aligned with spaces."""
        lines = (self.header, *self.rows)
        width = [max(len(line[i]) for line in lines) for i in range(len(self.header))]

        def padded(line: tuple[str, ...]) -> str:
            names = (c.ljust(w) for c, w in zip(line[: self.left], width, strict=False))
            figures = (c.rjust(w) for c, w in zip(line[self.left :], width[self.left :], strict=True))
            return GAP.join([*names, *figures]).rstrip()

        return "\n".join(padded(line) for line in lines)

    def without_empty(self, optional: Collection[str]) -> TextTable:
        """The same without those columns of `optional` that have no value in any row."""
        kept = [
            i for i, name in enumerate(self.header)
            if name not in optional or any(row[i] != f.NONE for row in self.rows)
        ]  # fmt: skip
        return self._with(kept)

    def without(self, names: Collection[str]) -> TextTable:
        """The same without these columns."""
        return self._with([i for i, name in enumerate(self.header) if name not in names])

    def _with(self, kept: Sequence[int]) -> TextTable:
        rows = tuple(tuple(row[i] for i in kept) for row in self.rows)
        return TextTable(tuple(self.header[i] for i in kept), rows, sum(i < self.left for i in kept))

    def turned(self) -> TextTable:
        """Rows as columns."""
        columns = zip(self.header, *self.rows, strict=True)
        header, *rows = (tuple(c) for c in columns)
        return TextTable(header, tuple(rows))


FIXED = (None, "static", "deeprecsched")
"""Policies that one batch size describes."""


def policy(doc: Document) -> str:
    """The name of a policy that a batch size alone does not describe."""
    name = doc.get("policy")
    return f.NONE if name in FIXED else str(name)


_POINT: tuple[tuple[str, Callable[[Document], str]], ...] = (
    ("QPS", lambda d: f.figure(d.get("qps", d.get("rate_qps")))),
    ("policy", policy),
    ("batch", lambda d: f.count(d.get("batch_size"))),
    ("finest", lambda d: f.count(d.get("finest"))),
    ("offload above", lambda d: f.count(d.get("offload_above"))),
    ("device batch", lambda d: f.count(d.get("device_batch"))),
    ("on accelerator", lambda d: f.share(d.get("gpu_share"))),
    ("engine", lambda d: str(d.get("engine") or f.NONE)),
    ("precision", lambda d: str(d.get("precision") or f.NONE)),
    ("p50 ms", lambda d: f.ms(d.get("p50_ms"))),
    ("p95 ms", lambda d: f.ms(d.get("p95_ms"))),
    ("p99 ms", lambda d: f.ms(d.get("p99_ms"))),
    ("served", lambda d: f.share(d.get("served"))),
)
_OPTIONAL = ("policy", "finest", "offload above", "device batch", "on accelerator", "engine", "precision")


def points(doc: Document) -> list[tuple[str, Document]]:
    """The static and the tuned point of a result, by role; what the result says of both is in each."""
    both = {k: doc[k] for k in ("engine", "precision") if doc.get(k)}
    roles = ("static",) if doc.get("kept_static") and doc.get("static") else ("static", "tuned")
    return [(role, {**both, **doc[role]}) for role in roles if doc.get(role)]


def operating_points(rows: Sequence[tuple[str, Document]]) -> TextTable:
    """Operating points by name: rate, knobs, latencies, share served."""
    cells = tuple((name, *(cell(d) for _, cell in _POINT)) for name, d in rows)
    return TextTable(("", *(name for name, _ in _POINT)), cells).without_empty(_OPTIONAL)


def comparison(docs: Sequence[tuple[str, Document]]) -> TextTable:
    """Several results by name, a row for each operating point; model and target where they differ."""
    rows: list[tuple[str, str, Document, Document]] = []
    for name, doc in docs:
        rows += [(name, role, doc, point) for role, point in points(doc) or [("", doc)]]
    header = ("run", "point", "model", "target", *(name for name, _ in _POINT))
    cells = tuple(
        (name, role or f.NONE, str(doc.get("model") or f.NONE), target(doc), *(cell(d) for _, cell in _POINT))
        for name, role, doc, d in rows
    )
    same = [k for k, i in (("model", 2), ("target", 3)) if len({row[i] for row in cells}) == 1]
    return TextTable(header, cells, left=4).without(same).without_empty((*_OPTIONAL, "point"))


def common(docs: Sequence[Document]) -> list[str]:
    """Model and target, where all results have the same."""
    values = ({str(d.get("model") or f.NONE) for d in docs}, {target(d) for d in docs})
    return [v.pop() for v in values if len(v) == 1]


def setups(doc: Document) -> TextTable:
    """The engines and threads that a search by model chose from, and what each would do at its best."""
    rows = tuple(
        (
            str(s.get("engine") or f.NONE),
            f.count(s.get("threads")),
            f.count(s.get("workers")),
            str(s.get("policy") or f.NONE),
            f.count(s.get("batch_size")),
            f.figure(s.get("simulated_qps")),
        )
        for s in doc.get("setups") or []
    )
    return TextTable(("engine", "threads", "workers", "policy", "batch", "simulated QPS"), rows)


def candidates(doc: Document) -> TextTable:
    """The operating points that a search tried."""
    given = sorted(doc.get("candidates") or [], key=lambda c: f.number(c.get("batch_size")) or 0)
    rows = tuple(
        (
            policy(c),
            f.count(c.get("batch_size")),
            f.count(c.get("finest")),
            f.count(c.get("offload_above")),
            *_found(c),
            f.count(c.get("trials")),
        )
        for c in given
    )
    header = ("policy", "batch", "finest", "offload above", "capacity QPS", "interval", "trials")
    table = TextTable(header, rows, left=1)
    return table.without_empty(("policy", "finest", "offload above", "interval", "trials"))


def _found(candidate: Document) -> tuple[str, str]:
    """A candidate's capacity and interval; what is only known to be low, and what misses at any rate."""
    low, high = (candidate.get("interval_qps") or (None, None))[:2]
    if candidate.get("outcome") == "unreachable":
        return "misses at any rate", f.NONE
    if f.number(candidate.get("capacity_qps")) is None and f.number(high) is not None:
        return f"below {f.figure(high)}", f.NONE
    return f.figure(candidate.get("capacity_qps")), f.interval(low, high)


def probes(rows: Sequence[Document]) -> TextTable:
    """The rates that a search tried, and what was found at each."""
    header = ("rate QPS", "verdict", "misses", "interval", "p50 ms", "p95 ms", "p99 ms", "queries")
    cells = tuple(
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
    )
    return TextTable(header, cells, left=0)


def models(rows: Sequence[Document]) -> TextTable:
    """The zoo, one row a model."""
    header = ("model", "bottleneck", "p95 target", "tables", "embeddings", "dense weights", "FLOP/item",
              "bytes/item")  # fmt: skip
    cells = tuple(
        (
            str(m.get("name", f.NONE)),
            str(m.get("bottleneck") or f.NONE),
            f.with_unit(f.ms(m.get("target_ms")), "ms"),
            f.count(m.get("tables")),
            f.size(m.get("table_bytes")),
            f.magnitude(m.get("dense_parameters")),
            f.magnitude(m.get("flops_per_item")),
            f.size(m.get("bytes_per_item")),
        )
        for m in rows
    )
    return TextTable(header, cells, left=2)


def batch_times(doc: Document) -> TextTable:
    """A latency profile: for each number of busy workers the median of s(b), its spread and items/s.

    Where it was measured, what the median is on a worker that was idle before stands behind.
    """
    measured = [p for p in doc.get("points") or [] if p.get("seconds") and f.number(p.get("batch"))]
    points = [p for p in measured if not p.get("after_idle")]
    idle_before = [p for p in measured if p.get("after_idle")]
    rested = {(p.get("busy", 1), p["batch"]): _quantiles(p["seconds"]) for p in idle_before}
    levels = sorted({p.get("busy", 1) for p in points})
    found = {(p.get("busy", 1), p["batch"]): _quantiles(p["seconds"]) for p in points}
    header = ["batch"]
    for k in levels:
        header += [f"{k} busy: ms", "spread", "items/s", *(["after idle: ms"] if rested else [])]
    rows = []
    for batch in sorted({p["batch"] for p in points}):
        row = [f.count(batch)]
        for k in levels:
            least, median, most = found.get((k, batch), (None, None, None))
            spread = f"{f.figure(1e3 * least)}–{f.figure(1e3 * most)}" if least and most else f.NONE
            row += [f.figure(median and 1e3 * median), spread, f.count(median and k * batch / median)]
            if rested:
                _, late, _ = rested.get((k, batch), (None, None, None))
                row.append(f.figure(late and 1e3 * late))
        rows.append(tuple(row))
    return TextTable(tuple(header), tuple(rows), left=0)


def _quantiles(seconds: Sequence[float]) -> tuple[float, float, float]:
    """Least, median and greatest of equally spaced quantiles."""
    s = seconds if isinstance(seconds, Sequence) else [seconds]
    low, high = s[(len(s) - 1) // 2], s[len(s) // 2]
    return s[0], (low + high) / 2, s[-1]


def target(doc: Document) -> str:
    """The target in the field's notation: p95 ≤ 100 ms."""
    t = doc.get("target") or {}
    ms = f.number(t.get("latency_ms"))
    if ms is None:
        return f.NONE
    return f"{f.percentile(t.get('quantile', 0.95))} ≤ {ms:g} ms"

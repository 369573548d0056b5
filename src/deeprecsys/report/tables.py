"""The tables of a report, as cells. Text and page show the same ones."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from deeprecsys.report import documents as docs
from deeprecsys.report import format as f

GAP = "  "
HALF = 56
"""Characters of a table that half of a page holds."""
T = TypeVar("T")
Columns = Sequence[tuple[str, Callable[[T], str]]]
"""Names of columns, each with what makes the text of a cell."""


@dataclass(frozen=True, slots=True)
class TextTable:
    """Columns of text, for a terminal by `str`, for a page by its template.

    Attributes:
        header: names of the columns, with their units.
        rows: as many cells each.
        left: how many of the first columns are names, aligned left; the others are figures.
        title: of the table on a page.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: int = 1
    title: str = ""

    @classmethod
    def of(cls, rows: Iterable[T], columns: Columns[T], left: int = 1, title: str = "") -> TextTable:
        """A row for each of `rows`, a column for each name and the text that it has of a row."""
        cells = tuple(tuple(cell(row) for _, cell in columns) for row in rows)
        return cls(tuple(name for name, _ in columns), cells, left, title)

    def __bool__(self) -> bool:
        return bool(self.rows)

    @property
    def widths(self) -> list[int]:
        """Characters of each column."""
        return [max(len(cell) for cell in column) for column in zip(self.header, *self.rows, strict=True)]

    @property
    def wide(self) -> bool:
        """Whether it needs more than half of a page."""
        return sum(self.widths) + len(GAP) * len(self.header) > HALF

    def __str__(self) -> str:
        """Aligned with spaces; empty where there are no rows."""
        if not self.rows:
            return ""
        lines, width = (self.header, *self.rows), self.widths

        def padded(line: tuple[str, ...]) -> str:
            names = (c.ljust(w) for c, w in zip(line[: self.left], width, strict=False))
            figures = (c.rjust(w) for c, w in zip(line[self.left :], width[self.left :], strict=True))
            return GAP.join([*names, *figures]).rstrip()

        return "\n".join(padded(line) for line in lines)

    def without_empty(self, optional: Collection[str]) -> TextTable:
        """The table without those columns of `optional` that have no value in any row."""
        values = zip(self.header, zip(*self.rows, strict=True), strict=True) if self.rows else ()
        return self.without([name for name, cells in values if name in optional and set(cells) == {f.NONE}])

    def without(self, names: Collection[str]) -> TextTable:
        """The table without these columns."""
        kept = [i for i, name in enumerate(self.header) if name not in names]
        rows = tuple(tuple(row[i] for i in kept) for row in self.rows)
        header = tuple(self.header[i] for i in kept)
        return replace(self, header=header, rows=rows, left=sum(i < self.left for i in kept))

    def turned(self) -> TextTable:
        """Rows as columns."""
        header, *rows = zip(self.header, *self.rows, strict=True)
        return replace(self, header=header, rows=tuple(rows), left=1)


FIXED = (None, "static", "deeprecsched")
"""Policies that one batch size describes."""


def policy(point: docs.PolicyDocument) -> str:
    """The name of a policy that a batch size alone does not describe."""
    return f.NONE if point.policy in FIXED else str(point.policy)


_POINT: Columns[docs.PointDocument] = (
    ("limit today QPS", lambda d: f.figure(d.limit_today_qps)),
    ("its interval", lambda d: f.interval(*(d.limit_interval_qps or (None, None)))),
    ("ran at QPS", lambda d: f.figure(d.qps)),
    ("verdict", lambda d: _verdict(d.sustained)),
    ("policy", policy),
    ("batch", lambda d: f.count(d.batch_size)),
    ("finest", lambda d: f.count(d.finest)),
    ("offload above", lambda d: f.count(d.offload_above)),
    ("device batch", lambda d: f.count(d.device_batch)),
    ("on accelerator", lambda d: f.share(d.gpu_share)),
    ("engine", lambda d: d.engine or f.NONE),
    ("precision", lambda d: d.precision or f.NONE),
    ("p50 ms", lambda d: f.figure(d.p50_ms)),
    ("p95 ms", lambda d: f.figure(d.p95_ms)),
    ("p99 ms", lambda d: f.figure(d.p99_ms)),
    ("served", lambda d: f.share(d.served)),
)
_OPTIONAL = (
    "limit today QPS",
    "its interval",
    "verdict",
    "policy",
    "finest",
    "offload above",
    "device batch",
    "on accelerator",
    "engine",
    "precision",
)


def _verdict(s: docs.SustainedDocument | None) -> str:
    """Whether a rate is sustained, or for how long it was met."""
    if s is None or s.verdict is None:
        return f.NONE
    return s.verdict if s.verdict != "undecided" else f"met for {f.seconds(s.seconds)}, undecided"


def points(report: docs.AnyReport) -> list[tuple[str, docs.PointDocument]]:
    """The operating points of a result by role, "" for the only one; engine and precision are in each."""
    if not isinstance(report, docs.TuneReport):
        shared = (docs.PointDocument.types().keys() & report.types().keys()) - {"workers"}
        return [("", docs.PointDocument(**{k: getattr(report, k) for k in shared}))]
    static, tuned = report.static, report.tuned
    found = {
        "eager": report.eager,
        "static": static,
        "tuned": None if report.kept_static and static else tuned,
    }
    return [
        (role, replace(p, engine=p.engine or report.engine, precision=p.precision or report.precision))
        for role, p in found.items()
        if p
    ]


def operating_points(rows: Sequence[tuple[str, docs.PointDocument]], title: str = "") -> TextTable:
    """Operating points by name: rate, knobs, latencies, share served."""
    columns = [("", lambda row: row[0]), *((name, lambda row, c=cell: c(row[1])) for name, cell in _POINT)]
    return TextTable.of(rows, columns, title=title).without_empty(_OPTIONAL)


def comparison(reports: Sequence[tuple[str, docs.AnyReport]]) -> TextTable:
    """Several results by name, a row for each operating point; model and target where they differ."""
    rows = [
        (name, role or f.NONE, report.model or f.NONE, target(report), *(cell(p) for _, cell in _POINT))
        for name, report in reports
        for role, p in points(report) or [("", docs.PointDocument(engine=report.engine))]
    ]
    header = ("run", "point", "model", "target", *(name for name, _ in _POINT))
    same = [header[i] for i in (2, 3) if len({row[i] for row in rows}) == 1]
    table = TextTable(header, tuple(rows), left=4, title="Operating points")
    return table.without(same).without_empty((*_OPTIONAL, "point"))


def common(reports: Sequence[docs.AnyReport]) -> list[str]:
    """Model and target, where all results have the same."""
    values = ({r.model or f.NONE for r in reports}, {target(r) for r in reports})
    return [v.pop() for v in values if len(v) == 1]


_RANKED: Columns[docs.RankedDocument] = (
    ("engine", lambda r: r.engine or f.NONE),
    ("threads", lambda r: f.count(r.threads)),
    ("workers", lambda r: f.count(r.workers)),
    ("policy", lambda r: r.policy or f.NONE),
    ("batch", lambda r: f.count(r.batch_size)),
    ("QPS in virtual time", lambda r: f.figure(r.simulated_qps)),
)


def named(title: str, basis: str) -> str:
    """A table's title with what its figures are: live or simulated."""
    return f"{title}, {basis}" if basis else title


def ranked_engines(rows: Sequence[docs.RankedDocument]) -> TextTable:
    """The engines and threads that a search by model chose from, each with its best policy."""
    return TextTable.of(rows, _RANKED, title="Engines and threads, in virtual time")


_CANDIDATE: Columns[docs.CandidateDocument] = (
    ("policy", policy),
    ("batch", lambda c: f.count(c.batch_size)),
    ("finest", lambda c: f.count(c.finest)),
    ("offload above", lambda c: f.count(c.offload_above)),
    ("QPS", lambda c: _capacity(c)),
    ("low QPS", lambda c: f.figure(c.interval[0] if c.capacity_qps else None)),
    ("high QPS", lambda c: f.figure(c.interval[1] if c.capacity_qps else None)),
    ("trials", lambda c: f.count(c.trials)),
)


def candidates(rows: Sequence[docs.CandidateDocument], basis: str = "") -> TextTable:
    """The operating points that a search tried, live or simulated."""
    rising = sorted(rows, key=lambda c: c.batch_size or 0)
    columns = [(f"{basis} QPS".strip() if name == "QPS" else name, cell) for name, cell in _CANDIDATE]
    table = TextTable.of(rising, columns, title=named("Every candidate", basis))
    return table.without_empty(("policy", "finest", "offload above", "low QPS", "high QPS", "trials"))


def _capacity(candidate: docs.CandidateDocument) -> str:
    """A candidate's capacity; or what else is known of it."""
    if candidate.outcome == "unreachable":
        return "misses at any rate"
    if candidate.capacity_qps is None and candidate.interval[1] is not None:
        return f"below {f.figure(candidate.interval[1])}"
    return f.figure(candidate.capacity_qps)


_PROBE: Columns[docs.ProbeDocument] = (
    ("rate QPS", lambda p: f.figure(p.rate_qps)),
    ("verdict", lambda p: p.verdict or f.NONE),
    ("misses", lambda p: f.share(p.miss_rate)),
    ("at least", lambda p: f.share(p.miss_low)),
    ("at most", lambda p: f.share(p.miss_high)),
    ("p50 ms", lambda p: f.figure(p.p50_ms)),
    ("p95 ms", lambda p: f.figure(p.p95_ms)),
    ("p99 ms", lambda p: f.figure(p.p99_ms)),
    ("queries", lambda p: f.count(p.queries)),
)


def probes(rows: Sequence[docs.ProbeDocument], title: str = "Rates that were tried") -> TextTable:
    """The rates that a search tried, and what was found at each."""
    return TextTable.of(sorted(rows, key=lambda p: p.rate_qps or 0.0), _PROBE, left=0, title=title)


_NEAR: Columns[docs.NearPointDocument] = (
    ("of the rate", lambda p: f.NONE if p.percent is None else f"{p.percent:+.3g} %"),
    ("QPS", lambda p: f.figure(p.rate_qps)),
    ("latency ms, in virtual time", lambda p: "no end" if p.latency_ms is None else f.figure(p.latency_ms)),
)


def near(rows: Sequence[docs.NearPointDocument]) -> TextTable:
    """The latency at the target's quantile about the rate found."""
    return TextTable.of(rows, _NEAR, left=0, title="Near the limit, in virtual time")


_MODEL: Columns[docs.ModelDocument] = (
    ("model", lambda m: m.name or f.NONE),
    ("bottleneck", lambda m: m.bottleneck or f.NONE),
    ("p95 target ms", lambda m: f.figure(m.target_ms)),
    ("tables", lambda m: f.count(m.tables)),
    ("embeddings", lambda m: f.size(m.table_bytes)),
    ("dense weights", lambda m: f.magnitude(m.dense_parameters)),
    ("FLOP/item", lambda m: f.magnitude(m.flops_per_item)),
    ("bytes/item", lambda m: f.size(m.bytes_per_item)),
)


def models(rows: Sequence[docs.ModelDocument]) -> TextTable:
    """The zoo, one row a model."""
    return TextTable.of(rows, _MODEL, left=2)


def batch_times(profile: docs.ProfileDocument) -> TextTable:
    """A latency profile: for each number of busy workers the median of s(b), its spread and items/s.

    The median on a worker that was idle before is a column of its own where it was measured.
    """
    measured: dict[tuple[bool, int, int], tuple[float, float, float]] = {}
    for p in profile.points:
        if p.batch is not None and p.seconds:
            seconds = p.seconds if isinstance(p.seconds, tuple) else (p.seconds,)
            measured[bool(p.after_idle), 1 if p.busy is None else p.busy, p.batch] = _quantiles(seconds)
    after_idle = any(idle for idle, _, _ in measured)
    levels = sorted({busy for idle, busy, _ in measured if not idle})
    header = ["batch"]
    for k in levels:
        header += [f"{k} busy: ms", "least ms", "most ms", "items/s"]
        header += ["after idle: ms"] if after_idle else []
    rows = []
    for batch in sorted({batch for idle, _, batch in measured if not idle}):
        row = [f.count(batch)]
        for k in levels:
            least, median, most = measured.get((False, k, batch), (None, None, None))
            row += [f.figure(t and 1e3 * t) for t in (median, least, most)]
            row.append(f.count(median and k * batch / median))
            if after_idle:
                idle = measured.get((True, k, batch))
                row.append(f.figure(idle and 1e3 * idle[1]))
        rows.append(tuple(row))
    return TextTable(tuple(header), tuple(rows), left=0, title="Batch times")


def _quantiles(seconds: tuple[float, ...]) -> tuple[float, float, float]:
    """Least, median and greatest of equally spaced quantiles."""
    low, high = seconds[(len(seconds) - 1) // 2], seconds[len(seconds) // 2]
    return seconds[0], (low + high) / 2, seconds[-1]


def target(report: docs.AnyReport) -> str:
    """The target in the field's notation: p95 ≤ 100 ms."""
    t = (report.target if isinstance(report, docs.RunReport) else None) or docs.TargetDocument()
    if t.latency_ms is None:
        return f.NONE
    return f"{f.percentile(0.95 if t.quantile is None else t.quantile)} ≤ {t.latency_ms:g} ms"

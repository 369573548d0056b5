"""The report as one HTML page that needs nothing but itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from deeprecsys.machine.record import same_machine
from deeprecsys.report import energy, tables, text
from deeprecsys.report import format as f
from deeprecsys.report.explain import explain, overview
from deeprecsys.report.illustrate import Illustration
from deeprecsys.report.plots import svg
from deeprecsys.report.rundir import Run
from deeprecsys.report.tables import TextTable, target
from deeprecsys.report.view import RunView
from deeprecsys.report.warnings import simulated, warnings


@dataclass(frozen=True, slots=True)
class Card:
    """One large figure of the headline."""

    label: str
    value: str
    note: str = ""
    role: str = ""


@dataclass(frozen=True, slots=True)
class Notice:
    """Something to know before reading on."""

    title: str
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Titled:
    """A table under a title."""

    title: str
    table: TextTable

    @property
    def header(self) -> tuple[str, ...]:
        return self.table.header

    @property
    def rows(self) -> tuple[tuple[str, ...], ...]:
        return self.table.rows

    @property
    def left(self) -> int:
        return self.table.left


@dataclass(frozen=True, slots=True)
class Plot:
    """A plot as SVG."""

    title: str
    caption: str
    svg: Markup


@dataclass(frozen=True, slots=True)
class Why:
    """The trial in words."""

    trial: str
    overview: tuple[str, ...]
    slowest: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Facts:
    """Names and values under a title."""

    title: str
    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Page:
    """What the template fills in."""

    title: str
    subtitle: str
    headline: Sequence[Card] = ()
    notices: Sequence[Notice] = ()
    tables: Sequence[Titled] = ()
    beside: Sequence[Facts] = ()
    plots: Sequence[Plot] = ()
    why: Why | None = None
    details: Sequence[Titled] = ()
    facts: Sequence[Facts] = field(default=())
    footer: str = ""


def html(page: Page) -> str:
    """The page as a document."""
    environment = Environment(
        loader=PackageLoader("deeprecsys.report", "."), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    assert environment.loader is not None
    css = environment.loader.get_source(environment, "page.css")[0]
    return environment.get_template("page.html").render(page=page, css=Markup(css))


def run_page(run: Run, view: RunView, plots: Sequence[Illustration]) -> Page:
    """The page of one run."""
    doc = view.doc
    title = (
        f"{doc.get('model') or view.name}, {target(doc)}"
        if view.target
        else str(doc.get("model") or view.name)
    )
    if simulated(doc):
        title += ", simulated"
    details = [
        Titled("Engines and threads, simulated", tables.setups(doc)),
        Titled("Every candidate", tables.candidates(doc)),
        Titled("Every rate that was tried for the best point", tables.probes(view.probes)),
    ]
    return Page(
        title=title,
        subtitle=_subtitle(view),
        headline=_headline(view),
        notices=[
            Notice("Incomplete run directory", view.problems),
            Notice("Read with care", tuple(warnings(doc))),
        ],
        tables=[t for t in _tables(view) if t.table],
        plots=[drawn(p) for p in plots],
        why=_why(view),
        details=[t for t in details if t.table],
        beside=_beside(view),
        facts=_facts(run, doc),
        footer=_footer([run]),
    )


def comparison_page(runs: Sequence[Run], views: Sequence[RunView], plots: Sequence[Illustration]) -> Page:
    """The page of several runs."""
    return Page(
        title=f"{len(runs)} runs compared",
        subtitle=", ".join(tables.common([v.doc for v in views])),
        notices=[
            Notice("Read with care", tuple(differences(views))),
            Notice("Incomplete run directories", tuple(f"{v.name}: {p}" for v in views for p in v.problems)),
            Notice("In the runs", tuple(f"{v.name}: {w}" for v in views for w in warnings(v.doc))),
        ],
        tables=[Titled("Operating points", tables.comparison([(v.name, v.doc) for v in views]))],
        plots=[drawn(p) for p in plots],
        facts=_machines(runs, views),
        footer=_footer(runs),
    )


def differences(views: Sequence[RunView]) -> list[str]:
    """Why figures of these runs may not be compared."""
    found = []
    machines = [v.doc.get("machine") or {} for v in views]
    if any(not same_machine(m, machines[0]) for m in machines[1:]):
        found.append("the runs were made on different machines")
    unlike = [w for w in ("target", "model") if any(v.doc.get(w) != views[0].doc.get(w) for v in views[1:])]
    return found + [f"the runs do not have the same {what}" for what in unlike]


def drawn(plot: Illustration) -> Plot:
    """A plot as inline SVG."""
    # The SVG comes from the plotting library, which escapes every text in it.
    return Plot(plot.title, plot.caption, Markup(svg(plot.figure, plot.name, plot.title)))


def _subtitle(view: RunView) -> str:
    said = {
        "tune": "static baseline and tuned point, confirmed by fresh interleaved trials",
        "capacity": "the highest rate within the target, every query served",
        "bench": "one trial",
        "profile": "batch times",
    }
    if simulated(view.doc):
        said = dict.fromkeys(said, "in virtual time, from a latency profile: not a measurement")
    return said[view.kind] if view.complete else "an unfinished run: what was measured until it ended"


def _headline(view: RunView) -> list[Card]:
    doc = view.doc
    if view.kind == "tune" and doc["tuned"]:
        return _tuned_cards(doc)
    if view.kind == "capacity" or (view.kind == "tune" and view.capacity_qps is not None):
        low, high = view.interval or (None, None)
        return [
            Card("capacity", f.figure(view.capacity_qps), f"queries/s, {f.interval(low, high)}", "tuned"),
            Card("served", f.share(doc.get("served")), "of all offered queries"),
        ][: 1 if doc.get("served") is None else 2]
    if view.kind == "bench" and doc.get("offered") is not None:
        rate, verdict = doc.get("rate_qps", doc.get("qps")), text.met(doc).partition(",")[0]
        against = f"target {target(doc)}, {verdict}" if verdict else ""
        return [
            Card("offered", f.figure(rate), "queries/s"),
            Card("p95", f"{f.ms(doc.get('p95_ms'))} ms", against),
            Card("p99", f"{f.ms(doc.get('p99_ms'))} ms"),
            Card("served", f.share(doc.get("served")), "of all offered queries"),
        ]
    return []


def _tuned_cards(doc: Mapping[str, Any]) -> list[Card]:
    static, tuned = doc["static"] or {}, doc["tuned"] or {}
    value, low, high = text.ratio_of(doc)
    between = f"between {f.ratio(low)} and {f.ratio(high)}" if low is not None else "tuned over static"
    if doc.get("kept_static"):
        between = "nothing proved better than static"

    served = f"of all queries, p99 {f.ms(tuned.get('p99_ms'))} ms"
    return [
        Card(
            "static",
            f.figure(static.get("qps")),
            f"queries/s, {text.knobs(static)}" if static else "misses at any rate",
            "static",
        ),
        Card("tuned", f.figure(tuned.get("qps")), f"queries/s, {text.knobs(tuned)}", "tuned"),
        Card("ratio", f.ratio(value), between),
        Card("tuned served", f.share(tuned.get("served")), served),
    ]


def _tables(view: RunView) -> list[Titled]:
    doc = view.doc
    if view.kind == "tune":
        points = tables.operating_points(tables.points(doc))
        return [Titled("Operating points", points.turned() if points else points)]
    if view.kind == "capacity":
        return [Titled("Rates that were tried", tables.probes(view.probes))]
    if view.kind == "profile":
        return [Titled("Batch times", tables.batch_times(doc))]
    point = tables.operating_points([("trial", doc)]) if doc.get("offered") is not None else None
    return [Titled("Trial", point.turned())] if point else []


def _why(view: RunView) -> Why | None:
    if view.main is None or not len(view.main.log.size):
        return None
    log, slices = view.main.log, view.main.slices
    stories = tuple(explain(log, slices, view.target))
    return Why(f"trial {view.main.name}", tuple(overview(log, slices)), stories)


def _beside(view: RunView) -> list[Facts]:
    """What stands beside the first table: limits, and what the search took; of a trial, its counts."""
    doc = view.doc
    if view.kind == "bench" and doc.get("offered") is not None:
        latency = [(k, f.with_unit(f.ms(doc.get(f"{k}_ms")), "ms")) for k in ("mean", "max")]
        return [Facts("Load", tuple((n, v) for n, v in [*text.trial(doc), *latency] if v != f.NONE))]
    found = [
        Facts("Limits", tuple((n, v) for n, v in text.context(doc) if v != f.NONE)),
        Facts("Cost of the search", tuple(text.costs(doc))),
        Facts("Energy", tuple(energy.pairs(doc))),
    ]
    return [facts for facts in found if facts.pairs]


def _facts(run: Run, doc: Mapping[str, Any]) -> list[Facts]:
    config = run.config or {k: doc.get(k) for k in ("workload", "target") if doc.get(k)}
    node = doc.get("node") if isinstance(doc.get("node"), Mapping) else {}
    return [
        Facts("Machine that simulated it" if simulated(doc) else "Machine", _machine(run, doc)),
        Facts("Node", tuple(_flat(node or {}))),
        Facts("Configuration", tuple(_flat(config))),
    ]


def _machines(runs: Sequence[Run], views: Sequence[RunView]) -> list[Facts]:
    """Every machine once, with the runs that were made on it."""
    names: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for run, view in zip(runs, views, strict=True):
        names.setdefault(_machine(run, view.doc), []).append(view.name)
    return [Facts(f"Machine of {', '.join(of)}", machine) for machine, of in names.items()]


def _machine(run: Run, doc: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple(_flat(run.machine or doc.get("machine") or {}))


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    """Nested keys as one list; bytes and shares as people read them."""
    for key, v in value.items():
        name = f"{prefix}{key.removesuffix('_bytes').replace('_', ' ')}"
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
    said = []
    for run in runs:
        versions = run.machine.get("versions")
        version = versions.get("deeprecsys", "") if isinstance(versions, Mapping) else ""
        said.append(" ".join(p for p in (run.name, run.created or "", f"deeprecsys {version}".strip()) if p))
    return " · ".join(said)

"""The paper's evaluation at full length: the tables of docs/paper.md and docs/paper-figures.md, and the former's plots.

Figures are named by number; `rest` is directions, draws, sensitivity and constants. All takes within twenty minutes on
two cores; keep the machine idle: figure 3 measures.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from benchmarks.harness import PROFILES, ROOT, Benchmark, Result, Run, Tables, markdown
from deeprecsys.api.progress import stage
from deeprecsys.paper import constants, directions, recipes, sensitivity, summary, uncertainty
from deeprecsys.paper.parallel import FigureProgress, parallel
from deeprecsys.paper.result import Result as Figure
from deeprecsys.paper.result import TextTable, claim_table
from deeprecsys.paper.study import Study
from deeprecsys.report.plots.look import png

REST = "rest"
PAGE, BEHIND = "docs/paper.md", "docs/paper-figures.md"
ON_PAGE = ("headline", "directions", "card", "cost")
PLOTS = {3: "operators", 4: "published", 9: "model", 11: "throughput", 12: "targets", 13: "day"}
"""Figure → which of its plots docs/paper.md shows."""


def shown(table: TextTable) -> str:
    return markdown(table.header, table.rows)


def titled(tables: Iterable[TextTable]) -> str:
    return "\n\n".join(f"{t.title}:\n\n{shown(t)}" for t in tables)


def plotted(run: Run, r: Figure) -> None:
    """The figure's plot of docs/paper.md."""
    for plot in r.plots:
        if not run.quick and PLOTS.get(r.number) == plot.name:
            folder = ROOT / "docs" / "paper"
            folder.mkdir(exist_ok=True)
            png(plot.figure, folder / f"{r.name}.png")


def body(r: Figure) -> str:
    """A figure's tables."""
    more = f"\n\n{titled(r.tables)}" if r.tables else ""
    return f"*{r.basis}*\n\n{shown(claim_table(r))}{more}"


def run(run: Run) -> None:
    study = Study(profiles=PROFILES, quick=run.quick)
    asked = run.options.figures or (["14"] if run.quick else [])
    numbers = () if asked == [REST] else recipes.chosen([a for a in asked if a != REST])
    rest = not asked or REST in asked
    steps, results = len(numbers) + 2 * rest, {}

    def keep(marker: str, text: str, seconds: float) -> None:
        """Save a part as soon as it is there."""
        times, tables = (run.result.get(k, {}) for k in ("seconds", "tables"))
        run.save({"seconds": {**times, marker: seconds}, "tables": {**tables, marker: text}})
        print(f"{marker}: {seconds:.0f} s", flush=True)

    with stage("paper", True) as report, parallel(study) as members:

        def tell(step: int, name: str) -> FigureProgress:
            return lambda share, what: report((step + share) / steps, f"{name}: {what}")

        for i, n in enumerate(numbers):
            results[n], seconds = members.make(n, tell(i, f"figure {n}"))
            keep(results[n].name, body(results[n]), seconds)
            plotted(run, results[n])
        if set(directions.OF) <= set(results):
            keep("directions", shown(directions.table(results)), 0.0)
        if rest:
            keep("constants", shown(constants.table()), 0.0)
            start = time.monotonic()
            varied = sensitivity.tables(members.vary(run.quick, tell(steps - 2, "sensitivity")))
            keep("sensitivity", titled(varied), time.monotonic() - start)
            start = time.monotonic()
            drawn = members.draw(run.quick, tell(steps - 1, "draws"))
            keep("draws", titled(uncertainty.tables(drawn)), time.monotonic() - start)
        if rest and {11, 13} <= set(results):
            keep("headline", shown(summary.headline(results, drawn)), 0.0)
        if 11 in results:
            keep("card", shown(summary.card_readings(results[11])), 0.0)
    keep("cost", cost(run.result["seconds"]), 0.0)


def cost(times: Result) -> str:
    """What all parts took when they were last made, and the parts that were never made."""
    parts = {k: s for k, s in times.items() if s and k != "cost"}
    missing = [
        k for k in (*(f"figure{n:02d}" for n in recipes.RECIPES), "sensitivity", "draws") if k not in parts
    ]
    slowest = ", ".join(f"{k} {s:.0f} s" for k, s in sorted(parts.items(), key=lambda p: -p[1])[:4])
    text = f"All parts took {sum(parts.values()) / 60:.1f} minutes on all cores of this machine; the longest: {slowest}."
    return text + (f" Not made yet: {', '.join(missing)}." if missing else "")


def tables(result: Result) -> Tables:
    return {f"{PAGE if m in ON_PAGE else BEHIND}#{m}": text for m, text in result["tables"].items()}


BENCHMARK = Benchmark(
    __file__, __doc__, run, tables,
    options={"figures": {"nargs": "*", "metavar": "FIGURE", "help": "a number, or rest"}},
)  # fmt: skip

if __name__ == "__main__":
    BENCHMARK.main()

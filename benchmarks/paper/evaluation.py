"""The paper's evaluation at full length, and the tables of docs/paper.md.

Figures are named by number; `rest` is directions, sensitivity and constants. All takes within twenty minutes on two
cores; keep the machine idle: figure 3 measures.
"""

from __future__ import annotations

import time

from benchmarks.harness import PROFILES, Benchmark, Result, Run, Tables, markdown
from deeprecsys.api.progress import stage
from deeprecsys.paper import constants, directions, recipes, sensitivity
from deeprecsys.paper.parallel import FigureProgress, parallel
from deeprecsys.paper.result import Result as Figure
from deeprecsys.paper.result import TextTable, claim_table
from deeprecsys.paper.study import Study

REST = "rest"


def shown(table: TextTable) -> str:
    return markdown(table.header, table.rows)


def body(r: Figure) -> str:
    """A figure's tables."""
    more = "".join(f"\n\n{t.title}:\n\n{shown(t)}" for t in r.tables)
    return f"*{r.basis}*\n\n{shown(claim_table(r))}{more}"


def run(run: Run) -> None:
    study = Study(profiles=PROFILES, quick=run.quick)
    asked = run.options.figures or (["14"] if run.quick else [])
    numbers = () if asked == [REST] else recipes.chosen([a for a in asked if a != REST])
    rest = not asked or REST in asked
    steps, results = len(numbers) + rest, {}

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
        if set(directions.OF) <= set(results):
            keep("directions", shown(directions.table(results)), 0.0)
        if rest:
            keep("constants", shown(constants.table()), 0.0)
            start = time.monotonic()
            varied = sensitivity.table(members.vary(run.quick, tell(steps - 1, "sensitivity")))
            keep("sensitivity", shown(varied), time.monotonic() - start)
    keep("cost", cost(run.result["seconds"]), 0.0)


def cost(times: Result) -> str:
    """What all parts took when they were last made, and the parts that were never made."""
    parts = {k: s for k, s in times.items() if s and k != "cost"}
    missing = [k for k in (*(f"figure{n:02d}" for n in recipes.RECIPES), "sensitivity") if k not in parts]
    slowest = ", ".join(f"{k} {s:.0f} s" for k, s in sorted(parts.items(), key=lambda p: -p[1])[:4])
    text = f"All parts took {sum(parts.values()) / 60:.1f} minutes on all cores of this machine; the longest: {slowest}."
    return text + (f" Not made yet: {', '.join(missing)}." if missing else "")


def tables(result: Result) -> Tables:
    return {f"docs/paper.md#{marker}": text for marker, text in result["tables"].items()}


BENCHMARK = Benchmark(
    __file__, __doc__, run, tables,
    options={"figures": {"nargs": "*", "metavar": "FIGURE", "help": "a number, or rest"}},
)  # fmt: skip

if __name__ == "__main__":
    BENCHMARK.main()

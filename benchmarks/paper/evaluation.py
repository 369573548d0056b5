"""The paper's evaluation at full length, and the tables of docs/paper.md.

python -m benchmarks.paper.evaluation               within twenty minutes on two cores; keep the machine idle: figure 3 measures
python -m benchmarks.paper.evaluation 11 12 rest    these figures alone; rest is directions, sensitivity and constants
"""

from __future__ import annotations

import sys
import time

from benchmarks.harness import ROOT, load, put_in, save
from deeprecsys.api.progress import Bar
from deeprecsys.paper import constants, directions, recipes, sensitivity
from deeprecsys.paper.crew import Tell, crew
from deeprecsys.paper.result import FigureTable, Result, claim_table
from deeprecsys.paper.study import Study

DOCUMENT = ROOT / "docs" / "paper.md"


def body(r: Result) -> str:
    """A figure's tables."""
    more = "".join(f"\n\n{t.title}:\n\n{t.markdown()}" for t in r.tables)
    return f"*{r.basis}*\n\n{claim_table(r).markdown()}{more}"


def keep(marker: str, text: str, seconds: float) -> None:
    """Put a part into the document and the results as soon as it is there."""
    kept = load("paper_evaluation")
    tables, times = kept.get("tables", {}), kept.get("seconds", {})
    save("paper_evaluation", {"seconds": {**times, marker: seconds}, "tables": {**tables, marker: text}})
    put_in(DOCUMENT, marker, text)
    print(f"{marker}: {seconds:.0f} s", flush=True)


def main() -> None:
    study = Study(profiles=ROOT / "profiles")
    asked = sys.argv[1:]
    numbers = () if asked == ["rest"] else recipes.chosen([a for a in asked if a != "rest"])
    rest = not asked or "rest" in asked
    steps = len(numbers) + rest
    results = {}
    with Bar("paper") as bar, crew(study) as members:

        def tell(step: int, name: str) -> Tell:
            return lambda share, what: bar.set((step + share) / steps, f"{name}: {what}")

        for i, n in enumerate(numbers):
            results[n], seconds = members.make(n, tell(i, f"figure {n}"))
            keep(results[n].name, body(results[n]), seconds)
        if set(directions.OF) <= set(results):
            keep("directions", directions.table(results).markdown(), 0.0)
        if rest:
            keep("constants", constants.table().markdown(), 0.0)
            start = time.monotonic()
            varied: FigureTable = sensitivity.table(members.vary(False, tell(steps - 1, "sensitivity")))
            keep("sensitivity", varied.markdown(), time.monotonic() - start)
    cost()


def cost() -> None:
    """What all parts took when they were last made, and the parts that were never made."""
    times = load("paper_evaluation")["seconds"]
    parts = {k: s for k, s in times.items() if s and k != "cost"}
    missing = [k for k in (*(f"figure{n:02d}" for n in recipes.RECIPES), "sensitivity") if k not in parts]
    slowest = ", ".join(f"{k} {s:.0f} s" for k, s in sorted(parts.items(), key=lambda p: -p[1])[:4])
    text = f"All parts took {sum(parts.values()) / 60:.1f} minutes on all cores of this machine; the longest: {slowest}."
    keep("cost", text + (f" Not made yet: {', '.join(missing)}." if missing else ""), 0.0)


if __name__ == "__main__":
    main()

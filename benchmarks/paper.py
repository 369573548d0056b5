"""The paper's evaluation at full length, and the tables of docs/paper.md.

python benchmarks/paper.py               within twenty minutes on two cores; keep the machine idle: figure 3 measures
python benchmarks/paper.py 11 12 rest    these figures alone; rest is directions, sensitivity and constants
"""

from __future__ import annotations

import sys
import time

from common import ROOT, load, put_in, save
from deeprecsys.paper import constants, directions, recipes, sensitivity
from deeprecsys.paper.result import Result, Table, claim_table
from deeprecsys.paper.study import Study

DOCUMENT = ROOT / "docs" / "paper.md"


def body(r: Result) -> str:
    """A figure's tables."""
    more = "".join(f"\n\n{t.title}:\n\n{t.markdown()}" for t in r.tables)
    return f"*{r.basis}*\n\n{claim_table(r).markdown()}{more}"


def keep(marker: str, text: str, seconds: float) -> None:
    """Put a part into the document and the results as soon as it is there."""
    kept = load("paper")
    tables, times = kept.get("tables", {}), kept.get("seconds", {})
    save("paper", {"seconds": {**times, marker: seconds}, "tables": {**tables, marker: text}})
    put_in(DOCUMENT, marker, text)
    print(f"{marker}: {seconds:.0f} s", flush=True)


def main() -> None:
    study = Study(profiles=ROOT / "profiles")
    asked = sys.argv[1:]
    results = {}
    for n in recipes.chosen([a for a in asked if a != "rest"]) if asked != ["rest"] else ():
        start = time.monotonic()
        results[n] = recipes.RECIPES[n](study)
        keep(results[n].name, body(results[n]), time.monotonic() - start)
    if set(directions.OF) <= set(results):
        keep("directions", directions.table(results).markdown(), 0.0)
    if asked and "rest" not in asked:
        return
    keep("constants", constants.table().markdown(), 0.0)
    start = time.monotonic()
    varied: Table = sensitivity.table(sensitivity.vary(False, lambda share, what: None))
    keep("sensitivity", varied.markdown(), time.monotonic() - start)
    times = load("paper")["seconds"]
    total = sum(times.values())
    keep("cost", f"All figures and the sensitivity took {total / 60:.1f} minutes of one process.", 0.0)


if __name__ == "__main__":
    main()

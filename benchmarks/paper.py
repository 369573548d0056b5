"""The paper's evaluation at full length, and the tables of docs/paper.md.

python benchmarks/paper.py            within twenty minutes on two cores; keep the machine idle: figure 3 measures
python benchmarks/paper.py --tables   the tables again from the results that are kept
"""

from __future__ import annotations

import sys
import time
from typing import Any

from common import ROOT, load, put_in, save
from deeprecsys.paper import constants, directions, recipes, sensitivity
from deeprecsys.paper.result import Table, claim_table
from deeprecsys.paper.study import Study

DOCUMENT = ROOT / "docs" / "paper.md"


def tables() -> tuple[dict[str, str], dict[str, Any]]:
    """Marker → body, and what it took."""
    study = Study(profiles=ROOT / "profiles")
    results, seconds = {}, {}
    for n, make in recipes.RECIPES.items():
        start = time.monotonic()
        results[n] = make(study)
        seconds[n] = time.monotonic() - start
        print(f"figure {n}: {seconds[n]:.0f} s", flush=True)
    start = time.monotonic()
    varied = sensitivity.vary(False, lambda share, what: None)
    seconds["sensitivity"] = time.monotonic() - start
    body = {
        "directions": directions.table(results).markdown(),
        "sensitivity": sensitivity.table(varied).markdown(),
        "constants": constants.table().markdown(),
    }
    for r in results.values():
        parts: list[Table] = [claim_table(r), *r.tables]
        body[r.name] = f"*{r.basis}*\n\n" + "\n\n".join(
            f"{t.title}:\n\n{t.markdown()}" if i else t.markdown() for i, t in enumerate(parts)
        )
    total = sum(seconds.values())
    body["cost"] = f"All figures and the sensitivity took {total / 60:.1f} minutes of one process."
    return body, {"seconds": seconds}


def main() -> None:
    if "--tables" in sys.argv:
        body = load("paper").get("tables", {})
    else:
        body, cost = tables()
        save("paper", {**cost, "tables": body})
    for marker, text in body.items():
        put_in(DOCUMENT, marker, text)


if __name__ == "__main__":
    main()

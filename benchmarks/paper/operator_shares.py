"""Where a batch's time goes, operator by operator: eager torch, one thread, the artefact's models at batch 64.

python -m benchmarks.paper.operator_shares [--quick]     two minutes; keep the machine idle
"""

from __future__ import annotations

import sys

from benchmarks.harness import save
from deeprecsys.paper.operators import BATCH, shares
from deeprecsys.paper.published import MODELS, SHARES


def main() -> None:
    quick = "--quick" in sys.argv
    found = {}
    for name in MODELS[:1] if quick else MODELS:
        found[name] = shares(f"{name}-artefact", rounds=2 if quick else 30)
        ranked = ", ".join(f"{k} {100 * v:.0f} %" for k, v in found[name].items())
        published = ", ".join(f"{k} {v:g} %" for k, v in SHARES.get(name, {}).items()) or "not published"
        print(f"{name}: {ranked} (published: {published})", flush=True)
    if not quick:
        print(save("paper_operator_shares", {"batch": BATCH, "measured": found}))


if __name__ == "__main__":
    main()

"""Modelled platforms held against machines whose batches were measured: predicted from another machine, nothing fitted.

Every pair of machine kinds: batches by part from one, limits of a core of the other, whole batches of the other. Of the
machine with profiles in `profiles/` both levels are compared, one and two busy workers. Beside them what data sheets alone
say of that machine, and the analytic roofline. Nothing is measured here: `python -m benchmarks.paper.anchor` measures, with
`--isa avx2` a second kind.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.harness import PROFILES, Benchmark, Result, Run, Tables, markdown
from deeprecsys.files import read_profile
from deeprecsys.paper.platforms import EPYC_7003, Anchor, batch_time, work_of
from deeprecsys.paper.platforms.anchors import EAGER_FILE, epyc_7003_limits
from deeprecsys.paper.platforms.limits import CoreLimits, limits_of
from deeprecsys.paper.published import MODELS, SHORT
from deeprecsys.zoo import MODELS as ZOO

CHECKED = "amd-25-1-avx2"
SHOWN = (1, 8, 32, 128, 512, 1000)
SMALL = 32
Times = Mapping[str, Mapping[int, float]]
"""Model → batch → seconds."""


def kind(file: Path) -> str:
    return file.stem.removeprefix("eager-")


def measured(busy: int) -> Times:
    """Medians of the checked machine's profiles, with so many busy workers."""
    found = {}
    for m in MODELS:
        profile = read_profile("--profiles", PROFILES / CHECKED / f"{m}.json")
        found[m] = {p.batch: p.median_s for p in profile.curve(busy)}
    return found


def own(anchor: Anchor) -> Times:
    """An anchor's own whole batches."""
    return {m: {b.items: b.seconds for b in anchor.batches(m)} for m in MODELS}


def predicted(anchor: Anchor, limits: CoreLimits, model: str, batch: int) -> float:
    return anchor.parts(work_of(ZOO[model]), batch, limits).total


def pairs() -> dict[str, tuple[Times, Callable[[str, int], float]]]:
    """What is predicted, and by what, by name."""
    anchors = {kind(f): Anchor.read(f) for f in sorted(EAGER_FILE.parent.glob("eager-*.json"))}
    found: dict[str, tuple[Times, Callable[[str, int], float]]] = {}
    for a, anchor in anchors.items():
        for b, other in anchors.items():
            if a != b:
                found[f"{a} → {b}"] = own(other), partial(predicted, anchor, other.limits)
        for busy in (1, 2):
            found[f"{a} → {CHECKED}, {busy} busy"] = (
                measured(busy),
                partial(predicted, anchor, epyc_7003_limits()),
            )
    anchor = anchors[kind(EAGER_FILE)]
    found[f"{kind(EAGER_FILE)} → {CHECKED}, by data sheets"] = (
        measured(1), partial(predicted, anchor, limits_of(EPYC_7003, anchor.limits)),
    )  # fmt: skip
    found[f"roofline of data sheets → {CHECKED}"] = (
        measured(1), lambda model, batch: batch_time(EPYC_7003, work_of(ZOO[model]), batch).total,
    )  # fmt: skip
    return found


def run(run: Run) -> Result:
    found: Result = {}
    for name, (times, predict) in pairs().items():
        models = MODELS[3:4] if run.quick else MODELS
        found[name] = {m: {str(b): (s, predict(m, b)) for b, s in times[m].items()} for m in models}
    return {"measured_and_predicted_s": found}


def off(ratios: list[float]) -> str:
    """Typical factor off, and bias."""
    x = np.log(ratios)
    return f"{np.exp(np.abs(x).mean()):.2f} ({100 * np.exp(x.mean()) - 100:+.0f} %)"


def tables(result: Result) -> Tables:
    rows, found = [], result["measured_and_predicted_s"]
    for name, models in found.items():
        ratios = [(int(b), p / m) for times in models.values() for b, (m, p) in times.items()]
        at = (off([r for b, r in ratios if b == size]) for size in SHOWN if any(b == size for b, _ in ratios))
        rows.append((name, off([r for _, r in ratios]), off([r for b, r in ratios if b <= SMALL]), *at))
    sizes = {int(b) for models in found.values() for times in models.values() for b in times}
    header = ("from → to", "all batches", f"up to {SMALL}", *(f"batch {b}" for b in SHOWN if b in sizes))
    by_model = next(
        m for name, m in found.items() if name.endswith(f"{CHECKED}, 1 busy") and kind(EAGER_FILE) in name
    )
    each = [
        (SHORT[m], *(f"{1e3 * a:.3g} / {1e3 * b:.3g}" for size, (a, b) in times.items() if int(size) in SHOWN))
        for m, times in by_model.items()
    ]  # fmt: skip
    return {
        "docs/paper.md#platform-check": "Typical factor off, and bias:\n\n"
        f"{markdown(header, rows)}\n\nMeasured / predicted ms of a batch, {kind(EAGER_FILE)} → {CHECKED}:\n\n"
        f"{markdown(('model', *(f'batch {b}' for b in SHOWN if b in sizes)), each)}"
    }


BENCHMARK = Benchmark(__file__, __doc__, run, tables)

if __name__ == "__main__":
    BENCHMARK.main()

"""Figure 14: the accelerator's share, throughput and throughput per watt against the target."""

from __future__ import annotations

from deeprecsys.paper import draw
from deeprecsys.paper.figure11 import mean, per_watt, ratios
from deeprecsys.paper.published import LEVELS, MODELS, SHORT
from deeprecsys.paper.result import Claim, Drawing, Result, Table, seen
from deeprecsys.paper.study import Case, Study
from deeprecsys.paper.variants import card_beside_node


def make(study: Study) -> Result:
    readings = {"over one core": study, "over the node": card_beside_node(study)}
    share = {
        name: {m: [s.with_gpu(Case(m, lv)).gpu_share for lv in LEVELS] for m in MODELS}
        for name, s in readings.items()
    }
    falls = {n: sum(v[0] > v[-1] + 0.005 for v in models.values()) for n, models in share.items()}
    rises = {n: sum(v[0] < v[-1] - 0.005 for v in models.values()) for n, models in share.items()}
    claims = (
        Claim("the accelerator's share of the work falls as the target loosens", "falls",
              "; ".join(f"{n}: falls for {falls[n]}, rises for {rises[n]} of 8 models" for n in share),
              seen(all(falls[n] > rises[n] for n in share)),
              "the CPU meets these targets with whole queries per core even at the low level, so a looser one does not "
              "change what it can take; the share is set by where both devices are full"),
    )  # fmt: skip
    gain = {n: {lv: mean(ratios(s, "Skylake", lv)) for lv in LEVELS} for n, s in readings.items()}
    watts = {n: {lv: mean(per_watt(s, "Skylake", lv)) for lv in LEVELS} for n, s in readings.items()}
    rows = tuple(
        (SHORT[m], *(" / ".join(f"{100 * x:.0f} %" for x in share[n][m]) for n in readings)) for m in MODELS
    )
    totals = tuple(
        (f"{what}, {n}", *(f"{table[n][lv][1]:.2f}" for lv in LEVELS))
        for what, table in (("throughput", gain), ("throughput per watt", watts)) for n in readings
    )  # fmt: skip
    groups = [SHORT[m] for m in MODELS]
    drawings = tuple(
        Drawing(f"share-{i}", f"Speed-ups {n}", "share of items on the accelerator, by target", draw.bars(
            groups, {lv: [100 * share[n][m][k] for m in MODELS] for k, lv in enumerate(LEVELS)}, "% of items"))
        for i, n in enumerate(readings)
    )  # fmt: skip
    return Result(
        14, "The accelerator against the target", "simulated; card by published speed-ups", claims, drawings,
        (Table("Share of items on the accelerator, low / medium / high target", ("model", *readings), rows),
         Table("CPU+GPU over static, geometric mean, Skylake", ("", *LEVELS), totals)),
        {"share": share, "ratio": gain, "per_watt": watts},
    )  # fmt: skip

"""The evaluation on one screen: the headline numbers beside the paper's; which reading of the card fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from deeprecsys.paper.figures.figure10 import READINGS
from deeprecsys.paper.figures.figure11 import mean
from deeprecsys.paper.published import LEVELS, MEAN_RATIO, MEAN_RATIO_PER_WATT, MODELS, PRODUCTION, RATIOS
from deeprecsys.paper.result import Result, TextTable
from deeprecsys.paper.uncertainty import ENDS, Drawn

PLATFORM = "Skylake"


def headline(results: Mapping[int, Result], drawn: Sequence[Drawn]) -> TextTable:
    """Geometric means over the models, on Skylake, as far as their figures were made."""
    rows: list[tuple[str, ...]] = []
    if 11 in results:
        data = results[11].data
        for lv in LEVELS:
            cpu, card = mean(data["ratio"][PLATFORM][lv])
            over = mean(data["ratio_over_node"][PLATFORM][lv])[1]
            both = f"{card:.2f}; {over:.2f} over the node"
            for i, (what, ours) in enumerate((("CPU", f"{cpu:.2f}"), ("CPU+GPU", both))):
                paper = f"{MEAN_RATIO[lv][i]:g}"
                rows.append((f"{what} over static, {lv} target", paper, ours, _interval(drawn, lv, i)))
        for lv in LEVELS:
            one_core, node = (mean(data[k][PLATFORM][lv])[1] for k in ("per_watt", "per_watt_over_node"))
            paper, ours = f"{MEAN_RATIO_PER_WATT[lv][1]:g}", f"{one_core:.2f}; {node:.2f} over the node"
            rows.append((f"CPU+GPU per watt over static, {lv} target", paper, ours, ""))
    if 13 in results:
        for claim, (what, published) in zip(results[13].claims, PRODUCTION.items(), strict=False):
            rows.append((f"the fleet's day, {what}, static over tuned", f"{published:g}", claim.ours, ""))
    return TextTable(("", "paper", "ours", "90 % of draws"), tuple(rows), title="Headline numbers")


def _interval(drawn: Sequence[Drawn], level: str, which: int) -> str:
    if not drawn:
        return ""
    low, high = np.nanquantile([mean(dict(d.ratios[PLATFORM][level]))[which] for d in drawn], ENDS)
    return f"{low:.2f} to {high:.2f}"


def card_readings(figure11: Result) -> TextTable:
    """What the accelerator adds to the CPU: the paper's own ratios, and both readings of its speed-ups."""
    data, rows = figure11.data, []
    for i, lv in enumerate(LEVELS):
        added = {m: RATIOS[m][i][1] / RATIOS[m][i][0] for m in MODELS}
        row = [lv, f"{_mean(list(added.values())):.2f}"]
        for key in ("ratio", "ratio_over_node"):
            ours = {m: r[1] / r[0] for m, r in data[key][PLATFORM][lv].items()}
            off = _mean([max(ours[m] / added[m], added[m] / ours[m]) for m in MODELS if np.isfinite(ours[m])])
            row.append(f"{_mean([x for x in ours.values() if np.isfinite(x)]):.2f}, off by {off:.2f}")
        rows.append(tuple(row))
    header = ("target", "the paper's own", *(f"speed-ups {r}" for r in READINGS))
    title = "What the card adds: CPU+GPU over CPU, geometric means, and typical factor off by model"
    return TextTable(header, tuple(rows), title=title)


def _mean(values: Sequence[float]) -> float:
    return float(np.exp(np.mean(np.log(values))))

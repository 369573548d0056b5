"""Figure 11: throughput and throughput per watt over the static baseline, CPU and CPU with accelerator."""

from __future__ import annotations

import numpy as np

from deeprecsys.paper import charts
from deeprecsys.paper.platforms import GTX_NODE, NodePower
from deeprecsys.paper.published import (
    LEVELS,
    MEAN_RATIO,
    MEAN_RATIO_PER_WATT,
    MODELS,
    NODE_POWER_RATIO,
    RATIOS,
    SHORT,
)
from deeprecsys.paper.result import Claim, ClaimVerdict, Illustration, Result, TextTable, seen
from deeprecsys.paper.study import Case, Study
from deeprecsys.paper.trial import FigureCapacity
from deeprecsys.paper.variants import card_beside_node

NEAR = 0.25
"""A mean within this of the paper's agrees."""


def ratios(study: Study, platform: str, level: str) -> dict[str, tuple[float, float]]:
    """(CPU, CPU and accelerator) over static, by model."""
    found = {}
    for m in MODELS:
        case = Case(m, level, platform)
        base = study.static(case).qps
        found[m] = (
            (study.tuned(case).qps / base, study.with_gpu(case).qps / base) if base else (np.nan, np.nan)
        )
    return found


def per_watt(
    study: Study, platform: str, level: str, *, constant: bool = False
) -> dict[str, tuple[float, float]]:
    """The same of queries per joule: each node at its own utilisation, the card idling where it is unused."""
    spec = study.specs[platform]
    alone = NodePower(spec.watts * spec.sockets, constant=constant)
    card = NODE_POWER_RATIO * alone.cpu_w - alone.cpu_w if constant else GTX_NODE
    beside = NodePower(alone.cpu_w, card, constant=constant)

    def rate(x: FigureCapacity, node: NodePower) -> float:
        return x.qps / node.watts(x.cpu_load, x.gpu_load)

    found = {}
    for m in MODELS:
        case = Case(m, level, platform)
        base = study.static(case)
        if not base.qps:
            found[m] = (float("nan"), float("nan"))
            continue
        zero = rate(base, alone)
        found[m] = (rate(study.tuned(case), alone) / zero, rate(study.with_gpu(case), beside) / zero)
    return found


def mean(ratios: dict[str, tuple[float, float]]) -> tuple[float, float]:
    """Geometric means over the models."""
    a, b = np.exp(np.nanmean(np.log(np.array(list(ratios.values()))), axis=0))
    return float(a), float(b)


def ask(study: Study, model: str) -> None:
    """All that the figure needs of one model."""
    for s in (study, card_beside_node(study)):
        for p in study.specs:
            for lv in LEVELS:
                s.with_gpu(Case(model, lv, p))


def make(study: Study) -> Result:
    wide = card_beside_node(study)
    found = {p: {lv: ratios(study, p, lv) for lv in LEVELS} for p in study.specs}
    wider = {p: {lv: ratios(wide, p, lv) for lv in LEVELS} for p in study.specs}
    watts = {p: {lv: per_watt(study, p, lv) for lv in LEVELS} for p in study.specs}
    watts_wide = {p: {lv: per_watt(wide, p, lv) for lv in LEVELS} for p in study.specs}
    flat = {p: {lv: per_watt(wide, p, lv, constant=True) for lv in LEVELS} for p in study.specs}
    tables = [_table(p, found[p], wider[p]) for p in study.specs]
    tables.append(_means(found, wider))
    tables.append(_watts(watts, watts_wide, flat))
    sky = {lv: (mean(found["Skylake"][lv]), mean(wider["Skylake"][lv])) for lv in LEVELS}
    claims = [*_claims(sky), _energy_claim(watts, watts_wide)]
    groups = [SHORT[m] for m in MODELS]
    medium, wide_medium = found["Skylake"]["medium"], wider["Skylake"]["medium"]
    plot = charts.bars(
        groups,
        {
            "CPU": [medium[m][0] for m in MODELS],
            "paper's CPU": [RATIOS[m][1][0] for m in MODELS],
            "CPU+GPU, over one core": [medium[m][1] for m in MODELS],
            "CPU+GPU, over the node": [wide_medium[m][1] for m in MODELS],
            "paper's CPU+GPU": [RATIOS[m][1][1] for m in MODELS],
        },
        "throughput over static",
        level=1.0,
    )
    energy = charts.bars(
        groups,
        {
            "CPU": [watts["Skylake"]["medium"][m][0] for m in MODELS],
            "CPU+GPU, over one core": [watts["Skylake"]["medium"][m][1] for m in MODELS],
            "CPU+GPU, over the node": [watts_wide["Skylake"]["medium"][m][1] for m in MODELS],
        },
        "queries/joule over static",
        level=1.0,
    )
    return Result(
        11, "Throughput and throughput per watt over static", "simulated, on modelled machines; modelled power",
        tuple(claims),
        (Illustration("throughput", "Throughput, Skylake, medium target", "over the static batch size", plot),
         Illustration("energy", "Throughput per watt, Skylake, medium target", "idle and dynamic power", energy)),
        tuple(tables),
        {"ratio": found, "ratio_over_node": wider, "per_watt": watts, "per_watt_over_node": watts_wide,
         "per_watt_constant_power_over_node": flat, "paper": {m: list(v) for m, v in RATIOS.items()}},
    )  # fmt: skip


def _table(
    platform: str,
    found: dict[str, dict[str, tuple[float, float]]],
    wider: dict[str, dict[str, tuple[float, float]]],
) -> TextTable:
    rows = [
        (SHORT[m], *(
            f"{found[lv][m][0]:.2f}, {found[lv][m][1]:.2f} ({wider[lv][m][1]:.2f}) | "
            f"{RATIOS[m][i][0]:g}, {RATIOS[m][i][1]:g}".replace(" | ", " vs ")
            for i, lv in enumerate(LEVELS)
        ))
        for m in MODELS
    ]  # fmt: skip
    rows.append(
        ("geometric mean", *(
            f"{mean(found[lv])[0]:.2f}, {mean(found[lv])[1]:.2f} ({mean(wider[lv])[1]:.2f}) vs "
            f"{MEAN_RATIO[lv][0]:g}, {MEAN_RATIO[lv][1]:g}"
            for lv in LEVELS
        ))
    )  # fmt: skip
    title = (
        f"{platform}: throughput over static: CPU, CPU+GPU (GPU over the node) vs the paper's CPU, CPU+GPU"
    )
    return TextTable(("model", *LEVELS), tuple(rows), title=title)


def _means(found: dict[str, dict[str, dict[str, tuple[float, float]]]],
           wider: dict[str, dict[str, dict[str, tuple[float, float]]]]) -> TextTable:  # fmt: skip
    rows = []
    for i, what in ((0, "CPU"), (1, "CPU+GPU")):
        rows.append((f"paper, {what}", *(f"{MEAN_RATIO[lv][i]:g}" for lv in LEVELS)))
        rows += [(f"{p}, {what}", *(f"{mean(found[p][lv])[i]:.2f}" for lv in LEVELS)) for p in found]
    rows += [
        (f"{p}, CPU+GPU, GPU over the node", *(f"{mean(wider[p][lv])[1]:.2f}" for lv in LEVELS))
        for p in wider
    ]
    return TextTable(("", *LEVELS), tuple(rows), title="Geometric means of throughput over static")


def _watts(watts: dict[str, dict[str, dict[str, tuple[float, float]]]],
           wide: dict[str, dict[str, dict[str, tuple[float, float]]]],
           flat: dict[str, dict[str, dict[str, tuple[float, float]]]]) -> TextTable:  # fmt: skip
    rows = []
    for i, what in ((0, "CPU"), (1, "CPU+GPU")):
        rows.append((f"paper, {what}", *(f"{MEAN_RATIO_PER_WATT[lv][i]:g}" for lv in LEVELS)))
        rows += [(f"{p}, {what}", *(f"{mean(watts[p][lv])[i]:.2f}" for lv in LEVELS)) for p in watts]
    for p in wide:
        rows.append((f"{p}, CPU+GPU, GPU over the node", *(f"{mean(wide[p][lv])[1]:.2f}" for lv in LEVELS)))
        rows.append((f"{p}, the same at the paper's constant power",
                     *(f"{mean(flat[p][lv])[1]:.2f}" for lv in LEVELS)))  # fmt: skip
    return TextTable(("", *LEVELS), tuple(rows), title="Geometric means of throughput per watt over static")


def _claims(sky: dict[str, tuple[tuple[float, float], tuple[float, float]]]) -> list[Claim]:
    claims = []
    for lv in LEVELS:
        (cpu, gpu), (_, over_node) = sky[lv]
        paper_cpu, paper_gpu = MEAN_RATIO[lv]
        claims.append(Claim(
            f"CPU over static, {lv} target, geometric mean", f"{paper_cpu:g}×", f"{cpu:.2f}× on Skylake",
            seen(abs(cpu / paper_cpu - 1) <= NEAR),
            "what a larger batch saves is launches, weights and per-slice work; look-ups, which bound RMC1 and RMC2, "
            "cost as much in small batches",
        ))  # fmt: skip
        claims.append(Claim(
            f"CPU+GPU over static, {lv} target, geometric mean", f"{paper_gpu:g}×",
            f"{gpu:.2f}×; {over_node:.2f}× if the speed-ups are over the node",
            seen(abs(gpu / paper_gpu - 1) <= NEAR),
            "a card of 1 to 5 cores' worth cannot add 3 nodes' worth to 40 cores",
        ))  # fmt: skip
    return claims


def _energy_claim(watts: dict[str, dict[str, dict[str, tuple[float, float]]]],
                  wide: dict[str, dict[str, dict[str, tuple[float, float]]]]) -> Claim:  # fmt: skip
    worse = [m for m in MODELS if watts["Skylake"]["medium"][m][1] < watts["Skylake"]["medium"][m][0]]
    worse_wide = [m for m in MODELS if wide["Skylake"]["medium"][m][1] < wide["Skylake"]["medium"][m][0]]
    named = ", ".join(SHORT[m] for m in worse_wide) or "none"
    return Claim(
        "the card loses throughput per watt for some models", "RMC1, RMC3 and DIN in several cells",
        f"{len(worse)} of 8; over the node: {named}",
        ClaimVerdict.AGREES if worse else ClaimVerdict.DIFFERS,
        "250 W more, for what a few cores do; over the node it pays where the speed-up exceeds its power",
    )  # fmt: skip

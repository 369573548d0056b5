"""Figure 11: throughput and throughput per watt over the static baseline, CPU and CPU with accelerator."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
from matplotlib.figure import Figure

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
from deeprecsys.paper.result import Claim, Illustration, Result, TextTable, seen
from deeprecsys.paper.study import Case, Study
from deeprecsys.paper.trial import FigureCapacity
from deeprecsys.paper.variants import card_beside_node

NEAR = 0.25
"""A mean within this of the paper's agrees."""
Ratios = dict[str, tuple[float, float]]
"""Model → over static, the CPU alone and with the accelerator."""
ByTarget = dict[str, dict[str, Ratios]]
"""Platform → target → ratios."""


def ratios(study: Study, platform: str, level: str) -> Ratios:
    """Throughput over static."""
    return {m: _over_static(study, Case(m, level, platform), lambda x, with_card: x.qps) for m in MODELS}


def per_watt(study: Study, platform: str, level: str, *, constant: bool = False) -> Ratios:
    """Queries per joule over static: each node at its own utilisation, the card idling where it is unused."""
    spec = study.specs[platform]
    alone = NodePower(spec.watts * spec.sockets, constant=constant)
    card = NODE_POWER_RATIO * alone.cpu_w - alone.cpu_w if constant else GTX_NODE
    both = NodePower(alone.cpu_w, card, constant=constant)

    def rate(x: FigureCapacity, with_card: bool) -> float:
        return x.qps / (both if with_card else alone).watts(x.cpu_load, x.gpu_load)

    return {m: _over_static(study, Case(m, level, platform), rate) for m in MODELS}


def _over_static(
    study: Study, case: Case, rate: Callable[[FigureCapacity, bool], float]
) -> tuple[float, float]:
    """A rate of the tuned points over that of the static one; nan where static meets the target at no load."""
    static = study.static(case)
    if not static.qps:
        return float("nan"), float("nan")
    base = rate(static, False)
    return rate(study.tuned(case), False) / base, rate(study.with_gpu(case), True) / base


def mean(ratios: Ratios) -> tuple[float, float]:
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

    def every(of: Study, measure: Callable[..., Ratios], **how: bool) -> ByTarget:
        return {p: {lv: measure(of, p, lv, **how) for lv in LEVELS} for p in study.specs}

    found, wider = every(study, ratios), every(wide, ratios)
    watts, watts_wide = every(study, per_watt), every(wide, per_watt)
    flat = every(wide, per_watt, constant=True)
    medium, wide_medium = (x["Skylake"]["medium"] for x in (found, wider))
    joule, wide_joule = (x["Skylake"]["medium"] for x in (watts, watts_wide))
    published = {m: RATIOS[m][1] for m in MODELS}
    plot = _bars("throughput over static", {
        "CPU": (medium, 0), "paper's CPU": (published, 0), "CPU+GPU, over one core": (medium, 1),
        "CPU+GPU, over the node": (wide_medium, 1), "paper's CPU+GPU": (published, 1),
    })  # fmt: skip
    energy = _bars("queries/joule over static", {
        "CPU": (joule, 0), "CPU+GPU, over one core": (joule, 1), "CPU+GPU, over the node": (wide_joule, 1),
    })  # fmt: skip
    return Result(
        11, "Throughput and throughput per watt over static", "simulated, on modelled machines; modelled power",
        (*_claims(found["Skylake"], wider["Skylake"]), _energy_claim(joule, wide_joule)),
        (Illustration("throughput", "Throughput, Skylake, medium target", "over the static batch size", plot),
         Illustration("energy", "Throughput per watt, Skylake, medium target", "idle and dynamic power", energy)),
        (*(_table(p, found[p], wider[p]) for p in study.specs),
         _means("Geometric means of throughput over static", MEAN_RATIO, found, {"GPU over the node": wider}),
         _means("Geometric means of throughput per watt over static", MEAN_RATIO_PER_WATT, watts,
                {"GPU over the node": watts_wide, "": flat})),
        {"ratio": found, "ratio_over_node": wider, "per_watt": watts, "per_watt_over_node": watts_wide,
         "per_watt_constant_power_over_node": flat, "paper": {m: list(v) for m, v in RATIOS.items()}},
    )  # fmt: skip


def _bars(label: str, columns: Mapping[str, tuple[Ratios, int]]) -> Figure:
    """Bars of one of each pair of ratios."""
    series = {name: [of[m][i] for m in MODELS] for name, (of, i) in columns.items()}
    return charts.bars([SHORT[m] for m in MODELS], series, label, level=1.0)


def _table(platform: str, found: dict[str, Ratios], wider: dict[str, Ratios]) -> TextTable:
    def cell(ours: tuple[float, float], over_node: float, paper: tuple[float, float]) -> str:
        return f"{ours[0]:.2f}, {ours[1]:.2f} ({over_node:.2f}) vs {paper[0]:g}, {paper[1]:g}"

    rows = [
        (SHORT[m], *(cell(found[lv][m], wider[lv][m][1], RATIOS[m][i]) for i, lv in enumerate(LEVELS)))
        for m in MODELS
    ]
    means = (cell(mean(found[lv]), mean(wider[lv])[1], MEAN_RATIO[lv]) for lv in LEVELS)
    title = (
        f"{platform}: throughput over static: CPU, CPU+GPU (GPU over the node) vs the paper's CPU, CPU+GPU"
    )
    return TextTable(("model", *LEVELS), (*rows, ("geometric mean", *means)), title=title)


def _means(
    title: str, paper: Mapping[str, tuple[float, float]], found: ByTarget, others: Mapping[str, ByTarget]
) -> TextTable:
    """Means by platform beside the paper's; `others`: with the accelerator under other readings of its power."""
    rows = []
    for i, what in ((0, "CPU"), (1, "CPU+GPU")):
        rows.append((f"paper, {what}", *(f"{paper[lv][i]:g}" for lv in LEVELS)))
        rows += [(f"{p}, {what}", *(f"{mean(found[p][lv])[i]:.2f}" for lv in LEVELS)) for p in found]
    for p in found:
        for name, other in others.items():
            what = f"CPU+GPU, {name}" if name else "the same at the paper's constant power"
            rows.append((f"{p}, {what}", *(f"{mean(other[p][lv])[1]:.2f}" for lv in LEVELS)))
    return TextTable(("", *LEVELS), tuple(rows), title=title)


def _claims(found: dict[str, Ratios], wider: dict[str, Ratios]) -> Iterator[Claim]:
    for lv in LEVELS:
        (cpu, gpu), (_, over_node) = mean(found[lv]), mean(wider[lv])
        paper_cpu, paper_gpu = MEAN_RATIO[lv]
        yield Claim(
            f"CPU over static, {lv} target, geometric mean", f"{paper_cpu:g}×", f"{cpu:.2f}× on Skylake",
            seen(abs(cpu / paper_cpu - 1) <= NEAR),
            "what a larger batch saves is launches, weights and per-slice work; look-ups, which bound RMC1 and RMC2, "
            "cost as much in small batches",
        )  # fmt: skip
        yield Claim(
            f"CPU+GPU over static, {lv} target, geometric mean", f"{paper_gpu:g}×",
            f"{gpu:.2f}×; {over_node:.2f}× if the speed-ups are over the node",
            seen(abs(gpu / paper_gpu - 1) <= NEAR),
            "a card of 1 to 5 cores' worth cannot add 3 nodes' worth to 40 cores",
        )  # fmt: skip


def _energy_claim(joule: Ratios, wide: Ratios) -> Claim:
    worse, worse_wide = ([m for m in MODELS if x[m][1] < x[m][0]] for x in (joule, wide))
    return Claim(
        "the card loses throughput per watt for some models", "RMC1, RMC3 and DIN in several cells",
        f"{len(worse)} of 8; over the node: {', '.join(SHORT[m] for m in worse_wide) or 'none'}",
        seen(bool(worse)),
        "250 W more, for what a few cores do; over the node it pays where the speed-up exceeds its power",
    )  # fmt: skip

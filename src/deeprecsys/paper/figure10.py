"""Figure 10: throughput against the accelerator's size threshold, with and without input transfer."""

from __future__ import annotations

from deeprecsys.paper import draw
from deeprecsys.paper.published import MODELS, SHORT
from deeprecsys.paper.result import Claim, Drawing, Result, Table, seen
from deeprecsys.paper.study import Case, Study
from deeprecsys.paper.variants import card_beside_node
from deeprecsys.report import format as f

SHOWN = ("dlrm-rmc1", "dlrm-rmc3", "wnd", "dien")


def make(study: Study) -> Result:
    wide = card_beside_node(study)
    best = {
        m: tuple(s.with_gpu(Case(m, transfer=t)) for s in (study, wide) for t in (True, False))
        for m in MODELS
    }
    inner = sum(b[0].offload_above not in (None, 0) for b in best.values())
    lower = {name: sum(_above(b[i + 1].offload_above) <= _above(b[i].offload_above) for b in best.values())
             for i, name in ((0, "core"), (2, "node"))}  # fmt: skip
    more = {
        name: sum(b[i + 1].qps >= b[i].qps for b in best.values()) for i, name in ((0, "core"), (2, "node"))
    }
    claims = (
        Claim("the best threshold lies inside: large queries go away, small ones stay", "all models",
              f"{inner} of 8 models; the rest keep all on the CPU", seen(inner >= 5),
              "a card worth 1 to 5 cores takes only what is largest"),
        Claim("without transfer the best threshold is lower", "lower",
              f"lower or equal for {lower['core']} of 8; {lower['node']} of 8 beside a whole node",
              seen(min(lower.values()) >= 7), "the card takes more once inputs cost nothing"),
        Claim("without transfer there is more throughput", "more",
              f"{more['core']} of 8; {more['node']} of 8 beside a whole node", seen(min(more.values()) >= 7)),
    )  # fmt: skip
    header = ("model", "over one core: with transfer", "without", "over the node: with transfer", "without")
    rows = tuple(
        (SHORT[m], *(f"{_words(x.offload_above)}, {f.figure(x.qps)}" for x in best[m])) for m in MODELS
    )

    def series(s: Study, transfer: bool) -> dict[str, tuple[list[float], list[float]]]:
        found = {}
        for m in SHOWN:
            alone = s.tuned(Case(m)).qps
            points = [x for x in s.by_threshold(Case(m, transfer=transfer)) if x.offload_above and x.qps]
            found[SHORT[m]] = (
                [float(x.offload_above or 0) for x in points],
                [100 * x.qps / alone for x in points],
            )
        return found

    label = "% of the CPU's"
    x_label = "queries above so many items are offloaded"
    drawings = tuple(
        Drawing(name, title, f"capacity, {caption}; 100 % is the CPU alone", draw.lines(
            series(s, transfer), x_label, label, level=100.0))
        for name, title, s, transfer, caption in (
            ("core", "Speed-ups over one core, with transfer", study, True, "modelled Skylake"),
            ("core-free", "Over one core, without transfer", study, False, "modelled Skylake"),
            ("node", "Speed-ups over the whole node, with transfer", wide, True, "the other reading"),
        )
    )  # fmt: skip
    data = {
        m: [{"offload_above": x.offload_above, "qps": x.qps, "gpu_share": x.gpu_share} for x in best[m]]
        for m in MODELS
    }
    return Result(
        10, "Throughput against the offload threshold", "simulated; card by published speed-ups", claims, drawings,
        (Table("Best threshold in items, and queries/s, medium target, Skylake", header, rows),),
        {"columns": list(header[1:]), "best": data},
    )  # fmt: skip


def _above(threshold: int | None) -> int:
    return 1 << 30 if threshold is None else threshold


def _words(threshold: int | None) -> str:
    return "CPU alone" if threshold is None else f"> {threshold:,}"

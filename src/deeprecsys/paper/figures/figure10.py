"""Figure 10: throughput against the accelerator's size threshold, with and without input transfer."""

from __future__ import annotations

from deeprecsys.paper import charts
from deeprecsys.paper.published import MODELS, SHORT
from deeprecsys.paper.result import Claim, ClaimVerdict, Illustration, Result, TextTable, direction
from deeprecsys.paper.study import WITHIN, Case, Study
from deeprecsys.paper.variants import card_beside_node
from deeprecsys.report import format as f

SHOWN = ("dlrm-rmc1", "dlrm-rmc3", "wnd", "dien")
READINGS = ("over one core", "over the node")


def readings(study: Study) -> dict[str, Study]:
    """What the published speed-ups may be over."""
    return dict(zip(READINGS, (study, card_beside_node(study)), strict=True))


def ask(study: Study, model: str) -> None:
    """All that the figure needs of one model."""
    for s in readings(study).values():
        s.threshold_rises(Case(model), Case(model, transfer=False))
        for transfer in (True, False) if model in SHOWN else ():
            s.by_threshold(Case(model, transfer=transfer))


INSIDE = "the best threshold lies inside: large queries go away, small ones stay"
LOWER = "without transfer the best threshold is lower"
MORE = "without transfer there is more throughput"


def inside(study: Study) -> int:
    """For how many models some queries go to the accelerator and others do not, by more than a tie."""
    best = {m: study.with_gpu(Case(m)) for m in MODELS}
    return sum(
        b.qps > (1 + WITHIN) * study.tuned(Case(m)).qps and b.offload_above != 0 for m, b in best.items()
    )


def lower(study: Study) -> dict[str, tuple[int, int]]:
    """Reading → for how many models the threshold is lower without transfer, and higher."""
    found = {}
    for n, s in readings(study).items():
        moves = [s.threshold_rises(Case(m), Case(m, transfer=False)) for m in MODELS]
        found[n] = moves.count(-1), moves.count(1)
    return found


def more(study: Study) -> dict[str, int]:
    """Reading → for how many models there is more throughput without transfer."""
    return {
        n: sum(
            s.with_gpu(Case(m, transfer=False)).qps > (1 + WITHIN) * s.with_gpu(Case(m)).qps for m in MODELS
        )
        for n, s in readings(study).items()
    }


def verdicts(study: Study) -> dict[str, ClaimVerdict]:
    """Direction → whether it is seen."""
    return {
        INSIDE: direction(inside(study), 0, 8),
        LOWER: both([direction(a, b, 8) for a, b in lower(study).values()]),
        MORE: both([direction(k, 0, 8) for k in more(study).values()]),
    }


def make(study: Study) -> Result:
    of, found = readings(study), verdicts(study)
    wide = of[READINGS[1]]
    best = {
        m: tuple(s.with_gpu(Case(m, transfer=t)) for s in of.values() for t in (True, False)) for m in MODELS
    }
    claims = (
        Claim(INSIDE, "all models", f"{inside(study)} of 8 models, by more than {100 * WITHIN:.0f} %; the rest keep all "
              "on the CPU, or may as well", found[INSIDE], "a card worth 1 to 5 cores takes only what is largest"),
        Claim(LOWER, "lower", "; ".join(f"{n}: lower for {a}, higher for {b} of 8" for n, (a, b) in lower(study).items()),
              found[LOWER], "the card takes more once inputs cost nothing"),
        Claim(MORE, "more", "; ".join(f"{n}: {k} of 8" for n, k in more(study).items()), found[MORE]),
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

    label, x_label = "% of the CPU's", "queries above so many items are offloaded"
    drawings = tuple(
        Illustration(name, title, f"capacity, {caption}; 100 % is the CPU alone", charts.lines(
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
        (TextTable(header, rows, title="Best threshold in items, and queries/s, medium target, Skylake"),),
        {"columns": list(header[1:]), "best": data},
    )  # fmt: skip


def both(verdicts: list[ClaimVerdict]) -> ClaimVerdict:
    """One verdict on both readings: where they differ, it depends on the reading."""
    return verdicts[0] if len(set(verdicts)) == 1 else ClaimVerdict.OPEN


def _words(threshold: int | None) -> str:
    return "CPU alone" if threshold is None else f"> {threshold:,}"

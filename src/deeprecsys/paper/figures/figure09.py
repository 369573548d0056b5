"""Figure 9: throughput under the target against batch size, by target, by model, by hardware; machines of today.

Of these one is measured, the other a server scaled from it.
"""

from __future__ import annotations

from itertools import combinations

from deeprecsys.core.profile import LatencyProfile
from deeprecsys.files import read_profile
from deeprecsys.machine.record import UNAVAILABLE
from deeprecsys.paper import charts
from deeprecsys.paper.platforms import EPYC_64, scaled, work_of
from deeprecsys.paper.published import LEVELS, MODELS, SHORT
from deeprecsys.paper.result import Claim, Illustration, Result, TextTable, direction, seen
from deeprecsys.paper.study import Case, Study, memoised
from deeprecsys.paper.trial import FigureCapacity
from deeprecsys.report import format as f
from deeprecsys.zoo import MODELS as ZOO

LEADING = "wnd"


def ask(study: Study, model: str) -> None:
    """All that the figure needs of one model."""
    study.curve(Case(model))
    today_row(study, model)
    if model == LEADING:
        for case in (*(Case(model, lv) for lv in LEVELS), *(Case(model, platform=p) for p in study.specs)):
            study.curve(case)


def make(study: Study) -> Result:
    by_target = {level: study.curve(Case(LEADING, level)) for level in LEVELS}
    by_model = {SHORT[m]: study.curve(Case(m)) for m in MODELS}
    by_machine = {p: study.curve(Case(LEADING, platform=p)) for p in study.specs}
    peaked = sum(
        c[-1].qps < 0.98 * max(x.qps for x in c) for c in by_model.values()
    )  # below the largest batch
    pairs = [study.batch_rises(Case(a), Case(b)) for a, b in combinations(MODELS, 2)]
    apart = len(pairs) - pairs.count(0)
    gain = [study.tuned(Case(m)).qps / study.static(Case(m)).qps for m in MODELS]
    claims = (
        Claim("throughput rises with the batch size, then falls", "a peak within the range",
              f"peak below 1000 items for {peaked} of 8 models; the rest are flat to the end", seen(peaked >= 5),
              "a batch of 1000 is a whole query on one core: with 40 cores and a target many batches long, there is "
              "nothing against it but the variance of the work"),
        Claim("no one batch size is best for all models", "differs by model",
              f"no size is within 2 % of the best for both in {apart} of {len(pairs)} pairs of models",
              direction(apart, 0, len(pairs)), "the tops are flat, and the ranges of sizes that are as good overlap"),
        Claim("the batch size decides the throughput", "1.0 to 6.1×, medium target, Skylake",
              f"{min(gain):.2f} to {max(gain):.2f}×", seen(max(gain) > 1.5),
              "more for models with large weights or many operators per batch"),
    )  # fmt: skip
    rows = tuple(
        (SHORT[m], *(f.figure(x.qps) if x.qps else "–" for x in study.curve(Case(m)))) for m in MODELS
    )
    header = ("model", *(str(x.batch_size) for x in study.curve(Case(MODELS[0]))))
    relative = {
        n: _relative(c) for n, c in by_model.items() if n in ("RMC1", "RMC3", "WND", "NCF", "DIN", "DIEN")
    }
    return Result(
        9, "Throughput against batch size", "simulated, on modelled machines", claims,
        (
            Illustration("target", f"By target, {SHORT[LEADING]} on Skylake", "capacity",
                    charts.lines({n: _series(c) for n, c in by_target.items()}, "batch size, items", "queries/s")),
            Illustration("model", "By model, Skylake, medium target", "capacity as a share of the model's best",
                    charts.lines(relative, "batch size, items", "% of the best")),
            Illustration("machine", f"By machine, {SHORT[LEADING]}, medium target", "as a share of the machine's best",
                    charts.lines({n: _relative(c) for n, c in by_machine.items()}, "batch size, items", "% of the best")),
        ),
        (TextTable(header, rows, title="Queries/s by batch size, Skylake, medium target"), today(study)),
        {"by_target": _data(by_target), "by_model": _data(by_model), "by_machine": _data(by_machine)},
    )  # fmt: skip


def _series(curve: tuple[FigureCapacity, ...]) -> tuple[list[float], list[float]]:
    return [float(c.batch_size) for c in curve], [c.qps for c in curve]


def _relative(curve: tuple[FigureCapacity, ...]) -> tuple[list[float], list[float]]:
    x, y = _series(curve)
    top = max(y) or 1.0
    return x, [100 * v / top for v in y]


def _data(curves: dict[str, tuple[FigureCapacity, ...]]) -> dict[str, dict[str, float]]:
    return {n: {str(c.batch_size): c.qps for c in curve} for n, curve in curves.items()}


def today(study: Study) -> TextTable:
    """Static and tuned batch sizes and capacities at the medium target, or `unavailable`."""
    rows = tuple((SHORT[m], *today_row(study, m)) for m in MODELS)
    header = (
        "model",
        "this profile's machine, measured batch times",
        f"{EPYC_64.name}, scaled from them (modelled)",
    )
    title = "Machines of today, medium target: static batch, queries/s → tuned batch, queries/s"
    return TextTable(header, rows, title=title)


@memoised("machines of today")
def today_row(study: Study, model: str) -> tuple[str, str]:
    """One model on both machines."""
    profile = measured(study, model)
    if profile is None:
        return UNAVAILABLE, UNAVAILABLE
    server = scaled(profile, work_of(ZOO[model]), EPYC_64)
    machines = ((profile, max(profile.busy_levels)), (server, EPYC_64.cores))
    here, there = (_words(study, model, *machine) for machine in machines)
    return here, there


def measured(study: Study, model: str) -> LatencyProfile | None:
    """The measured profile of a model; None where there is none."""
    files = sorted(study.profiles.glob(f"*/{model}.json")) if study.profiles else []
    return read_profile("--profiles", files[0]) if files else None


def _words(study: Study, model: str, profile: LatencyProfile, cores: int) -> str:
    found = study.measured(profile, cores, Case(model))
    if found is None:
        return "static misses the target at any rate"
    static, best = found
    before, after = (f"{x.batch_size}, {f.figure(x.qps)}" for x in found)
    return f"{before} → {after} ({best.qps / static.qps:.2f}×)"

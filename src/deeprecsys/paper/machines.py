"""Machines of today beside the paper's: the one whose profiles were measured, and a server scaled from it."""

from __future__ import annotations

import json

from deeprecsys.core.profile import LatencyProfile
from deeprecsys.machine.record import UNAVAILABLE
from deeprecsys.paper.platforms import EPYC_64, scaled, work_of
from deeprecsys.paper.published import MODELS, SHORT
from deeprecsys.paper.result import TextTable
from deeprecsys.paper.study import Case, Study, memoised
from deeprecsys.report import format as f
from deeprecsys.zoo import MODELS as ZOO


def table(study: Study) -> TextTable:
    """Static and tuned batch sizes and capacities at the medium target, or `unavailable`."""
    rows = tuple((SHORT[m], *row(study, m)) for m in MODELS)
    header = (
        "model",
        "this profile's machine, measured batch times",
        f"{EPYC_64.name}, scaled from them (modelled)",
    )
    title = "Machines of today, medium target: static batch, queries/s → tuned batch, queries/s"
    return TextTable(header, rows, title=title)


@memoised("machines of today")
def row(study: Study, model: str) -> tuple[str, str]:
    """One model on both machines."""
    profile = measured(study, model)
    if profile is None:
        return UNAVAILABLE, UNAVAILABLE
    server = scaled(profile, work_of(ZOO[model]), EPYC_64)
    return (
        _words(study, model, profile, max(profile.busy_levels)),
        _words(study, model, server, EPYC_64.cores),
    )


def measured(study: Study, model: str) -> LatencyProfile | None:
    """The measured profile of a model; None where there is none."""
    files = sorted(study.profiles.glob(f"*c-{model}.json")) if study.profiles else []
    return LatencyProfile.from_json(json.loads(files[0].read_text())) if files else None


def _words(study: Study, model: str, profile: LatencyProfile, cores: int) -> str:
    found = study.measured(profile, cores, Case(model))
    if found is None:
        return "static misses the target at any rate"
    static, best = found
    return (
        f"{static.batch_size}, {f.figure(static.qps)} → {best.batch_size}, {f.figure(best.qps)} "
        f"({best.qps / static.qps:.2f}×)"
    )

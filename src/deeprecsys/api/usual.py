"""Eager torch with one batch size: the usual way, which `tune` runs in turn with its own points."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from deeprecsys.api.engines import RankedEngine
from deeprecsys.api.experiment import Experiment
from deeprecsys.api.profiles import quick_hint_qps, start
from deeprecsys.api.progress import ProgressOption, SearchProgress
from deeprecsys.api.sustaining import Reference
from deeprecsys.api.trials import LiveTrials
from deeprecsys.core.policy import Static
from deeprecsys.engine import EngineSpec
from deeprecsys.engine.isa import DEFAULT
from deeprecsys.memory import available_bytes
from deeprecsys.node.node import Node
from deeprecsys.search.history import Evaluation, Score
from deeprecsys.search.tuner import Beside

REFERENCE = "eager"
"""The engine whose scores at fp32 are the reference, and whose rate is the usual one."""
SPARE_BYTES = 2 << 30
"""Memory that is left free when a second node starts."""


def is_usual(experiment: Experiment) -> bool:
    """Whether an experiment runs on eager torch itself."""
    node = experiment.node
    return (node.engine, node.precision, node.threads) == (REFERENCE, "fp32", 1)


def eager_asked(engines: Sequence[str]) -> bool:
    """Whether eager torch is among the engines to try."""
    return not engines or REFERENCE in engines


def usual_experiment(experiment: Experiment) -> Experiment:
    """An experiment on eager torch at fp32."""
    node = replace(
        experiment.node, engine=REFERENCE, precision="fp32", threads=1, isa=experiment.node.isa or DEFAULT
    )
    return replace(experiment, node=node)


@contextmanager
def usual_point(
    node: Node,
    experiment: Experiment,
    static: Static,
    tried: Sequence[RankedEngine],
    engines: Sequence[str],
    keepers: tuple[SearchProgress, Reference],
    budget_s: float,
    progress: ProgressOption = True,
) -> Iterator[tuple[Beside | None, list[str]]]:
    """The baseline on a node of eager torch that runs beside `node`, and why there is none.

    Args:
        tried: engines with their capacities in virtual time; without eager torch among them it is measured
            for a moment.
        engines: those that were named.
        keepers: of its trials: their record, and the machine's reference batch.
        budget_s: seconds that measuring may take.
    """
    scores = EngineSpec.parse(experiment.node.engine).scores
    if is_usual(experiment) or not eager_asked(engines) or experiment.node.gpu or not scores:
        yield None, []
        return
    if available_bytes() < node.footprint()["table_bytes"] + SPARE_BYTES:
        yield None, ["eager torch was not run beside it: the tables do not fit in memory twice"]
        return
    usual = usual_experiment(experiment)
    ranked = next((t for t in tried if is_usual(t.setup.experiment)), None)
    with start(usual, progress) as beside:
        if ranked:
            about_qps = ranked.found.ranking.score(static).capacity_qps or 0.0
        else:
            about_qps = 0.8 * quick_hint_qps(beside, usual, static.batch_size, budget_s)
        if not about_qps:
            yield None, ["eager torch misses the target at any rate"]
            return
        listener, reference = keepers
        trials = LiveTrials(beside, usual, listener, reference, role=REFERENCE)
        yield (trials, Evaluation(static, Score.exactly(about_qps))), []

"""One uninterrupted run at the rate that a point is to carry, and lower where it does not hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from deeprecsys.core.target import Target
from deeprecsys.search.confirm import Confirmed
from deeprecsys.search.events import PhaseStarted, Progress, silent
from deeprecsys.search.probes import Runner, Trial
from deeprecsys.search.sustain import CONFIDENCE, Holding, sustained

HOLDING = 3
"""The purpose (see `trial_seed`) of these runs."""
ATTEMPTS = 3
"""Runs at most."""


def hold(
    trial: Trial,
    point: Confirmed,
    target: Target,
    rate_qps: float,
    *,
    length_s: Callable[[float], float],
    step: float,
    seed: int = 0,
    progress: Progress = silent,
) -> Confirmed:
    """The point as one uninterrupted run at a rate shows it; where the target is missed, at the next lower
    one.

    Where no run counts, as the load source was late, the point as it was.

    Args:
        length_s: seconds of a run at a rate.
        step: share by which a rate that did not hold is lowered, or that below what was served.
    """
    runner = Runner(
        trial, point.policy, target, seed=seed, purpose=HOLDING, max_odd=0, max_voids=1, progress=progress
    )
    progress(PhaseStarted("hold", length_s(rate_qps)))
    for attempt in range(1, ATTEMPTS + 1):
        ran = runner.run(rate_qps, length_s(rate_qps))
        if ran is None:
            return point
        found = sustained(ran.log, target)
        point = replace(
            point,
            probe=runner.probe(rate_qps, CONFIDENCE),
            met=found.verdict is not Holding.NOT_MET,
            attempts=point.attempts + 1,
            sustained=found,
        )
        if point.met or attempt == ATTEMPTS:
            break
        rate_qps = min(rate_qps, ran.served_qps) * (1 - step)
    return point

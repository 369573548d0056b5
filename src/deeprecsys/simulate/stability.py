"""Whether a load could go on: a queue that only grows has no latency to speak of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deeprecsys.core.runlog import RunLog, Status

ENOUGH = 200
"""Fewer queries than this show nothing of the long run."""


@dataclass(frozen=True, slots=True)
class Stability:
    """What a run says of the long run.

    Attributes:
        load: worker-seconds of work that the arrivals brought, over those that passed as they arrived.
        stable: False where the line grew all along; None where the run is too short to tell.
    """

    load: float
    stable: bool | None


def stability_of(log: RunLog) -> Stability:
    """Whether the workers could follow the arrivals of a run in virtual time.

    Unstable is a load of 1 or more whose last quarter of queries waited clearly longer than its second:
    bursts may bring a load above 1 for a while, and a line near saturation grows now and then, but not
    from quarter to quarter without end.
    """
    span_s = float(log.arrival_s[-1]) if len(log.arrival_s) else 0.0
    load = log.busy_s / (log.workers * span_s) if span_s > 0 else 0.0
    if len(log.arrival_s) < ENOUGH:
        return Stability(load, None)
    shed = bool((log.status == Status.SHED).any())
    waits = np.array([float(np.nanmean(part)) for part in np.array_split(log.start_s - log.arrival_s, 4)])
    grew = bool(waits[3] > 1.5 * waits[1] and waits[3] > waits[2])
    return Stability(load, not (load >= 1.0 and (grew or shed)))

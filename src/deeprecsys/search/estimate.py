"""The crossing that all trials of one policy point to."""

from __future__ import annotations

from math import inf

import numpy as np

from deeprecsys.search.crossing import Crossing, RateSample, crossing
from deeprecsys.search.probes import Observation, Runner

LEAST_TRIALS = 4
"""Trials near the crossing before its interval is used."""


def estimate(runner: Runner, confidence: float) -> Crossing:
    """Where the miss rate is what the target allows, never beyond a rate at which queries went unserved."""
    sound = runner.sound
    usable = [o for o in sound if o.all_served]
    unserved = min((o.rate_qps for o in sound if not o.all_served), default=inf)
    if not usable:
        return _capped(Crossing(unserved, 0.0, unserved, 1.0, 0.0, np.zeros(0)), unserved / 2, unserved)
    room_s = _room_s(runner)
    samples = [_sample(o, room_s) for o in usable]
    found = crossing(samples, runner.target.miss_rate, confidence)
    if found.rate_qps < unserved:
        return found if found.high_qps <= unserved else _capped(found, found.low_qps, unserved)
    below = [o.rate_qps for o in usable if runner.target.allows(o.miss_rate) and o.rate_qps < unserved]
    return _capped(found, max(below, default=0.5 * unserved), unserved)


def _sample(o: Observation, room_s: float) -> RateSample:
    begin, end = o.log.warmup_s / room_s, o.offered_s / room_s
    return RateSample(o.rate_qps, o.miss_rate, o.summary.measured, o.dispersion, begin, end)


def _room_s(runner: Runner) -> float:
    """How long a query may wait and still meet the target: what its own service leaves of it."""
    first = runner.observations[0].unloaded_s
    served = first[np.isfinite(first)]
    own_s = float(served.mean()) if len(served) else 0.0
    return max(runner.target.latency_s - own_s, 0.2 * runner.target.latency_s)


def _capped(found: Crossing, low_qps: float, high_qps: float) -> Crossing:
    """The crossing of a policy that sheds from `high_qps` on."""
    low = min(low_qps, high_qps)
    rate = found.rate_qps if found.rate_qps < high_qps else (low * high_qps) ** 0.5
    return Crossing(rate, low, high_qps, found.slope, max(found.trials, LEAST_TRIALS), found.weight)

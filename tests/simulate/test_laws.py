"""The reference driver against queueing theory, in virtual time.

Intervals come from independent replications at 99.9 %, so that a fixed seed that passes means something.
"""

from __future__ import annotations

from math import factorial

import numpy as np
import pytest
from scipy.stats import t as student

from deeprecsys.core.policy import Static
from deeprecsys.core.runlog import Status
from deeprecsys.simulate.driver import simulate

RUNS, QUERIES, WARM = 12, 8000, 1000


def exponential(items, busy, u):
    return -np.log1p(-u)


def constant(items, busy, u):
    return 1.0


def runs(rate, servers, service):
    for seed in range(RUNS):
        rng = np.random.default_rng([seed, servers])
        arrivals = np.cumsum(rng.exponential(1 / rate, QUERIES))
        yield simulate(Static(1), arrivals, np.ones(QUERIES, int), service, servers, seed=seed)


def erlang_c(rate, servers):
    """Probability of waiting in M/M/c with unit service."""
    terms = [rate**k / factorial(k) for k in range(servers)]
    last = rate**servers / factorial(servers) / (1 - rate / servers)
    return last / (sum(terms) + last)


def agree(values, expected):
    """The mean of independent replications covers the expected value."""
    values = np.asarray(values)
    half = student.ppf(0.9995, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    assert abs(values.mean() - expected) <= half
    assert half < 0.25 * expected, "an interval that covers anything shows nothing"


@pytest.mark.parametrize(
    ("service", "rate", "servers", "wait"),
    [
        (exponential, 0.7, 1, 0.7 / 0.3),
        (constant, 0.7, 1, 0.7 / (2 * 0.3)),
        (exponential, 2.4, 3, erlang_c(2.4, 3) / (3 - 2.4)),
        (exponential, 6.4, 8, erlang_c(6.4, 8) / (8 - 6.4)),
    ],
    ids=["M/M/1", "M/D/1", "M/M/3", "M/M/8"],
)
def test_mean_waits_utilisation_and_littles_law(service, rate, servers, wait):
    waits, busy = [], []
    for log in runs(rate, servers, service):
        assert (log.status == Status.SERVED).all()
        assert (log.arrival_s <= log.start_s).all()
        assert (log.start_s < log.finish_s).all()
        waits.append((log.start_s - log.arrival_s)[WARM:].mean())
        busy.append(log.busy_s / servers / log.duration_s)
        assert little(log) == pytest.approx(0, abs=1e-9)
    agree(waits, wait)
    agree(busy, rate / servers)


def little(log):
    """L over lambda W, less 1, on the whole path: the integral of queries present, counted by events."""
    times = np.concatenate([log.arrival_s, log.finish_s])
    change = np.concatenate([np.ones(len(log.arrival_s)), -np.ones(len(log.finish_s))])
    order = np.argsort(times, kind="stable")
    present = np.cumsum(change[order])[:-1]
    area = float(present @ np.diff(times[order]))
    return area / log.latency_s.sum() - 1

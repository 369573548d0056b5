"""M/D/c queues as trials, by Lindley's recursion in whole arrays, and their capacity from theory.

Service takes 1 second. With equal service times a first-come-first-served line serves every c-th query on
the same server, so M/D/c is c interleaved single-server recursions (Franx 2001).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.optimize import brentq
from scipy.special import gammaln

from deeprecsys.core.policy import Policy
from deeprecsys.core.runlog import RunLog, Status, warmup_s
from deeprecsys.core.target import Target


def waits_s(arrival_s: np.ndarray, servers: int) -> np.ndarray:
    """Waiting times with service of 1 s."""
    out = np.empty_like(arrival_s)
    for first in range(servers):
        a = arrival_s[first::servers]
        net = np.arange(len(a)) - a  # work brought before the query, less time passed
        out[first::servers] = net - np.minimum.accumulate(net)
    return out


@dataclass(frozen=True)
class MDc:
    """A trial callable: Poisson arrivals, service of 1 s, `servers` workers."""

    servers: int
    target: Target

    def __call__(self, policy: Policy, rate_qps: float, duration_s: float, seed: int) -> RunLog:
        rng = np.random.default_rng(seed)
        most = int(rate_qps * duration_s + 8 * np.sqrt(rate_qps * duration_s) + 20)
        arrival = np.cumsum(rng.exponential(size=most)) / rate_qps
        arrival = arrival[arrival < duration_s]
        n = len(arrival)
        start = arrival + waits_s(arrival, self.servers)
        return RunLog(
            rate_qps=rate_qps,
            arrival_s=arrival,
            size=np.ones(n, dtype=np.int32),
            issued_s=arrival,
            start_s=start,
            finish_s=start + 1.0,
            status=np.full(n, Status.SERVED, dtype=np.uint8),
            busy_s=float(n),
            workers=self.servers,
            warmup_s=warmup_s(duration_s, self.target),
        )


def wait_tail(rate: float, servers: int, t: float) -> float:
    """P(wait > t) of M/D/c with service 1, exactly (Franx 2001, eq. for W; all terms positive).

    P(W <= t) = e^(-a) sum_{j<kc} Q(kc-j-1) a^j / j!, a = rate (k - t), k - 1 <= t < k,
    where Q(n) is the probability of at most n waiting.
    """
    k = int(np.floor(t)) + 1
    a = rate * (k - t)
    waiting = np.cumsum(_system(rate, servers))[servers:]  # P(at most n waiting)
    j = np.arange(k * servers)
    upto = waiting[np.minimum(k * servers - j - 1, len(waiting) - 1)]
    terms = np.exp(j * np.log(a) - a - gammaln(j + 1)) if a > 0 else (j == 0).astype(float)
    return float(1 - upto @ terms)


@cache
def _system(rate: float, servers: int) -> np.ndarray:
    """P(i in system), from the chain one service time apart (Crommelin 1932)."""
    rho = rate / servers
    size = int(servers + 60 + 20 / (1 - rho))
    steps = np.arange(size + servers + 1)
    poisson = np.exp(steps * np.log(rate) - rate - gammaln(steps + 1))
    chain = np.zeros((size, size))
    for i in range(size):
        left = max(i - servers, 0)
        chain[i, left:] = poisson[: size - left]
    balance = chain.T - np.eye(size)
    balance[-1] = 1.0
    right = np.zeros(size)
    right[-1] = 1.0
    return np.linalg.solve(balance, right)


@cache
def theory_qps(servers: int, target: Target) -> float:
    """The rate at which P(latency > target) is what the target allows."""
    return float(
        brentq(
            lambda rate: wait_tail(rate, servers, target.latency_s - 1.0) - target.miss_rate,
            0.05 * servers,
            0.98 * servers,
            xtol=1e-7,
        )
    )

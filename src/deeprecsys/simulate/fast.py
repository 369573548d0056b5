"""The fast path: trials of fixed-batch policies, compiled, equal to the reference driver to the last bit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from deeprecsys.core.dispatcher import Dispatcher, Limits
from deeprecsys.core.errors import InputError
from deeprecsys.core.policy import CPU, GPU, DeepRecSched, Policy, Static
from deeprecsys.core.profile import LatencyProfile
from deeprecsys.core.runlog import RunLog
from deeprecsys.simulate.driver import Observer, Service, checked_load, checked_services, simulate
from deeprecsys.simulate.table import Tables, Tabulated, stack

_NEVER = int(np.iinfo(np.int32).max)
"""More items than any query has."""

Services = Service | LatencyProfile | Mapping[str, Service | LatencyProfile]


class _Job(NamedTuple):
    """A trial that the compiled path can run."""

    arrivals: NDArray[np.float64]
    sizes: NDArray[np.int32]
    batch_size: int
    offload_above: int
    workers: Mapping[str, int]
    used: tuple[int, int]
    """Workers that the policy may use: of the CPU, of the accelerator."""
    tables: Tables
    most_queries: int
    most_items: int

    @property
    def most_batches(self) -> int:
        """How many batches there are if nothing is shed."""
        parts = -(-self.sizes // self.batch_size)
        return int(np.where(self.sizes > self.offload_above, 1, parts).sum())


def run(
    policy: Policy,
    arrival_s: ArrayLike,
    size: ArrayLike,
    service: Services,
    workers: int | Mapping[str, int],
    *,
    seed: int = 0,
    warmup_s: float = 0.0,
    rate_qps: float | None = None,
    limits: Limits | None = None,
    observe: Observer | None = None,
) -> RunLog:
    """One trial in virtual time, by the compiled path where it applies and by the reference driver elsewhere.

    Arguments, result and errors are those of `simulate.driver.simulate`, and so is every number. Compiled
    are `Static` and `DeepRecSched` over latency profiles, unobserved. Whoever runs many trials with one
    profile wraps it once, in `Tabulated`.
    """
    job = None if observe else _job(policy, arrival_s, size, service, workers, limits)
    if job is not None:
        return _run(job, seed, warmup_s, rate_qps, keep_batches=False)
    return simulate(
        policy,
        arrival_s,
        size,
        service,
        workers,
        seed=seed,
        warmup_s=warmup_s,
        rate_qps=rate_qps,
        limits=limits,
        observe=observe,
    )


def simulate_fast(
    policy: Policy,
    arrival_s: ArrayLike,
    size: ArrayLike,
    service: Services,
    workers: int | Mapping[str, int],
    *,
    seed: int = 0,
    warmup_s: float = 0.0,
    rate_qps: float | None = None,
    limits: Limits | None = None,
    keep_batches: bool = False,
) -> RunLog:
    """One trial by the compiled path; arguments and result as `simulate.driver.simulate`.

    Args:
        keep_batches: put a `kernel.Batches`, every batch's query, items, worker, start and finish, under
            `extra["batches"]`.

    Raises:
        InputError: as the reference driver, or a policy or a service that is not compiled.
    """
    job = _job(policy, arrival_s, size, service, workers, limits)
    if job is None:
        raise InputError(
            "compiled path: expected Static or DeepRecSched over latency profiles that have one number of "
            f"quantiles, got {policy.describe()['policy']} over {type(service).__name__}"
        )
    return _run(job, seed, warmup_s, rate_qps, keep_batches)


def _job(
    policy: Policy,
    arrival_s: ArrayLike,
    size: ArrayLike,
    service: Services,
    workers: int | Mapping[str, int],
    limits: Limits | None,
) -> _Job | None:
    """The trial as the compiled path sees it; None where it cannot run it."""
    offload_above: int | None = None
    if type(policy) is DeepRecSched:
        batch_size, offload_above = policy.batch_size, policy.offload_above
    elif type(policy) is Static:
        batch_size = policy.batch_size
    else:
        return None
    arrivals, sizes = checked_load(arrival_s, size)
    counts = {CPU: workers} if isinstance(workers, int) else dict(workers)
    checked_services(service, counts)
    bounds = Dispatcher(policy, counts, limits).limits  # refuses what the reference refuses
    tables = []
    for device in (CPU,) if offload_above is None else (CPU, GPU):
        times = service[device] if isinstance(service, Mapping) else service
        if not isinstance(times, LatencyProfile | Tabulated):
            return None
        tables.append(times if isinstance(times, Tabulated) else Tabulated(times))
    largest = int(sizes.max(initial=1))
    used = (counts[CPU], counts[GPU] if offload_above is not None else 0)
    stacked = stack(tables, used[: len(tables)], (min(largest, batch_size), largest)[: len(tables)])
    if np.isnan(stacked.seconds).any():
        lengths = [n for n in _lengths(sizes, batch_size) if n < stacked.seconds.shape[2]]
        if np.isnan(stacked.seconds[:, :, lengths]).any():
            return None
    most_items = bounds.items
    if bounds.bytes_per_item:
        most_items = min(most_items, bounds.bytes // bounds.bytes_per_item)
    above = _NEVER if offload_above is None else min(offload_above, _NEVER)
    # A batch size beyond every query changes nothing, and keeps sums within 64 bits.
    return _Job(
        arrivals, sizes, min(batch_size, _NEVER), above, counts, used, stacked, bounds.queries, most_items
    )


def _lengths(sizes: NDArray[np.int32], batch_size: int) -> list[int]:
    """The lengths that batches may have, cut or whole."""
    whole = np.unique(sizes)
    parts = -(-whole // batch_size)
    cut = [whole // parts, -(-whole // parts)]
    return [int(n) for n in np.unique([whole, *cut])]


def _run(job: _Job, seed: int, warmup_s: float, rate_qps: float | None, keep_batches: bool) -> RunLog:
    from deeprecsys.simulate import kernel  # loads numba

    n = len(job.sizes)
    most = job.most_batches if job.tables.spread or keep_batches else 0
    draws = np.random.default_rng(seed).random(most if job.tables.spread else 0)
    # A read-only array is another type, for which the kernel would be compiled again.
    load = kernel.Load(
        arrival=np.require(job.arrivals, requirements=["C", "W"]),
        size=np.require(job.sizes, requirements=["C", "W"]),
        start=np.full(n, np.nan),
        finish=np.full(n, np.nan),
        status=np.zeros(n, np.uint8),
        left=np.zeros(n, np.int32),
    )
    kept = kernel.no_batches(most if keep_batches else 0)
    busy_s, batches = kernel.run(
        load,
        kernel.Service(*job.tables, draws),
        kept,
        job.used,
        job.batch_size,
        job.offload_above,
        job.most_queries,
        job.most_items,
    )
    if rate_qps is None:
        rate_qps = n / float(job.arrivals[-1]) if n and job.arrivals[-1] > 0 else 0.0
    return RunLog(
        rate_qps=rate_qps,
        arrival_s=job.arrivals,
        size=job.sizes,
        issued_s=job.arrivals.copy(),
        start_s=load.start,
        finish_s=load.finish,
        status=load.status,
        busy_s=busy_s,
        workers=sum(job.workers.values()),
        warmup_s=warmup_s,
        extra={"batches": kept.first(batches)} if keep_batches else {},
    )

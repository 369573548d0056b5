"""The fast path: trials of the usual policies, compiled, equal to the reference driver to the last bit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from deeprecsys.core.device import Limits
from deeprecsys.core.dispatcher import Dispatcher
from deeprecsys.core.policy import (
    CPU,
    GPU,
    Adaptive,
    Coalescing,
    DeepRecSched,
    Earliest,
    Offload,
    Policy,
    Static,
    UserFirst,
)
from deeprecsys.core.profile import LatencyProfile
from deeprecsys.core.runlog import RunLog
from deeprecsys.simulate.driver import (
    Observer,
    QuantileDraws,
    Services,
    VirtualTrial,
    check_stage,
    ranks_of,
    simulate,
)
from deeprecsys.simulate.table import Tables, Tabulated, stack

if TYPE_CHECKING:
    from deeprecsys.simulate import kernel  # loads numba: only where a trial is run

_NEVER = int(np.iinfo(np.int32).max)
"""More items than any query has."""

_LONGEST_TABLE = 1 << 14
"""Items of the largest batch that is worth a table of times."""

COMPILED = (Static, DeepRecSched, Offload, Earliest, Adaptive, Coalescing, UserFirst)


class CompiledTrial(NamedTuple):
    """A trial that the compiled path can run."""

    of: VirtualTrial
    tables: Tables
    most_batches: int
    """An upper limit of the number of batches."""
    loop: str
    """The module of the compiled loop."""
    knobs: tuple[Any, ...]
    """The policy's, and the limits, as the compiled loop takes them."""

    def run(self, seed: int = 0, warmup_s: float = 0.0) -> RunLog:
        """Run it."""
        return self._follow(seed, warmup_s, False)[0]

    def recorded(self, seed: int = 0, warmup_s: float = 0.0) -> tuple[RunLog, kernel.Batches]:
        """Run it, and keep every batch."""
        return self._follow(seed, warmup_s, True)

    def _follow(self, seed: int, warmup_s: float, keep: bool) -> tuple[RunLog, kernel.Batches]:
        from deeprecsys.simulate import kernel

        loop: Any = kernel.run
        if self.loop == "kernel_late":
            from deeprecsys.simulate.kernel_late import run_late as loop
        elif self.loop == "kernel_staged":
            from deeprecsys.simulate.kernel_staged import run_staged as loop
        n = len(self.of.sizes)
        most = self.most_batches if self.tables.spread or keep else 0
        draws = QuantileDraws(seed, ranks_of(self.of.services)).take(most if self.tables.spread else 0)
        # A read-only array is another type, for which the kernel would be compiled again.
        load = kernel.LoadArrays(
            arrival=np.require(self.of.arrivals, requirements=["C", "W"]),
            size=np.require(self.of.sizes, requirements=["C", "W"]),
            start=np.full(n, np.nan),
            finish=np.full(n, np.nan),
            status=np.zeros(n, np.uint8),
            left=np.zeros(n, np.int32),
        )
        kept = kernel.no_batches(most if keep else 0)
        busy_s, batches = loop(load, kernel.TimeArrays(*self.tables, draws), kept, *self.knobs)
        log = self.of.log(load.start, load.finish, load.status, busy_s, warmup_s)
        return log, kept.first(batches if keep else 0)


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
    are the policies of `COMPILED` over latency profiles, unobserved. For many trials with one profile, wrap
    it once, in `Tabulated`.
    """
    if not observe:
        given = VirtualTrial.of(arrival_s, size, service, workers, rate_qps)
        if (trial := compiled_trial(policy, given, limits)) is not None:
            return trial.run(seed, warmup_s)
    return simulate(
        policy, arrival_s, size, service, workers,
        seed=seed, warmup_s=warmup_s, rate_qps=rate_qps, limits=limits, observe=observe,
    )  # fmt: skip


def compiled_trial(policy: Policy, trial: VirtualTrial, limits: Limits | None = None) -> CompiledTrial | None:
    """A trial for the compiled path; None where that cannot run it."""
    if type(policy) not in COMPILED:
        return None
    bounds = Dispatcher(policy, trial.workers, limits).limits  # refuses what the reference refuses
    check_stage(policy, trial.services)
    services = []
    for times in map(trial.services.__getitem__, policy.devices):
        if not isinstance(times, LatencyProfile | Tabulated):
            return None
        services.append(times if isinstance(times, Tabulated) else Tabulated(times))
    if isinstance(policy, Adaptive | Coalescing):
        return _late(policy, trial, services[0], bounds)
    if isinstance(policy, UserFirst):
        return _staged(policy, trial, services[0], bounds)
    assert isinstance(policy, Static | DeepRecSched | Offload | Earliest)
    return _fixed(policy, trial, services, bounds)


def _fixed(
    policy: Static | DeepRecSched | Offload | Earliest,
    trial: VirtualTrial,
    services: list[Tabulated],
    limits: Limits,
) -> CompiledTrial | None:
    sizes, workers = trial.sizes, trial.workers
    above = _NEVER if policy.offload_above is None else min(policy.offload_above, _NEVER)
    device_batch = policy.device_batch if isinstance(policy, Offload) else 0
    merged = min(device_batch, int(sizes.sum(dtype=np.int64)))
    predict = isinstance(policy, Earliest)
    # A batch size beyond every query changes nothing, and keeps sums within 64 bits.
    batch_size = min(policy.batch_size, _NEVER)
    largest = int(sizes.max(initial=1))
    longest = max(largest, merged)
    if merged > _LONGEST_TABLE:
        return None
    used = (workers[CPU], workers[GPU] if len(services) > 1 else 0)
    tables = stack(services, used[: len(services)], (min(largest, batch_size), longest)[: len(services)])
    if not _covers(tables, range(1, longest + 1) if merged else _lengths(sizes, batch_size)):
        return None
    parts = -(-sizes // batch_size)

    most_batches = int((parts if predict else np.where(sizes > above, 1, parts)).sum())
    knobs = (used, batch_size, above, merged, predict, limits.slices, limits.queries, _most_items(limits))
    return CompiledTrial(trial, tables, most_batches, "kernel", knobs)


def _late(
    policy: Adaptive | Coalescing, trial: VirtualTrial, service: Tabulated, limits: Limits
) -> CompiledTrial | None:
    sizes, workers = trial.sizes, trial.workers
    merge = isinstance(policy, Coalescing)
    items = int(sizes.sum(dtype=np.int64))
    coarsest = min(policy.batch_size, items if merge else int(sizes.max(initial=1)))
    if coarsest > _LONGEST_TABLE:
        return None
    finest = min(policy.finest, max(coarsest, 1))
    tables = stack([service], [workers[CPU]], [max(coarsest, 1)])
    if not _covers(tables, range(1, coarsest + 1)):
        return None
    # A batch holds `finest` items or more, or ends its query, or ends the line.
    most_batches = items // finest + 2 * len(sizes)

    longest = max(coarsest, 1)
    knobs = (workers[CPU], longest, finest, merge, limits.slices, limits.queries, _most_items(limits))
    return CompiledTrial(trial, tables, most_batches, "kernel_late", knobs)


def _staged(
    policy: UserFirst, trial: VirtualTrial, service: Tabulated, limits: Limits
) -> CompiledTrial | None:
    sizes, workers = trial.sizes, trial.workers[CPU]
    batch_size = min(policy.batch_size, _NEVER)
    tables = stack([service], [workers], [min(int(sizes.max(initial=1)), batch_size)])
    if not _covers(tables, _lengths(sizes, batch_size)):
        return None
    parts = -(-sizes // batch_size)
    knobs = (workers, batch_size, service.stage_s, service.staged_s, limits.queries, _most_items(limits))
    return CompiledTrial(trial, tables, int((parts + (parts > 1)).sum()), "kernel_staged", knobs)


def _most_items(limits: Limits) -> int:
    """How many items may wait, by their number and by their bytes."""
    if not limits.bytes_per_item:
        return limits.items
    return min(limits.items, limits.bytes // limits.bytes_per_item)


def _covers(tables: Tables, lengths: Iterable[int]) -> bool:
    """Whether the tables know the time of every length that a batch may have."""
    if not np.isnan(tables.seconds).any():
        return True
    known = [n for n in lengths if n < tables.seconds.shape[2]]
    return not np.isnan(tables.seconds[:, :, known]).any()


def _lengths(sizes: NDArray[np.int32], batch_size: int) -> list[int]:
    """The lengths that batches may have, cut on arrival or whole."""
    whole = np.unique(sizes)
    parts = -(-whole // batch_size)
    cut = [whole // parts, -(-whole // parts)]
    return [int(n) for n in np.unique([whole, *cut])]
